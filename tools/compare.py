"""`compare_studies`: how sizes changed from study to study, against what the measurements themselves leave open."""

import math
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from knowledge.evidence import Coding, Fact, ImageRef, Kind
from knowledge.studies.model import Study
from tools.base import Card, CaseTool, Cost, Missing, Needs, Reply
from tools.concepts import DOUBLING_TIME, INTERVAL, LONG_AXIS, PRODUCT, VOLUME
from tools.errors import NotApplicable
from tools.measure import Sizes, region_of, sides
from tools.models.card import Region
from tools.models.masks import Segmentation, image_source, segmentation
from tools.models.shape import axial


class CompareArguments(BaseModel):
    """Which studies, and which region."""

    model_config = ConfigDict(extra="forbid")
    studies: list[str] = Field(
        default_factory=list,
        max_length=12,
        description="Handles of the studies (S1, S2); left out: all dated ones of the newest study's body part.",
    )
    target: str | None = Field(
        None, max_length=60, description="Region to compare: whole tumour, an organ …; left out: the widest of the tumour."
    )


@dataclass(frozen=True)
class _Point:
    """One study's outline and sizes, with what the least and the widest outline give."""

    study: Study
    day: date
    done: Segmentation
    sizes: Sizes
    others: list[Sizes]
    region: Region

    def span(self, quantity: str) -> tuple[float, float]:
        """Least and greatest value that the outline's own doubt allows, at least half a voxel to each side."""
        values = [_value(s, quantity) for s in [self.sizes, *self.others]]
        step = _step(self, quantity)
        return max(0.0, min(values) - step), max(values) + step


QUANTITIES: dict[str, tuple[str, str, Coding]] = {
    "volume": ("volume", "mL", VOLUME),
    "diameter": ("longest axial diameter", "mm", LONG_AXIS),
    "product": ("product of the two diameters", "mm²", PRODUCT),
}
"""What is compared: its name in a sentence, unit and code."""


class CompareStudies(CaseTool):
    """Change of an outlined region between dated studies."""

    name: str = "compare_studies"
    description: str = (
        "Compare an outlined tumour or organ between dated studies of one body part: change in volume, longest diameter and product (%), "
        "whether it exceeds the measurements' own doubt, the interval in days and the doubling time."
    )
    args_schema: type[BaseModel] = CompareArguments
    asks: ClassVar[list[str]] = [
        "Has it grown since the last scan?", "Compare with the prior study", "Is it bigger than before?", "What changed since March?",
        "Is the tumour shrinking under treatment?", "How fast does it grow?", "Follow the lesion over time", "Compare the two MRIs",
        "Is this progression or pseudoprogression?", "Response compared to baseline", "What is the doubling time?",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs(modality=["MR", "CT"], sequences=["FLAIR"], after=["measure"])
    gives: ClassVar[list[Kind]] = [Kind.MEASUREMENT]
    card: ClassVar[Card] = Card(
        intended_use="Change of size of one outlined region between studies of the same patient and body part.",
        accuracy="Spheres of known size on two dates: change and doubling time as computed by hand (tests/tools/test_compare.py).",
        limits="The region as a whole is compared, each study on its own grid; images aren't registered and separate lesions aren't matched. "
        "A change within the doubt of both outlines is called that.",
    )  # fmt: skip
    cost: ClassVar[Cost] = Cost(seconds=6, memory_mb=2000)

    def answer(self, arguments: CompareArguments) -> Reply:
        studies = self._studies(arguments.studies)
        points = [self._point(s, arguments.target) for s in studies]
        facts: list[Fact] = []
        missing: list[Missing] = []
        pairs = [(points[0], points[-1])] if len(points) == 2 else [*pairwise(points), (points[0], points[-1])]
        for before, after in pairs:
            facts += _changes(before, after)
            missing += _unlike(before, after)
        return Reply(text="\n".join(f.statement for f in facts), facts=facts, missing=missing)

    def _studies(self, handles: list[str]) -> list[Study]:
        case = self.bench.required_case
        images = [s for s in case.studies if set(s.image_modalities) - {"SR"}]
        if handles:
            chosen = list({h: case.study(h.split(".")[0]) for h in handles}.values())
        else:
            newest = max(images, key=lambda s: s.date or "", default=None)
            chosen = [s for s in images if newest is not None and s.body_part == newest.body_part and s.date]
        parts = sorted({s.body_part or "not stated" for s in chosen})
        if len(parts) > 1:
            raise NotApplicable(
                f"the studies show different body parts ({', '.join(parts)})", "name two studies of one body part"
            )
        undated = [s.handle for s in chosen if not s.date or len(s.date) != 10]
        if undated:
            raise NotApplicable(
                f"{', '.join(undated)} has no whole date, so change over time can't be stated", "give the study a date"
            )
        chosen = sorted(chosen, key=lambda s: s.date or "")
        if len({s.date for s in chosen}) < 2:
            raise NotApplicable("there are no two dated studies of this region", "add an earlier examination with its date")
        return chosen

    def _point(self, study: Study, target: str | None) -> _Point:
        done = segmentation(self.bench, study.handle, target)
        region = region_of(done, target)
        part = done.part(region)
        assert part is not None
        if not part.array.any():
            raise NotApplicable(
                f"no {region.name} was outlined on {study.handle}, so there is nothing to compare", "check by eye"
            )
        others = sides(done, region, part, None)
        return _Point(study, date.fromisoformat(study.date or ""), done, Sizes.of(axial(part)), others, region)


def _value(sizes: Sizes, quantity: str) -> float:
    return {"volume": sizes.volume_ml, "diameter": sizes.plane.long_mm, "product": sizes.plane.long_mm * sizes.plane.short_mm}[
        quantity
    ]


def _step(point: _Point, quantity: str) -> float:
    voxel = max(point.done.mask.spacing_mm[:2]) / 2
    plane = point.sizes.plane
    return {"volume": point.done.mask.voxel_ml, "diameter": voxel, "product": voxel * (plane.long_mm + plane.short_mm)}[quantity]


def _changes(before: _Point, after: _Point) -> list[Fact]:
    days = (after.day - before.day).days
    names = f"{before.study.handle} ({before.day}) to {after.study.handle} ({after.day})"
    pair = f"{before.study.handle} to {after.study.handle}"
    source = ImageRef(**image_source(after.done, frame=after.sizes.plane.frame))
    name = "tumour" if after.region.tumour and after.region is after.done.regions[0] else after.region.name
    found = [Fact(kind=Kind.MEASUREMENT, title=f"Interval {pair}", statement=f"{days} days lie between {names}.", value=days, unit="d",
                  code=INTERVAL, source=source)]  # fmt: skip
    for quantity, (words, unit, code) in QUANTITIES.items():
        old, new = _value(before.sizes, quantity), _value(after.sizes, quantity)
        percent = round(100 * (new - old) / old, 1)
        low, high = before.span(quantity), after.span(quantity)
        least, most = (round(100 * (n - o) / o, 1) for n, o in ((high[0], low[1]), (high[1], max(low[0], 1e-6))))
        beyond = least > 0 or most < 0
        verdict = "more than the doubt of both outlines" if beyond else "within the doubt of both outlines"
        how = "grew" if percent > 0 else "shrank" if percent < 0 else "did not change"
        by = f" by {abs(percent):g} %" if percent else ""
        statement = (f"From {names} the {words} of the outlined {name} {how}{by}, from {old:.1f} to {new:.1f} {unit}, which is {verdict} "
                     f"({least:g} to {most:g} %).")  # fmt: skip
        found.append(Fact(kind=Kind.MEASUREMENT, title=f"Change in {quantity} {pair}", statement=statement, value=percent, unit="%",
                          interval=[least, most], code=code, source=source))  # fmt: skip
    ratio = after.sizes.volume_ml / before.sizes.volume_ml
    if ratio > 1 and after.span("volume")[0] > before.span("volume")[1]:
        doubling = round(days * math.log(2) / math.log(ratio))
        statement = f"At the rate from {names} the volume of the outlined {name} doubles in {doubling} days."
        found.append(Fact(kind=Kind.MEASUREMENT, title=f"Volume doubling time {pair}", statement=statement, value=doubling, unit="d",
                          code=DOUBLING_TIME, source=source))  # fmt: skip
    return found


def _unlike(before: _Point, after: _Point) -> list[Missing]:
    """How the two examinations differ, as far as that touches sizes."""
    found = []
    thick = [round(float(p.done.mask.spacing_mm[2]), 1) for p in (before, after)]
    if abs(thick[0] - thick[1]) > 0.5:
        found.append(Missing(what="the same slice thickness in both studies",
                             why=f"{before.study.handle} has {thick[0]:g} mm, {after.study.handle} {thick[1]:g} mm",
                             would_change="small changes of size could be told from the way of scanning"))  # fmt: skip
    if set(before.done.used) != set(after.done.used):
        found.append(Missing(what="the same sequences in both studies", why="the outlines were made from different sequences",
                             would_change="change could be told from the outline's own"))  # fmt: skip
    return found
