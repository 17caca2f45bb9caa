"""Where sources of one case disagree: image tool against report, record against report. Each clash carries the evidence of both sides."""

import re
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

from knowledge.case import Case
from knowledge.evidence import Fact, Frozen, ImageRef, Kind, RecordRef, ReportSpan
from knowledge.records.model import Report
from knowledge.records.reading import Size, certainty_of, dated, read
from knowledge.records.reports import Sentence, cut
from knowledge.records.stated import stated
from tools.concepts import LESION, LONG_AXIS, WHOLE_TUMOUR

DAYS = 14
"""A report this near to a study's date speaks of it, where it isn't tied to another."""
DIFFERENT_MM, DIFFERENT = 5.0, 0.25
"""Sizes differ when they are both 5 mm and a quarter apart, beyond the measurement's own interval: the change that RECIST 1.1 asks at least for
progression is 5 mm, and a quarter is what RANO 2.0 counts in products."""
_LESION = re.compile(
    r"\bmass(es)?\b|\blesions?\b|\btumou?rs?\b|\bnodules?\b|\bmetastas|\bglioma|\braumforderung|\bläsion|\bmasse\b|\blésion|\blesión|\bmasa\b|肿块|病灶|占位|肿瘤",
    re.I,
)
_COUNT = {"no": 0, "one": 1, "single": 1, "solitary": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "zwei": 2, "drei": 3, "deux": 2,
          "trois": 3, "dos": 2, "tres": 3}  # fmt: skip
_COUNTED = re.compile(
    rf"\b({'|'.join(_COUNT)}|\d{{1,2}})\s+(?:\w+[\s-]+){{0,3}}?(?:lesions?|masses|mass|nodules?|metastas[ei]s|tumou?rs?)\b", re.I
)


class Clash(Frozen):
    """Two sources that disagree, in a sentence, with the facts of both."""

    statement: str
    facts: list[Fact]


def clashes(case: Case, facts: list[Fact], written: Sequence[Report] | None = None) -> list[Clash]:
    """What of `facts` (a tool's) the case's other sources contradict; `written`: these reports alone, whatever their date."""
    found: list[Clash] = []
    for fact in facts:
        if isinstance(fact.source, ImageRef):
            found += _with_reports(case, fact, fact.source, written)
        elif isinstance(fact.source, RecordRef):
            found += _record_and_report(case.reports if written is None else written, fact)
    return list({c.statement: c for c in found}.values())


def _with_reports(case: Case, fact: Fact, source: ImageRef, written: Sequence[Report] | None) -> Iterator[Clash]:
    study = next((s for s in case.studies if s.id == source.study_id), None)
    if study is None or fact.code is None:
        return
    for report in reports_near(case, study.date) if written is None else written:
        for sentence in _about_lesions(report):
            if fact.kind is Kind.MEASUREMENT and fact.code.code == LONG_AXIS.code and fact.title == "Longest axial diameter":
                yield from _size(fact, study.handle, study.date, report, sentence)
            elif fact.kind is Kind.FINDING and fact.code.code == WHOLE_TUMOUR.code and isinstance(fact.value, dict):
                yield from _side(fact, study.handle, report, sentence)
            elif fact.kind is Kind.FINDING and fact.code.code == LESION.code and isinstance(fact.value, dict):
                yield from _count(fact, study.handle, report, sentence)


def reports_near(case: Case, day: str | None) -> list[Report]:
    """Reports that may speak of an examination of that day."""
    return [r for r in case.reports if day and r.date and apart(r.date, day) <= DAYS]


def apart(one: str, other: str) -> int:
    """Days between two dates; a huge number where one isn't whole."""
    try:
        return abs((date.fromisoformat(one[:10]) - date.fromisoformat(other[:10])).days)
    except ValueError:
        return 10**6


def _about_lesions(report: Report) -> list[Sentence]:
    kept = [s for s in cut(report.text) if s.part in ("", "FINDINGS", "IMPRESSION", "CONCLUSION")]
    return [s for s in kept if (m := _LESION.search(s.text)) and certainty_of(s.text, m.start(), m.end()) != "negated"]


def _size(fact: Fact, handle: str, day: str | None, report: Report, sentence: Sentence) -> Iterator[Clash]:
    said: list[Size] = [s for s in read(sentence.text).sizes if s.mm and not s.prior]
    if not said or not isinstance(fact.value, int | float):
        return
    stated_mm = max(s.mm[0] for s in said)
    low, high = fact.interval or [fact.value, fact.value]
    gap = max(low - stated_mm, stated_mm - high)
    if gap > DIFFERENT_MM and gap > DIFFERENT * max(stated_mm, float(fact.value)):
        words = (f"The outline on study {handle} ({day}) measures {fact.value:g} mm across, the report {report.handle} of {report.date} states "
                 f"{stated_mm:g} mm.")  # fmt: skip
        yield Clash(statement=words, facts=[fact, quoted(report, sentence)])


def _side(fact: Fact, handle: str, report: Report, sentence: Sentence) -> Iterator[Clash]:
    side = fact.value.get("side")
    named = read(sentence.text).sides
    if (
        side in ("left", "right")
        and not fact.value.get("crosses_midline")
        and named
        and side not in named
        and named <= {"left", "right"}
    ):
        words = (f"The outline on study {handle} lies on the {side}, the report {report.handle} of {report.date} speaks of the "
                 f"{' and '.join(sorted(named))}.")  # fmt: skip
        yield Clash(statement=words, facts=[fact, quoted(report, sentence)])


def _count(fact: Fact, handle: str, report: Report, sentence: Sentence) -> Iterator[Clash]:
    count = fact.value.get("count")
    match = _COUNTED.search(sentence.text)
    if count is None or match is None:
        return
    word = match.group(1).lower()
    told = _COUNT.get(word, int(word) if word.isdigit() else None)
    if told is not None and told != count:
        words = (f"The detector marks {count} lesion{'' if count == 1 else 's'} on study {handle}, the report {report.handle} of {report.date} "
                 f"states {told}.")  # fmt: skip
        yield Clash(statement=words, facts=[fact, quoted(report, sentence)])


# what a record's value may be called, the fact that a report states of it, and how the record's words read as that fact
_STATUS: list[tuple[str, str, dict[str, Any], list[tuple[str, Any]]]] = [
    (r"\bidh", "idh_status", {"type": "enum", "values": ["mutant", "wildtype"]},
     [(r"wild|not detected|negative", "wildtype"), (r"mutant|mutat|positive|detected", "mutant")]),
    (r"\bmgmt", "mgmt_status", {"type": "enum", "values": ["methylated", "unmethylated"]},
     [(r"unmethylated|not methylated", "unmethylated"), (r"methylated", "methylated")]),
    (r"karnofsky|\bkps\b", "kps", {"type": "integer", "minimum": 0, "maximum": 100}, []),
    (r"\becog\b", "ecog_ps", {"type": "integer", "minimum": 0, "maximum": 4}, []),
    (r"bi-?rads", "assessment_category", {"type": "enum", "values": ["0", "1", "2", "3", "4A", "4B", "4C", "5", "6"]},
     [(rf"\b{c}\b", c.upper()) for c in ("0", "1", "2", "3", "4a", "4b", "4c", "5", "6")]),
]  # fmt: skip


_DONE = re.compile(
    r"resection|biops|craniotom|radiotherap|lobectom|nephrectom|mastectom|prostatectom|hepatectom|transplant|ablation|chemoemboli",
    re.I,
)


def _done_when(reports: Sequence[Report], fact: Fact) -> Iterator[Clash]:
    """A procedure's date in the record against the date that a report gives of the same procedure."""
    match = _DONE.search(fact.title)
    day = fact.source.date if isinstance(fact.source, RecordRef) else None
    if match is None or not day or len(day) < 10:
        return
    for report in reports:
        for sentence in cut(report.text):
            there = re.search(re.escape(match.group()), sentence.text, re.I)
            told = dated(sentence.text) if there else []
            if len(told) == 1 and told[0] != day[: len(told[0])]:
                words = f"The record dates {fact.title} {day}, the report {report.handle} of {report.date or 'undated'} gives {told[0]}."
                yield Clash(statement=words, facts=[fact, quoted(report, sentence)])


def _record_and_report(reports: Sequence[Report], fact: Fact) -> Iterator[Clash]:
    yield from _done_when(reports, fact)
    for pattern, name, wanted, readings in _STATUS:
        if not re.search(pattern, fact.title, re.I):
            continue
        if readings:
            recorded = next((value for words, value in readings if re.search(words, str(fact.value), re.I)), None)
        else:
            number = re.search(r"\d+", str(fact.value))
            recorded = int(number.group()) if number else None
        told = stated(name, reports, wanted)
        if recorded is not None and told is not None and told.value != recorded:
            day = f" ({fact.source.date})" if isinstance(fact.source, RecordRef) and fact.source.date else ""
            words = (f"The record gives {fact.title} {fact.value}{day}, the report {told.report.handle} of {told.report.date or 'undated'} states "
                     f"{str(told.value).replace('_', ' ')}.")  # fmt: skip
            yield Clash(statement=words, facts=[fact, quoted(told.report, told.sentence)])


_HOW = {"affirmed": "states under", "negated": "denies under", "uncertain": "states with doubt under"}


def quoted(report: Report, sentence: Sentence) -> Fact:
    """A sentence of a report as a fact: word for word, with how it is asserted."""
    section = sentence.section or "text"
    when = report.date or "undated"
    how = _HOW[read(sentence.text).certainty]
    statement = f'The report {report.handle} of {when} {how} {section.lower()}: "{sentence.text}"'
    return Fact(kind=Kind.REPORT, title=f"{report.title}, {when}", statement=statement, value=sentence.text,
                source=ReportSpan(record_id=report.id, section=section, start=sentence.start, end=sentence.end))  # fmt: skip
