"""Facts for a rule that the patient's own record already holds, with unit conversion where units are known."""

import re
from typing import Any

from knowledge.case import Case
from knowledge.guidelines.rules import Rule
from knowledge.records.model import RecordItem
from knowledge.records.search import find_items

UMOL_PER_MG_DL = 88.4
"""Creatinine: µmol/L in one mg/dL (molar mass 113.12 g/mol)."""


def facts_of_case(case: Case, rule: Rule) -> dict[str, Any]:
    """The rule's facts that the record of `case` states; what it doesn't state, or in unknown units, is left out."""
    known = rule.spec["facts"]
    facts: dict[str, Any] = {}
    if "age_years" in known and case.age_years is not None:
        facts["age_years"] = case.age_years
    if "sex" in known and case.patient.sex in ("F", "M"):
        facts["sex"] = case.patient.sex
    readers = {"creatinine_umol_l": _creatinine, "kps": _kps, "idh_status": _idh, "mgmt_status": _mgmt}
    for name, reader in readers.items():
        if name in known:
            topic = name.split("_")[0]
            for item in find_items([topic], case.items):
                value = reader(item)
                if value is not None:
                    facts[name] = value
                    break
    return facts


def _creatinine(item: RecordItem) -> float | None:
    if not isinstance(item.value, int | float) or re.search(r"urine|clearance|ratio", item.name, re.I):
        return None
    unit = (item.unit or "").lower().replace("μ", "u").replace("µ", "u")
    if unit == "umol/l":
        return float(item.value)
    return round(item.value * UMOL_PER_MG_DL, 1) if unit == "mg/dl" else None


def _kps(item: RecordItem) -> int | None:
    match = re.search(r"\d+", str(item.value)) if "ecog" not in item.name.lower() else None
    return int(match.group()) if match and int(match.group()) <= 100 else None


def _idh(item: RecordItem) -> str | None:
    text = f"{item.value}".lower()
    if re.search(r"wild|not detected|negative|no mutation", text):
        return "wildtype"
    return "mutant" if re.search(r"mutant|mutated|mutation|positive|r132|detected", text) else None


def _mgmt(item: RecordItem) -> str | None:
    text = f"{item.value}".lower()
    if re.search(r"unmethylated|not methylated|negative|not detected", text):
        return "unmethylated"
    return "methylated" if re.search(r"methylated|positive|detected", text) else None
