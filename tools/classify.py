"""`classify`: which type of lesion the images look like, with calibrated probabilities and where the network looked."""

from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from knowledge.evidence import Fact, Kind
from knowledge.studies import nifti
from knowledge.studies.model import Series, Study
from knowledge.studies.store import write_whole
from knowledge.studies.volume import Volume
from tools.base import Bench, Card, CaseTool, Cost, Missing, Needs, Reply
from tools.concepts import LESION_TYPE, TUMOUR_TYPE
from tools.errors import NotApplicable
from tools.models.masks import Segmentation, described, is_stack, newest_first, placed, segmentation
from tools.models.pictures import Ran, Shown, picture_of, run_on
from tools.models.shape import axial

SLICES = 9
"""Slices spread over the tumour whose probabilities are averaged."""


class ClassifyArguments(BaseModel):
    """Which study or picture to classify."""

    model_config = ConfigDict(extra="forbid")
    study: str | None = Field(
        None, description="Handle of the study (S1) or of a picture's series; left out: the newest that fits."
    )


class Classify(CaseTool):
    """Types of brain tumour on contrast-enhanced T1, and of breast lesions on ultrasound."""

    name: str = "classify"
    description: str = (
        "Estimate the type of a lesion, with calibrated probabilities and a map of where the network looked: glioma, meningioma or pituitary "
        "tumour on contrast-enhanced T1 brain MRI; benign, malignant or none on breast ultrasound."
    )
    args_schema: type[BaseModel] = ClassifyArguments
    asks: ClassVar[list[str]] = [
        "What tumour type is most likely?", "What kind of tumour is it?", "How sure are you about the type?",
        "Is it a glioma or a meningioma?", "What is the diagnosis?", "Is this cancer?", "Classify the tumour",
        "What is the differential by the classifier?", "Is it benign or malignant?", "Is this breast lesion malignant?",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs(modality=["MR", "US"], body_part=["BRAIN", "BREAST"], sequences=["T1c"])
    gives: ClassVar[list[Kind]] = [Kind.FINDING]
    card: ClassVar[Card] = Card(
        intended_use="Type of a known lesion among those that the fitting model knows. Histology decides.",
        accuracy="Each model's own card says it (docs/models.md), cross-validated, with calibration error.",
        limits="A model knows its own classes only: a lesion of another kind gets one of them too.",
        version="2",
    )
    cost: ClassVar[Cost] = Cost(seconds=3, memory_mb=900)

    def answer(self, arguments: ClassifyArguments) -> Reply:
        shown = picture_of(self.bench, arguments.study) or self._volume(arguments.study)
        ran = run_on(self.bench, shown, "classification", look=True)
        label = max(ran.probabilities, key=ran.probabilities.__getitem__)
        card = ran.bundle.card
        rest = ", ".join(f"{c} {100 * p:.0f} %" for c, p in sorted(ran.probabilities.items(), key=lambda i: -i[1]) if c != label)
        count = {2: "two", 3: "three", 4: "four"}.get(len(card.classes), str(len(card.classes)))
        statement = (
            f"Of the {count} classes that {ran.bundle.name} knows, {label} is most likely ({100 * ran.probabilities[label]:.0f} %; {rest}), "
            f"from {shown.words} of study {shown.study.handle} ({shown.series.sequence or shown.series.description or shown.series.modality})."
        )
        held_out = card.scores.get(shown.kind)
        if held_out:
            statement += (f" On {held_out['n']:g} held-out images shown in this way it was right in {100 * held_out['accuracy']:.0f} %, "
                          f"with a calibration error of {100 * held_out['ece']:.0f} %.")  # fmt: skip
        value: dict[str, Any] = {"label": label, "probability": ran.probabilities[label], "probabilities": ran.probabilities}
        brain = "BRAIN" in card.body_part
        looked = _kept(self.bench, shown, ran)
        fact = Fact(kind=Kind.FINDING, title=f"{'Tumour' if brain else 'Lesion'} type: {label}", statement=statement, value=value,
                    code=TUMOUR_TYPE if brain else LESION_TYPE, source=shown.source(ran.bundle, mask=looked))  # fmt: skip
        missing = [*ran.missing, Missing(what="histology" + (" with molecular markers" if brain else ""),
                   why=f"imaging alone doesn't settle the type; the classifier knows only {', '.join(card.classes)}",
                   would_change="the integrated WHO diagnosis and its grade" if brain else "the diagnosis and what follows from it")]  # fmt: skip
        return Reply(text=statement, facts=[fact], missing=missing)

    def _volume(self, handle: str | None) -> Shown:
        """Squares around the outlined tumour on the contrast-enhanced T1 of the newest study that has one."""
        case = self.bench.required_case
        studies = newest_first(case, handle)
        for study in studies:
            for series in study.series:
                if is_stack(series) and series.sequence == "T1c":
                    done = segmentation(self.bench, study.handle, "tumour")
                    volume = case.volume(series)
                    mask = done.part(next(r for r in done.regions if r.tumour))
                    assert mask is not None
                    if not mask.same_grid(volume) or not mask.array.any():
                        raise NotApplicable(
                            "the tumour isn't outlined on the grid of the contrast-enhanced T1", "send co-registered series"
                        )
                    return _around_tumour(study, series, volume, axial(_core(done, mask)).array > 0)
        raise NotApplicable(f"the tumour type needs T1c, or a picture of a kind that a model knows; the case has {described(studies)}",
                            "add that series")  # fmt: skip


def _core(done: Segmentation, whole: Volume) -> Volume:
    """The tumour's core where it was told from the oedema (that is what boxes in the training data are around), otherwise all of it."""
    core = next((done.part(r) for r in done.regions if "core" in r.name), None)
    return core if core is not None and int(core.array.sum()) > 0.05 * int(whole.array.sum()) else whole


def _around_tumour(study: Study, series: Series, volume: Volume, mask: np.ndarray) -> Shown:
    """Slices spread over those with at least half of the tumour's largest area, with its box on each."""
    image = _from_zero(axial(volume).array)
    areas = mask.sum((0, 1))
    frames = np.flatnonzero(areas >= 0.5 * areas.max())
    frames = frames[np.linspace(0, len(frames) - 1, min(SLICES, len(frames))).astype(int)]
    frames = np.array([f for f in frames if image[:, :, f].min() < image[:, :, f].max()])
    if not len(frames):
        raise NotApplicable(f"{series.handle} shows nothing where the tumour is outlined", "send the whole series")
    slices, boxes = [], []
    for frame in frames:
        columns, rows = np.nonzero(mask[:, :, frame])
        pixels = image[:, :, frame].T
        slices.append(np.ascontiguousarray(pixels, dtype=np.float32)[None])
        boxes.append([float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)])
    middle = len(frames) // 2
    where = placed(volume, int(frames[middle]), boxes[middle])
    return Shown(study, series, slices, where, f"{len(slices)} slices through the outlined tumour", "skull_removed",
                 [int(f) for f in frames], boxes, turned=True)  # fmt: skip


def _from_zero(image: np.ndarray) -> np.ndarray:
    """The volume with its background (where it is one value, as outside a stripped brain) at zero and no value below it."""
    background = image.reshape(-1)[0]
    inside = image[image != background]
    low = min(0.0, float(np.percentile(inside, LOWEST))) if inside.size else 0.0
    return np.where(image == background, 0, (image - low).clip(0)).astype(np.float32)


LOWEST = 0.1
"""Percentile that becomes zero where values lie below zero (some stray voxels, or a normalised image)."""


def _kept(bench: Bench, shown: Shown, ran: Ran) -> str | None:
    """Keep the saliency map as a mask of the series (1 looked at, 2 looked at most); its URL, or None where the model gives none."""
    if not any(m.any() for m in ran.looked):
        return None
    case = bench.required_case
    volume = case.volume(shown.series)
    turned = axial(volume) if shown.turned else volume
    seen = np.zeros(turned.array.shape, np.uint8)
    for frame, looked in zip(shown.frames, ran.looked, strict=True):
        seen[:, :, frame] = looked.T
    affine = turned.affine if turned.affine is not None else np.diag([-1.0, -1.0, 1.0, 1.0])
    mask = Volume(seen, affine).aligned_with(volume)
    name = f"{ran.bundle.name}-{ran.bundle.version}-looked-at.nii.gz"
    write_whole(case.derived(shown.series) / name, nifti.to_bytes(mask, np.uint8))
    return f"/v1/studies/{shown.study.id}/series/{shown.series.id}/masks/{name}"
