"""2D images before a network: what it is shown, which model fits, how foreign the image is to it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from knowledge.evidence import ImageRef
from knowledge.studies.model import Series, Study
from tools.base import Bench, Missing
from tools.errors import NotApplicable
from tools.models import jobs, worker
from tools.models.bundle import Bundle
from tools.models.fit import same_part
from tools.models.masks import newest_first

UNNAMED = ("OT", "XC", "SC", "")
"""Modalities that say nothing of how a picture was made."""
COLOUR, COLOURED = 40, 0.005
"""Grey levels (of 255) between a pixel's colours from which it isn't grey, and the share of such pixels from which a picture is coloured."""


@dataclass(frozen=True)
class Shown:
    """What a network is shown: slices [1, rows, columns], and where they are from."""

    study: Study
    series: Series
    slices: list[np.ndarray]
    where: dict[str, Any]
    """Frame, box and instance, as an ImageRef has them."""
    words: str
    kind: str
    """The view as a model's card names it."""
    frames: list[int] = field(default_factory=lambda: [0])
    """Frame of each slice in the axial (or shown) stack."""
    near: list[list[float]] | None = None
    """The lesion's box on each slice (x0, y0, x1, y1 in pixels), where it is known."""
    coloured: bool = False
    """True where a part of the picture is in colour (Doppler, an overlay, a photo); the slices are its brightness."""
    turned: bool = False
    """True where the slices are of the axial view of the volume, false where of its own frames."""

    def source(self, bundle: Bundle, box: list[float] | None = None, mask: str | None = None) -> ImageRef:
        """The ImageRef of a fact about what was shown."""
        where = {**self.where, **({"box": box} if box else {}), **({"mask": mask} if mask else {})}
        return ImageRef(
            study_id=self.study.id, series_uid=self.series.series_uid, model=bundle.name, model_version=bundle.version, **where
        )


@dataclass(frozen=True)
class Ran:
    """What a network said of what it was shown; `missing` names what was assumed and what is doubtful."""

    bundle: Bundle
    probabilities: dict[str, float]
    looked: list[np.ndarray]
    boxes: np.ndarray | None
    box_scores: np.ndarray | None
    missing: list[Missing]


def is_picture(series: Series) -> bool:
    """True for one frame (or a clip) without place in space: a photo, an ultrasound picture, a projection."""
    return series.is_image and (series.shape[2] == 1 or series.spacing_mm is None)


def picture_of(bench: Bench, handle: str | None) -> Shown | None:
    """The picture that is named, or the newest study's where it holds nothing else; None where a volume is meant."""
    case = bench.required_case
    for study in newest_first(case, handle):
        pictures = [q for q in study.series if is_picture(q)]
        named = [q for q in pictures if q.handle == handle]
        if handle and "." in handle and not named:
            return None
        if named or (pictures and len(pictures) == sum(q.is_image for q in study.series)):
            series = (named or pictures)[-1]
            volume = case.volume(series)
            frame = volume.array.shape[2] // 2
            pixels = np.ascontiguousarray(volume.array[:, :, frame].T, np.float32)
            if not np.isfinite(pixels).all() or pixels.min() == pixels.max():
                raise NotApplicable(f"{series.handle} holds nothing to see (one value everywhere, or values that are no numbers)",
                                    "send the picture again")  # fmt: skip
            words = "the whole picture" if volume.array.shape[2] == 1 else f"frame {frame + 1} of {volume.array.shape[2]}"
            uids = volume.sop_instance_uids[frame : frame + 1]
            coloured = volume.rgb is not None and bool(
                (np.ptp(volume.rgb[:, :, frame].astype(int), -1) > COLOUR).mean() > COLOURED
            )
            return Shown(study, series, [pixels[None]], {"frame": frame, "sop_instance_uids": uids}, words, "whole", [frame],
                         coloured=coloured)  # fmt: skip
    return None


def _limit(bundle: Bundle, modality: str, part: str) -> float:
    """The distance from which a picture is refused: a wider one where its header says that it is what the model was made for."""
    limits = bundle.card.novelty
    stated = modality not in UNNAMED and same_part(bundle.card.body_part, part)
    return limits.get("refuse_stated" if stated and "refuse_stated" in limits else "refuse", 1.0)


def run_on(bench: Bench, shown: Shown, task: str, look: bool = False) -> Ran:
    """Have the model whose card fits say what it sees. Raises NotApplicable where none fits, or the image is foreign to it.

    A picture that states neither modality nor body part is held against each 2D model; the one that it is least foreign to is
    taken, if it is foreign to none less than the model's limit, and what was assumed is said.
    """
    series, study = shown.series, shown.study
    part, modality = series.body_part or study.body_part, series.modality
    offered = [b for b in bench.resources.catalogue.of(task) if b.card.dimensions == 2]
    fitting = [
        b
        for b in offered
        if (modality in UNNAMED or b.card.modality == modality) and same_part(b.card.body_part, part) is not False
    ]
    if not fitting:
        there = ", ".join(sorted({f"{b.card.modality} {b.card.body_part}" for b in offered}))
        what = f"{modality} {part}".strip() or "this image"
        raise NotApplicable(f"no model for {task} of {what} is installed", f"models for {task} exist for: {there}")
    results = []
    for bundle in fitting:
        done: jobs.Classified = worker.run(jobs.classify, str(bundle.folder), shown.slices, True, look, shown.near,
                                           progress=bench.progress, cancelled=bench.cancelled)  # fmt: skip
        distance = float(np.median(done.novelty)) if done.novelty is not None else 0.0
        results.append((distance / _limit(bundle, modality, part), distance, bundle, done))
    share, distance, bundle, done = min(results, key=lambda r: r[0])
    limits = bundle.card.novelty
    if share > 1:
        names = " or ".join(sorted({f"{b.card.modality} of the {b.card.body_part.lower()}" for b in fitting}))
        raise NotApplicable(f"{series.handle} doesn't look like {names} as {bundle.name} knows it (distance {distance:.2f}, limit "
                            f"{_limit(bundle, modality, part):.2f}), and it was made for nothing else", "name another image, or install a model for this one")  # fmt: skip
    missing = []
    if modality in UNNAMED or not part:
        missing.append(Missing(what=f"whether the picture is {bundle.card.modality} of the {bundle.card.body_part.lower()}",
                               why="it carries no header that says so; it was taken for one because it looks like one, and the check for "
                               "foreign pictures doesn't catch all (see the model's card)",
                               would_change="if it isn't, the result means nothing"))  # fmt: skip
    if shown.coloured:
        missing.append(Missing(what="a picture without colour", why=f"parts of {series.handle} are in colour (Doppler, writing or an overlay), and "
                               f"{bundle.name} was trained on grey pictures; it saw their brightness alone",
                               would_change="how far to trust the result"))  # fmt: skip
    if limits and distance > limits["warn"]:
        missing.append(Missing(what=f"images like those that {bundle.name} was trained on",
                               why=f"these differ (distance {distance:.2f}, usual up to {limits['warn']:.2f})",
                               would_change="how far to trust the result"))  # fmt: skip
    mean = done.probabilities.mean(0)
    named = {c: round(float(p), 3) for c, p in zip(bundle.card.classes, mean, strict=True)}
    return Ran(bundle, named, done.looked, done.boxes, done.box_scores, missing)
