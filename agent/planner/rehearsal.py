"""What the built-in planner would do for a described case (the form of shared/questions), without running a tool."""

import re
from typing import Any

from agent.planner import steps
from agent.planner.builtin import with_facts
from agent.planner.understand import Reader
from knowledge.guidelines.minilm import MiniLM
from knowledge.records.search import SYNONYMS
from knowledge.studies.which import body_part_of
from tools.registry import tool_types


def rehearse(case: dict[str, Any], history: list[dict[str, Any]], question: str) -> dict[str, Any]:
    """`{tools: in order, abstain, language}`. Whether a look-up will find something is read off the case's own texts."""
    inventory = inventory_of(case)
    offered = [t.described() for t in tool_types().values()]
    earlier = [str(h["text"]) for h in history if h.get("role") == "user"]
    asked = Reader(MiniLM()).read(question, earlier, inventory, with_facts(offered))
    if steps.refusal(asked, inventory):
        return {"tools": [], "abstain": True, "language": asked.language}
    calls = steps.wanted(asked, inventory, [t["name"] for t in offered], found=False)
    records = " ".join(inventory["records"]).lower()
    tools = {c.tool for c in calls}
    planned = any(c.arguments.get("for_treatment_of") for c in calls)
    nowhere = (
        tools == {"patient_record"} and not planned and not any(_named(t, records) for c in calls for t in c.arguments["topics"])
    )
    dates = [str(r["date"] or "") for r in inventory["reports"]]
    unread = tools == {"retrieve_reports"} and not any((asked.month or "") in d for d in dates)
    no_prior = "growth" in asked.intents and not asked.rules and steps.comparable(inventory) < 2
    abstain = bool(asked.premise or asked.organ or no_prior or nowhere or unread or not calls)
    return {"tools": list(dict.fromkeys(c.tool for c in calls)), "abstain": abstain, "language": asked.language}


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
