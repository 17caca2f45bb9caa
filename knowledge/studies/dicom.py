"""Read DICOM instances (PS3.10): what they are, whose, where in space; the pixels are left where they lie in the file."""

import hashlib
import io
import logging
import math
import struct
import warnings
import zlib
from dataclasses import dataclass, field
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from knowledge.errors import Refused
from knowledge.records.model import RecordItem
from knowledge.studies import content, placement, suv, tags, workers
from knowledge.studies.model import Patient

# pydicom's warnings quote the values they complain of, and a value may be a name.
warnings.filterwarnings("ignore", module="pydicom")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

Data = bytes | memoryview

MAX_INFLATED = 2**29
MAX_PIXEL_BYTES = 2**33
"""Decoded bytes of one instance: more than any scanner writes, and what a forged header would have us allocate."""
MAX_ELEMENTS = 20_000
LONG_HEADER, LONG_HEADER_SECONDS = 4 * 2**20, 4.0
"""Headers of more bytes are read apart, and given up after these seconds."""
PIXEL_TAG = b"\xe0\x7f\x10\x00"
BROKEN = (ValueError, LookupError, TypeError, AttributeError, OSError, OverflowError, NotImplementedError, AssertionError,
          MemoryError, struct.error, zlib.error, BytesLengthException, ArithmeticError, RecursionError)  # fmt: skip
"""What pydicom raises on damaged data; each is a reason to refuse the file."""
PIXELS = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
"""Float, double float and integer pixel data."""
DICOMDIR = "1.2.840.10008.1.3.10"

# Technical attributes that a reader may ask about; none of them identifies a person.
TECHNICAL = [
    "Modality", "Manufacturer", "ManufacturerModelName", "BodyPartExamined", "SeriesDescription", "ProtocolName",
    "ScanningSequence", "SequenceVariant", "MRAcquisitionType", "MagneticFieldStrength", "RepetitionTime", "EchoTime",
    "InversionTime", "FlipAngle", "DiffusionBValue", "ContrastBolusAgent", "KVP", "XRayTubeCurrent", "ExposureTime", "Exposure",
    "CTDIvol", "ConvolutionKernel", "SliceThickness", "SpacingBetweenSlices", "PixelSpacing", "ImagerPixelSpacing", "Rows",
    "Columns", "NumberOfFrames", "ImageOrientationPatient", "PatientPosition", "GantryDetectorTilt", "RescaleSlope",
    "RescaleIntercept", "RescaleType", "WindowCenter", "WindowWidth", "VOILUTFunction", "PhotometricInterpretation", "BitsStored",
    "ImageType", "LossyImageCompression", "Laterality", "ViewPosition", "Units", "EstimatedRadiographicMagnificationFactor",
    "AcquisitionContrast", "CardiacCyclePosition", "BurnedInAnnotation", "PatientIdentityRemoved", "FrameOfReferenceUID",
    "FrameTime", "CineRate", "RecommendedDisplayFrameRate",
]  # fmt: skip


@dataclass(frozen=True)
class Instance:
    """One DICOM instance's place in the hierarchy, with the attributes that geometry needs. `texts` and `values`: what it says."""

    sop_instance_uid: str
    sop_class: str
    series_uid: str
    study_uid: str
    patient: Patient
    study_date: str | None
    study_description: str
    modality: str
    series_description: str
    body_part: str
    header: dict[str, Any]
    place: dict[str, Any]
    texts: list[tuple[str, str | None, str]] = field(default_factory=list)
    values: list[RecordItem] = field(default_factory=list)
    study_tags: tags.Tags = field(default_factory=dict)
    """Attributes that others ask an archive for; as `header`, told with the first instance of a series alone."""
    series_tags: tags.Tags = field(default_factory=dict)


def looks_like_dicom(head: bytes) -> bool:
    """True for Part 10 files, and for data sets without preamble (group 2 or 8 first, either byte order)."""
    if head[128:132] == b"DICM":
        return True
    group, element = head[:2], head[2:4]
    if len(head) < 16 or group not in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):
        return False
    number = int.from_bytes(element, "big" if group == b"\x00\x08" else "little")
    return number <= 0x0100 and ((head[4:6].isalpha() and head[4:6].isupper()) or head[6:8] == b"\0\0")


def read_instance(data: Data, known: set[str] | None = None) -> Instance:
    """The instance in `data`, checked to be whole as far as its header tells. Raises Refused with the reason.

    `known` holds the series whose header was told before: their instances come without it. It grows by this one's. A header of
    unusual length is read in a process that can be killed: nested elements can be so many that parsing them takes minutes.
    """
    known = set() if known is None else known
    start = bytes(data[:LONG_HEADER])
    if len(data) <= LONG_HEADER or PIXEL_TAG in start or content.PDF.encode() in start[:1024]:
        return _read(data, known)
    found = workers.run(_read_apart, bytes(data), LONG_HEADER_SECONDS)
    if isinstance(found, Refused):
        raise found
    instance: Instance = found
    known.add(instance.series_uid)
    return instance


def _read_apart(data: bytes) -> Instance | Refused:
    try:
        return _read(data, set())
    except Refused as refusal:
        return refusal


def _read(data: Data, known: set[str]) -> Instance:
    try:
        return _described(*parsed(data), known)
    except (InvalidDicomError, EOFError) as error:
        raise Refused("it isn't a whole DICOM file", "send the original file again") from error
    except RecursionError as error:
        raise Refused("its sequences are nested too deep", "send the original from the PACS") from error
    except BROKEN as error:
        raise Refused(f"the DICOM data can't be parsed ({type(error).__name__})", "send the original again") from error


def named(data: Data) -> tuple[str, str]:
    """SOP class and instance UID of a file that may be broken; empty where they can't be told."""
    try:
        dataset = parsed(data)[0]
        return _text(dataset, "SOPClassUID"), _text(dataset, "SOPInstanceUID")
    except (Refused, InvalidDicomError, EOFError, *BROKEN):
        return "", ""


NOWHERE, ELSEWHERE = -1, -2
"""No pixel element; one that isn't in the file as it lies there (the data set is deflated)."""


def parsed(data: Data) -> tuple[Dataset, int, int]:
    """The data set before its pixels, the offset at which the pixel element starts (or NOWHERE, ELSEWHERE), the length of `data`."""
    head = bytes(data[:2048])
    deflated = DeflatedExplicitVRLittleEndian.encode() in head
    if deflated:
        _check_inflation(bytes(data))
    found, count = False, 0

    def stop(tag: Any, vr: str | None, length: int) -> bool:
        nonlocal count, found
        count += 1
        if count > MAX_ELEMENTS:
            raise Refused("it has more attributes than any DICOM object", "send the original from the PACS")
        found = int(tag) in PIXELS
        return found

    stream = io.BytesIO(data)  # shares the bytes, where they are bytes
    dataset = read_partial(stream, stop_when=stop, force=head[128:132] != b"DICM")
    name_syntax(dataset)
    return dataset, NOWHERE if not found else ELSEWHERE if deflated else stream.tell(), len(data)


def name_syntax(dataset: Dataset) -> None:
    """Where a file names no transfer syntax, the one that it was read with."""
    meta = getattr(dataset, "file_meta", None)
    if meta is None:
        meta = dataset.file_meta = pydicom.dataset.FileMetaDataset()
    if "TransferSyntaxUID" not in meta:
        implicit, little = dataset.original_encoding
        uid = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        meta.TransferSyntaxUID = uid


def _check_inflation(data: bytes) -> None:
    """Refuse a deflated data set that inflates past MAX_INFLATED, without inflating it whole."""
    length = int.from_bytes(data[140:144], "little")  # value of (0002,0000), always first after "DICM"
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflater.decompress(data[144 + length :], MAX_INFLATED)
    if inflater.unconsumed_tail:
        raise Refused("the deflated data set unpacks to far more than it should", "send it uncompressed")


def _described(dataset: Dataset, offset: int, size: int, known: set[str]) -> Instance:
    sop_class = str(placement.value(dataset, "SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or "")
    if sop_class == DICOMDIR:
        raise Refused("a DICOMDIR is the index of a disc", "the files that it names are taken by themselves")
    name = pydicom.uid.UID(sop_class or "no SOP class").name
    image = bool(placement.value(dataset, "Rows") and placement.value(dataset, "Columns")) and "BitsAllocated" in dataset
    texts: list[tuple[str, str | None, str]] = []
    values: list[RecordItem] = []
    if image:
        place = placement.place_of(dataset, sop_class)
        place["pixels"] = _pixel_span(dataset, place, offset, size)
        if str(placement.value(dataset, "Modality")) == "PT":
            place["suv"], place["suv_reason"] = suv.factor(dataset)
    else:
        if name.endswith("Image Storage") or _cut_short(dataset):
            raise Refused(f"it is cut short, or its image attributes are missing ({name})", "send the whole file")
        if not sop_class or not placement.value(dataset, "SOPInstanceUID") or not placement.value(dataset, "StudyInstanceUID"):
            raise Refused(f"it holds no image and isn't a complete DICOM object ({name})", "send the original from the PACS")
        place = {
            "rows": 0,
            "columns": 0,
            "frames": 0,
            "number": int(placement.value(dataset, "InstanceNumber") or 0),
            "uids": True,
        }
        place["object"] = name
        texts, values, found = content.said(dataset, sop_class)
        place |= found
    return _instance(dataset, sop_class, place, texts, values, size, known)


def _cut_short(dataset: Dataset) -> bool:
    """True where the last element has fewer bytes than it declares."""
    tags = list(dataset.keys())
    last = dataset.get_item(max(tags)) if tags else None
    value, length = getattr(last, "value", None), getattr(last, "length", None)
    return isinstance(value, bytes) and isinstance(length, int) and length != 0xFFFFFFFF and len(value) < length


def _instance(dataset: Dataset, sop_class: str, place: dict[str, Any], texts: list[tuple[str, str | None, str]],
              values: list[RecordItem], size: int, known: set[str]) -> Instance:  # fmt: skip
    description = _text(dataset, "SeriesDescription") or _text(dataset, "ProtocolName")
    modality = _text(dataset, "Modality") or "OT"
    # De-identified exports exist whose UIDs were emptied: names are then made from what is left.
    person, day = _text(dataset, "PatientID").strip(), _text(dataset, "StudyDate")
    study = _text(dataset, "StudyInstanceUID") or made_uid(person, day, "study")
    number = [_text(dataset, k) for k in ("SeriesNumber", "Rows", "Columns")]
    series = _text(dataset, "SeriesInstanceUID") or made_uid(study, modality, description, *number)
    sop = _text(dataset, "SOPInstanceUID") or made_uid(series, str(sorted(place.items(), key=str)), str(size))
    patient = Patient(id=person, birth_date=placement.iso_date(placement.value(dataset, "PatientBirthDate")), sex=_text(dataset, "PatientSex") or None,
                      name=_text(dataset, "PatientName"), issuer=_text(dataset, "IssuerOfPatientID"))  # fmt: skip
    new = series not in known
    known.add(series)
    header, of_study, of_series = _told(dataset, study, series) if new else ({}, {}, {})
    place["number"] = placement.whole(placement.value(dataset, "InstanceNumber"), 0)
    return Instance(
        sop, sop_class, series, study, patient, placement.iso_date(placement.value(dataset, "StudyDate")), _text(dataset, "StudyDescription"),
        modality, description, _text(dataset, "BodyPartExamined"), header, place, texts, values, of_study, of_series,
    )  # fmt: skip


def _told(dataset: Dataset, study: str, series: str) -> tuple[dict[str, Any], tags.Tags, tags.Tags]:
    """What is told once of a series: technical attributes, and those by which others ask for it and its study."""
    of_study = {**tags.of(dataset, tags.STUDY), **tags.put("StudyInstanceUID", study)}
    return _header(dataset), of_study, {**tags.of(dataset, tags.SERIES), **tags.put("SeriesInstanceUID", series)}


def same_picture(one: bytes, other: bytes) -> bool:
    """True when two instances hold the same pixels at the same place, whatever else their headers say."""
    found = []
    for data in (one, other):
        try:
            dataset, offset, _ = parsed(data)
            place = placement.place_of(dataset, "") if offset >= 0 else {}
        except (Refused, *BROKEN):
            return False
        if offset < 0:
            return False
        found.append((place, data[offset:]))
    (here, mine), (there, theirs) = found
    return here["shared"] == there["shared"] and here.get("each") == there.get("each") and mine == theirs


def _text(dataset: Dataset, keyword: str) -> str:
    value = placement.value(dataset, keyword)
    return "" if value is None else str(value)


def made_uid(*parts: str) -> str:
    """A UID under 2.25 (PS3.5 B.2) that is the same for the same parts."""
    return f"2.25.{int(hashlib.sha256('|'.join(parts).encode()).hexdigest()[:30], 16)}"


def _header(dataset: Dataset) -> dict[str, Any]:
    found = {}
    for keyword in TECHNICAL:
        value = placement.value(dataset, keyword)
        if value is None or value == "":
            value = _within(dataset, keyword)
        if value is not None and value != "":
            found[keyword] = _plain(value)
    return found


def _within(dataset: Dataset, keyword: str) -> Any:
    """An attribute that an enhanced object keeps in its shared functional groups."""
    if keyword not in placement.ENHANCED:
        return None
    sequence, own = placement.ENHANCED[keyword]
    groups = [
        *(placement.value(dataset, "SharedFunctionalGroupsSequence") or []),
        *(placement.value(dataset, "PerFrameFunctionalGroupsSequence") or [])[:1],
    ]
    return placement.first(groups, sequence, own)


def _pixel_span(dataset: Dataset, place: dict[str, Any], offset: int, size: int) -> list[int] | None:
    """Where the pixel bytes of native data lie, [offset, length]; None where they have to be decoded. Raises Refused when
    fewer bytes are there than the header declares."""  # fmt: skip
    syntax = dataset.file_meta.TransferSyntaxUID
    expected = placement.pixel_bytes(place)
    if expected > MAX_PIXEL_BYTES or expected <= 0:
        raise Refused("the header names an impossible image size", "send the original from the PACS")
    if offset == NOWHERE:
        raise Refused("it holds no pixel data", "send the whole file")
    if offset == ELSEWHERE:
        return None
    there = size - offset - 8
    if there < 4:
        raise Refused("it holds no pixel data", "send the whole file")
    if syntax.is_compressed:
        # A frame takes at least one item header (8 bytes); fewer bytes can't hold the frames that are declared.
        if place["frames"] * 8 > there:
            raise Refused(f"it is cut short: {there} bytes for {place['frames']} frames", "send the whole file")
        return None
    if place["photometric"] == "YBR_FULL_422":
        expected = expected * 2 // 3  # two pixels share their colour (PS3.3 C.7.6.3.1.2)
    start = offset + (8 if syntax == ImplicitVRLittleEndian else 12)
    if size - start < expected:
        raise Refused(f"it is cut short: {max(size - start, 0)} of {expected} pixel bytes", "send the whole file")
    grey = place["photometric"].startswith("MONOCHROME") and place["samples"] == 1 and not place["lut"]
    direct = grey and "mosaic" not in place and place["bits"] in (8, 16) and syntax.is_little_endian
    return [start, expected] if direct else None


def _plain(value: Any) -> Any:
    if isinstance(value, pydicom.multival.MultiValue | list):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    return int(value) if isinstance(value, int) else str(value)
