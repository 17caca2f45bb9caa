"""Recognise each incoming file by its content and read what the archive needs to know of it."""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from knowledge.errors import Refused
from knowledge.records import fhir, reports
from knowledge.studies import dicom, nifti, picture
from knowledge.studies.sequence import sequence_of

MAX_REPORT_CHARACTERS = 200_000
_BODY_PARTS = {"BRAIN": r"brain|head|cereb|neuro|skull|brats", "CHEST": r"chest|thorax|lung", "BREAST": r"breast|mamm",
               "ABDOMEN": r"abdom|liver|hepat|renal|kidney|pancrea", "PROSTATE": r"prostat",
               "NECK": r"thyroid|neck"}  # fmt: skip
NOTE = re.compile(r"^[ \t]*NOTE[ \t]*:[ \t]*(\S.*)$", re.M)


@dataclass(frozen=True)
class Hints:
    """What the caller says about files that carry no identity of their own."""

    patient_id: str | None = None
    study_date: str | None = None
    modality: str | None = None
    body_part: str | None = None


@dataclass(frozen=True)
class Grid:
    """A NIfTI volume or a picture as a series to be: everything but its patient."""

    format: str
    modality: str
    description: str
    sequence: str | None
    body_part: str
    header: dict[str, Any]
    layout: dict[str, Any]


@dataclass(frozen=True)
class Text:
    """A report to be."""

    title: str
    date: str | None
    text: str
    note: str = ""


@dataclass(frozen=True)
class Parsed:
    """One file, read: exactly one of the four is set."""

    name: str
    data: bytes
    instance: dicom.Instance | None = None
    grid: Grid | None = None
    record: fhir.FhirRecord | None = None
    text: Text | None = None

    @cached_property
    def sha256(self) -> str:
        """The name of its bytes."""
        return hashlib.sha256(self.data).hexdigest()


def read(name: str, data: bytes, hints: Hints) -> Parsed:
    """Recognise and read one file. Raises Refused with the reason and what to do."""
    if not data:
        raise Refused("the file is empty", "send the whole file")
    if data[128:132] == b"DICM":
        return Parsed(name, data, instance=dicom.read_instance(data))
    if name.lower().endswith((".dcm", ".dicom")):
        raise Refused("it is named as DICOM but isn't one", "send the original from the PACS")
    inner = nifti.unzipped(data)
    if inner is not data and inner[128:132] == b"DICM":
        return Parsed(name, inner, instance=dicom.read_instance(inner))
    if data[:2] == b"\x1f\x8b" or name.lower().endswith((".nii", ".nii.gz")):
        return Parsed(name, data, grid=_nifti(name, inner, hints))
    if data[:8] == b"\x89PNG\r\n\x1a\n" or data[:3] == b"\xff\xd8\xff":
        return Parsed(name, data, grid=_picture(name, data, hints))
    if fhir.is_fhir(data):
        return Parsed(name, data, record=fhir.read_bundle(data))
    return Parsed(name, data, text=_report(name, data, hints))


def _stem(name: str) -> str:
    base = PurePosixPath(name).name
    return re.sub(r"\.(nii|gz|png|jpe?g|txt)$", "", re.sub(r"\.gz$", "", base, flags=re.I), flags=re.I)


def body_part_of(text: str) -> str:
    """The body part named in `text`, or an empty string."""
    return next((part for part, pattern in _BODY_PARTS.items() if re.search(pattern, text.lower())), "")


def _nifti(name: str, data: bytes, hints: Hints) -> Grid:
    image = nifti.open_nifti(data)
    volume = nifti.voxels_of(image)
    stem = _stem(name)
    sequence = sequence_of(stem)
    warnings = []
    if not np.isfinite(volume.array).all():
        warnings.append("some voxels are not numbers")
    shown = volume.oriented("LPS")
    if _is_label_map(volume.array):
        modality, sequence = "SEG", None
    elif hints.modality:
        modality = hints.modality.upper()
    elif sequence:
        modality = "MR"
    elif float(np.nanmin(volume.array)) < -500:
        modality = "CT"
        warnings.append("modality CT was taken from the grey values (Hounsfield units)")
    else:
        modality = "OT"
        warnings.append("the modality isn't known: name it when importing")
    assert shown.affine is not None
    axes = shown.affine[:3, :3] / shown.spacing_mm
    if float(np.abs(axes.T @ axes - np.eye(3)).max()) > 0.01:
        warnings.append("the grid is sheared: lengths need care")
    return Grid(
        format="NIfTI",
        modality=modality,
        description=sequence or stem,
        sequence=sequence if modality == "MR" else None,
        body_part=(hints.body_part or body_part_of(name)).upper(),
        header={"file": PurePosixPath(name).name, "data_type": str(image.get_data_dtype())},
        layout={"shape": list(shown.array.shape), "spacing_mm": [round(s, 4) for s in shown.spacing_mm],
                "warnings": warnings},
    )  # fmt: skip


def _is_label_map(array: np.ndarray) -> bool:
    """True for few whole numbers from 0 up: labels, not grey values."""
    if array.min() != 0 or array.max() > 300 or not bool((array[::7] == np.round(array[::7])).all()):
        return False
    return len(np.unique(array[::2, ::2, ::2])) <= 130


def _picture(name: str, data: bytes, hints: Hints) -> Grid:
    volume = picture.picture_of(data)
    modality = (hints.modality or "OT").upper()
    return Grid(
        format="picture",
        modality=modality,
        description=_stem(name),
        sequence=sequence_of(name) if modality == "MR" else None,
        body_part=(hints.body_part or body_part_of(name)).upper(),
        header={"file": PurePosixPath(name).name},
        layout={"shape": list(volume.array.shape), "spacing_mm": None,
                "warnings": ["a picture has no spacing: nothing on it can be measured in mm"]},
    )  # fmt: skip


def _report(name: str, data: bytes, hints: Hints) -> Text:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(
            "the format isn't recognised", "send DICOM, NIfTI, PNG, JPEG, a text report, a FHIR bundle or a zip of these"
        ) from error
    printable = sum(c.isprintable() or c in "\r\n\t" for c in text)
    if "\x00" in text or printable < 0.95 * len(text) or not text.strip():
        raise Refused("it is neither an image nor readable text", "send the original file")
    if not name.lower().endswith((".txt", ".text")):
        raise Refused("the format isn't recognised", "name text reports .txt")
    if len(text) > MAX_REPORT_CHARACTERS:
        raise Refused(f"a report of {len(text)} characters is too long", "send reports one by one")
    note = NOTE.search(text)
    return Text(reports.title_of(text) or _stem(name), reports.date_of(text) or hints.study_date, text,
                note.group(1) if note else "")  # fmt: skip
