"""Reports in five languages, what their sentences assert, units, and FHIR's resources as values."""

import base64
import json
from typing import Any

import pytest

from knowledge.case import open_case
from knowledge.records.fhir import read_bundle
from knowledge.records.model import Report
from knowledge.records.planning import disease_of, needs
from knowledge.records.reading import certainty_of, read, sizes
from knowledge.records.reports import date_of, sentences, title_of
from knowledge.records.stated import stated
from knowledge.records.units import convert, ucum
from knowledge.studies.archive import Archive
from knowledge.studies.unpack import Incoming
from tools.base import Resources

REPORTS = {
    "en": "FINDINGS:\nThere is a solid nodule of 8 mm (previously 6 mm on 2025-01-02) in the left upper lobe. No pleural effusion.\nIMPRESSION:\nSuspicious nodule. CT in 3 months is recommended.\n",
    "de": "BEFUND:\nSolider Rundherd im linken Oberlappen, 8 mm (Voraufnahme vom 02.01.2025: 6 mm). Kein Pleuraerguss.\nBEURTEILUNG:\nVerdächtiger Rundherd. CT-Kontrolle in 3 Monaten empfohlen.\n",
    "fr": "RÉSULTATS :\nNodule solide du lobe supérieur gauche de 8 mm, contre 6 mm le 02/01/2025. Pas d'épanchement pleural.\nCONCLUSION :\nNodule suspect. Contrôle par scanner dans 3 mois.\n",
    "es": "HALLAZGOS:\nNódulo sólido de 8 mm en el lóbulo superior izquierdo (previo 6 mm el 02/01/2025). No se observa derrame pleural.\nIMPRESIÓN:\nNódulo sospechoso. Se recomienda control en 3 meses.\n",
    "zh": "【影像所见】\n左肺上叶见实性结节，大小8mm（前片2025-01-02为6mm）。未见胸腔积液。\n【诊断意见】\n结节可疑恶性，建议3个月复查。\n",
}  # fmt: skip


@pytest.mark.parametrize("language", REPORTS)
def test_a_report_is_read_alike_in_five_languages(language: str) -> None:
    text = REPORTS[language]
    cut = sentences(text)
    for sentence in cut:
        assert " ".join(text[sentence.start : sentence.end].split()) == sentence.text
    assert {s.part for s in cut} == {"FINDINGS", "IMPRESSION" if language != "fr" else "CONCLUSION"}
    nodule = next(s for s in cut if "8" in s.text)
    told = read(nodule.text)
    assert told.sides == {"left"} and told.certainty == "affirmed"
    assert [(s.mm, s.prior, s.date) for s in told.sizes] == [((8.0,), False, None), ((6.0,), True, "2025-01-02")]
    assert [read(s.text).certainty for s in cut].count("negated") == 1
    assert any(read(s.text).certainty == "uncertain" for s in cut)
    (advice,) = [read(s.text) for s in cut if read(s.text).recommends]
    assert advice.interval is not None and "3" in advice.interval


@pytest.mark.parametrize(
    ("text", "words", "certainty"),
    [
        ("No pleural effusion, but a nodule is seen.", "nodule", "affirmed"), ("There is no evidence of metastasis.", "metastasis", "negated"),
        ("Metastasis cannot be excluded.", "Metastasis", "uncertain"), ("Pleural effusion is absent.", "effusion", "negated"),
        ("Nodule without calcification.", "Nodule", "affirmed"), ("Nodule without calcification.", "calcification", "negated"),
        ("Kein Nachweis von Metastasen.", "Metastasen", "negated"), ("Metastase nicht auszuschließen.", "Metastase", "uncertain"),
        ("未见转移。", "转移", "negated"), ("Sin evidencia de metástasis.", "metástasis", "negated"),
        ("Absence de lésion.", "lésion", "negated"), ("The mass is not only large but necrotic.", "mass", "affirmed"),
    ],
)  # fmt: skip
def test_negation_and_doubt(text: str, words: str, certainty: str) -> None:
    start = text.index(words)
    assert certainty_of(text, start, start + len(words)) == certainty


@pytest.mark.parametrize(
    ("text", "mm"),
    [("2.3 x 1.8 cm", (23, 18)), ("23 mm", (23,)), ("1,2 × 0,9 × 0,8 cm", (12, 9, 8)), ("3 cm mass", (30,)), ("12mm×9mm", (12, 9)), ("T2 at 3 cm2", ())],
)  # fmt: skip
def test_sizes(text: str, mm: tuple[float, ...]) -> None:
    found = sizes(text)
    assert (found[0].mm if found else ()) == mm


@pytest.mark.parametrize(
    ("value", "unit", "wanted", "substance", "result"),
    [
        (1.0, "mg/dL", "umol/L", "creatinine", 88.4), (71, "µmol/l", "mg/dL", "creatinine", 0.803), (2.0, "mg/dl", "umol/L", "bilirubin", 34.2),
        (13.1, "g/dL", "g/L", "", 131.0), (4.1, "ug/L", "ng/mL", "", 4.1), (212, "x10^9/L", "10*3/uL", "", 212.0), (1.2, "{INR}", "1", "", 1.2),
        (5, "blorp/L", "g/L", "", None), (5, None, "mg/dL", "", None), (5, "mmol/L", "mg/dL", "", None), (5, "mg/dL", "mm", "", None),
    ],
)  # fmt: skip
def test_units_are_converted_or_left(value: float, unit: str | None, wanted: str, substance: str, result: float | None) -> None:
    changed = convert(value, unit, wanted, substance)
    assert changed is None if result is None else changed == pytest.approx(result, rel=2e-3)


def test_ways_to_write_a_unit() -> None:
    assert {ucum(u) for u in ("µmol/L", "μmol/l", "umol/L")} == {"umol/L"}


def _bundle(*resources: dict[str, Any], patient: str = "p1") -> bytes:
    own = {"resourceType": "Patient", "id": patient, "gender": "female", "birthDate": "1960-05-05"}
    entries = [{"resource": own}, *({"resource": {"subject": {"reference": f"Patient/{patient}"}, **r}} for r in resources)]
    return json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}).encode()


def _lab(
    name: str, value: float, unit: str, day: str, low: float | None = None, high: float | None = None, number: int = 0
) -> dict[str, Any]:
    bounds = [{k: {"value": v} for k, v in (("low", low), ("high", high)) if v is not None}] if low or high else []
    return {"resourceType": "Observation", "id": f"{name}{day}{number}", "status": "final", "code": {"text": name}, "effectiveDateTime": day,
            "valueQuantity": {"value": value, "unit": unit}, **({"referenceRange": bounds} if bounds else {})}  # fmt: skip


def test_variants_stages_drugs_and_family_are_values() -> None:
    loinc = "http://loinc.org"
    variant = {"resourceType": "Observation", "id": "v", "status": "final", "code": {"coding": [{"system": loinc, "code": "69548-6"}]},
               "valueCodeableConcept": {"text": "Present"},
               "component": [{"code": {"coding": [{"system": loinc, "code": "48018-6"}]}, "valueCodeableConcept": {"text": "EGFR"}},
                             {"code": {"coding": [{"system": loinc, "code": "48005-3"}]}, "valueCodeableConcept": {"text": "p.Leu858Arg"}}]}  # fmt: skip
    condition = {
        "resourceType": "Condition",
        "id": "c",
        "code": {"text": "Lung cancer"},
        "stage": [{"summary": {"text": "Stage IV"}}],
    }
    drug = {"resourceType": "MedicationRequest", "id": "m", "status": "active", "medicationReference": {"reference": "#d"},
            "contained": [{"resourceType": "Medication", "id": "d", "code": {"text": "Osimertinib 80 mg"}}]}  # fmt: skip
    family = {"resourceType": "FamilyMemberHistory", "id": "f", "status": "completed", "patient": {"reference": "Patient/p1"},
              "relationship": {"text": "mother"}, "condition": [{"code": {"text": "Lung cancer"}}]}  # fmt: skip
    wrong = {"resourceType": "Observation", "id": "w", "status": "entered-in-error", "code": {"text": "Creatinine"},
             "valueQuantity": {"value": 900, "unit": "umol/L"}}  # fmt: skip
    refuted = {
        "resourceType": "Condition",
        "id": "r",
        "code": {"text": "Melanoma"},
        "verificationStatus": {"coding": [{"code": "refuted"}]},
    }
    items = {i.name: i for i in read_bundle(_bundle(variant, condition, drug, family, wrong, refuted)).items}
    assert items["EGFR variant"].value == "p.Leu858Arg present" and items["EGFR variant"].category == "genomics"
    assert items["Lung cancer: stage"].value == "Stage IV" and "Osimertinib 80 mg" in items
    assert items["Lung cancer (mother)"].category == "family history"
    assert not {"Creatinine", "Melanoma"} & set(items)


def test_a_resource_of_another_patient_is_refused_by_name(archive: Archive) -> None:
    other = {**_lab("Potassium", 4.0, "mmol/L", "2026-01-01"), "id": "strange", "subject": {"reference": "Patient/other"}}
    done = archive.add([Incoming("b.json", _bundle(_lab("Sodium", 140, "mmol/L", "2026-01-01"), other))])
    assert [r.file for r in done.rejected] == ["b.json: Observation/strange"]
    assert [i.name for i in archive.items("p1")] == ["Sodium"]
    all_foreign = archive.add([Incoming("c.json", _bundle(other))])
    assert not all_foreign.records and "Observation/strange" in all_foreign.rejected[0].reason


@pytest.mark.parametrize("language", REPORTS)
def test_reports_of_five_languages_are_found_by_an_english_question(
    archive: Archive, resources: Resources, language: str
) -> None:
    archive.add([Incoming("r.txt", f"DATE: 2026-02-03\n{REPORTS[language]}".encode())])
    case = open_case(archive, archive.patient_ids()[0])
    hits = resources.records.sentences("solid nodule", case.reports)
    assert any("8" in h.sentence.text for h in hits)
    (advice,) = resources.records.recommendations(case.reports)
    assert "3" in advice.sentence.text


def _report(text: str, day: str = "2026-01-01") -> Report:
    return Report(id="r", handle="R1", patient_id="p", title="CT", date=day, text=text)


@pytest.mark.parametrize(
    ("name", "wanted", "text", "value"),
    [
        ("kps", {"type": "integer", "minimum": 0, "maximum": 100}, "Karnofsky performance status of 80.", 80),
        ("mgmt_status", {"type": "enum", "values": ["methylated", "unmethylated"]}, "MICROSCOPY:\nMGMT promoter is not methylated.", "unmethylated"),
        ("emphysema", {"type": "boolean"}, "FINDINGS: No emphysema.", False), ("emphysema", {"type": "boolean"}, "FINDINGS: Possible emphysema.", None),
        ("nodule_type", {"type": "enum", "values": ["solid", "part_solid", "ground_glass"]}, "FINDINGS: A part-solid nodule is seen.", "part_solid"),
        ("size_mm", {"type": "number"}, "FINDINGS: A nodule of 9 x 7 mm.", 8.0), ("size_mm", {"type": "number"}, "FINDINGS: Nodules of 9 mm and 4 mm.", None),
        ("assessment_category", {"type": "enum", "values": ["4A", "4B"]}, "IMPRESSION: BI-RADS category 4B.", "4B"),
    ],
)  # fmt: skip
def test_what_a_report_states_for_a_rule(name: str, wanted: dict[str, Any], text: str, value: Any) -> None:
    found = stated(name, [_report(text)], wanted)
    assert (found.value if found else None) == value


def test_two_reports_that_differ_leave_the_newer_word() -> None:
    wanted = {"type": "integer", "minimum": 0, "maximum": 4}
    old, new = _report("ECOG 1.", "2025-01-01"), _report("ECOG 2.", "2026-01-01")
    assert stated("ecog_ps", [old, new], wanted).value == 2
    assert stated("ecog_ps", [_report("ECOG 1. Later ECOG 2.")], wanted) is None


def test_planning_knows_its_diseases() -> None:
    assert set(needs()) >= {
        "glioblastoma",
        "lung cancer",
        "hepatocellular carcinoma",
        "breast cancer",
        "prostate cancer",
        "renal cell carcinoma",
    }
    assert (
        disease_of("Glioblastoma, IDH-wildtype") == "glioblastoma"
        and disease_of("three brain metastases of lung cancer") == "brain metastases"
    )
    assert disease_of("appendicitis") is None


def test_note_attachments_stay_reports() -> None:
    note = {"resourceType": "DocumentReference", "id": "n", "status": "current", "type": {"text": "Note"}, "date": "2026-01-01",
            "content": [{"attachment": {"contentType": "text/plain", "data": base64.b64encode(b"ECOG 1.").decode()}}]}  # fmt: skip
    assert read_bundle(_bundle(note)).texts == [("Note", "2026-01-01", "ECOG 1.")]


@pytest.mark.parametrize(
    ("text", "title", "date"),
    [
        ("MRI of the brain 2026-11-01\n\nFINDINGS:\nNo change.\n", "MRI of the brain", "2026-11-01"),
        ("MRT Schädel (2026-11-01)\n\nBEFUND:\nUnverändert.\n", "MRT Schädel", "2026-11-01"),
        ("Comparison with 2025-11-01\n\nFINDINGS:\nNo change.\n", None, None),
        ("FINDINGS:\nUnchanged since 2025-11-01\n", None, None),
    ],
)
def test_a_report_is_named_and_dated_by_its_first_line(text: str, title: str | None, date: str | None) -> None:
    assert (title_of(text), date_of(text)) == (title, date)
