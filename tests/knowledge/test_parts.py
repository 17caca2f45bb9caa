"""Frames that claim one position are told apart; what differs in size or direction becomes a part; geometry is right or said to be wrong."""

import io
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from agent.testing import dicom_series
from knowledge.studies.archive import Archive
from knowledge.studies.model import Geometry, Series
from knowledge.studies.unpack import Incoming

STEP = np.diag([1.0, 1, 2, 1])


def saved(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def changed(files: list[bytes], series: str, start: int = 1, **values: Any) -> list[bytes]:
    """The instances with new attributes, in the series `series`, numbered from `start`."""
    made = []
    for number, data in enumerate(files):
        one = pydicom.dcmread(io.BytesIO(data))
        one.SeriesInstanceUID, one.InstanceNumber = series, start + number
        for keyword, value in values.items():
            setattr(one, keyword, value(number) if callable(value) else value)
        made.append(saved(one))
    return made


def taken(archive: Archive, files: list[bytes]) -> list[Series]:
    done = archive.add([Incoming(f"{n}.dcm", f) for n, f in enumerate(files)])
    assert not done.rejected and len(done.studies) == 1
    return done.studies[0].series


def slices(level: int, lps: np.ndarray = STEP, shape: tuple[int, int, int] = (8, 8, 5)) -> list[bytes]:
    return dicom_series(np.full(shape, level, np.uint16), lps, study_uid="1.2.3", description="axial")


@pytest.mark.parametrize(
    ("keyword", "values", "words"),
    [
        ("EchoTime", [10.0, 80.0, 120.0], ["TE 10.0 ms", "TE 80.0 ms", "TE 120.0 ms"]),
        ("TemporalPositionIdentifier", [1, 2], ["phase 1", "phase 2"]),
        ("DiffusionBValue", [0.0, 1000.0], ["b 0.0", "b 1000.0"]),
        ("AcquisitionNumber", [4, 5], ["acquisition 4", "acquisition 5"]),
        ("ImageType", [["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]], ["M", "P"]),
    ],
)
def test_echoes_phases_and_b_values_of_one_series_are_told_apart(
    archive: Archive, keyword: str, values: list, words: list[str]
) -> None:
    files = [f for n, v in enumerate(values) for f in changed(slices(n + 1), "1.2.3.9", 1 + 5 * n, **{keyword: v})]
    series = taken(archive, files)
    assert [s.description for s in series] == [f"axial, {w}" for w in words]
    assert {s.series_uid for s in series} == {"1.2.3.9"} and len({s.id for s in series}) == len(values)
    for level, one in enumerate(series, 1):
        assert (one.shape, one.geometry, one.instances) == ([8, 8, 5], Geometry.OK, 5)
        assert (archive.volume(one.id).array == level).all()


def test_an_acquisition_number_that_runs_with_the_slices_splits_nothing(archive: Archive) -> None:
    (series,) = taken(archive, changed(slices(1), "1.2.3.9", AcquisitionNumber=lambda n: n, EchoTime=9.0))
    assert series.shape == [8, 8, 5]


def test_passes_that_nothing_names_are_dealt_by_number_and_doubted(archive: Archive) -> None:
    files = changed(slices(1), "1.2.3.9", 1) + changed(slices(2), "1.2.3.9", 6)
    first, second = taken(archive, files)
    assert first.geometry == second.geometry == Geometry.WARNING and "instance number alone" in first.warnings[0]
    assert (archive.volume(first.id).array == 1).all() and (archive.volume(second.id).array == 2).all()


def test_a_three_plane_localizer_makes_three_parts(archive: Archive) -> None:
    turn = np.array([[0, 0, 2.0, 0], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    files = changed(slices(1), "1.2.3.9", 1) + changed(slices(2, turn), "1.2.3.9", 6)
    axial, sagittal = taken(archive, files)
    assert (axial.plane, sagittal.plane) == ("axial", "sagittal") and axial.geometry is Geometry.OK


def test_another_size_makes_a_part_and_nothing_is_left_out(archive: Archive) -> None:
    files = changed(slices(1), "1.2.3.9", 1) + changed(slices(1, shape=(16, 16, 2)), "1.2.3.9", 6)
    assert sorted(s.shape for s in taken(archive, files)) == [[8, 8, 5], [16, 16, 2]]


def test_parts_stay_the_same_series_when_more_of_them_comes(archive: Archive) -> None:
    both = changed(slices(1), "1.2.3.9", 1, EchoTime=10.0) + changed(slices(2), "1.2.3.9", 6, EchoTime=80.0)
    before = taken(archive, both[:3] + both[5:8])
    after = taken(archive, both)
    assert [s.id for s in before] == [s.id for s in after] and [s.shape[2] for s in before] == [3, 3]


def test_a_mask_of_a_series_that_grew_is_dropped(archive: Archive) -> None:
    files = slices(1)
    (series,) = taken(archive, files[:3])
    archive.derived(series.id).mkdir(parents=True)
    (archive.derived(series.id) / "mask.nii.gz").write_bytes(b"of three slices")
    taken(archive, files[:3])
    assert archive.derived(series.id).exists(), "nothing changed"
    taken(archive, files)
    assert not archive.derived(series.id).exists(), "it would lie on the wrong slices"


def test_gantry_tilt_mixed_spacing_and_missing_slices_are_named(archive: Archive) -> None:
    sheared = np.array([[1, 0, 0, 0], [0, 1, 0.6, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])
    (tilted,) = taken(archive, slices(1, sheared))
    assert any("gantry tilt" in w and "16.7 degrees" in w for w in tilted.warnings)
    files = slices(1, shape=(8, 8, 9))
    study = [f for n, f in enumerate(files) if n not in (3, 6, 7)]
    other = Archive(archive.root.parent / "other")
    (gaps,) = taken(other, study)
    assert gaps.warnings == ["3 slices are missing: distances vary from 2.00 to 6.00 mm"]
    mixed = [pydicom.dcmread(io.BytesIO(f)) for f in slices(1)]
    for one, z in zip(mixed, (0, 2, 4, 7, 10.3), strict=True):
        one.ImagePositionPatient = [0, 0, z]
    third = Archive(archive.root.parent / "third")
    (uneven,) = taken(third, [saved(m) for m in mixed])
    assert "mixed" in uneven.warnings[0]


def enhanced(array: np.ndarray, echoes: list[float]) -> bytes:
    """An enhanced MR instance [column, row, slice] with one set of frames for each echo."""
    one = pydicom.dcmread(io.BytesIO(slices(0)[0]))
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = pydicom.uid.EnhancedMRImageStorage
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(one, keyword)
    shared, frames = Dataset(), []
    measures, plane = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.7], 3.0
    plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([plane])
    for number, echo in enumerate(echoes):
        for k in range(array.shape[2]):
            frame, position, timing, scale = Dataset(), Dataset(), Dataset(), Dataset()
            position.ImagePositionPatient, timing.EffectiveEchoTime = [0, 0, 3.0 * k], echo
            scale.RescaleSlope, scale.RescaleIntercept = number + 1, 0
            frame.PlanePositionSequence, frame.MREchoSequence = Sequence([position]), Sequence([timing])
            frame.PixelValueTransformationSequence = Sequence([scale])
            frames.append(frame)
    one.SharedFunctionalGroupsSequence, one.PerFrameFunctionalGroupsSequence = Sequence([shared]), Sequence(frames)
    one.NumberOfFrames, one.Columns, one.Rows = len(frames), array.shape[0], array.shape[1]
    one.PixelData = np.concatenate([array.transpose(2, 1, 0)] * len(echoes)).astype("<u2").tobytes()
    one.SOPInstanceUID = generate_uid()
    return saved(one)


def test_an_enhanced_multiframe_is_read_by_its_functional_groups(archive: Archive) -> None:
    array = np.arange(6 * 8 * 4).reshape(6, 8, 4)
    first, second = taken(archive, [enhanced(array, [10.0, 90.0])])
    assert (first.shape, first.spacing_mm, first.geometry) == ([6, 8, 4], [0.7, 0.5, 3.0], Geometry.OK)
    np.testing.assert_array_equal(archive.volume(first.id).array, array)
    np.testing.assert_array_equal(archive.volume(second.id).array, array * 2)  # its own rescale slope
    assert second.description.endswith("TE 90.0 ms")
