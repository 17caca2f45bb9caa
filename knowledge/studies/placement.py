"""Where the frames of an instance lie, and what tells them apart (PS3.3 C.7.6.2, C.7.6.16)."""

import math
import warnings
from collections.abc import Iterator, Sequence
from datetime import date
from functools import cache
from typing import Any

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

RT_DOSE = "1.2.840.10008.5.1.4.1.1.481.2"
MAX_FRAMES = 100_000

ENHANCED = {
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "RepetitionTime": ("MRTimingAndRelatedParametersSequence", "RepetitionTime"),
    "FlipAngle": ("MRTimingAndRelatedParametersSequence", "FlipAngle"),
    "InversionTime": ("MRModifierSequence", "InversionTimes"),
    "PixelSpacing": ("PixelMeasuresSequence", "PixelSpacing"),
    "SliceThickness": ("PixelMeasuresSequence", "SliceThickness"),
    "WindowCenter": ("FrameVOILUTSequence", "WindowCenter"),
    "WindowWidth": ("FrameVOILUTSequence", "WindowWidth"),
    "RescaleSlope": ("PixelValueTransformationSequence", "RescaleSlope"),
    "RescaleIntercept": ("PixelValueTransformationSequence", "RescaleIntercept"),
    "ConvolutionKernel": ("CTReconstructionSequence", "ConvolutionKernel"),
    "KVP": ("CTXRayDetailsSequence", "KVP"),
    "ImageOrientationPatient": ("PlaneOrientationSequence", "ImageOrientationPatient"),
}
"""Where enhanced objects keep what others have at the top."""

# What may tell apart frames at one position, in the order in which it is tried; (sequence, keyword) within functional groups.
DISCRIMINATORS: dict[str, list[tuple[str, str]]] = {
    "segment": [("SegmentIdentificationSequence", "ReferencedSegmentNumber")],
    "stack": [("FrameContentSequence", "StackID")],
    "b": [("MRDiffusionSequence", "DiffusionBValue")],
    "echo": [("MREchoSequence", "EffectiveEchoTime")],
    "inversion": [("MRModifierSequence", "InversionTimes")],
    "type": [("MRImageFrameTypeSequence", "ComplexImageComponent"), ("MRImageFrameTypeSequence", "FrameType"),
             ("CTImageFrameTypeSequence", "FrameType"), ("PETFrameTypeSequence", "FrameType")],
    "phase": [("FrameContentSequence", "TemporalPositionIndex")],
    "trigger": [("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime")],
    "direction": [],
    "acquisition": [("FrameContentSequence", "FrameAcquisitionNumber")],
    "time": [("FrameContentSequence", "FrameAcquisitionDateTime")],
}  # fmt: skip
_TOP: dict[str, tuple[str, ...]] = {
    "b": ("DiffusionBValue",), "echo": ("EchoTime", "EchoNumbers"), "inversion": ("InversionTime",), "type": ("ImageType",),
    "phase": ("TemporalPositionIdentifier", "TemporalPositionIndex"), "trigger": ("TriggerTime",),
    "direction": ("DiffusionGradientOrientation",), "acquisition": ("AcquisitionNumber",),
    "time": ("AcquisitionTime", "ContentTime"),
}  # fmt: skip
_SIEMENS_B = (0x0019, 0x100C)


@cache
def _tag(keyword: str) -> BaseTag:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return BaseTag(tag)


def value(dataset: Dataset, keyword: str) -> Any:
    """`dataset.get(keyword)`, several times as fast where the attribute isn't there, as most aren't."""
    tag = _tag(keyword)
    return dataset[tag].value if tag in dataset.keys() else None  # noqa: SIM118  the data set's own `in` is the slow part


def floats(several: Any, count: int) -> list[float] | None:
    """`count` finite numbers, or None."""
    try:
        numbers = [float(v) for v in several]
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(math.isfinite(n) for n in numbers) else None


def number(one: Any) -> float | None:
    """One finite number, or None."""
    found = floats([one], 1)
    return found[0] if found else None


def whole(one: Any, default: int) -> int:
    """A whole number of a header, or `default` where there is none."""
    found = number(one)
    return default if found is None else int(found)


def iso_date(day: Any) -> str | None:
    """A DICOM date (DA) as ISO 8601, or None where it isn't a real day."""
    text = str(day or "").replace(".", "")[:8]
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8])).isoformat() if len(text) == 8 else None
    except ValueError:
        return None


def first(groups: Sequence[Dataset], sequence: str, keyword: str) -> Any:
    """The first value of `keyword` in the functional groups `groups`."""
    for group in groups:
        if group.get(sequence):
            value = group[sequence][0].get(keyword)
            if value is not None and value != "":
                return value
    return None


def pixel_bytes(place: dict[str, Any]) -> int:
    """Bytes that the header declares for native pixels."""
    samples: int = place["rows"] * place["columns"] * place["frames"] * place["samples"]
    return math.ceil(samples * int(place["bits"]) / 8)


def place_of(dataset: Dataset, sop_class: str) -> dict[str, Any]:
    """Size, sample format, and for each frame its position (LPS mm), orientation, spacing (row, column distance in mm) and keys.

    `each` is left out where all frames share what `shared` says. Raises ValueError for numbers that make no sense.
    """
    frames = whole(value(dataset, "NumberOfFrames"), 1) or 1
    if not 0 < frames <= MAX_FRAMES:
        raise ValueError("number of frames")
    spacing, source = _spacing(dataset)
    shared = {
        "position": floats(value(dataset, "ImagePositionPatient"), 3),
        "orientation": _unit(floats(value(dataset, "ImageOrientationPatient"), 6)),
        "spacing": spacing,
        "thickness": number(value(dataset, "SliceThickness")),
    }
    types = [str(v).upper() for v in value(dataset, "ImageType") or []]
    place: dict[str, Any] = {
        "rows": int(dataset.Rows), "columns": int(dataset.Columns), "frames": frames,
        "samples": whole(value(dataset, "SamplesPerPixel"), 1), "bits": int(dataset.BitsAllocated),
        "stored": whole(value(dataset, "BitsStored"), int(dataset.BitsAllocated)),
        "signed": whole(value(dataset, "PixelRepresentation"), 0), "photometric": str(value(dataset, "PhotometricInterpretation") or ""),
        "syntax": str(dataset.file_meta.TransferSyntaxUID), "slope": number(value(dataset, "RescaleSlope")),
        "intercept": number(value(dataset, "RescaleIntercept")), "lut": "ModalityLUTSequence" in dataset,
        "number": whole(value(dataset, "InstanceNumber"), 0),
        "uids": bool(value(dataset, "SOPInstanceUID") and value(dataset, "SeriesInstanceUID")),
        "localizer": "LOCALIZER" in types, "spacing_from": source, "shared": shared, "key": _key(dataset, [], types),
    }  # fmt: skip
    if value(dataset, "SegmentSequence"):
        place["segments"] = {
            str(n.SegmentNumber): str(n.get("SegmentLabel") or f"segment {n.SegmentNumber}") for n in dataset.SegmentSequence
        }
        source = value(dataset, "ReferencedSeriesSequence")
        place["references"] = str(source[0].get("SeriesInstanceUID") or "") if source else None
    groups = value(dataset, "PerFrameFunctionalGroupsSequence")
    if groups:
        common = list(value(dataset, "SharedFunctionalGroupsSequence") or [])
        place["each"] = [_of_group([g, *common], shared, dataset) for g in groups[:frames]]
        if any(g["spacing"] for g in place["each"]):
            place["spacing_from"] = "image"
    elif sop_class == RT_DOSE:
        place |= _dose(dataset, shared)
    elif "MOSAIC" in types:
        place |= _mosaic(dataset)
    return place


def frames_of(place: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each frame of an instance with its `position`, `orientation`, `spacing`, `thickness` and `key`."""
    each = place.get("each")
    for index in range(place["frames"]):
        if each:
            yield each[index] if index < len(each) else {**place["shared"], "position": None, "key": {}}
        else:
            yield {
                **place["shared"],
                "position": place["shared"]["position"] if place["frames"] == 1 else None,
                "key": place["key"],
            }


def _unit(orientation: list[float] | None) -> list[float] | None:
    """Direction cosines of unit length and at right angles, or None where the header's aren't."""
    if orientation is None:
        return None
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if abs(lengths[0] - 1) > 0.01 or abs(lengths[1] - 1) > 0.01 or abs(float(row @ column)) > 0.01:
        return None
    return [*(row / lengths[0]).tolist(), *(column / lengths[1]).tolist()]


def _spacing(dataset: Dataset) -> tuple[list[float] | None, str | None]:
    """Row and column distance in mm, and what they are true for: the image, the detector, or a calibrated ultrasound region."""
    for keyword, source in (
        ("PixelSpacing", "image"),
        ("ImagerPixelSpacing", "detector"),
        ("NominalScannedPixelSpacing", "detector"),
    ):
        spacing = floats(dataset.get(keyword), 2)
        if spacing and min(spacing) > 0:
            return spacing, source
    found = set()
    for region in value(dataset, "SequenceOfUltrasoundRegions") or []:
        # PS3.3 C.8.5.5: 3 is cm, the delta is per pixel.
        if region.get("PhysicalUnitsXDirection") == 3 and region.get("PhysicalUnitsYDirection") == 3:
            delta = floats([region.get("PhysicalDeltaY"), region.get("PhysicalDeltaX")], 2)
            found.add(tuple(round(abs(d) * 10, 6) for d in delta) if delta else None)
    only = found.pop() if len(found) == 1 else None
    return (list(only), "ultrasound") if only and min(only) > 0 else (None, None)


def _plain(value: Any) -> str | int | float | None:
    """A key's value as JSON has it; several values joined as DICOM does."""
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return float(value)
    return str(value) if isinstance(value, str) or not isinstance(value, Sequence | MultiValue) else "\\".join(map(str, value))


def _key(dataset: Dataset, groups: Sequence[Dataset], types: list[str]) -> dict[str, Any]:
    """What may tell this frame from another at the same position."""
    key = {}
    for name, inside in DISCRIMINATORS.items():
        found: Any = next((v for s, k in inside if (v := first(groups, s, k)) is not None), None)
        if found is None:
            found = next((v for k in _TOP.get(name, ()) if (v := value(dataset, k)) not in (None, "")), None)
        if found is None and name == "b" and _SIEMENS_B in dataset:
            found = whole(dataset[_SIEMENS_B].value, 0)
        if name == "type" and found is not None and not isinstance(found, str):
            found = [str(v) for v in found][2:]  # the first two say original/derived, primary/secondary
        if (plain := _plain(found)) is not None:
            key[name] = plain
    return key


def _of_group(groups: Sequence[Dataset], shared: dict[str, Any], dataset: Dataset) -> dict[str, Any]:
    frame = {
        "position": floats(first(groups, "PlanePositionSequence", "ImagePositionPatient"), 3) or shared["position"],
        "orientation": _unit(floats(first(groups, "PlaneOrientationSequence", "ImageOrientationPatient"), 6))
        or shared["orientation"],
        "spacing": floats(first(groups, "PixelMeasuresSequence", "PixelSpacing"), 2) or shared["spacing"],
        "thickness": number(first(groups, "PixelMeasuresSequence", "SliceThickness")) or shared["thickness"],
        "key": _key(dataset, groups, []),
    }
    slope = number(first(groups, "PixelValueTransformationSequence", "RescaleSlope"))
    if slope is not None:
        frame["slope"] = slope
        frame["intercept"] = number(first(groups, "PixelValueTransformationSequence", "RescaleIntercept")) or 0.0
    return frame


def _dose(dataset: Dataset, shared: dict[str, Any]) -> dict[str, Any]:
    """Frames of an RT Dose lie at GridFrameOffsetVector along the normal (PS3.3 C.8.8.3.2); values times DoseGridScaling."""
    offsets = floats(value(dataset, "GridFrameOffsetVector"), whole(value(dataset, "NumberOfFrames"), 1))
    found: dict[str, Any] = {"slope": number(value(dataset, "DoseGridScaling")), "intercept": 0.0, "unit": "Gy"}
    if offsets and shared["position"] and shared["orientation"]:
        normal = np.cross(shared["orientation"][:3], shared["orientation"][3:])
        base = offsets[0]
        found["each"] = [
            {**shared, "position": (np.array(shared["position"]) + (o - base) * normal).tolist(), "key": {}} for o in offsets
        ]
    return found


def _mosaic(dataset: Dataset) -> dict[str, Any]:
    """A Siemens mosaic's tiles as frames (nibabel's reading of the CSA header); left as one picture where that can't be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel calls its DICOM readers experimental whenever they are imported
        from nibabel.nicom.csareader import CSAReadError
        from nibabel.nicom.dicomwrappers import WrapperError, wrapper_from_data

    try:
        wrapper = wrapper_from_data(dataset)
        if not getattr(wrapper, "is_mosaic", False):
            return {"doubt": "a mosaic whose private header is missing: its tiles can't be taken apart"}
        rows, columns, tiles = (int(n) for n in wrapper.image_shape[:3])
        position, normal, sizes = wrapper.image_position, wrapper.slice_normal, wrapper.voxel_sizes
    except (WrapperError, CSAReadError, ValueError, TypeError, KeyError, AttributeError, LookupError, ArithmeticError):
        return {"doubt": "a mosaic whose private header can't be read: its tiles can't be taken apart"}
    shared = {"orientation": _unit(floats(value(dataset, "ImageOrientationPatient"), 6)),
              "spacing": floats(value(dataset, "PixelSpacing"), 2), "thickness": number(value(dataset, "SliceThickness"))}  # fmt: skip
    key = _key(dataset, [], [])
    each = [
        {**shared, "position": (np.array(position) + k * float(sizes[2]) * np.array(normal)).tolist(), "key": key}
        for k in range(tiles)
    ]
    return {"mosaic": [int(dataset.Rows), int(dataset.Columns)], "rows": rows, "columns": columns, "frames": tiles, "each": each}
