"""A mask as a DICOM Segmentation (PS3.3 A.51) over the instances that it was made from."""

import hashlib
import re
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
from knowledge.studies.wado import written
from tools.models.bundle import Bundle
from tools.models.card import Region
from tools.models.catalogue import Catalogue

MAKER = "Consilium (research use only)"
_FINDINGS = {r"o?edema": "Edema", r"necro": "Necrosis"}


def bundle_of(catalogue: Catalogue, mask: str) -> Bundle:
    """The model that made the mask of this file name. Raises Refused where it is no longer here."""
    for bundle in catalogue.of("segmentation"):
        if mask.startswith(f"{bundle.name}-{bundle.version}"):
            return bundle
    raise Refused("the model that made this mask isn't here any more", "segment again, then export")


def as_seg(archive: Archive, study: Study, series: Series, bundle: Bundle, mask: Path) -> bytes:
    """A binary SEG, one segment for each region that the mask has voxels of; a Part 10 file. The same mask gives the same UIDs.

    Raises Refused for a series that isn't DICOM, a mask that is empty, or slices that are missing in the source.
    """
    import highdicom as hd

    if not study.study_instance_uid or study.source.format != "DICOM":
        raise Refused("only masks of DICOM series can be DICOM segmentations", "take the mask as NIfTI")
    sources, wanted = _sources(archive, study, series)
    labels = nifti.read_mask(mask).aligned_with(archive.volume(series.id)).array.transpose(2, 1, 0)[wanted]
    regions = [r for r in bundle.card.regions if np.isin(labels, r.labels).any()]
    if not regions:
        raise Refused("the mask is empty: nothing was outlined", "there is nothing to export")
    algorithm = hd.AlgorithmIdentificationSequence(
        bundle.name, codes.DCM.ArtificialIntelligence, bundle.version, source=bundle.card.origin
    )
    digest = made_uid(study.study_instance_uid, mask.name, _digest(labels))
    try:
        made = hd.seg.Segmentation(
            source_images=sources, pixel_array=np.stack([np.isin(labels, r.labels) for r in regions], -1).astype(np.uint8),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_described(r, number, algorithm) for number, r in enumerate(regions, 1)],
            series_instance_uid=made_uid(digest, "series"), series_number=9100, sop_instance_uid=digest, instance_number=1, manufacturer=MAKER,
            manufacturer_model_name=bundle.name, software_versions=bundle.version, device_serial_number="1",
            content_label="CONSILIUM", content_description=f"{bundle.name} {bundle.version}"[:64],
            series_description=f"SEG {series.description or series.modality}"[:64],
        )  # fmt: skip
    except (ValueError, TypeError, AttributeError) as error:
        raise Refused(f"the source images can't carry a segmentation: {error}", "take the mask as NIfTI") from error
    return written(made)


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


def _described(region: Region, number: int, algorithm: Any) -> Any:
    import highdicom as hd

    kind, code = codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Neoplasm
    found = next((c for pattern, c in _FINDINGS.items() if re.search(pattern, region.name, re.I)), None)
    if found:
        code = getattr(codes.SCT, found)
    elif not region.tumour:
        kind = codes.SCT.AnatomicalStructure
        code = getattr(
            codes.SCT, "".join(w.capitalize() for w in re.findall(r"[A-Za-z]+", region.name)), codes.SCT.AnatomicalStructure
        )
    return hd.seg.SegmentDescription(
        segment_number=number, segment_label=region.name[:64], segmented_property_category=kind, segmented_property_type=code,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC, algorithm_identification=algorithm,
        tracking_id=region.name[:64], tracking_uid=made_uid(region.name, str(number)),
    )  # fmt: skip
