"""Where facts come from: rules on evidence, values with trend and range, clashes between sources, what planning lacks."""

import json
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from knowledge.case import Case, open_case
from knowledge.evidence import Evidence, Fact, ImageRef, Kind, RuleRef
from knowledge.studies.archive import Archive
from knowledge.studies.intake import Hints
from knowledge.studies.unpack import Incoming
from tests.knowledge.test_records import _bundle, _lab
from tools.base import Bench, Reply, Resources
from tools.concepts import LESION, LONG_AXIS, WHOLE_TUMOUR
from tools.conflicts import clashes
from tools.errors import TryAgain
from tools.registry import tool_types

CHEST = """EXAMINATION: CT chest
DATE: 2026-08-01

FINDINGS:
There is a solid nodule in the right upper lobe measuring 7 x 5 mm with spiculated margin. Emphysema is present.

IMPRESSION:
Solitary pulmonary nodule.
"""


def _run(bench: Bench, tool: str, **arguments: Any) -> Reply:
    return tool_types()[tool].bound(bench).reply(arguments)


@pytest.fixture
def reported(archive: Archive, resources: Resources) -> Bench:
    labs = [_lab("Creatinine", 1.1, "mg/dL", "2026-07-30", 0.5, 0.9), _lab("Creatinine", 80, "umol/L", "2026-01-30"),
            _lab("Foo level", 3, "blorp/L", "2026-07-30")]  # fmt: skip
    archive.add([Incoming("b.json", _bundle(*labs)), Incoming("r.txt", CHEST.encode())], Hints(patient_id="p1"))
    return Bench(resources, open_case(archive, "p1"))


def test_a_rule_stands_on_the_reports_lines(reported: Bench) -> None:
    reply = _run(reported, "apply_guideline", guideline="fleischner_2017", facts={"multiplicity": "single"})
    rule = reply.facts[0]
    assert rule.value["category"] == "CT at 6-12 months, then CT at 18-24 months" and isinstance(rule.source, RuleRef)
    origins = rule.source.origins
    assert {n: o.kind for n, o in origins.items()} == {
        "nodule_type": "report", "size_mm": "report", "risk_factors": "report", "age_years": "patient", "multiplicity": "question",
    }  # fmt: skip
    span = origins["size_mm"].source
    text = reported.required_case.reports[0].text
    assert "7 x 5 mm" in text[span.start : span.end]
    assert rule.source.inputs["risk_factors"] == ["emphysema", "upper_lobe", "spiculation"]
    assert {f.kind for f in reply.facts[1:]} == {Kind.REPORT} and all("R1" in f.statement for f in reply.facts[1:])
    named = {m.what: m.would_change for m in reply.missing}
    assert named["lung cancer screening"] == "yes: does not apply"


def _measured(resources: Resources, case: Case, value: float, unit: str) -> Bench:
    source = ImageRef(study_id="st_1", series_uid="1.2", model="m", model_version="1", mask="/v1/studies/st_1/masks/a.nii.gz")
    fact = Fact(
        kind=Kind.MEASUREMENT,
        title="Longest axial diameter",
        statement="It measures.",
        value=value,
        unit=unit,
        code=LONG_AXIS,
        source=source,
    )
    return Bench(resources, case, evidence=lambda name: Evidence.of(fact, 4, "c") if name == "E4" else None)


def test_a_rule_takes_a_measurement_by_its_number(reported: Bench) -> None:
    bench = _measured(reported.resources, reported.required_case, 2.3, "cm")
    reply = _run(
        bench,
        "apply_guideline",
        guideline="tnm_lung_9",
        facts={"n_category": "N0", "m_category": "M0"},
        evidence={"size_mm": "E4"},
    )
    rule = reply.facts[0]
    assert rule.value["category"] == "IA3" and rule.source.inputs["size_mm"] == pytest.approx(23)
    origin = rule.source.origins["size_mm"]
    assert origin.evidence == "E4" and origin.source.mask.endswith("a.nii.gz")
    assert "report 7" not in rule.statement and any("measurement" in c for c in reply.conflicts)  # the report says 7 mm: told
    for wrong in ({"size_mm": "E9"}, {"no_fact": "E4"}, {"n_category": "E4"}):
        with pytest.raises(TryAgain):
            _run(bench, "apply_guideline", guideline="tnm_lung_9", evidence=wrong)


def test_a_lab_tells_unit_range_trend_and_age(reported: Bench) -> None:
    (fact,) = _run(reported, "patient_record", topics=["creatinine"], unit="umol/L").facts
    assert fact.value == 1.1 and fact.unit == "mg/dL"
    for words in (
        "reference 0.5 to 0.9 mg/dL, above it",
        "that is 97.2 µmol/L",
        "up from 0.905 mg/dL on 2026-01-30, +22 %",
        "2 days before",
    ):
        assert words in fact.statement
    (strange,) = _run(reported, "patient_record", topics=["foo level"], unit="g/L").facts
    assert "3 blorp/L" in strange.statement and "not converted" in strange.statement


def test_reports_are_filtered_by_section_date_and_part(reported: Bench) -> None:
    find = lambda **more: _run(reported, "retrieve_reports", query="nodule", **more).facts  # noqa: E731
    assert {f.source.section for f in find()} == {"FINDINGS", "IMPRESSION"}
    assert {f.source.section for f in find(section="IMPRESSION")} == {"IMPRESSION"}
    assert find(since="2026-08-02") == [] and find(until="2026-07") == [] and len(find(since="2026-08", until="2026-08-01")) == 2
    assert find(body_part="chest") and find(body_part="brain") == []


def test_planning_says_what_is_known_and_what_is_missing(bench: Bench) -> None:
    reply = _run(bench, "patient_record", for_treatment_of="this")
    known = " ".join(f.statement for f in reply.facts)
    assert "Karnofsky" in known and "methylated" in known and "Resection" in known
    missing = {m.what: m.would_change for m in reply.missing}
    assert "prior radiotherapy" in missing and all(missing.values())
    assert not {"MGMT promoter methylation", "age"} & set(missing)


def _fact(case: Case, **more: Any) -> Fact:
    study = case.studies[0]
    source = ImageRef(study_id=study.id, series_uid=study.series[0].series_uid, model="m", model_version="1")
    return Fact(title=more.pop("title", "Outlined region"), statement="The image tool says so.", source=source, **more)


def test_side_size_and_count_are_held_against_the_report(case: Case) -> None:
    left = _fact(case, kind=Kind.FINDING, value={"label": "whole tumour", "side": "left"}, code=WHOLE_TUMOUR)
    (clash, *_) = clashes(case, [left])
    assert "lies on the left" in clash.statement and "speaks of the right" in clash.statement
    assert clash.facts[0] == left and clash.facts[1].kind is Kind.REPORT
    right = _fact(case, kind=Kind.FINDING, value={"label": "whole tumour", "side": "right"}, code=WHOLE_TUMOUR)
    assert clashes(case, [right]) == []


def test_a_size_that_differs_beyond_its_doubt_is_a_clash(archive: Archive, resources: Resources) -> None:
    report = "EXAMINATION: CT chest\nDATE: 2024-05-02\n\nFINDINGS:\nA mass of 30 mm is seen in the right lung. There are two lesions in total.\n"
    image = nib.Nifti1Image(np.random.default_rng(0).normal(size=(12, 12, 6)).astype(np.float32), np.eye(4))
    archive.add([Incoming("ct.nii", image.to_bytes()), Incoming("r.txt", report.encode())],
                Hints(patient_id="SIZE", study_date="2024-05-02", modality="CT", body_part="CHEST"))  # fmt: skip
    case = open_case(archive, "SIZE")
    far = _fact(
        case, kind=Kind.MEASUREMENT, title="Longest axial diameter", value=52.0, unit="mm", interval=[50.0, 54.0], code=LONG_AXIS
    )
    near = _fact(
        case, kind=Kind.MEASUREMENT, title="Longest axial diameter", value=33.0, unit="mm", interval=[31.0, 35.0], code=LONG_AXIS
    )
    three = _fact(case, kind=Kind.FINDING, title="Number of lesions", value={"label": "lesions", "count": 3}, code=LESION)
    two = _fact(case, kind=Kind.FINDING, title="Number of lesions", value={"label": "lesions", "count": 2}, code=LESION)
    assert "52 mm across" in clashes(case, [far])[0].statement and "30 mm" in clashes(case, [far])[0].statement
    assert clashes(case, [near]) == [] and clashes(case, [two]) == []
    assert "marks 3 lesions" in clashes(case, [three])[0].statement


def test_record_and_pathology_that_differ_are_told_with_both(archive: Archive, resources: Resources) -> None:
    status = {"resourceType": "Observation", "id": "m", "status": "final", "code": {"text": "MGMT promoter methylation"},
              "effectiveDateTime": "2026-01-01", "valueCodeableConcept": {"text": "methylated"}}  # fmt: skip
    report = "REPORT: Pathology\nDATE: 2026-01-05\n\nDIAGNOSIS:\nGlioblastoma. The MGMT promoter is unmethylated.\n"
    archive.add([Incoming("b.json", _bundle(status)), Incoming("p.txt", report.encode())], Hints(patient_id="p1"))
    bench = Bench(resources, open_case(archive, "p1"))
    (clash,) = _run(bench, "patient_record", topics=["MGMT"]).clashes
    assert "methylated (2026-01-01)" in clash.statement and "unmethylated" in clash.statement
    assert [f.kind for f in clash.facts] == [Kind.RECORD, Kind.REPORT]
    told = _run(bench, "apply_guideline", guideline="gbm_mgmt_stupp", facts={"age_years": 75, "kps": 55})
    assert any("unmethylated" in c for c in told.conflicts) and told.facts[0].value["category"] == "TMZ alone"


def test_a_procedure_dated_otherwise_by_a_report_is_told(archive: Archive, resources: Resources) -> None:
    surgery = {"resourceType": "Procedure", "id": "s", "status": "completed", "code": {"text": "Resection of brain tumour"},
               "performedDateTime": "2026-01-10"}  # fmt: skip
    report = "REPORT: MRI brain\nDATE: 2026-02-01\n\nINDICATION:\nState after resection on 2025-11-10.\n\nFINDINGS:\nA cavity.\n"
    archive.add([Incoming("b.json", _bundle(surgery)), Incoming("m.txt", report.encode())], Hints(patient_id="p1"))
    (clash,) = _run(Bench(resources, open_case(archive, "p1")), "patient_record", topics=["procedure"]).clashes
    assert "2026-01-10" in clash.statement and "2025-11-10" in clash.statement


def test_the_tool_lists_every_rules_inputs() -> None:
    told = tool_types()["apply_guideline"].described()
    assert json.dumps(told) and len(told["rules"]) == 41
    facts = told["rules"]["lung_rads_2022"]["facts"]
    assert facts["size_mm"]["unit"] == "mm" and facts["nodule_type"]["required"]
