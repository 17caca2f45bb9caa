"""Volume doubling time of a nodule (BTS 2015, doi:10.1136/thoraxjnl-2015-207168)."""

import math

from knowledge.guidelines.rules.base import Facts, Outcome, Rule, percent

SIGNIFICANT_PERCENT = 25.0
"""Volume change that counts as growth (BTS 2015, NELSON)."""
SHORT_DAYS, LONG_DAYS = 400, 600
"""Bands for solid nodules (BTS 2015)."""


def compute(facts: Facts) -> Outcome:
    """VDT = t ln 2 / ln(V2/V1), diameters by the sphere formula."""
    if "interval_days" not in facts:
        return Outcome(None)
    if "volume_1_mm3" in facts and "volume_2_mm3" in facts:
        ratio = facts["volume_2_mm3"] / facts["volume_1_mm3"] if facts["volume_1_mm3"] else math.nan
    elif "diameter_1_mm" in facts and "diameter_2_mm" in facts:
        ratio = (facts["diameter_2_mm"] / facts["diameter_1_mm"]) ** 3 if facts["diameter_1_mm"] else math.nan
    else:
        return Outcome(None)
    if not math.isfinite(ratio):
        return Outcome(None, refusal="the earlier size is zero, so there is no doubling time")
    values = {"volume_change_percent": round(percent(ratio, 1), 2)}
    doubts = [] if facts.get("same_technique") is not None else ["same_technique"]
    if ratio < 1:
        return Outcome("no growth", "No growth: the nodule decreased.", values, doubts)
    if values["volume_change_percent"] < SIGNIFICANT_PERCENT:
        return Outcome("stable", "Stable: the change of volume is below 25%.", values, doubts)
    days = facts["interval_days"] * math.log(2) / math.log(ratio)
    values["doubling_time_days"] = round(days, 1)
    kind = facts.get("nodule_type")
    if kind is None:
        return Outcome("growth", "Growth. The BTS bands apply if the nodule is solid.", values, ["nodule_type", *doubts])
    if kind != "solid":
        return Outcome("growth", "Growth. The BTS bands don't apply to subsolid nodules.", values, doubts)
    if days <= SHORT_DAYS:
        text = "Growth with a doubling time up to 400 days: further work-up."
    elif days <= LONG_DAYS:
        text = "Growth with a doubling time of 400 to 600 days: biopsy or surveillance."
    else:
        text = "Growth with a doubling time above 600 days: discharge or surveillance."
    return Outcome("growth", text, values, doubts)


RULE = Rule("volume_doubling_time", "Growth and volume doubling time of nodules", "Doubling time bands", True, compute,
            ("volume doubling time of a nodule",))  # fmt: skip
