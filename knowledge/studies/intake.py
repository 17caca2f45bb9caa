"""Recognise each incoming file by its content and read what the archive needs to know of it."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from knowledge.errors import Refused
from knowledge.records import documents, fhir, hl7, reports
from knowledge.studies import dicom, grids, nifti, picture, seen
from knowledge.studies.stacks import plane_of
from knowledge.studies.store import Journal, Objects, Staged
from knowledge.studies.volume import Volume
from knowledge.studies.which import body_part_of, sequence_of

MAX_REPORT_CHARACTERS = 200_000
UNKNOWN = "the modality isn't known: name it when importing"
NOTE = re.compile(r"^[ \t]*NOTE[ \t]*:[ \t]*(\S.*)$", re.M)
_ENDING = re.compile(r"\.(nii|gz|bz2|xz|png|jpe?g|tiff?|txt|text|pdf|docx|rtf|hl7|nrrd|nhdr|mha|mhd|hdr|img|raw)$", re.I)
# Folder names that say what files are, not whose.
_KINDS_OF_FILES = re.compile(
    r"^(images?|imgs?|labels?|masks?|segs?|segmentations?|anat|dwi|func|perf|fmap|nifti|niis?|data|scans?|raw|derivatives)$", re.I
)


@dataclass(frozen=True)
class Hints:
    """What the caller says about files that carry no identity of their own."""

    patient_id: str | None = None
    study_date: str | None = None
    modality: str | None = None
    body_part: str | None = None
    study_uid: str | None = None
    """Nothing but DICOM instances of this study is taken in; an empty text: of any study."""


@dataclass(frozen=True)
class Grid:
    """A volume file or a picture as a series to be: everything but its patient. `layouts`: one for each volume in it."""

    format: str
    modality: str
    description: str
    sequence: str | None
    body_part: str
    header: dict[str, Any]
    layouts: list[dict[str, Any]]
    which: dict[str, Any] = field(default_factory=dict)
    asks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Text:
    """A report to be."""

    title: str
    date: str | None
    text: str
    note: str = ""


@dataclass(frozen=True)
class Parsed:
    """One file, read and kept: exactly one of the four is set. `companion`: the second file of a pair."""

    name: str
    sha256: str
    instance: dicom.Instance | None = None
    grid: Grid | None = None
    record: fhir.FhirRecord | None = None
    text: Text | None = None
    companion: str | None = None
    place: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Half:
    """A header without its voxels, or voxels without their header: to be joined when the whole upload is in."""

    name: str
    staged: Staged
    wants: str | None
    """The file that this header names for its voxels; None for voxels."""


class WrongStudy(Refused):
    """An instance of another study than the request named."""


class Reader:
    """Reads the files of one upload and keeps their originals, each by itself, so that several threads can."""

    def __init__(self, objects: Objects, journal: Journal, hints: Hints, clean: Callable[[bytes], bytes] | None = None,
                 known: set[str] | None = None) -> None:  # fmt: skip
        """`known`: series whose header was told before; it grows."""
        self.objects, self.journal, self.hints, self.clean = objects, journal, hints, clean
        self._known: set[str] = set() if known is None else known

    def read(self, name: str, staged: Staged) -> "list[Parsed] | Half":
        """Recognise one file and keep it. Raises Refused with the reason and what to do; nothing is kept then."""
        try:
            if self.clean is not None:
                staged, name = self._cleaned(staged), PurePosixPath(name).suffix or "file"
            found = self._recognised(name, staged)
            if isinstance(found, Half):
                return found
            self.objects.put(staged, self.journal)
        except BaseException:
            staged.drop()
            raise
        staged.drop()
        return found

    def _cleaned(self, staged: Staged) -> Staged:
        """The de-identified copy of a file; the original is not kept."""
        assert self.clean is not None
        if not dicom.looks_like_dicom(bytes(staged.data[:4096])):
            raise Refused(
                "this archive takes de-identified data only, and only DICOM can be de-identified", "convert it to DICOM"
            )
        made = self.clean(bytes(staged.data))
        staged.drop()
        return self.objects.stage(io.BytesIO(made))

    def _recognised(self, name: str, staged: Staged) -> "list[Parsed] | Half":
        data, lower = staged.data, name.lower()
        head = bytes(data[:4096])
        if not head:
            raise Refused("the file is empty", "send the whole file")
        if dicom.looks_like_dicom(head):
            try:
                instance = dicom.read_instance(data, self._known)
                if self.hints.study_uid and instance.study_uid != self.hints.study_uid:
                    raise WrongStudy("it is of another study than the one that was named", "send it to its own study")
            except Refused as refusal:
                refusal.instance = dicom.named(data)
                raise
            return [Parsed(name, staged.sha256, instance=instance)]
        if self.hints.study_uid is not None:
            raise Refused("it isn't DICOM", "send DICOM instances")
        if lower.endswith((".dcm", ".dicom")):
            raise Refused("it is named as DICOM but isn't one", "send the original from the PACS")
        if head[:2] == b"\x1f\x8b":
            inner = nifti.unzipped(bytes(data))
            if not _is_nifti(inner[:352], lower):
                bare = re.sub(r"\.(gz|z)$", "", name, flags=re.I)
                other = self.objects.stage(io.BytesIO(inner))
                found = self.read(bare, other)
                if isinstance(found, Half):
                    return found
                staged.sha256, staged.data = other.sha256, inner  # the file under the layer is what is kept
                return [replace(p, name=name) for p in found]
            return self._grid(name, staged, "NIfTI", nifti.volumes_of(inner), nifti.said_by(inner))
        kind = grids.kind_of(head)
        if kind in ("Analyze", "NIfTI pair") and lower.endswith(".hdr"):
            return Half(name, staged, _stem(name) + ".img")
        if _is_nifti(head, lower):
            return self._grid(name, staged, "NIfTI", nifti.volumes_of(bytes(data)), nifti.said_by(head))
        if kind in ("NRRD", "MHA"):
            wanted = grids.data_file(head)
            if wanted:
                return Half(name, staged, wanted)
            return self._itk(name, staged, kind)
        if lower.endswith(grids.DATA):
            return Half(name, staged, None)
        if picture.is_picture(head):
            return self._picture(name, staged)
        return self._words(name, staged, head)

    def _words(self, name: str, staged: Staged, head: bytes) -> list[Parsed]:
        data = bytes(staged.data)
        if hl7.is_hl7(head) or fhir.is_ndjson(data):
            records = hl7.read_messages(data) if hl7.is_hl7(head) else fhir.read_ndjson(data)
            owners = {r.patient.id for r in records}
            if self.hints.patient_id and len(owners) > 1:
                raise Refused(f"it holds {len(owners)} patients; one was named for it", "send it without patient_id, or split it")
            return [Parsed(name, staged.sha256, record=r) for r in records]
        if fhir.is_fhir(data):
            return [Parsed(name, staged.sha256, record=fhir.read_bundle(data))]
        if documents.kind_of(name, head) is not None:
            return [Parsed(name, staged.sha256, text=self._text(name, documents.text_of(name, data)))]
        return [Parsed(name, staged.sha256, text=self._text(name, _plain_text(name, data)))]

    def join(self, halves: list[Half]) -> "list[tuple[str, list[Parsed] | Refused]]":
        """Headers with their voxels. A half whose other half didn't come is refused."""
        voxels = {_beside(h.name, PurePosixPath(h.name).name): h for h in halves if h.wants is None}
        done: list[tuple[str, list[Parsed] | Refused]] = []
        used = set()
        for header in (h for h in halves if h.wants is not None):
            assert header.wants is not None
            place = _beside(header.name, header.wants)
            other = voxels.get(place) or voxels.get(place + ".gz")
            try:
                if other is None:
                    raise Refused(
                        f"its voxels ({PurePosixPath(header.wants).name}) didn't come with it", "send both files together"
                    )
                used.add(other.name)
                done.append((header.name, self._paired(header, other)))
            except Refused as refusal:
                done.append((header.name, refusal))
        for half in halves:
            if half.wants is None and half.name not in used:
                done.append((half.name, Refused("voxels without a header", "send the header (.hdr, .nhdr, .mhd) with it")))
            half.staged.drop()
        return done

    def _paired(self, header: Half, voxels: Half) -> list[Parsed]:
        kind = grids.kind_of(bytes(header.staged.data[:4096])) or ""
        sha256, companion = header.staged.sha256, voxels.staged.sha256
        for half in (header, voxels):
            self.objects.put(half.staged, self.journal)
        wanted = PurePosixPath(header.wants or "").name
        volume = grids.volume_of(kind, self.objects.path(sha256), self.objects.path(companion), wanted)
        doubts = ["Analyze states no orientation: left and right can't be told apart"] if kind == "Analyze" else []
        (parsed,) = self._grid(header.name, header.staged, "NIfTI" if kind == "NIfTI pair" else kind, [volume], "", doubts)
        return [replace(parsed, sha256=sha256, companion=companion, place={"kind": kind, "data_name": wanted})]

    def _itk(self, name: str, staged: Staged, kind: str) -> list[Parsed]:
        self.objects.put(staged, self.journal)  # where it is refused, the upload's journal takes it back
        volume = grids.volume_of(kind, self.objects.path(staged.sha256), None)
        (parsed,) = self._grid(name, staged, kind, [volume], "")
        return [replace(parsed, place={"kind": kind})]

    def _grid(
        self, name: str, staged: Staged, kind: str, volumes: list[Volume], said: str, doubts: list[str] | None = None
    ) -> list[Parsed]:
        described = _described(name, kind, volumes, said, self.hints, doubts or [])
        return [Parsed(name, staged.sha256, grid=described)]

    def _picture(self, name: str, staged: Staged) -> list[Parsed]:
        volume = picture.picture_of(bytes(staged.data))
        modality = (self.hints.modality or "OT").upper()
        layout = {"shape": list(volume.array.shape), "spacing_mm": None,
                  "warnings": ["a picture has no spacing: nothing on it can be measured in mm"]}  # fmt: skip
        grid = Grid("picture", modality, _stem(name), sequence_of(name) if modality == "MR" else None,
                    (self.hints.body_part or body_part_of(name)).upper(), {"file": PurePosixPath(name).name}, [layout],
                    asks=() if self.hints.modality else ("modality",))  # fmt: skip
        return [Parsed(name, staged.sha256, grid=grid)]

    def _text(self, name: str, text: str) -> Text:
        note = NOTE.search(text)
        return Text(reports.title_of(text) or _stem(name), reports.date_of(text) or self.hints.study_date, text,
                    note.group(1) if note else "")  # fmt: skip


def _is_nifti(head: bytes, lower: str) -> bool:
    magic = head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")
    return magic or lower.endswith((".nii", ".nii.gz"))


def _stem(name: str) -> str:
    base = PurePosixPath(name).name
    while (shorter := _ENDING.sub("", base)) != base and shorter:
        base = shorter
    return base


def _beside(name: str, other: str) -> str:
    return str(PurePosixPath(name).with_name(PurePosixPath(other).name)).lower()


def folder_of(name: str) -> str:
    """The folder that says whose a file is: its path without its own name and without folders that say what files are."""
    return "/".join(p for p in PurePosixPath(name.replace("\\", "/")).parts[:-1] if not _KINDS_OF_FILES.match(p))


def _described(name: str, kind: str, volumes: list[Volume], said: str, hints: Hints, doubts: list[str]) -> Grid:
    first, stem = volumes[0], _stem(name)
    reasons: list[str] = []
    sequence = _sequence(stem, said, reasons)
    warnings = list(doubts)
    if not np.isfinite(first.array).all():
        warnings.append("some voxels are not numbers")
    part = (hints.body_part or body_part_of(name)).upper()
    if part:
        reasons.append(f"body part {part}: {'named by the caller' if hints.body_part else 'by the file name'}")
    modality, asks = _modality(first, sequence, hints, warnings)
    if modality in ("MR", "OT") and sequence is None and (shown := seen.sequence_in_brain_mr(first)):
        if modality == "OT":
            modality, asks = "MR", ()
            warnings[warnings.index(UNKNOWN)] = "modality MR was taken from the image (a brain, T2-weighted)"
        sequence = shown
        reasons.append(f"sequence {shown}: by the image")
    if modality == "CT" and not part and (shown := seen.body_part_in_ct(first)):
        part = shown
        reasons.append(f"body part {shown}: by the image")
    shown_volume = first.oriented("LPS")
    assert shown_volume.affine is not None
    axes = shown_volume.affine[:3, :3] / shown_volume.spacing_mm
    if float(np.abs(axes.T @ axes - np.eye(3)).max()) > 0.01:
        warnings.append("the grid is sheared: lengths need care")
    layout = {"shape": list(shown_volume.array.shape), "spacing_mm": [round(s, 4) for s in shown_volume.spacing_mm], "warnings": warnings,
              "unit": "HU" if modality == "CT" else ""}  # fmt: skip
    plane = plane_of([1, 0, 0, 0, 1, 0])
    return Grid(kind, modality, sequence or stem, sequence if modality == "MR" else None, part,
                {"file": PurePosixPath(name).name, **({"description": said} if said else {})},
                [{**layout, "component": n} for n in range(len(volumes))] if len(volumes) > 1 else [layout],
                {"plane": plane, "contrast": True if sequence == "T1c" else None, "reasons": reasons}, asks)  # fmt: skip


def _sequence(stem: str, said: str, reasons: list[str]) -> str | None:
    for text, where in ((stem, "the file name"), (said, "the file's header")):
        if found := sequence_of(text):
            reasons.append(f"sequence {found}: by {where}")
            return found
    return None


def _modality(volume: Volume, sequence: str | None, hints: Hints, warnings: list[str]) -> tuple[str, tuple[str, ...]]:
    if _is_label_map(volume.array):
        return "SEG", ()
    if hints.modality:
        return hints.modality.upper(), ()
    if sequence:
        return "MR", ()
    if float(np.nanmin(volume.array)) < -500:
        warnings.append("modality CT was taken from the grey values (Hounsfield units)")
        return "CT", ()
    warnings.append(UNKNOWN)
    return "OT", ("modality",)


def _is_label_map(array: np.ndarray) -> bool:
    """True for few whole numbers from 0 up: labels, not grey values."""
    if array.min() != 0 or array.max() > 300 or not bool((array[::7] == np.round(array[::7])).all()):
        return False
    return len(np.unique(array[::2, ::2, ::2])) <= 130


def _plain_text(name: str, data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused("the format isn't recognised", KNOWN) from error
    printable = sum(c.isprintable() or c in "\r\n\t" for c in text)
    if "\x00" in text or printable < 0.95 * len(text) or not text.strip():
        raise Refused("it is neither an image nor readable text", "send the original file")
    if not name.lower().endswith((".txt", ".text")):
        raise Refused("the format isn't recognised", f"name text reports .txt; {KNOWN}")
    if len(text) > MAX_REPORT_CHARACTERS:
        raise Refused(f"a report of {len(text)} characters is too long", "send reports one by one")
    return text


KNOWN = ("send DICOM, NIfTI, NRRD, MHA, Analyze, PNG, JPEG, TIFF, reports (txt, pdf, docx, rtf, HL7 v2 ORU), FHIR (Bundle, NDJSON), "
         "or a zip, tar or ISO of these")  # fmt: skip
