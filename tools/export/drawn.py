"""What a mask draws, ready to be handed over: its regions or lesions on the source's instances, with codes, names and tracking ids."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.sr.codedict import codes

from knowledge.errors import Refused
from knowledge.studies import nifti
from knowledge.studies.archive import Archive
from knowledge.studies.dicom import made_uid
from knowledge.studies.model import Series, Study
from knowledge.studies.query import DicomIndex
from knowledge.studies.volume import Volume
from tools.course.following import MAP
from tools.models.bundle import Bundle
from tools.models.card import Region
from tools.models.catalogue import Catalogue
from tools.models.shape import Sizes, axial

MAKER = "Consilium (research use only)"
_FINDINGS = {r"o?edema": "Edema", r"necro": "Necrosis"}
_SITES = {"lung": "Lung", "liver": "Liver", "brain": "Brain", "kidney": "Kidney", "adrenal": "AdrenalGland", "bone": "Bone", "spleen": "Spleen",
          "pancreas": "Pancreas", "breast": "Breast", "prostate": "Prostate", "peritoneum": "Peritoneum", "pleura": "Pleura", "thyroid": "ThyroidGland",
          "colon": "Colon", "skin": "Skin", "ovary": "Ovary", "bladder": "Bladder", "lymph node": "LymphNode"}  # fmt: skip
"""Organs as the course names them -> names in pydicom's SNOMED CT dictionary (CID 7601 and others)."""


@dataclass(frozen=True)
class Part:
    """One region or lesion: the label values that are it, what it is, and the id by which it is followed."""

    number: int
    name: str
    labels: tuple[int, ...]
    category: Any
    kind: Any
    site: Any
    """Coded anatomic region; None where it isn't known."""
    tracking: tuple[str, str]


@dataclass(frozen=True)
class Drawing:
    """A mask over a DICOM series. `labels` [slice, row, column] are those of the source instances, in the order of `sources`."""

    study: Study
    series: Series
    mask: Volume
    volume: Volume
    labels: np.ndarray
    sources: list[Any]
    """Headers of the source instances, without pixels."""
    parts: list[Part]
    maker: str
    version: str
    origin: str
    digest: str
    """A UID that is the same for the same mask of the same series."""
    by_hand: bool = False
    """True where the outlines were drawn by others and only followed here."""

    def inside(self, part: Part) -> np.ndarray:
        """The part as booleans [slice, row, column]."""
        return np.isin(self.labels, part.labels)

    def sizes(self, part: Part) -> Sizes:
        """Its measured sizes."""
        return Sizes.of(axial(self.mask.like(np.isin(self.mask.array, part.labels).astype(np.uint8))))


def bundle_of(catalogue: Catalogue, mask: str) -> Bundle:
    """The model that made the mask of this file name. Raises Refused where it is no longer here."""
    for bundle in catalogue.of("segmentation"):
        if mask.startswith(f"{bundle.name}-{bundle.version}"):
            return bundle
    raise Refused("the model that made this mask isn't here any more", "segment again, then export")


def described(catalogue: Catalogue, path: Path) -> list[str]:
    """A mask in words: who made it and what is in it."""
    if path.name.startswith(f"{MAP}-"):
        told = json.loads(path.with_suffix(".json").read_text())["lesions"]
        return [
            f"lesions followed over time, {MAP} {path.name.split('-')[1]}",
            *(f"lesion L{n}: {x['organ'] or 'site not stated'}" for n, x in told.items()),
        ]
    bundle = bundle_of(catalogue, path.name)
    return [f"by {bundle.name} {bundle.version} ({bundle.card.kind})", *(f"region: {r.name}" for r in bundle.card.regions)]


def drawing_of(archive: Archive, catalogue: Catalogue, study: Study, series: Series, path: Path) -> Drawing:
    """Raises Refused for a series that isn't DICOM, a mask that is empty, or slices that are missing in the source."""
    if not study.study_instance_uid or study.source.format != "DICOM":
        raise Refused("only masks of DICOM series can become DICOM objects", "take the mask as NIfTI")
    sources, wanted = _sources(archive, study, series)
    volume = archive.volume(series.id)
    mask = nifti.read_mask(path).aligned_with(volume)
    labels = mask.array.transpose(2, 1, 0)[wanted]
    digest = made_uid(study.study_instance_uid, path.name, _digest(labels))
    mask = volume.like(mask.array)
    if path.name.startswith(f"{MAP}-"):
        told = json.loads(path.with_suffix(".json").read_text())
        rows = sorted(((int(n), x) for n, x in told["lesions"].items() if (labels == int(n)).any()), key=lambda r: r[0])
        parts = [_lesion(place, number, about) for place, (number, about) in enumerate(rows, 1)]
        drawn = all(x["drawn"] for _, x in rows)
        maker, version, origin = f"Consilium {MAP}", str(told["version"]), "outlines of others" if drawn else "in the box"
    else:
        bundle = bundle_of(catalogue, path.name)
        regions = [r for r in bundle.card.regions if np.isin(labels, r.labels).any()]
        parts = [_region(place, r, digest) for place, r in enumerate(regions, 1)]
        maker, version, origin, drawn = bundle.name, bundle.version, bundle.card.origin, False
    if not parts:
        raise Refused("the mask is empty: nothing was outlined", "there is nothing to export")
    return Drawing(study, series, mask, volume, labels, sources, parts, maker, version, origin, digest, drawn)


def _digest(labels: np.ndarray) -> str:
    """What tells one label map from another."""
    return hashlib.sha256(np.ascontiguousarray(labels).tobytes()).hexdigest()


def _sources(archive: Archive, study: Study, series: Series) -> tuple[list[Any], list[int]]:
    """The source instances without pixels in the order of the slices, and which slices of the stack are theirs."""
    assert study.study_instance_uid
    kept = {s.sop_uid: s.path for s in DicomIndex(archive).stored(study.study_instance_uid, series.series_uid)}
    frames = archive.frames(series.id)
    wanted = [k for k, (uid, _) in enumerate(frames) if uid]
    uids = list(dict.fromkeys(frames[k][0] for k in wanted))
    if any(uid not in kept for uid in uids) or (len(uids) > 1 and len(uids) != len(wanted)):
        raise Refused("the mask's slices aren't whole instances of one series", "take the mask as NIfTI")
    sources = [pydicom.dcmread(kept[uid], stop_before_pixels=True, force=True) for uid in uids]
    if len(uids) == 1:
        wanted.sort(key=lambda k: frames[k][1])  # frames of one instance, as it has them
        if [frames[k][1] for k in wanted] != list(range(int(sources[0].get("NumberOfFrames") or 1))):
            raise Refused("the series is a part of a multi-frame instance", "take the mask as NIfTI")
    for one in sources:
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber", "ReferringPhysicianName",
                        "StudyDate", "StudyTime"):  # fmt: skip
            if keyword not in one:
                setattr(one, keyword, "")
    return sources, wanted


def _region(number: int, region: Region, digest: str) -> Part:
    category, kind = codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Neoplasm
    found = next((c for pattern, c in _FINDINGS.items() if re.search(pattern, region.name, re.I)), None)
    if found:
        kind = getattr(codes.SCT, found)
    elif not region.tumour:
        category = codes.SCT.AnatomicalStructure
        kind = getattr(
            codes.SCT, "".join(w.capitalize() for w in re.findall(r"[A-Za-z]+", region.name)), codes.SCT.AnatomicalStructure
        )
    return Part(
        number, region.name[:64], tuple(region.labels), category, kind, None, (region.name[:64], made_uid(digest, region.name))
    )


def _lesion(number: int, label: int, about: dict[str, Any]) -> Part:
    kind = codes.SCT.LymphNode if about["node"] else codes.SCT.Neoplasm
    site = getattr(codes.SCT, _SITES.get(about["organ"], ""), None)
    name = f"L{label}" + (f", {about['organ']}" if about["organ"] else "")
    return Part(number, name[:64], (label,), codes.SCT.MorphologicallyAbnormalStructure, kind, site, (f"L{label}", about["uid"]))
