"""O-RADS US v2022 for adnexal lesions (Strachowski 2023, doi:10.1148/radiol.230685); rows 3 to 5 are not checked."""

from knowledge.guidelines.rules.base import Facts, Outcome, Rule, absent

LARGE_MM, FOLLICLE_MM = 100, 30
SMALL_SIMPLE_MM, MIDDLE_SIMPLE_MM = 30, 50
MANY_PAPILLAE = 4
_TYPICAL = ("hemorrhagic_cyst", "dermoid", "endometrioma")
_OUTSIDE = ("paraovarian_cyst", "peritoneal_inclusion_cyst", "hydrosalpinx")
_ADVICE = {
    "0": "Repeat or alternative examination.", "1": "No follow-up.",
    "3": "Specialist ultrasound or MRI; gynaecologist.",
    "4": "MRI or specialist ultrasound; gynaecologist with a gynaecologic oncologist's advice.", "5": "Gynaecologic oncologist.",
}  # fmt: skip
Found = tuple[str | None, list[str]]


def compute(facts: Facts) -> Outcome:
    """The row of the table; ascites and peritoneal nodules go first."""
    if facts.get("average_risk") is False or facts.get("acute_symptoms"):
        return Outcome(None, refusal="O-RADS US is for average risk without acute symptoms")
    if not facts["examination_complete"]:
        return Outcome("0", _ADVICE["0"])
    if facts["peritoneal_nodules"]:
        return Outcome("5", _ADVICE["5"])
    if "lesion_type" not in facts:
        return Outcome(None)
    category, missing = _category(facts)
    if facts["ascites"] and category in ("3", "4", "5"):
        category = "5"
    if category is None:
        return Outcome(None, missing=missing)
    text = _advice_2(facts) if category == "2" else _ADVICE[category]
    if facts["ascites"] and category in ("1", "2"):
        text += " Another cause of the ascites is to be sought."
    if category in ("3", "4", "5"):
        text += " (Rows 3 to 5 are not checked against the source.)"
    return Outcome(category, text, missing=[*missing, *(absent(facts, "menopausal_status") if category == "2" else [])])


def _advice_2(facts: Facts) -> str:
    size, status = facts.get("size_mm"), facts.get("menopausal_status")
    simple = facts.get("simple_cyst") or facts["lesion_type"] == "follicle"
    if not simple or size is None:
        return "No follow-up to follow-up at 12 months, by kind, size and menopausal status."
    if size <= SMALL_SIMPLE_MM or (size <= MIDDLE_SIMPLE_MM and status == "premenopausal"):
        return "No follow-up."
    if size > MIDDLE_SIMPLE_MM or status == "postmenopausal":
        return "Follow-up at 12 months."
    return "No follow-up before, follow-up at 12 months after the menopause."


def _sized(facts: Facts, below: str, above: str) -> Found:
    size = facts.get("size_mm")
    return (None, ["size_mm"]) if size is None else (below if size < LARGE_MM else above, [])


def _category(facts: Facts) -> Found:
    kind = facts["lesion_type"]
    if kind == "normal_ovary":
        return "1", []
    if kind in ("follicle", "corpus_luteum"):
        lacking = absent(facts, "size_mm", "menopausal_status")
        if lacking:
            return None, lacking
        if facts["menopausal_status"] == "premenopausal" and facts["size_mm"] <= FOLLICLE_MM:
            return "1", []
        return _sized(facts, "2", "3")
    if kind in _TYPICAL:
        return _sized(facts, "2", "3")
    if kind in _OUTSIDE:
        return "2", []
    return _solid(facts) if kind == "solid" else _cystic(facts)


def _solid(facts: Facts) -> Found:
    contour, colour = facts.get("contour"), facts.get("color_score")
    if contour == "irregular" or colour == 4:
        return "5", []
    lacking = absent(facts, "contour", "color_score")
    if lacking:
        return None, lacking
    if colour == 1:
        return "3", []
    if "acoustic_shadowing" not in facts:
        return None, ["acoustic_shadowing"]
    return ("3" if facts["acoustic_shadowing"] else "4"), []


def _cystic(facts: Facts) -> Found:
    simple = facts.get("simple_cyst", False)
    locules = facts.get("locules", 1 if simple else None)
    solid = facts.get("solid_component", False if simple else True if facts.get("papillary_projections") else None)
    contour = facts.get("contour", "smooth" if simple else None)
    if locules is None or solid is None:
        return None, [n for n, v in (("locules", locules), ("solid_component", solid)) if v is None]
    if solid:
        return _with_solid(facts, locules)
    if contour is None:
        return None, ["contour"]
    if contour == "irregular":
        return ("3" if locules == 1 else "4"), []
    if locules <= 2:
        return _sized(facts, "2", "3")
    if facts.get("color_score") == 4:
        return "4", []
    if "color_score" not in facts and facts.get("size_mm", 0) < LARGE_MM:
        return None, absent(facts, "color_score", "size_mm")
    return _sized(facts, "3", "4")


def _with_solid(facts: Facts, locules: int) -> Found:
    if locules == 1:
        if "papillary_projections" not in facts:
            return None, ["papillary_projections"]
        return ("5" if facts["papillary_projections"] >= MANY_PAPILLAE else "4"), []
    if "color_score" not in facts:
        return None, ["color_score"]
    return ("5" if facts["color_score"] >= 3 else "4"), []


RULE = Rule("o_rads_us_v2022", "ACR O-RADS US v2022", "Risk categories", False, compute,
            ("ovarian adnexal lesion ultrasound category",))  # fmt: skip
