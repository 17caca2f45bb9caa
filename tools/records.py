"""`patient_record`: values of the patient's structured record (FHIR), each with unit, date and path."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from knowledge.evidence import Fact, Kind, RecordRef
from knowledge.records.model import RecordItem, spelled
from knowledge.records.search import find_items
from tools.base import Card, CaseTool, Cost, Missing, Reply

MOST = 30


class RecordArguments(BaseModel):
    """Which values to look up."""

    model_config = ConfigDict(extra="forbid")
    topics: list[str] = Field(
        description="Names of values or groups: creatinine, platelets, MGMT, IDH, KPS, molecular, laboratory, condition, "
        "medication, allergy, metastases …; 'all' for everything.",
        min_length=1, max_length=20,
    )  # fmt: skip


class PatientRecord(CaseTool):
    """Look-up in the structured record."""

    name: str = "patient_record"
    description: str = (
        "Look up values of the patient's record: laboratory, molecular markers, performance status, conditions, medication."
    )
    args_schema: type[BaseModel] = RecordArguments
    asks: ClassVar[list[str]] = [
        "What are the current labs?", "Is her kidney function good enough for gadolinium?", "What is the creatinine?",
        "What is the MGMT status?", "Which IDH status does this tumour have?", "What is the Karnofsky status?", "What are the platelets?",
        "Which medication does the patient take?", "Any allergies?", "Which diagnoses are known?", "Are there known metastases?",
    ]  # fmt: skip
    gives: ClassVar[list[Kind]] = [Kind.RECORD]
    card: ClassVar[Card] = Card(
        intended_use="Quotes the record's own values.", accuracy="As the record states it.",
        limits="The newest value of each name; reads Observation, Condition, medication, allergy, procedure.",
    )  # fmt: skip
    cost: ClassVar[Cost] = Cost(seconds=0.02)

    def answer(self, arguments: RecordArguments) -> Reply:
        items = self.bench.required_case.items
        wanted = arguments.topics
        found = _newest(items) if "all" in [w.lower() for w in wanted] else find_items(wanted, items)
        facts = [_fact(i) for i in found[:MOST]]
        unmet = [w for w in wanted if w.lower() != "all" and not find_items([w], items)]
        missing = [
            Missing(what=w, why="the record holds no such value" if items else "the case holds no structured record",
                    would_change=f"{w} could be taken into account")
            for w in unmet
        ]  # fmt: skip
        text = "\n".join(f.statement for f in facts) or f"The record holds nothing on {', '.join(wanted)}."
        return Reply(text=text, facts=facts, missing=missing)


def _newest(items: list[RecordItem]) -> list[RecordItem]:
    seen: dict[str, RecordItem] = {}
    for item in items:
        seen.setdefault(item.name, item)
    return list(seen.values())


def _fact(item: RecordItem) -> Fact:
    when = f" ({item.date})" if item.date else ""
    if item.value is None:
        status = f", {item.status}" if item.status else ""
        statement = f"The record lists the {item.category} {item.name}{status}{when}."
    else:
        statement = f"The record gives {item.name}: {item.value}{spelled(item.unit)}{when}."
    code = item.codes[0] if item.codes else None
    return Fact(kind=Kind.RECORD, title=item.name, statement=statement, value=item.value if item.value is not None else item.name,
                unit=item.unit, code=code, source=RecordRef(resource=item.resource, path=item.path, date=item.date))  # fmt: skip
