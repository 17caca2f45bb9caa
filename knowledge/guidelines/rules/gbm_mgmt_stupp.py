"""First-line options for glioblastoma, IDH-wildtype (Stupp 2005, Hegi 2005, Perry 2017, EANO 2021)."""

from knowledge.guidelines.rules.base import Facts, Outcome, Rule

YOUNG_BELOW, OLD_FROM = 65, 70
"""The age line is a band in the sources: EANO 2021 and Stupp (<65 to 70 y), Perry 2017 (>=65 y)."""
FIT_KPS = 70
LESS_FIT_KPS = 50
"""KPS 70 or more counts as fit, 50 to 60 as less fit, below 50 as poor (EANO 2021; bands overlap from 50 to 69)."""

_BOARD = " An option to discuss at the tumour board, not an order."
_STANDARD = (
    "Maximal safe resection, then radiotherapy 60 Gy in 30 fractions with temozolomide 75 mg/m² daily, followed by "
    "maintenance temozolomide (days 1-5 of 28: 150 mg/m² in cycle 1, then 200 mg/m² if tolerated); tumour-treating "
    "fields may be added to maintenance."
)
_SHORT = (
    "Hypofractionated radiotherapy 40 Gy in 15 fractions with concurrent and maintenance temozolomide; the benefit is "
    "larger when MGMT is methylated."
)


def compute(facts: Facts) -> Outcome:
    """Categories as in facts.json; both options are named where the sources' bands overlap."""
    if facts.get("idh_status") == "mutant":
        return Outcome(None, refusal="these options are for IDH-wildtype glioblastoma; the tumour is IDH-mutant")
    if "age_years" not in facts or "kps" not in facts:
        return Outcome(None)
    age, kps, mgmt = facts["age_years"], facts["kps"], facts.get("mgmt_status")
    assumed = [] if "idh_status" in facts else ["idh_status"]
    if kps < LESS_FIT_KPS:
        return Outcome("best supportive care", "Best supportive care." + _BOARD, missing=assumed)
    if age < YOUNG_BELOW:
        doubt = "" if kps >= FIT_KPS else (
            f" With a Karnofsky status of {kps} the sources differ: a shorter, hypofractionated course is the other option."
        )  # fmt: skip
        return Outcome("60 Gy/30 + TMZ", _STANDARD + doubt + _BOARD, missing=assumed)
    if kps >= FIT_KPS:
        if age < OLD_FROM:
            both = f"Between {YOUNG_BELOW} and {OLD_FROM} years both arms of age apply. {_STANDARD} Or: {_SHORT}"
            return Outcome("60 Gy/30 + TMZ or 40 Gy/15 + TMZ", both + _BOARD, missing=assumed)
        return Outcome("40 Gy/15 + TMZ", _SHORT + _BOARD, missing=assumed)
    if mgmt is None:
        text = "Temozolomide alone if MGMT is methylated, hypofractionated radiotherapy alone if it is not."
        return Outcome(None, text + _BOARD, missing=["mgmt_status", *assumed])
    doubt = "" if kps <= 60 else f" With a Karnofsky status of {kps}, treatment as for a fit patient is the other option."
    if mgmt == "methylated":
        text = "Temozolomide alone is an option (MGMT methylated)."
        return Outcome("TMZ alone", text + doubt + _BOARD, missing=assumed)
    text = "Hypofractionated radiotherapy alone (40 Gy/15, 34 Gy/10 or 25 Gy/5 fractions)."
    return Outcome("hypofractionated RT alone", text + doubt + _BOARD, missing=assumed)


RULE = Rule("gbm_mgmt_stupp", "Glioblastoma, IDH-wildtype: first-line treatment (EANO 2021 and trials)",
            "First-line options by age, Karnofsky status and MGMT", False, compute,
            ("glioblastoma first-line treatment after surgery", "temozolomide radiotherapy MGMT KPS"))  # fmt: skip
