"""Give DICOM instances out as others ask for them: whole, their attributes, frames or bulk data, as stored or decompressed."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from PIL import Image, ImageOps
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from knowledge.errors import NotFound, Refused
from knowledge.studies import pixels, placement, render, workers
from knowledge.studies.dicom import BROKEN, name_syntax
from knowledge.studies.query import Stored
from knowledge.studies.volume import Volume

PART_10 = b"\0" * 128 + b"DICM"
CHUNK = 2**20
INLINE = 1024
"""Bytes of a value up to which it stands among the attributes themselves."""
NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
OCTETS = "application/octet-stream"
MEDIA = {
    "1.2.840.10008.1.2.4.50": "image/jpeg", "1.2.840.10008.1.2.4.51": "image/jpeg", "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg", "1.2.840.10008.1.2.4.80": "image/jls", "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2", "1.2.840.10008.1.2.4.91": "image/jp2", "1.2.840.10008.1.2.4.92": "image/jpx",
    "1.2.840.10008.1.2.4.93": "image/jpx", "1.2.840.10008.1.2.5": "image/dicom-rle", "1.2.840.10008.1.2.4.100": "video/mpeg2",
    "1.2.840.10008.1.2.4.101": "video/mpeg2", "1.2.840.10008.1.2.4.102": "video/mp4", "1.2.840.10008.1.2.4.103": "video/mp4",
    "1.2.840.10008.1.2.4.201": "image/jphc", "1.2.840.10008.1.2.4.202": "image/jphc", "1.2.840.10008.1.2.4.203": "image/jphc",
}  # fmt: skip
"""Media type of a frame by transfer syntax (PS3.18 tables 8.7.3-2, 8.7.3-3 and 8.7.3-5)."""


@dataclass(frozen=True)
class Frame:
    """A frame's bytes, their media type and transfer syntax."""

    data: bytes
    media: str
    syntax: str


def syntax_of(stored: Stored) -> str:
    """The transfer syntax that an instance is kept in."""
    return str(stored.place.get("syntax") or _opened(stored).file_meta.TransferSyntaxUID)


def whole(stored: Stored, native: bool) -> Iterator[bytes]:
    """An instance as a Part 10 file, in chunks: as stored, or with its pixels decompressed where they are compressed and can be.

    Raises Refused where it is broken.
    """
    with stored.path.open("rb") as file:
        head = file.read(132)
        if native and syntax_of(stored) not in NATIVE and stored.place.get("frames"):
            yield workers.run(_decompressed, str(stored.path), 120.0)
            return
        if head[128:] != b"DICM":
            yield part_10(head + file.read())
            return
        yield head
        while chunk := file.read(CHUNK):
            yield chunk


def part_10(data: bytes) -> bytes:
    """A data set as a Part 10 file, where it came without preamble or file meta information. Raises Refused for what is no DICOM."""
    if data[128:132] == b"DICM":
        return data
    if data[:2] == b"\x02\x00":
        return PART_10 + data
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        name_syntax(dataset)
        dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = (
            dataset.SOPClassUID,
            dataset.SOPInstanceUID,
        )
        return written(dataset)
    except BROKEN as error:
        raise Refused(f"it can't be read as DICOM ({type(error).__name__})", "send it as a Part 10 file") from error


def written(dataset: Dataset) -> bytes:
    """A data set as a Part 10 file."""
    made = io.BytesIO()
    pydicom.dcmwrite(made, dataset, enforce_file_format=True)
    return made.getvalue()


def _decompressed(path: str) -> bytes:
    dataset = pydicom.dcmread(path, force=True)
    pixels.sound(dataset, range(int(dataset.get("NumberOfFrames") or 1)))
    dataset.decompress()
    return written(dataset)


def _opened(stored: Stored, pixels_too: bool = False) -> Dataset:
    """An instance's attributes; it was checked when it was taken in."""
    try:
        dataset = pydicom.dcmread(stored.path, force=True, stop_before_pixels=not pixels_too)
        name_syntax(dataset)
    except FileNotFoundError as error:
        raise NotFound("the original is gone from the store", "restore it or import it again") from error
    except BROKEN as error:
        raise Refused(f"it can't be read as DICOM ({type(error).__name__})", "import the original again") from error
    return dataset


def attributes(stored: Stored, bulk: str) -> dict[str, Any]:
    """All attributes in the JSON model; long binary values stand as links that begin with `bulk` (PS3.18 F.2.2)."""
    dataset = _opened(stored)
    try:
        told: dict[str, Any] = _told(dataset, bulk)
    except BROKEN as error:
        raise Refused(f"its attributes can't be told ({type(error).__name__})", "retrieve the instance") from error
    if stored.place.get("frames"):
        told["7FE00010"] = {"vr": "OW" if stored.place.get("bits", 16) > 8 else "OB", "BulkDataURI": f"{bulk}/7FE00010"}
    return {"00083002": {"vr": "UI", "Value": [str(dataset.file_meta.TransferSyntaxUID)]}, **told}


def _told(dataset: Dataset, bulk: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for element in dataset:
        name = f"{int(element.tag):08X}"
        if element.VR == "SQ":
            items = [_told(item, f"{bulk}/{name}/{n}") for n, item in enumerate(element.value)]
            found[name] = {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
            continue
        try:
            found[name] = element.to_json_dict(lambda _, link=f"{bulk}/{name}": link, INLINE)
        except (ValueError, TypeError, OverflowError):  # a value that its representation doesn't allow
            found[name] = {"vr": element.VR}
    return found


def bulk_data(stored: Stored, path: Sequence[str]) -> Frame:
    """The bytes of one attribute; `path`: its tag, or sequence, item, tag … Raises NotFound."""
    is_pixels = list(path) == ["7FE00010"]
    if is_pixels and syntax_of(stored) not in NATIVE:
        every = frames_of(stored, range(stored.place.get("frames") or 0), native=True)
        return Frame(b"".join(f.data for f in every), OCTETS, str(ExplicitVRLittleEndian))
    here: Any = _opened(stored, is_pixels)
    try:
        for step in path:
            here = here[int(step)] if len(step) != 8 else here[int(step, 16)].value
        data = bytes(here)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise NotFound("the instance has no such bulk data", "take the link from its metadata") from error
    return Frame(data, OCTETS, str(ExplicitVRLittleEndian))


def frames_of(stored: Stored, numbers: Sequence[int], native: bool) -> list[Frame]:
    """Frames (from 0) as their stored values, little-endian, or as stored where they are compressed and `native` is false.

    Raises NotFound for a frame that isn't there, Refused where it can't be decoded.
    """
    many = _frames(stored, numbers)
    span, syntax = stored.place["pixels"], syntax_of(stored)
    if span:
        size = span[1] // many
        with stored.path.open("rb") as file:
            found = []
            for n in numbers:
                file.seek(span[0] + n * size)
                found.append(Frame(file.read(size), OCTETS, str(ExplicitVRLittleEndian)))
            return found
    if not native and syntax in MEDIA:
        dataset = _opened(stored, True)
        try:
            return [Frame(get_frame(dataset.PixelData, n, number_of_frames=many), MEDIA[syntax], syntax) for n in numbers]
        except BROKEN as error:
            raise Refused(f"its frames can't be told apart ({type(error).__name__})", "retrieve the instance") from error
    return [Frame(d, OCTETS, str(ExplicitVRLittleEndian)) for d in workers.run(_native, (str(stored.path), list(numbers)), 120.0)]


def _frames(stored: Stored, wanted: Sequence[int]) -> int:
    """How many frames there are. Raises NotFound where `wanted` (from 0) names another."""
    many = stored.place.get("frames") or 0
    if any(not 0 <= n < many for n in wanted):
        raise NotFound("the instance has no such frame", f"frames are 1 to {many}" if many else "it holds no pixels")
    return many


def _native(task: tuple[str, list[int]]) -> list[bytes]:
    """In a worker: frames as their stored values."""
    from pydicom.pixels import pixel_array

    from knowledge.studies import codecs

    codecs.install()
    dataset = pydicom.dcmread(task[0], force=True)
    name_syntax(dataset)
    pixels.sound(dataset, task[1])
    found = []
    for n in task[1]:
        values = np.asarray(pixel_array(dataset, index=n, raw=True))
        if dataset.BitsAllocated == 1:
            values = np.packbits(values.reshape(-1).astype(bool), bitorder="little")
        found.append(np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"))).tobytes())
    return found


def picture(
    stored: Stored, number: int, window: tuple[float, float] | None = None, within: tuple[int, int] | None = None
) -> Image.Image:
    """One frame, windowed as its header or `window` (centre, width) says, made to fit `within` (width, height)."""
    _frames(stored, [number])
    voxels = pixels.load([stored.path], [stored.place], [(0, number)])
    rgb = None if voxels.rgb is None else voxels.rgb.transpose(2, 1, 0, 3)
    inverted = stored.place.get("photometric") == "MONOCHROME1"
    dataset = _opened(stored)
    stated = {k: placement.value(dataset, k) for k in ("WindowCenter", "WindowWidth")}
    volume = Volume(voxels.array.transpose(2, 1, 0), None, rgb=rgb, window=render.stated_window(stated), inverted=inverted)
    made = render.picture(volume, 0, window)
    if within is not None:
        made = ImageOps.contain(made, within)
    return made
