"""Lung-RADS v2022 for low-dose CT screening (Christensen 2024, doi:10.1016/j.jacr.2023.09.009)."""

from knowledge.guidelines.rules.base import Facts, Outcome, Rule

SOLID = {"baseline": (6, 8, 15), "new": (4, 6, 8)}
"""Mean diameter in mm from which a solid nodule is 3, 4A and 4B, by status (Lung-RADS v2022, category table)."""
SOLID_GROWING_4B = 8
PART_SOLID_TOTAL = 6
PART_SOLID_BASELINE = (6, 8)
"""Solid part in mm from which a part-solid nodule of 6 mm and more is 4A and 4B at baseline."""
PART_SOLID_GROWING_4B = 4
GROUND_GLASS_3 = 30
JUXTAPLEURAL = 10
PET_SOLID = 8
"""PET/CT may be considered from this solid size on (management column)."""
SIX_MONTHS, THREE_MONTHS = 6, 3
"""A category 3 lesion that is stable at the 6-month CT is 2; a 4A lesion stable at the 3-month CT is 3."""
_ADVICE = {
    "0": "More information is needed: prior CT or an additional LDCT.",
    "1": "LDCT in 12 months.", "2": "LDCT in 12 months.", "3": "LDCT in 6 months.",
    "4A": "LDCT in 3 months; PET/CT may be considered if there is a solid nodule or part of 8 mm or more.",
    "4B": "Referral for clinical evaluation; diagnostic chest CT, PET/CT if a solid nodule or part is 8 mm or more, tissue sampling.",
}  # fmt: skip
_ADVICE["4X"] = _ADVICE["4B"]


def compute(facts: Facts) -> Outcome:
    """Categories 0 to 4X; S stands in the recommendation."""
    if facts.get("screening_examination") is False:
        return Outcome(None, refusal="Lung-RADS is for screening examinations; an incidental nodule goes by Fleischner")
    if facts.get("suspected_infection_or_inflammation"):
        return Outcome("0", "LDCT in 1-3 months: infection or inflammation is suspected." + _modifier(facts))
    if facts.get("examination_incomplete"):
        return Outcome("0", _ADVICE["0"] + _modifier(facts))
    if "nodule_type" not in facts:
        return Outcome(None)
    category, missing = _category(facts)
    if category is None:
        return Outcome(None, "", missing=missing)
    if facts.get("suspicious_features") and category in ("3", "4A", "4B"):
        category = "4X"
    return Outcome(category, _ADVICE[category] + _warnings(facts, category) + _modifier(facts), missing=missing)


def _modifier(facts: Facts) -> str:
    return " Modifier S: another significant finding." if facts.get("other_significant_finding") else ""


def _warnings(facts: Facts, category: str) -> str:
    text = ""
    if facts["nodule_type"] == "part_solid" and facts.get("status") == "new" and category == "3":
        text += " (A new part-solid nodule below 6 mm with a solid part below 4 mm could also be read as 4A.)"
    if facts.get("margin") == "spiculated" and category in ("3", "4A", "4B"):
        text += " A spiculated margin is a feature that may make it 4X."
    return text


def _category(facts: Facts) -> tuple[str | None, list[str]]:
    kind, status = facts["nodule_type"], facts.get("status")
    if kind == "none" or facts.get("benign_calcification_or_fat"):
        return "1", []
    if facts.get("proven_benign"):
        return "2", []
    if status is None:
        return None, ["status"]
    by_kind = {"solid": _solid, "part_solid": _part_solid, "ground_glass": _ground_glass, "airway": _airway, "cyst": _cyst}
    category, missing = by_kind[kind](facts, status)
    if category in (None, "1", "2") or status not in ("stable", "decreased") or kind == "airway":
        return category, missing
    return _followed(facts, str(category))


def _followed(facts: Facts, by_size: str) -> tuple[str | None, list[str]]:
    """A stable or smaller lesion: one category lower once the follow-up that was asked for has passed."""
    prior, months = facts.get("prior_category"), facts.get("months_since_prior")
    if prior is None:
        return None, ["prior_category"]
    if prior not in ("3", "4A"):
        return by_size, []
    if months is None:
        return None, ["months_since_prior"]
    if prior == "3":
        return ("2" if months >= SIX_MONTHS else by_size), []
    return ("3" if months >= THREE_MONTHS else by_size), []


def _banded(size: float, limits: tuple[float, ...], names: tuple[str, ...]) -> str:
    return names[sum(size >= limit for limit in limits)]


def _solid(facts: Facts, status: str) -> tuple[str | None, list[str]]:
    size = facts.get("size_mm")
    if status == "slow_growing":
        return "4B", []
    if size is None:
        return None, ["size_mm"]
    if status == "growing":
        return ("4B" if size >= SOLID_GROWING_4B else "4A"), []
    category = _banded(size, SOLID["new" if status == "new" else "baseline"], ("2", "3", "4A", "4B"))
    if facts.get("juxtapleural") and size < JUXTAPLEURAL and status in ("baseline", "new") and category != "2":
        unknown = [n for n in ("shape", "margin") if n not in facts]
        if unknown:
            return None, unknown
        if facts["margin"] == "smooth" and facts["shape"] in ("oval", "lentiform", "triangular"):
            return "2", []
    return category, []


def _part_solid(facts: Facts, status: str) -> tuple[str | None, list[str]]:
    if status == "slow_growing":
        return "4B", []
    size, part = facts.get("size_mm"), facts.get("solid_component_mm")
    if size is None:
        return None, ["size_mm"]
    grown = status == "new" or facts.get("solid_component_status") in ("new", "growing")
    if size < PART_SOLID_TOTAL and not (grown and status != "new"):
        return ("3" if status == "new" else "2"), []
    if part is None:
        return None, ["solid_component_mm"]
    if grown:
        return ("4B" if part >= PART_SOLID_GROWING_4B else "4A"), []
    if status == "growing" and "solid_component_status" not in facts:
        return None, ["solid_component_status"]
    return _banded(part, PART_SOLID_BASELINE, ("3", "4A", "4B")), []


def _ground_glass(facts: Facts, status: str) -> tuple[str | None, list[str]]:
    if status in ("stable", "slow_growing", "decreased"):
        return "2", []
    size = facts.get("size_mm")
    if size is None:
        return None, ["size_mm"]
    return ("3" if size >= GROUND_GLASS_3 else "2"), []


def _airway(facts: Facts, status: str) -> tuple[str | None, list[str]]:
    level = facts.get("airway_level")
    if level is None:
        return None, ["airway_level"]
    if level == "subsegmental":
        return ("2", []) if status in ("baseline", "new", "stable") else (None, [])
    if status == "baseline":
        return "4A", []
    return ("4B", []) if status in ("stable", "growing", "slow_growing") else (None, [])


_CYST = {"cystic_component_growing": "3", "wall_or_nodularity_growing": "4B", "became_multilocular": "4A",
         "multilocular_growing": "4B", "more_loculation_or_opacity": "4B"}  # fmt: skip


def _cyst(facts: Facts, status: str) -> tuple[str | None, list[str]]:
    change = facts.get("cyst_change", "none" if status == "baseline" else None)
    if change is None:
        return None, ["cyst_change"]
    if change in _CYST:
        return _CYST[change], []
    return ("4A", []) if "cyst_type" in facts else (None, ["cyst_type"])


RULE = Rule("lung_rads_2022", "ACR Lung-RADS v2022", "Category and management table", True, compute,
            ("lung cancer screening low-dose CT nodule category",))  # fmt: skip
