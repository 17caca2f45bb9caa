"""Facts for a rule that the patient's own record or reports already hold, each with where it stands."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from knowledge.case import Case
from knowledge.evidence import Evidence, Fact, Origin
from knowledge.guidelines.rules import Rule
from knowledge.records.model import RecordItem, Report
from knowledge.records.search import SYNONYMS, find_items
from knowledge.records.stated import Stated, stated
from knowledge.records.units import convert
from tools.conflicts import quoted
from tools.recorded import record_fact

Reader = Callable[[RecordItem], Any]


@dataclass(frozen=True)
class Known:
    """A fact with its origin, and how another source of the case contradicts it."""

    value: Any
    origin: Origin
    fact: Fact | None = None
    conflict: str = ""

    @classmethod
    def of(cls, value: Any, fact: Fact, conflict: str = "") -> "Known":
        """From a fact of the record or a report, which is the origin."""
        source: Any = fact.source
        return cls(value, Origin(kind=str(fact.kind), statement=fact.statement, source=source), fact, conflict)


def facts_of_case(case: Case, rule: Rule) -> dict[str, Known]:
    """The rule's facts that the case states; what it doesn't state, or in unknown units, is left out.

    The structured record goes before reports; where both speak and differ, that is a conflict.
    """
    known: dict[str, Known] = {}
    organ = next((pattern for start, pattern in _ORGANS.items() if rule.name.startswith(start)), "")
    about = [r for r in case.reports if re.search(organ, f"{r.title} {r.text}", re.I)]
    for name, spec in rule.spec["facts"].items():
        from_patient = _of_patient(case, name, spec)
        if from_patient is not None:
            known[name] = Known(
                from_patient, Origin(kind="patient", statement=f"The patient's {name.split('_')[0]} as the archive has it.")
            )
            continue
        item, value = _recorded(case, name, spec)
        told = stated(name, about, spec)
        if item is not None:
            clash = told is not None and told.value != value and not isinstance(value, float)
            known[name] = Known.of(
                value, record_fact(item, case), _clash(name, value, told) if clash and told is not None else ""
            )
        elif told is not None:
            known[name] = Known.of(told.value, quoted(told.report, told.sentence))
    if "risk_factors" in rule.spec["facts"]:
        known |= _risk_factors(case, about)
    return _one_unit_each(known, rule)


def _risk_factors(case: Case, about: Sequence[Report]) -> dict[str, Known]:
    """The risk factors that reports and record state; none stated says nothing of the risk."""
    found: list[tuple[str, Fact]] = []
    for name in ("emphysema", "upper_lobe", "spiculation"):
        told = stated(name, about, {"type": "boolean"})
        if told is not None and told.value is True:
            found.append((name, quoted(told.report, told.sentence)))
    for item in case.items:
        if _READERS["family_history_lung_cancer"](item) and item.category == "family history":
            found.append(("family_history_lung_cancer", record_fact(item, case)))
    if not found:
        return {}
    return {"risk_factors": Known.of(list(dict.fromkeys(n for n, _ in found)), found[0][1])}


_ORGANS = {
    **dict.fromkeys(("fleischner", "lung", "brock", "mayo", "va_", "herder", "tnm_lung", "nsclc", "volume_doubling"), r"lung|chest|thora|pulmon|lobe|肺|胸"),
    **dict.fromkeys(("li_rads", "bclc", "mrecist"), r"liver|hepat|abdom|leber|foie|hígado|肝"),
    "acr_ti_rads": r"thyro|schilddrüse|tiroid|甲状腺", "pi_rads": r"prostat|前列腺", "bosniak": r"kidney|renal|niere|rein|riñ|肾",
    "tnm_kidney": r"kidney|renal|niere|rein|riñ|肾", **dict.fromkeys(("bi_rads", "tnm_breast"), r"breast|mamm|brust|sein|mama|乳"),
    "o_rads": r"ovar|adnex|pelvi|卵巢", **dict.fromkeys(("astro", "gpa", "melanoma", "renal_gpa", "gi_gpa", "breast_gpa"), r"brain|cerebr|hirn|脑"),
    "lugano": r"lymphom|deauville|淋巴",
}  # fmt: skip
"""What a report has to speak of so that its words count for a rule (by the rule's name)."""


def _one_unit_each(known: dict[str, Known], rule: Rule) -> dict[str, Known]:
    """Of facts that stand for each other (mg/dL or µmol/L; a size or its axes) the one that was written is kept."""
    for group in rule.spec.get("one_of", []):
        full = [choice for choice in group if all(n in known for n in choice)]
        for choice in full[1:]:
            for name in choice:
                if name not in full[0]:
                    known.pop(name, None)
    return known


def recordable(name: str, recorded: str | None) -> bool:
    """True where records can give the fact `name`; with `recorded` (the names of a case's values), where these speak of it."""
    topic = _TOPICS.get(name, "")
    if name in _NUMBERS:
        return recorded is None or bool(re.search(_NUMBERS[name][0], recorded, re.I))
    if not topic and name not in _ALIKE:
        return False
    return recorded is None or bool(re.search(_ALIKE.get(name) or SYNONYMS.get(topic, re.escape(topic)), recorded, re.I))


def _of_patient(case: Case, name: str, spec: dict[str, Any]) -> Any:
    if name == "age_years":
        return case.age_years
    if name == "sex" and case.patient.sex in ("F", "M"):
        return {"F": "female", "M": "male"}[case.patient.sex] if "female" in spec["values"] else case.patient.sex
    return None


# fact -> names of the value in records (regular expression), unit that the rule wants (UCUM), substance for amount and mass
_NUMBERS: dict[str, tuple[str, str, str]] = {
    "creatinine_umol_l": (r"creatinin(?!.*(urine|clearance|ratio))", "umol/L", "creatinine"),
    "bilirubin_umol_l": (r"bilirubin(?!.*(direct|conjugat|urine))", "umol/L", "bilirubin"),
    "bilirubin_mg_dl": (r"bilirubin(?!.*(direct|conjugat|urine))", "mg/dL", "bilirubin"),
    "albumin_g_l": (r"^(serum )?albumin(?!.*(urine|ratio|globulin))", "g/L", ""),
    "albumin_g_dl": (r"^(serum )?albumin(?!.*(urine|ratio|globulin))", "g/dL", ""),
    "inr": (r"\binr\b|international normali[sz]ed ratio", "1", ""),
    "hemoglobin_g_dl": (r"ha?emoglobin(?!.*(a1c|glyc|corpuscular))", "g/dL", ""),
    "psa_ng_ml": (r"\bpsa\b(?!.*(free|ratio|density))|prostate.specific (ag|antigen)(?!.*(free|ratio))", "ng/mL", ""),
    "pd_l1_tps_percent": (r"pd-?l1", "%", ""),
    "years_since_quitting": (r"years since (quitting|smoking)", "a", ""),
}  # fmt: skip


def _recorded(case: Case, name: str, spec: dict[str, Any]) -> tuple[RecordItem | None, Any]:
    """The newest item that gives the fact, and its value in the rule's unit."""
    if name in _NUMBERS:
        pattern, unit, substance = _NUMBERS[name]
        for item in case.items:
            if isinstance(item.value, int | float) and not isinstance(item.value, bool) and re.search(pattern, item.name, re.I):
                value = convert(float(item.value), item.unit, unit, substance)
                if value is not None:
                    return item, round(value, 1) if unit == "umol/L" else value
        return None, None
    reader = _READERS.get(name)
    for item in find_items([_TOPICS.get(name, name.split("_")[0])], case.items) if reader else []:
        value = reader(item) if reader else None
        if value is not None and (spec["type"] != "enum" or value in spec["values"]):
            return item, value
    return None, None


def _text(item: RecordItem) -> str:
    return f"{item.name} {item.value if item.value is not None else ''} {item.status or ''}".lower()


def _kps(item: RecordItem) -> int | None:
    match = re.search(r"\d+", str(item.value)) if "ecog" not in item.name.lower() else None
    return int(match.group()) if match and int(match.group()) <= 100 else None


def _ecog(item: RecordItem) -> int | None:
    match = re.search(r"\d", str(item.value)) if "ecog" in item.name.lower() else None
    return int(match.group()) if match and int(match.group()) <= 4 else None


def _worded(*choices: tuple[str, Any]) -> Reader:
    def reader(item: RecordItem) -> Any:
        text = f"{item.value}".lower()
        return next((value for pattern, value in choices if re.search(pattern, text)), None)

    return reader


_ABSENT = r"\babsent|not detected|negative|no (mutation|rearrangement|amplification|alteration|codeletion)|wild|intact|retained"
_PRESENT = r"present|detected|positive|mutat|mutant|rearrang|amplif|codelet|loss|fusion|variant|p\.[a-z]{1,3}\d"
_yes_no = _worded((_ABSENT, False), (_PRESENT, True))


def _condition(pattern: str) -> Reader:
    """True where a condition of the record names it; its absence says nothing."""

    def reader(item: RecordItem) -> bool | None:
        return (
            True if item.category == "condition" and re.search(pattern, item.name, re.I) and item.status != "resolved" else None
        )

    return reader


def _smoker(item: RecordItem) -> bool | None:
    text = f"{item.value}".lower()
    if re.search(r"never|non-?smoker", text):
        return False
    return True if re.search(r"smok|current|former|every day|some days", text) and not re.search("unknown", text) else None


_TOPICS = {
    "idh_status": "idh", "mgmt_status": "mgmt", "kps": "kps", "ecog_ps": "ecog", "codeletion_1p19q": "1p/19q", "tert_promoter_mutation": "tert",
    "egfr_amplification": "egfr amplification", "atrx_loss": "atrx", "cdkn2a_b_homozygous_deletion": "cdkn2a", "egfr_positive": "egfr gene",
    "alk_positive": "alk", "braf_mutation": "braf", "emphysema": "condition", "at_risk_for_hcc": "condition", "ever_smoker": "smoking",
    "cholestatic_disease": "condition", "immunosuppressed": "condition", "family_history_lung_cancer": "family history", "n_category": "n stage",
    "m_category": "m stage", "t_category": "t stage",
}  # fmt: skip
_ALIKE = {"steroid_dose": "steroid|dexameth|predniso", "steroid_change": "steroid|dexameth", "weeks_since_radiotherapy": "radiothe|irradiat|radiation",
          "at_risk_for_hcc": "cirrhos|hepatit|hbv|hcv", "driver_alterations": "egfr|alk|kras|ros1|braf|ngs|gene|molecular", "histology": "histolog|adenocarc|squamous|nsclc",
          "ever_smoker": "smok|pack", "risk": "smok|pack", "risk_factors": "smok|pack|emphysema|family", "emphysema": "emphysem", "extracranial_metastases": "metast",
          "molecular_panel_complete": "egfr|alk|kras|ngs|panel|molecular", "egfr_positive": "egfr", "alk_positive": "alk", "kps": "kps|karnofsky", "ecog_ps": "ecog|performance"}  # fmt: skip
"""How records may speak of facts that have no value of their own there, or several names."""
_READERS: dict[str, Reader] = {
    "kps": _kps, "ecog_ps": _ecog,
    "idh_status": _worded((r"wild|not detected|negative|no mutation", "wildtype"), (r"mutant|mutated|mutation|positive|r132|detected|present", "mutant")),
    "mgmt_status": _worded((r"unmethylated|not methylated|negative|not detected", "unmethylated"), (r"methylated|positive|detected", "methylated")),
    "codeletion_1p19q": _worded((r"not co-?deleted|intact|absent|no co-?deletion|negative", False), (r"co-?delet|present|positive", True)),
    "tert_promoter_mutation": _yes_no, "egfr_amplification": _yes_no, "atrx_loss": _worded((r"retained|intact|no loss", False), (r"loss|lost", True)),
    "cdkn2a_b_homozygous_deletion": _worded((r"no |absent|not |retained|negative", False), (r"homozygous|delet|present", True)),
    "egfr_positive": _yes_no, "alk_positive": _yes_no, "braf_mutation": _yes_no, "ever_smoker": _smoker,
    "emphysema": _condition(r"emphysem"), "at_risk_for_hcc": _condition(r"cirrhosis|chronic (viral )?hepatitis b|hepatocellular"),
    "cholestatic_disease": _condition(r"primary (biliary|sclerosing)"), "immunosuppressed": _condition(r"immun(o|e) ?(suppress|deficien)|\bhiv\b"),
    "family_history_lung_cancer": lambda item: True if re.search(r"lung|bronch", item.name, re.I) and re.search("cancer|carcinoma|tumou?r", item.name, re.I) else None,
    "t_category": lambda item: _tnm(item, "T"), "n_category": lambda item: _tnm(item, "N"), "m_category": lambda item: _tnm(item, "M"),
}  # fmt: skip


def _tnm(item: RecordItem, letter: str) -> str | None:
    match = re.search(rf"\b[cpy]{{0,2}}({letter}(?:X|is|\d)(?:mi|[abcd]\d?)?)\b", f"{item.value}")
    return match.group(1) if match else None


def _clash(name: str, value: Any, told: Stated) -> str:
    return (f"The record gives {name.replace('_', ' ')} {value}, the report {told.report.handle} of {told.report.date or 'undated'} "
            f"{told.value}; the record's value was used.")  # fmt: skip


def from_evidence(evidence: Evidence, spec: dict[str, Any]) -> Any:
    """The value of an evidence in the unit that a fact wants; None where it doesn't fit."""
    value = evidence.value
    if spec["type"] in ("number", "integer"):
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        wanted = spec.get("unit")
        number = convert(float(value), evidence.unit, wanted) if wanted not in (None, "1") else float(value)
        return number if number is None or spec["type"] == "number" else round(number)
    return value if spec["type"] != "enum" or value in spec["values"] else None


def origin_of(evidence: Evidence) -> Origin:
    """Where an evidence's fact comes from."""
    source: Any = evidence.source
    kept = source if type(source).__name__ in ("ImageRef", "ReportSpan", "RecordRef") else None
    return Origin(kind=str(evidence.kind), statement=evidence.statement, evidence=evidence.id, source=kept)
