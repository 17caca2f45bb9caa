"""RANO 2.0 response of adult glioma (Wen 2023, doi:10.1200/JCO.23.01059)."""

from knowledge.guidelines.rules.base import Facts, Outcome, Rule, percent

AREA = {"partial": -50.0, "minor": -25.0, "progression": 25.0}
VOLUME = {"partial": -65.0, "minor": -40.0, "progression": 40.0}
"""Percent of baseline (response) and of nadir (progression), for products and volumes (Wen 2023)."""
CONFIRM_WEEKS = 12
"""Within 12 weeks of radiotherapy progression is confirmed (Wen 2023; second-hand here)."""


def compute(facts: Facts) -> Outcome:
    """Categories as in facts.json; imaging progression early after radiotherapy is preliminary."""
    kind = "volume" if "volume_current_ml" in facts and "sum_products_current_mm2" not in facts else "sum_products"
    unit = "ml" if kind == "volume" else "mm2"
    limits = VOLUME if kind == "volume" else AREA
    base, nadir, now = (facts.get(f"{kind}_{when}_{unit}") for when in ("baseline", "nadir", "current"))
    values: dict[str, float] = {}
    if now is not None and base:
        values["change_from_baseline_percent"] = round(percent(now, base), 2)
    if now is not None and nadir:
        values["change_from_nadir_percent"] = round(percent(now, nadir), 2)
    if facts.get("clinical_status") == "deteriorated" or facts["non_target_progression"]:
        return Outcome("PD", "Progression: clinical deterioration or non-target progression.", values)
    grown = values.get("change_from_nadir_percent", -1.0) >= limits["progression"]
    if grown or facts.get("new_measurable_lesion"):
        return _progression(facts, values)
    if now is None:
        return Outcome(None, "", values)
    lacking = [f"{kind}_nadir_{unit}"] if nadir is None else []
    lacking += [n for n in ("new_measurable_lesion",) if n not in facts]
    if lacking:
        return Outcome(None, "", values, lacking)
    return _response(facts, values, limits, now, f"{kind}_baseline_{unit}")


def _progression(facts: Facts, values: dict[str, float]) -> Outcome:
    if facts.get("new_measurable_lesion") and facts.get("new_lesion_outside_high_dose_field"):
        return Outcome("PD", "Progression: a new lesion outside the high-dose field.", values)
    weeks = facts.get("weeks_since_radiotherapy")
    if weeks is None:
        return Outcome(None, "Imaging progression; its meaning depends on the time since radiotherapy.", values,
                       ["weeks_since_radiotherapy"])  # fmt: skip
    early = weeks <= CONFIRM_WEEKS or facts["therapy_with_high_pseudoprogression_rate"]
    if early and not facts["confirmed"]:
        text = "Imaging progression that may be pseudoprogression: a confirmation scan at least 4 weeks later has to confirm it."
        return Outcome("preliminary PD", text, values)
    text = "Progression."
    if facts.get("steroid_change") == "increased":
        text += " The steroid dose rose too."
    return Outcome("PD", text, values)


def _response(facts: Facts, values: dict[str, float], limits: dict[str, float], now: float, baseline: str) -> Outcome:
    change = values.get("change_from_baseline_percent")
    if change is None and now > 0:
        return Outcome(None, "", values, [baseline])
    steroids = facts.get("steroid_change")
    note = " A higher steroid (corticosteroid) dose alone is not progression." if steroids == "increased" else ""
    shrunk = now == 0 or (change is not None and change <= limits["minor"])
    if not shrunk:
        return Outcome("SD", "Stable disease." + note, values)
    lacking = [n for n in ("steroid_change", "clinical_status") if n not in facts]
    if lacking:
        return Outcome(None, "Shrinkage counts as response only with steroids and clinical state known.", values, lacking)
    if steroids == "increased":
        return Outcome("SD", "The shrinkage can't be called response while steroids were raised." + note, values)
    confirm = "" if facts["confirmed"] else " To confirm on a confirmation scan at least 4 weeks later."
    if now == 0:
        dose = facts.get("steroid_dose")
        if dose is None:
            return Outcome(None, "", values, ["steroid_dose"])
        name = "CR" if dose in ("none", "physiologic") else "PR"
        return Outcome(name, ("Complete" if name == "CR" else "Partial") + " response." + confirm, values)
    if change is not None and change <= limits["partial"]:
        return Outcome("PR", "Partial response." + confirm, values)
    if facts["tumor_component"] == "non_enhancing":
        return Outcome("MR", "Minor response of a non-enhancing tumour." + confirm, values)
    return Outcome("SD", "Stable disease." + note, values)


RULE = Rule("rano_2_0", "RANO 2.0, response of adult glioma", "Response assessment", False, compute,
            ("response or progression of glioma RANO",))  # fmt: skip
