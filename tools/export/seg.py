"""A drawing as a DICOM Segmentation (PS3.3 A.51) over the instances that it was made from."""

from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from knowledge.errors import Refused
from knowledge.studies.dicom import made_uid
from knowledge.studies.wado import written
from tools.export.drawn import MAKER, Drawing, Part


def as_seg(drawing: Drawing) -> bytes:
    """`segmentation` as a Part 10 file."""
    return written(segmentation(drawing))


def segmentation(drawing: Drawing) -> Dataset:
    """A binary SEG, one segment for each part, with its tracking id. The same mask gives the same UIDs. Raises Refused."""
    import highdicom as hd

    algorithm = hd.AlgorithmIdentificationSequence(
        drawing.maker, codes.DCM.ArtificialIntelligence, drawing.version, source=drawing.origin
    )
    try:
        made = hd.seg.Segmentation(
            source_images=drawing.sources, pixel_array=np.stack([drawing.inside(p) for p in drawing.parts], -1).astype(np.uint8),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY, segment_descriptions=[_described(p, algorithm, drawing.by_hand) for p in drawing.parts],
            series_instance_uid=made_uid(drawing.digest, "series"), series_number=9100, sop_instance_uid=drawing.digest, instance_number=1,
            manufacturer=MAKER, manufacturer_model_name=drawing.maker, software_versions=drawing.version, device_serial_number="1",
            content_label="CONSILIUM", content_description=f"{drawing.maker} {drawing.version}"[:64],
            series_description=f"SEG {drawing.series.description or drawing.series.modality}"[:64],
        )  # fmt: skip
    except (ValueError, TypeError, AttributeError) as error:
        raise Refused(f"the source images can't carry a segmentation: {error}", "take the mask as NIfTI") from error
    return made


def _described(part: Part, algorithm: Any, by_hand: bool) -> Any:
    import highdicom as hd

    kinds = hd.seg.SegmentAlgorithmTypeValues
    return hd.seg.SegmentDescription(
        segment_number=part.number, segment_label=part.name, segmented_property_category=part.category, segmented_property_type=part.kind,
        algorithm_type=kinds.SEMIAUTOMATIC if by_hand else kinds.AUTOMATIC, algorithm_identification=algorithm, tracking_id=part.tracking[0],
        tracking_uid=part.tracking[1], anatomic_regions=[part.site] if part.site is not None else None,
    )  # fmt: skip
