"""RECIST 1.1 overall time-point response (Eisenhauer 2009, doi:10.1016/j.ejca.2008.10.026)."""

from knowledge.guidelines.rules.base import Facts, Outcome, Rule, percent

PARTIAL_PERCENT = -30.0
PROGRESSION_PERCENT = 20.0
PROGRESSION_MM = 5.0
NODE_NORMAL_MM = 10.0
"""Eisenhauer 2009, section 4.3: -30 % of baseline; +20 % and +5 mm of nadir; node short axis below 10 mm."""
_TEXT = {"CR": "Complete response.", "PR": "Partial response.", "SD": "Stable disease.", "PD": "Progressive disease.",
         "NE": "Not evaluable.", "Non-CR/Non-PD": "Neither complete response nor progression."}  # fmt: skip


def compute(facts: Facts) -> Outcome:
    """Progression first; then the table of target and non-target response."""
    base, nadir, now = (facts.get(n) for n in ("baseline_sum_mm", "nadir_sum_mm", "current_sum_mm"))
    values: dict[str, float] = {}
    if now is not None and base:
        values["change_from_baseline_percent"] = round(percent(now, base), 2)
    if now is not None and nadir:
        values["change_from_nadir_percent"] = round(percent(now, nadir), 2)
        values["change_from_nadir_mm"] = round(now - nadir, 2)
    target, missing = _target(facts, values)
    category, more = _overall(facts, target)
    if category is None:
        return Outcome(None, "", values, [*missing, *more])
    text = _TEXT[category]
    if category in ("CR", "PR"):
        text += " To confirm at 4 weeks or later where the trial's endpoint is response."
    if category == "PR" and target == "stays":
        text += " The partial response before is kept: no progression, though the sum is less than 30 % below baseline."
    return Outcome(category, text, values)


def _target(facts: Facts, values: dict[str, float]) -> tuple[str | None, list[str]]:
    if not facts["target_disease"]:
        return "none", []
    growth, more = values.get("change_from_nadir_percent"), values.get("change_from_nadir_mm")
    if growth is not None and more is not None and growth >= PROGRESSION_PERCENT and more >= PROGRESSION_MM:
        return "PD", []
    if not facts["all_targets_assessed"]:
        return "NE", []
    nodes = facts.get("target_node_short_axes_mm")
    gone = facts.get("non_nodal_targets_resolved") or facts.get("current_sum_mm") == 0
    if gone and (facts.get("current_sum_mm") == 0 or (nodes is not None and all(n < NODE_NORMAL_MM for n in nodes))):
        return "CR", []
    lacking = [n for n in ("baseline_sum_mm", "nadir_sum_mm", "current_sum_mm") if n not in facts]
    if lacking or "change_from_baseline_percent" not in values:
        return (None, lacking) if lacking else ("NE", [])
    if values["change_from_baseline_percent"] <= PARTIAL_PERCENT:
        return "PR", []
    return ("stays", []) if facts.get("previous_response") == "PR" else ("SD", [])


def _overall(facts: Facts, target: str | None) -> tuple[str | None, list[str]]:
    other = facts.get("non_target_response")
    if facts.get("new_lesion") or other == "pd" or target == "PD":
        return "PD", []
    if "new_lesion" not in facts or target is None:
        return None, []
    if other is None:
        return None, ["non_target_response"]
    if target == "none":
        return {"cr": "CR", "non_cr_non_pd": "Non-CR/Non-PD"}.get(other, "NE"), []
    if target == "CR":
        return ("CR" if other in ("cr", "none") else "PR"), []
    return {"PR": "PR", "stays": "PR", "SD": "SD"}.get(target, "NE"), []


RULE = Rule("recist_1_1", "RECIST 1.1, response of solid tumours", "Overall time-point response", True, compute,
            ("response of target lesions RECIST",))  # fmt: skip
