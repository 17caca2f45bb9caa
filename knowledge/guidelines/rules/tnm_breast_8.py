"""Breast cancer TNM, 8th edition, anatomic stage (AJCC 2017; Giuliano, doi:10.3322/caac.21393)."""

from knowledge.guidelines.rules.base import Facts, Outcome, Rule, absent

SIZES = ((1, "T1mi"), (5, "T1a"), (10, "T1b"), (20, "T1c"), (50, "T2"))
"""Greatest dimension in mm up to which a T holds; above 50 mm T3."""
NODES = ("N0", "N1mi", "N1", "N2", "N3")
GROUPS = {
    "Tis": ("0", None, None, None, None), "T0": (None, "IB", "IIA", "IIIA", "IIIC"),
    "T1": ("IA", "IB", "IIA", "IIIA", "IIIC"), "T2": ("IIA", "IIB", "IIB", "IIIA", "IIIC"),
    "T3": ("IIB", "IIIA", "IIIA", "IIIA", "IIIC"), "T4": ("IIIB", "IIIB", "IIIB", "IIIB", "IIIC"),
}  # fmt: skip


def compute(facts: Facts) -> Outcome:
    """The anatomic stage; the prognostic stage is another table."""
    t = _t(facts)
    if t is None or absent(facts, "n_category", "m_category"):
        return Outcome(None)
    n, m = facts["n_category"], facts["m_category"]
    text = f"{t} {n} {m}, anatomic stage; the prognostic stage (grade, ER, PR, HER2) is not computed."
    if m == "M1":
        return Outcome("IV", text)
    short_t, short_n = t[:2] if t[:2] in GROUPS else t, n if n == "N1mi" else n[:2]
    if short_t not in GROUPS or short_n not in NODES:
        return Outcome(None, text)
    return Outcome(GROUPS[short_t][NODES.index(short_n)], text)


def _t(facts: Facts) -> str | None:
    if "t_category" in facts:
        return str(facts["t_category"])
    if facts["inflammatory"]:
        return "T4d"
    wall, skin = facts["chest_wall_invasion"], facts["skin_ulceration_satellites_or_edema"]
    if wall or skin:
        return "T4c" if wall and skin else "T4a" if wall else "T4b"
    size = facts.get("size_mm")
    return None if not size else next((t for limit, t in SIZES if size <= limit), "T3")


RULE = Rule("tnm_breast_8", "AJCC breast cancer TNM, 8th edition", "Anatomic stage groups", True, compute,
            ("stage of breast cancer TNM",))  # fmt: skip
