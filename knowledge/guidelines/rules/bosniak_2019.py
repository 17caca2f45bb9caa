"""Bosniak classification of cystic renal masses, version 2019 (Silverman 2019, doi:10.1148/radiol.2019182646)."""

from knowledge.guidelines.rules.base import Facts, Outcome, Rule, absent

THIN_MM, THICK_MM = 2, 4
MANY_SEPTA = 4
NODULE_MM = 4
FLUID_HU = (-9, 20)
PORTAL_HU = (21, 30)
DENSE_HU = 70
SOLID_PERCENT = 25
"""Cut-offs of the 2019 version: thin up to 2 mm, thick from 4 mm, few septa 1 to 3, nodule from 4 mm or with acute margins."""
_ADVICE = {
    "I": "No follow-up.", "II": "No follow-up.", "IIF": "Imaging at 6 and 12 months, then yearly to 5 years.",
    "III": "Urology: surgery, ablation or active surveillance.", "IV": "Urology: surgery or ablation; active surveillance in selected patients.",
}  # fmt: skip


def compute(facts: Facts) -> Outcome:
    """The highest class that is present."""
    if facts.get("enhancing_tissue_percent", 0) >= SOLID_PERCENT:
        return Outcome(None, refusal="25 % or more enhancing tissue: a solid mass, not a cystic one")
    if "imaging" not in facts:
        return Outcome(None)
    high, missing = _enhancing(facts)
    if missing:
        return Outcome(None, missing=missing)
    if high is None and facts["imaging"] == "mri" and facts["t1_heterogeneously_hyperintense"]:
        high = "IIF"
    if high:
        return _result(high)
    if _second(facts):
        return _result("II", _unseen(facts))
    missing = absent(facts, "homogeneous", "wall_thickness_mm", "septa_count", "attenuation_hu")
    if facts.get("homogeneous") is False or missing:
        return Outcome(None, "Not enough to tell class I from II.", missing=missing)
    if (
        FLUID_HU[0] <= facts["attenuation_hu"] <= FLUID_HU[1]
        and facts["wall_thickness_mm"] <= THIN_MM
        and facts["septa_count"] == 0
    ):
        return _result("I", _unseen(facts))
    return Outcome(
        None, "Fits no class of the table: an examination with contrast settles it.", missing=absent(facts, "enhancing")
    )


def _unseen(facts: Facts) -> list[str]:
    return [] if facts["imaging"] == "noncontrast_ct" else absent(facts, "protrusion_mm", "septa_thickness_mm") if facts.get(
        "septa_count") else absent(facts, "protrusion_mm")  # fmt: skip


def _result(category: str, missing: list[str] | None = None) -> Outcome:
    return Outcome(category, _ADVICE[category] + " (Usual management; size alone does not upgrade.)", missing=missing or [])


def _enhancing(facts: Facts) -> tuple[str | None, list[str]]:
    """The class by wall, septa and protrusion, all of which count only where they enhance."""
    wall, septa, bump = (facts.get(n, 0) for n in ("wall_thickness_mm", "septa_thickness_mm", "protrusion_mm"))
    found, unknown = None, []
    if bump >= NODULE_MM or (bump > 0 and facts.get("protrusion_margins") == "acute"):
        found = "IV"
    elif bump > 0 and "protrusion_margins" not in facts:
        unknown = ["protrusion_margins"]
    elif bump > 0 or wall >= THICK_MM or septa >= THICK_MM:
        found = "III"
    elif wall > THIN_MM or septa > THIN_MM or facts.get("septa_count", 0) >= MANY_SEPTA:
        found = "IIF"
    if (found or unknown) and "enhancing" not in facts:
        unknown = [*unknown, "enhancing"]
    if (found or unknown) and facts.get("enhancing") is False:
        return None, []
    return (None, unknown) if unknown else (found, [])


def _second(facts: Facts) -> bool:
    """Class II as the table has it; its subtypes are not checked against the source."""
    kind, density = facts["imaging"], facts.get("attenuation_hu")
    if facts["too_small_to_characterize"] or facts["calcification"] or 1 <= facts.get("septa_count", 0) < MANY_SEPTA:
        return True
    if kind == "mri":
        return bool(facts["t2_markedly_hyperintense"] or facts["t1_markedly_hyperintense"])
    if not facts.get("homogeneous") or density is None:
        return False
    if kind == "noncontrast_ct":
        return bool(density >= DENSE_HU or FLUID_HU[0] <= density <= FLUID_HU[1])
    if kind == "portal_venous_ct":
        return bool(PORTAL_HU[0] <= density <= PORTAL_HU[1])
    return bool(density > FLUID_HU[1] and facts.get("enhancing") is False)


RULE = Rule("bosniak_2019", "Bosniak classification v2019", "Classes on CT and MRI", True, compute,
            ("cystic renal mass class",))  # fmt: skip
