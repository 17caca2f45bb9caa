"""Bringing two studies together: known movements found, what doesn't fit refused, points mapped there and back."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from knowledge import sample
from tests.conftest import shared
from tools.course.registration import Image, Registration, register


def brain() -> Image:
    import nibabel as nib

    image = nib.as_closest_canonical(nib.load(sample.FOLDER / "flair.nii.gz"))
    return Image(np.asarray(image.dataobj, np.float32), image.affine, False)


def moved(image: Image, turn: Rotation, shift: np.ndarray, bend_mm: float = 0.0) -> tuple[Image, np.ndarray, np.ndarray]:
    """The image as of a patient who lies otherwise; points of it, and where these lie in `image`."""
    random = np.random.default_rng(0)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in image.array.shape), indexing="ij"), -1).reshape(-1, 3)
    points = index @ image.affine[:3, :3].T + image.affine[:3, 3]
    middle = points.mean(0)
    bent = points + bend_mm * np.sin(points[:, [1, 2, 0]] / 28.0)
    there = turn.apply(bent - middle) + middle + shift
    voxels = ((there - image.affine[:3, 3]) @ np.linalg.inv(image.affine[:3, :3]).T).T
    array = ndimage.map_coordinates(image.array, voxels, order=1).reshape(image.array.shape)
    array = array * 1.15 + random.normal(0, 0.01 * array.max(), array.shape) * (array > 0)
    inside = np.flatnonzero(array.ravel() > 0)[:: max(1, int((array > 0).sum() / 400))]
    return Image(array.astype(np.float32), image.affine, False), points[inside], there[inside]


TURN, SHIFT = Rotation.from_euler("xyz", (6, -4, 8), degrees=True), np.array([7.0, -9.0, 5.0])


@pytest.fixture(scope="module")
def found() -> tuple[Registration, np.ndarray, np.ndarray]:
    base = brain()
    other, points, truth = moved(base, TURN, SHIFT)
    return register(other, base, same_kind=True), points, truth


def test_a_rigid_movement_is_found_to_a_fraction_of_a_voxel(found: tuple[Registration, np.ndarray, np.ndarray]) -> None:
    made, points, truth = found
    assert np.linalg.norm(made.to_moving(points) - truth, axis=1).mean() < 0.5
    assert made.field is None, "nothing was bent, so nothing is deformed"
    assert not made.quality.doubts(True) and made.quality.inconsistent_mm < 3


def test_points_go_there_and_back(found: tuple[Registration, np.ndarray, np.ndarray]) -> None:
    made, points, _ = found
    assert np.allclose(made.to_fixed(made.to_moving(points)), points, atol=1e-3)


def test_a_bend_is_followed_where_it_pays() -> None:
    base = brain()
    other, points, truth = moved(base, TURN, SHIFT, bend_mm=3.5)
    rigid = register(other, base, same_kind=True, deform=False)
    made = register(other, base, same_kind=True)
    assert made.quality.deformed and made.quality.folded == 0
    errors = [float(np.linalg.norm(r.to_moving(points) - truth, axis=1).mean()) for r in (rigid, made)]
    assert errors[1] < errors[0]
    assert np.linalg.norm(made.to_fixed(made.to_moving(points)) - points, axis=1).mean() < 0.2


def test_another_patients_brain_is_refused() -> None:
    import nibabel as nib

    file = sorted((shared() / "data" / "mri3d_glioma_brats_NC").rglob("Flair_*.nii.gz"))[0]
    image = nib.as_closest_canonical(nib.load(file))
    other = Image(np.asarray(image.dataobj, np.float32), image.affine, False)
    assert "correlate" in register(other, brain(), same_kind=True).quality.doubts(True)


@pytest.mark.slow
def test_made_follow_ups_of_real_volumes_keep_their_scores() -> None:
    from tests.eval_course import course_scores

    scores = course_scores(pairs=9)
    assert scores["match_f1"] >= 0.95 and scores["false_growth"] <= 0.06 and not scores["refused"]
