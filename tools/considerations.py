"""For and against each treatment that a computed guideline names, in this patient: organ function, markers, allergy, medication, earlier treatment, wishes."""

import re
from collections.abc import Iterator
from typing import Any

from knowledge.case import Case
from knowledge.evidence import Fact, Kind, Origin, RuleRef
from knowledge.records.model import RecordItem
from knowledge.records.reports import cut
from knowledge.records.units import convert, ucum
from knowledge.treatment.library import Look, Treatment, treatments
from tools.base import Missing
from tools.conflicts import quoted
from tools.recorded import record_fact

RULES_OF_TREATMENT = {"gbm_mgmt_stupp", "nsclc_first_line", "bclc_2022", "astro_brain_mets_2022"}
"""Computed guidelines that name treatments."""
_WISH = re.compile(
    r"\b(wish(?:es)?|prefers?|declines?|refus\w+|does not want|wants? to|would like|patient'?s? preference|wünscht|möchte|lehnt ab|souhaite|refuse|desea|rechaza|希望|拒绝)\b",
    re.I,
)
_NEEDED = {"platelets": r"platelet|thrombocyt", "neutrophils": r"neutrophil|leukocyte|white (blood )?cell", "allergies": r"allerg", "kidney function": r"creatinin|\begfr\b",
           "performance status": r"karnofsky|\becog\b|\bkps\b"}  # fmt: skip


def considered(case: Case, rule: str, advice: str, inputs: dict[str, Any]) -> tuple[list[Fact], list[Fact], list[Missing]]:
    """For each treatment that `advice` names: a fact of what speaks for and against it, the facts that these stand on, and what isn't known."""
    named = [t for t in treatments().values() if re.search(t.words, advice, re.I)]
    told: list[Fact] = []
    stands_on: list[Fact] = []
    missing: list[Missing] = []
    wishes = list(_wishes(case))
    for treatment in named:
        found = list(_looked(case, treatment, inputs))
        allergic = [
            (_allergy(treatment, i), record_fact(i, case))
            for i in case.items
            if i.category == "allergy" and re.search(treatment.words, i.name, re.I)
        ]
        stands_on += [f for _, f in [*found, *allergic] if f is not None]
        unknown = [n for n in treatment.need if not _known(case, n)]
        told.append(_as_fact(rule, treatment, [*allergic, *found], unknown, inputs))
        missing += [Missing(what=n, why=f"it isn't recorded, and counts for {treatment.label}", would_change=f"whether {treatment.label} can be given") for n in unknown]  # fmt: skip
    if named and not wishes:
        missing.append(
            Missing(
                what="what the patient wants",
                why="neither record nor reports state it",
                would_change="which option fits the patient",
            )
        )
    return told, [*stands_on, *wishes], list({m.what: m for m in missing}.values())


def _looked(case: Case, treatment: Treatment, inputs: dict[str, Any]) -> Iterator[tuple[Look, Fact | None]]:
    for look in treatment.looks:
        if look.kind == "input":
            if look.input in inputs and look.holds(inputs[look.input]):
                yield look, None
        elif look.kind == "lab":
            item = next((i for i in case.items if re.search(look.item, i.name, re.I) and isinstance(i.value, int | float)), None)
            value = convert(float(item.value), item.unit, ucum(look.unit)) if item is not None else None
            if item is not None and value is not None and look.holds(value):
                yield look, record_fact(item, case)
        else:
            item = next((i for i in case.items if _of_kind(i, look.kind) and re.search(look.words, i.name, re.I)), None)
            if item is not None:
                yield look, record_fact(item, case)


def _of_kind(item: RecordItem, kind: str) -> bool:
    kinds = {"condition": ("condition",), "medication": ("medication",), "given": ("procedure", "medication", "treatment")}[kind]
    return item.category in kinds and item.status not in ("inactive", "entered-in-error", "refuted")


def _allergy(treatment: Treatment, item: RecordItem) -> Look:
    return Look(kind="condition", effect="against", say=f"an allergy is recorded: {item.name}", source="the record")


def _known(case: Case, need: str) -> bool:
    pattern = _NEEDED.get(need)
    if pattern is None:
        return False
    return any(re.search(pattern, f"{i.name} {i.category}", re.I) for i in case.items)


def _wishes(case: Case) -> Iterator[Fact]:
    """Sentences of reports and letters that state what the patient wants, the newest first."""
    for report in sorted(case.reports, key=lambda r: r.date or "", reverse=True):
        for sentence in cut(report.text):
            if _WISH.search(sentence.text) and re.search(r"\b(patient|she|he|they|family)\b|患者|病人", sentence.text, re.I):
                yield quoted(report, sentence)


def _as_fact(
    rule: str, treatment: Treatment, found: list[tuple[Look, Fact | None]], unknown: list[str], inputs: dict[str, Any]
) -> Fact:
    parts = {effect: "; ".join(look.say for look, _ in found if look.effect == effect) for effect in ("for", "against", "note")}
    statement = (
        f"{treatment.label[0].upper()}{treatment.label[1:]}, in this patient. For: {parts['for'] or 'nothing that is recorded'}. "
    )
    statement += f"Against: {parts['against'] or 'nothing that is recorded'}."
    statement += f" To weigh: {parts['note']}." if parts["note"] else ""
    statement += f" Not known: {', '.join(unknown)}." if unknown else ""
    unchecked = sum(1 for look, _ in found if not look.checked)
    statement += (
        f" Of these points {unchecked} stand{'s' * (unchecked == 1)} on field knowledge that wasn't looked up."
        if unchecked
        else ""
    )
    statement += " For the board to decide."
    origins = {look.input: Origin(kind="question") for look, _ in found if look.kind == "input"}
    value = {"category": treatment.label, "recommendation": "", "values": {}, "checked": unchecked == 0,
             "points": [{"effect": look.effect, "say": look.say, "source": look.source, "checked": look.checked} for look, _ in found], "unknown": unknown}  # fmt: skip
    return Fact(kind=Kind.RULE, title=f"For and against: {treatment.label}", statement=statement, value=value,
                source=RuleRef(rule=rule, document="Consilium: what speaks for and against a treatment, version 1", section=treatment.label,
                               inputs={n: inputs[n] for n in origins}, missing=unknown, origins=origins))  # fmt: skip
