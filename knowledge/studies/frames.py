"""Frames as bytes for a viewer that windows them itself: 16-bit values with their scale, or colours."""

from dataclasses import dataclass

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import aff2axcodes

from knowledge.errors import NotFound
from knowledge.studies.render import window_of
from knowledge.studies.volume import Volume

MOST = 64
"""Frames in one reply."""
_WIDE = 65535
_OTHER = {"L": "R", "R": "L", "A": "P", "P": "A", "S": "I", "I": "S"}


@dataclass(frozen=True)
class Scale:
    """A voxel's value is `slope` times the stored number plus `intercept`."""

    slope: float
    intercept: float


def scale_of(stack: Volume) -> Scale:
    """Whole numbers stay as they are where they fit into 16 bits; else the stack's range is spread over them."""
    kind = stack.array.dtype
    if np.issubdtype(kind, np.integer) and np.can_cast(kind, np.int16):
        return Scale(1.0, 0.0)
    low, high = float(stack.array.min()), float(stack.array.max())
    few = stack.array.ravel(order="K")[:: max(1, stack.array.size // 100_000)]
    if low >= -32768 and high <= 32767 and bool((few == np.rint(few)).all()):
        return Scale(1.0, 0.0)
    slope = max(high - low, 1e-12) / _WIDE
    return Scale(slope, low + 32768 * slope)


def values_of(part: Volume, scale: Scale) -> bytes:
    """Its frames one after the other, rows from the top: little-endian int16, or 3 bytes a pixel in colour."""
    if part.rgb is not None:
        return np.ascontiguousarray(part.rgb.transpose(2, 1, 0, 3).astype(np.uint8)).tobytes()
    values = part.array.transpose(2, 1, 0)
    if scale != Scale(1.0, 0.0):
        values = (values - scale.intercept) / scale.slope
    elif np.can_cast(values.dtype, np.int16):
        return np.ascontiguousarray(values, "<i2").tobytes()
    return np.ascontiguousarray(np.clip(np.rint(values), -32768, 32767).astype("<i2")).tobytes()


def labels(mask: Volume, first: int, count: int) -> bytes:
    """Label values of frames [`first`, `first` + `count`), one byte a pixel. Raises NotFound for a frame that isn't there."""
    run = run_of(mask.array.shape[2], first, count)
    return np.ascontiguousarray(mask.array[:, :, run].transpose(2, 1, 0)).astype(np.uint8).tobytes()


def run_of(frames: int, first: int, count: int) -> slice:
    """[`first`, `first` + `count`) of so many `frames`, as far as they go. Raises NotFound for a frame that isn't there."""
    if not 0 <= first < frames:
        raise NotFound(f"there is no frame {first}", f"frames are 0 to {frames - 1}")
    return slice(first, min(frames, first + min(count, MOST)))


@dataclass(frozen=True)
class Shown:
    """What a viewer has to know of a stack before it draws a frame."""

    columns: int
    rows: int
    frames: int
    colour: bool
    pixel_mm: tuple[float, float] | None
    """Distance of columns and of rows."""
    slice_mm: float | None
    sides: tuple[str, str, str, str] | None
    """Letters at the left, right, top and bottom edge (L, R, A, P, S, I: towards the patient's left …)."""
    window: tuple[float, float]
    """Centre and width."""
    unit: str
    inverted: bool
    slope: float
    intercept: float


def shown(stack: Volume) -> Shown:
    """`stack` as a viewer needs it."""
    columns, rows, deep = stack.array.shape
    scale, pixel, between, sides = scale_of(stack), stack.pixel_mm, None, None
    if stack.affine is not None:
        x, y, z = (float(v) for v in voxel_sizes(stack.affine))
        pixel, between = (x, y), z
        right, bottom = aff2axcodes(stack.affine)[:2]
        sides = (_OTHER[right], right, _OTHER[bottom], bottom)
    return Shown(columns, rows, deep, stack.rgb is not None, pixel, between, sides, window_of(stack), stack.unit, stack.inverted,
                 scale.slope, scale.intercept)  # fmt: skip


def thinned(volume: Volume, most: int) -> Volume:
    """Every n-th voxel along each axis, so that no axis has more than `most`; the affine says where they lie. For looking, not for measuring."""
    if volume.affine is None or max(volume.array.shape) <= most:
        return volume
    steps = [int(np.ceil(n / most)) for n in volume.array.shape]
    affine = volume.affine @ np.diag([*steps, 1.0])
    return Volume(volume.array[:: steps[0], :: steps[1], :: steps[2]], affine, volume.frames, unit=volume.unit)
