"""iRECIST time-point response (Seymour 2017, doi:10.1016/S1470-2045(17)30074-8)."""

from knowledge.guidelines.rules.base import Facts, Outcome, Rule, absent, percent
from knowledge.guidelines.rules.recist_1_1 import PARTIAL_PERCENT, PROGRESSION_MM, PROGRESSION_PERCENT

CONFIRM_MM = 5.0
"""A further increase of 5 mm of the sum confirms; small increases add up (Seymour 2017, table 2; EORTC FAQ)."""
_PENDING = (
    "Progression that is not confirmed: re-image at 4-8 weeks to confirm it; go on with treatment only if clinically stable."
)
_CONFIRMED = "Confirmed progression; its date is that of the first iUPD."


def compute(facts: Facts) -> Outcome:
    """The response at this time point."""
    if "previous_response" not in facts:
        return Outcome(None)
    target = facts.get("target_response") or _read(facts.get("target_sums_mm"))
    previous = facts["previous_response"]
    if previous == "iCPD":
        return Outcome("iCPD", _CONFIRMED)
    if previous == "iUPD":
        return _pending(facts, target)
    if target == "PD" or facts.get("non_target_response") == "pd" or facts.get("new_lesion"):
        return Outcome("iUPD", _PENDING, missing=absent(facts, "clinically_stable"))
    return _response(facts, target)


def _read(sums: list[float] | None) -> str | None:
    """RECIST of the last of the sums, baseline first; a partial response stays until progression (EORTC reading)."""
    if not sums or len(sums) < 2 or not sums[0]:
        return None
    response, nadir = "SD", sums[0]
    for now in sums[1:]:
        if nadir and percent(now, nadir) >= PROGRESSION_PERCENT and now - nadir >= PROGRESSION_MM:
            response = "PD"
        elif now == 0:
            response = "CR"
        elif percent(now, sums[0]) <= PARTIAL_PERCENT or response == "PR":
            response = "PR"
        else:
            response = "SD"
        nadir = min(nadir, now)
    return response


def _since_progression(sums: list[float] | None) -> list[float]:
    """Changes of the sum at each time point after the first progression that is followed to the end."""
    if not sums:
        return []
    nadir = sums[0]
    for place, now in enumerate(sums[1:], 1):
        if nadir and percent(now, nadir) >= PROGRESSION_PERCENT and now - nadir >= PROGRESSION_MM:
            return [b - a for a, b in zip(sums[place:], sums[place + 1 :], strict=False)]
        nadir = min(nadir, now)
    return []


def _response(facts: Facts, target: str | None) -> Outcome:
    missing = [] if target else ["target_response"]
    missing += absent(facts, "non_target_response", "new_lesion")
    if missing:
        return Outcome(None, missing=missing)
    if target == "NE":
        return Outcome("NE", "Not evaluable.")
    other = facts["non_target_response"]
    category = "iPR" if target == "CR" and other not in ("none", "cr") else f"i{target}"
    return Outcome(category, "No progression at this time point.")


def _pending(facts: Facts, target: str | None) -> Outcome:
    causes = facts.get("iupd_causes")
    if facts.get("new_lesion"):
        return Outcome("iCPD", _CONFIRMED)
    if causes is None:
        return Outcome(None, missing=["iupd_causes"])
    other = facts.get("non_target_response")
    grown = sum(facts.get("target_sum_increases_mm") or _since_progression(facts.get("target_sums_mm")))
    new_grown = sum(facts.get("new_lesion_sum_increases_mm", []))
    confirmed = (
        ("target" in causes and grown >= CONFIRM_MM) or ("target" not in causes and target == "PD")
        or ("non_target" in causes and facts["non_target_further_increase"]) or ("non_target" not in causes and other == "pd")
        or ("new_lesion" in causes and (new_grown >= CONFIRM_MM or facts["new_lesion_non_target_growth"]))
    )  # fmt: skip
    if confirmed:
        return Outcome("iCPD", _CONFIRMED)
    still = "target" in causes and (target == "PD" or (target is None and "target_sum_increases_mm" in facts))
    if still or "new_lesion" in causes or ("non_target" in causes and other == "pd"):
        return Outcome("iUPD", _PENDING, missing=absent(facts, "clinically_stable"))
    if "non_target" in causes and target in ("PR", "CR"):
        return Outcome(None, "The source lets iPR and iCR follow an iUPD of the targets alone: a reader has to settle this one.")
    return _response(facts, target)


RULE = Rule("irecist", "iRECIST", "Time-point response", True, compute, ("response to immunotherapy iRECIST pseudoprogression",))
