"""From an understanding to tool calls, round by round: what is wanted, minus what was done, after what it needs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agent.planner.understand import NEAR, SIMILAR, Understanding
from knowledge.guidelines.adding import DISEASES
from knowledge.guidelines.rules import RULES
from knowledge.records.planning import disease_of


@dataclass(frozen=True)
class Call:
    """A tool call to be."""

    tool: str
    arguments: dict[str, Any]


Abstention = str
"""Why the built-in planner abstains: a key of the phrase catalogues."""

_TOOL_OF = {
    "size": ["segment", "measure"],
    "count": ["detect"],
    "texture": ["segment", "radiomics"],
    "look": ["look"],
    "see": ["list_studies", "segment", "measure"],
    "where": ["segment"],
    "finding": ["retrieve_reports"],
    "type": ["classify"],
    "report": ["retrieve_reports"],
    "summary": ["list_studies", "retrieve_reports", "patient_record"],
    "metadata": ["explain_image_metadata"],
    "list": ["list_studies"],
}
_ABOUT_A_CASE = {*_TOOL_OF, "growth", "record", "planning", "advised"}


def comparable(case: dict[str, Any] | None) -> int:
    """How many imaging studies of the newest study's body part the case has."""
    studies = [s for s in (case or {}).get("studies", []) if set(s["modality"]) - {"SEG"}]
    return max((sum(t["body_part"] == s["body_part"] for t in studies) for s in studies), default=0)


def refusal(asked: Understanding, case: dict[str, Any] | None) -> Abstention | None:
    """Why no tool is called at all, if so."""
    if "hostile" in asked.intents or ("order" in asked.intents and "guideline" not in asked.intents):
        return "order" if "order" in asked.intents else "out_of_scope"
    if not (asked.intents or asked.rules or asked.premise or asked.organ) and max(asked.tools.values(), default=0.0) < NEAR:
        return "out_of_scope"
    wants_case = set(asked.intents) & _ABOUT_A_CASE
    if case is None and wants_case and not set(asked.intents) & {"guideline", "contrast"}:
        return "no_case"
    return None


def wanted(asked: Understanding, case: dict[str, Any] | None, offered: Sequence[str], found: bool) -> list[Call]:
    """Every call that the question needs, in order. `found`: a premise in doubt was confirmed by the record or reports."""
    if asked.premise and not found:
        calls = [Call("patient_record", {"topics": [asked.premise, *_disease(asked.premise)]}),
                 Call("retrieve_reports", {"query": asked.premise})]  # fmt: skip
        return [c for c in calls if c.tool in offered]
    if asked.organ:
        return [Call("list_studies", {})]
    if "planning" in asked.intents and case is not None and not asked.rules:
        calls = [Call("patient_record", {"topics": [], "for_treatment_of": "this"})]
        if "guideline" in asked.intents:
            calls += _rules(asked, case)
        return [c for c in calls if c.tool in offered]
    if "advised" in asked.intents and "report" in asked.intents:
        query = {"query": asked.subject[:2000], "recommendations": True}
        return [Call("retrieve_reports", {**query, **({"last": True} if asked.last else {})})]
    calls = _growth(asked, case) if "growth" in asked.intents else []
    for intent in asked.intents:
        if intent == "finding" and len(asked.intents) > 1:
            continue  # what is asked for has a tool of its own; reports are searched where nothing else fits
        if intent == "type" and "who_cns_2021_glioma" in asked.rules:
            continue  # an integrated diagnosis comes from pathology, not from the classifier
        for tool in _TOOL_OF.get(intent, []):
            calls.append(Call(tool, _arguments(tool, asked)))
    calls += _record(asked) + _rules(asked, case)
    if set(asked.intents) & {"guideline", "contrast"}:
        calls.append(
            Call("search_guidelines", {"query": asked.english[:2000], "facts": asked.facts, **_of_the_case(asked, case)})
        )
    if not calls:
        best = sorted(((s, t) for t, s in asked.tools.items() if s >= SIMILAR), reverse=True)[:2]
        best = best or sorted(((s, t) for t, s in asked.tools.items() if s >= NEAR), reverse=True)[:1]
        calls = [Call(t, _arguments(t, asked)) for _, t in best]
    unique = {(c.tool, str(c.arguments)): c for c in calls if c.tool in offered}
    return list(unique.values())


def _of_the_case(asked: Understanding, case: dict[str, Any] | None) -> dict[str, Any]:
    """The case's own disease, for a question on guidelines that names none: `what next?` of a glioma isn't about the lung."""
    if (
        case is None
        or asked.rules
        or "contrast" in asked.intents
        or any(re.search(p, asked.english, re.I) for p in DISEASES.values())
    ):
        return {}
    texts = " ".join(
        [*case.get("records", []), *(f"{s.get('body_part') or ''} {s.get('description') or ''}" for s in case.get("studies", []))]
    )
    named = disease_of(texts)
    organ = next((d for d, p in DISEASES.items() if re.search(p, f"{named or ''} {texts}", re.I)), None)
    query = {"query": f"{asked.english[:1900]} ({named})"} if named else {}
    return {**query, **({"disease": organ} if organ and organ != "contrast safety" else {})}


def _growth(asked: Understanding, case: dict[str, Any] | None) -> list[Call]:
    if asked.rules and any(isinstance(v, float) for v in asked.facts.values()):
        return []  # the question brings its own numbers: the rule alone answers it
    if comparable(case) < 2:
        return [Call("list_studies", {})]
    handles = [s["handle"] for s in (case or {})["studies"] if set(s["modality"]) - {"SEG"}]
    return [Call("list_studies", {}), *(Call("measure", {"study": h}) for h in handles)]


def _arguments(tool: str, asked: Understanding) -> dict[str, Any]:
    study = {"study": asked.handle} if asked.handle and asked.handle.startswith("S") else {}
    if tool != "explain_image_metadata" and study:
        study = {"study": study["study"].split(".")[0]}
    if tool == "retrieve_reports":
        report = {"report": asked.handle} if asked.handle and asked.handle.startswith("R") else {}
        if "summary" in asked.intents:
            return {"query": "impression"}
        month = {"month": asked.month} if asked.month else {}
        return {"query": asked.subject[:2000], **report, **month, **({"last": True} if asked.last and not month else {})}
    if tool == "search_guidelines":
        return {"query": asked.english[:2000]}
    if tool == "patient_record":
        return {"topics": list(asked.topics) or ["all"]}
    if tool == "apply_guideline":
        return {"guideline": asked.rules[0] if asked.rules else "gbm_mgmt_stupp", "facts": {}}
    target = {"target": asked.target} if asked.target else {}
    if tool in ("segment", "measure", "radiomics"):
        values = {"values_of": asked.values_of} if asked.values_of and tool == "measure" else {}
        return {**study, **target, **values}
    if tool == "look":
        return {
            "question": asked.english[:500],
            **({"series": asked.handle} if asked.handle and asked.handle.startswith("S") else {}),
        }
    return study if tool in ("detect", "classify", "list_studies", "explain_image_metadata") else {}


def _record(asked: Understanding) -> list[Call]:
    if "contrast" in asked.intents:
        return [Call("patient_record", {"topics": ["creatinine", "egfr"]})]
    if "who_cns_2021_glioma" in asked.rules:
        return [Call("patient_record", {"topics": ["molecular"]})]
    if "record" in asked.intents and "report" not in asked.intents:
        return [Call("patient_record", {"topics": list(asked.topics) or ["all"]})]
    return []


def _rules(asked: Understanding, case: dict[str, Any] | None) -> list[Call]:
    names = list(asked.rules)
    records = " ".join((case or {}).get("records", [])).lower()
    if "contrast" in asked.intents:
        names.append("egfr_contrast")
    glioblastoma = {"mgmt_status", "kps"} & set(asked.facts) or "glioblastoma" in f"{asked.english.lower()} {records}"
    if "guideline" in asked.intents and glioblastoma and not asked.rules and "contrast" not in asked.intents:
        names.append("gbm_mgmt_stupp")
    calls = []
    if set(names) & SIZED and not {"size_mm", "nodule_diameter_mm"} & set(asked.facts) and _images(case):
        calls.append(Call("measure", {}))
    for name in dict.fromkeys(names):
        calls.append(Call("apply_guideline", {"guideline": name, "facts": _fitting(asked.facts, RULES[name].spec["facts"])}))
    return calls


def _fitting(facts: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """What the question states, as far as this rule takes it: rules name the same thing with values of their own."""
    found = {}
    for name, value in facts.items():
        spec = known.get(name)
        if spec is None:
            continue
        if name == "sex" and "F" in spec["values"]:
            value = {"female": "F", "male": "M"}.get(value, value)
        if spec["type"] == "enum" and value not in spec["values"]:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and not spec.get("minimum", value) <= value <= spec.get("maximum", value):
            continue
        found[name] = value
    return found


SIZED = {"fleischner_2017", "lung_rads_2022", "brock_full", "mayo_swensen_1997", "va_gould_2007"}
"""Rules on a nodule whose size can be measured in the case's images."""


_AXES = (("longest axial diameter", "long_axis_mm"), ("perpendicular to it", "short_axis_mm"))
_ONE_AXIS = {"brock_full", "mayo_swensen_1997", "va_gould_2007"}


def linked(calls: Sequence[Call], done: Sequence[Call], measured: Sequence[tuple[str, str]]) -> list[Call]:
    """The calls, those of a rule on a size after the measurement, whose evidence (number, statement) gives the rule its sizes."""
    if not any(c.tool == "measure" for c in calls):
        return list(calls)
    ran = any(d.tool == "measure" for d in done)
    found = {name: number for words, name in _AXES for number, statement in measured if words in statement}
    kept = []
    for call in calls:
        rule = call.arguments.get("guideline", "")
        if call.tool != "apply_guideline" or rule not in SIZED:
            kept.append(call)
        elif ran:
            sizes = {"nodule_diameter_mm": found["long_axis_mm"]} if rule in _ONE_AXIS and "long_axis_mm" in found else found
            fits = sizes if rule in _ONE_AXIS or rule == "fleischner_2017" else {}
            kept.append(Call(call.tool, {**call.arguments, **({"evidence": fits} if fits else {})}))
    return kept


def _images(case: dict[str, Any] | None) -> bool:
    return any(set(s["modality"]) - {"SEG", "SR"} for s in (case or {}).get("studies", []))


def _disease(premise: str) -> list[str]:
    words = premise.lower().split()
    return ["metastases"] if words[-1].startswith("met") else words[:1]


def due(calls: Sequence[Call], done: Sequence[Call], after: dict[str, list[str]]) -> list[Call]:
    """The calls of this round: not yet done, and what they come after is done or not wanted."""
    names = {c.tool for c in calls}
    finished = {c.tool for c in done}
    left = [c for c in calls if (c.tool, c.arguments) not in [(d.tool, d.arguments) for d in done]]
    return [c for c in left if all(a in finished or a not in names for a in after.get(c.tool, []))]
