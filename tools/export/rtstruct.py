"""A drawing as an RT Structure Set (PS3.3 A.19): closed contours slice by slice that give back the same voxels."""

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage
from skimage.measure import find_contours

from knowledge.errors import Refused
from knowledge.studies.dicom import made_uid
from knowledge.studies.render import OVERLAYS
from knowledge.studies.wado import written
from tools.export.drawn import MAKER, Drawing, Part

_PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "StudyDate", "StudyTime", "AccessionNumber",
            "ReferringPhysicianName")  # fmt: skip


def as_rtstruct(drawing: Drawing) -> bytes:
    """A Part 10 file. Contours run halfway between voxels inside and outside; one within another cuts a hole (PS3.3 C.8.8.6.3).

    Raises Refused for a series without frame of reference.
    """
    first = drawing.sources[0]
    frame = str(first.get("FrameOfReferenceUID") or "")
    if not frame:
        raise Refused("the series has no frame of reference, which contours need", "take the mask as DICOM SEG or NIfTI")
    made = Dataset()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        RTStructureSetStorage,
        made_uid(drawing.digest, "rtstruct", "1"),
    )
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta = meta
    for name in _PATIENT:
        setattr(made, name, first.get(name, ""))
    made.SOPClassUID, made.SOPInstanceUID = RTStructureSetStorage, meta.MediaStorageSOPInstanceUID
    made.SpecificCharacterSet = first.get("SpecificCharacterSet", "ISO_IR 192")
    made.Modality, made.SeriesInstanceUID, made.SeriesNumber = "RTSTRUCT", made_uid(drawing.digest, "rtstruct"), 9500
    made.SeriesDescription = f"RTSTRUCT {drawing.series.description or drawing.series.modality}"[:64]
    made.Manufacturer, made.ManufacturerModelName, made.SoftwareVersions = MAKER, drawing.maker, drawing.version
    made.OperatorsName = ""
    made.StructureSetLabel, made.StructureSetName = "CONSILIUM", f"{drawing.maker} {drawing.version}"[:64]
    made.StructureSetDescription = "Research use only; not approved for treatment planning"
    made.StructureSetDate, made.StructureSetTime = str(first.get("StudyDate") or ""), ""
    made.InstanceNumber = 1
    made.FrameOfReferenceUID, made.PositionReferenceIndicator = frame, ""
    made.ReferencedFrameOfReferenceSequence = Sequence([_frame(drawing, frame)])
    made.StructureSetROISequence = Sequence([_roi(p, frame, drawing) for p in drawing.parts])
    made.ROIContourSequence = Sequence([_contours(drawing, p) for p in drawing.parts])
    made.RTROIObservationsSequence = Sequence([_observed(p) for p in drawing.parts])
    made.ApprovalStatus = "UNAPPROVED"
    return written(made)


def _frame(drawing: Drawing, uid: str) -> Dataset:
    images = []
    for one in drawing.sources:
        image = Dataset()
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = one.SOPClassUID, one.SOPInstanceUID
        images.append(image)
    series = Dataset()
    series.SeriesInstanceUID, series.ContourImageSequence = drawing.series.series_uid, Sequence(images)
    study = Dataset()
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = (
        "1.2.840.10008.3.1.2.3.1",
        drawing.study.study_instance_uid,
    )  # Detached Study Management
    study.RTReferencedSeriesSequence = Sequence([series])
    frame = Dataset()
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = uid, Sequence([study])
    return frame


def _roi(part: Part, frame: str, drawing: Drawing) -> Dataset:
    roi = Dataset()
    roi.ROINumber, roi.ReferencedFrameOfReferenceUID, roi.ROIName = part.number, frame, part.name
    roi.ROIGenerationAlgorithm = "SEMIAUTOMATIC" if drawing.by_hand else "AUTOMATIC"
    return roi


def _observed(part: Part) -> Dataset:
    seen = Dataset()
    seen.ObservationNumber, seen.ReferencedROINumber = part.number, part.number
    seen.ROIObservationLabel = part.tracking[0][:16]
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = (
        part.kind.value,
        part.kind.scheme_designator,
        part.kind.meaning,
    )
    seen.RTROIIdentificationCodeSequence = Sequence([code])
    seen.RTROIInterpretedType, seen.ROIInterpreter = "", ""
    seen.TrackingID, seen.TrackingUID = part.tracking
    return seen


def _contours(drawing: Drawing, part: Part) -> Dataset:
    affine = drawing.volume.affine
    assert affine is not None
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    order = (
        [drawing.volume.sop_instance_uids.index(str(s.SOPInstanceUID)) for s in drawing.sources]
        if len(drawing.sources) > 1
        else range(drawing.labels.shape[0])
    )
    rings = []
    for k, mask in zip(order, drawing.inside(part), strict=True):
        if not mask.any():
            continue
        source = drawing.sources[0] if len(drawing.sources) == 1 else drawing.sources[list(order).index(k)]
        for points in find_contours(np.pad(mask.astype(float), 1), 0.5):
            rows, columns = points[:-1, 0] - 1, points[:-1, 1] - 1
            world = np.c_[columns, rows, np.full(len(rows), k), np.ones(len(rows))] @ lps.T
            ring = Dataset()
            image = Dataset()
            image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
            ring.ContourImageSequence = Sequence([image])
            ring.ContourGeometricType = "CLOSEDPLANAR_XOR" if _holed(mask) else "CLOSED_PLANAR"
            ring.NumberOfContourPoints = len(rows)
            ring.ContourData = [f"{v:.10g}" for v in world[:, :3].ravel()]
            rings.append(ring)
    drawn = Dataset()
    drawn.ROIDisplayColor = [int(v) for v in OVERLAYS[(part.number - 1) % len(OVERLAYS)]]
    drawn.ReferencedROINumber, drawn.ContourSequence = part.number, Sequence(rings)
    return drawn


def _holed(mask: np.ndarray) -> bool:
    from scipy.ndimage import binary_fill_holes

    return bool(binary_fill_holes(mask).sum() != mask.sum())
