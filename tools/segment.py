"""`segment`: outline tumours or organs on the images, as a mask that opens."""

from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from knowledge.evidence import Fact, ImageRef, Kind
from tools.base import Card, CaseTool, Cost, Missing, Needs, Reply
from tools.concepts import ORGAN, WHOLE_TUMOUR
from tools.models.card import Region
from tools.models.masks import Segmentation, image_source, segmentation
from tools.models.shape import axial, largest_diameters, place, volume_ml


class SegmentArguments(BaseModel):
    """What to outline, and where."""

    model_config = ConfigDict(extra="forbid")
    study: str | None = Field(None, description="Handle of the study (S1); left out: the newest that fits.")
    target: str | None = Field(
        None,
        max_length=60,
        description="What to outline: tumour, or an organ or part that a model knows; left out: what the model finds.",
    )
    at: list[float] | None = Field(
        None, min_length=3, max_length=3,
        description="Column, row and frame (from 0, of the axial view) of one lesion that is to be outlined there, on a chest CT.",
    )  # fmt: skip


class Segment(CaseTool):
    """Outlines by the models of the catalogue."""

    name: str = "segment"
    description: str = "Outline the tumour (whole, core, enhancing) or organs, and say where it lies. Gives a mask."
    args_schema: type[BaseModel] = SegmentArguments
    asks: ClassVar[list[str]] = [
        "Segment the tumour", "Outline the lesion", "Where is the tumour?", "What do you see on this MRI?", "Show me the mask",
        "Is there a mass?", "Describe the lesion", "Which side is the tumour on?", "What is abnormal on these images?",
        "Outline the enhancing part", "Segment the organs on the CT", "Outline the liver", "How much oedema is there?",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs(modality=["MR", "CT"], sequences=["FLAIR"])
    gives: ClassVar[list[Kind]] = [Kind.FINDING]
    card: ClassVar[Card] = Card(
        intended_use="Outlines by the model whose card fits the study: glioma on skull-stripped brain MRI, organs on CT, a lung lesion at a point on CT.",
        accuracy="Each model's own card says it (`consilium models show NAME`, docs/models.md), with the data it was measured on.",
        limits="A reader has to check each outline; what a model wasn't made for is refused with the reason.",
        version="2",
    )
    cost: ClassVar[Cost] = Cost(seconds=4, memory_mb=2000)

    def answer(self, arguments: SegmentArguments) -> Reply:
        done = segmentation(self.bench, arguments.study, arguments.target, arguments.at)
        tumour = [r for r in done.regions if r.tumour]
        reply = _of_tumour(done, tumour) if tumour else _of_organs(done)
        lacking = [*reply.missing, *doubts(done)]
        return reply.model_copy(update={"missing": lacking})


def doubts(done: Segmentation) -> list[Missing]:
    """What the segmentation lacked, and what it warns of."""
    found = []
    untold = [r for r in done.bundle.card.regions if r not in done.regions]
    if untold:
        names = ", ".join(r.name for r in untold)
        needs = " and ".join(sorted({n for r in untold for n in r.needs}))
        found.append(
            Missing(
                what=needs, why=f"without it the {names} can't be told from the rest", would_change=f"{names} could be outlined"
            )
        )
    elif done.absent:
        found.append(Missing(what=f"{', '.join(done.absent)} in the outline", why="the model knows more sequences than were there",
                             would_change="the outline could be surer"))  # fmt: skip
    found += [
        Missing(what="an image without doubt", why=w, would_change="how far to trust outline and sizes") for w in done.warnings
    ]
    return found


def _of_tumour(done: Segmentation, regions: list[Region]) -> Reply:
    whole = regions[0]
    part = done.part(whole)
    assert part is not None
    mask, image = axial(part), axial(done.volume)
    seen = f" ({', '.join(done.used)})" if done.used else ""
    where = f"Study {done.study.handle}, series {done.series.handle}{seen}"
    if not mask.array.any():
        missing = Missing(what="an outlined region", why="the model found nothing above its threshold",
                          would_change="size, place and type could be given")  # fmt: skip
        statement = f"{where}: {done.bundle.name} outlines no {whole.name}; that does not exclude one."
        source = ImageRef(**image_source(done, frame=mask.array.shape[2] // 2))
        fact = Fact(
            kind=Kind.FINDING, title="No outline", statement=statement, value={"label": "none"}, code=WHOLE_TUMOUR, source=source
        )
        return Reply(text=statement, facts=[fact], missing=[missing])
    spot = place(mask, image.array != image.array.min())
    size = largest_diameters(mask)
    crossing = ", reaching across the midline" if spot.crosses_midline else ""
    half = "half of the brain" if "BRAIN" in done.bundle.card.body_part else "side of the body"
    statement = (
        f"{where}: a {whole.name} is outlined in the {spot.side} {half}, {spot.words}{crossing} "
        f"(outline by a {done.bundle.card.kind}, to be checked by a reader)."
    )
    parts = {r.name: round(volume_ml(p), 1) for r in regions if (p := done.part(r)) is not None}
    value: dict[str, Any] = {"label": whole.name, "side": spot.side, "place": spot.words, "voxels": int(np.sum(mask.array > 0)),
                             "crosses_midline": spot.crosses_midline, "sequences": done.used, "parts_ml": parts}  # fmt: skip
    source = ImageRef(**image_source(done, frame=size.frame, box=[round(v, 1) for v in size.box]))
    facts = [Fact(kind=Kind.FINDING, title="Outlined region", statement=statement, value=value, code=WHOLE_TUMOUR, source=source)]
    inside = [(r, volume) for r in regions[1:] if (volume := parts.get(r.name, 0.0)) > 0]
    if inside:
        told = " and ".join(f"{'an' if r.name[0] in 'aeiou' else 'a'} {r.name} of {v} mL" for r, v in inside)
        facts.append(Fact(kind=Kind.FINDING, title="Parts of the outlined region",
                          statement=f"Within it, {done.bundle.name} tells {told} apart on study {done.study.handle}.",
                          value={"label": whole.name, "parts_ml": parts}, code=WHOLE_TUMOUR, source=source))  # fmt: skip
    note = "" if not done.cached else " (from the cache)"
    return Reply(text=f"{statement} Mask: {done.url}{note}", facts=facts)


def _of_organs(done: Segmentation) -> Reply:
    found = []
    for region in done.regions:
        part = done.part(region)
        if part is not None and part.array.any():
            found.append((region, volume_ml(part), axial(part)))
    where = f"Study {done.study.handle}, series {done.series.handle}"
    if not found:
        source = ImageRef(**image_source(done, frame=done.volume.array.shape[2] // 2))
        statement = f"{where}: {done.bundle.name} outlines none of the organs that it knows."
        return Reply(text=statement, facts=[Fact(kind=Kind.FINDING, title="No outline", statement=statement, value={"label": "none"},
                                                 code=ORGAN, source=source)])  # fmt: skip
    largest = max(found, key=lambda f: f[1])[2]
    source = ImageRef(**image_source(done, frame=int(largest.array.sum((0, 1)).argmax())))
    named = ", ".join(f"{r.name} ({v:.1f} mL in the field of view)" for r, v, _ in found)
    statement = f"{where}: outlined are {named} (outlines by a {done.bundle.card.kind}, to be checked by a reader)."
    value = {"label": "organs", "parts_ml": {r.name: round(v, 1) for r, v, _ in found}}
    return Reply(text=f"{statement} Mask: {done.url}",
                 facts=[Fact(kind=Kind.FINDING, title="Outlined organs", statement=statement, value=value, code=ORGAN, source=source)])  # fmt: skip
