"""`check_report`: a report held against itself, the images, earlier reports, the record and the computed guidelines."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from knowledge.case import Case
from knowledge.evidence import Fact, Kind, ReportSpan
from knowledge.records.model import Report
from knowledge.records.reports import cut, date_of
from knowledge.reporting.drafts import CheckedReport, new_id, now
from knowledge.studies.model import Study
from tools.base import Card, CaseTool, Cost, Made, Missing, Needs, Reply, Said
from tools.errors import NotApplicable, TryAgain
from tools.recorded import record_fact
from tools.reporting.checks import issues
from tools.reporting.checks.advice import as_report
from tools.reporting.checks.model import Context, Issue
from tools.reporting.gathering import Gathered, newest_study, on_images, study_of

CLEAN = "Nothing in the report contradicts itself, the images, earlier reports or the record, as far as that can be checked."


class CheckArguments(BaseModel):
    """Which report."""

    model_config = ConfigDict(extra="forbid")
    text: str | None = Field(
        None, max_length=20_000, description="The report's words, where they are given; left out: a report of the case."
    )
    report: str | None = Field(
        None, max_length=40, description="Handle of a report of the case (R1), or a draft's id; left out: the newest."
    )
    study: str | None = Field(
        None, max_length=40, description="Handle of the study that it is on (S1); left out: the one of its date, or the newest."
    )


class CheckReport(CaseTool):
    """Report quality."""

    name: str = "check_report"
    description: str = (
        "Check a report for mistakes: side, size, unit, count and date mismatches inside it and against images, earlier reports and the record; "
        "contradictions; findings of the image tools that it doesn't address; missing sections; unclear or non-guideline advice; critical "
        "results that aren't marked; sentences copied forward. Give the words as text, or a report's handle."
    )
    args_schema: type[BaseModel] = CheckArguments
    asks: ClassVar[list[str]] = [
        "Check my report against the images", "Proofread this report", "Is my report consistent?", "Are there errors in this report?",
        "Does the report match the images?", "Review the draft report for mistakes", "Is the side right in my report?", "Is anything missing in this report?",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs()
    gives: ClassVar[list[Kind]] = [Kind.REPORT, Kind.FINDING, Kind.MEASUREMENT, Kind.RECORD, Kind.RULE]
    card: ClassVar[Card] = Card(
        intended_use="Points of a report that its author should look at again before signing.",
        accuracy="Scored by kind on reports with planted errors, beside a plain rule list: docs/figures/field-work.json (check_report).",
        limits="It reads words by patterns in five languages and sees on images what the image tools see. An error that contradicts nothing isn't found; "
        "a point isn't always an error.",
    )  # fmt: skip
    cost: ClassVar[Cost] = Cost(seconds=8, memory_mb=2000)

    def answer(self, arguments: CheckArguments) -> Reply:
        case = self.bench.required_case
        number = new_id("k")
        report = self._report(case, arguments, number)
        study = _study(case, arguments.study, report)
        found = on_images(self.bench, study, compare=False) if study is not None else Gathered()
        context = Context(
            report=report, case=case, study=study, image_facts=found.of("detect", "segment", "measure"),
            priors=[r for r in case.reports if r.id != report.id and r.text.strip() != report.text.strip()],
            records=[record_fact(i, case) for i in case.items[:60]], rules=self.bench.resources.rules, age_years=case.age_years, sex=case.patient.sex,
        )  # fmt: skip
        return self._told(case, context, issues(context), found, number)

    def _report(self, case: Case, arguments: CheckArguments, number: str) -> Report:
        """The report under check, kept under the check's name so that its spans open."""
        if arguments.text is not None:
            if not arguments.text.strip():
                raise TryAgain("the text is empty", "give the report's words, or a handle")
            study = study_of(case, arguments.study)
            return as_report(arguments.text, number, case.patient.id, date_of(arguments.text) or (study.date if study else None))
        if arguments.report and arguments.report.startswith("d_"):
            draft = self.bench.resources.drafts.get(arguments.report)
            if draft.patient_id != case.patient.id:
                raise TryAgain("this draft isn't of the case", "name a draft or report of the case")
            text = "\n\n".join(f"{p}:\n" + " ".join(s.text for s in draft.part(p)) for p in ("INDICATION", "TECHNIQUE", "COMPARISON", "FINDINGS", "IMPRESSION")
                               if draft.part(p))  # type: ignore[arg-type]  # fmt: skip
            return as_report(text, number, case.patient.id, draft.study_date)
        chosen = [r for r in case.reports if arguments.report in (None, r.handle, r.id)]
        if not chosen and arguments.report:
            raise TryAgain(
                f"{arguments.report!r} is no report of this case",
                f"use one of {[r.handle for r in case.reports]}, or give the text",
            )
        if not chosen:
            raise NotApplicable("the case holds no report to check", "paste its words")
        return chosen[-1]

    def _told(self, case: Case, context: Context, found: list[Issue], looked: Gathered, number: str) -> Reply:
        facts: list[Fact] = []
        said: list[Said] = []
        rows: list[dict[str, Any]] = []
        report = context.report
        for issue in found:
            mine = [_point(report, issue), *([_span(report, *issue.other)] if issue.other else []), *issue.facts]
            numbers = [_number(facts, f) for f in mine]
            said.append(Said(text=mine[0].statement, facts=numbers))
            rows.append(
                {**issue.model_dump(include={"kind", "severity", "start", "end", "message", "suggestion"}), "evidence": numbers}
            )
        if not found:
            facts.append(_whole(report))
            said.append(Said(text=CLEAN, facts=[0]))
        kept = self.bench.resources.drafts.keep_check(
            CheckedReport(id=number, patient_id=case.patient.id, report=report, created=now(), issues=rows, facts=facts)
        )
        missing = [Missing(what=f"{tool} on {context.study.handle if context.study else 'the images'}", why=why,
                           would_change="the report could be held against it") for tool, why in looked.unfit.items()]  # fmt: skip
        text = "\n".join(s.text for s in said) or CLEAN
        return Reply(
            text=text, facts=facts, said=said, missing=missing[:4], made=Made(kind="check", id=kept.id, title=report.title)
        )


def _number(facts: list[Fact], fact: Fact) -> int:
    if fact not in facts:
        facts.append(fact)
    return facts.index(fact)


def _point(report: Report, issue: Issue) -> Fact:
    """An issue as a fact: it opens at its words in the report."""
    words = " ".join(report.text[issue.start : issue.end].split())
    advice = f" Suggested: {' '.join(issue.suggestion.split())}" if issue.suggestion else ""
    return Fact(kind=Kind.REPORT, title=f"Check: {issue.kind}", statement=f'{issue.kind.capitalize()} ({issue.severity}), at "{words}": {issue.message}{advice}',
                value={"kind": issue.kind, "severity": issue.severity, "message": issue.message, "suggestion": issue.suggestion, "words": words},
                source=_place(report, issue.start, issue.end))  # fmt: skip


def _whole(report: Report) -> Fact:
    return Fact(
        kind=Kind.REPORT,
        title="Check: no issue",
        statement=CLEAN,
        value={"kind": "none"},
        source=_place(report, 0, len(report.text)),
    )


def _place(report: Report, start: int, end: int) -> ReportSpan:
    section = next((s.section for s in cut(report.text) if s.start <= start < s.end), "") or "text"
    return ReportSpan(record_id=report.id, section=section, start=start, end=max(end, start + 1))


def _span(report: Report, start: int, end: int) -> Fact:
    words = " ".join(report.text[start:end].split())
    return Fact(kind=Kind.REPORT, title=f"{report.title}, {report.date or 'undated'}", statement=f'The report under check has: "{words}"', value=words,
                source=_place(report, start, end))  # fmt: skip


def _study(case: Case, handle: str | None, report: Report) -> Study | None:
    if handle:
        return case.study(handle.split(".")[0])
    same = [s for s in case.studies if s.date and s.date == report.date and set(s.image_modalities) - {"SR"}]
    return same[0] if same else newest_study(case)
