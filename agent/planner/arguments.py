"""The arguments of a call, from what the question says."""

import re
from typing import Any

from agent.planner.understand import Understanding
from knowledge.guidelines.adding import DISEASES
from knowledge.records.planning import disease_of


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


def arguments(tool: str, asked: Understanding, case: dict[str, Any] | None = None) -> dict[str, Any]:
    """The arguments for a call of `tool`."""
    study = {"study": asked.handle} if asked.handle and asked.handle.startswith("S") else {}
    if tool != "explain_image_metadata" and study:
        study = {"study": study["study"].split(".")[0]}
    if tool == "retrieve_reports":
        named = (
            asked.handle if asked.handle and asked.handle.startswith("R") else asked.report if "report" in asked.intents else None
        )
        report: dict[str, Any] = {"report": named} if named else {}
        if {"summary", "draft"} & set(asked.intents) or asked.rules:
            return {"query": asked.subject[:2000], "whole": True}
        if "indication" in asked.intents:
            return {"query": "indication", "section": "INDICATION"}
        if "urgent" in asked.intents and "report" not in asked.intents:
            return {"query": asked.subject[:2000], "emergencies": True}
        if asked.whole_report:
            report = {**report, "whole": True}
        month = {"month": asked.month} if asked.month else {}
        return {"query": asked.subject[:2000], **report, **month, **({"last": True} if asked.last and not month else {})}
    if tool == "search_guidelines":
        return {"query": asked.english[:2000], "facts": asked.facts, **_of_the_case(asked, case)}
    if tool == "patient_record":
        if "contrast" in asked.intents:
            return {"topics": ["creatinine", "egfr"]}
        if "who_cns_2021_glioma" in asked.rules:
            return {"topics": ["molecular"]}
        if "summary" in asked.intents and not asked.topics and re.search(r"\b(patient|her|him)\b", asked.english, re.I):
            return {"topics": ["age", "sex", "all"]}
        return {"topics": list(asked.topics) or ["all"]}
    target = {"target": asked.target} if asked.target else {}
    at = {"at": list(asked.at)} if asked.at else {}
    if tool in ("segment", "measure", "radiomics"):
        values = {"values_of": asked.values_of} if asked.values_of and tool == "measure" else {}
        return {**study, **target, **values, **(at if tool != "radiomics" else {})}
    if tool == "look":
        return {
            "question": asked.english[:500],
            **({"series": asked.handle} if asked.handle and asked.handle.startswith("S") else {}),
        }
    if tool == "education_quiz":
        return _taught(asked)
    if tool == "differential_diagnosis":
        return {**study, "findings": asked.question[:2000]}
    if tool == "imaging_signs":
        general = re.search(r"\b(which|what|any|imaging|radiolog\w+) signs?\b(?! (is|of the) )", asked.english, re.I)
        return {
            **study,
            **(
                {}
                if general and not re.search(r"mismatch|tail|halo|butterfly|ring", asked.english, re.I)
                else {"sign": asked.english[:200]}
            ),
        }
    if tool == "check_report":
        text = pasted(asked.question)
        named = asked.handle if asked.handle and asked.handle.startswith("R") else asked.report
        return {**study, **({"text": text} if text else {"report": named} if named else {})}
    if tool == "draft_report":
        return {**study, **_drafted(asked)}
    return study if tool in ("detect", "classify", "list_studies", "explain_image_metadata") else {}


def pasted(question: str) -> str | None:
    """The words of a report that stand in a message: between quotation marks, or after a colon or a line's end where that is most of it."""
    quoted = re.search(r'["“„«](.{8,})["”“»]', question, re.S)
    if quoted:
        return quoted.group(1).strip()
    head, mark, rest = question.partition(":") if ":" in question[:200] else question.partition("\n")
    return rest.strip() if mark and len(rest.split()) >= 4 and len(head.split()) <= 25 else None


def _taught(asked: Understanding) -> dict[str, Any]:
    """An answer to the open question, or how a session is to begin."""
    if asked.quiz:
        return {"session": asked.quiz, "answer": asked.question[:4000]}
    level = re.search(r"\b(student|resident|specialist|consultant|attending|fellow|registrar|trainee)\b", asked.english, re.I)
    named = {
        "consultant": "specialist",
        "attending": "specialist",
        "fellow": "specialist",
        "registrar": "resident",
        "trainee": "resident",
    }
    word = level.group(1).lower() if level else ""
    case = re.search(r"\b(this|the|my) (case|patient|study|scan|mri?|ct|image)", asked.english, re.I)
    return {
        **({"level": named.get(word, word)} if word else {}),
        "topic": asked.english[:120],
        **({"use_case": True} if case else {}),
    }


_LANGUAGES = {"en": r"english", "de": r"german", "es": r"spanish", "fr": r"french", "zh": r"chinese|mandarin"}


def _drafted(asked: Understanding) -> dict[str, Any]:
    """Template and language of a draft: those that the question names; a question in another language gets a draft in it."""
    named = next(
        (code for code, words in _LANGUAGES.items() if re.search(rf"\b(in|into) ({words})\b", asked.english, re.I)), None
    )
    language = named or (asked.language if asked.language in _LANGUAGES and asked.language != "en" else None)
    board = re.search(r"\bboard\b|\bmdt\b|\bconference\b|\bcase summary\b", asked.english, re.I)
    style = {"style": "full"} if re.search(r"\b(full|detailed|uncertaint\w+)\b", asked.english, re.I) else {}
    return {**({"language": language} if language else {}), **({"template": "tumour_board"} if board else {}), **style}
