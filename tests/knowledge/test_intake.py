"""Hostile and broken input: a named refusal, nothing half-stored, the rest goes in."""

import gzip
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as tuned
from hypothesis import strategies as st
from PIL import Image

from agent.testing import dicom_series
from knowledge.errors import NotFound
from knowledge.studies import nifti
from knowledge.studies.archive import Archive, Import
from knowledge.studies.intake import Hints
from knowledge.studies.unpack import Incoming, from_bytes, from_paths
from knowledge.studies.volume import Volume


def taken(archive: Archive, name: str, data: bytes) -> Import:
    return archive.add(from_bytes(name, data))


def refusal(archive: Archive, name: str, data: bytes) -> str:
    done = taken(archive, name, data)
    assert not done.studies and not done.records and done.rejected
    assert not archive.patient_ids(), "nothing may be half-stored"
    return done.rejected[0].reason


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def slice_file() -> bytes:
    return dicom_series(np.ones((32, 32, 1), np.uint16), np.eye(4))[0]


@pytest.fixture(scope="module")
def nifti_file() -> bytes:
    return nifti.to_bytes(Volume(np.random.default_rng(1).normal(500, 90, (12, 12, 6)).astype(np.float32), np.eye(4)))


def test_a_truncated_dicom(archive: Archive, slice_file: bytes) -> None:
    assert "cut short" in refusal(archive, "a.dcm", slice_file[:-100])
    for share in (0.2, 0.5, 0.9, 0.999):
        assert refusal(archive, "a.dcm", slice_file[: int(share * len(slice_file))])


def test_a_text_file_named_dcm(archive: Archive) -> None:
    assert "isn't one" in refusal(archive, "a.dcm", b"hello, I am text")


def test_a_zip_bomb(archive: Archive) -> None:
    assert "zip bomb" in refusal(archive, "a.zip", zipped({"big.txt": b"0" * 50_000_000}))


def test_a_path_out_of_the_zip(archive: Archive, slice_file: bytes, tmp_path: Path) -> None:
    done = taken(archive, "a.zip", zipped({"../../evil.dcm": slice_file, "fine/a.dcm": slice_file}))
    assert len(done.studies) == 1
    assert "outside the archive" in done.rejected[0].reason
    assert not list(tmp_path.rglob("evil*"))


def test_archives_in_archives_are_opened_so_deep_and_no_deeper(archive: Archive, slice_file: bytes) -> None:
    nested = zipped({"a.dcm": slice_file})
    for _ in range(2):
        nested = zipped({"inner.zip": nested})
    assert len(taken(archive, "a.zip", nested).studies) == 1
    done = taken(archive, "b.zip", zipped({"inner.zip": nested}))
    assert not done.studies and "3 deep" in done.rejected[0].reason


def test_a_broken_zip(archive: Archive, slice_file: bytes) -> None:
    assert "broken" in refusal(archive, "a.zip", zipped({"a.dcm": slice_file})[:-30])


def test_a_nifti_with_a_broken_header(archive: Archive, nifti_file: bytes) -> None:
    raw = bytearray(gzip.decompress(nifti_file))
    assert "NIfTI" in refusal(archive, "a.nii", bytes(raw[:200]))
    huge = bytes(raw[:40]) + struct.pack("<8h", 3, 32767, 32767, 32767, 1, 1, 1, 1) + bytes(raw[56:])
    assert "size" in refusal(archive, "a.nii", huge)
    assert "bytes" in refusal(archive, "a.nii", bytes(raw[:-500]))
    assert "cut short" in refusal(archive, "a.nii", bytes(raw[:-20]))
    assert refusal(archive, "a.nii.gz", nifti_file[:-40])
    assert refusal(archive, "a.nii.gz", gzip.compress(b"\0" * 400_000_000))


def test_an_empty_folder_and_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="empty"):
        list(from_paths([tmp_path]))
    with pytest.raises(NotFound, match="isn't there"):
        list(from_paths([tmp_path / "none"]))


def test_broken_fhir_is_named(archive: Archive) -> None:
    assert "JSON" in refusal(archive, "a.json", b'{"resourceType": "Bundle", "entry": [')
    two = b'{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Patient","id":"a"}},{"resource":{"resourceType":"Patient","id":"b"}}]}'
    assert "2 patients" in refusal(archive, "a.json", two)


def test_a_broken_picture_and_a_whole_one(archive: Archive) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50), np.uint8)).save(buffer, "PNG")
    assert "picture" in refusal(archive, "a.png", buffer.getvalue()[:400])
    (series,) = taken(archive, "a.png", buffer.getvalue()).studies[0].series
    assert series.geometry == "warning" and series.spacing_mm is None and series.shape == [50, 40, 1]


def test_a_bad_file_does_not_keep_a_good_one_out(archive: Archive, slice_file: bytes) -> None:
    done = archive.add([Incoming("bad.dcm", b"junk"), Incoming("good.dcm", slice_file)])
    assert len(done.studies) == 1 and [r.file for r in done.rejected] == ["bad.dcm"]


def test_texts_of_nobody_are_not_thrown_together(archive: Archive) -> None:
    one = taken(archive, "a.txt", b"FINDINGS: A mass.")
    two = taken(archive, "b.txt", b"FINDINGS: No mass.")
    assert one.records[0].patient_id != two.records[0].patient_id


def test_a_bundle_and_files_without_identity_share_the_patient(archive: Archive, nifti_file: bytes) -> None:
    bundle = b'{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Patient","id":"p7"}}]}'
    done = archive.add([Incoming("t1.nii.gz", nifti_file), Incoming("b.json", bundle)])
    assert done.patient_ids == {"p7"}


def test_deleting_a_study_takes_its_files(archive: Archive, slice_file: bytes) -> None:
    (study,) = taken(archive, "a.dcm", slice_file).studies
    archive.delete(study.id)
    assert not archive.studies()
    assert not [p for p in archive.objects.root.rglob("*") if p.is_file()]


def test_a_sex_and_birth_date_of_dicom_are_known(archive: Archive, slice_file: bytes) -> None:
    archive.add([Incoming("a.dcm", slice_file)], Hints())
    assert archive.patient("PHANTOM").id == "PHANTOM"


@tuned(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 1500), junk=st.binary(min_size=1, max_size=8))
def test_a_damaged_dicom_never_raises(archive: Archive, slice_file: bytes, position: int, junk: bytes) -> None:
    damaged = slice_file[:position] + junk + slice_file[position + len(junk) :]
    archive.add([Incoming("a.dcm", damaged)])
