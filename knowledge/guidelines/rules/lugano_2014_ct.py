"""Lugano response of lymphoma by CT (Cheson 2014, doi:10.1200/JCO.2013.54.8800)."""

from knowledge.guidelines.rules.base import Facts, Outcome, Rule, absent

NODE_MM = 15
PPD_PERCENT = 50.0
SMALL_NODE_MM, SMALL_RISE_MM, LARGE_RISE_MM = 20, 5, 10
PARTIAL_PERCENT = -50.0
"""Nodes above 15 mm; product up 50 % from nadir with 5 mm (up to 20 mm) or 10 mm more; SPD down 50 %."""


def compute(facts: Facts) -> Outcome:
    """Progression by node, spleen or new lesion; then complete, partial, stable."""
    node, unknown = _node(facts)
    if node or facts["spleen_progression"] or facts.get("new_lesion"):
        return Outcome("PD", "Progressive disease by CT.")
    if unknown or "new_lesion" not in facts:
        return Outcome(None, missing=[*unknown, *absent(facts, "new_lesion")])
    if facts["all_nodes_ldi_15mm_or_less"]:
        lacking = absent(facts, "extranodal_disease", "organs_normal")
        if lacking and facts.get("extranodal_disease") is not True and facts.get("organs_normal") is not False:
            return Outcome(None, missing=lacking)
        if not facts.get("extranodal_disease", True) and facts.get("organs_normal"):
            return Outcome("CR", "Complete response by CT.")
    if "spd_change_percent" not in facts:
        return Outcome(None, missing=["spd_change_percent"])
    if facts["spd_change_percent"] <= PARTIAL_PERCENT:
        return Outcome("PR", "Partial response by CT; an enlarged spleen has to have lost more than half of its excess too.")
    return Outcome("SD", "Stable disease by CT.")


def _node(facts: Facts) -> tuple[bool, list[str]]:
    size = facts.get("node_ldi_mm")
    if size is None or size <= NODE_MM:
        return False, []
    if facts.get("node_ppd_increase_percent", PPD_PERCENT) < PPD_PERCENT:
        return False, []
    rise = SMALL_RISE_MM if size <= SMALL_NODE_MM else LARGE_RISE_MM
    enough = any(facts.get(n, 0) >= rise for n in ("node_ldi_increase_mm", "node_sdi_increase_mm"))
    if enough and "node_ppd_increase_percent" in facts:
        return True, []
    if not enough and "node_ldi_increase_mm" in facts and "node_sdi_increase_mm" in facts:
        return False, []
    return False, absent(facts, "node_ppd_increase_percent", "node_ldi_increase_mm", "node_sdi_increase_mm")


RULE = Rule("lugano_2014_ct", "Lugano classification 2014", "Response by CT", True, compute, ("response of lymphoma on CT",))
