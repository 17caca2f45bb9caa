"""The built-in planner's answer: the evidence's own sentences, in the order of the question, in its language."""

import re
from typing import Any

from agent.language import say, titled
from agent.planner import steps
from agent.planner.chains import several_dates
from agent.planner.cues import MARKER
from agent.planner.understand import Understanding, imaged, in_order
from agent.suggest import suggestions

MAX_PASSAGES = 3
"""Guideline passages in one answer; more are noise."""
MAX_ASIDE = 2
"""Quotes of reports in an answer that asked for something else."""
_FIRST = {"planning": ["patient_record", "apply_guideline"],
          "contrast": ["apply_guideline", "patient_record", "search_guidelines"],
          "explain": ["apply_guideline"], "change": ["apply_guideline"],
          "guideline": ["apply_guideline", "search_guidelines", "patient_record"],
          "course": ["apply_guideline", "compare_studies"], "drawn": ["read_annotations"],
          "growth": ["compare_studies", "measure", "list_studies"],
          "summary": ["list_studies", "retrieve_reports", "patient_record"],
          "differential": ["differential_diagnosis", "classify"], "signs": ["imaging_signs"],
          "count": ["detect", "segment", "measure"],
          "see": ["list_studies", "segment", "measure"], "size": ["measure", "segment"]}  # fmt: skip
"""Whose evidence leads the answer, by what was asked."""
_ORDER = ["retrieve_reports", "patient_record", "list_studies", "segment", "measure", "compare_studies", "detect", "classify", "radiomics", "look",
          "explain_image_metadata", "follow_up", "differential_diagnosis", "imaging_signs", "apply_guideline", "search_guidelines"]  # fmt: skip
_CM = {"mm": ("cm", 0.1), "mm2": ("cm²", 0.01), "mL": ("cm³", 1.0)}
"""Shown unit and factor where centimetres are wished (1 mL is 1 cm³)."""


def written(asked: Understanding, case: dict[str, Any] | None, evidence: dict[str, dict[str, Any]],
            results: dict[str, list[str]], said: dict[str, list[dict[str, Any]]] | None = None,
            withheld: str | None = None) -> dict[str, Any]:  # fmt: skip
    """A draft: statements with evidence ids, what is missing, whether it abstains and why. `withheld`: the tool that would have
    been called, had it been offered."""
    spoken = asked.language
    settled = _uncalled(asked, case, results)
    if settled is not None:
        return settled
    statements = _statements(asked, evidence, results, said or {})
    lacking = _lacking(asked, case, results, statements)
    if lacking is not None:
        return lacking
    aside = {"order": "order", "hostile": "not_done"}.get(asked.passed_over or "")
    lead = (say(spoken, aside) if aside else "") if statements else say(spoken, "nothing" if results else "no_language_model")
    if withheld and not results:
        lead = say(spoken, "held", tool=withheld)
    wants = [t for i, t in steps.OWN_WORK.items() if i in asked.intents and t not in results]
    if wants:
        lead = say(spoken, "no_tool", tool=wants[0])
    elif "draft" in asked.intents and statements:
        lead = say(spoken, "draft_made")
    elif "check" in asked.intents and statements:
        clean = any(evidence[i]["title"] == "Check: no issue" for i in results.get("check_report", []) if i in evidence)
        lead = say(spoken, "check_clean" if clean else "check_made")
    return {"statements": statements, "missing": [], "abstained": not statements, "lead": lead}


def _uncalled(asked: Understanding, case: dict[str, Any] | None, results: dict[str, list[str]]) -> dict[str, Any] | None:
    """The answer where no tool was to be called: two readings, a greeting, a refusal; None otherwise."""
    spoken = asked.language
    if len(asked.readings) > 1:
        choices = " / ".join(f"“{r}”" for r in asked.readings)
        return _ask_back(say(spoken, "which_reading", choices=choices))
    why = None if results else steps.refusal(asked, case)
    if why == "help":
        tries = suggestions(case, spoken)[:4]
        more = say(spoken, "try", questions=" / ".join(f"“{q}”" for q in tries)) if tries else say(spoken, "no_case")
        return _ask_back(f"{say(spoken, 'help')} {more}")
    if why:
        return _abstain(say(spoken, why))
    if "hostile" in asked.intents:
        return _abstain(say(spoken, "not_an_order"))
    return None


def _lacking(
    asked: Understanding, case: dict[str, Any] | None, results: dict[str, list[str]], statements: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """The answer where what the question takes for granted isn't there, or more than one thing is; None otherwise."""
    spoken = asked.language
    if asked.premise and not (results.get("patient_record") or results.get("retrieve_reports")):
        missing = _lack(asked.premise, "no study, report or record of the case shows it", "whether and how it can be treated")
        return _abstain(say(spoken, "no_premise", premise=asked.premise), missing)
    if asked.organ:
        missing = _lack(f"images or reports of the {asked.organ}", "the case holds none", "the question could be answered")
        return {**_abstain(say(spoken, "no_organ", premise=asked.organ), missing), "statements": statements}
    if asked.absent:
        missing = _lack(asked.absent, "the case holds none", "the question could be answered")
        return {**_abstain(say(spoken, "no_such", premise=asked.absent), missing), "statements": statements}
    if asked.ask_back:
        choices = "; ".join(
            f"{s['handle']} ({'/'.join(s['modality'])} {str(s.get('body_part') or '').lower()}, {s.get('date') or '?'})"
            for s in imaged(case)
        )
        return {"statements": statements, "missing": [], "abstained": False, "lead": say(spoken, "which_study", choices=choices)}
    if steps.undefined_here(asked, case):
        missing = _lack("a CT of the region", "the case's images have no Hounsfield units", "attenuation could be measured")
        return {**_abstain(say(spoken, "no_hu"), missing), "statements": statements}
    if "growth" in asked.intents and not asked.rules and not several_dates(case) and "list" not in asked.intents:
        missing = _lack(
            "an earlier examination of the same region", "the case holds one study only", "growth or response could be measured"
        )
        return {**_abstain(say(spoken, "no_prior"), missing), "statements": statements}
    if unproven(asked, results):
        missing = _lack(
            "tissue with molecular markers", "imaging gives a probability, never the marker itself", "the marker would be known"
        )
        return {**_abstain(say(spoken, "tissue"), missing), "statements": statements}
    if "urgent" in asked.intents and not statements and (case or {}).get("reports"):
        return _abstain(say(spoken, "none_urgent"))
    return None


def unproven(asked: Understanding, results: dict[str, list[str]]) -> bool:
    """True where a molecular marker was asked for and only the images' probable type was found."""
    asks_marker = "record" in asked.intents and re.search(MARKER, asked.english, re.I)
    written_down = results.get("patient_record") or results.get("retrieve_reports")
    return bool(asks_marker and "classify" in results and not written_down)


def _lack(what: str, why: str, would_change: str) -> dict[str, str]:
    return {"what": what, "why": why, "would_change": would_change}


def _abstain(lead: str, *missing: dict[str, str]) -> dict[str, Any]:
    return {"statements": [], "missing": list(missing), "abstained": True, "lead": lead}


def _ask_back(lead: str) -> dict[str, Any]:
    return {"statements": [], "missing": [], "abstained": False, "asks_back": True, "lead": lead}


def _statements(asked: Understanding, evidence: dict[str, dict[str, Any]], results: dict[str, list[str]],
                said: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:  # fmt: skip
    """The tools' ready sentences, and the sentence of each evidence that these don't use."""
    found: list[dict[str, Any]] = []
    told: set[str] = set()
    lead = [t for i in in_order(asked) for t in _FIRST.get(i, steps.TOOL_OF.get(i, []))] or (
        ["apply_guideline"] if asked.rules else []
    )
    if "planning" in asked.intents or asked.counterfactual:
        lead = _FIRST["planning" if "planning" in asked.intents else "change"] + lead
    sized = bool({"size", "growth", "count"} & set(asked.intents))
    own = [t for i, t in steps.OWN_WORK.items() if i in asked.intents and t in said]
    order = [*own, "apply_guideline", "search_guidelines"] if own else [*lead, *_ORDER, *results]
    for tool in dict.fromkeys(order):
        ids = list(dict.fromkeys(results.get(tool, [])))
        if tool == "search_guidelines":
            ids = ids[:MAX_PASSAGES]
        if tool == "measure" and not sized:
            ids = ids[:2]
        if tool == "retrieve_reports" and asked.rules and "report" not in asked.intents:
            ids = ids[:MAX_ASIDE]
        ready = [row for row in said.get(tool, []) if set(row["evidence"]) <= set(evidence)]
        if tool == "compare_studies" and asked.language != "en":
            ready = []  # its sentences are English; each fact has its own in the asker's language
        found += ready
        told |= {i for row in ready for i in row["evidence"]} | (set(ids) if ready else set())
        found += [{"text": _sentence(asked, evidence[i]), "evidence": [i]} for i in ids if i in evidence and i not in told]
        told |= set(ids)
    return found[:24]


def _sentence(asked: Understanding, row: dict[str, Any]) -> str:
    value, unit = row.get("value"), row.get("unit")
    told = str(row["statement"])
    if row["kind"] == "measurement" and isinstance(value, int | float):
        said = _measured(asked, row, value, unit)
        if said is not None:
            return said
        if asked.unit and asked.language == "en":
            return _exchanged(told, value, unit, row.get("interval") or [], asked.unit)
    if asked.language == "en":
        return told
    if row["kind"] == "record" and (person := titled(asked.language, row["title"], value=value)) is not None:
        return person
    if row["kind"] == "record":
        return say(
            asked.language,
            "record",
            fact=told.removeprefix("The record gives ").removeprefix("The record lists the ").rstrip("."),
        )
    title = re.sub(r" [SR]?\d+(\.\d+)?$", "", row["title"].split(":")[0])
    if isinstance(value, dict):
        percent = round(100 * value["probability"]) if "probability" in value else ""
        parts = ", ".join(f"{n} {v} mL" for n, v in value.get("parts_ml", {}).items())
        said = titled(asked.language, title, side=value.get("side") or "", percent=percent, label=value.get("label"), handle=value.get("handle"),
                      date=value.get("date") or "?", series=", ".join(value.get("series", [])), modality="/".join(value.get("modalities", [])),
                      parts=parts, count=value.get("count", ""))  # fmt: skip
        if said is not None:
            return said
    return say(asked.language, "quote", statement=told)


def _measured(asked: Understanding, row: dict[str, Any], value: float, unit: str | None) -> str | None:
    """A measurement in the asker's language; None in English, or where there is no sentence for it."""
    if asked.language == "en":
        return None
    title = str(row["title"])
    pair = re.search(r" (S\d+) to (S\d+)(?: of (L\d+))?$", title)
    low, high = [*(row.get("interval") or []), None, None][:2]
    if pair:
        lesion = f" ({pair.group(3)})" if pair.group(3) else ""
        spoken = {"pair": f"{pair.group(1)} → {pair.group(2)}{lesion}", "value": value, "days": value, "low": low, "high": high}
        return titled(asked.language, title[: pair.start()], **spoken)
    shown, name = _in_unit(value, unit, asked.unit)
    region = re.search(r"^Volume \((.+)\)$", title)
    return titled(
        asked.language,
        "Volume of a region" if region else title,
        value=shown,
        unit=name,
        region=region.group(1) if region else "",
    )


def _exchanged(told: str, value: float, unit: str | None, ends: list[float], wished: str) -> str:
    """The evidence's own sentence with its value in another unit: only that pair and the interval are exchanged."""
    spelled = {"mm2": "mm²"}.get(str(unit), unit)
    shown, name = _in_unit(value, unit, wished)
    span = f"{' to '.join(f'{e:g}' for e in ends)} {spelled}"
    there = " to ".join(f"{_in_unit(e, unit, wished)[0]} {name}" for e in ends)
    return told.replace(f"{value:g} {spelled}", f"{shown} {name}", 1).replace(span, there)


def _in_unit(value: float, unit: str | None, wished: str | None) -> tuple[str, str]:
    if wished == "cm" and unit in _CM:
        name, factor = _CM[unit]
        digits = 2 if unit == "mm" else 1
        return f"{value * factor:.{digits}f}", name
    return str(value), {"mm2": "mm²"}.get(str(unit), str(unit))
