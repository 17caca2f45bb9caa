"""CT/MRI LI-RADS v2018 (Chernyak 2018, doi:10.1148/radiol.2018181494)."""

from knowledge.guidelines.rules.base import Facts, Outcome, Rule, absent

SMALL_MM, LARGE_MM = 10, 20
"""Columns of the diagnostic table."""
GROWTH_RATIO, GROWTH_MONTHS = 1.5, 6
"""Threshold growth: size increase of 50 % or more in 6 months or less."""
ADULT = 18
_ADVICE = {
    "LR-NC": "Repeat or alternative imaging in 3 months or less.",
    "LR-TIV": "Multidisciplinary discussion.", "LR-1": "Surveillance in 6 months.", "LR-2": "Surveillance in 6 months.",
    "LR-3": "Repeat or alternative imaging in 3-6 months.",
    "LR-4": "Multidisciplinary discussion; biopsy, or imaging in 3 months or less.",
    "LR-5": "Treated as hepatocellular carcinoma without biopsy; multidisciplinary discussion.",
    "LR-M": "Multidisciplinary discussion, usually biopsy.",
}  # fmt: skip
_NEVER_ALONE = " Management never follows from the category alone (usual intervals, not checked against the source)."
_LADDER = ("LR-1", "LR-2", "LR-3", "LR-4", "LR-5")


def compute(facts: Facts) -> Outcome:
    """Order of the algorithm: quality, vein, benign, LR-M, table, then ancillary features."""
    refusal = _refusal(facts)
    if refusal:
        return Outcome(None, refusal=f"LI-RADS not applicable: {refusal}")
    if not facts["image_quality_adequate"]:
        return _result("LR-NC")
    if facts["tumor_in_vein"]:
        return _result("LR-TIV")
    judged = {"definitely_benign": "LR-1", "probably_benign": "LR-2"}.get(facts["benignity"])
    if judged:
        return _result(judged)
    if facts["targetoid"] or facts.get("aphe") == "rim":
        return _result("LR-M")
    missing = absent(facts, "size_mm", "aphe")
    if missing:
        return Outcome(None, missing=missing)
    return _result(_ancillary(facts, _table(facts)))


def _result(category: str) -> Outcome:
    return Outcome(category, _ADVICE[category] + _NEVER_ALONE)


def _refusal(facts: Facts) -> str:
    if facts.get("at_risk_for_hcc") is False:
        return "it is for people at risk (cirrhosis, chronic hepatitis B, current or prior HCC)"
    if facts.get("age_years", ADULT) < ADULT:
        return "it is for adults"
    if facts.get("cirrhosis_cause") in ("congenital_hepatic_fibrosis", "vascular_disorder"):
        return "not for cirrhosis of this cause"
    return "a treated observation goes by LR-TR" if facts.get("treated_observation") else ""


def _table(facts: Facts) -> str:
    size = facts["size_mm"]
    before, months = facts.get("prior_size_mm"), facts.get("months_since_prior")
    grown = facts["threshold_growth"] or bool(
        before and months is not None and months <= GROWTH_MONTHS and size >= GROWTH_RATIO * before
    )
    count = facts["nonperipheral_washout"] + facts["enhancing_capsule"] + grown
    if facts["aphe"] == "none":
        return "LR-4" if count >= 2 or (count == 1 and size >= LARGE_MM) else "LR-3"
    if size < SMALL_MM:
        return "LR-4" if count else "LR-3"
    if size >= LARGE_MM:
        return "LR-5" if count else "LR-4"
    if count == 0:
        return "LR-3"
    return "LR-4" if count == 1 and facts["enhancing_capsule"] else "LR-5"


def _ancillary(facts: Facts, category: str) -> str:
    worse, milder = facts["ancillary_favoring_malignancy"], facts["ancillary_favoring_benignity"]
    place = _LADDER.index(category)
    if worse and not milder and category not in ("LR-4", "LR-5"):
        return _LADDER[place + 1]
    return _LADDER[place - 1] if milder and not worse else category


RULE = Rule("li_rads_2018", "ACR CT/MRI LI-RADS v2018", "Diagnostic algorithm and table", True, compute,
            ("liver observation at risk of hepatocellular carcinoma category",))  # fmt: skip
