"""A response worksheet: lesions by studies, which are targets, and what the criteria say at each time point."""

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from knowledge.evidence import Frozen


class Criteria(StrEnum):
    """Response criteria, by the name of their rule."""

    RECIST = "recist_1_1"
    IRECIST = "irecist"
    RANO = "rano_2_0"
    MRECIST = "mrecist"
    LUGANO = "lugano_2014_ct"


class Role(StrEnum):
    """What a lesion counts as."""

    TARGET = "target"
    NON_TARGET = "non_target"
    NEW = "new"
    IGNORED = "ignored"
    """Not disease by the criteria (a node of normal size), or taken out by a reader."""


class State(StrEnum):
    """What was seen of a lesion on one study."""

    MEASURED = "measured"
    GONE = "gone"
    MERGED = "merged"
    """It grew together with another, which is measured for both."""
    NOT_COVERED = "not covered"
    NOT_YET = "not yet"
    """The lesion appeared later."""


class Size(Frozen):
    """One lesion on one study. Parts of a lesion that split are added up."""

    study: str
    state: State
    long_mm: float | None = None
    short_mm: float | None = None
    product_mm2: float | None = None
    volume_ml: float | None = None
    interval_mm: tuple[float, float] | None = None
    """Of the longest diameter: what the outline's doubt allows."""
    slices: int = 0
    slice_mm: float = 0.0
    parts: int = 1


class Lesion(Frozen):
    """A row of the worksheet."""

    name: str
    """L1, L2 … of the patient; it stays."""
    tracking_uid: str
    label: str
    organ: str
    node: bool
    measurable_kind: bool = True
    sizes: list[Size]
    """One for each study, in the order of the worksheet's studies."""
    role: Role = Role.IGNORED
    why: str = ""
    by: Literal["rules", "reader"] = "rules"

    def at(self, study: str) -> Size:
        """Its size on a study."""
        return next(s for s in self.sizes if s.study == study)


class TimePoint(Frozen):
    """One study by the criteria."""

    study: str
    date: str
    total: float | None
    """Sum of the targets, in the worksheet's `unit`; None where not all were seen."""
    baseline: float | None = None
    nadir: float | None = None
    """Smallest sum before this time point, baseline included."""
    category: str | None = None
    text: str = ""
    confirmed_by: str | None = None
    """Handle of a later study, four weeks or more after, that shows the same response or a better one."""
    values: dict[str, float] = Field(default_factory=dict)
    inputs: dict[str, Any] = Field(default_factory=dict)
    missing: list[str] = Field(default_factory=list)
    would_change: dict[str, str] = Field(default_factory=dict)


class DatedStudy(Frozen):
    """A study of the worksheet."""

    handle: str
    id: str
    date: str


class Worksheet(Frozen):
    """A response worksheet. `version` counts up with every change."""

    id: str
    patient_id: str
    criteria: Criteria
    created: str
    version: int = 1
    studies: list[DatedStudy]
    baseline: str
    """Handle of the study that changes are counted from."""
    measure: Literal["diameters", "volume"] = "diameters"
    """What is summed up; volumes for RANO alone."""
    lesions: list[Lesion]
    answers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """What images don't show, by study and fact: clinical state, steroids, non-target progression …"""
    points: list[TimePoint] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    """Where a reader's choice departs from the criteria, and conventions that a sum rests on."""

    @property
    def unit(self) -> str:
        """UCUM unit of the sums."""
        if self.measure == "volume":
            return "mL"
        return "mm2" if self.criteria in (Criteria.RANO, Criteria.LUGANO) else "mm"

    @property
    def nadir(self) -> TimePoint | None:
        """The time point of the smallest sum."""
        told = [p for p in self.points if p.total is not None]
        return min(told, key=lambda p: p.total or 0.0) if told else None

    @property
    def best(self) -> str | None:
        """Best category so far, unconfirmed."""
        told = [p.category for p in self.points if p.category]
        return min(told, key=rank) if told else None

    @property
    def best_confirmed(self) -> str | None:
        """Best response that a later study confirms; None where none is."""
        told = [p.category for p in self.points if p.category and p.confirmed_by]
        return min(told, key=rank) if told else None

    @property
    def newest(self) -> TimePoint | None:
        """The last time point."""
        return self.points[-1] if self.points else None


_ORDER = ("CR", "iCR", "CMR", "PR", "iPR", "MR", "SD", "iSD", "Non-CR/Non-PD", "NE", "iUPD", "preliminary PD", "PD", "iCPD")


def rank(category: str) -> int:
    """Place of a category from the best to the worst."""
    return _ORDER.index(category) if category in _ORDER else len(_ORDER)
