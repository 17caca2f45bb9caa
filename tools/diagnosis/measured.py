"""Signs that can be measured on an outlined brain lesion: each gives a number, its threshold, and what that is worth."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tools.base import Bench
from tools.errors import ToolError
from tools.models.masks import Segmentation, on_grid, segmentation
from tools.models.shape import midline

BRIGHT, NOT_BRIGHT = 1.5, 1.0
"""Standard deviations above the brain outside the lesion: T2 counts as bright above the first, FLAIR as suppressed below the second. Our own choice,
made on phantoms; not calibrated on patients."""
MISMATCH_SHARE = 0.5
RING_SHARE = 0.6
SMALLEST_ML = 0.3
"""An interior or rim below this is too small to tell a ring from a spot."""
CROSSING_SHARE = 0.1
RIM_MM = 3.0


@dataclass(frozen=True)
class Measured:
    """One sign: whether it is there by its threshold, the number behind it, and the slice that shows it best."""

    sign: str
    present: bool
    value: float
    unit: str
    words: str
    frame: int


def outlined(bench: Bench, study: str) -> Segmentation | None:
    """The outline of a brain lesion on a study; None where there is none."""
    try:
        done = segmentation(bench, study, None)
    except ToolError:
        return None
    part = done.part(done.regions[0]) if done.regions else None
    fits = "BRAIN" in done.bundle.card.body_part and done.regions[0].tumour
    return done if fits and part is not None and part.array.any() else None


def measured(bench: Bench, done: Segmentation) -> list[Measured]:
    """Every sign that the study's sequences allow."""
    found = [f(bench, done) for f in MEASURES.values()]
    return [m for m in found if m is not None]


def crosses_midline(bench: Bench, done: Segmentation) -> Measured | None:
    """Share of the lesion on its smaller side of the midline."""
    whole = done.part(done.regions[0])
    assert whole is not None
    aligned, image = whole.oriented("LPS"), done.volume.oriented("LPS")
    voxels = np.argwhere(aligned.array > 0)
    away = midline(image.array != image.array.min(), aligned.spacing_mm).right_to_left(voxels, aligned.spacing_mm)
    share = float(min((away > 0).mean(), (away < 0).mean()))
    there = share > CROSSING_SHARE
    words = f"{100 * share:.0f} % of the outlined lesion lies on the other side of the midline ({100 * CROSSING_SHARE:.0f} % and more count as crossing)"
    return Measured("butterfly", there, round(100 * share, 1), "%", words, _frame(aligned.array))


def ring_enhancement(bench: Bench, done: Segmentation) -> Measured | None:
    """Share of the surface of the unenhancing core that enhances."""
    regions = {r.name: done.part(r) for r in done.regions}
    core, bright = regions.get("tumour core"), regions.get("enhancing tumour")
    if core is None or bright is None:
        return None
    ml = done.mask.voxel_ml
    enhancing = bright.array > 0
    inside = ndimage.binary_fill_holes((core.array > 0) | enhancing) & ~enhancing
    words = "{ring:.0f} % of the surface of the core's unenhancing part ({core:.1f} mL) enhances ({limit:.0f} % and more count as a ring)"
    if inside.sum() * ml < SMALLEST_ML or enhancing.sum() * ml < SMALLEST_ML:
        told = f"the outline holds {enhancing.sum() * ml:.1f} mL that enhances and {inside.sum() * ml:.1f} mL of core that doesn't, too little for a ring"
        return Measured("ring_enhancement", False, 0.0, "%", told, _frame(core.array))
    shell = ndimage.binary_dilation(inside) & ~inside
    share = float(enhancing[shell].mean())
    told = words.format(ring=100 * share, core=inside.sum() * ml, limit=100 * RING_SHARE)
    return Measured("ring_enhancement", share >= RING_SHARE, round(100 * share, 1), "%", told, _frame(inside))


def t2_flair_mismatch(bench: Bench, done: Segmentation) -> Measured | None:
    """Share of the lesion's inside that is bright on T2 and not on FLAIR, where its rim is bright on FLAIR."""
    t2, flair = _sequence(bench, done, "T2"), _sequence(bench, done, "FLAIR")
    whole = done.part(done.regions[0])
    if t2 is None or flair is None or whole is None:
        return None
    lesion = whole.array > 0
    depth = ndimage.distance_transform_edt(lesion, sampling=whole.spacing_mm)
    inside, rim = depth > RIM_MM, lesion & (depth <= RIM_MM)
    if inside.sum() * whole.voxel_ml < SMALLEST_ML:
        return None
    normal = _head(flair) & ~ndimage.binary_dilation(lesion, iterations=5)
    bright, dull = _z(t2, normal)[inside] >= BRIGHT, _z(flair, normal)[inside] < NOT_BRIGHT
    share = float((bright & dull).mean())
    edge = float(np.median(_z(flair, normal)[rim]))
    there = share >= MISMATCH_SHARE and edge >= NOT_BRIGHT
    words = (f"{100 * share:.0f} % of the lesion's inside is bright on T2 and not on FLAIR ({100 * MISMATCH_SHARE:.0f} % and more count), its rim lies "
             f"{edge:.1f} standard deviations above the rest of the brain on FLAIR")  # fmt: skip
    return Measured("t2_flair_mismatch", there, round(100 * share, 1), "%", words, _frame(inside))


MEASURES: dict[str, Callable[[Bench, Segmentation], Measured | None]] = {
    "butterfly": crosses_midline, "ring_enhancement": ring_enhancement, "t2_flair_mismatch": t2_flair_mismatch,
}  # fmt: skip
"""Sign -> how it is measured."""


def _sequence(bench: Bench, done: Segmentation, name: str) -> np.ndarray | None:
    series = next((q for q in done.study.series if q.sequence == name), None)
    if series is None:
        return None
    return on_grid(bench.required_case, series, done.series, done.volume, [])


def _head(image: np.ndarray) -> np.ndarray:
    """Where the image shows something: what differs from the value in its corners."""
    return np.asarray(np.abs(image - image[0, 0, 0]) > 0.02 * float(np.ptp(image)))


def _z(image: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Values in standard deviations above the brain outside the lesion (median, and the median deviation scaled to a normal's)."""
    middle = float(np.median(image[normal]))
    spread = 1.4826 * float(np.median(np.abs(image[normal] - middle))) or 1.0
    return np.asarray((image - middle) / spread)


def _frame(mask: np.ndarray) -> int:
    """The slice with most of it."""
    return int(np.argmax((mask > 0).sum((0, 1))))
