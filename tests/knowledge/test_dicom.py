"""Series from instances: order by position, true geometry, what is irregular is named."""

import io
import random

import numpy as np
import pydicom
import pytest
from nibabel.affines import voxel_sizes

from agent.testing import dicom_series, sphere
from knowledge.studies.archive import Archive
from knowledge.studies.model import Geometry
from knowledge.studies.unpack import Incoming
from tests.conftest import shared

OBLIQUE = np.array([[0.8, -0.5, 0.3, -40], [0.5, 0.8, 0.4, 10], [-0.4, -0.1, 2.6, 5], [0, 0, 0, 1.0]])


def orthogonal(lps: np.ndarray, sizes: tuple[float, float, float]) -> np.ndarray:
    """`lps` with orthogonal axes of `sizes` mm."""
    axes, _ = np.linalg.qr(lps[:3, :3])
    if np.dot(np.cross(axes[:, 0], axes[:, 1]), axes[:, 2]) < 0:
        axes[:, 2] *= -1
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = axes * sizes, lps[:3, 3]
    return made


def add(archive: Archive, files: list[bytes]):
    return archive.add([Incoming(f"{i}.dcm", f) for i, f in enumerate(files)])


@pytest.mark.parametrize("sizes", [(1.0, 1.0, 1.0), (0.5, 0.7, 3.0)])
def test_an_oblique_series_in_any_order_is_stacked_by_position(archive: Archive, sizes) -> None:
    lps = orthogonal(OBLIQUE, sizes)
    array = np.arange(20 * 16 * 9).reshape(20, 16, 9).astype(np.uint16)
    files = dicom_series(array, lps)
    random.Random(1).shuffle(files)
    done = add(archive, files)
    (series,) = done.studies[0].series
    volume = archive.volume(series.id)
    assert series.geometry is Geometry.OK and series.instances == 9
    assert volume.array.shape == (20, 16, 9)
    np.testing.assert_allclose(voxel_sizes(volume.affine), sizes, rtol=1e-4)
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, np.diag([-1, -1, 1, 1]) @ lps, atol=1e-3)


def test_a_missing_slice_is_named(archive: Archive) -> None:
    files = dicom_series(np.ones((8, 8, 7), np.uint16), np.diag([1.0, 1, 2, 1]))
    del files[3]
    (series,) = add(archive, files).studies[0].series
    assert series.geometry is Geometry.WARNING
    assert "1 slice is missing" in series.warnings[0]


def test_a_duplicated_slice_is_named_and_dropped(archive: Archive) -> None:
    array, study = np.ones((8, 8, 4), np.uint16), "1.2.3.4"
    first = dicom_series(array, np.diag([1.0, 1, 2, 1]), study_uid=study)
    again = dicom_series(array[:, :, :1] * 2, np.diag([1.0, 1, 2, 1]), study_uid=study)
    series_uid = pydicom.dcmread(io.BytesIO(first[0])).SeriesInstanceUID
    twin = pydicom.dcmread(io.BytesIO(again[0]))
    twin.SeriesInstanceUID = series_uid
    buffer = io.BytesIO()
    twin.save_as(buffer)
    (series,) = add(archive, [*first, buffer.getvalue()]).studies[0].series
    assert series.shape == [8, 8, 4]
    assert any("lie at a position that another slice has" in w for w in series.warnings)


def test_two_series_of_one_study_stay_apart(archive: Archive) -> None:
    one = dicom_series(np.ones((8, 8, 3), np.uint16), np.eye(4), description="T1", study_uid="1.2.3")
    two = dicom_series(np.ones((8, 8, 3), np.uint16), np.eye(4), description="T2 FLAIR", study_uid="1.2.3")
    (study,) = add(archive, [*one, *two]).studies
    assert sorted(s.sequence for s in study.series) == ["FLAIR", "T1"]


def test_a_sphere_keeps_its_volume_through_dicom(archive: Archive) -> None:
    lps = orthogonal(OBLIQUE, (0.8, 0.9, 2.5))
    ball = sphere((64, 60, 24), np.diag([-1, -1, 1, 1]) @ lps, 18.0)
    (series,) = add(archive, dicom_series(ball.astype(np.uint16) * 100, lps)).studies[0].series
    volume = archive.volume(series.id)
    measured = float((volume.array > 50).sum()) * volume.voxel_ml
    assert measured == pytest.approx(4 / 3 * np.pi * 18**3 / 1000, rel=0.02)


def test_the_same_files_again_change_nothing(archive: Archive) -> None:
    files = dicom_series(np.ones((8, 8, 3), np.uint16), np.eye(4))
    first, second = add(archive, files), add(archive, files)
    assert first == second


def test_a_real_series_has_its_true_geometry(archive: Archive) -> None:
    folder = shared("data", "dicom_mr_brain_defaced")
    done = archive.add([Incoming(p.name, p.read_bytes()) for p in sorted(folder.glob("*.dcm"))])
    (series,) = done.studies[0].series
    assert (series.shape, series.spacing_mm) == ([256, 256, 80], [1.0547, 1.0547, 1.2])
    assert series.geometry is Geometry.OK and series.modality == "MR"
    assert archive.volume(series.id).array.max() > 0


def test_every_odd_file_is_taken_or_refused_with_a_reason(archive: Archive) -> None:
    files = [p for p in shared("data", "dicom_odd_pydicom").rglob("*") if p.is_file()]
    done = archive.add([Incoming(p.name, p.read_bytes()) for p in files])
    assert len(done.rejected) + sum(s.source.files for s in done.studies) + len(done.records) <= len(files)
    assert all(len(r.reason) > 10 for r in done.rejected)
    assert len(done.studies) >= 20
