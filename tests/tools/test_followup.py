"""Follow-ups that reports recommend, and what speaks for and against a treatment in one patient."""

import json
from datetime import date

import pytest

from knowledge.case import open_case
from knowledge.evidence import Kind
from knowledge.studies.archive import Archive
from knowledge.studies.intake import Hints
from knowledge.studies.unpack import Incoming, from_bytes
from knowledge.treatment.library import treatments
from tests.eval_field import followup, options
from tools.base import Bench, Resources
from tools.registry import tool_types


@pytest.mark.parametrize("half", ["seen", "held"])
def test_due_dates_and_states_are_as_written(half: str) -> None:
    assert followup(half)["right"]["value"] >= 0.9


def test_a_forgotten_scan_is_overdue_with_the_rule_beside_it(resources: Resources, archive: Archive) -> None:
    text = "DATE: 2025-01-10\nFINDINGS: Solid nodule in the right upper lobe of the lung, 7 mm.\nIMPRESSION: Solid nodule, 7 mm. CT of the chest in 6 to 12 months is recommended."
    archive.add(from_bytes("ct.txt", text.encode()), Hints(patient_id="P"))
    bench = Bench(resources, open_case(archive, "P"), today=lambda: date(2026, 3, 1))
    reply = tool_types()["follow_up"].bound(bench).reply({})
    due = reply.facts[0]
    assert due.title == "Follow-up: overdue" and due.value["due"] == "2026-01-10"
    assert text[due.source.start : due.source.end] == "CT of the chest in 6 to 12 months is recommended."
    rule = next(f for f in reply.facts if f.kind is Kind.RULE)
    assert "CT at 6-12 months" in rule.statement and rule.source.inputs["size_mm"] == 7
    early = Bench(resources, open_case(archive, "P"), today=lambda: date(2025, 3, 1))
    assert tool_types()["follow_up"].bound(early).reply({}).facts[0].title == "Follow-up: due"


def test_a_case_without_advice_says_so(bench: Bench) -> None:
    reply = tool_types()["follow_up"].bound(bench).reply({})
    assert not reply.facts and reply.missing[0].what == "a recommended follow-up"


def test_treatments_name_their_sources() -> None:
    for one in treatments().values():
        assert one.looks and all(look.source and look.say for look in one.looks)
        assert all(look.unit for look in one.looks if look.kind == "lab")


def bundle(resources: list[dict]) -> bytes:
    people = {"resourceType": "Patient", "id": "p", "identifier": [{"value": "P"}], "gender": "female", "birthDate": "1968-01-01"}
    rows = [
        people,
        *(
            {**r, "id": f"r{n}", "subject": {"reference": "Patient/p"}, "patient": {"reference": "Patient/p"}}
            for n, r in enumerate(resources)
        ),
    ]
    return json.dumps({"resourceType": "Bundle", "type": "collection", "entry": [{"resource": r} for r in rows]}).encode()


def test_the_record_speaks_for_and_against_each_option(resources: Resources, archive: Archive) -> None:
    rows = [
        {"resourceType": "Condition", "code": {"text": "Glioblastoma, IDH-wildtype"}, "recordedDate": "2026-01-02", "clinicalStatus": {"coding": [{"code": "active"}]}},
        {"resourceType": "AllergyIntolerance", "code": {"text": "Temozolomide"}, "recordedDate": "2026-01-02"},
        {"resourceType": "Observation", "status": "final", "code": {"text": "Platelets"}, "valueQuantity": {"value": 62, "unit": "10*9/L", "code": "10*9/L", "system": "http://unitsofmeasure.org"}, "effectiveDateTime": "2026-01-03"},
        {"resourceType": "Procedure", "status": "completed", "code": {"text": "Radiotherapy of the brain"}, "performedDateTime": "2024-01-03"},
    ]  # fmt: skip
    letter = b"DATE: 2026-01-04\nFINDINGS: The patient wishes to keep working and declines a long hospital stay."
    archive.add([Incoming("b.json", bundle(rows)), *from_bytes("letter.txt", letter)], Hints(patient_id="P"))
    bench = Bench(resources, open_case(archive, "P"))
    tool = tool_types()["apply_guideline"].bound(bench)
    asked = {"guideline": "gbm_mgmt_stupp", "facts": {"kps": 90, "idh_status": "wildtype", "mgmt_status": "methylated"}}
    facts = {f.title: f for f in tool.reply(asked).facts}
    against = facts["For and against: temozolomide"].statement
    assert (
        "an allergy is recorded: Temozolomide" in against
        and "platelets below 100" in against
        and "For: MGMT promoter methylated" in against
    )
    assert "neutrophils" in facts["For and against: temozolomide"].value["unknown"]
    assert "earlier radiotherapy" in facts["For and against: radiotherapy"].statement
    assert any("wishes to keep working" in f.statement for f in facts.values())
    other = tool.reply({**asked, "facts": {**asked["facts"], "mgmt_status": "unmethylated"}})
    changed = next(f for f in other.facts if f.title == "For and against: temozolomide").statement
    assert "Against: an allergy" in changed and "MGMT promoter unmethylated" in changed and "For the board to decide." in changed


def test_without_a_case_only_the_rule_answers(resources: Resources) -> None:
    reply = (
        tool_types()["apply_guideline"]
        .bound(Bench(resources))
        .reply({"guideline": "gbm_mgmt_stupp", "facts": {"age_years": 58, "kps": 90}})
    )
    assert [f.kind for f in reply.facts] == [Kind.RULE]


def test_what_the_patient_wants_is_missing_where_nobody_wrote_it(bench: Bench) -> None:
    reply = tool_types()["apply_guideline"].bound(bench).reply({"guideline": "gbm_mgmt_stupp"})
    assert "what the patient wants" in [m.what for m in reply.missing]


def test_written_records_give_the_points_that_their_writer_expects() -> None:
    assert options(misses=True)["right"]["value"] >= 0.9
