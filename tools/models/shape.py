"""Sizes of a mask in true millimetres, and where it lies."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist, squareform
from skimage.measure import find_contours, label, marching_cubes, regionprops

from knowledge.studies.volume import Volume


@dataclass(frozen=True)
class Diameters:
    """Longest diameter on one frame and the widest chord at a right angle to it (mm); lines in pixels of the frame."""

    frame: int
    long_mm: float
    short_mm: float
    long_line: list[list[float]]
    short_line: list[list[float]]
    box: list[float]


def volume_ml(mask: Volume) -> float:
    """Voxels of the mask times the voxel volume, in mL."""
    return float((mask.array > 0).sum()) * mask.voxel_ml


def axial(volume: Volume) -> Volume:
    """The volume with frames across the axis nearest to head-feet, columns to the left, rows to posterior."""
    return volume.oriented("LPS")


def largest_diameters(mask: Volume) -> Diameters:
    """The frame of `mask` (an axial stack) with the longest diameter, and its perpendicular.

    Method: the outline at half a voxel around the largest connected region of each frame; the longest distance
    between two outline points; then the widest chord at a right angle to it (the bidimensional measure of RANO).
    Raises ValueError for an empty mask.
    """
    dx, dy, _ = mask.spacing_mm
    areas = (mask.array > 0).sum((0, 1))
    if not areas.any():
        raise ValueError("the mask is empty")
    best: tuple[float, int, np.ndarray, np.ndarray] | None = None
    for frame in np.argsort(areas)[::-1]:
        # A frame of this area can't hold a longer line than the diagonal of its bounding box.
        region = _largest_region(mask.array[:, :, frame] > 0)
        if region is None:
            break
        points = _outline(region)
        scaled = points * (dx, dy)
        if best is not None and float(np.linalg.norm(np.ptp(scaled, axis=0))) <= best[0]:
            continue
        ends, length = _farthest(scaled)
        if best is None or length > best[0]:
            best = (length, int(frame), points, points[list(ends)])
    assert best is not None
    length, frame, points, ends_px = best
    short, short_px = _perpendicular(points, ends_px, (dx, dy))
    x0, y0 = points.min(0)
    x1, y1 = points.max(0)
    return Diameters(frame, length, short, ends_px.tolist(), short_px, [float(x0), float(y0), float(x1), float(y1)])


def _largest_region(frame: np.ndarray) -> np.ndarray | None:
    regions = regionprops(label(frame))
    if not regions:
        return None
    biggest = max(regions, key=lambda r: r.area)
    return np.asarray(label(frame) == biggest.label)


def _outline(region: np.ndarray) -> np.ndarray:
    """Points [n, 2] (column, row) of the outline at level 0.5."""
    padded = np.pad(region.astype(float), 1)
    return np.asarray(max(find_contours(padded, 0.5), key=len)) - 1


def _farthest(points: np.ndarray) -> tuple[tuple[int, int], float]:
    try:
        corners = ConvexHull(points).vertices
    except QhullError:
        corners = np.arange(len(points))
    distances = squareform(pdist(points[corners]))
    i, j = np.unravel_index(int(distances.argmax()), distances.shape)
    return (int(corners[i]), int(corners[j])), float(distances[i, j])


def _perpendicular(points: np.ndarray, ends: np.ndarray, spacing: tuple[float, float]) -> tuple[float, list[list[float]]]:
    scale = np.array(spacing)
    start, direction = ends[0] * scale, (ends[1] - ends[0]) * scale
    along = direction / np.linalg.norm(direction)
    across = np.array([-along[1], along[0]])
    relative = points * scale - start
    u, v = relative @ along, relative @ across
    closed_u, closed_v = np.append(u, u[0]), np.append(v, v[0])
    best, line = 0.0, [ends[0].tolist(), ends[0].tolist()]
    for position in np.linspace(0, float(u.max()), 4 * max(8, int(u.max() / min(spacing)))):
        before, after = closed_u[:-1] - position, closed_u[1:] - position
        crossing = (before * after <= 0) & (before != after)
        t = before[crossing] / (before[crossing] - after[crossing])
        heights = closed_v[:-1][crossing] + t * (closed_v[1:][crossing] - closed_v[:-1][crossing])
        if len(heights) > 1 and float(np.ptp(heights)) > best:
            best = float(np.ptp(heights))
            line = [((start + position * along + h * across) / scale).tolist() for h in (heights.min(), heights.max())]
    return best, line


@dataclass(frozen=True)
class Place:
    """Where a mask lies within the head: sides by patient, thirds by the brain's bounding box (no atlas)."""

    side: str
    words: str
    share_on_side: float
    crosses_midline: bool
    from_midline_mm: float
    """Distance of the mask's centre to the midline."""


def place(mask: Volume, brain: np.ndarray) -> Place:
    """Side and third of the mask's centre within `brain` (a boolean array), both on one LPS grid.

    The midline is the brain's longer axis seen from above, which follows a turned head.
    """
    tumour = np.argwhere(mask.array > 0)
    inside = np.argwhere(brain[::2, ::2, ::2]) * 2
    away = midline(brain, mask.spacing_mm).right_to_left(tumour, mask.spacing_mm)
    share = float((away > 0).mean())
    side = "left" if share >= 0.5 else "right"
    low, high = inside.min(0), inside.max(0)
    centre = (tumour.mean(0) - low) / (high - low)
    depth = ("anterior", "middle", "posterior")[min(2, int(centre[1] * 3))]
    height = ("lower", "middle", "upper")[min(2, int(centre[2] * 3))]
    return Place(side, f"{depth} third front to back, {height} third bottom to top", max(share, 1 - share),
                 min(share, 1 - share) > 0.05, abs(float(away.mean())))  # fmt: skip


SMALLEST_ML = 0.03
"""Separate regions below this are noise of the outline, not lesions of their own (a sphere of 3.9 mm)."""
MOST_LESIONS = 20


def lesions(mask: Volume) -> list[Volume]:
    """The connected regions of a mask (corners count as connected), largest first, each as a mask of its own."""
    parts, count = ndimage.label(mask.array > 0, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    order = [int(i) + 1 for i in np.argsort(sizes)[::-1][:MOST_LESIONS] if sizes[i] * mask.voxel_ml >= SMALLEST_ML]
    if not order and count:
        order = [int(np.argmax(sizes)) + 1]
    return [mask.like((parts == i).astype(np.uint8)) for i in order]


def extent_3d(mask: Volume) -> tuple[float, tuple[float, float, float]]:
    """The longest distance between two surface points in space, and the extents along left-right, front-back and head-feet (mm).

    Points lie halfway between voxels inside and outside (marching cubes at one half), so a voxel's own width counts.
    Raises ValueError for an empty mask.
    """
    turned = axial(mask)
    where = np.argwhere(turned.array > 0)
    if not len(where):
        raise ValueError("the mask is empty")
    low, high = where.min(0), where.max(0) + 1
    cut = np.pad((turned.array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] > 0).astype(np.float32), 1)
    points, *_ = marching_cubes(cut, 0.5)
    assert turned.affine is not None
    world = (points - 1 + low) @ turned.affine[:3, :3].T
    try:
        corners = world[ConvexHull(world).vertices]
    except QhullError:
        corners = world
    return float(pdist(corners).max()), tuple(float(v) for v in np.ptp(world, axis=0))  # type: ignore[return-value]


@dataclass(frozen=True)
class Midline:
    """The plane between the halves of a head, as a line in each axial slice: x = slope * y + middle (voxels of an LPS grid)."""

    slope: float
    middle: float

    def right_to_left(self, points: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
        """Signed distance of voxels [n, 3] to the plane in mm: below 0 is the patient's right."""
        dx, dy, _ = spacing
        slope = self.slope * dx / dy
        return np.asarray((points[:, 0] - self.slope * points[:, 1] - self.middle) * dx / np.sqrt(1 + slope**2))


STEEPEST = 0.6
"""Beyond this slope (31 degrees) the longer axis of what is seen is no longer taken for the head's front-back axis."""


def midline(brain: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Midline:
    """The longer principal axis of the brain seen from above, through its centre; `brain` is boolean on an LPS grid.

    It follows a turned head. A brain too round, or one cut so that the axis lies far off, is halved straight.
    """
    inside = (np.argwhere(brain[::2, ::2, ::2]) * 2)[:, :2]
    scale = np.array(spacing[:2])
    centre = inside.mean(0)
    lengths, axes = np.linalg.eigh(np.cov((inside - centre).T * scale[:, None]))
    x, y = axes[:, 1]  # the direction of the larger spread
    slope = x / y if abs(y) > 1e-9 else np.inf
    if abs(slope) > STEEPEST or lengths[1] < 1.1 * lengths[0]:
        slope = 0.0
    slope *= scale[1] / scale[0]  # from mm to voxels
    return Midline(float(slope), float(centre[0] - slope * centre[1]))


def values_in(mask: Volume, image: Volume) -> dict[str, float]:
    """Mean, deviation, median, least, greatest, 5th and 95th percentile of `image` inside `mask` (one grid)."""
    inside = np.asarray(image.array, np.float64)[mask.array > 0]
    if not inside.size:
        raise ValueError("the mask is empty")
    low, middle, high = np.percentile(inside, [5, 50, 95])
    found = {
        "mean": inside.mean(),
        "sd": inside.std(),
        "median": middle,
        "min": inside.min(),
        "max": inside.max(),
        "p5": low,
        "p95": high,
    }
    return {k: round(float(v), 3) for k, v in found.items()}


@dataclass(frozen=True)
class Sizes:
    """Sizes of one outline of a region."""

    volume_ml: float
    plane: Diameters
    space_mm: float
    extents_mm: tuple[float, float, float]

    @classmethod
    def of(cls, mask: Volume) -> "Sizes":
        space, extents = extent_3d(mask)
        return cls(volume_ml(mask), largest_diameters(mask), space, extents)


def edge_ml(volume_ml: float, spacing_mm: tuple[float, float, float]) -> float:
    """What half a voxel at the surface of a ball of this volume holds (mL): the least doubt of any volume on a grid."""
    radius = (3 * volume_ml * 1000 / (4 * np.pi)) ** (1 / 3)
    return float(4 * np.pi * radius**2 * np.cbrt(np.prod(spacing_mm)) / 2 / 1000)
