"""Incidental pulmonary nodules on CT (Fleischner 2017; MacMahon, doi:10.1148/radiol.2017161659)."""

import math

from knowledge.guidelines.rules.base import Facts, Outcome, Rule

SMALL_MM, LARGE_MM = 6, 8
SMALL_MM3, LARGE_MM3 = 100, 250
"""Below 6 mm (100 mm³), 6 to 8 mm (100 to 250 mm³), above (MacMahon 2017, table 1)."""
SOLID_PART_MM = 6
MIN_AGE = 35
_CONFIRM = " An incidental nodule; the size is rounded to the whole millimetre before the table is used."


def compute(facts: Facts) -> Outcome:
    """Categories as in facts.json."""
    if facts.get("age_years", MIN_AGE) < MIN_AGE:
        return Outcome(None, refusal="Fleischner 2017 is for adults from 35 years on")
    for name in ("known_primary_cancer", "immunosuppressed", "lung_cancer_screening"):
        if facts.get(name):
            return Outcome(None, refusal=f"Fleischner 2017 does not apply ({name.replace('_', ' ')})")
    band = _band(facts)
    if band is None or "nodule_type" not in facts or "multiplicity" not in facts:
        return Outcome(None)
    scope = [n for n in ("age_years", "known_primary_cancer", "immunosuppressed", "lung_cancer_screening") if n not in facts]
    outcome = _solid(facts, band) if facts["nodule_type"] == "solid" else _subsolid(facts, band)
    return Outcome(outcome.category, outcome.recommendation, outcome.values, [*outcome.missing, *scope])


def _band(facts: Facts) -> str | None:
    size = facts.get("size_mm")
    if size is None and "long_axis_mm" in facts and "short_axis_mm" in facts:
        size = (facts["long_axis_mm"] + facts["short_axis_mm"]) / 2
    if size is not None:
        size = math.floor(size + 0.5)
        return "small" if size < SMALL_MM else "middle" if size <= LARGE_MM else "large"
    volume = facts.get("volume_mm3")
    if volume is None:
        return None
    return "small" if volume < SMALL_MM3 else "middle" if volume <= LARGE_MM3 else "large"


def _solid(facts: Facts, band: str) -> Outcome:
    many = facts["multiplicity"] == "multiple"
    if band == "large" and not many:
        text = "consider CT at 3 months, PET/CT or tissue sampling"
        return Outcome(text, f"Solid nodule above 8 mm: {text}." + _CONFIRM)
    risk = facts.get("risk") or ("high" if facts.get("risk_factors") else "low" if "risk_factors" in facts else None)
    if band == "small":
        choice = {"low": "no routine follow-up", "high": "optional CT at 12 months"}
    else:
        first = "CT at 3-6 months" if many else "CT at 6-12 months"
        choice = {"low": f"{first}, then consider CT at 18-24 months", "high": f"{first}, then CT at 18-24 months"}
    if risk is None:
        text = f"At low risk: {choice['low']}; at high risk: {choice['high']}."
        return Outcome(None, text + _CONFIRM, missing=["risk"])
    return Outcome(choice[risk], f"At {risk} risk: {choice[risk]}." + _CONFIRM)


def _subsolid(facts: Facts, band: str) -> Outcome:
    if facts["multiplicity"] == "multiple":
        tail = "then consider CT at 2 and 4 years" if band == "small" else "then by the most suspicious nodule"
        text = f"CT at 3-6 months, {tail}"
        return Outcome(text, f"Multiple subsolid nodules: {text}." + _CONFIRM)
    if band == "small":
        return Outcome("no routine follow-up", "Single subsolid nodule below 6 mm: no routine follow-up." + _CONFIRM)
    if facts["nodule_type"] == "ground_glass":
        text = "CT at 6-12 months, then CT every 2 years until 5 years"
        return Outcome(text, f"To confirm persistence: {text}." + _CONFIRM)
    part = facts.get("solid_component_mm")
    if part is None:
        text = "CT at 3-6 months; then it depends on the size of the solid part."
        return Outcome(None, text + _CONFIRM, missing=["solid_component_mm"])
    if part >= SOLID_PART_MM:
        text = "highly suspicious: PET/CT, biopsy or resection"
        return Outcome(text, f"If persistent at 3-6 months, {text}." + _CONFIRM)
    text = "CT at 3-6 months, then annual CT for 5 years"
    return Outcome(text, f"If unchanged: {text}." + _CONFIRM)


RULE = Rule("fleischner_2017", "Fleischner Society, incidental pulmonary nodules on CT", "Table 1", True, compute,
            ("follow-up of an incidental lung nodule Fleischner",))  # fmt: skip
