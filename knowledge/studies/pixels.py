"""Pixels of DICOM instances in modality units: read in place where they lie uncompressed, decoded by pydicom's plug-ins otherwise.

Decoding runs in processes that can be killed (`workers`): a code stream from outside may crash or hang its codec.
"""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from knowledge.errors import Refused
from knowledge.studies import codecs, workers

SECONDS = 30.0
"""For one batch of frames; then its process is killed."""
BATCH_BYTES = 16 * 2**20
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601."""

Slot = tuple[int, int] | None
"""(instance index, frame) of a slice; None for a slice of zeros."""


@dataclass(frozen=True)
class Voxels:
    """Slices [k, row, column] in modality units, int16 or uint8 where they are whole numbers, float32 otherwise; and their colours
    [k, row, column, 3] where they have some."""

    array: np.ndarray
    rgb: np.ndarray | None = None


def load(paths: Sequence[Path], places: Sequence[dict[str, Any]], order: Sequence[Slot]) -> Voxels:
    """The slices that `order` lists, of instances that lie at `paths`. Raises Refused where they can't be decoded."""
    used = [places[slot[0]] for slot in order if slot]
    if (
        all(p["pixels"] for p in used)
        and len({(p["bits"], p["signed"], p["stored"], p["rows"], p["columns"]) for p in used}) == 1
    ):
        return Voxels(_read_in_place(paths, places, order))
    return _decoded(paths, places, order)


def _scale(place: dict[str, Any], frame: int) -> tuple[float, float]:
    """Slope and intercept of a frame, the SUV factor included."""
    each = place.get("each")
    own = each[frame] if each and frame < len(each) and "slope" in each[frame] else place
    slope, intercept = own.get("slope"), own.get("intercept")
    factor = place.get("suv") or 1.0
    return (1.0 if slope is None else slope) * factor, (intercept or 0.0) * factor


def whole_numbers(places: Sequence[dict[str, Any]]) -> bool:
    """Whether headers alone say that all slices can be read in place and give int16, whatever their values are."""
    if not places or not all(p["pixels"] and p["bits"] == 16 for p in places):
        return False
    if len({(p["signed"], p["stored"], p["rows"], p["columns"]) for p in places}) > 1:
        return False
    low, high = (
        (-(2 ** (places[0]["stored"] - 1)), 2 ** (places[0]["stored"] - 1))
        if places[0]["signed"]
        else (0, 2 ** places[0]["stored"])
    )
    scales = {_scale(p, f) for p in places for f in range(p.get("frames") or 1)}
    return all(slope == 1 and b == int(b) and low + b >= -(2**15) and high + b <= 2**15 for slope, b in scales)


class _TooWide(Exception):
    """The values don't fit 16 bits once they are scaled."""


def _read_in_place(paths: Sequence[Path], places: Sequence[dict[str, Any]], order: Sequence[Slot]) -> np.ndarray:
    like = next(places[s[0]] for s in order if s)
    raw = np.dtype(f"<{'i' if like['signed'] else 'u'}{like['bits'] // 8}")
    scales = {_scale(places[s[0]], s[1]) for s in order if s}
    plain = all(slope == 1 and intercept == int(intercept) and abs(intercept) < 2**15 for slope, intercept in scales)
    if raw.itemsize == 1 and scales == {(1.0, 0.0)}:
        return _filled(paths, places, order, raw, raw)
    if raw.itemsize == 2 and plain:
        try:
            return _filled(paths, places, order, raw, np.dtype("<i2"))
        except _TooWide:
            pass
    return _filled(paths, places, order, raw, np.dtype(np.float32))


def _filled(
    paths: Sequence[Path], places: Sequence[dict[str, Any]], order: Sequence[Slot], raw: np.dtype, kind: np.dtype
) -> np.ndarray:
    """The slices as `kind`, read side by side; raises _TooWide where `kind` is int16 and a value doesn't fit it."""
    like = next(places[s[0]] for s in order if s)
    array = np.empty((len(order), like["rows"], like["columns"]), kind)
    straight = kind.itemsize == raw.itemsize

    def fill(k: int) -> None:
        slot = order[k]
        if slot is None:
            array[k] = 0
            return
        place = places[slot[0]]
        target = array[k].view(raw) if straight else np.empty(array[k].shape, raw)
        _read_exactly(paths[slot[0]], place["pixels"][0] + slot[1] * target.nbytes, target)
        slope, intercept = _scale(place, slot[1])
        if not straight:
            np.multiply(target, kind.type(slope), out=array[k], casting="unsafe")
            array[k] += kind.type(intercept)
        elif raw.kind == "u" and target.max() >= 2**15 and raw.itemsize == 2:
            raise _TooWide
        elif intercept:
            edge = target.min() if intercept < 0 else target.max()
            if not -(2**15) <= int(edge) + intercept < 2**15:
                raise _TooWide
            array[k] += kind.type(intercept)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        list(threads.map(fill, range(len(order)), chunksize=8))
    return array


def _read_exactly(path: Path, offset: int, target: np.ndarray) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        view = memoryview(target.data).cast("B")
        done = 0
        while done < len(view):
            count = os.preadv(handle, [view[done:]], offset + done)
            if not count:
                raise Refused("the stored original is cut short", "import it again")
            done += count
    finally:
        os.close(handle)


def _decoded(paths: Sequence[Path], places: Sequence[dict[str, Any]], order: Sequence[Slot]) -> Voxels:
    like = next(places[s[0]] for s in order if s)
    rows, columns, colour = like["rows"], like["columns"], like["samples"] == 3 or like["photometric"] == "PALETTE COLOR"
    tasks = _tasks(paths, places, order)
    array = np.zeros((len(order), rows, columns), np.float32)
    rgb = np.zeros((len(order), rows, columns, 3), np.uint8) if colour else None
    for task, result in zip(tasks, workers.each(decode, [t[:3] for t in tasks], SECONDS), strict=True):
        if isinstance(result, Refused):
            raise result
        for (k, frame), pixels in zip(task[3], result, strict=True):
            if pixels.shape[:2] != (rows, columns):
                raise Refused("the decoded frame's size isn't the header's", "send the original from the PACS")
            slope, intercept = _scale(task[1], frame)
            if rgb is not None:
                rgb[k] = pixels
                array[k] = pixels.astype(np.float32) @ LUMINANCE
            else:
                array[k] = pixels if task[1]["lut"] else pixels * np.float32(slope) + np.float32(intercept)
    return Voxels(_slim(array), rgb)


def _slim(array: np.ndarray) -> np.ndarray:
    """Whole numbers within 16 bits as int16: half the memory, the same values."""
    if array.size and array.min() >= -(2**15) and array.max() < 2**15:
        narrow = array.astype(np.int16)
        if np.array_equal(narrow, array):
            return narrow
    return array


Task = tuple[str, dict[str, Any], list[int], list[tuple[int, int]]]


def _tasks(paths: Sequence[Path], places: Sequence[dict[str, Any]], order: Sequence[Slot]) -> list[Task]:
    """Batches of frames of one instance: (path, place, frames, [(slice, frame)])."""
    wanted: dict[int, list[tuple[int, int]]] = {}
    for k, slot in enumerate(order):
        if slot is not None:
            wanted.setdefault(slot[0], []).append((k, slot[1]))
    tasks: list[Task] = []
    for index, slots in wanted.items():
        place = places[index]
        step = max(1, BATCH_BYTES // max(1, place["rows"] * place["columns"] * place["samples"] * place["bits"] // 8))
        for start in range(0, len(slots), step):
            part = slots[start : start + step]
            tasks.append((str(paths[index]), place, [f for _, f in part], part))
    return tasks


def decode(task: tuple[str, dict[str, Any], list[int]]) -> "list[np.ndarray] | Refused":
    """In a worker: the frames of one instance, [row, column] stored values, or [row, column, 3] as RGB."""
    path, place, frames = task
    try:
        return frames_of(Path(path).read_bytes(), place, frames)
    except UNDECODABLE as error:
        return Refused(f"the pixels can't be decoded ({type(error).__name__})", "send it uncompressed")


UNDECODABLE = (AttributeError, ValueError, RuntimeError, NotImplementedError, OSError, LookupError, TypeError, ArithmeticError, MemoryError,
                EOFError, SyntaxError, AssertionError)  # fmt: skip


def frames_of(data: bytes, place: dict[str, Any], frames: Sequence[int]) -> list[np.ndarray]:
    """Frames of one instance by pydicom, the authority: stored values (through a modality LUT where there is one) or RGB."""
    from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

    codecs.install()
    dataset = opened(data)
    samples, photometric = place["samples"], place["photometric"]
    plugin = codecs.preferred(place["syntax"], samples)
    sound(dataset, [0] if "mosaic" in place else frames)
    if "mosaic" in place:
        return _tiles(np.asarray(pixel_array(dataset, decoding_plugin=plugin)), place, frames)
    found = []
    for index in frames:
        pixels = np.asarray(pixel_array(dataset, index=index, decoding_plugin=plugin))
        if photometric == "PALETTE COLOR":
            pixels = _bytes(apply_color_lut(pixels, dataset))
        elif samples == 3:
            pixels = _bytes(pixels)
        elif place["lut"]:
            pixels = apply_modality_lut(pixels, dataset).astype(np.float32)
        found.append(pixels)
    return found


def sound(dataset: Any, frames: Sequence[int]) -> None:
    """Raises ValueError where a code stream's own size isn't the header's, or its end is missing.

    A decoder makes room for gigabytes, or counts for seconds, before it sees that.
    """
    from pydicom.encaps import get_frame

    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    count = int(dataset.get("NumberOfFrames") or 1)
    for index in frames:
        source = get_frame(dataset.PixelData, index, number_of_frames=count)
        if codecs.cut_short(source, dataset.file_meta.TransferSyntaxUID):
            raise ValueError("the code stream is cut short")
        size = codecs.declared(source)
        if size is not None and size[0] and size != (dataset.Rows, dataset.Columns):  # no rows: they follow the scan (DNL)
            raise ValueError("the code stream's size isn't the header's")


def _bytes(pixels: np.ndarray) -> np.ndarray:
    """Colours as 8 bits a sample."""
    shift = 8 * (pixels.dtype.itemsize - 1)
    return (pixels >> shift).astype(np.uint8) if shift else pixels


def _tiles(picture: np.ndarray, place: dict[str, Any], frames: Sequence[int]) -> list[np.ndarray]:
    rows, columns = place["rows"], place["columns"]
    across = place["mosaic"][1] // columns
    return [picture[(f // across) * rows :, (f % across) * columns :][:rows, :columns] for f in frames]


def opened(data: bytes) -> Any:
    """The data set with its pixels. Encapsulated frames are cut by their item headers, not by a search for the end mark, which
    may stand within a frame."""  # fmt: skip
    import pydicom

    from knowledge.studies.dicom import parsed

    dataset, offset, _ = parsed(data)
    if (
        offset >= 0
        and dataset.file_meta.TransferSyntaxUID.is_encapsulated
        and data[offset + 8 : offset + 12] == b"\xff\xff\xff\xff"
    ):
        dataset.PixelData = data[offset + 12 :]
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        return dataset
    whole = pydicom.dcmread(io.BytesIO(data), force=True)
    whole.file_meta = dataset.file_meta
    return whole
