"""BCLC 2022 staging of hepatocellular carcinoma (Reig 2022, doi:10.1016/j.jhep.2021.11.018)."""

from knowledge.guidelines.rules.base import Facts, Outcome, Rule, absent

VERY_EARLY_MM = 20
EARLY_COUNT, EARLY_MM = 3, 30
"""0: single up to 2 cm; A: single, or up to 3 nodules of up to 3 cm each."""
_EDITION = " Options for a tumour board; 2022 version (a 2025 update exists)."


def compute(facts: Facts) -> Outcome:
    """D before C before B before A before 0."""
    lacking = absent(facts, "nodule_count", "max_nodule_mm", "ecog_ps", "liver_function", "macrovascular_invasion",
                     "extrahepatic_spread")  # fmt: skip
    if facts.get("ecog_ps", 0) >= 3:
        return Outcome("D", "Best supportive care." + _EDITION)
    if lacking:
        return Outcome(None)
    if facts["liver_function"] == "end_stage":
        if "transplant_candidate" not in facts:
            return Outcome(None, "Transplant if within criteria, otherwise best supportive care." + _EDITION,
                           missing=["transplant_candidate"])  # fmt: skip
        if not facts["transplant_candidate"]:
            return Outcome("D", "Best supportive care." + _EDITION)
    stage = _stage(facts)
    text, missing = {"0": _very_early, "A": _early, "B": _intermediate, "C": _advanced}[stage](facts)
    if facts["liver_function"] == "end_stage":
        text = "End-stage liver within transplant criteria: transplant is the option to discuss."
    elif facts["liver_function"] == "impaired":
        text += " The table assumes preserved liver function, which this is not: feasibility is for the board."
    return Outcome(stage, text + _EDITION, missing=missing)


def _stage(facts: Facts) -> str:
    impaired = facts["ecog_ps"] in (1, 2) and facts["performance_loss_due_to_tumor"]
    if facts["macrovascular_invasion"] or facts["extrahepatic_spread"] or impaired:
        return "C"
    if facts["nodule_count"] == 1:
        return "0" if facts["max_nodule_mm"] <= VERY_EARLY_MM else "A"
    return "A" if facts["nodule_count"] <= EARLY_COUNT and facts["max_nodule_mm"] <= EARLY_MM else "B"


def _very_early(facts: Facts) -> tuple[str, list[str]]:
    return "Ablation; resection as an alternative, transplant if a candidate.", []


def _early(facts: Facts) -> tuple[str, list[str]]:
    if facts["nodule_count"] > 1:
        return "Transplant, or ablation if not a candidate.", absent(facts, "transplant_candidate")
    missing = absent(facts, "portal_hypertension", "bilirubin_normal")
    if missing and facts.get("portal_hypertension") is not True and facts.get("bilirubin_normal") is not False:
        return ("Resection without clinically significant portal hypertension and with normal bilirubin; otherwise transplant or "
                "ablation."), missing  # fmt: skip
    if facts.get("portal_hypertension") or facts.get("bilirubin_normal") is False:
        return "Transplant, or ablation.", []
    return "Resection.", []


def _intermediate(facts: Facts) -> tuple[str, list[str]]:
    options = {"transplant": "transplant if extended criteria are met",
               "tace": "TACE for well-defined nodules with preserved portal flow and selective access",
               "systemic": "systemic therapy for diffuse, infiltrative or extensive bilobar disease"}  # fmt: skip
    if facts.get("tumor_pattern") == "diffuse_infiltrative_or_bilobar":
        return f"Intermediate: {options['systemic']}.", []
    missing = absent(facts, "tumor_pattern", "portal_flow_preserved", "selective_access_possible")
    if not missing and facts["portal_flow_preserved"] and facts["selective_access_possible"]:
        return f"Intermediate: {options['transplant']}, or {options['tace']}.", []
    return f"Intermediate: {'; '.join(options.values())}.", missing


def _advanced(facts: Facts) -> tuple[str, list[str]]:
    return ("Systemic therapy: atezolizumab with bevacizumab or durvalumab with tremelimumab; if not suitable lenvatinib, sorafenib "
            "or durvalumab."), []  # fmt: skip


RULE = Rule("bclc_2022", "BCLC staging of hepatocellular carcinoma", "Stages and first options", False, compute,
            ("hepatocellular carcinoma stage BCLC treatment",))  # fmt: skip
