"""What a question states in passing: facts for rules, units wished for, months, handles."""

import re
from collections.abc import Callable
from typing import Any

_MONTHS = ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
           "december"]  # fmt: skip

Reader = Callable[[re.Match[str]], Any]
_NUMBER = r"(\d+(?:\.\d+)?)"

# Fact name (as in the rules) -> patterns with the value that a match gives. The first match counts.
_FACTS: dict[str, list[tuple[str, Any]]] = {
    "age_years": [(r"\b(\d{1,3})[\s-]*(?:-year|years?\b|yo\b|y/o|yr)", int), (r"\b(\d{1,3})\s?y\b", int)],
    "kps": [(r"(?:\bkps|karnofsky(?: \w+)?)\D{0,6}(\d{1,3})\b", int)],
    "idh_status": [(r"idh\S*[\s-]+(?:is\s+)?(?:wild[\s-]?type|wt\b|negative)", "wildtype"),
                   (r"idh\S*[\s-]+(?:is\s+)?(?:mutant|mutated|mutation|positive)", "mutant")],
    "mgmt_status": [(r"mgmt[^,.;?]{0,22}(?:unmethylated|not methylated)|unmethylated mgmt", "unmethylated"),
                    (r"mgmt[^,.;?]{0,22}methylated|methylated mgmt", "methylated")],
    "codeletion_1p19q": [(r"1p/?19q[^,.;?]{0,12}(?:not |non-?|in)(?:co-?deleted|tact)", False), (r"1p/?19q[^,.;?]{0,12}co-?delet", True)],
    "tert_promoter_mutation": [(r"tert[^,.;?]{0,20}(?:mutant|mutat|positive)", True)],
    "creatinine_umol_l": [(rf"creatinine\D{{0,8}}{_NUMBER}\s*(?:[uµμ]mol)", float)],
    "medium": [(r"gadolin|gadobut|gadoter|mr(?:i)? contrast", "gadolinium"), (r"iodin|ct contrast", "iodinated")],
    "agent_group": [(r"group ii\b|gadobutrol|gadoterate|gadoteridol|gadobenate", "II"), (r"group i\b|gadodiamide|gadopentetate", "I")],
    "sum_products_nadir_mm2": [(rf"spd\D{{0,6}}{_NUMBER}\s*(?:mm2 |mm² )?at nadir|nadir\D{{0,8}}{_NUMBER}", float)],
    "sum_products_current_mm2": [(rf"\bnow\D{{0,6}}{_NUMBER}", float)],
    "nodule_type": [(r"part[\s-]?solid", "part_solid"), (r"ground[\s-]?glass|ggn", "ground_glass"), (r"\bsolid\b", "solid")],
    "multiplicity": [(r"\bmultiple\b|\bnodules\b", "multiple"), (r"\bsingle\b|\bone\b|\bnodule\b", "single")],
    **{key: [(rf"{_NUMBER}\s*mm\b(?!\s+solid (?:part|component))", float), (rf"{_NUMBER}\s*cm\b", lambda v: round(10 * float(v), 1))] for key in ("size_mm", "nodule_diameter_mm", "max_nodule_mm", "max_diameter_mm")},
    "solid_component_mm": [(rf"{_NUMBER}\s*mm solid (?:part|component)|solid (?:part|component)\D{{0,10}}{_NUMBER}\s*mm", float)],
    "ecog_ps": [(r"\b(?:ecog|ps)(?: ps)?\D{0,4}([0-4])\b", int)],
    "sex": [(r"\b(?:female|woman|lady|girl)\b|\b\d{2}\s?f\b", "female"), (r"\bmale\b|\bman\b|\b\d{2}\s?m\b", "male")],
    "status": [(r"\bbaseline\b|first (?:screen|round)|no prior", "baseline"), (r"slow(?:ly)?[\s-]growing", "slow_growing"), (r"\bgrow", "growing"),
               (r"\bnew\b", "new"), (r"\bstable\b|unchanged", "stable")],
    "risk": [(r"\bhigh[\s-]risk|heavy smoker|\bsmoker\b(?<!non-smoker)(?<!non smoker)", "high"), (r"\blow[\s-]risk|non-?\s?smoker|never smoke", "low")],
    "ever_smoker": [(r"non-?\s?smoker|never smoke", False), (r"\bsmok", True)],
    "emphysema": [(r"no emphysema", False), (r"emphysema", True)], "spiculation": [(r"no(?:t)? spicul|non-?spicul|smooth", False), (r"spicul", True)],
    "upper_lobe": [(r"upper lobe|\b[rl]ul\b", True), (r"(?:lower|middle) lobe|\b[rl]ll\b|\brml\b", False)],
    "family_history_lung_cancer": [(r"no family history", False), (r"family history", True)],
    "nodule_count": [(r"\b(\d{1,2}) (?:nodules?|lesions?)\b", int), (r"\b(?:single|one|solitary)\b", lambda v: 1)],
    "metastases_count": [(r"\b(\d{1,2})\s+(?:\w+\s+){0,2}(?:brain |cerebral )?met(?:s\b|astas)", int), (r"\b(?:single|one|solitary) (?:brain )?met", lambda v: 1),
                         (r"\bthree (?:\w+ )?met", lambda v: 3), (r"\btwo (?:\w+ )?met", lambda v: 2), (r"\bfour (?:\w+ )?met", lambda v: 4)],
    "aphe": [(r"(?<!non)(?<!non-)rim aphe|(?<!non)(?<!non-)rim arterial", "rim"), (r"aphe (?:were |was |is )?absent|no aphe|without aphe|no arterial", "none"), (r"aphe|arterial(?: phase)? hyperenhanc|arterially enhanc", "nonrim")],
    "nonperipheral_washout": [(r"no (?:portal |venous )?wash|without wash|wash-?out (?:were |was |is )?absent", False), (r"wash-?out", True)], "enhancing_capsule": [(r"no (?:enhancing )?capsule|without (?:a |the )?capsule|capsule (?:were |was |is )?(?:absent|missing|not there)", False), (r"capsule", True)],
    "at_risk_for_hcc": [(r"cirrho|hepatitis b|\bhbv\b", True)],
    "tumor_in_vein": [(r"tumou?r in (?:the |a )?(?:portal )?vein|portal vein (?:invasion|tumou?r)", True)],
    "malignancy_probability": [(rf"{_NUMBER}\s*%", lambda v: float(v) / 100)],
    "assessment_category": [(r"bi-?\s?rads\D{0,12}(0|1|2|3|4a|4b|4c|5|6)\b", lambda v: v.upper())],
    "stated_management": [(r"routine (?:screening|follow)", "routine_screening"), (r"biops|tissue", "tissue_diagnosis"), (r"6[\s-]month|short[\s-]interval", "short_interval_follow_up")],
    "zone": [(r"peripheral(?: zone)?|\bpz\b", "peripheral"), (r"transition(?:al)?(?: zone)?|\btz\b", "transition")],
    "dwi_score": [(r"\bdwi\D{0,8}([1-5])\b", int)], "t2w_score": [(r"\bt2w?\D{1,8}([1-5])\b", int)],
    "dce": [(r"dce\s*(?:is\s*|was\s*|were\s*)?(?:positive|\+)|positive dce", "positive"), (r"dce\s*(?:is\s*|was\s*|were\s*)?(?:negative|-)|negative dce", "negative")],
    "psa_ng_ml": [(rf"\bpsa\D{{0,6}}{_NUMBER}", float)],
    "composition": [(r"spongiform", "spongiform"), (r"mixed|partly cystic|partially cystic", "mixed"), (r"\bcystic", "cystic"), (r"\bsolid\b", "solid")],
    "echogenicity": [(r"very hypoechoic|markedly hypoechoic", "very_hypoechoic"), (r"hypoechoic", "hypoechoic"), (r"isoechoic", "isoechoic"), (r"hyperechoic", "hyperechoic"), (r"anechoic", "anechoic")],
    "shape": [(r"taller[\s-]than[\s-]wide", "taller_than_wide"), (r"wider[\s-]than[\s-]tall", "wider_than_tall")],
    "margin": [(r"extrathyroid", "extrathyroidal_extension"), (r"lobulated|irregular", "lobulated_or_irregular"), (r"ill[\s-]defined", "ill_defined"), (r"smooth", "smooth")],
    "echogenic_foci": [(r"punctate", lambda v: ["punctate"]), (r"macrocalc", lambda v: ["macrocalcification"]), (r"peripheral rim", lambda v: ["peripheral_rim"]),
                       (r"no (?:echogenic )?(?:foci|calcification)", lambda v: [])],
    "bilirubin_mg_dl": [(rf"bili(?:rubin)?\D{{0,6}}{_NUMBER}\s*mg", float)], "bilirubin_umol_l": [(rf"bili(?:rubin)?\D{{0,6}}{_NUMBER}\s*[uµμ]mol", float)],
    "albumin_g_dl": [(rf"alb(?:umin)?\D{{0,6}}{_NUMBER}\s*g/dl", float)], "albumin_g_l": [(rf"alb(?:umin)?\D{{0,6}}{_NUMBER}\s*g/l\b", float)],
    "inr": [(rf"\binr\D{{0,4}}{_NUMBER}", float)],
    "ascites": [(r"no ascites|without ascites", "none"), (r"(?:mild|slight) ascites", "mild"), (r"(?:moderate|severe|massive) ascites", "moderate_or_severe")],
    "encephalopathy": [(r"no (?:\w+ (?:or|and) )?(?:hepatic )?encephalopathy|without encephalopathy|no ascites or encephalopathy", "none")],
    "deauville_score": [(r"deauville\D{0,8}([1-5])\b|\bds\s?([1-5])\b", int)],
    "new_fdg_avid_lesion": [(r"no new", False), (r"new (?:fdg|lesion|focus)", True)],
    "uptake_vs_baseline": [(r"less uptake|lower uptake|decreased uptake|lower than (?:at )?baseline", "lower"), (r"unchanged uptake|no (?:significant )?change", "no_significant_change"), (r"more uptake|higher uptake|increased uptake", "higher")],
    "t_category": [(r"\b[cp]?(t(?:x|0|is|1mi|1[abc]?|2[ab]?|3[abc]?|4[abcd]?))\b", lambda v: "Tis" if v == "tis" else v[0].upper() + v[1:].replace("x", "X"))],
    "n_category": [(r"\b[cp]?(n(?:x|0|1mi|1|2[ab]?|3[abc]?))\b", lambda v: v[0].upper() + v[1:].replace("x", "X"))],
    "m_category": [(r"\b[cp]?(m(?:0|1c1|1c2|1[ab]?))\b", lambda v: v[0].upper() + v[1:])],
    "pd_l1_tps_percent": [(rf"pd-?l1\D{{0,8}}{_NUMBER}\s*%", float), (r"pd-?l1\D{0,6}(?:negative|0\b)", lambda v: 0.0)],
    "histology": [(r"adenocarcinoma", "adenocarcinoma"), (r"squamous", "squamous")],
    "driver_alterations": [(r"exon 19", lambda v: ["egfr_exon19_deletion"]), (r"l858r", lambda v: ["egfr_l858r"]), (r"exon 20", lambda v: ["egfr_exon20_insertion"]),
                           (r"\balk\b[\s-]?(?:positive|fusion|rearr|\+)", lambda v: ["alk_fusion"]), (r"kras g12c", lambda v: ["kras_g12c"]), (r"\bros1\b", lambda v: ["ros1_fusion"]),
                           (r"braf v600e", lambda v: ["braf_v600e"]), (r"no (?:\w+ )?driver|driver[\s-]negative|no (?:targetable )?alteration", lambda v: [])],
    "molecular_panel_complete": [(r"panel (?:is )?(?:pending|incomplete|not (?:back|complete|done))|without (?:a )?(?:molecular )?panel|no molecular", False), (r"panel (?:is )?complete|full panel|complete panel", True)],
    "imaging": [(r"non-?contrast ct|unenhanced ct|native ct", "noncontrast_ct"), (r"portal[\s-]venous", "portal_venous_ct"), (r"\bmri?\b", "mri"), (r"\bct\b", "renal_mass_ct")],
    "homogeneous": [(r"heterogeneous", False), (r"homogeneous", True)], "attenuation_hu": [(r"(-?\d+(?:\.\d+)?)\s*hu\b", float)],
    "septa_count": [(r"(\d+) (?:thin )?sept", int), (r"no sept", lambda v: 0)],
    "viable_sum_baseline_mm": [(rf"baseline\D{{0,12}}{_NUMBER}", float)], "viable_sum_current_mm": [(rf"\bnow\D{{0,6}}{_NUMBER}", float)],
    "extrathoracic_cancer_over_5_years_ago": [(r"(?:no|without)(?: a)? (?:prior|previous|history of|known)?\s*(?:extrathoracic )?cancer", False)],
    "cancer_within_5_years": [(r"(?:no|without)(?: a)? (?:prior|previous|history of|known)?\s*cancer", False)],
    "child_pugh_class": [(r"child(?:-?\s?pugh)?\s?([abc])\s?\d{0,2}\b", lambda v: v.upper())],
    "macrovascular_invasion": [(r"no (?:pvi|macrovascular|vascular invasion|portal vein invasion|pvt)", False), (r"\bpvi\b|macrovascular invasion|portal vein (?:invasion|thromb)|\bpvt\b", True)],
    "extrahepatic_spread": [(r"no (?:extrahepatic|mets|metast)|\bm0\b", False), (r"extrahepatic (?:spread|disease)", True)],
    "venous_extension": [(r"no (?:renal )?vein|without vein", "none"), (r"renal vein (?:thromb|invasion|involve)|renal vein\b", "renal_vein")],
    "interval_days": [(rf"{_NUMBER}\s*days", float)],
    "weeks_since_radiotherapy": [(rf"{_NUMBER}\s*weeks? (?:since|after)", float)],
    "steroid_change": [(r"(?:dex\w*|steroids?)[^,.;?]{0,10}stable|stable (?:dex|steroid)", "stable")],
    "new_lesion": [(r"no new lesion", False), (r"\bnew lesion", True)],
    "nadir_sum_mm": [(rf"nadir\D{{0,12}}{_NUMBER}", float)],
    "current_sum_mm": [(rf"\b(?:now|current(?:ly)?)\D{{0,12}}{_NUMBER}", float)],
    "viable_sum_nadir_mm": [(rf"nadir\D{{0,12}}{_NUMBER}", float)],
    "baseline_sum_mm": [(rf"baseline\D{{0,12}}{_NUMBER}", float)],
}  # fmt: skip


def facts(text: str, names: list[str]) -> dict[str, Any]:
    """The facts among `names` that `text` (English, any case) states."""
    lowered, found = text.lower(), {}
    for name in names:
        for pattern, value in _FACTS.get(name, []):
            match = re.search(pattern, lowered)
            if match:
                group = next((g for g in match.groups() if g is not None), "")
                found[name] = value(group) if callable(value) else value
                break
    if "weeks_since_radiotherapy" in names and (match := re.search(r"(\d+) months? (?:ago|after|since)", lowered)):
        found.setdefault("weeks_since_radiotherapy", round(int(match.group(1)) * 365.25 / 12 / 7, 1))
    return found


def unit_wished(text: str) -> str | None:
    """`cm` where the question asks for centimetres and not millimetres."""
    wants_cm = re.search(r"\bcm\b|centimet", text, re.I)
    return "cm" if wants_cm and not re.search(r"\bmm\b|millimet|\d\s*cm\b", text, re.I) else None


def month(text: str) -> str | None:
    """A month that the question names, as -01, or 2024-01 with its year."""
    match = re.search(rf"\b({'|'.join(_MONTHS)})\b(?:\s+(\d{{4}}))?", text, re.I)
    if match is None or (match.group(1).lower() in ("may", "march") and not re.search(r"report|scan|mri|ct|in ", text, re.I)):
        return None
    number = f"{_MONTHS.index(match.group(1).lower()) + 1:02d}"
    return f"{match.group(2)}-{number}" if match.group(2) else f"-{number}"


def point(text: str) -> tuple[float, float, float] | None:
    """The place that the user clicked, as the conversation writes it: `(at S1.2: column, row, frame)`."""
    match = re.search(r"\(at S\d+(?:\.\d+)?: (\d+(?:\.\d+)?), (\d+(?:\.\d+)?), (\d+(?:\.\d+)?)\)", text)
    return (float(match.group(1)), float(match.group(2)), float(match.group(3))) if match else None
