"""Child-Pugh class (Pugh 1973) of liver function."""

from knowledge.guidelines.rules.base import Facts, Outcome, Rule

UMOL_PER_MG_DL = 17.1
"""µmol/L of bilirubin in one mg/dL."""
BILIRUBIN = (2.0, 3.0)
BILIRUBIN_CHOLESTATIC = (4.0, 10.0)
ALBUMIN = (2.8, 3.5)
INR = (1.7, 2.3)
"""Two points between these limits, edges included (Pugh 1973); bilirubin mg/dL, albumin g/dL."""
CLASS_B, CLASS_C = 7, 10


def bilirubin_mg_dl(facts: Facts) -> float | None:
    """Bilirubin in mg/dL from whichever unit is given."""
    if "bilirubin_mg_dl" in facts:
        return float(facts["bilirubin_mg_dl"])
    return facts["bilirubin_umol_l"] / UMOL_PER_MG_DL if "bilirubin_umol_l" in facts else None


def albumin_g_dl(facts: Facts) -> float | None:
    """Albumin in g/dL from whichever unit is given."""
    if "albumin_g_dl" in facts:
        return float(facts["albumin_g_dl"])
    return facts["albumin_g_l"] / 10 if "albumin_g_l" in facts else None


def _rising(value: float, limits: tuple[float, float]) -> int:
    return 1 if value < limits[0] else 2 if value <= limits[1] else 3


def compute(facts: Facts) -> Outcome:
    """A 5 to 6, B 7 to 9, C 10 to 15 points."""
    bilirubin, albumin = bilirubin_mg_dl(facts), albumin_g_dl(facts)
    if bilirubin is None or albumin is None or not {"inr", "ascites", "encephalopathy"} <= set(facts):
        return Outcome(None)
    if "bilirubin_umol_l" in facts and "bilirubin_mg_dl" not in facts:
        scale = UMOL_PER_MG_DL
        limits = (34.0, 51.0) if not facts["cholestatic_disease"] else tuple(x * scale for x in BILIRUBIN_CHOLESTATIC)
        first = _rising(facts["bilirubin_umol_l"], (limits[0], limits[1]))
    else:
        first = _rising(bilirubin, BILIRUBIN_CHOLESTATIC if facts["cholestatic_disease"] else BILIRUBIN)
    second = 1 if albumin > ALBUMIN[1] else 2 if albumin >= ALBUMIN[0] else 3
    ascites = ("none", "mild", "moderate_or_severe").index(facts["ascites"]) + 1
    brain = ("none", "grade_1_2", "grade_3_4").index(facts["encephalopathy"]) + 1
    points = first + second + _rising(facts["inr"], INR) + ascites + brain
    category = "A" if points < CLASS_B else "B" if points < CLASS_C else "C"
    return Outcome(category, f"Child-Pugh class {category}.", {"points": points})


RULE = Rule("child_pugh", "Child-Pugh classification", "Points and classes", True, compute,
            ("liver function cirrhosis Child-Pugh",))  # fmt: skip
