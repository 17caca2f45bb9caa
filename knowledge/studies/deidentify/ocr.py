"""Text in pictures: RapidOCR (PP-OCR models that its package carries) on ONNX Runtime."""

import logging
from functools import cache
from typing import Any

import numpy as np

MIN_SIDE = 640
"""Smaller pictures are enlarged: burned-in letters are often 8 pixels high."""
MAX_HEIGHT = 0.15
"""Of the picture: what is taller, or reads as one letter, is anatomy that looks like an O."""
MARGIN = 3
"""Pixels around a found line that are blanked with it."""


@cache
def _engine() -> Any:
    from rapidocr import RapidOCR

    logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)
    # Low thresholds: a box too many blanks a few pixels, a box too few shows a name.
    return RapidOCR(params={"Global.log_level": "critical", "Global.text_score": 0.3, "Det.box_thresh": 0.35, "Det.thresh": 0.25,
                            "EngineConfig.onnxruntime.intra_op_num_threads": 2})  # fmt: skip


def _scaled(picture: np.ndarray) -> tuple[np.ndarray, float]:
    import cv2

    factor = max(1.0, MIN_SIDE / min(picture.shape[:2]))
    factor = min(factor, 2400 / max(picture.shape[:2])) if factor > 1 else 1.0
    return (
        (cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC), factor) if factor > 1 else (picture, 1.0)
    )


def _read(picture: np.ndarray) -> list[tuple[tuple[int, int, int, int], str]]:
    """Boxes (x0, y0, x1, y1) in pixels of `picture` [row, column(, 3)] of 8 bits, and what they say."""
    colours = np.repeat(picture[..., None], 3, -1) if picture.ndim == 2 else picture
    large, factor = _scaled(np.ascontiguousarray(colours))
    result = _engine()(large, use_cls=False)
    if result.boxes is None:
        return []
    found = []
    for box, words in zip(result.boxes, result.txts, strict=True):
        low, high = np.floor(box.min(0) / factor).astype(int), np.ceil(box.max(0) / factor).astype(int)
        found.append(((int(low[0]), int(low[1]), int(high[0]), int(high[1])), str(words)))
    return found


def lines_in(picture: np.ndarray) -> list[str]:
    """The lines of text in a picture, top to bottom."""
    return [words for _, words in sorted(_read(picture), key=lambda f: (f[0][1] // 12, f[0][0]))]


def text_mask(picture: np.ndarray) -> np.ndarray:
    """Where text stands in a picture of 8 bits: boolean [row, column]. Both polarities are looked at."""
    rows, columns = picture.shape[:2]
    mask = np.zeros((rows, columns), bool)
    for view in (picture, 255 - picture):
        for (x0, y0, x1, y1), words in _read(view):
            if sum(c.isalnum() for c in words) >= 2 and y1 - y0 <= MAX_HEIGHT * rows:
                mask[max(y0 - MARGIN, 0) : y1 + MARGIN + 1, max(x0 - MARGIN, 0) : x1 + MARGIN + 1] = True
    return mask
