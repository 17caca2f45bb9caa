"""Blank text that is burned into pixels, and write the changed pixels back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from knowledge.errors import Refused
from knowledge.studies import pixels, workers
from knowledge.studies.deidentify import ocr
from knowledge.studies.render import windowed

CROSS_SECTIONS = {"CT", "MR", "PT"}
"""Original slices of these come without text as a rule: one in SAMPLED is looked at, and all where one of those has some. Localizers,
derived pictures and everything else are looked at one by one."""
SAMPLED = 10
SECONDS = 300.0
MAX_FRAMES_READ = 600


def likely(modality: str, header: dict[str, Any], place: dict[str, Any]) -> bool:
    """True where text in the pixels is to be expected."""
    types = [str(t).upper() for t in header.get("ImageType") or []]
    original = (
        modality in CROSS_SECTIONS and types[:1] == ["ORIGINAL"] and place.get("samples") == 1 and not place.get("localizer")
    )
    return str(header.get("BurnedInAnnotation") or "").upper() == "YES" or not original


def shown(frame: np.ndarray) -> np.ndarray:
    """A frame [row, column(, 3)] of stored values as 8 bits, from its 0.5th to its 99.5th percentile (text is often the extreme)."""
    if frame.ndim == 3:
        return np.asarray(frame, np.uint8)
    low, high = np.percentile(frame, [0.5, 99.5])
    return np.asarray(windowed(frame, (low + high) / 2, max(high - low, 1), "LINEAR_EXACT") * 255, np.uint8)


def _masks(task: tuple[bytes, dict[str, Any]]) -> "list[np.ndarray] | Refused":
    """In a worker: where text stands in each frame of one instance."""
    data, place = task
    if place["frames"] > MAX_FRAMES_READ:
        return Refused(f"{place['frames']} frames are too many to look for text in", "export it without cleaning its pixels")
    try:
        frames = pixels.frames_of(data, place, range(place["frames"]))
        return [ocr.text_mask(shown(f)) for f in frames]
    except pixels.UNDECODABLE as error:
        return Refused(f"the pixels can't be decoded ({type(error).__name__})", "text in them can't be looked for")


def found(data: bytes, place: dict[str, Any]) -> list[np.ndarray]:
    """Where text stands in each frame. Raises Refused where the frames can't be read: then it can't be said to be clean."""
    result = workers.run(_masks, (data, place), SECONDS)
    if isinstance(result, Refused):
        raise result
    masks: list[np.ndarray] = result
    return masks


def blanked(dataset: Dataset, data: bytes, place: dict[str, Any], masks: Sequence[np.ndarray]) -> Dataset:
    """`dataset` (already read from `data`) with the masked pixels at the lowest stored value, uncompressed."""
    frames = workers.run(_raw, (data, place), SECONDS)
    if isinstance(frames, Refused):
        raise frames
    if frames.ndim == (3 if place["samples"] == 3 else 2):  # one frame comes without an axis for frames
        frames = frames[None]
    lowest = frames.min()
    for frame, mask in zip(frames, masks, strict=True):
        frame[mask] = lowest
    dataset.PixelData = np.ascontiguousarray(frames).tobytes() + (b"\0" if frames.nbytes % 2 else b"")
    dataset["PixelData"].VR = "OW" if place["bits"] > 8 else "OB"
    dataset["PixelData"].is_undefined_length = False
    if place["samples"] == 3:
        dataset.PlanarConfiguration, dataset.PhotometricInterpretation = 0, "RGB"
    dataset.BitsAllocated = frames.dtype.itemsize * 8
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def _raw(task: tuple[bytes, dict[str, Any]]) -> "np.ndarray | Refused":
    """In a worker: all frames as stored, [frame, row, column] or [row, column] with colours last."""
    from pydicom.pixels import pixel_array

    from knowledge.studies import codecs

    data, place = task
    codecs.install()
    try:
        dataset = pixels.opened(data)
        pixels.sound(dataset, range(place["frames"]))
        array = np.array(pixel_array(dataset, decoding_plugin=codecs.preferred(place["syntax"], place["samples"])))
    except pixels.UNDECODABLE as error:
        return Refused(f"the pixels can't be decoded ({type(error).__name__})", "they can't be cleaned")
    return array.astype(array.dtype.newbyteorder("<"))
