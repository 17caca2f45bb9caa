"""What a question states in passing: facts for rules, units wished for, months, handles."""

import re
from collections.abc import Callable
from typing import Any

_MONTHS = ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
           "december"]  # fmt: skip

Reader = Callable[[re.Match[str]], Any]
_NUMBER = r"(\d+(?:\.\d+)?)"

# Fact name (as in the rules) -> patterns with the value that a match gives. The first match counts.
_FACTS: dict[str, list[tuple[str, Any]]] = {
    "age_years": [(r"\b(\d{1,3})[\s-]*(?:-year|years?\b|yo\b|y/o|yr)", int), (r"\b(\d{1,3})\s?y\b", int)],
    "kps": [(r"(?:\bkps|karnofsky(?: \w+)?)\D{0,6}(\d{1,3})\b", int)],
    "idh_status": [(r"idh\S*[\s-]+(?:is\s+)?(?:wild[\s-]?type|wt\b|negative)", "wildtype"),
                   (r"idh\S*[\s-]+(?:is\s+)?(?:mutant|mutated|mutation|positive)", "mutant")],
    "mgmt_status": [(r"mgmt[^,.;?]{0,22}(?:unmethylated|not methylated)|unmethylated mgmt", "unmethylated"),
                    (r"mgmt[^,.;?]{0,22}methylated|methylated mgmt", "methylated")],
    "codeletion_1p19q": [(r"1p/?19q[^,.;?]{0,12}(?:not |non-?|in)(?:co-?deleted|tact)", False), (r"1p/?19q[^,.;?]{0,12}co-?delet", True)],
    "tert_promoter_mutation": [(r"tert[^,.;?]{0,20}(?:mutant|mutat|positive)", True)],
    "creatinine_umol_l": [(rf"creatinine\D{{0,8}}{_NUMBER}\s*(?:[uµμ]mol)", float)],
    "medium": [(r"gadolin|gadobut|gadoter|mr(?:i)? contrast", "gadolinium"), (r"iodin|ct contrast", "iodinated")],
    "agent_group": [(r"group ii\b|gadobutrol|gadoterate|gadoteridol|gadobenate", "II"), (r"group i\b|gadodiamide|gadopentetate", "I")],
    "sum_products_nadir_mm2": [(rf"spd\D{{0,6}}{_NUMBER}\s*(?:mm2 |mm² )?at nadir|nadir\D{{0,8}}{_NUMBER}", float)],
    "sum_products_current_mm2": [(rf"\bnow\D{{0,6}}{_NUMBER}", float)],
    "nodule_type": [(r"part[\s-]?solid", "part_solid"), (r"ground[\s-]?glass|ggn", "ground_glass"), (r"\bsolid\b", "solid")],
    "multiplicity": [(r"\bmultiple\b|\bnodules\b", "multiple"), (r"\bsingle\b|\bone\b|\bnodule\b", "single")],
    "size_mm": [(rf"{_NUMBER}\s*mm\b", float)],
    "interval_days": [(rf"{_NUMBER}\s*days", float)],
    "weeks_since_radiotherapy": [(rf"{_NUMBER}\s*weeks? (?:since|after)", float)],
    "steroid_change": [(r"(?:dex\w*|steroids?)[^,.;?]{0,10}stable|stable (?:dex|steroid)", "stable")],
    "new_lesion": [(r"no new lesion", False), (r"\bnew lesion", True)],
    "baseline_sum_mm": [(rf"baseline\D{{0,12}}{_NUMBER}", float)],
}  # fmt: skip


def facts(text: str, names: list[str]) -> dict[str, Any]:
    """The facts among `names` that `text` (English, any case) states."""
    lowered, found = text.lower(), {}
    for name in names:
        for pattern, value in _FACTS.get(name, []):
            match = re.search(pattern, lowered)
            if match:
                group = next((g for g in match.groups() if g is not None), "")
                found[name] = value(group) if isinstance(value, type) else value
                break
    if "weeks_since_radiotherapy" in names and (match := re.search(r"(\d+) months? (?:ago|after|since)", lowered)):
        found.setdefault("weeks_since_radiotherapy", round(int(match.group(1)) * 365.25 / 12 / 7, 1))
    return found


def unit_wished(text: str) -> str | None:
    """`cm` where the question asks for centimetres and not millimetres."""
    wants_cm = re.search(r"\bcm\b|centimet", text, re.I)
    return "cm" if wants_cm and not re.search(r"\bmm\b|millimet|\d\s*cm\b", text, re.I) else None


def month(text: str) -> str | None:
    """A month that the question names, as -01, or 2024-01 with its year."""
    match = re.search(rf"\b({'|'.join(_MONTHS)})\b(?:\s+(\d{{4}}))?", text, re.I)
    if match is None or (match.group(1).lower() in ("may", "march") and not re.search(r"report|scan|mri|ct|in ", text, re.I)):
        return None
    number = f"{_MONTHS.index(match.group(1).lower()) + 1:02d}"
    return f"{match.group(2)}-{number}" if match.group(2) else f"-{number}"


def handle(text: str, known: list[str]) -> str | None:
    """The first handle of the case that the question names."""
    return next((h for h in re.findall(r"\b[SR]\d+(?:\.\d+)?\b", text) if h in known), None)
