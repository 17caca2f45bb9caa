"""Boxes in space by a MONAI detector, where the house has one for the study."""

from dataclasses import dataclass

import numpy as np

from knowledge.studies.model import Series, Study
from knowledge.studies.volume import Volume
from tools.base import Bench
from tools.models import jobs, worker
from tools.models.bundle import Bundle, boxes_on
from tools.models.fit import fits, same_part
from tools.models.masks import is_stack, newest_first
from tools.models.shape import axial


@dataclass(frozen=True)
class Detected:
    """Boxes [n, 6] (x0, y0, z0, x1, y1, z1 in voxels of the axial view, outer edges at 0) and their scores [n], highest first."""

    study: Study
    series: Series
    bundle: Bundle
    volume: Volume
    boxes: np.ndarray
    scores: np.ndarray
    warnings: list[str]


def detected(bench: Bench, study_handle: str | None) -> Detected | None:
    """What a detector finds on the newest study that one was made for; None where the catalogue has none for any study.

    Raises NotApplicable where the image isn't fit, Cancelled where the question was, Failed where the model broke.
    """
    detectors = [b for b in bench.resources.catalogue.of("detection") if b.card.task == "detection"]
    for study in newest_first(bench.required_case, study_handle) if detectors else ():
        for bundle in detectors:
            card = bundle.card
            mine = [q for q in study.series if is_stack(q) and q.modality == card.modality and (not card.sequences or q.sequence in card.sequences)
                    and same_part(card.body_part, q.body_part or study.body_part)]  # fmt: skip
            if mine:
                named = [q for q in mine if q.handle == study_handle]
                return _run(bench, study, (named or [max(mine, key=lambda q: q.shape[2])])[0], bundle)
    return None


def _run(bench: Bench, study: Study, series: Series, bundle: Bundle) -> Detected:
    volume = bench.required_case.volume(series)
    warnings = fits(bundle, series, volume)
    assert volume.affine is not None
    with worker.scratch() as folder:
        np.save(f"{folder}/0.npy", volume.array)
        boxes, scores = worker.run(jobs.detect, str(bundle.folder), f"{folder}/0.npy", volume.affine,
                                   progress=bench.progress, cancelled=bench.cancelled)  # fmt: skip
    view = axial(volume)
    assert view.affine is not None
    return Detected(study, series, bundle, volume, boxes_on(boxes, volume.affine, view.affine), scores, warnings)
