"""The built-in planner's answer: the evidence's own sentences, in the order of the question, in its language."""

import re
from typing import Any

from agent.language import phrases
from agent.planner import steps
from agent.planner.chains import several_dates
from agent.planner.understand import Understanding

MAX_PASSAGES = 3
"""Guideline passages in one answer; more are noise."""
_FIRST = {"planning": ["patient_record", "apply_guideline"],
          "contrast": ["apply_guideline", "patient_record", "search_guidelines"],
          "guideline": ["apply_guideline", "search_guidelines", "patient_record"],
          "summary": ["list_studies", "retrieve_reports", "patient_record"],
          "see": ["list_studies", "segment", "measure"], "size": ["measure", "segment"]}  # fmt: skip
"""Whose evidence leads the answer, by what was asked."""
_ORDER = ["retrieve_reports", "patient_record", "list_studies", "segment", "measure", "detect", "classify", "radiomics", "look", "explain_image_metadata",
          "apply_guideline", "search_guidelines"]  # fmt: skip
_CM = {"mm": ("cm", 0.1), "mm2": ("cm²", 0.01), "mL": ("cm³", 1.0)}
"""Shown unit and factor where centimetres are wished (1 mL is 1 cm³)."""


def written(asked: Understanding, case: dict[str, Any] | None, evidence: dict[str, dict[str, Any]],
            results: dict[str, list[str]]) -> dict[str, Any]:  # fmt: skip
    """A draft: statements with evidence ids, what is missing, whether it abstains and why."""
    said = phrases(asked.language)
    why = None if results else steps.refusal(asked, case)
    if why:
        return {"statements": [], "missing": [], "abstained": True, "lead": said[why]}
    if asked.premise and not (results.get("patient_record") or results.get("retrieve_reports")):
        missing = {"what": asked.premise, "why": "no study, report or record of the case shows it",
                   "would_change": "whether and how it can be treated"}  # fmt: skip
        return _abstain(said["no_premise"].format(premise=asked.premise), missing)
    if asked.organ:
        missing = {"what": f"images or reports of the {asked.organ}", "why": "the case holds none",
                   "would_change": "the question could be answered"}  # fmt: skip
        statements = _statements(asked, evidence, results)
        return {**_abstain(said["no_organ"].format(premise=asked.organ), missing), "statements": statements}
    statements = _statements(asked, evidence, results)
    if "growth" in asked.intents and not asked.rules and not several_dates(case):
        missing = {"what": "an earlier examination of the same region", "why": "the case holds one study only",
                   "would_change": "growth or response could be measured"}  # fmt: skip
        return {**_abstain(said["no_prior"], missing), "statements": statements}
    lead = "" if statements else (said["nothing"] if results else said["no_language_model"])
    return {"statements": statements, "missing": [], "abstained": not statements, "lead": lead}


def _abstain(lead: str, missing: dict[str, str]) -> dict[str, Any]:
    return {"statements": [], "missing": [missing], "abstained": True, "lead": lead}


def _statements(asked: Understanding, evidence: dict[str, dict[str, Any]], results: dict[str, list[str]]) -> list[dict[str, Any]]:
    chosen: list[str] = []
    lead = next((_FIRST[i] for i in _FIRST if i in asked.intents), [])
    for tool in dict.fromkeys([*lead, *_ORDER, *results]):
        ids = list(dict.fromkeys(results.get(tool, [])))
        if tool == "search_guidelines":
            ids = ids[:MAX_PASSAGES]
        if tool == "measure" and "size" not in asked.intents and "growth" not in asked.intents:
            ids = ids[:2]
        chosen += [i for i in ids if i in evidence]
    return [{"text": _sentence(asked, evidence[i]), "evidence": [i]} for i in dict.fromkeys(chosen)]


def _sentence(asked: Understanding, row: dict[str, Any]) -> str:
    value, unit = row.get("value"), row.get("unit")
    if row["kind"] == "measurement" and isinstance(value, int | float):
        shown, name = _in_unit(value, unit, asked.unit)
        template = phrases(asked.language).get("titles", {}).get(row["title"])
        if template:
            return str(template.format(value=shown, unit=name))
        # The evidence's own sentence writes the value with its unit: only that pair is exchanged.
        spelled = {"mm2": "mm²"}.get(str(unit), unit)
        told = str(row["statement"])
        if not asked.unit:
            return told
        ends = row.get("interval") or []
        span = f"{' to '.join(f'{e:g}' for e in ends)} {spelled}"
        there = " to ".join(f"{_in_unit(e, unit, asked.unit)[0]} {name}" for e in ends)
        return told.replace(f"{value:g} {spelled}", f"{shown} {name}", 1).replace(span, there)
    if asked.language == "en":
        return str(row["statement"])
    said = phrases(asked.language)
    title = re.sub(r" [SR]\d+(\.\d+)?$", "", row["title"].split(":")[0])
    if title in said["titles"] and isinstance(value, dict):
        words = said["words"]
        percent = round(100 * value["probability"]) if "probability" in value else ""
        return str(said["titles"][title].format(side=words.get(value.get("side"), ""), percent=percent,
                                                label=words.get(value.get("label"), value.get("label")), handle=value.get("handle"),
                                                date=value.get("date") or "?", series=", ".join(value.get("series", [])),
                                                modality="/".join(value.get("modalities", []))))  # fmt: skip
    return str(said["quote"].format(statement=row["statement"]))


def _in_unit(value: float, unit: str | None, wished: str | None) -> tuple[str, str]:
    if wished == "cm" and unit in _CM:
        name, factor = _CM[unit]
        digits = 2 if unit == "mm" else 1
        return f"{value * factor:.{digits}f}", name
    return str(value), {"mm2": "mm²"}.get(str(unit), str(unit))
