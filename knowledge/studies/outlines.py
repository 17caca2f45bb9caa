"""What others outlined on a study: the segments of DICOM SEG and the structures of RTSTRUCT, with what they are said to be."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from knowledge.errors import KnowledgeError
from knowledge.evidence import Coding
from knowledge.studies.archive import Archive
from knowledge.studies.content import SR_CLASSES, coding
from knowledge.studies.dicom import BROKEN
from knowledge.studies.model import Series, Study
from knowledge.studies.query import DicomIndex
from knowledge.studies.volume import Volume


@dataclass(frozen=True)
class Outline:
    """One segment or structure. `mask` reads its voxels (0 and 1) on its own grid; it raises Refused or NoGeometry where they can't be read."""

    series: Series
    """The SEG or RTSTRUCT."""
    number: int
    label: str
    kind: list[Coding]
    """Segmented property category and type, most general first; empty where it states none."""
    region: list[Coding]
    """Anatomic region and its modifiers."""
    tracking: tuple[str, str] | None
    """Tracking ID and UID, by which its author follows it."""
    by: str
    """Who drew it: MANUAL, SEMIAUTOMATIC or AUTOMATIC with the algorithm's name, as the object says."""
    on: str
    """Series Instance UID of the image that it was drawn on; empty where it names none."""
    frame_of_reference: str
    mask: Callable[[], Volume]
    ours: bool = False
    """True for what this program exported before."""

    @property
    def words(self) -> str:
        """Label, property and region, to look for what it shows."""
        return " ".join([self.label, *(c.display for c in [*self.kind, *self.region])])


def outlines(archive: Archive, study: Study) -> list[Outline]:
    """Every segment and structure of a study, in the order of its series. What can't be read is left out: its series has warnings."""
    found: list[Outline] = []
    seen: dict[str, Dataset | None] = {}
    for series in study.series:
        if series.modality not in ("SEG", "RTSTRUCT") or study.study_instance_uid is None:
            continue
        if series.series_uid not in seen:
            seen[series.series_uid] = _header(archive, study.study_instance_uid, series.series_uid)
        header = seen[series.series_uid]
        if header is not None:
            found += _segment(archive, series, header) if series.modality == "SEG" else _structures(archive, series, header)
    return found


def reports_of_others(archive: Archive, study: Study) -> set[str]:
    """SOP Instance UIDs of a study's structured reports, without those that this program exported."""
    if study.study_instance_uid is None:
        return set()
    found = set()
    for stored in DicomIndex(archive).stored(study.study_instance_uid):
        if stored.place.get("frames") or not stored.sop_class.startswith(SR_CLASSES):
            continue
        try:
            header = pydicom.dcmread(stored.path, stop_before_pixels=True, force=True, specific_tags=["Manufacturer"])
        except (*BROKEN, OSError):
            continue
        if not _ours(header):
            found.add(stored.sop_uid)
    return found


def _header(archive: Archive, study_uid: str, series_uid: str) -> Dataset | None:
    stored = DicomIndex(archive).stored(study_uid, series_uid)
    try:
        return pydicom.dcmread(io.BytesIO(stored[0].path.read_bytes()), force=True) if stored else None
    except (*BROKEN, OSError, KnowledgeError):
        return None


def _ours(header: Dataset) -> bool:
    return str(header.get("Manufacturer") or "").startswith("Consilium (research")


def _segment(archive: Archive, series: Series, header: Dataset) -> list[Outline]:
    """The one segment that a series of the archive is (a SEG of several is several series there)."""
    described = list(header.get("SegmentSequence") or [])
    for one in described:
        label = str(one.get("SegmentLabel") or f"segment {one.get('SegmentNumber')}")
        number = int(one.get("SegmentNumber") or 0)
        if (
            (series.segment == number)
            if series.segment is not None
            else len(described) == 1 or series.description.endswith(label)
        ):
            break
    else:
        return []
    referenced = header.get("ReferencedSeriesSequence")
    names = one.get("SegmentationAlgorithmIdentificationSequence")
    name = str(names[0].get("AlgorithmName") or "") if names else str(one.get("SegmentAlgorithmName") or "")
    tracking = (str(one.get("TrackingID") or ""), str(one.get("TrackingUID") or ""))
    region = one.get("AnatomicRegionSequence")
    return [Outline(
        series=series, number=number, label=label,
        kind=[*coding(one.get("SegmentedPropertyCategoryCodeSequence")), *coding(one.get("SegmentedPropertyTypeCodeSequence"))],
        region=[*coding(region), *(coding(region[0].get("AnatomicRegionModifierSequence")) if region else [])],
        tracking=tracking if tracking[1] else None, by=f"{one.get('SegmentAlgorithmType') or ''} {name}".strip(),
        on=str(referenced[0].get("SeriesInstanceUID") or "") if referenced else "",
        frame_of_reference=str(header.get("FrameOfReferenceUID") or ""), mask=lambda: archive.volume(series.id), ours=_ours(header),
    )]  # fmt: skip


def _structures(archive: Archive, series: Series, header: Dataset) -> list[Outline]:
    drawn = {int(r.get("ReferencedROINumber") or 0) for r in header.get("ROIContourSequence") or [] if r.get("ContourSequence")}
    seen = {int(o.get("ReferencedROINumber") or 0): o for o in header.get("RTROIObservationsSequence") or []}
    rois = sorted(header.get("StructureSetROISequence") or [], key=lambda r: int(r.get("ROINumber") or 0))
    on = next((str(s.get("SeriesInstanceUID") or "") for f in header.get("ReferencedFrameOfReferenceSequence") or []
               for t in f.get("RTReferencedStudySequence") or [] for s in t.get("RTReferencedSeriesSequence") or []), "")  # fmt: skip
    found = []
    for label, roi in enumerate(rois, 1):
        number = int(roi.get("ROINumber") or 0)
        observed = seen.get(number, Dataset())
        if number not in drawn:
            continue
        tracking = (
            str(observed.get("ROIObservationLabel") or ""),
            str(observed.get("TrackingUID") or roi.get("TrackingUID") or ""),
        )
        found.append(Outline(
            series=series, number=number, label=str(roi.get("ROIName") or f"ROI {number}"),
            kind=[*coding(observed.get("SegmentedPropertyCategoryCodeSequence")), *coding(observed.get("RTROIIdentificationCodeSequence"))],
            region=coding(observed.get("AnatomicRegionSequence")), tracking=tracking if tracking[1] else None,
            by=str(roi.get("ROIGenerationAlgorithm") or ""), on=on,
            frame_of_reference=str(roi.get("ReferencedFrameOfReferenceUID") or header.get("FrameOfReferenceUID") or ""),
            mask=_one_of(archive, series, label), ours=_ours(header),
        ))  # fmt: skip
    return found


def _one_of(archive: Archive, series: Series, label: int) -> Callable[[], Volume]:
    def read() -> Volume:
        whole = archive.volume(series.id)
        return whole.like((whole.array == label).astype(np.uint8))

    return read
