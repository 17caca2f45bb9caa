"""PI-RADS v2.1 overall category (Turkbey 2019, doi:10.1016/j.eururo.2019.02.033)."""

from knowledge.guidelines.rules.base import Facts, Outcome, Rule, absent

LARGE_MM = 15
"""Score 5 instead of 4 from 1.5 cm on, or with definite extraprostatic extension."""
DENSITY = 0.15
"""PSA density in ng/mL/mL that is often used to individualise category 3 (practice, not in PI-RADS)."""
_MEANING = {"1": "very low", "2": "low", "3": "intermediate", "4": "high", "5": "very high"}
_ACTION = {"1": "usually no targeted biopsy", "2": "usually no targeted biopsy",
           "3": f"individualise; a PSA density of {DENSITY} ng/mL/mL or more is often used", "4": "targeted biopsy",
           "5": "targeted biopsy"}  # fmt: skip


def compute(facts: Facts) -> Outcome:
    """Diffusion decides in the peripheral zone, T2 in the transition zone."""
    values = {}
    if facts.get("prostate_volume_ml") and "psa_ng_ml" in facts:
        values["psa_density"] = round(facts["psa_ng_ml"] / facts["prostate_volume_ml"], 3)
    if "zone" not in facts:
        return Outcome(None, "", values)
    category, missing = (_peripheral if facts["zone"] == "peripheral" else _transition)(facts)
    if category is None:
        return Outcome(None, "", values, missing)
    shown = str(category)
    text = f"{_MEANING[shown].capitalize()} likelihood of clinically significant cancer; {_ACTION[shown]} (practice, not part of PI-RADS)."
    if not facts["dwi_adequate"]:
        text += " Diffusion was not adequate, so T2 decided: a limitation."
    if category == 3:
        missing = [*missing, *absent(facts, "psa_ng_ml", "prostate_volume_ml")]
    return Outcome(shown, text, values, missing)


def _sized(score: int, facts: Facts) -> int:
    """4 or 5 by size and extension; as read where no size is given."""
    if score < 4:
        return score
    if facts["extraprostatic_extension"]:
        return 5
    return score if "size_mm" not in facts else 5 if facts["size_mm"] >= LARGE_MM else 4


def _peripheral(facts: Facts) -> tuple[int | None, list[str]]:
    name = "dwi_score" if facts["dwi_adequate"] else "t2w_score"
    score = facts.get(name)
    if score is None:
        return None, [name]
    return (4 if facts["dce"] == "positive" else 3) if score == 3 else _sized(score, facts), []


def _transition(facts: Facts) -> tuple[int | None, list[str]]:
    score, diffusion = facts.get("t2w_score"), facts.get("dwi_score")
    if score is None:
        return None, ["t2w_score"]
    if score in (2, 3) and facts["dwi_adequate"]:
        if diffusion is None:
            return None, ["dwi_score"]
        return (3 if diffusion >= 4 else 2) if score == 2 else (4 if _sized(diffusion, facts) == 5 else 3), []
    return _sized(score, facts), []


RULE = Rule("pi_rads_v2_1", "PI-RADS v2.1", "Overall assessment category", False, compute,
            ("prostate MRI lesion category",))  # fmt: skip
