"""What a check sees, and what it says."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from knowledge.case import Case
from knowledge.evidence import Fact, Frozen
from knowledge.guidelines.rulebook import RuleBook
from knowledge.language import language_of
from knowledge.records.model import Report
from knowledge.records.reports import Sentence, cut
from knowledge.studies.model import Study
from tools.reporting.checks.mentions import Mention, mentions

Kind = Literal["side", "size", "unit", "count", "date", "patient", "contradiction", "unaddressed", "section", "recommendation", "critical", "copied",
               "record"]  # fmt: skip
Severity = Literal["critical", "major", "minor"]
BODY = ("", "FINDINGS", "IMPRESSION", "CONCLUSION", "DIAGNOSIS", "RECOMMENDATION")
"""Sections that state what was found."""
CLOSING = ("IMPRESSION", "CONCLUSION", "DIAGNOSIS")
"""Sections that conclude."""


class Issue(Frozen):
    """One point of a report. Characters [start, end) are the report's; `facts` are what it was held against."""

    kind: Kind
    severity: Severity
    start: int
    end: int
    message: str
    suggestion: str = ""
    """Wording that would settle it; empty where only a reader can say."""
    facts: list[Fact] = []
    other: tuple[int, int] | None = None
    """The other place in the same report, for what contradicts itself."""


@dataclass(frozen=True)
class Context:
    """A report under check, with what it is held against."""

    report: Report
    case: Case | None = None
    study: Study | None = None
    image_facts: Sequence[Fact] = ()
    priors: Sequence[Report] = ()
    records: Sequence[Fact] = ()
    rules: RuleBook = field(default_factory=RuleBook)
    age_years: int | None = None
    sex: str | None = None

    @cached_property
    def language(self) -> str:
        """The report's language."""
        return language_of(self.report.text[:2000])

    @cached_property
    def sentences(self) -> tuple[Sentence, ...]:
        """All its sentences."""
        return cut(self.report.text)

    @cached_property
    def body(self) -> list[Sentence]:
        """The sentences that state what was found."""
        head = re.compile(
            r"^(note|examination|exam|study|date|patient|untersuchung|datum|examen|fecha|检查项目|日期)\s*[:：]", re.I
        )
        return [s for s in self.sentences if s.part in BODY and not (s.part == "" and head.match(s.text))]

    @cached_property
    def mentions(self) -> list[Mention]:
        """What its body speaks of, sentence by sentence."""
        return [m for s in self.body for m in mentions(s, self.language)]

    @property
    def closing(self) -> list[Mention]:
        """What its conclusion speaks of."""
        return [m for m in self.mentions if m.sentence.part in CLOSING]

    @property
    def opening(self) -> list[Mention]:
        """What stands before the conclusion."""
        return [m for m in self.mentions if m.sentence.part not in CLOSING]
