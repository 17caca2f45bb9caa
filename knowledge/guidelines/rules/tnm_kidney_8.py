"""Renal cell carcinoma TNM, 8th edition (UICC/AJCC 2017; EAU guideline, table 4.1)."""

from knowledge.guidelines.rules.base import Facts, Outcome, Rule, absent

SIZES = ((40, "T1a"), (70, "T1b"), (100, "T2a"))
"""Greatest dimension in mm up to which a T holds within the kidney; above 100 mm T2b."""
VEINS = {"renal_vein": "T3a", "ivc_below_diaphragm": "T3b", "ivc_above_diaphragm": "T3c", "ivc_wall": "T3c"}


def compute(facts: Facts) -> Outcome:
    """The stage group, with T, N and M in the recommendation."""
    t = _t(facts)
    if t is None:
        return Outcome(None)
    n, m = facts.get("n_category"), facts.get("m_category")
    text = f"{t} {n or 'N?'} {m or 'M?'}, 8th edition."
    if t == "T4" or m == "M1":
        return Outcome("IV", text)
    missing = absent(facts, "n_category", "m_category")
    if missing or t in ("TX", "T0") or n == "NX":
        return Outcome(None, text, missing=missing)
    if n == "N1" or t.startswith("T3"):
        return Outcome("III", text)
    return Outcome("II" if t.startswith("T2") else "I", text)


def _t(facts: Facts) -> str | None:
    if "t_category" in facts:
        return str(facts["t_category"])
    if facts["beyond_gerota_fascia"] or facts["ipsilateral_adrenal_contiguous"]:
        return "T4"
    if facts["venous_extension"] in VEINS:
        return VEINS[facts["venous_extension"]]
    if facts["perirenal_or_sinus_fat_invasion"] or facts["pelvicalyceal_invasion"]:
        return "T3a"
    size = facts.get("size_mm")
    return None if size is None else next((t for limit, t in SIZES if size <= limit), "T2b")


RULE = Rule("tnm_kidney_8", "UICC/AJCC renal cell carcinoma TNM, 8th edition", "T, N, M and stage groups", True, compute,
            ("stage of renal cell carcinoma TNM",))  # fmt: skip
