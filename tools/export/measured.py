"""A drawing's measurements as DICOM SR (TID 1500), its key images, and pictures of them; unverified until a person signs a report."""

from typing import Any

import numpy as np
from PIL import ImageDraw
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from knowledge.studies.dicom import made_uid
from knowledge.studies.render import picture
from knowledge.studies.wado import written
from tools.export.drawn import MAKER, Drawing, Part
from tools.export.seg import segmentation
from tools.models.masks import placed

_PROCEDURES = {
    "CT": "CTUnspecifiedBodyRegion",
    "MR": "MRIUnspecifiedBodyRegion",
    "PT": "PETUnspecifiedBodyRegion",
    "NM": "NMUnspecifiedBodyRegion",
}
"""Modality -> procedure (LOINC, as pydicom names it)."""
MOST_KEY = 12
"""Key images of one drawing."""
LONG_AXIS, SHORT_AXIS, VOLUME = (
    Code("103339001", "SCT", "Long Axis"),
    Code("103340004", "SCT", "Short Axis"),
    Code("118565006", "SCT", "Volume"),
)
MILLILITRE = Code("mL", "UCUM", "milliliter")
"""CID 7470 (linear measurements) and CID 7474 (volume measurements), PS3.16."""


def as_tid1500(drawing: Drawing) -> bytes:
    """A Comprehensive 3D SR: for each part volume, longest diameter and its perpendicular, on its segment of `as_seg`. A Part 10 file.

    Tracking identifiers and UIDs are those of the SEG. It says which program and version measured, and is UNVERIFIED.
    """
    import highdicom as hd

    seg = segmentation(drawing)
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=made_uid("consilium", "device"), name="Consilium", manufacturer_name=MAKER, model_name=drawing.maker
    )
    context = hd.sr.ObservationContext(observer_device_context=hd.sr.ObserverContext(codes.DCM.Device, device))
    report = hd.sr.MeasurementReport(
        observation_context=context, procedure_reported=getattr(codes.LN, _PROCEDURES.get(drawing.series.modality, "CTUnspecifiedBodyRegion")),
        imaging_measurements=[_group(drawing, p, seg) for p in drawing.parts],
        title=codes.DCM.ImagingMeasurementReport,
    )  # fmt: skip
    made = hd.sr.Comprehensive3DSR(
        evidence=[*drawing.sources, seg], content=report[0], series_instance_uid=made_uid(drawing.digest, "sr"), series_number=9200,
        sop_instance_uid=made_uid(drawing.digest, "sr", "1"), instance_number=1, manufacturer=MAKER, manufacturer_model_name=drawing.maker,
        software_versions=drawing.version, device_serial_number="1", is_complete=True, is_final=False, is_verified=False,
        series_description=f"Measurements {drawing.series.description or drawing.series.modality}"[:64],
    )  # fmt: skip
    return written(made)


def _group(drawing: Drawing, part: Part, seg: Dataset) -> Any:
    import highdicom as hd

    sizes = drawing.sizes(part)
    algorithm = hd.sr.AlgorithmIdentification(name=drawing.maker, version=drawing.version)
    rows = [(VOLUME, round(sizes.volume_ml, 4), MILLILITRE), (LONG_AXIS, round(sizes.plane.long_mm, 3), codes.UCUM.Millimeter),
            (SHORT_AXIS, round(sizes.plane.short_mm, 3), codes.UCUM.Millimeter)]  # fmt: skip
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=part.tracking[1], identifier=part.tracking[0]),
        referenced_segment=hd.sr.ReferencedSegment(
            sop_class_uid=seg.SOPClassUID, sop_instance_uid=seg.SOPInstanceUID, segment_number=part.number,
            source_series=hd.sr.SourceSeriesForSegmentation(drawing.sources[0].SeriesInstanceUID)),
        finding_type=part.kind, finding_category=part.category, finding_sites=[hd.sr.FindingSite(part.site)] if part.site is not None else None,
        algorithm_id=algorithm, measurements=[hd.sr.Measurement(name=n, value=v, unit=u, algorithm_id=algorithm) for n, v, u in rows],
    )  # fmt: skip


def key_frames(drawing: Drawing) -> list[tuple[Part, int, list[list[float]] | None]]:
    """For each part the slice (of the source, from 0) on which its longest diameter lies, and that line in its pixels; the largest first."""
    rows = []
    for part in drawing.parts:
        sizes = drawing.sizes(part)
        shown = placed(drawing.volume, sizes.plane.frame, sizes.plane.box, sizes.plane.long_line)
        rows.append((sizes.volume_ml, part, int(shown["frame"]), shown["line"]))
    return [(p, f, line) for _, p, f, line in sorted(rows, key=lambda r: -r[0])[:MOST_KEY]]


def as_key_objects(drawing: Drawing) -> bytes:
    """A Key Object Selection (PS3.3 A.35.4) of the slices on which the parts are widest. A Part 10 file."""
    import highdicom as hd

    frames = [f for _, f, _ in key_frames(drawing)]
    chosen = list({str(s.SOPInstanceUID): s for s in (_source(drawing, f) for f in frames)}.values())
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=made_uid("consilium", "device"), name="Consilium", manufacturer_name=MAKER, model_name=drawing.maker
    )
    names = ", ".join(p.name for p, _, _ in key_frames(drawing))
    content = hd.ko.KeyObjectSelection(document_title=codes.DCM.OfInterest, referenced_objects=chosen,
                                       observer_device_context=hd.sr.ObserverContext(codes.DCM.Device, device),
                                       description=f"Widest slices of {names}; chosen by a program, research use only")  # fmt: skip
    made = hd.ko.KeyObjectSelectionDocument(
        evidence=chosen, content=content, series_instance_uid=made_uid(drawing.digest, "ko"), series_number=9300,
        sop_instance_uid=made_uid(drawing.digest, "ko", "1"), instance_number=1, manufacturer=MAKER, manufacturer_model_name=drawing.maker,
        software_versions=drawing.version, device_serial_number="1", series_description="Key images of measured lesions",
    )  # fmt: skip
    return written(made)


def _source(drawing: Drawing, frame: int) -> Dataset:
    uid = drawing.volume.sop_instance_uids[frame]
    return next(s for s in drawing.sources if s.SOPInstanceUID == uid)


def as_pictures(drawing: Drawing) -> list[bytes]:
    """Secondary captures (RGB) of the key images, with outlines and ruler drawn in; no name and no number of the patient in the picture."""
    import highdicom as hd

    found = []
    for number, (part, frame, line) in enumerate(key_frames(drawing), 1):
        image = picture(drawing.volume, frame, None, drawing.mask).convert("RGB")
        if line:
            ImageDraw.Draw(image).line([(x, y) for x, y in line], fill=(92, 200, 214), width=1)
        reference = _source(drawing, frame)
        made = hd.sc.SCImage.from_ref_dataset(
            reference, pixel_array=np.asarray(image), photometric_interpretation="RGB", bits_allocated=8, coordinate_system="PATIENT",
            series_instance_uid=made_uid(drawing.digest, "sc"), series_number=9400, sop_instance_uid=made_uid(drawing.digest, "sc", str(number)),
            instance_number=number, manufacturer=MAKER, patient_orientation=("L", "P"), series_description="Key images with outlines",
        )  # fmt: skip
        made.ImageComments = f"{part.name}, slice {frame + 1}; research use only"
        made.BurnedInAnnotation, made.Laterality = "NO", ""
        made.DerivationDescription = f"Outline and longest diameter by {drawing.maker} {drawing.version}"[:1024]
        found.append(written(made))
    return found
