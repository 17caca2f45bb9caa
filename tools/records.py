"""`patient_record`: values of the patient's record (FHIR, HL7), each with unit, date, trend, reference range and age; and what planning lacks."""

import re
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from knowledge.case import Case
from knowledge.evidence import Fact, Kind, RecordRef
from knowledge.guidelines.rules.base import specs
from knowledge.records.model import RecordItem
from knowledge.records.planning import Item, disease_of, needs
from knowledge.records.search import find_items
from knowledge.records.stated import stated
from tools.base import Card, CaseTool, Cost, Missing, Reply
from tools.conflicts import quoted
from tools.recorded import record_fact

MOST = 30


class RecordArguments(BaseModel):
    """Which values to look up, or what to plan."""

    model_config = ConfigDict(extra="forbid")
    topics: list[str] = Field(
        default_factory=list,
        description="Names of values or groups: creatinine, platelets, MGMT, IDH, KPS, molecular, laboratory, condition, "
        "medication, allergy, metastases …; age, sex; 'all' for every value.",
        max_length=20,
    )  # fmt: skip
    for_treatment_of: str | None = Field(
        None, max_length=100, description="A disease (or `this`, the one on record): what planning its treatment asks for, what of it is known, from where "
        "and how old, what is missing and what would change with it.",
    )  # fmt: skip
    unit: str | None = Field(None, max_length=20, description="UCUM unit in which numbers are wanted too (mg/dL).")


class PatientRecord(CaseTool):
    """Look-up in the structured record."""

    name: str = "patient_record"
    description: str = (
        "Look up values of the patient's record: laboratory, molecular markers, performance status, conditions, medication; and what is known "
        "and missing for planning treatment."
    )
    args_schema: type[BaseModel] = RecordArguments
    asks: ClassVar[list[str]] = [
        "What are the current labs?", "Is her kidney function good enough for gadolinium?", "What is the creatinine?",
        "What is the MGMT status?", "Which IDH status does this tumour have?", "What is the Karnofsky status?", "What are the platelets?",
        "Which medication does the patient take?", "Any allergies?", "Which diagnoses are known?", "Are there known metastases?",
        "What is missing to plan the treatment?", "What do we know and not know before the tumour board?", "How has the PSA changed?",
    ]  # fmt: skip
    gives: ClassVar[list[Kind]] = [Kind.RECORD, Kind.REPORT]
    card: ClassVar[Card] = Card(
        intended_use="Quotes the record's own values.", accuracy="As the record states it.",
        limits="The newest value of each name and how it changed; reads Observation, Condition, medication, allergy, procedure, variants, family "
        "history. Units that aren't known are shown, never converted.", version="2",
    )  # fmt: skip
    cost: ClassVar[Cost] = Cost(seconds=0.02)

    def answer(self, arguments: RecordArguments) -> Reply:
        case = self.bench.required_case
        if arguments.for_treatment_of is not None:
            return _planning(case, arguments.for_treatment_of)
        items = case.items
        wanted = arguments.topics or ["all"]
        found = _newest(items) if "all" in [w.lower() for w in wanted] else find_items(wanted, items)
        person = {w: _person(case, w.lower()) for w in wanted if w.lower() in _PERSON}
        facts = [f for f in person.values() if f] + [record_fact(i, case, arguments.unit) for i in found[:MOST]]
        unmet = [w for w in wanted if w.lower() != "all" and not person.get(w) and not find_items([w], items)]
        missing = [
            Missing(what=w, why="the record holds no such value" if items else "the case holds no structured record",
                    would_change=f"{w} could be taken into account")
            for w in unmet
        ]  # fmt: skip
        text = "\n".join(f.statement for f in facts) or f"The record holds nothing on {', '.join(wanted)}."
        return Reply(text=text, facts=facts, missing=missing)


_PERSON = ("age", "sex")
_SEX = {"F": "female", "M": "male", "O": "other"}
"""DICOM Patient's Sex (0010,0040), and FHIR's genders by their first letter."""


def _person(case: Case, what: str) -> Fact | None:
    """The patient's age in completed years at the newest entry of the case, or the sex; None where the archive doesn't hold it."""
    if what == "age" and case.age_years is not None:
        return Fact(kind=Kind.RECORD, title="Age", statement=f"The record gives age: {case.age_years} years at the newest entry of the case.", value=case.age_years,
                    unit="a", source=RecordRef(resource="Patient", path="birthDate"))  # fmt: skip
    if what == "sex" and case.patient.sex:
        word = _SEX.get(case.patient.sex[:1].upper(), case.patient.sex)
        return Fact(kind=Kind.RECORD, title="Sex", statement=f"The record gives sex: {word}.", value=word,
                    source=RecordRef(resource="Patient", path="gender"))  # fmt: skip
    return None


def _newest(items: list[RecordItem]) -> list[RecordItem]:
    seen: dict[str, RecordItem] = {}
    for item in items:
        seen.setdefault(item.name, item)
    return list(seen.values())


def _planning(case: Case, asked: str) -> Reply:
    """What is known for planning the treatment of a disease, from where and how old, and what is missing."""
    conditions = " ".join(i.name for i in case.items if i.category == "condition")
    titles = " ".join(r.text[:4000] for r in case.reports)
    disease = disease_of(asked, conditions, titles) if asked.lower() != "this" else disease_of(conditions, titles)
    if disease is None:
        missing = Missing(what="the disease", why="neither the question nor the record names one that is known here",
                          would_change=f"what its treatment asks for could be listed ({', '.join(needs())})")  # fmt: skip
        return Reply(text="No disease is named.", missing=[missing])
    facts: list[Fact] = []
    missing_items: list[Missing] = []
    for item in needs()[disease][1]:
        found = _known(case, item)
        if found is None:
            missing_items.append(Missing(what=item.name, why=f"neither record nor reports state it (planning treatment of {disease})",
                                         would_change=item.would_change))  # fmt: skip
        elif found.title != "age":
            facts.append(found)
    kept = list({f.statement: f for f in facts}.values())
    listed = "; ".join(m.what for m in missing_items) or "nothing on the list"
    text = "\n".join([*(f.statement for f in kept), f"Missing for planning the treatment of {disease}: {listed}."])
    return Reply(text=text, facts=kept, missing=missing_items)


def _known(case: Case, item: Item) -> Fact | None:
    if item.patient == "age":
        return Fact(kind=Kind.RECORD, title="age", statement="", value=case.age_years,
                    source=RecordRef(resource="Patient", path="birthDate")) if case.age_years is not None else None  # fmt: skip
    for one in case.items if item.record else []:
        words = f"{one.name} {one.category}"
        if re.search(item.record, words, re.I):
            return record_fact(one, case)
    wanted = next((s["facts"][item.report] for s in specs().values() if item.report in s["facts"]), None) if item.report else None
    told = stated(item.report or "", case.reports, wanted) if wanted is not None else None
    return quoted(told.report, told.sentence) if told is not None else None
