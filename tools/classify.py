"""`classify`: which tumour type the images look like, with calibrated probabilities."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from knowledge.evidence import Fact, ImageRef, Kind
from knowledge.studies.model import Series, Study
from knowledge.studies.volume import Volume
from tools.base import Card, CaseTool, Cost, Missing, Needs, Reply
from tools.concepts import TUMOUR_TYPE
from tools.errors import NotApplicable
from tools.models.outline import outline, placed, series_of
from tools.models.shape import axial

SLICES = 9
"""Slices spread over the tumour whose probabilities are averaged."""
NEAR = 2.0
"""Side of the square that the network sees, in longer sides of the tumour's box (as in its training)."""
SMALLEST_SQUARE = 0.2
"""The square's side is at least this share of the image (as in its training)."""


class ClassifyArguments(BaseModel):
    """Which study or picture to classify."""

    model_config = ConfigDict(extra="forbid")
    study: str | None = Field(
        None, description="Handle of the study (S1) or of a picture's series; left out: the newest that fits."
    )


@dataclass(frozen=True)
class _View:
    """What the network is shown: slices [1, rows, columns], and where they are from."""

    study: Study
    series: Series
    slices: list[np.ndarray]
    where: dict[str, Any]
    """Frame, box and instance, as an ImageRef has them."""
    words: str
    kind: str
    """The view as the model's card names it."""


class Classify(CaseTool):
    """Glioma, meningioma or pituitary tumour, on contrast-enhanced T1."""

    name: str = "classify"
    description: str = (
        "Estimate the tumour type (glioma, meningioma, pituitary) on contrast-enhanced T1 brain MRI, with probabilities."
    )
    args_schema: type[BaseModel] = ClassifyArguments
    asks: ClassVar[list[str]] = [
        "What tumour type is most likely?", "What kind of tumour is it?", "How sure are you about the type?",
        "Is it a glioma or a meningioma?", "What is the diagnosis?", "Is this cancer?", "Classify the tumour",
        "What is the differential by the classifier?", "Is it benign or malignant?",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs(modality=["MR"], body_part=["BRAIN"], sequences=["T1c"])
    gives: ClassVar[list[Kind]] = [Kind.FINDING]
    card: ClassVar[Card] = Card(
        intended_use="Type of a known brain tumour on T1 after contrast, among three.",
        accuracy="See the bundle's card: 0.91 on 374 held-out slices as squares with the skull removed, 0.89 as whole slices.",
        limits="Knows three types; metastasis, lymphoma, abscess and healthy brains get one of them too. Histology decides.",
    )
    cost: ClassVar[Cost] = Cost(seconds=3, memory_mb=700)

    def answer(self, arguments: ClassifyArguments) -> Reply:
        import torch

        view = self._view(arguments.study)
        # A picture without a header may be a brain MRI; one that is said to be something else is not.
        part = view.series.body_part or view.study.body_part.split("/")[0] or "BRAIN"
        modality = "MR" if view.series.modality == "OT" else view.series.modality
        bundle = self.bench.resources.catalogue.pick("classification", part, modality)
        probabilities, foreign = bundle.classify([torch.from_numpy(s) for s in view.slices])
        distance, limits = float(foreign.mean()) if foreign is not None else 0.0, bundle.card.novelty
        if foreign is not None and distance > limits["refuse"]:
            raise NotApplicable(
                f"{view.series.handle} doesn't look like a contrast-enhanced T1 slice of a brain tumour (distance {distance:.2f}, "
                f"limit {limits['refuse']:.2f}), and {bundle.name} was made for nothing else",
                "name another image, or install a model for this one",
            )
        named = {c: round(p, 3) for c, p in zip(bundle.card.classes, probabilities.mean(0).tolist(), strict=True)}
        label = max(named, key=named.__getitem__)
        rest = ", ".join(f"{c} {100 * p:.0f} %" for c, p in sorted(named.items(), key=lambda i: -i[1]) if c != label)
        statement = (
            f"Of the three types that the classifier knows, {label} is most likely ({100 * named[label]:.0f} %; {rest}), "
            f"from {view.words} of study {view.study.handle} ({view.series.sequence or view.series.description})."
        )
        held_out = bundle.card.scores.get(view.kind)
        if held_out:
            statement += (
                f" On {held_out['n']:g} held-out slices shown in this way it was right in {100 * held_out['accuracy']:.0f} %, "
                f"with a calibration error of {100 * held_out['ece']:.0f} %."
            )
        value: dict[str, Any] = {"label": label, "probability": named[label], "probabilities": named}
        source = ImageRef(study_id=view.study.id, series_uid=view.series.series_uid, model=bundle.name,
                          model_version=bundle.version, **view.where)  # fmt: skip
        fact = Fact(kind=Kind.FINDING, title=f"Tumour type: {label}", statement=statement, value=value, code=TUMOUR_TYPE,
                    source=source)  # fmt: skip
        missing = [Missing(what="histology with molecular markers", why="imaging alone doesn't settle the type; the classifier "
                           "knows only glioma, meningioma and pituitary tumour",
                           would_change="the integrated WHO diagnosis and its grade")]  # fmt: skip
        if view.kind == "whole" and (view.series.modality != "MR" or not view.series.body_part):
            why = "a picture carries no header; it was taken for one, and the check for foreign pictures doesn't catch all (see the model's card)"
            missing.append(
                Missing(
                    what="whether the picture is a contrast-enhanced T1 brain MRI",
                    why=why,
                    would_change="if it isn't, the type means nothing",
                )
            )
        if foreign is not None and distance > limits["warn"]:
            why = f"the slices differ from those the classifier was trained on (distance {distance:.2f}, usual up to {limits['warn']:.2f})"
            missing.append(
                Missing(
                    what="images like the classifier's training data", why=why, would_change="how far to trust its probabilities"
                )
            )
        return Reply(text=statement, facts=[fact], missing=missing)

    def _view(self, handle: str | None) -> _View:
        case = self.bench.required_case
        picture = self._picture(handle)
        if picture is not None:
            study, series = picture
            pixels = case.volume(series).array[:, :, 0].T
            words = "the whole picture, without geometry"
            return _View(study, series, [np.ascontiguousarray(pixels, np.float32)[None]], {"frame": 0}, words, "whole")
        study, series = series_of(case, handle, ["T1c"], "the tumour type")
        volume = case.volume(series)
        done = outline(self.bench, study.handle)
        if not done.mask.same_grid(volume) or not done.mask.array.any():
            raise NotApplicable("the tumour isn't outlined on the grid of the contrast-enhanced T1", "send co-registered series")
        return _around_tumour(study, series, volume, axial(done.mask).array > 0)

    def _picture(self, handle: str | None) -> tuple[Study, Series] | None:
        for study in reversed(self.bench.required_case.studies):
            if study.source.format == "picture" and (handle is None or handle.split(".")[0] == study.handle):
                named = [q for q in study.series if q.handle == handle] or study.series[-1:]
                if handle is not None or len(self.bench.required_case.studies) == 1:
                    return study, named[0]
        return None


def _around_tumour(study: Study, series: Series, volume: Volume, mask: np.ndarray) -> _View:
    """Squares around the tumour on slices spread over those with at least half of its largest area."""
    image = axial(volume).array
    areas = mask.sum((0, 1))
    frames = np.flatnonzero(areas >= 0.5 * areas.max())
    frames = frames[np.linspace(0, len(frames) - 1, min(SLICES, len(frames))).astype(int)]
    slices, middle, box = [], int(frames[len(frames) // 2]), None
    for frame in frames:
        columns, rows = np.nonzero(mask[:, :, frame])
        longer = max(np.ptp(columns), np.ptp(rows)) + 1
        half = max(NEAR * longer, SMALLEST_SQUARE * image.shape[0]) / 2
        x, y = (columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2
        x0, x1 = max(0, int(x - half)), min(image.shape[0], int(x + half))
        y0, y1 = max(0, int(y - half)), min(image.shape[1], int(y + half))
        pixels = image[x0:x1, y0:y1, frame].T
        slices.append(np.ascontiguousarray(pixels - pixels.min(), dtype=np.float32)[None])
        if frame == middle:
            box = [float(x0), float(y0), float(x1), float(y1)]
    return _View(study, series, slices, placed(volume, middle, box), f"{len(slices)} slices through the outlined tumour",
                 "crop_skull_removed")  # fmt: skip
