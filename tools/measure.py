"""`measure`: volume and diameters of the outlined tumour, from the true geometry of its series."""

from typing import Any, ClassVar

from pydantic import BaseModel

from knowledge.evidence import Coding, Fact, ImageRef, Kind
from knowledge.studies.model import Geometry
from tools.base import Card, CaseTool, Cost, Missing, Needs, Reply
from tools.concepts import LONG_AXIS, PRODUCT, SHORT_AXIS, VOLUME
from tools.errors import NotApplicable
from tools.models.outline import image_source, outline
from tools.models.shape import axial, largest_diameters, volume_ml
from tools.segment import SegmentArguments


class Measure(CaseTool):
    """Volume, longest axial diameter, perpendicular and their product."""

    name: str = "measure"
    description: str = (
        "Measure the outlined tumour: volume (mL), longest axial diameter and its perpendicular (mm), product (mm²)."
    )
    args_schema: type[BaseModel] = SegmentArguments
    asks: ClassVar[list[str]] = [
        "How big is the tumour?", "What is the volume in mL?", "What is the longest diameter in mm?", "Measure the lesion",
        "How large is the mass?", "Give me the size", "What are the dimensions?", "and in cm?", "Has it grown?",
        "Tumour size and bidimensional product", "Compare the size with the prior",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs(modality=["MR"], body_part=["BRAIN"], sequences=["FLAIR"], after=["segment"])
    gives: ClassVar[list[Kind]] = [Kind.MEASUREMENT]
    card: ClassVar[Card] = Card(
        intended_use="Size of an outlined region in true units.",
        accuracy="Spheres of known size, also oblique and anisotropic, within 3 % (volume) and 1 voxel (diameter): tests.",
        limits="As good as the outline: on held-out patients the outline's mean Dice is 0.82.",
    )
    cost: ClassVar[Cost] = Cost(seconds=0.5, memory_mb=300)

    def answer(self, arguments: SegmentArguments) -> Reply:
        done = outline(self.bench, arguments.study)
        mask = axial(done.mask)
        if not mask.array.any():
            raise NotApplicable("no region was outlined, so there is nothing to measure", "check the images by eye")
        size = largest_diameters(mask)
        volume = round(volume_ml(mask), 1)
        long_mm, short_mm = round(size.long_mm, 1), round(size.short_mm, 1)
        where = f"on study {done.study.handle} ({done.series.sequence})"
        box = [round(v, 1) for v in size.box]
        plain = image_source(done, frame=size.frame, box=box)
        where_cut = f"slice {size.frame + 1}" if plain["box"] else f"slice {size.frame + 1} of the axial view"
        long_line = image_source(done, frame=size.frame, box=box, line=_rounded(size.long_line))
        short_line = image_source(done, frame=size.frame, box=box, line=_rounded(size.short_line))
        facts = [
            _fact("Volume", f"The outlined tumour has a volume of {volume} mL {where}.", volume, "mL", VOLUME, plain),
            _fact("Longest axial diameter", f"Its longest axial diameter is {long_mm} mm ({where_cut}) {where}.",
                  long_mm, "mm", LONG_AXIS, long_line),
            _fact("Perpendicular diameter", f"The diameter perpendicular to it is {short_mm} mm ({where_cut}) {where}.",
                  short_mm, "mm", SHORT_AXIS, short_line),
            _fact("Bidimensional product", f"The product of the two diameters is {round(long_mm * short_mm)} mm² {where}.",
                  round(long_mm * short_mm), "mm2", PRODUCT, plain),
        ]  # fmt: skip
        missing = []
        if done.series.geometry is not Geometry.OK:
            missing.append(Missing(what="a regular geometry", why="; ".join(done.series.warnings),
                                   would_change="sizes could be trusted to the voxel"))  # fmt: skip
        return Reply(text="\n".join(f.statement for f in facts), facts=facts, missing=missing)


def _rounded(line: list[list[float]]) -> list[list[float]]:
    return [[round(x, 1), round(y, 1)] for x, y in line]


def _fact(title: str, statement: str, value: float, unit: str, code: Coding, source: dict[str, Any]) -> Fact:
    return Fact(kind=Kind.MEASUREMENT, title=title, statement=statement, value=value, unit=unit, code=code,
                source=ImageRef(**source))  # fmt: skip
