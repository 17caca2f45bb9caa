"""Instances that come one at a time: kept when they are acknowledged, laid out when they are read, as if they had come together."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest

from agent.testing import dicom_series
from knowledge.errors import Refused, StorageFailed
from knowledge.studies import stream
from knowledge.studies.archive import Archive, Import
from knowledge.studies.query import DicomIndex
from knowledge.studies.stream import Stream
from knowledge.studies.unpack import Incoming

FILES = dicom_series(np.arange(8 * 8 * 6, dtype=np.uint16).reshape(8, 8, 6), np.eye(4), study_uid="1.2.3")


def test_what_came_one_by_one_is_what_comes_together(archive: Archive) -> None:
    sender = Stream(archive, "AE CT")
    for file in FILES:
        sender.take(file)
    (study,) = archive.studies()
    together = Archive(archive.root.parent / "together")
    together.add([Incoming(f"{n}.dcm", f) for n, f in enumerate(FILES)])
    assert study.series == together.studies()[0].series and study.source.files == 6
    np.testing.assert_array_equal(archive.volume(study.series[0].id).array, together.volume(study.series[0].id).array)
    (entry,) = archive.audit()
    assert (entry.actor, entry.action, entry.detail["files"]) == ("AE CT", "import", 6)


def test_reading_between_two_instances_shows_what_is_there(archive: Archive) -> None:
    sender = Stream(archive, "AE CT")
    for count, file in enumerate(FILES, 1):
        sender.take(file)
        assert archive.studies()[0].series[0].instances == count
        assert len(list(DicomIndex(archive).studies({}))) == 1
    assert len(archive.audit()) == 6


def test_listeners_hear_of_it_once_it_is_laid_out(archive: Archive) -> None:
    heard: list[Import] = []
    archive.listeners.append(heard.append)
    sender = Stream(archive, "AE CT")
    for file in FILES:
        sender.take(file)
    assert not heard
    archive.settle()
    archive.settle()
    assert [len(h.studies) for h in heard] == [1]


def test_the_same_again_another_content_and_no_dicom(archive: Archive) -> None:
    sender = Stream(archive, "AE CT")
    other = pydicom.dcmread(io.BytesIO(FILES[0]))
    other.PixelData = bytes(len(other.PixelData))
    other.save_as(buffer := io.BytesIO())
    for file in (*FILES, FILES[0], buffer.getvalue()):
        sender.take(file)
    for broken in (b"no DICOM", FILES[0][:300], b""):
        with pytest.raises(Refused):
            sender.take(broken)
    (study,) = archive.studies()
    assert [s.instances for s in study.series] == [6, 1] and "two files claim each" in study.series[1].warnings[-1]
    assert not list(archive.objects.parts.iterdir())


def test_deleted_while_it_comes_and_sent_on(archive: Archive) -> None:
    sender = Stream(archive, "AE CT")
    for file in FILES[:3]:
        sender.take(file)
    archive.delete(archive.studies()[0].id)
    for file in FILES[3:5]:
        sender.take(file)
    (study,) = archive.studies()
    archive.delete(study.id)  # and with a series that waits
    sender.take(FILES[5])
    sender.take(FILES[4])
    archive.delete(study.id)
    assert archive.studies() == []
    sender.take(FILES[0])
    (study,) = archive.studies()
    assert (study.series[0].instances == 1 and study.series[0].description == "phantom") or study.series[0].modality == "MR"
    assert next(iter(DicomIndex(archive).studies({})))


def test_two_senders_of_one_series(archive: Archive) -> None:
    one, other = Stream(archive, "AE ONE"), Stream(archive, "AE TWO")
    for n, file in enumerate(FILES):
        (one, other)[n % 2].take(file)
    assert archive.studies()[0].series[0].instances == 6
    assert sorted((e.actor, e.detail["files"]) for e in archive.audit()) == [("AE ONE", 3), ("AE TWO", 3)]


def test_files_that_name_nobody_are_of_one_made_up_patient(archive: Archive) -> None:
    sender = Stream(archive, "AE CT")
    for file in FILES:
        one = pydicom.dcmread(io.BytesIO(file))
        one.PatientID = one.PatientName = ""
        one.save_as(buffer := io.BytesIO())
        sender.take(buffer.getvalue())
    (study,) = archive.studies()
    assert study.series[0].instances == 6 and archive.patient_ids() == [study.patient_id]


def test_what_waited_when_the_process_ended_is_laid_out_by_the_next(archive: Archive) -> None:
    sender = Stream(archive, "AE CT")
    for file in FILES:
        sender.take(file)
    again = Archive(archive.root)
    assert again.studies()[0].series[0].instances == 6


def test_a_disk_that_takes_nothing_more_leaves_what_was_there_to_be_read(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.add([Incoming(f"{n}.dcm", f) for n, f in enumerate(dicom_series(np.ones((8, 8, 2), np.uint16), np.eye(4), "BEFORE"))])
    Stream(archive, "AE CT").take(FILES[0])
    with monkeypatch.context() as patch:
        patch.setattr(stream, "settle", lambda _: (_ for _ in ()).throw(StorageFailed("the disk is full", "make room")))
        assert [s.patient_id for s in archive.studies("BEFORE")] == ["BEFORE"]
    assert archive.studies("PHANTOM")[0].series[0].instances == 1


def test_on_postgresql(postgres: str, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive", postgres)
    one, other = Stream(archive, "AE ONE"), Stream(archive, "AE TWO")
    for n, file in enumerate(FILES):
        (one, other)[n % 2].take(file)
        if n == 3:
            assert archive.studies()[0].series[0].instances == 4
    assert archive.studies()[0].series[0].instances == 6
    assert sum(e.detail["files"] for e in archive.audit()) == 6
    archive.delete(archive.studies()[0].id)
    one.take(FILES[0])
    assert archive.studies()[0].series[0].instances == 1
    archive.engine.dispose()
