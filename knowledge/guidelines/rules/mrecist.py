"""mRECIST response of hepatocellular carcinoma (Lencioni 2010, doi:10.1055/s-0030-1247132; Llovet 2020)."""

from knowledge.guidelines.rules.base import Facts, Outcome, Rule, absent, percent

PARTIAL_PERCENT, PROGRESSION_PERCENT = -30.0, 20.0
NEW_NODULE_MM = 10
"""Percent of the sum of viable diameters; a new nodule counts from 10 mm on with the typical pattern."""
_TEXT = {
    "CR": "Complete response",
    "PR": "Partial response",
    "SD": "Stable disease",
    "PD": "Progressive disease",
    "NE": "Not evaluable",
}


def compute(facts: Facts) -> Outcome:
    """Progression first, then targets and non-targets."""
    base, nadir, now = (facts.get(f"viable_sum_{n}_mm") for n in ("baseline", "nadir", "current"))
    values = {}
    if now is not None and base:
        values["change_from_baseline_percent"] = round(percent(now, base), 2)
    if now is not None and nadir:
        values["change_from_nadir_percent"] = round(percent(now, nadir), 2)
    grown = values.get("change_from_nadir_percent", 0.0) >= PROGRESSION_PERCENT
    nodule, unknown = _new_nodule(facts)
    if grown or facts.get("new_lesion") or nodule or facts.get("non_target_response") == "pd":
        return _result("PD", values)
    missing = [*unknown, *absent(facts, "new_lesion", "viable_sum_current_mm", "non_target_response")]
    if now != 0:
        missing += absent(facts, "viable_sum_baseline_mm", "viable_sum_nadir_mm")
    if missing:
        return Outcome(None, "", values, missing)
    other = facts["non_target_response"]
    if now == 0:
        return _result("CR" if other in ("none", "cr") else "PR", values)
    if "change_from_baseline_percent" not in values:
        return _result("NE", values)
    return _result("PR" if values["change_from_baseline_percent"] <= PARTIAL_PERCENT else "SD", values)


def _result(category: str, values: dict[str, float]) -> Outcome:
    return Outcome(category, f"{_TEXT[category]} by viable (arterially enhancing) tumour; necrosis is not counted.", values)


def _new_nodule(facts: Facts) -> tuple[bool, list[str]]:
    size = facts.get("new_intrahepatic_nodule_mm")
    if size is None or size < NEW_NODULE_MM:
        return bool(size is not None and facts.get("new_nodule_growth_10mm")), []
    if facts.get("new_nodule_typical_hcc_pattern") or facts.get("new_nodule_growth_10mm"):
        return True, []
    return False, absent(facts, "new_nodule_typical_hcc_pattern", "new_nodule_growth_10mm")


RULE = Rule("mrecist", "mRECIST for hepatocellular carcinoma", "Overall response", False, compute,
            ("response of hepatocellular carcinoma viable tumour after TACE",))  # fmt: skip
