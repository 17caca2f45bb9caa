"""What a served model is offered: each tool's arguments narrowed to what this case has, every text and list bounded."""

import re
from collections.abc import Sequence
from typing import Any

from knowledge.guidelines.rules import RULES
from tools.base import Bench
from tools.registry import IN_THE_BOX

MOST_TEXT = 120
"""Characters of a query, and of an argument that names no limit of its own: without a bound a weak model never ends. xgrammar 0.2 fails on
patterns that repeat more than some 130 times (200 gave HTTP 500, 128 didn't)."""
MOST_ITEMS = 12
MOST_SAID = 900
"""Characters of what a tool that others made says of itself."""
OF_THE_BOX = frozenset(str(t.model_fields["name"].default) for t in IN_THE_BOX)
"""Their descriptions are whole as they are; what the small planner was trained on stays as it is."""
EVIDENCE = r"^E[1-9]\d{0,3}$"
"""A pattern, not the numbers that exist: the tools stand in front of every prompt, and a changed front can't be taken from vLLM's cache."""
_HANDLES = {"study": "studies", "series": "series", "values_of": "series", "report": "reports"}


def offered(tools: Sequence[Any], inventory: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The OpenAI form of `tools` (each with `described()`), strict, for a case of this inventory. The same case gives the same bytes."""
    handles = {**handles_of(inventory), "rules": _rule_names(tools)}
    found = []
    for tool in tools:
        told = tool.described()
        parameters = _bounded(told["parameters"], told["parameters"].get("$defs", {}), "", handles)
        description = told["description"] if told["name"] in OF_THE_BOX else _with_card(told)
        function = {"name": told["name"], "description": description, "parameters": parameters, "strict": True}
        found.append({"type": "function", "function": function})
    return found


def _with_card(told: dict[str, Any]) -> str:
    """What a tool that others made is for, how well it does it and where not: by this a model chooses between it and another for the same work."""
    card = told["card"]
    return " ".join(f"{part.rstrip('.')}." for part in (told["description"], f"For: {card['intended_use']}", f"How well: {card['accuracy']}",
                                                        f"Limits: {card['limits']}"))[:MOST_SAID]  # fmt: skip


def handles_of(inventory: dict[str, Any] | None) -> dict[str, tuple[str, ...]]:
    """Handles of the case, by kind."""
    studies = (inventory or {}).get("studies", [])
    return {
        "studies": tuple(s["handle"] for s in studies),
        "series": tuple(q["handle"] for s in studies for q in s.get("series", [])),
        "reports": tuple(r["handle"] for r in (inventory or {}).get("reports", [])),
    }


def _bounded(schema: dict[str, Any], defs: dict[str, Any], name: str, handles: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """The schema with its texts, lists and maps bounded; definitions are put in place, titles and defaults left out."""
    if "$ref" in schema:
        schema = defs[schema["$ref"].rsplit("/", 1)[-1]]
    kept = {k: v for k, v in schema.items() if k not in ("title", "default", "$defs", "description")}
    if name and "description" in schema:
        kept["description"] = schema["description"]
    if "anyOf" in kept:
        choices = [
            _bounded({"description": schema.get("description", ""), **o}, defs, name, handles)
            for o in kept.pop("anyOf")
            if o.get("type") != "null"
        ]
        return {**kept, **choices[0]} if len(choices) == 1 else {**kept, "anyOf": choices}
    if kept.get("type") == "string" and not {"enum", "const", "pattern"} & set(kept):
        kept = {k: v for k, v in kept.items() if k not in ("minLength", "maxLength")}
        return {**kept, **_text(name, schema, handles)}
    if kept.get("type") == "array":
        items = _bounded(kept.get("items", {}), defs, name, handles)
        return {**kept, "items": items, "maxItems": min(kept.get("maxItems", MOST_ITEMS), MOST_ITEMS)}
    if isinstance(kept.get("additionalProperties"), dict):
        text = {"pattern": EVIDENCE} if name == "evidence" else _held(0, MOST_TEXT)
        return {**kept, "additionalProperties": {"type": "string", **text}}
    if kept.get("additionalProperties") is True:
        value = {"anyOf": [{"type": "string", **_held(0, 80)}, {"type": "number"}, {"type": "boolean"}]}
        return {**kept, "additionalProperties": value}
    if "properties" in kept:
        kept["properties"] = {n: _bounded(p, defs, n, handles) for n, p in kept["properties"].items()}
    return kept


def _text(name: str, schema: dict[str, Any], handles: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    if name == "guideline":
        return {"enum": list(handles["rules"])}
    kind = "studies" if name == "studies" else _HANDLES.get(name)
    known = handles[kind] if kind else ()
    if name == "study" and re.search(r"\bseries\b", schema.get("description", "")):
        known += handles["series"]
    if name == "values_of":
        known += ("same",)
    if known:
        return {"enum": list(known)}
    most = MOST_TEXT if name == "query" else schema.get("maxLength", MOST_TEXT)
    return _held(schema.get("minLength", 0), most)


def _held(least: int, most: int) -> dict[str, Any]:
    """A bounded text. Short ones hold no `<`: a weak model writes the end mark of a call inside its text, and vLLM's parser then loses the call."""
    return {"pattern": f"^[^<]{{{least},{most}}}$"} if most <= MOST_TEXT else {"maxLength": most}


def _rule_names(tools: Sequence[Any]) -> tuple[str, ...]:
    """Names of the rules that tools at a case can compute, the hospital's own among them; of tools that stand at none, those in the box."""
    benches = [b for b in (getattr(t, "bench", None) for t in tools) if isinstance(b, Bench)]
    return tuple(sorted(benches[0].resources.rules.rules if benches else RULES))
