"""`segment`: outline the tumour on the images, as a mask that opens."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from knowledge.evidence import Fact, ImageRef, Kind
from tools.base import Card, CaseTool, Cost, Missing, Needs, Reply
from tools.concepts import WHOLE_TUMOUR
from tools.models.outline import image_source, outline
from tools.models.shape import axial, largest_diameters, place


class SegmentArguments(BaseModel):
    """What to outline, and where."""

    model_config = ConfigDict(extra="forbid")
    study: str | None = Field(None, description="Handle of the study (S1); left out: the newest that fits.")
    target: Literal["whole_tumour"] = Field("whole_tumour", description="What to outline.")


class Segment(CaseTool):
    """The whole-tumour outline."""

    name: str = "segment"
    description: str = "Outline the tumour on brain MRI (skull-stripped FLAIR) and say where it lies. Gives a mask."
    args_schema: type[BaseModel] = SegmentArguments
    asks: ClassVar[list[str]] = [
        "Segment the tumour", "Outline the lesion", "Where is the tumour?", "What do you see on this MRI?", "Show me the mask",
        "Is there a mass?", "Describe the lesion", "Which side is the tumour on?", "What is abnormal on these images?",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs(modality=["MR"], body_part=["BRAIN"], sequences=["FLAIR"])
    gives: ClassVar[list[Kind]] = [Kind.FINDING]
    card: ClassVar[Card] = Card(
        intended_use="Whole-tumour outline of adult glioma on skull-stripped FLAIR.",
        accuracy="See the bundle's card (models of the catalogue): mean Dice 0.82 on 4 held-out patients.",
        limits="One connected region; FLAIR-bright oedema is part of it; a reader has to check the outline.",
    )
    cost: ClassVar[Cost] = Cost(seconds=4, memory_mb=1500)

    def answer(self, arguments: SegmentArguments) -> Reply:
        done = outline(self.bench, arguments.study)
        mask, image = axial(done.mask), axial(done.volume)
        where = f"Study {done.study.handle}, series {done.series.handle} ({done.series.sequence})"
        if not mask.array.any():
            missing = Missing(what="an outlined region", why="the model found nothing above its threshold",
                              would_change="size, place and type could be given")  # fmt: skip
            statement = f"{where}: {done.bundle.name} outlines no abnormal region; that does not exclude a tumour."
            source = ImageRef(**image_source(done, frame=mask.array.shape[2] // 2))
            fact = Fact(kind=Kind.FINDING, title="No outline", statement=statement, value={"label": "none"},
                        code=WHOLE_TUMOUR, source=source)  # fmt: skip
            return Reply(text=statement, facts=[fact], missing=[missing])
        spot = place(mask, image.array != 0)
        size = largest_diameters(mask)
        crossing = ", reaching across the midline" if spot.crosses_midline else ""
        statement = (
            f"{where}: a FLAIR-bright region is outlined in the {spot.side} half of the brain, {spot.words}{crossing} "
            f"(outline by a {done.bundle.card.kind}, to be checked by a reader)."
        )
        value = {"label": "FLAIR-bright region", "side": spot.side, "place": spot.words, "voxels": int(np.sum(mask.array > 0)),
                 "crosses_midline": spot.crosses_midline}  # fmt: skip
        source = ImageRef(**image_source(done, frame=size.frame, box=[round(v, 1) for v in size.box]))
        fact = Fact(
            kind=Kind.FINDING, title="Outlined region", statement=statement, value=value, code=WHOLE_TUMOUR, source=source
        )
        note = "" if not done.cached else " (from the cache)"
        return Reply(text=f"{statement} Mask: {done.url}{note}", facts=[fact])
