"""eGFR by CKD-EPI 2021 (Inker 2021, doi:10.1056/NEJMoa2102953) and what it means for contrast media."""

from knowledge.guidelines.rules.base import Facts, Outcome, Rule

UMOL_PER_MG_DL = 88.4
"""µmol/L of creatinine in one mg/dL."""
KAPPA = {"F": 0.7, "M": 0.9}
ALPHA = {"F": -0.241, "M": -0.302}
"""Coefficients of CKD-EPI 2021 without race (Inker 2021)."""
GADOLINIUM_LIMIT = 30
"""Group I agents are not given below this eGFR (ACR Manual on Contrast Media, NSF chapter)."""
IODINE_FREE, IODINE_LIMIT = 45, 30
"""No prophylaxis from 45; prophylaxis indicated below 30 (Davenport 2020, doi:10.1148/radiol.2019192094)."""


def egfr(creatinine_umol_l: float, age_years: float, sex: str) -> float:
    """Estimated GFR in mL/min/1.73 m² for an adult in a steady state."""
    ratio = creatinine_umol_l / UMOL_PER_MG_DL / KAPPA[sex]
    value = 142 * min(ratio, 1) ** ALPHA[sex] * max(ratio, 1) ** -1.2 * 0.9938**age_years
    return float(value * (1.012 if sex == "F" else 1))


def compute(facts: Facts) -> Outcome:
    """The number alone without a medium; a category once medium (and agent group) are known."""
    if facts.get("age_years", 18) < 18:
        return Outcome(None, refusal="CKD-EPI 2021 holds for adults from 18 years on")
    if facts.get("acute_kidney_injury") or facts.get("dialysis"):
        return Outcome(None, refusal="eGFR equations don't hold in acute kidney injury or on dialysis")
    if not all(n in facts for n in ("creatinine_umol_l", "age_years", "sex")):
        return Outcome(None)
    value = egfr(facts["creatinine_umol_l"], facts["age_years"], facts["sex"])
    values = {"egfr_ml_min_1_73m2": round(value, 1)}
    unknown = [n for n in ("acute_kidney_injury", "dialysis") if n not in facts]
    medium, group = facts.get("medium"), facts.get("agent_group")
    if medium is None:
        return Outcome(None, "", values, ["medium", *unknown])
    if medium == "iodinated":
        return Outcome(*_iodinated(value), values, unknown)
    if group == "II":
        text = "With group II agents the risk of nephrogenic systemic fibrosis is so low that eGFR testing is optional."
        return Outcome("gadolinium group II: may be given", text, values, unknown)
    if group == "I":
        if value < GADOLINIUM_LIMIT:
            text = "Group I agents are not given with an eGFR below 30."
            return Outcome("gadolinium group I: not to be given", text, values, unknown)
        text = "The eGFR is not below 30, the limit for group I agents."
        return Outcome("gadolinium group I: may be given", text, values, unknown)
    if value < GADOLINIUM_LIMIT:
        text = "The eGFR is below 30: not with group I agents; group II agents may still be given."
    else:
        text = "The eGFR is not below 30, the limit for group I agents; group II agents may be given at any eGFR."
    return Outcome(None, text, values, ["agent_group", *unknown])


def _iodinated(value: float) -> tuple[str, str]:
    if value >= IODINE_FREE:
        return "iodinated: no prophylaxis", "No prophylaxis is advised from an eGFR of 45 on."
    if value >= IODINE_LIMIT:
        return "iodinated: prophylaxis individually", "Prophylaxis is not routine from 30 to 44; individually at high risk."
    text = "Saline prophylaxis is indicated; a needed examination is not withheld for this alone."
    return "iodinated: prophylaxis indicated", text


RULE = Rule("egfr_contrast", "Kidney function and contrast media", "CKD-EPI 2021; ACR-NKF 2020; ACR Manual, NSF chapter",
            False, compute, ("kidney function for contrast", "eGFR creatinine gadolinium iodinated"))  # fmt: skip
