"""Probability of malignancy of a lung nodule: Brock (McWilliams 2013, doi:10.1056/NEJMoa1214726), Mayo (Swensen 1997), VA
(Gould 2007, doi:10.1378/chest.06-1261), Herder (2005, doi:10.1378/chest.128.4.2490)."""

import math
from typing import Any

from knowledge.guidelines.rules.base import Facts, Outcome, Rule, absent, required

CENTRE = 1.58113883
"""(4 mm / 10) to the power of -0.5, by which the Brock models centre the size."""
BROCK = {"intercept": -6.7892, "age": 0.0287, "female": 0.6011, "family": 0.2961, "emphysema": 0.2953, "size": -5.3854,
         "part_solid": 0.3770, "ground_glass": -0.1276, "upper": 0.6581, "count": -0.0824, "spiculation": 0.7729}  # fmt: skip
BROCK_PLAIN = {"intercept": -6.8071, "age": 0.0321, "female": 0.5635, "family": 0.3013, "emphysema": 0.3462, "size": -5.6693,
               "part_solid": 0.3395, "ground_glass": -0.3055, "upper": 0.7116, "count": -0.0803, "spiculation": 0.0}  # fmt: skip
"""Models 2b and 2a of McWilliams 2013; the non-solid coefficient of 2a is recalled as -0.3055 and as -0.3005."""
BROCK_AGES = (50, 75)
MAYO_MM = (4, 30)
_BANDS = " Guidance bands (BTS: 10 % for PET/CT; ACCP: 5 and 65 %) are not checked against the source."


def _probability(x: float, note: str = "") -> Outcome:
    p = 1 / (1 + math.exp(-x))
    return Outcome(None, f"The probability of malignancy is {100 * p:.1f} %.{note}{_BANDS}", {"probability": round(p, 4)})


def _brock(name: str, c: dict[str, float], facts: Facts) -> Outcome:
    if required(name, facts) or facts.get("nodule_diameter_mm") == 0:
        return Outcome(None)
    age = facts["age_years"]
    x = c["intercept"] + c["age"] * (age - 62) + c["female"] * (facts["sex"] == "female")
    x += c["family"] * facts["family_history_lung_cancer"] + c["emphysema"] * facts["emphysema"]
    x += c["size"] * ((facts["nodule_diameter_mm"] / 10) ** -0.5 - CENTRE) + c.get(facts["nodule_type"], 0.0)
    x += c["upper"] * facts["upper_lobe"] + c["count"] * (facts["nodule_count"] - 4)
    x += c["spiculation"] * facts.get("spiculation", False)
    outside = (
        "" if BROCK_AGES[0] <= age <= BROCK_AGES[1] else f" The model was made for {BROCK_AGES[0]} to {BROCK_AGES[1]} years."
    )
    return _probability(x, outside + " Made on smokers in screening, on nodules of the first low-dose CT.")


def brock(facts: Facts) -> Outcome:
    """Model 2b, with spiculation."""
    return _brock("brock_full", BROCK, facts)


def brock_plain(facts: Facts) -> Outcome:
    """Model 2a, without spiculation."""
    return _brock("brock_full_no_spiculation", BROCK_PLAIN, facts)


def mayo(facts: Facts) -> Outcome:
    """For 4 to 30 mm and no cancer within five years."""
    size = facts.get("nodule_diameter_mm", MAYO_MM[0])
    if not MAYO_MM[0] <= size <= MAYO_MM[1]:
        return Outcome(None, refusal="the Mayo model was made for nodules of 4 to 30 mm")
    if facts.get("cancer_within_5_years"):
        return Outcome(None, refusal="the Mayo model excludes cancer within the last five years")
    if required("mayo_swensen_1997", facts):
        return Outcome(None)
    x = -6.8272 + 0.0391 * facts["age_years"] + 0.7917 * facts["ever_smoker"]
    x += 1.3388 * facts["extrathoracic_cancer_over_5_years_ago"] + 0.1274 * size
    outcome = _probability(x + 1.0407 * facts["spiculation"] + 0.7838 * facts["upper_lobe"])
    return Outcome(None, outcome.recommendation, outcome.values, absent(facts, "cancer_within_5_years"))


def gould(facts: Facts) -> Outcome:
    """Years since quitting are needed for ever-smokers."""
    if required("va_gould_2007", facts):
        return Outcome(None)
    quit_years = facts.get("years_since_quitting", 0 if not facts["ever_smoker"] else None)
    if quit_years is None:
        return Outcome(None, missing=["years_since_quitting"])
    x = -8.404 + 2.061 * facts["ever_smoker"] + 0.779 * facts["age_years"] / 10
    return _probability(x + 0.112 * facts["nodule_diameter_mm"] - 0.567 * quit_years / 10)


UPTAKE = {"none": 0.0, "faint": 2.322, "moderate": 4.617, "intense": 4.771}


def herder(facts: Facts) -> Outcome:
    """Mayo probability joined with FDG uptake."""
    if required("herder_2005", facts):
        return Outcome(None)
    return _probability(-4.739 + 3.691 * facts["mayo_probability"] + UPTAKE[facts["pet_uptake"]])


def _rule(name: str, document: str, compute: Any, checked: bool = True) -> Rule:
    return Rule(name, document, "Logistic model", checked, compute, ("probability that a lung nodule is malignant",))


RULES = [
    _rule("brock_full", "McWilliams 2013, Brock (PanCan) model 2b", brock),
    _rule("brock_full_no_spiculation", "McWilliams 2013, Brock (PanCan) model 2a", brock_plain, checked=False),
    _rule("mayo_swensen_1997", "Swensen 1997, Mayo Clinic model", mayo),
    _rule("va_gould_2007", "Gould 2007, Veterans Affairs model", gould),
    _rule("herder_2005", "Herder 2005", herder, checked=False),
]
