"""Read PNG and JPEG pictures of images: they carry no geometry."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from knowledge.errors import Refused
from knowledge.studies.volume import Volume

MAX_PIXELS = 64_000_000


def picture_of(data: bytes) -> Volume:
    """The picture as luminance, float32 [column, row, 1], without an affine. Raises Refused when it is broken."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Refused(f"a picture of {image.width} x {image.height} pixels is too large", "send a smaller one")
            array = np.asarray(image.convert("L"), np.float32)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Refused("the picture is broken or cut short", "send the whole file") from error
    return Volume(array.T[:, :, None].copy(), None, "source")
