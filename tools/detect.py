"""`detect`: lesions as boxes with scores; from the outline where there is one, by a detection network on a picture."""

from typing import ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from knowledge.evidence import Fact, ImageRef, Kind
from tools.base import Card, CaseTool, Cost, Missing, Needs, Reply
from tools.concepts import LESION
from tools.errors import NotApplicable
from tools.models.boxes import Detected, detected
from tools.models.masks import Segmentation, image_source, placed, segmentation
from tools.models.pictures import Shown, picture_of, run_on
from tools.models.shape import MOST_LESIONS, axial, extent_3d, largest_diameters, lesions, place, volume_ml
from tools.segment import doubts


class DetectArguments(BaseModel):
    """Where to look for lesions."""

    model_config = ConfigDict(extra="forbid")
    study: str | None = Field(
        None, description="Handle of the study (S1) or of a picture's series (S1.1); left out: the newest that fits."
    )


class Detect(CaseTool):
    """Lesions one by one."""

    name: str = "detect"
    description: str = "Find lesions one by one: how many, where, how large, how sure; boxes in 3D by a detector or from the outline, in 2D by a network."
    args_schema: type[BaseModel] = DetectArguments
    asks: ClassVar[list[str]] = [
        "How many lesions are there?", "Detect the lesions", "Mark each tumour with a box", "Is there more than one lesion?",
        "How many metastases are there?", "Find all tumours", "Where are the lesions?", "Is there a nodule on this scan?",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs(modality=["MR", "CT"], sequences=["FLAIR", "T1c"])
    gives: ClassVar[list[Kind]] = [Kind.FINDING]
    card: ClassVar[Card] = Card(
        intended_use="Lesions as separate boxes, for a reader to check.",
        accuracy="In 3D as good as the outline from which the lesions are taken; in 2D as the network's card says (docs/models.md).",
        limits="Lesions that touch are counted as one; a lesion of a kind that the model doesn't know is missed.",
    )
    cost: ClassVar[Cost] = Cost(seconds=4, memory_mb=2000)

    def answer(self, arguments: DetectArguments) -> Reply:
        picture = picture_of(self.bench, arguments.study)
        if picture is not None:
            return self._on_picture(picture)
        boxed = detected(self.bench, arguments.study)
        return _of_detector(boxed) if boxed is not None else _in_space(segmentation(self.bench, arguments.study, "tumour"))

    def _on_picture(self, picture: Shown) -> Reply:
        ran = run_on(self.bench, picture, "detection")
        if ran.boxes is None or ran.box_scores is None:
            raise NotApplicable(f"{ran.bundle.name} gives no boxes", "ask for the lesion's type")
        score, box = float(ran.box_scores[0]), [round(float(v), 1) for v in ran.boxes[0]]
        series = picture.series
        rows, columns = picture.slices[0].shape[1:]
        box = [max(0.0, box[0]), max(0.0, box[1]), min(float(columns), box[2]), min(float(rows), box[3])]
        if score < ran.bundle.card.least_score:
            statement = (
                f"{ran.bundle.name} finds no lesion on {series.handle} (its best box scores {score:.2f}); that excludes none."
            )
            source = picture.source(ran.bundle)
            fact = Fact(kind=Kind.FINDING, title="No lesion found", statement=statement, value={"label": "none", "score": round(score, 2)},
                        code=LESION, source=source)  # fmt: skip
            return Reply(text=statement, facts=[fact], missing=ran.missing)
        value = {"label": "lesion", "score": round(score, 2), "box": box}
        statement = (f"On {series.handle} of study {picture.study.handle}, {ran.bundle.name} marks one region as a lesion (score {score:.2f}; "
                     "box to be checked by a reader).")  # fmt: skip
        fact = Fact(
            kind=Kind.FINDING,
            title="Lesion 1",
            statement=statement,
            value=value,
            code=LESION,
            source=picture.source(ran.bundle, box),
        )
        size = Missing(
            what="the size in millimetres", why="a picture carries no geometry", would_change="the lesion could be measured"
        )
        return Reply(text=statement, facts=[fact], missing=[*ran.missing, size])


def _of_detector(boxed: Detected) -> Reply:
    """Each box of a MONAI detector that scores enough."""
    view, name = axial(boxed.volume), boxed.bundle.name
    where, facts = f"study {boxed.study.handle}, series {boxed.series.handle}", []
    about = {
        "study_id": boxed.study.id,
        "series_uid": boxed.series.series_uid,
        "model": name,
        "model_version": boxed.bundle.version,
    }
    for number, (box, score) in enumerate(zip(boxed.boxes, boxed.scores, strict=True), 1):
        if score < boxed.bundle.card.least_score or number > MOST_LESIONS:
            break
        low, high = box[:3].clip(0), np.minimum(box[3:], view.array.shape)
        x, y, z = (high - low) * view.spacing_mm
        frame = int(np.clip((low[2] + high[2]) / 2, 0, view.array.shape[2] - 1))
        statement = (f"Lesion {number} on {where}: a box of {x:.0f} x {y:.0f} x {z:.0f} mm (left-right, front-back, head-feet), score {score:.2f}, "
                     f"by {name} (to be checked by a reader).")  # fmt: skip
        value = {"label": "lesion", "score": round(float(score), 2), "extents_mm": [round(float(v), 1) for v in (x, y, z)]}
        spot = placed(boxed.volume, frame, [round(float(v), 1) for v in (low[0], low[1], high[0], high[1])])
        facts.append(Fact(kind=Kind.FINDING, title=f"Lesion {number}", statement=statement, value=value, code=LESION,
                          source=ImageRef(**about, **spot)))  # fmt: skip
    words = f"{name} marks {len(facts)} lesion{'' if len(facts) == 1 else 's'} on {where}." if facts else (
        f"{name} marks no lesion on {where}; that excludes none.")  # fmt: skip
    source = facts[0].source if facts else ImageRef(**about, **placed(boxed.volume, view.array.shape[2] // 2))
    value = {"label": "lesions", "count": len(facts)} if facts else {"label": "none"}
    facts.insert(0, Fact(kind=Kind.FINDING, title="Number of lesions" if facts else "No lesion found", statement=words, value=value, code=LESION,
                         source=source))  # fmt: skip
    missing = [Missing(what="an image without doubt", why=w, would_change="how far to trust the boxes") for w in boxed.warnings]
    return Reply(text="\n".join(f.statement for f in facts), facts=facts, missing=missing)


def _in_space(done: Segmentation) -> Reply:
    whole = next(r for r in done.regions if r.tumour)
    part = done.part(whole)
    assert part is not None
    brain = axial(done.volume).array
    facts = []
    for number, lesion in enumerate(lesions(part), 1):
        mask = axial(lesion)
        plane = largest_diameters(mask)
        spot = place(mask, brain != brain.min())
        size, (x, y, z) = extent_3d(mask)
        sure = _sure(done, lesion.array)
        volume = round(volume_ml(mask), 1)
        statement = (
            f"Lesion {number} on study {done.study.handle} lies in the {spot.side} half, {spot.words}: {volume:g} mL, "
            f"{x:.0f} x {y:.0f} x {z:.0f} mm (left-right, front-back, head-feet), mean certainty {sure:.2f}."
        )
        value = {"label": "lesion", "score": round(sure, 2), "volume_ml": volume, "longest_mm": round(size, 1), "side": spot.side,
                 "extents_mm": [round(x, 1), round(y, 1), round(z, 1)]}  # fmt: skip
        source = ImageRef(**image_source(done, frame=plane.frame, box=[round(v, 1) for v in plane.box]))
        facts.append(
            Fact(kind=Kind.FINDING, title=f"Lesion {number}", statement=statement, value=value, code=LESION, source=source)
        )
    if not facts:
        statement = f"{done.bundle.name} finds no lesion on study {done.study.handle}; that excludes none."
        source = ImageRef(**image_source(done, frame=brain.shape[2] // 2))
        facts = [
            Fact(
                kind=Kind.FINDING,
                title="No lesion found",
                statement=statement,
                value={"label": "none"},
                code=LESION,
                source=source,
            )
        ]
    else:
        count = len(facts)
        words = f"{done.bundle.name} outlines {count} separate lesion{'s' if count > 1 else ''} on study {done.study.handle}."
        facts.insert(0, Fact(kind=Kind.FINDING, title="Number of lesions", statement=words, value={"label": "lesions", "count": count},
                             code=LESION, source=facts[0].source))  # fmt: skip
    return Reply(text="\n".join(f.statement for f in facts), facts=facts, missing=doubts(done))


def _sure(done: Segmentation, lesion: object) -> float:
    """The model's mean probability over the labels of a lesion, weighted by how much of it each label fills."""
    labels, counts = np.unique(done.mask.array[np.asarray(lesion) > 0], return_counts=True)
    total = sum(done.certainty.get(int(v), 0.5) * int(n) for v, n in zip(labels, counts, strict=True))
    return float(total / max(1, counts.sum()))
