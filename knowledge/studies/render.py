"""Frames as a reader sees them: windowed grey values, with a mask over them."""

import io

import numpy as np
from PIL import Image

from knowledge.errors import NotFound
from knowledge.studies.volume import Volume

OVERLAY = np.array([255, 176, 32], np.float32)
"""Amber, as the page's tokens have it."""
FILL, EDGE = 0.28, 0.95


def window_of(volume: Volume) -> tuple[float, float]:
    """A window (centre, width) for images without a stated one: from the 1st to the 99.5th percentile of the body."""
    body = volume.array[volume.array != volume.array.min()]
    low, high = np.percentile(body[:: max(1, body.size // 100_000)], [1, 99.5]) if body.size else (0.0, 1.0)
    return float(low + high) / 2, max(float(high - low), 1e-6)


def png(shown: Volume, frame: int, window: tuple[float, float] | None = None, mask: Volume | None = None) -> bytes:
    """Frame `frame` of a display stack as PNG, pixels as square as they are in the source; the mask's edge drawn over it.

    Raises NotFound for a frame that isn't there.
    """
    if not 0 <= frame < shown.array.shape[2]:
        raise NotFound(f"there is no frame {frame}", f"frames are 0 to {shown.array.shape[2] - 1}")
    centre, width = window or window_of(shown)
    grey = np.clip((shown.array[:, :, frame].T - (centre - width / 2)) / width, 0, 1) * 255
    if mask is None:
        picture = Image.fromarray(grey.astype(np.uint8), "L")
    else:
        inside = mask.array[:, :, frame].T > 0
        core = inside.copy()
        core[1:-1, 1:-1] = inside[1:-1, 1:-1] & inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
        weight = np.where(inside & ~core, EDGE, np.where(inside, FILL, 0))[..., None]
        picture = Image.fromarray((grey[..., None] * (1 - weight) + OVERLAY * weight).astype(np.uint8), "RGB")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
