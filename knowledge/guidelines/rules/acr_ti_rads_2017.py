"""ACR TI-RADS 2017 (Tessler 2017, doi:10.1016/j.jacr.2017.01.046)."""

from knowledge.guidelines.rules.base import Facts, Outcome, Rule, absent

POINTS = {
    "composition": {"cystic": 0, "spongiform": 0, "mixed": 1, "solid": 2, "not_determinable": 2},
    "echogenicity": {"anechoic": 0, "hyperechoic": 1, "isoechoic": 1, "hypoechoic": 2, "very_hypoechoic": 3, "not_determinable": 1},
    "shape": {"wider_than_tall": 0, "taller_than_wide": 3},
    "margin": {"smooth": 0, "ill_defined": 0, "lobulated_or_irregular": 2, "extrathyroidal_extension": 3, "not_determinable": 0},
}  # fmt: skip
FOCI = {"large_comet_tail": 0, "macrocalcification": 1, "peripheral_rim": 2, "punctate": 3}
"""Foci add up (white paper, figure 1)."""
FNA_MM = {"TR3": 25, "TR4": 15, "TR5": 10}
FOLLOW_MM = {"TR3": 15, "TR4": 10, "TR5": 5}
SCHEDULE = {"TR3": "1, 3 and 5 years", "TR4": "1, 2, 3 and 5 years", "TR5": "yearly up to 5 years"}
ADULT = 18


def compute(facts: Facts) -> Outcome:
    """Level by points, advice by size."""
    for name, reason in (
        ("fdg_avid", "FDG-avid nodules"),
        ("suspicious_nodes", "nodules with suspicious nodes"),
        ("men2", "MEN2"),
    ):
        if facts.get(name):
            return Outcome(None, refusal=f"ACR TI-RADS is not for {reason}")
    if facts.get("age_years", ADULT) < ADULT:
        return Outcome(None, refusal="ACR TI-RADS is not for children")
    if absent(facts, *POINTS, "echogenic_foci"):
        return Outcome(None)
    if facts["composition"] == "spongiform":
        points = 0
    else:
        points = sum(table[facts[n]] for n, table in POINTS.items()) + sum(FOCI[f] for f in set(facts["echogenic_foci"]))
    level = "TR5" if points >= 7 else "TR4" if points >= 4 else {0: "TR1", 1: "TR1-2", 2: "TR2", 3: "TR3"}[points]
    text, missing = _advice(level, facts.get("size_mm"))
    return Outcome(level, text, {"points": points}, missing)


def _advice(level: str, size: float | None) -> tuple[str, list[str]]:
    if level not in FNA_MM:
        note = " One point has no level in the white paper." if level == "TR1-2" else ""
        return f"{level}: no FNA, no follow-up.{note}", []
    if size is None:
        return (f"{level}: biopsy from {FNA_MM[level]} mm, ultrasound follow-up from {FOLLOW_MM[level]} mm; the size is missing.",
                ["size_mm"])  # fmt: skip
    if size >= FNA_MM[level]:
        return f"{level}, {size:g} mm: FNA recommended (from {FNA_MM[level]} mm).", []
    if size >= FOLLOW_MM[level]:
        return f"{level}, {size:g} mm: no FNA; follow-up ultrasound at {SCHEDULE[level]}.", []
    return f"{level}, {size:g} mm: no FNA, no follow-up.", []


RULE = Rule("acr_ti_rads_2017", "ACR TI-RADS 2017", "Points, levels and sizes", True, compute,
            ("thyroid nodule ultrasound points biopsy",))  # fmt: skip
