"""`retrieve_reports`: sentences of the patient's reports that speak of what is asked, word for word."""

import re
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from knowledge.evidence import Kind
from knowledge.records.model import Report
from knowledge.studies.which import body_part_of
from tools.base import Card, CaseTool, Cost, Missing, Needs, Reply
from tools.conflicts import quoted
from tools.urgent import urgent

Section = Literal[
    "INDICATION",
    "TECHNIQUE",
    "COMPARISON",
    "FINDINGS",
    "IMPRESSION",
    "CONCLUSION",
    "DIAGNOSIS",
    "RECOMMENDATION",
    "SPECIMEN",
    "MICROSCOPY",
]


class ReportArguments(BaseModel):
    """What to look for, in which reports."""

    model_config = ConfigDict(extra="forbid")
    query: str = Field(description="The subject to look for, in words.", min_length=1, max_length=2000)
    report: str | None = Field(None, description="Handle of one report (R1); left out: all.")
    last: bool = Field(False, description="True for the newest report alone.")
    month: str | None = Field(
        None, description="Only reports of this month, as 2024-05, or -01 for any January.", pattern=r"^(\d{4})?-?\d{2}$"
    )
    section: Section | None = Field(None, description="Only sentences under this heading, in whichever language it is written.")
    since: str | None = Field(
        None, description="Only reports from this date on (2024-05-31).", pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$"
    )
    until: str | None = Field(None, description="Only reports up to this date.", pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$")
    body_part: str | None = Field(None, max_length=40, description="Only reports on this body part (chest, brain …).")
    whole: bool = Field(
        False, description="True for what the reports say as a whole (conclusion or findings), whatever the query."
    )
    recommendations: bool = Field(False, description="True for what reports recommend or schedule, whatever the query.")
    emergencies: bool = Field(
        False,
        description="True for emergencies that the newest reports state (bleeding, herniation, embolism …), whatever the query.",
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
        "Which follow-up did the report recommend?",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs()
    gives: ClassVar[list[Kind]] = [Kind.REPORT]
    card: ClassVar[Card] = Card(
        intended_use="Finds sentences in the case's own reports.", accuracy="Scored on reports in five languages: docs/figures/eval.json.",
        limits="What a report says is quoted, with how it is asserted (stated, denied, with doubt); it isn't judged.", version="2",
    )  # fmt: skip
    cost: ClassVar[Cost] = Cost(seconds=0.05)

    def answer(self, arguments: ReportArguments) -> Reply:
        case = self.bench.required_case
        reports = [r for r in case.reports if _wanted(r, arguments)]
        if arguments.last and reports:
            reports = reports[-1:]
        if not reports:
            which = f" of {arguments.month}" if arguments.month else ""
            missing = Missing(what=f"a report{which}", why="the case holds none", would_change="it could be quoted")
            return Reply(text=f"The case holds no such report{which}.", missing=[missing])
        if arguments.emergencies:
            facts = urgent(case)
            return Reply(
                text="\n".join(f.statement for f in facts)
                or "The newest reports state none of the emergencies that are looked for.",
                facts=facts,
            )
        search = self.bench.resources.records
        if arguments.recommendations:
            hits = search.recommendations(reports)
        elif arguments.whole:
            hits = search.gist(reports)
        else:
            hits = search.sentences(arguments.query, reports, section=arguments.section)
        if not hits:
            read = ", ".join(f"{r.handle} ({r.date or 'undated'})" for r in reports)
            missing = Missing(what=f"a statement about: {arguments.query[:80]}", why=f"no sentence of {read} speaks of it",
                              would_change="it could be quoted")  # fmt: skip
            return Reply(text=f"No sentence of {read} speaks of it.", missing=[missing])
        facts = [quoted(h.report, h.sentence) for h in hits]
        return Reply(text="\n".join(f.statement for f in facts), facts=facts)


def _wanted(report: Report, asked: ReportArguments) -> bool:
    day = report.date or ""
    if asked.report and asked.report not in (report.handle, report.id):
        return False
    if asked.month:
        month = asked.month if asked.month[0].isdigit() and len(asked.month) > 2 else f"-{asked.month[-2:]}-"
        if month not in day:
            return False
    if (asked.since and day < asked.since) or (asked.until and (not day or day[: len(asked.until)] > asked.until)):
        return False
    if asked.body_part:
        part = asked.body_part.lower()
        named = body_part_of(f"{report.title} {report.text[:400]}").lower()
        return part in named or bool(re.search(rf"\b{re.escape(part)}", f"{report.title} {report.text[:400]}", re.I))
    return True
