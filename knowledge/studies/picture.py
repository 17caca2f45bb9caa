"""Read PNG, JPEG and TIFF pictures of images: they carry no geometry."""

import io

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from knowledge.errors import Refused
from knowledge.studies import workers
from knowledge.studies.volume import Volume

MAX_PIXELS = 64_000_000
MAX_PAGES = 512
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BROKEN = (UnidentifiedImageError, OSError, SyntaxError, ValueError, TypeError, LookupError, OverflowError, MemoryError,
           Image.DecompressionBombError)  # fmt: skip


def is_picture(head: bytes) -> bool:
    """True for the first bytes of a PNG, JPEG or TIFF."""
    return head[:8] == b"\x89PNG\r\n\x1a\n" or head[:3] == b"\xff\xd8\xff" or head[:4] in TIFF


def picture_of(data: bytes) -> Volume:
    """The picture as luminance, float32 [column, row, page], without an affine; its colours beside it. Raises Refused when broken."""
    found = workers.run(_pages, data) if data[:4] in TIFF else _pages(data)
    if isinstance(found, Refused):
        raise found
    grey, colours = found
    rgb = None if colours is None else colours.transpose(2, 1, 0, 3)
    return Volume(grey.transpose(2, 1, 0), None, "source", rgb=rgb)


def _pages(data: bytes) -> "tuple[np.ndarray, np.ndarray | None] | Refused":
    try:
        with Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "TIFF"]) as image:
            pages = getattr(image, "n_frames", 1)
            if image.width * image.height * pages > MAX_PIXELS or pages > MAX_PAGES:
                return Refused(
                    f"a picture of {image.width} x {image.height} pixels and {pages} page(s) is too large", "send a smaller one"
                )
            size = image.size
            frames = [f.copy() for f in ImageSequence.Iterator(image) if f.size == size]
        if frames[0].mode.startswith(("I", "F")):
            return np.stack([np.asarray(f, np.float32) for f in frames]), None
        grey = np.stack([np.asarray(f.convert("L"), np.float32) for f in frames])
        if frames[0].mode in ("1", "L", "LA"):
            return grey, None
        colours = np.stack([np.asarray(f.convert("RGB"), np.uint8) for f in frames])
        same = (colours[..., 0] == colours[..., 1]).all() and (colours[..., 1] == colours[..., 2]).all()
        return grey, None if same else colours
    except _BROKEN:
        return Refused("the picture is broken or cut short", "send the whole file")
