"""Frames as a reader sees them: windowed grey values or colours, with a mask over them."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from knowledge.errors import NotFound
from knowledge.studies.volume import Volume

OVERLAYS = np.array(
    [
        [255, 176, 32],
        [86, 180, 233],
        [0, 158, 115],
        [240, 228, 66],
        [204, 121, 167],
        [213, 94, 0],
        [0, 114, 178],
        [200, 200, 200],
    ],
    np.float32,
)
"""Colours of labels 1, 2, 3 …, in turn: amber, as the page's tokens have it, then colours that colour-blind readers tell apart
(M. Okabe and K. Ito, Color Universal Design, 2008)."""
FILL, EDGE = 0.28, 0.95


def window_of(volume: Volume) -> tuple[float, float]:
    """The window (centre, width) that the header states, or one from the 1st to the 99.5th percentile of the body."""
    if volume.window is not None:
        return volume.window
    values = volume.array.ravel(order="K")
    body = values[values != values.min()]
    low, high = np.percentile(body[:: max(1, body.size // 100_000)], [1, 99.5]) if body.size else (0.0, 1.0)
    return float(low + high) / 2, max(float(high - low), 1e-6)


def windowed(values: np.ndarray, centre: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Values as 0 to 1 by a VOI LUT function (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    values = np.asarray(values, np.float32)
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -60, 60))))
    if function == "LINEAR_EXACT" or width <= 1:
        return np.clip((values - centre) / width + 0.5, 0, 1)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def stated_window(header: Mapping[str, Any], factor: float = 1.0) -> tuple[float, float] | None:
    """The first window (centre, width) that a header states, times `factor`; None where it states none that can be used."""
    found = []
    for keyword in ("WindowCenter", "WindowWidth"):
        value: Any = header.get(keyword)
        try:
            found.append(float(str(value if isinstance(value, int | float | str) else value[0])))
        except (TypeError, ValueError, LookupError):
            return None
    return (found[0] * factor, found[1] * factor) if found[1] >= 1 else None


def png(shown: Volume, frame: int, window: tuple[float, float] | None = None, mask: Volume | None = None) -> bytes:
    """`picture` as PNG."""
    buffer = io.BytesIO()
    picture(shown, frame, window, mask).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def picture(shown: Volume, frame: int, window: tuple[float, float] | None = None, mask: Volume | None = None) -> Image.Image:
    """Frame `frame` of a display stack, pixels as square as they are in the source; each label's edge drawn over it in its own colour.

    Raises NotFound for a frame that isn't there.
    """
    if not 0 <= frame < shown.array.shape[2]:
        raise NotFound(f"there is no frame {frame}", f"frames are 0 to {shown.array.shape[2] - 1}")
    if shown.rgb is not None and window is None:
        base = shown.rgb[:, :, frame].transpose(1, 0, 2).astype(np.float32)
    else:
        function = shown.window_function if shown.window and window is None else "LINEAR" if shown.unit else "LINEAR_EXACT"
        grey = windowed(shown.array[:, :, frame].T, *(window or window_of(shown)), function) * 255
        base = 255 - grey if shown.inverted else grey
    if mask is None:
        made = Image.fromarray(base.astype(np.uint8), "L" if base.ndim == 2 else "RGB")
    else:
        labels = mask.array[:, :, frame].T.astype(int)
        inside, middle = labels > 0, labels[1:-1, 1:-1]
        core = inside.copy()
        core[1:-1, 1:-1] = inside[1:-1, 1:-1]
        for side in (labels[:-2, 1:-1], labels[2:, 1:-1], labels[1:-1, :-2], labels[1:-1, 2:]):
            core[1:-1, 1:-1] &= side == middle
        weight = np.where(inside & ~core, EDGE, np.where(inside, FILL, 0))[..., None]
        colour = base[..., None] if base.ndim == 2 else base
        made = Image.fromarray((colour * (1 - weight) + OVERLAYS[(labels - 1) % len(OVERLAYS)] * weight).astype(np.uint8), "RGB")
    return made
