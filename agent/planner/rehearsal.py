"""What the built-in planner would do for a described case (the form of shared/questions), without running a tool."""

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from agent.planner import steps
from agent.planner.builtin import with_facts
from agent.planner.understand import Reader, Turn, Understanding
from knowledge.guidelines.minilm import MiniLM
from knowledge.records.search import SYNONYMS
from knowledge.studies.which import body_part_of
from tools.base import CaseTool
from tools.registry import tool_types


def rehearse(case: dict[str, Any], history: list[dict[str, Any]], question: str) -> dict[str, Any]:
    """`{tools: in order, abstain, language}`. Whether a look-up will find something is read off the case's own texts."""
    inventory = inventory_of(case) if any(case.get(k) for k in ("studies", "reports", "records")) else None
    offered = offered_for(inventory, tool_types().values())
    asked = _reader().read(question, turns_of(history), inventory, with_facts(offered))
    if steps.refusal(asked, inventory):
        return {"tools": [], "abstain": True, "language": asked.language}
    calls = steps.wanted(asked, inventory, offered, found=False)
    return {
        "tools": list(dict.fromkeys(c.tool for c in calls)),
        "abstain": _abstains(asked, inventory, calls, case),
        "language": asked.language,
    }


def offered_for(inventory: dict[str, Any] | None, types: Iterable[type[CaseTool]]) -> list[dict[str, Any]]:
    """The statements of the tools that a case of this inventory (or none) is offered."""
    return [t.described() for t in types if inventory is not None or not t.needs.case]


def planned(question: str, inventory: dict[str, Any] | None, offered: list[dict[str, Any]], reader: Reader) -> list[str]:
    """The tools that the built-in planner would call, in order."""
    asked = reader.read(question, [], inventory, with_facts(offered))
    if steps.refusal(asked, inventory):
        return []
    return list(dict.fromkeys(c.tool for c in steps.wanted(asked, inventory, offered, found=False)))


@cache
def _reader() -> Reader:
    return Reader(MiniLM())


def turns_of(history: list[dict[str, Any]]) -> list[Turn]:
    """Questions with what was said to them, oldest first."""
    turns: list[Turn] = []
    for line in history:
        text = str(line["text"])
        if line.get("role") == "user":
            turns.append(Turn(text))
        elif turns:
            turns[-1] = Turn(turns[-1].question, f"{turns[-1].said} {text}".strip())
        else:
            turns.append(Turn("", text))
    return turns


def _abstains(asked: Understanding, inventory: dict[str, Any] | None, calls: list[steps.Call], case: dict[str, Any]) -> bool:
    """Whether the answer would decline, as far as that can be told from what the case holds."""
    if asked.ask_back or len(asked.readings) > 1:
        return False
    if "hostile" in asked.intents or asked.premise or asked.organ or asked.absent or not calls:
        return True
    if steps.undefined_here(asked, inventory):
        return True
    tools = {c.tool for c in calls}
    if any(i in asked.intents and t not in tools for i, t in steps.OWN_WORK.items()) and not tools & {"detect", "segment"}:
        return True
    if inventory is None:
        return False
    if "growth" in asked.intents and "list" not in asked.intents and not asked.rules and not tools - {"list_studies"}:
        return True
    planned = any(c.arguments.get("for_treatment_of") for c in calls)
    looked = [t for c in calls if c.tool == "patient_record" for t in c.arguments["topics"]]
    records = " ".join([*inventory["records"], *(f"{r.get('kind')}s {r.get('kind')}" for r in case.get("records") or [])]).lower()
    recorded = planned or any(_named(t, records) for t in looked)
    if tools == {"patient_record"}:
        return not recorded
    if tools == {"patient_record", "classify"}:
        return True
    if tools <= {"retrieve_reports", "patient_record"}:
        return not recorded and not _told(asked, case)
    return False


def _told(asked: Understanding, case: dict[str, Any]) -> bool:
    """Whether the case's reports, as far as their words are known, speak of what is asked; unknown words may."""
    reports = [r for r in case.get("reports") or [] if (asked.month or "") in str(r.get("date") or "")]
    texts = [str(r["text"]) for r in reports if r.get("text")]
    if len(texts) < len(reports) or not reports:
        return bool(reports)
    if re.search(r"\bimpression|\bfindings|\bconclusion|\brecommend", asked.english, re.I):
        return True
    if re.search(r"patholog|histolog|biops", asked.english, re.I) and any(r.get("kind") == "pathology" for r in reports):
        return True
    whole = " ".join([*texts, *(f"{r.get('kind') or ''} {r.get('about') or ''}" for r in reports)]).lower()
    words = [w for w in re.findall(r"[a-z0-9-]{3,}", f"{asked.subject} {' '.join(asked.topics)}".lower()) if w not in _PLAIN]
    return not words or any(w.rstrip("s")[:6] in whole for w in words)


_PLAIN = frozenset(
    [
        "the",
        "what",
        "did",
        "does",
        "say",
        "says",
        "said",
        "was",
        "were",
        "and",
        "for",
        "that",
        "this",
        "which",
        "with",
        "she",
        "her",
        "his",
        "him",
        "are",
        "has",
        "have",
        "last",
        "report",
        "about",
        "from",
        "all",
        "status",
        "how",
        "when",
    ]
)


def _named(topic: str, records: str) -> bool:
    """True where the record's names speak of `topic`."""
    return topic == "all" or bool(re.search(SYNONYMS.get(topic, re.escape(topic)), records, re.I)) or topic == "laboratory"


def inventory_of(case: dict[str, Any]) -> dict[str, Any]:
    """A described case in the form of `Case.inventory`."""
    studies = []
    for number, study in enumerate(case.get("studies") or [], 1):
        part = str(study.get("body_part") or body_part_of(str(study.get("description") or ""))).upper()
        studies.append({"handle": f"S{number}", "date": study.get("date"), "modality": [study.get("modality") or "OT"],
                        "body_part": part, "description": study.get("description") or "",
                        "series": [{"handle": f"S{number}.{n}", "sequence": s} for n, s in enumerate(study.get("sequences") or [], 1)]})  # fmt: skip
    reports = [{"handle": f"R{n}", "title": str(r.get("about") or r.get("kind") or ""), "date": r.get("date")}
               for n, r in enumerate(case.get("reports") or [], 1)]  # fmt: skip
    return {"patient": case.get("patient") or {}, "studies": studies, "reports": reports,
            "records": [str(r.get("name") or "") for r in case.get("records") or []]}  # fmt: skip
