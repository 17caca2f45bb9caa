"""Read DICOM instances, and stack those of one series by position (PS3.3 C.7.6.2)."""

import hashlib
import io
import logging
import math
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels import apply_rescale
from pydicom.uid import DeflatedExplicitVRLittleEndian

from knowledge.errors import Refused
from knowledge.studies.model import Patient
from knowledge.studies.sequence import sequence_of
from knowledge.studies.volume import Volume

# pydicom's warnings quote the values they complain of, and a value may be a name.
warnings.filterwarnings("ignore", module="pydicom")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

MAX_INFLATED = 2**29
BROKEN = (ValueError, LookupError, TypeError, AttributeError, OSError, OverflowError, NotImplementedError, AssertionError,
          MemoryError, struct.error, zlib.error, BytesLengthException)  # fmt: skip
"""What pydicom raises on damaged data; each is a reason to refuse the file."""
POSITION_TOLERANCE_MM = 0.01
"""Slices nearer than this along the normal lie at the same position."""
SPACING_TOLERANCE = 0.05
"""Share of the median distance by which a slice distance may differ before the geometry is doubted."""

# Technical attributes that a reader may ask about; none of them identifies a person.
TECHNICAL = [
    "Modality", "Manufacturer", "ManufacturerModelName", "BodyPartExamined", "SeriesDescription", "ProtocolName",
    "ScanningSequence", "SequenceVariant", "MRAcquisitionType", "MagneticFieldStrength", "RepetitionTime", "EchoTime",
    "InversionTime", "FlipAngle", "ContrastBolusAgent", "KVP", "XRayTubeCurrent", "ExposureTime", "Exposure", "CTDIvol",
    "ConvolutionKernel", "SliceThickness", "SpacingBetweenSlices", "PixelSpacing", "ImagerPixelSpacing", "Rows",
    "Columns", "NumberOfFrames", "ImageOrientationPatient", "PatientPosition", "GantryDetectorTilt", "RescaleSlope",
    "RescaleIntercept", "WindowCenter", "WindowWidth", "PhotometricInterpretation", "BitsStored", "ImageType",
    "LossyImageCompression", "Laterality", "ViewPosition",
]  # fmt: skip


@dataclass(frozen=True)
class Instance:
    """One DICOM instance's place in the hierarchy, with the attributes that geometry needs."""

    sop_instance_uid: str
    series_uid: str
    study_uid: str
    patient: Patient
    study_date: str | None
    study_description: str
    modality: str
    series_description: str
    sequence: str | None
    body_part: str
    header: dict[str, Any]
    place: dict[str, Any]


def read_instance(data: bytes) -> Instance:
    """The instance in `data`, checked to be whole. Raises Refused with the reason."""
    try:
        with pydicom.config.disable_value_validation():
            return _described(_parsed(data), data)
    except (InvalidDicomError, EOFError) as error:
        raise Refused("it isn't a whole DICOM file", "send the original file again") from error
    except RecursionError as error:
        raise Refused("its sequences are nested too deep", "send the original from the PACS") from error
    except BROKEN as error:
        raise Refused(f"the DICOM data can't be parsed ({type(error).__name__})", "send the original again") from error


def _described(dataset: Dataset, data: bytes) -> Instance:
    if not dataset.get("Rows") or not dataset.get("Columns") or "PixelData" not in dataset:
        name = pydicom.uid.UID(str(dataset.get("SOPClassUID") or "no SOP class")).name
        raise Refused(f"it holds no image pixels ({name})", "send image instances; this object type is not read yet")
    _check_pixels(dataset)
    description = str(dataset.get("SeriesDescription") or dataset.get("ProtocolName") or "")
    modality = str(dataset.get("Modality") or "OT")
    # De-identified exports exist whose UIDs were emptied: names are then made from what is left.
    person, day = str(dataset.get("PatientID") or ""), str(dataset.get("StudyDate") or "")
    sop = str(dataset.get("SOPInstanceUID") or "") or made_uid(hashlib.sha256(data).hexdigest())
    study = str(dataset.get("StudyInstanceUID") or "") or made_uid(person, day, "study")
    series = str(dataset.get("SeriesInstanceUID") or "") or made_uid(
        study, modality, description, str(dataset.get("SeriesNumber") or ""), str(dataset.Rows), str(dataset.Columns)
    )
    agent = str(dataset.get("ContrastBolusAgent") or "")
    return Instance(
        sop_instance_uid=sop,
        series_uid=series,
        study_uid=study,
        patient=Patient(
            id=str(dataset.get("PatientID") or "").strip(),
            birth_date=_date(dataset.get("PatientBirthDate")),
            sex=str(dataset.get("PatientSex") or "") or None,
        ),
        study_date=_date(dataset.get("StudyDate")),
        study_description=str(dataset.get("StudyDescription") or ""),
        modality=modality,
        series_description=description,
        sequence=sequence_of(description, agent) if modality == "MR" else None,
        body_part=str(dataset.get("BodyPartExamined") or ""),
        header={k: _plain(dataset.get(k)) for k in TECHNICAL if dataset.get(k) not in (None, "")},
        place=_place(dataset),
    )


def made_uid(*parts: str) -> str:
    """A UID under 2.25 (PS3.5 B.2) that is the same for the same parts."""
    return f"2.25.{int(hashlib.sha256('|'.join(parts).encode()).hexdigest()[:30], 16)}"


def _parsed(data: bytes) -> Dataset:
    if DeflatedExplicitVRLittleEndian.encode() in data[:2048]:
        _check_inflation(data)
    dataset = pydicom.dcmread(io.BytesIO(data))
    for _ in dataset.iterall():  # elements are parsed when first touched: touch them while errors are still caught
        pass
    return dataset


def _check_inflation(data: bytes) -> None:
    """Refuse a deflated data set that inflates past MAX_INFLATED, without inflating it whole."""
    length = int.from_bytes(data[140:144], "little")  # value of (0002,0000), always first after "DICM"
    start = 144 + length
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflater.decompress(data[start:], MAX_INFLATED)
    if inflater.unconsumed_tail:
        raise Refused("the deflated data set unpacks to far more than it should", "send it uncompressed")


def _check_pixels(dataset: Dataset) -> None:
    syntax = getattr(dataset.file_meta, "TransferSyntaxUID", None)
    if syntax is None:
        raise Refused("the file names no transfer syntax", "send the original from the PACS")
    frames = int(dataset.get("NumberOfFrames") or 1)
    bits = int(dataset.get("BitsAllocated") or 8) * int(dataset.get("SamplesPerPixel") or 1)
    if str(dataset.get("PhotometricInterpretation")) == "YBR_FULL_422":
        bits = bits * 2 // 3  # two pixels share their colour (PS3.3 C.7.6.3.1.2)
    expected = math.ceil(int(dataset.Rows) * int(dataset.Columns) * frames * bits / 8)
    if expected > 2**32:
        raise Refused("the header names an impossible image size", "send the original from the PACS")
    if not syntax.is_compressed and len(dataset.PixelData) < expected:
        raise Refused(f"it is cut short: {len(dataset.PixelData)} of {expected} pixel bytes", "send the whole file")
    if not len(dataset.PixelData):
        raise Refused("it holds no pixel data", "send the whole file")


def _date(value: Any) -> str | None:
    text = str(value or "")
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}" if len(text) == 8 and text.isdigit() else None


def _plain(value: Any) -> Any:
    if isinstance(value, pydicom.multival.MultiValue):
        return [_plain(v) for v in value]
    return float(value) if isinstance(value, float) else value if isinstance(value, int) else str(value)


def _floats(value: Any, count: int) -> list[float] | None:
    try:
        numbers = [float(v) for v in value]
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(math.isfinite(n) for n in numbers) else None


def _place(dataset: Dataset) -> dict[str, Any]:
    """Position (LPS mm), orientation, pixel spacing (row, column distance in mm) of each frame."""
    shared, frames = dataset.get("SharedFunctionalGroupsSequence"), dataset.get("PerFrameFunctionalGroupsSequence")
    orientation, spacing = dataset.get("ImageOrientationPatient"), dataset.get("PixelSpacing")
    positions = [_floats(dataset.get("ImagePositionPatient"), 3)]
    if frames:
        groups = [*frames, *(shared or [])]
        orientation = orientation or _first(groups, "PlaneOrientationSequence", "ImageOrientationPatient")
        spacing = spacing or _first(groups, "PixelMeasuresSequence", "PixelSpacing")
        positions = [_floats(_first([f], "PlanePositionSequence", "ImagePositionPatient"), 3) for f in frames]
    return {
        "rows": int(dataset.Rows),
        "columns": int(dataset.Columns),
        "frames": int(dataset.get("NumberOfFrames") or 1),
        "positions": positions,
        "orientation": _floats(orientation, 6),
        "spacing": _floats(spacing, 2),
        "thickness": _floats([dataset.get("SliceThickness")], 1),
        "number": int(dataset.get("InstanceNumber") or 0),
        "uids": bool(dataset.get("SOPInstanceUID") and dataset.get("SeriesInstanceUID")),
        "localizer": "LOCALIZER" in [str(v).upper() for v in dataset.get("ImageType") or []],
    }


def _first(groups: Sequence[Dataset], sequence: str, keyword: str) -> Any:
    for group in groups:
        if group.get(sequence) and group[sequence][0].get(keyword):
            return group[sequence][0].get(keyword)
    return None


Slice = tuple[float, int, int, list[float] | None]
"""Position along the normal (mm), instance index, frame, position (LPS mm)."""


@dataclass(frozen=True)
class Stack:
    """How the instances of a series make a volume: `order` lists (instance index, frame) from first to last slice."""

    order: list[tuple[int, int]]
    shape: tuple[int, int, int]
    affine: np.ndarray | None
    warnings: list[str]


def _turn(place: dict[str, Any]) -> tuple[float, ...] | None:
    """The orientation to three decimals: headers of one series may differ in the last digits."""
    return tuple(round(v, 3) for v in place["orientation"]) if place["orientation"] else None


def stack(places: Sequence[dict[str, Any]]) -> Stack:
    """Sort slices by their position along the normal; say what is irregular. Affine as in Volume (RAS mm)."""
    doubts: list[str] = []
    sizes = Counter((p["columns"], p["rows"]) for p in places)
    (columns, rows), _ = sizes.most_common(1)[0]
    turns = Counter(_turn(p) for p in places if p["orientation"])
    common = turns.most_common(1)[0][0] if turns else None
    turn = next((p["orientation"] for p in places if common and _turn(p) == common), None)
    kept: list[Slice] = []
    odd = 0
    for index, place in enumerate(places):
        if (place["columns"], place["rows"]) != (columns, rows) or _turn(place) != common:
            odd += 1
            continue
        for frame in range(place["frames"]):
            position = place["positions"][frame] if frame < len(place["positions"]) else None
            along = float(np.dot(np.cross(turn[:3], turn[3:]), position)) if turn and position else 0.0
            kept.append((along, index, frame, position))
    if odd:
        doubts.append(f"{odd} of {len(places)} instances differ in size or orientation and were left out of the stack")
    first = places[kept[0][1]]
    if turn is None or first["spacing"] is None or any(k[3] is None for k in kept):
        kept.sort(key=lambda k: (places[k[1]]["number"], k[2]))
        doubts.append("position, orientation or pixel spacing is missing: lengths can't be measured")
        return Stack([(k[1], k[2]) for k in kept], (columns, rows, len(kept)), None, doubts)
    kept.sort(key=lambda k: (k[0], places[k[1]]["number"]))
    unique = [k for n, k in enumerate(kept) if n == 0 or k[0] - kept[n - 1][0] > POSITION_TOLERANCE_MM]
    if len(unique) < len(kept):
        doubts.append(f"{len(kept) - len(unique)} slices lie at a position that another slice has; the first was kept")
    affine = _affine(unique, turn, first, doubts)
    return Stack([(k[1], k[2]) for k in unique], (columns, rows, len(unique)), affine, doubts)


def _affine(slices: list[Slice], turn: Sequence[float], first: dict[str, Any], doubts: list[str]) -> np.ndarray:
    row, column = np.array(turn[:3]), np.array(turn[3:])
    normal = np.cross(row, column)
    gaps = np.diff([k[0] for k in slices])
    step = normal * (first["thickness"][0] if first["thickness"] else 1.0)
    if len(gaps):
        median = float(np.median(gaps))
        if gaps.max() - gaps.min() > SPACING_TOLERANCE * median:
            doubts.append(f"slice distances vary from {gaps.min():.2f} to {gaps.max():.2f} mm: a slice may be missing")
        start, end = np.array(slices[0][3]), np.array(slices[-1][3])
        step = (end - start) / (len(slices) - 1)
        tilt = math.degrees(math.acos(min(1.0, abs(float(np.dot(step, normal))) / float(np.linalg.norm(step)))))
        if tilt > 0.5:
            doubts.append(f"slices are sheared by {tilt:.1f} degrees (gantry tilt): lengths across slices need care")
        if abs(float(np.dot(step, normal)) - median) > SPACING_TOLERANCE * median:
            step = step / np.linalg.norm(step) * median
    elif not first["thickness"]:
        doubts.append("a single slice without thickness: volumes can't be measured")
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = row * first["spacing"][1], column * first["spacing"][0]
    lps[:3, 2], lps[:3, 3] = step, slices[0][3]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def load(files: Sequence[bytes], order: Stack, uids: Sequence[str]) -> Volume:
    """The volume of a series in modality units (HU for CT), float32 [column, row, slice]."""
    array = np.zeros(order.shape, np.float32)
    wanted: dict[int, list[tuple[int, int]]] = {}
    for k, (index, frame) in enumerate(order.order):
        wanted.setdefault(index, []).append((k, frame))
    for index, places in wanted.items():
        pixels = _pixels(files[index])
        for k, frame in places:
            array[:, :, k] = pixels[frame].T
    return Volume(array, order.affine, "source", [uids[i] for i, _ in order.order])


def _pixels(data: bytes) -> np.ndarray:
    """Frames [n, row, column] of one instance in modality units; colour becomes luminance (ITU-R BT.601)."""
    try:
        dataset = pydicom.dcmread(io.BytesIO(data))
        pixels = dataset.pixel_array
    except (AttributeError, ValueError, RuntimeError, NotImplementedError, OSError) as error:
        raise Refused(f"the pixels can't be decoded ({type(error).__name__})", "send it uncompressed") from error
    if int(dataset.get("SamplesPerPixel") or 1) == 3:
        pixels = pixels @ np.array([0.299, 0.587, 0.114])
    pixels = apply_rescale(pixels, dataset).astype(np.float32)
    return np.asarray(pixels[None] if pixels.ndim == 2 else pixels)
