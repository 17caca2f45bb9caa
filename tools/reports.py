"""`retrieve_reports`: sentences of the patient's reports that speak of what is asked, word for word."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from knowledge.evidence import Fact, Kind, ReportSpan
from knowledge.records.model import Report
from knowledge.records.reports import Sentence
from tools.base import Card, CaseTool, Cost, Missing, Needs, Reply


class ReportArguments(BaseModel):
    """What to look for, in which reports."""

    model_config = ConfigDict(extra="forbid")
    query: str = Field(description="The subject to look for, in words.", min_length=1, max_length=2000)
    report: str | None = Field(None, description="Handle of one report (R1); left out: all.")
    last: bool = Field(False, description="True for the newest report alone.")
    month: str | None = Field(
        None, description="Only reports of this month, as 2024-05, or -01 for any January.", pattern=r"^(\d{4})?-?\d{2}$"
    )


class RetrieveReports(CaseTool):
    """Report retrieval by meaning and words."""

    name: str = "retrieve_reports"
    description: str = "Find what the patient's reports say about a subject; gives sentences word for word with their place."
    args_schema: type[BaseModel] = ReportArguments
    asks: ClassVar[list[str]] = [
        "What did the last report say about the left ventricle?", "What does the report mention?", "Is it described in the report?",
        "Quote the findings of the previous report", "What did the radiologist write about the midline?",
        "What does the pathology report say?", "Was there oedema according to the report?", "What was the impression?",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs()
    gives: ClassVar[list[Kind]] = [Kind.REPORT]
    card: ClassVar[Card] = Card(
        intended_use="Finds sentences in the case's own reports.", accuracy="Tests on the sample reports; no larger evaluation yet.",
        limits="English reports best; what a report says is quoted, not judged.",
    )  # fmt: skip
    cost: ClassVar[Cost] = Cost(seconds=0.05)

    def answer(self, arguments: ReportArguments) -> Reply:
        case = self.bench.required_case
        reports: list[Report] = case.reports
        if arguments.report:
            reports = [r for r in reports if arguments.report in (r.handle, r.id)]
        if arguments.month:
            month = arguments.month if arguments.month[0].isdigit() and len(arguments.month) > 2 else f"-{arguments.month[-2:]}-"
            reports = [r for r in reports if month in (r.date or "")]
        if arguments.last and reports:
            reports = reports[-1:]
        if not reports:
            which = f" of {arguments.month}" if arguments.month else ""
            missing = Missing(what=f"a report{which}", why="the case holds none", would_change="it could be quoted")
            return Reply(text=f"The case holds no such report{which}.", missing=[missing])
        hits = self.bench.resources.records.sentences(arguments.query, reports)
        if not hits:
            read = ", ".join(f"{r.handle} ({r.date or 'undated'})" for r in reports)
            missing = Missing(what=f"a statement about: {arguments.query[:80]}", why=f"no sentence of {read} speaks of it",
                              would_change="it could be quoted")  # fmt: skip
            return Reply(text=f"No sentence of {read} speaks of it.", missing=[missing])
        facts = [_fact(h.report, h.sentence) for h in hits]
        return Reply(text="\n".join(f.statement for f in facts), facts=facts)


def _fact(report: Report, sentence: Sentence) -> Fact:
    section = sentence.section or "text"
    text, start, end = sentence.text, sentence.start, sentence.end
    when = report.date or "undated"
    statement = f'The report {report.handle} of {when} states under {section.lower()}: "{text}"'
    return Fact(kind=Kind.REPORT, title=f"{report.title}, {when}", statement=statement, value=text,
                source=ReportSpan(record_id=report.id, section=section, start=start, end=end))  # fmt: skip
