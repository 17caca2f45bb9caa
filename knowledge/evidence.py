"""Evidence: one fact with its source and the ready sentence that states it."""

from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Frozen(BaseModel):
    """A value that can't change once made and knows no field that isn't named."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Kind(StrEnum):
    """What sort of fact an evidence is."""

    FINDING = "finding"
    """Something seen on an image, by a named model or read from its header."""
    MEASUREMENT = "measurement"
    """One quantity with a number and a unit, taken on a named series."""
    REPORT = "report"
    """A span of a report, word for word."""
    RECORD = "record"
    """A value of a structured record (FHIR)."""
    GUIDELINE = "guideline"
    """A passage of a dated guideline."""
    RULE = "rule"
    """The result of a computed guideline, with its inputs."""


class Coding(Frozen):
    """A coded concept (FHIR Coding): SNOMED CT, LOINC, RadLex, or this project's own names."""

    system: str
    code: str
    display: str


class ImageRef(Frozen):
    """Where on an image a fact was found. `box` is [x0, y0, x1, y1] in pixels of `frame`."""

    study_id: str
    series_uid: str
    sop_instance_uids: list[str] = Field(default_factory=list)
    frame: int | None = None
    box: list[float] | None = None
    line: list[list[float]] | None = None
    mask: str | None = None
    model: str
    model_version: str


class ReportSpan(Frozen):
    """Characters [start, end) of a report's text."""

    record_id: str
    section: str
    start: int
    end: int


class RecordRef(Frozen):
    """A value inside a FHIR resource: `resource` as Type/id, `path` in FHIRPath notation."""

    resource: str
    path: str
    date: str | None = None


class PassageRef(Frozen):
    """A passage of a guideline document."""

    document: str
    version: str
    date: str
    section: str
    page: int | None = None
    passage_id: str
    sentence: tuple[int, int] | None = None
    """Characters of the passage that answer best."""


class Origin(Frozen):
    """Where a rule's input comes from: `question`, `patient`, or an evidence's kind with its statement and source."""

    kind: str
    statement: str = ""
    evidence: str | None = None
    """Its number in the conversation (E3), where the fact was taken from a numbered evidence."""
    source: ImageRef | ReportSpan | RecordRef | None = None


class RuleRef(Frozen):
    """A rule with the inputs that it used, where each comes from, those it lacked, and what these would change."""

    rule: str
    document: str
    section: str
    inputs: dict[str, Any]
    missing: list[str] = Field(default_factory=list)
    origins: dict[str, Origin] = Field(default_factory=dict)
    would_change: dict[str, str] = Field(default_factory=dict)


Source = ImageRef | ReportSpan | RecordRef | PassageRef | RuleRef


class CoursePoint(Frozen):
    """One value of a course. `value` is None where it wasn't measured; `note` says why, or what the study was."""

    study: str
    date: str
    value: float | None
    interval: list[float] | None = None
    note: str = ""


class CourseLine(Frozen):
    """One lesion (L1), or the sum, through the studies."""

    name: str
    points: list[CoursePoint]


class Course(Frozen):
    """A quantity over time: what a curve and its table show. Lines have the same studies in the same order."""

    quantity: str
    unit: str
    lines: list[CourseLine]
    baseline: str | None = None
    nadir: str | None = None
    """Handles of the studies that changes are counted from."""


SOURCE_OF = {
    Kind.FINDING: ImageRef,
    Kind.MEASUREMENT: ImageRef,
    Kind.REPORT: ReportSpan,
    Kind.RECORD: RecordRef,
    Kind.GUIDELINE: PassageRef,
    Kind.RULE: RuleRef,
}


class Fact(Frozen):
    """A fact as a tool gives it, before the conversation numbers it."""

    kind: Kind
    title: str
    statement: str
    value: Any = None
    unit: str | None = None
    interval: list[float] | None = None
    """For a measurement: least and greatest value that the method's own doubt allows, in `unit`; the statement says how it was found."""
    code: Coding | None = None
    source: Source
    beside: list[ImageRef] = Field(default_factory=list)
    """The same place on other studies, earliest first, to be shown side by side with `source`."""
    course: Course | None = None
    """The values over time that the statement sums up."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not isinstance(self.source, SOURCE_OF[self.kind]):
            raise ValueError(f"a {self.kind} needs a {SOURCE_OF[self.kind].__name__} as its source")
        if self.kind is Kind.MEASUREMENT and (not isinstance(self.value, int | float) or not self.unit):
            raise ValueError("a measurement needs a number and a unit")
        return self


class Evidence(Fact):
    """A numbered fact (`E7` of its conversation) that a person can open at `href`."""

    id: str
    href: str

    @classmethod
    def of(cls, fact: Fact, number: int, scope: str) -> Self:
        """`fact` as evidence `number` of the conversation or tool run named `scope`."""
        name = f"E{number}"
        return cls(id=name, href=f"/v1/evidence/{scope}.{name}", **dict(fact))
