"""ALBI grade (Johnson 2015, doi:10.1200/JCO.2014.57.9151)."""

import math

from knowledge.guidelines.rules.base import Facts, Outcome, Rule
from knowledge.guidelines.rules.child_pugh import UMOL_PER_MG_DL, albumin_g_dl, bilirubin_mg_dl

BILIRUBIN, ALBUMIN = 0.66, -0.085
"""Coefficients of log10(bilirubin µmol/L) and of albumin g/L (Johnson 2015)."""
GRADE_1, GRADE_2 = -2.60, -1.39
SPLIT = -2.27
"""Grade 1 up to -2.60, grade 2 up to -1.39; mALBI splits grade 2 at -2.27 (not checked)."""


def compute(facts: Facts) -> Outcome:
    """Grade 1 to 3 and the score."""
    bilirubin, albumin = bilirubin_mg_dl(facts), albumin_g_dl(facts)
    if bilirubin is None or albumin is None:
        return Outcome(None)
    umol = facts["bilirubin_umol_l"] if "bilirubin_umol_l" in facts else bilirubin * UMOL_PER_MG_DL
    if umol <= 0:
        return Outcome(None, "The ALBI score needs a bilirubin above zero.", missing=["bilirubin_umol_l"])
    score = BILIRUBIN * math.log10(umol) + ALBUMIN * albumin * 10
    grade = "1" if score <= GRADE_1 else "2" if score <= GRADE_2 else "3"
    split = f" (mALBI {'2a' if score <= SPLIT else '2b'}, not checked)" if grade == "2" else ""
    return Outcome(grade, f"ALBI grade {grade}{split}.", {"albi_score": round(score, 3)})


RULE = Rule("albi", "ALBI grade", "Score and grades", True, compute, ("liver function albumin bilirubin grade",))
