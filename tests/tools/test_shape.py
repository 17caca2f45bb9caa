"""Sizes in true millimetres: spheres of known volume, and the same millimetres however the grid lies."""

import nibabel as nib
import numpy as np
import pytest

from agent.testing import sphere
from knowledge.studies.volume import Volume
from tools.models.shape import axial, largest_diameters, place, volume_ml

RADIUS = 20.0


def ball(sizes: tuple[float, float, float], shape: tuple[int, int, int] = (64, 64, 64)) -> Volume:
    affine = np.diag([*sizes, 1.0])
    return Volume(sphere(shape, affine, RADIUS).astype(np.uint8), affine, "axial")


@pytest.mark.parametrize(
    ("sizes", "shape"), [((1, 1, 1), (64, 64, 64)), ((0.6, 0.6, 3), (90, 90, 20)), ((0.9, 1.3, 2), (60, 50, 30))]
)
def test_a_sphere_of_known_size(sizes, shape) -> None:
    mask = ball(sizes, shape)
    assert volume_ml(mask) == pytest.approx(4 / 3 * np.pi * RADIUS**3 / 1000, rel=0.03)
    size = largest_diameters(axial(mask))
    assert size.long_mm == pytest.approx(2 * RADIUS, abs=max(sizes[:2]))
    assert size.short_mm == pytest.approx(2 * RADIUS, abs=max(sizes[:2]))


def test_an_ellipse_has_its_two_axes() -> None:
    affine = np.diag([0.5, 0.5, 2, 1.0])
    x, y = np.meshgrid(np.arange(160) * 0.5 - 40, np.arange(160) * 0.5 - 40, indexing="ij")
    angle = np.radians(30)
    u, v = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    array = np.zeros((160, 160, 5), np.uint8)
    array[:, :, 2] = (u / 25) ** 2 + (v / 10) ** 2 <= 1
    size = largest_diameters(Volume(array, affine, "axial"))
    assert size.frame == 2
    assert size.long_mm == pytest.approx(50, abs=0.6)
    assert size.short_mm == pytest.approx(20, abs=0.6)
    ends = np.array(size.long_line) * 0.5
    assert np.linalg.norm(ends[0] - ends[1]) == pytest.approx(size.long_mm, abs=1e-6)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSL", "IRA"])
def test_reorienting_changes_no_millimetre(codes: str) -> None:
    rng = np.random.default_rng(3)
    array = np.zeros((40, 50, 30), np.uint8)
    array[8:31, 12:44, 9:22] = rng.random((23, 32, 13)) > 0.1
    original = Volume(array, np.diag([0.7, 0.9, 1.5, 1.0]), "axial")
    image = nib.Nifti1Image(array, original.affine).as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(original.affine), nib.orientations.axcodes2ornt(tuple(codes)))
    )
    turned = Volume(np.asarray(image.dataobj), image.affine, "axial")
    assert volume_ml(turned) == pytest.approx(volume_ml(original))
    one, two = largest_diameters(axial(original)), largest_diameters(axial(turned))
    assert (one.long_mm, one.short_mm) == pytest.approx((two.long_mm, two.short_mm))


def test_sides_are_the_patients() -> None:
    brain = np.zeros((40, 40, 40), bool)
    brain[5:35, 5:35, 5:35] = True
    array = np.zeros((40, 40, 40), np.uint8)
    array[25:30, 8:14, 28:33] = 1  # in an LPS grid high columns lie to the patient's left
    spot = place(Volume(array, np.diag([-1.0, -1, 1, 1]), "source"), brain)
    assert spot.side == "left" and not spot.crosses_midline
    assert spot.words == "anterior third front to back, upper third bottom to top"


def test_an_empty_mask_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty"):
        largest_diameters(Volume(np.zeros((4, 4, 4), np.uint8), np.eye(4)))
