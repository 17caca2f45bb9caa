"""`read_annotations`: what others outlined or measured on a study (DICOM SEG, RTSTRUCT, SR), as evidence."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from knowledge.evidence import Fact, ImageRef, Kind
from knowledge.studies.model import Study
from knowledge.studies.outlines import Outline, outlines, reports_of_others
from tools.base import Bench, Card, CaseTool, Cost, Missing, Needs, Reply
from tools.concepts import DRAWN, LONG_AXIS, SHORT_AXIS, VOLUME
from tools.course.lesions import Found, Lesion, drawn_on, lesions_drawn
from tools.errors import NotApplicable
from tools.models.masks import newest_first, placed
from tools.recorded import record_fact

NAME = "read_annotations"
MOST = 20
"""Outlines that are measured one by one."""


class AnnotationArguments(BaseModel):
    """Whose study."""

    model_config = ConfigDict(extra="forbid")
    study: str | None = Field(None, description="Handle of the study (S1); left out: every study of the case.")


class ReadAnnotations(CaseTool):
    """Outlines and measurements that came with the studies."""

    name: str = NAME
    description: str = (
        "What a radiologist or another program outlined or measured on the case's studies: DICOM segmentations and structure sets, measured here in true "
        "millimetres, and measurements stated in DICOM structured reports. Each with its author, as the object says."
    )
    args_schema: type[BaseModel] = AnnotationArguments
    asks: ClassVar[list[str]] = [
        "What did the radiologist measure?", "Which lesions did somebody outline?", "Are there existing segmentations?", "Show the stored annotations",
        "What is in the structured report's measurements?", "Which structures were contoured?", "Who drew these outlines?",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs()
    gives: ClassVar[list[Kind]] = [Kind.FINDING, Kind.MEASUREMENT, Kind.RECORD]
    card: ClassVar[Card] = Card(
        intended_use="Existing outlines and measurements of a study, read and measured, not judged.",
        accuracy="Outlines of known size come back to the voxel; measurements of SR word for word (tests/tools/test_annotations.py).",
        limits="As good as whoever drew them; an outline in another frame of reference than its image is named and left out.",
    )
    cost: ClassVar[Cost] = Cost(seconds=2, memory_mb=600)

    def answer(self, arguments: AnnotationArguments) -> Reply:
        case = self.bench.required_case
        studies = [case.study(arguments.study.split(".")[0])] if arguments.study else case.studies
        facts: list[Fact] = []
        missing: list[Missing] = []
        for study in studies:
            told, lacking = self._outlined(study)
            facts += told
            missing += lacking
        reports = set().union(*(reports_of_others(case.archive, s) for s in studies))
        stated = [
            i for i in case.items if i.category == "imaging measurement" and i.resource.removeprefix("DICOM SR ") in reports
        ]
        facts += [record_fact(i, case) for i in stated[: 2 * MOST]]
        if len(stated) > 2 * MOST:
            missing.append(
                Missing(
                    what=f"{len(stated) - 2 * MOST} more stated measurements",
                    why="the first ones are shown",
                    would_change="name a study",
                )
            )
        if not facts:
            why = "".join(f"; {m.what}: {m.why}" for m in missing)
            raise NotApplicable(f"no outline and no stated measurement came with {', '.join(s.handle for s in studies)} that can be read{why}",
                                "ask for a segmentation, or send the SEG, RTSTRUCT or SR")  # fmt: skip
        return Reply(text="\n".join(f.statement for f in facts), facts=facts, missing=missing)

    def _outlined(self, study: Study) -> tuple[list[Fact], list[Missing]]:
        there = outlines(self.bench.required_case.archive, study)
        if not there:
            return [], []
        found, missing = drawn_on(self.bench, study, there)
        if found is None:
            return [], missing
        facts = [self._list(study, there, found)] if found.lesions else []
        for lesion in found.lesions[:MOST]:
            facts += sizes_of(lesion)
        more = len(found.lesions) - MOST
        lacking = (
            [
                Missing(
                    what=f"sizes of {more} more outlines of {study.handle}",
                    why="the largest are measured",
                    would_change="name a label",
                )
            ]
            if more > 0
            else []
        )
        return facts, [*missing, *lacking]

    def _list(self, study: Study, there: list[Outline], found: Found) -> Fact:
        makers = sorted({o.by or "author not stated" for o in there})
        kinds = sorted({o.series.modality for o in there})
        statement = f"{len(there)} outlines came with {study.handle} ({study.date or 'undated'}; {', '.join(kinds)}): {', '.join(sorted({_said(o.label) for o in there}))[:300]}. Drawn by: {', '.join(makers)[:120]}."
        return Fact(kind=Kind.FINDING, title=f"Outlines of {study.handle}", statement=statement, value={"outlines": len(there), "makers": makers}, code=DRAWN,
                    source=_ref(found.lesions[0]))  # fmt: skip


def measured_as_drawn(bench: Bench, handle: str | None, target: str | None) -> Reply | None:
    """Sizes of the lesions that others outlined on the newest such study; None where none are drawn. For what no model outlines."""
    for study in newest_first(bench.required_case, handle):
        found = lesions_drawn(bench, study, target)
        if found is not None and found.lesions:
            facts = [f for x in found.lesions[:MOST] for f in sizes_of(x)]
            return Reply(text="\n".join(f.statement for f in facts), facts=facts, missing=found.missing)
    return None


def sizes_of(lesion: Lesion) -> list[Fact]:
    """Volume and both diameters of a lesion as it was drawn, each with its doubt and its slice."""
    name, handle = _said(lesion.label), lesion.study.handle
    rows = [
        ("Volume", "volume", "mL", VOLUME, False),
        ("Longest axial diameter", "diameter", "mm", LONG_AXIS, True),
        ("Perpendicular diameter", "short", "mm", SHORT_AXIS, False),
    ]
    found = []
    for title, quantity, unit, code, ruler in rows:
        value, (low, high) = lesion.value(quantity), lesion.span(quantity)
        digits = 2 if unit == "mL" and value < 10 else 1
        statement = f"{title} of “{name}” as outlined on {handle} by {lesion.by}: {value:.{digits}f} {unit}; {low:.{digits}f} to {high:.{digits}f} {unit} by half a voxel at the edge."
        found.append(Fact(kind=Kind.MEASUREMENT, title=f"{title} of {name}", statement=statement, value=round(value, digits), unit=unit,
                          interval=[round(low, digits), round(high, digits)], code=code, source=_ref(lesion, ruler)))  # fmt: skip
    return found


def _said(label: str) -> str:
    """A label as it may stand in a sentence: letters, digits and a few signs, short."""
    return "".join(c for c in label if c.isalnum() or c in " -_().,/+")[:40].strip() or "outline"


def _ref(lesion: Lesion, ruler: bool = False) -> ImageRef:
    plane = lesion.sizes.plane
    line = [[round(x, 1), round(y, 1)] for x, y in plane.long_line] if ruler else None
    return ImageRef(study_id=lesion.study.id, series_uid=lesion.series.series_uid, model=NAME, model_version=ReadAnnotations.card.version,
                    **placed(lesion.volume, plane.frame, [round(v, 1) for v in plane.box], line))  # fmt: skip
