"""The words that grounding holds statements to: units, codes, opposites, named things, negation, doubt."""

import re

UNITS = {"mm": ("mm", 1.0), "cm": ("mm", 10.0), "µm": ("mm", 0.001), "mm2": ("mm2", 1.0), "mm²": ("mm2", 1.0),
         "cm2": ("mm2", 100.0), "cm²": ("mm2", 100.0), "ml": ("ml", 1.0), "cm3": ("ml", 1.0), "cm³": ("ml", 1.0),
         "cc": ("ml", 1.0), "mm3": ("ml", 0.001), "mm³": ("ml", 0.001), "l": ("ml", 1000.0), "毫米": ("mm", 1.0),
         "厘米": ("mm", 10.0), "毫升": ("ml", 1.0), "%": ("%", 1.0), "hu": ("hu", 1.0), "gy": ("gy", 1.0), "mg": ("mg", 1.0), "mg/m²": ("mg/m2", 1.0),
         "mg/m2": ("mg/m2", 1.0), "µmol/l": ("umol/l", 1.0), "μmol/l": ("umol/l", 1.0), "umol/l": ("umol/l", 1.0), "mmol/l": ("mmol/l", 1.0), "mg/dl": ("mg/dl", 1.0),
         "g/dl": ("g/dl", 1.0), "g/l": ("g/l", 1.0), "ng/ml": ("ng/ml", 1.0), "kv": ("kv", 1.0), "days": ("d", 1.0), "d": ("d", 1.0), "tage": ("d", 1.0),
         "tagen": ("d", 1.0), "weeks": ("d", 7.0), "ml/min/1.73 m²": ("gfr", 1.0), "ml/min/1.73 m2": ("gfr", 1.0), "ml/min": ("gfr", 1.0)}  # fmt: skip
"""Unit as written (lower case) -> common unit and factor: length mm, area mm², volume mL, time days."""
NUMBER_WORDS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}

CODES = {
    "category": re.compile(r"\b(?P<code>LR-?[1-5M]|LR-?TIV|TR[1-5])\b", re.I),
    "assessment": re.compile(r"\b(?:BI|PI|O|Lung|TI)-?RADS(?: (?:category|is|of|overall))*[: ]+(?P<code>\d[A-C]?X?)\b", re.I),
    "response": re.compile(r"\b(?P<code>i?(?:CR|PR|SD|PD)|iUPD|iCPD|CMR|PMR|NMR|PMD)\b"),
    "stage": re.compile(r"\b(?:[Ss]tage|[Ss]tadium|Bosniak|[Gg]rade|BCLC)(?: group| class| category)?[: ]+(?P<code>IV[AB]?|III[A-C]?F?|II[A-C]?F?|I[AB]?\d?|[0A-D])\b"),
    "descriptor": re.compile(r"\b[cp]?(?P<code>(?:T(?:is|[0-4][a-d]?)|N[0-3][a-c]?|M[01][a-d]?))\b"),
    "alteration": re.compile(r"\b(?P<code>[A-Z]\d{2,4}[A-Z])\b"),
    "score": re.compile(r"\b(?:Deauville|DWI|PI-RADS|exon|WHO grade|group)(?: overall)?(?: category)?(?: is)?(?: score)?[: ]+(?P<code>\d{1,2}|II?)\b", re.I),
    "kernel": re.compile(r"\b(?P<code>[BJ][a-z]?\d{2}[a-z])\b"),
}  # fmt: skip
"""Codes whose exact letters carry the meaning."""


def _group(**members: str) -> dict[str, re.Pattern[str]]:
    return {name.replace("_", " "): re.compile(pattern, re.I) for name, pattern in members.items()}


OPPOSITES = [
    _group(grew=r"\bgrew\b|\bgrown\b|\bgrow(s|ing|th)?\b|\bincreas\w+|\brose\b|\blarger\b|\bbigger\b|\bzugenommen|\bnahm .{0,40} zu\b", shrank=r"\bshr[aiu]nk\w*|\bdecreas\w+|\bsmaller\b|\bfell\b|\bregress\w+|\babgenommen"),
    _group(methylated=r"(?<!un)(?<!not )\bmethylat\w+|\bmethyliert", unmethylated=r"\bunmethylat\w+|not methylated|unmethyliert"),
    _group(wild_type=r"\bwild-?\s?typ\w*|\bwildtyp\w*", mutant=r"\bmutant\b|\bmutated\b|\bmutation (?:was |is )?(?:found|present|detected)|-mutant"),
    _group(benign=r"\bbenign\b|\bgutartig|良性", malignant=r"\bmalignan\w+|\bbösartig|恶性"),
    _group(below=r"\bbelow\b|\bunder\b|\bless than\b|\blower than\b", above=r"\babove\b|\bhigher than\b|\bexceed\w*\b"),
    _group(within_the_reference=r"within (it|the reference)", below_the_reference=r"below (it|the reference)", above_the_reference=r"above (it|the reference)"),
    _group(normal=r"\bnormal\b", abnormal=r"\babnormal\b|\bwidened\b|\benlarged\b"),
    _group(upper=r"\bupper lobe\b", lower=r"\blower lobe\b", middle=r"\bmiddle lobe\b"),
    _group(frontal=r"\bfrontal\b", parietal=r"\bparietal\b", temporal=r"\btemporal\b", occipital=r"\boccipital\b"),
    _group(solid=r"(?<!part-)(?<!part )(?<!sub)\bsolid\b", ground_glass=r"\bground-?\s?glass\b", part_solid=r"\bpart-?\s?solid\b|\bsubsolid\b", cystic=r"\bcystic\b"),
    _group(hypoechoic=r"\bhypoechoic\b", hyperechoic=r"\bhyperechoic\b", isoechoic=r"\bisoechoic\b", anechoic=r"\banechoic\b"),
    _group(smooth=r"\bsmooth\b", irregular=r"\birregular\b|\bspiculat\w+|\blobulated\b"),
    _group(low_risk=r"\blow[- ]risk\b|\blow risk\b", high_risk=r"\bhigh[- ]risk\b|\bhigh risk\b"),
    _group(within_doubt=r"within the doubt", more_than_doubt=r"more than the doubt|beyond the doubt"),
    _group(stable=r"\bstable\b|\bunchanged\b", progression=r"\bprogress(ion|ive|ed)\b"),
    _group(positive=r"\bpositive\b", negative=r"\bnegative\b"),
    _group(anterior=r"\banterior\b", posterior=r"\bposterior\b"),
]  # fmt: skip
"""Groups of words of which one excludes the others."""


def _named(**members: str) -> dict[str, re.Pattern[str]]:
    return {name.replace("_", " "): re.compile(pattern, re.I) for name, pattern in members.items()}


ENTITIES = _named(
    brain=r"\bbrain\b|\bcerebr\w+|\bhirn|\bgehirn|脑", lung=r"\blungs?\b|\bpulmon\w+|\bchest\b|\bupper lobe|\blower lobe", liver=r"\bliver\b|\bhepat\w+", kidney=r"\bkidneys?\b|\brenal\b",
    spleen=r"\bspleen\b|\bsplenic\b", breast=r"\bbreasts?\b", prostate=r"\bprostat\w+", thyroid=r"\bthyroid\b|ti-?rads", pancreas=r"\bpancrea\w+", bone=r"\bbones?\b|\bosseous\b",
    pleural_effusion=r"\bpleural effusion\b", lymph_node=r"\blymph nodes?\b|\bnodes?\b|\blymphknoten", ascites=r"\bascites\b|\baszites\b|腹水", midline=r"\bmidline\b|\bmittellinie|中线",
    glioma=r"\bgliom\w*|\bglioblastom\w*|\bastrocytom\w*|\boligodendrogliom\w*|胶质", meningioma=r"\bmeningiom\w*|脑膜瘤", lymphoma=r"\blymphom\w*|\bdlbcl\b", metastasis=r"\bmetasta\w*|\bmets\b|转移",
    pituitary=r"\bpituitary\b|\bhypophys\w*", oligodendroglioma=r"\boligodendrogliom\w*", astrocytoma=r"\bastrocytom\w*", hcc=r"\bhcc\b|\bhepatocellular", abscess=r"\babscess\w*",
    egfr_gene=r"\begfr\b(?! \d)(?! is \d)(?!\W{0,3}\d)|\bexon \d", alk=r"\balk\b", kras=r"\bkras\b", ros1=r"\bros1\b", braf=r"\bbraf\b", idh=r"\bidh\d?\b", mgmt=r"\bmgmt\b", tert=r"\btert\b", pd_l1=r"\bpd-?l1\b",
    creatinine=r"\bcreatinine?\b|\bkreatinin\b|\bcreatinina\b|肌酐", bilirubin=r"\bbilirubin\w*|胆红素", albumin=r"\balbumin\w*", haemoglobin=r"\bh(a|ä)?e?moglobin\w*", platelets=r"\bplatelets?\b|\bthromboz", psa=r"\bpsa\b", afp=r"\bafp\b|fetoprotein",
    temozolomide=r"\btemozolomide?\b|\btmz\b", lomustine=r"\blomustine?\b|\bccnu\b", dexamethasone=r"\bdexamethason\w*", prednisolone=r"\bprednisolon\w*", warfarin=r"\bwarfarin\w*", apixaban=r"\bapixaban\b",
    sorafenib=r"\bsorafenib\b", osimertinib=r"\bosimertinib\b", pembrolizumab=r"\bpembrolizumab\b", bevacizumab=r"\bbevacizumab\b", cisplatin=r"\bcisplatin\b", carboplatin=r"\bcarboplatin\b", docetaxel=r"\bdocetaxel\b",
    radiotherapy=r"\bradiotherap\w+|\bgy\b|\bfractions\b|\birradiat\w+|放疗", chemotherapy=r"\bchemotherap\w+|\btemozolomid\w+", biopsy=r"\bbiops\w+|\btissue\b|\baspiration\b|\bfna\b", ct=r"\bct\b|\bcomputed tomograph", mri=r"\bmri?\b|\bmagnetic resonance", pet=r"\bpet\b",
)  # fmt: skip
"""Things that a statement may only name where its evidence does."""
NEGATION = re.compile(
    r"\b(no|not|without|none|never|isn't|aren't|wasn't|doesn't|cannot|kein\w*|nicht|ohne|sin|pas|sans|absent|excluded|denies)\b|没有|无|未|(?<!\w)不",
    re.IGNORECASE,
)
NOT_DENIED = re.compile(
    r"\b(can(?:'t|not| not)|could not) (?:be )?(?:exclude[ds]?|rule[ds]?)(?: out)?|\bexcludes? none\b|\bnot only\b|\bdoes(?:n't| not) settle\b[^.]*|\bno language model\b|\bnon-?\w+", re.I
)  # fmt: skip
"""Negations that deny nothing of the patient."""
DOUBT = re.compile(
    r"\bsuspicio\w+|\bsuspect\w*|\bpossib\w+|\bprobabl\w+|\blikely\b|\bcan(?:'t|not| not) (?:be )?(?:exclude|rule)\w*|\bmay\b|\bmight\b|\bcould\b|\bunclear\b|\buncertain\w*|\bpresumabl\w+|"
    r"\braises?\b|\bquestionabl\w+|\bwahrscheinlich\w*|\bverd(a|ä)cht\w*|\bmöglich\w*|\bprobable\w*|\bposible\w*|\bsospech\w*|\bsuspect\w*|可能|疑", re.I
)  # fmt: skip
MOST = re.compile(r"\bmost (likely|probable)\b|\bam wahrscheinlichsten\b|\bm[áa]s probable\b|\ble plus probable\b|最可能", re.I)
CERTAIN = re.compile(
    r"\bconfirm(s|ed)?\b|\bdefinite(ly)?\b|\bproven\b|\bproves?\b|\bcertain(ly)?\b|\bgesichert\b|\bconfirmad\w+|确诊|确定", re.I
)
