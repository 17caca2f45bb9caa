"""`measure`: true sizes of outlined regions, each with its doubt and the slice on which it can be checked."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from knowledge.evidence import Coding, Fact, ImageRef, Kind
from knowledge.studies.model import Geometry
from knowledge.studies.volume import Volume
from tools.annotations import measured_as_drawn
from tools.base import Card, CaseTool, Cost, Missing, Needs, Reply
from tools.concepts import EXTENT, FROM_MIDLINE, INTENSITY, LONG_AXIS, PRODUCT, SHORT_AXIS, VOLUME
from tools.errors import NotApplicable
from tools.models.card import Region
from tools.models.masks import Segmentation, image_source, region_of, segmentation
from tools.models.shape import Sizes, axial, edge_ml, lesions, place, values_in, volume_ml
from tools.segment import doubts


class MeasureArguments(BaseModel):
    """What to measure, and where."""

    model_config = ConfigDict(extra="forbid")
    study: str | None = Field(None, description="Handle of the study (S1); left out: the newest that fits.")
    target: str | None = Field(
        None,
        max_length=60,
        description="Region to measure: whole tumour, tumour core, enhancing tumour, an organ …; left out: the widest.",
    )
    at: list[float] | None = Field(
        None, min_length=3, max_length=3,
        description="Column, row and frame (from 0, of the axial view) of one lesion that is to be outlined there, on a chest CT.",
    )  # fmt: skip
    lesion: int | None = Field(
        None, ge=1, le=20, description="Which of several lesions, the largest is 1; left out: all together."
    )
    values_of: str | None = Field(
        None,
        description="Series (S1.2) whose values (HU, SUV, ADC, signal) inside the region are wanted too; `same`: the outlined one.",
    )


class Measure(CaseTool):
    """Volume, diameters, extents, place and values of an outlined region."""

    name: str = "measure"
    description: str = (
        "Measure the outlined tumour or organ: volume (mL), longest axial diameter and its perpendicular (mm), product (mm²), longest "
        "diameter in space, extents, distance to the midline; mean values (HU, SUV, ADC) on request. Each with its uncertainty."
    )
    args_schema: type[BaseModel] = MeasureArguments
    asks: ClassVar[list[str]] = [
        "How big is the tumour?", "What is the volume in mL?", "What is the longest diameter in mm?", "Measure the lesion",
        "How large is the mass?", "Give me the size", "What are the dimensions?", "and in cm?", "Has it grown?",
        "Tumour size and bidimensional product", "Compare the size with the prior", "How far is it from the midline?",
        "How many millilitres enhance?", "What is the mean HU of the lesion?", "What is the volume of the liver?",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs(modality=["MR", "CT"], sequences=["FLAIR"], after=["segment"])
    gives: ClassVar[list[Kind]] = [Kind.MEASUREMENT]
    card: ClassVar[Card] = Card(
        intended_use="Size of an outlined region in true units.",
        accuracy="Spheres and ellipsoids of known size, also oblique, mirrored and anisotropic: volume within 3 %, diameters within one "
        "voxel (tests/tools/test_shape.py, test_metamorphic.py).",
        limits="As good as the outline (see its model's card). The interval says how sizes move with the probability at which the line is "
        "drawn (0.4 to 0.6); it doesn't cover a model that looks in the wrong place.",
        version="2",
    )
    cost: ClassVar[Cost] = Cost(seconds=0.7, memory_mb=400)

    def answer(self, arguments: MeasureArguments) -> Reply:
        try:
            done = segmentation(self.bench, arguments.study, arguments.target, arguments.at)
        except NotApplicable:
            drawn = measured_as_drawn(self.bench, arguments.study, arguments.target) if arguments.at is None else None
            if drawn is None:
                raise
            return drawn
        region = region_of(done, arguments.target)
        if (
            not region.tumour
            and arguments.target is None
            and (drawn := measured_as_drawn(self.bench, arguments.study, None)) is not None
        ):
            return drawn  # a lesion that somebody outlined is what is meant, not an organ
        part = done.part(region)
        assert part is not None
        if not part.array.any():
            raise NotApplicable(f"no {region.name} was outlined, so there is nothing to measure", "check the images by eye")
        found = lesions(part)
        if arguments.lesion is not None and arguments.lesion > len(found):
            raise NotApplicable(f"there is no lesion {arguments.lesion}: {len(found)} were outlined", "name one of them")
        chosen = part if arguments.lesion is None else found[arguments.lesion - 1]
        mask = axial(chosen)
        main = Sizes.of(mask)
        facts = _sizes(done, region, arguments.lesion, main, sides(done, region, chosen, arguments.lesion))
        if region.tumour:
            facts.append(_midline(done, region, mask, main.plane.frame))
        facts += [_volume_of(done, r) for r in done.regions if r is not region and region.tumour and r.tumour and arguments.lesion is None
                  and arguments.target is None and done.part(r).array.any()]  # type: ignore[union-attr]  # fmt: skip
        if arguments.values_of:
            facts.append(self._values(done, region, chosen, arguments.values_of))
        missing = doubts(done)
        if done.series.geometry is not Geometry.OK:
            missing.append(Missing(what="a regular geometry", why="; ".join(done.series.warnings),
                                   would_change="sizes could be trusted to the voxel"))  # fmt: skip
        if len(found) > 1 and arguments.lesion is None:
            missing.append(Missing(what=f"sizes of the {len(found)} separate regions one by one",
                                   why="volume and extents are of all together; diameters are of the largest on one slice",
                                   would_change="each lesion could be followed by itself"))  # fmt: skip
        return Reply(text="\n".join(f.statement for f in facts), facts=facts, missing=missing)

    def _values(self, done: Segmentation, region: Region, mask: Volume, handle: str) -> Fact:
        case = self.bench.required_case
        series = done.series if handle == "same" else case.series(handle)[1]
        image = case.volume(series)
        if not image.same_grid(mask):
            raise NotApplicable(
                f"{handle} isn't on the grid of {done.series.handle}, where the region was outlined", "name that series"
            )
        stats = values_in(mask, image)
        unit = image.unit or ("10^-6 mm2/s" if series.sequence == "ADC" and stats["median"] > 10 else "signal (arbitrary)")
        statement = (f"Inside the {region.name}, series {handle} ({series.sequence or series.modality}) has a mean of {stats['mean']:g} {unit} "
                     f"(SD {stats['sd']:g}, median {stats['median']:g}, 5th to 95th percentile {stats['p5']:g} to {stats['p95']:g}).")  # fmt: skip
        turned = axial(mask)
        source = {**image_source(done, frame=int(turned.array.sum((0, 1)).argmax())), "series_uid": series.series_uid}
        if series.id != done.series.id:
            source["mask"] = None  # the mask lies with the series on which it was drawn
        return Fact(kind=Kind.MEASUREMENT, title=f"Mean value in the {region.name}", statement=statement, value=stats["mean"], unit=unit,
                    interval=[stats["p5"], stats["p95"]], code=INTENSITY, source=ImageRef(**source))  # fmt: skip


def sides(done: Segmentation, region: Region, chosen: Volume, lesion: int | None) -> list[Sizes]:
    """Sizes of the stricter and the looser outline, as far as they are kept."""
    both = [_side(done, region, which, chosen, lesion) for which in ("inner", "outer")]
    return [s for s in both if s is not None]


def _side(done: Segmentation, region: Region, which: str, chosen: Volume, lesion: int | None) -> Sizes | None:
    """Sizes of the stricter or looser outline, of the same lesion where one was chosen; None where it vanishes or isn't kept."""
    part = done.part(region, which)
    if part is None or not part.array.any():
        return None
    if lesion is not None:
        touching = [p for p in lesions(part) if (p.array * chosen.array).any()]
        if not touching:
            return None
        part = touching[0]
    return Sizes.of(axial(part))


def _sizes(done: Segmentation, region: Region, lesion: int | None, main: Sizes, sides: list[Sizes]) -> list[Fact]:
    plane = main.plane
    box = [round(v, 1) for v in plane.box]
    plain = image_source(done, frame=plane.frame, box=box)
    cut = f"slice {plane.frame + 1}" if plain["box"] else f"slice {plane.frame + 1} of the axial view"
    where = f"on study {done.study.handle} ({', '.join(done.used) or done.series.modality})"
    long_line = image_source(done, frame=plane.frame, box=box, line=_rounded(plane.long_line))
    short_line = image_source(done, frame=plane.frame, box=box, line=_rounded(plane.short_line))
    name = ("tumour" if region is done.regions[0] else region.name) if region.tumour else region.name
    subject = f"The outlined {name}" if lesion is None else f"Lesion {lesion} of the outlined {name}"
    plainly = region.tumour and region is done.regions[0]
    suffix = ("" if lesion is None else f" of lesion {lesion}") + ("" if plainly else f" ({region.name})")
    voxel = max(done.mask.spacing_mm[:2])

    def told(
        title: str, text: str, unit: str, code: Coding, source: dict[str, Any], value: float, others: list[float], least: float
    ) -> Fact:
        doubt = _interval(value, others, least)
        shown = {"mm2": "mm²"}.get(unit, unit)
        words = f"{text.format(subject=subject, value=f'{value:g} {shown}')} {where}; {doubt[0]:g} to {doubt[1]:g} {shown} {HOW if others else AT_THE_EDGE}."
        return Fact(kind=Kind.MEASUREMENT, title=title + suffix, statement=words, value=value, unit=unit, interval=doubt, code=code,
                    source=ImageRef(**source))  # fmt: skip

    long_mm, short_mm = round(plane.long_mm, 1), round(plane.short_mm, 1)
    x, y, z = (f"{v:.1f}" for v in main.extents_mm)
    edge = edge_ml(main.volume_ml, done.mask.spacing_mm)
    return [
        told("Volume", "{subject} has a volume of {value}", "mL", VOLUME, plain, round(main.volume_ml, 1), [s.volume_ml for s in sides], edge),
        told("Longest axial diameter", f"Its longest axial diameter is {{value}} ({cut})", "mm", LONG_AXIS, long_line, long_mm,
             [s.plane.long_mm for s in sides], voxel),
        told("Perpendicular diameter", f"The diameter perpendicular to it is {{value}} ({cut})", "mm", SHORT_AXIS, short_line, short_mm,
             [s.plane.short_mm for s in sides], voxel),
        told("Bidimensional product", "The product of the two diameters is {value}", "mm2", PRODUCT, plain, round(long_mm * short_mm),
             [s.plane.long_mm * s.plane.short_mm for s in sides], voxel * (long_mm + short_mm)),
        told("Longest diameter in space", f"Its longest diameter in space is {{value}} (extents {x} mm left-right, {y} mm front-back, "
             f"{z} mm head-feet)", "mm", EXTENT, plain, round(main.space_mm, 1), [s.space_mm for s in sides], max(done.mask.spacing_mm)),
    ]  # fmt: skip


HOW = "by where the line is drawn"
"""How an interval was found: inner and outer outline, and at least the width of a voxel."""
AT_THE_EDGE = "by half a voxel at the edge, all that is known of the doubt"
"""How it was found where the model gives one outline alone."""


def _interval(value: float, others: list[float], least: float) -> list[float]:
    """From the least to the greatest of the outlines' values, and at least half of `least` (a voxel's share) to each side."""
    digits = 0 if float(value).is_integer() and value > 100 else 1
    low = min([value - least / 2, *others])
    high = max([value + least / 2, *others])
    return [round(max(0.0, low), digits), round(high, digits)]


def _midline(done: Segmentation, region: Region, mask: Volume, frame: int) -> Fact:
    image = axial(done.volume).array
    spot = place(mask, image != image.min())
    distance = round(spot.from_midline_mm, 1)
    side = f"in the {spot.side} half" + (", reaching across it" if spot.crosses_midline else "")
    statement = f"The centre of the {region.name} lies {distance:g} mm from the midline, {side}, on study {done.study.handle}."
    least = max(done.mask.spacing_mm[:2])
    return Fact(kind=Kind.MEASUREMENT, title="Distance to the midline", statement=statement, value=distance, unit="mm",
                interval=_interval(distance, [], least), code=FROM_MIDLINE, source=ImageRef(**image_source(done, frame=frame)))  # fmt: skip


def _volume_of(done: Segmentation, region: Region) -> Fact:
    part = done.part(region)
    assert part is not None
    volume = volume_ml(part)
    others = [volume_ml(p) for which in ("inner", "outer") if (p := done.part(region, which)) is not None]
    value, doubt = round(volume, 1), _interval(round(volume, 1), others, 0.1)
    statement = (f"Of it, the {region.name} has a volume of {value:g} mL on study {done.study.handle}; {doubt[0]:g} to {doubt[1]:g} mL "
                 f"{HOW}.")  # fmt: skip
    source = ImageRef(**image_source(done, frame=int(axial(part).array.sum((0, 1)).argmax())))
    return Fact(kind=Kind.MEASUREMENT, title=f"Volume of the {region.name}", statement=statement, value=value, unit="mL", interval=doubt,
                code=VOLUME, source=source)  # fmt: skip


def _rounded(line: list[list[float]]) -> list[list[float]]:
    return [[round(x, 1), round(y, 1)] for x, y in line]
