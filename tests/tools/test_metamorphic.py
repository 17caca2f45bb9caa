"""The same body in another guise has the same millimetres: flips, permuted axes, finer voxels, other orientations, oblique affines."""

from itertools import permutations

import numpy as np
import pytest

from knowledge.studies.volume import Volume
from tools.models.shape import axial, extent_3d, largest_diameters, lesions, midline, place, values_in, volume_ml

HALVES = (24.0, 15.0, 10.0)
"""Half axes of the ellipsoid in mm: left-right, front-back, head-feet."""
VOLUME_ML = 4 / 3 * np.pi * np.prod(HALVES) / 1000


def turn(x: float, y: float, z: float) -> np.ndarray:
    """A rotation matrix from angles (radians) around the three axes."""
    cx, sx, cy, sy, cz, sz = np.cos(x), np.sin(x), np.cos(y), np.sin(y), np.cos(z), np.sin(z)
    return np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]]) @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]) @ np.array(
        [[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])  # fmt: skip


def drawn(
    affine: np.ndarray, shape: tuple[int, ...], centre: tuple[float, ...] = (5.0, -7.0, 3.0), turned: np.ndarray | None = None
) -> Volume:
    """The ellipsoid, sampled on the grid of `affine`."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    world = index @ affine[:3, :3].T + affine[:3, 3] - centre
    own = world @ (np.eye(3) if turned is None else turned)
    return Volume(((own / HALVES) ** 2).sum(-1).__le__(1).astype(np.uint8), affine)


def grid(spacing: tuple[float, ...], shape: tuple[int, ...], rotation: np.ndarray | None = None) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if rotation is None else rotation) @ np.diag(spacing)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine


def sizes(mask: Volume) -> np.ndarray:
    plane = largest_diameters(axial(mask))
    space, extents = extent_3d(mask)
    return np.array([volume_ml(mask), plane.long_mm, plane.short_mm, space, *extents])


TRUE = np.array([VOLUME_ML, 48, 30, 48, 48, 30, 20])


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.5, 0.5, 0.5), (0.7, 0.7, 3), (1, 2, 1), (2, 2, 2)])
def test_an_ellipsoid_has_its_analytic_sizes_at_any_spacing(spacing: tuple[float, ...]) -> None:
    shape = tuple(int(90 / s) for s in spacing)
    found = sizes(drawn(grid(spacing, shape), shape))
    assert found[0] == pytest.approx(TRUE[0], rel=0.03)
    np.testing.assert_allclose(found[1:], TRUE[1:], atol=1.2 * max(spacing))


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_permuted_and_flipped_axes_change_no_size(order: tuple[int, ...]) -> None:
    shape = (90, 80, 40)
    plain = drawn(grid((1, 1, 2), shape), shape)
    for flips in ((), (0,), (1, 2), (0, 1, 2)):
        array, affine = plain.array.transpose(order), plain.affine[:, [*order, 3]].copy()
        for axis in flips:
            affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
            affine[:3, axis] *= -1
            array = np.flip(array, axis)
        np.testing.assert_allclose(sizes(Volume(array.copy(), affine)), sizes(plain), atol=1e-6)


@pytest.mark.parametrize("code", ["LPS", "RAS", "PIL", "ASR", "SLP"])
def test_reoriented_is_the_same_body(code: str) -> None:
    shape = (90, 80, 40)
    plain = drawn(grid((1, 1, 2), shape), shape)
    np.testing.assert_allclose(sizes(plain.oriented(code)), sizes(plain), atol=1e-6)


@pytest.mark.parametrize("angles", [(0.3, 0, 0), (0, 0.4, 0.2), (0.2, -0.3, 0.5)])
def test_an_oblique_scan_of_the_same_body_has_the_same_volume_and_longest_diameter(angles: tuple[float, float, float]) -> None:
    shape = (100, 100, 70)
    straight = sizes(drawn(grid((1, 1, 1), shape), shape))
    oblique = sizes(drawn(grid((1, 1, 1), shape, turn(*angles)), shape))
    assert oblique[0] == pytest.approx(straight[0], rel=0.02)
    assert oblique[3] == pytest.approx(straight[3], abs=1.5)
    np.testing.assert_allclose(oblique[4:], TRUE[4:], atol=2.0)  # extents are along the patient's own axes


def test_a_body_turned_with_its_grid_has_its_own_sizes_in_the_plane_of_its_slices() -> None:
    """The grid is oblique and the body turned with it: on the acquired slices nothing has changed."""
    shape, rotation = (90, 90, 60), turn(0.15, 0.1, 0.2)
    straight = drawn(grid((1, 1, 1), shape), shape, centre=(0, 0, 0))
    together = drawn(grid((1, 1, 1), shape, rotation), shape, centre=(0, 0, 0), turned=rotation)
    np.testing.assert_allclose(sizes(together)[:4], sizes(straight)[:4], atol=1e-6)


def test_resampling_moves_sizes_by_no_more_than_a_voxel() -> None:
    fine = drawn(grid((0.5, 0.5, 0.5), (180, 180, 120)), (180, 180, 120))
    coarse = drawn(grid((2, 2, 2), (45, 45, 30)), (45, 45, 30))
    assert sizes(coarse)[0] == pytest.approx(sizes(fine)[0], rel=0.03)
    np.testing.assert_allclose(sizes(coarse)[1:], sizes(fine)[1:], atol=2.0)


def test_lesions_are_told_apart_and_ordered_by_size() -> None:
    shape = (100, 60, 60)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    array = np.zeros(shape, np.uint8)
    for centre, radius in (((20, 30, 30), 6), ((55, 30, 30), 10), ((85, 30, 30), 3)):
        array |= (((index - centre) ** 2).sum(-1) <= radius**2).astype(np.uint8)
    array[0, 0, 0] = 1  # a lone voxel is noise of the outline
    found = lesions(Volume(array, np.eye(4)))
    radii = [(3 * volume_ml(f) * 1000 / (4 * np.pi)) ** (1 / 3) for f in found]
    np.testing.assert_allclose(radii, [10, 6, 3], rtol=0.05)


def test_the_midline_follows_a_turned_head_and_sides_follow_the_patient() -> None:
    shape = (120, 150, 20)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1).astype(float)
    for angle in (-0.2, 0.0, 0.2):
        away = index[..., :2] - (60, 75)
        x = away[..., 0] * np.cos(angle) + away[..., 1] * np.sin(angle)
        y = -away[..., 0] * np.sin(angle) + away[..., 1] * np.cos(angle)
        brain = (x / 50) ** 2 + (y / 65) ** 2 < 1
        spot = (x - 30) ** 2 + (y + 10) ** 2 < 25  # 30 mm to the patient's left (LPS: columns to the left)
        where = place(Volume(spot.astype(np.uint8), np.diag([-1.0, -1, 1, 1])), brain)
        assert where.side == "left" and where.from_midline_mm == pytest.approx(30, abs=1) and not where.crosses_midline
        assert abs(midline(brain).slope) == pytest.approx(np.tan(abs(angle)), abs=0.01)


def test_values_inside_a_mask_are_those_of_the_image() -> None:
    mask = np.zeros((10, 10, 4), np.uint8)
    mask[2:6, 2:6] = 1
    image = np.full(mask.shape, -900.0)
    image[mask > 0] = np.linspace(0, 100, mask.sum())
    told = values_in(Volume(mask, np.eye(4)), Volume(image, np.eye(4)))
    assert told["mean"] == told["median"] == 50 and told["min"] == 0 and told["max"] == 100 and told["p5"] == pytest.approx(5)
