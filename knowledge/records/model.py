"""Records as the rest of the house sees them."""

import hashlib
from typing import Any

from pydantic import Field

from knowledge.evidence import Coding, Frozen


class Report(Frozen):
    """A report's text, kept word for word; spans count its characters."""

    id: str
    handle: str = ""
    patient_id: str
    title: str
    date: str | None
    text: str
    note: str = ""


class RecordItem(Frozen):
    """One value of a FHIR resource, with where it stands."""

    id: str
    patient_id: str
    resource: str
    path: str
    name: str
    codes: list[Coding] = Field(default_factory=list)
    value: Any = None
    unit: str | None = None
    date: str | None = None
    status: str | None = None
    category: str
    low: float | None = None
    high: float | None = None
    """Reference range, in `unit`."""
    interpretation: str | None = None
    """The laboratory's own word for it (high, low, positive …), where it gives one."""


class Record(Frozen):
    """What an upload answers about one report or bundle."""

    id: str
    kind: str
    title: str
    date: str | None
    patient_id: str
    items: int = 1


def item_id(*parts: str) -> str:
    """A stable name for a value, made from where it stands and what it says."""
    return f"ri_{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:12]}"


def spelled(unit: str | None) -> str:
    """A UCUM unit as people write it, with a space before it; empty for none."""
    for ucum, written in (("{1.73_m2}", "1.73 m²"), ("umol", "µmol"), ("10*9", "10⁹"), ("10*3", "10³")):
        unit = unit.replace(ucum, written) if unit else unit
    return f" {unit}" if unit else ""
