"""Give a study out: its originals, or de-identified copies, as a zip that streams to the disk."""

import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from knowledge.errors import KnowledgeError, Refused
from knowledge.evidence import Frozen
from knowledge.studies.archive import Archive, Original, Rejected
from knowledge.studies.deidentify import burned, faces, header
from knowledge.studies.deidentify.profile import PROFILES, Option
from knowledge.studies.deidentify.vault import Vault
from knowledge.studies.dicom import BROKEN, name_syntax, read_instance
from knowledge.studies.wado import written

WORDY = ("1.2.840.10008.5.1.4.1.1.88.", "1.2.840.10008.5.1.4.1.1.104.", "1.2.840.10008.5.1.4.1.1.9.")
"""SOP classes whose content is words or a person's own document (SR, encapsulated documents, waveforms with annotations)."""


Masks = dict[str, dict[int, np.ndarray]]
"""Pixels to blank [row, column], by SOP Instance UID and frame."""


class Exported(Frozen):
    """What an export holds: how many files, with text blanked in how many, and which were left out."""

    files: int
    blanked: int
    defaced: int
    left_out: list[Rejected]


def options_of(profile: str, more: Iterable[str] = ()) -> frozenset[Option]:
    """The options of a named profile and `more` of PS3.15's. Raises Refused for a name that isn't one."""
    try:
        chosen = PROFILES[profile] | {Option(name) for name in more}
    except (KeyError, ValueError) as error:
        known = f"profiles are {sorted(PROFILES)}, options {[o.value for o in Option]}"
        raise Refused(f"{profile!r} with {sorted(more)} is no profile with options", known) from error
    if {Option.FULL_DATES, Option.MODIFIED_DATES} <= chosen:
        chosen -= {Option.MODIFIED_DATES}  # full dates were asked for
    return chosen


def write_zip(archive: Archive, study_id: str, into: IO[bytes], options: frozenset[Option] | None, by: str = "local") -> Exported:
    """Write a study's files into a zip. With options of a profile only what can be de-identified goes in; the rest is named in `left_out`."""
    originals = archive.originals(study_id)
    blanked, left_out, files = 0, list[Rejected](), 0
    masks = _faces(archive, study_id) if options is not None and Option.FACES in options else {}
    looks = _to_look_at(originals) if options is not None and Option.PIXELS in options else set()
    with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for number, original in enumerate(originals):
            if options is None:
                packed.write(original.path, _plain_name(original.name, number + 1))
                files += 1
                continue
            try:
                if original.place is None:
                    raise Refused("only DICOM can be de-identified by the standard's profiles", "export it without a profile")
                data, changed = cleaned(original.path.read_bytes(), options, archive.vault, masks, number in looks)
            except KnowledgeError as error:
                left_out.append(Rejected(file=f"file {number + 1}", reason=f"{error}: {error.hint}"))
                continue
            packed.writestr(f"{number + 1:06d}.dcm", data)
            files, blanked = files + 1, blanked + changed
    chosen = sorted(options) if options is not None else "originals"
    archive.note(by, "export", study_id, {"deidentified": chosen, "files": files, "left_out": len(left_out)})
    return Exported(files=files, blanked=blanked, defaced=len(masks), left_out=left_out)


def _to_look_at(originals: list[Original]) -> set[int]:
    """Which originals to look for text in: all that may have some, and a sample of the others; all of a series whose sample has some."""
    looks: set[int] = set()
    calm: dict[str, list[int]] = {}
    for number, one in enumerate(originals):
        if one.place and one.place.get("frames"):
            if burned.likely(one.modality, one.header, one.place):
                looks.add(number)
            else:
                calm.setdefault(one.series_uid, []).append(number)
    for numbers in calm.values():
        sample = {*numbers[:: burned.SAMPLED], numbers[-1]}
        if any(_has_text(originals[n]) for n in sample):
            looks.update(numbers)
    return looks


def _has_text(original: Original) -> bool:
    try:
        return any(mask.any() for mask in burned.found(original.path.read_bytes(), original.place or {}))
    except KnowledgeError:
        return True  # what can't be read can't be called clean: it is looked at again, and left out with its reason


def _plain_name(name: str, number: int) -> str:
    """A name within the zip that stays in it."""
    safe = [p for p in PurePosixPath(name.replace("\\", "/")).parts if p not in ("/", "..", ".")]
    return f"{number:06d}_{safe[-1] if safe else 'file'}"


def cleaned(
    data: bytes, options: frozenset[Option], vault: Vault, masks: Masks | None = None, look: bool = True
) -> tuple[bytes, bool]:
    """A de-identified copy of a DICOM file, and whether text in its pixels was blanked. Raises Refused for what can't be cleaned.

    `masks`: pixels to blank besides (a face), by SOP Instance UID and frame. `look`: for text in the pixels.
    """
    instance = read_instance(data)
    if instance.sop_class.startswith(WORDY) and Option.STRUCTURED not in options:
        raise Refused("its content is words, which the profile removes whole", "export it without a profile, or leave it out")
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        name_syntax(dataset)
        dataset, blanked = _pixels(
            dataset, data, instance.place, instance.sop_instance_uid, look and Option.PIXELS in options, masks or {}
        )
        header.deidentify(dataset, options, vault)
        if Option.PIXELS in options and instance.place.get("frames"):
            dataset.BurnedInAnnotation = "NO"
        if masks and instance.sop_instance_uid in masks:
            dataset.RecognizableVisualFeatures = "NO"
        dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID") or instance.sop_class
        return written(dataset), blanked
    except BROKEN as error:
        raise Refused(f"it can't be de-identified ({type(error).__name__})", "leave it out") from error


def _pixels(dataset: Dataset, data: bytes, place: dict[str, Any], uid: str, look: bool, masks: Masks) -> tuple[Dataset, bool]:
    if not place.get("frames"):
        return dataset, False
    none = np.zeros((place["rows"], place["columns"]), bool)
    text = burned.found(data, place) if look else [none] * place["frames"]
    has_text, face = any(m.any() for m in text), masks.get(uid, {})
    if not face and not has_text:
        return dataset, False
    whole = [mask | face.get(n, none) for n, mask in enumerate(text)]
    return burned.blanked(dataset, data, place, whole), has_text


def _faces(archive: Archive, study_id: str) -> Masks:
    """The face's layer in each instance of the study's head series, by SOP Instance UID and frame."""
    found: Masks = {}
    for series in archive.study(study_id).series:
        if series.modality not in ("MR", "CT") or series.body_part != "BRAIN" or not series.spacing_mm:
            continue
        volume = archive.volume(series.id)
        layer = faces.face_of(volume)
        for k, (uid, frame) in enumerate(archive.frames(series.id)):
            if uid:
                found.setdefault(uid, {})[frame] = layer[:, :, k].T
    return found


@dataclass(frozen=True)
class OnImport:
    """What is done to files before anything of them is kept, where an archive takes only de-identified data."""

    options: frozenset[Option]
    vault: Vault

    def __call__(self, data: bytes) -> bytes:
        """The de-identified copy of a DICOM file. Raises Refused for what can't be cleaned."""
        return cleaned(data, self.options, self.vault)[0]
