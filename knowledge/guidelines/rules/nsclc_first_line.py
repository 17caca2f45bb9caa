"""Stage IV non-small-cell lung cancer, first line (ASCO living guidelines: drivers 2024.3, without drivers 2026.3.1)."""

from knowledge.guidelines.rules.base import Facts, Outcome, Rule, absent

HIGH, LOW = 50, 1
"""PD-L1 tumour proportion score in percent: 50 and more, 1 to 49, 0."""
_UNCHECKED = " (this row awaits a check against the source)"
_EGFR = " With an activating EGFR alteration no single-agent checkpoint inhibitor, whatever PD-L1 is."
TARGETED = {
    "egfr_exon19_deletion": ("EGFR exon 19 deletion or L858R", "Osimertinib (strong); osimertinib with a platinum doublet, or amivantamab "
                             "with lazertinib, may be offered." + _EGFR),
    "egfr_other_sensitizing": ("EGFR other sensitising", "Afatinib (strong) or osimertinib (weak)." + _EGFR),
    "egfr_exon20_insertion": ("EGFR exon 20 insertion", f"Amivantamab with platinum and pemetrexed{_UNCHECKED}." + _EGFR),
    "alk_fusion": ("ALK fusion", "Alectinib, brigatinib or lorlatinib; if not available ceritinib or crizotinib."),
    "ros1_fusion": ("ROS1 fusion", "Entrectinib, crizotinib or repotrectinib."),
    "braf_v600e": ("BRAF V600E", "Dabrafenib with trametinib or encorafenib with binimetinib, or as without a driver."),
    "met_exon14_skipping": ("MET exon 14 skipping", f"Capmatinib or tepotinib, or as without a driver{_UNCHECKED}."),
    "ret_fusion": ("RET fusion", f"Selpercatinib or pralsetinib{_UNCHECKED}."),
    "ntrk_fusion": ("NTRK fusion", f"Larotrectinib or entrectinib (repotrectinib){_UNCHECKED}."),
}  # fmt: skip
TARGETED["egfr_l858r"] = TARGETED["egfr_exon19_deletion"]
SECOND_LINE = {"kras_g12c": "KRAS G12C: sotorasib or adagrasib in second line.",
               "her2_mutation": "HER2 mutation: as without a driver in first line; targeted agents in second line (changing fast)."}  # fmt: skip
_PEMBRO_CHEMO = {
    "squamous": "pembrolizumab with carboplatin and (nab-)paclitaxel",
    "nonsquamous": "pembrolizumab or cemiplimab with carboplatin and pemetrexed (strong); alternatives atezolizumab with carboplatin, "
    "(nab-)paclitaxel with or without bevacizumab, nivolumab with ipilimumab with or without two cycles of chemotherapy",
}  # fmt: skip
_LIVING = " Options to discuss, never a dose. Living guidelines (drivers 2024.3, without drivers 2026.3.1): newer agents may be missing."


def compute(facts: Facts) -> Outcome:
    """The row of the driver table; without a targeted first line, that of PD-L1."""
    if facts.get("stage_iv") is False:
        return Outcome(None, refusal="these options are for stage IV")
    if facts.get("ecog_ps", 0) > 2:
        return Outcome(None, refusal="the guideline covers performance status 0 to 2")
    drivers = facts.get("driver_alterations")
    for name, (category, text) in TARGETED.items():
        if name in (drivers or []):
            return Outcome(category, text + _LIVING)
    if drivers is None or not facts.get("molecular_panel_complete"):
        text = "Molecular panel first: a broad panel has to be complete before immunotherapy is chosen."
        return Outcome(None, text, missing=["driver_alterations"])
    later = "".join(f" {SECOND_LINE[d]}" for d in drivers if d in SECOND_LINE)
    if facts["immunotherapy_contraindicated"]:
        return Outcome("no targeted first line, immunotherapy contraindicated", "Platinum doublet." + later + _LIVING)
    return _by_pd_l1(facts, later)


def _by_pd_l1(facts: Facts, later: str) -> Outcome:
    if facts.get("ecog_ps") == 2:
        text = "Single agent or platinum doublet by shared decision."
        return Outcome("no targeted first line, PS 2", text + later + _LIVING)
    missing = absent(facts, "ecog_ps", "pd_l1_tps_percent")
    if missing:
        return Outcome(None, "It depends on PD-L1 and performance status." + later, missing=missing)
    score = facts["pd_l1_tps_percent"]
    kinds = {"squamous": ["squamous"], None: ["nonsquamous", "squamous"]}.get(facts.get("histology"), ["nonsquamous"])
    combined = "; if squamous: ".join(_PEMBRO_CHEMO[k] for k in kinds)
    if score >= HIGH:
        band, text = ">=50%", f"Single-agent pembrolizumab, cemiplimab or atezolizumab (strong); or {combined}."
    else:
        band = "1-49%" if score >= LOW else "0%"
        weak = " Single-agent pembrolizumab is a weak option." if score >= LOW else ""
        text = f"{combined[0].upper()}{combined[1:]}.{weak}"
    return Outcome(f"no targeted first line, PD-L1 {band}", text + later + _LIVING, missing=absent(facts, "histology"))


RULE = Rule("nsclc_first_line", "ASCO stage IV non-small-cell lung cancer", "First line by alteration and PD-L1", True, compute,
            ("non-small-cell lung cancer first-line treatment driver PD-L1",))  # fmt: skip
