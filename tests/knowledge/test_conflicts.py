"""What contradicts itself or the archive is kept apart and said; what files don't say is asked for."""

import io

import numpy as np
import pydicom
import pytest

from agent.testing import dicom_series
from knowledge.errors import Refused
from knowledge.studies import nifti
from knowledge.studies.archive import Archive, Import
from knowledge.studies.intake import Hints
from knowledge.studies.unpack import Incoming
from knowledge.studies.volume import Volume
from tests.knowledge.test_parts import STEP, saved


def add(archive: Archive, files: list[bytes], hints: Hints | None = None) -> Import:
    return archive.add([Incoming(f"{n}.dcm", f) for n, f in enumerate(files)], hints)


def with_values(data: bytes, **values: object) -> bytes:
    one = pydicom.dcmread(io.BytesIO(data))
    for keyword, value in values.items():
        setattr(one, keyword, value)
    return saved(one)


def series(name: str = "Doe^Jane", level: int = 1, **values: object) -> list[bytes]:
    files = dicom_series(np.full((8, 8, 3), level, np.uint16), STEP, patient_id="4711", name=name)
    return [with_values(f, **values) for f in files] if values else files


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ({"PatientBirthDate": "19600101"}, {"PatientBirthDate": "19710203"}, "birth dates"),
        ({"PatientSex": "F"}, {"PatientSex": "M"}, "sexes"),
        ({}, {"PatientName": "Miller^Tom"}, "names"),
        ({"IssuerOfPatientID": "A"}, {"IssuerOfPatientID": "B"}, "issuers"),
    ],
)
def test_two_people_with_one_id_are_kept_apart(archive: Archive, first: dict, second: dict, why: str) -> None:
    one, two = add(archive, series(**first)), add(archive, series(**second))
    assert not one.conflicts and why in two.conflicts[0].reason
    assert one.patient_ids == {"4711"} and two.patient_ids != {"4711"} and len(archive.patient_ids()) == 2
    assert add(archive, series(**second)).patient_ids == two.patient_ids, "the second person is known again"


def test_one_person_written_in_two_ways_stays_one(archive: Archive) -> None:
    add(archive, series(name="DOE^Jané"))
    done = add(archive, series(name="Doe, Jane A.", PatientBirthDate="19600101"))
    assert done.patient_ids == {"4711"} and not done.conflicts


def test_a_year_of_birth_is_no_other_birth_date(archive: Archive) -> None:
    add(archive, series(PatientBirthDate="19600101"))
    bundle = b'{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Patient","id":"4711","birthDate":"1960"}}]}'
    done = archive.add([Incoming("b.json", bundle)])
    assert not done.conflicts and archive.patient_ids() == ["4711"]


def test_one_study_uid_under_two_patients_makes_two_studies(archive: Archive) -> None:
    files = series()
    add(archive, files)
    done = add(archive, [with_values(f, PatientID="0815", PatientName="Miller^Tom") for f in files])
    assert "another patient's study" in done.conflicts[0].reason
    studies = archive.studies()
    assert {s.patient_id for s in studies} == {"4711", "0815"} and len({s.study_instance_uid for s in studies}) == 1
    assert len({q.id for s in studies for q in s.series}) == 2
    for study in studies:
        assert archive.volume(study.series[0].id).array.shape == (8, 8, 3)


def test_one_sop_uid_with_other_pixels_is_a_series_of_its_own(archive: Archive) -> None:
    files = series()
    add(archive, files)
    other = with_values(files[1], PixelData=np.full((8, 8), 9, "<u2").tobytes())
    done = add(archive, [other])
    assert "other content" in done.conflicts[0].reason
    first, second = done.studies[0].series
    assert first.shape == [8, 8, 3] and (archive.volume(first.id).array == 1).all()
    assert second.shape == [8, 8, 1] and (archive.volume(second.id).array == 9).all()
    assert any("two files claim each" in w for w in second.warnings)
    assert add(archive, [other]).conflicts == [], "the same file again changes nothing"


def test_the_same_picture_with_another_header_is_kept_and_not_shown_twice(archive: Archive) -> None:
    files = series()
    add(archive, files)
    done = add(archive, [with_values(f, StudyDescription="corrected") for f in files])
    assert all("same picture with another header" in c.reason for c in done.conflicts) and len(done.conflicts) == 3
    (one,) = done.studies[0].series
    assert one.shape == [8, 8, 3] and len(archive.originals(done.studies[0].id)) == 6


def nameless() -> bytes:
    return nifti.to_bytes(Volume(np.random.default_rng(1).normal(500, 90, (8, 8, 4)).astype(np.float32), np.eye(4)))


def test_what_files_do_not_say_is_asked_and_can_be_said_later(archive: Archive) -> None:
    done = archive.add([Incoming("scan.nii.gz", nameless())])
    (ask,) = done.asks
    assert ask.missing == ["patient_id", "study_date", "modality"] and ask.study_id == done.studies[0].id
    archive.describe(ask.study_id, "2026-01-02", "MR", "brain")
    study = archive.assign(ask.study_id, "4711")
    assert (study.patient_id, study.date, study.modalities, study.body_part) == ("4711", "2026-01-02", ["MR"], "BRAIN")
    assert archive.patient_ids() == ["4711"] and not any("modality" in w for w in study.series[0].warnings)
    with pytest.raises(Refused, match="name their patient"):
        archive.assign(ask.study_id, "0815")


def test_a_nameless_file_sent_again_with_its_patient_moves_there(archive: Archive) -> None:
    first = archive.add([Incoming("scan.nii.gz", nameless())])
    second = archive.add([Incoming("scan.nii.gz", nameless())], Hints("4711", "2026-01-02", "MR"))
    assert [s.id for s in first.studies] == [s.id for s in second.studies] and archive.patient_ids() == ["4711"]


def test_deleting_a_study_takes_all_that_came_of_it_and_the_audit_says_so(archive: Archive) -> None:
    (study,) = add(archive, series()).studies
    one = study.series[0]
    archive.volume(one.id)
    archive.derived(one.id).mkdir(parents=True)
    (archive.derived(one.id) / "mask.nii.gz").write_bytes(b"x")
    archive.cache.put(one.id, "x", "grey", np.zeros(3))
    archive.delete(study.id, "anna")
    left = [p for p in archive.root.rglob("*") if p.is_file() and not p.name.startswith("archive.db")]
    assert left == []
    entry = archive.audit()[0]
    assert (entry.actor, entry.action, entry.subject) == ("anna", "delete", study.id)
    assert entry.detail == {"series": 1, "originals": 3, "derived": 1}
    assert "4711" not in entry.model_dump_json() and archive.audit_broken_at() is None


def test_an_audit_that_was_tampered_with_is_found(archive: Archive) -> None:
    import sqlalchemy as sa

    (study,) = add(archive, series()).studies
    archive.delete(study.id, "anna")
    add(archive, series())
    with archive.engine.begin() as connection:
        connection.execute(sa.text("UPDATE audit SET actor = 'bert' WHERE action = 'delete'"))
    assert archive.audit_broken_at() == 2
