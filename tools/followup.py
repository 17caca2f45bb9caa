"""`follow_up`: follow-ups that reports recommend, when they are due, by the report and by the computed guideline, and which are overdue."""

from collections.abc import Iterator
from datetime import date
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from knowledge.case import Case
from knowledge.evidence import Fact, Kind, Origin, RuleRef
from knowledge.guidelines.rulebook import RuleBook
from knowledge.records.followups import FollowUp, follow_ups
from knowledge.records.model import Report
from tools.base import Card, CaseTool, Cost, Missing, Needs, Reply, Said
from tools.conflicts import quoted
from tools.reporting.checks.advice import nodule_advice
from tools.reporting.checks.model import Context


class FollowUpArguments(BaseModel):
    """Which follow-ups."""

    model_config = ConfigDict(extra="forbid")
    open_only: bool = Field(False, description="True for those that aren't done.")


class FollowUpTool(CaseTool):
    """Follow-up safety net."""

    name: str = "follow_up"
    description: str = (
        "List the follow-ups that the patient's reports recommend, with due date, whether they were done, are due or overdue, and what the computed guideline "
        "says of the same nodule."
    )
    args_schema: type[BaseModel] = FollowUpArguments
    asks: ClassVar[list[str]] = [
        "Which follow-ups are overdue?", "Is any recommended follow-up outstanding?", "Was the recommended follow-up done?", "What follow-up is still due?",
        "Did we miss a recommended scan?", "When is the recommended control due?",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs()
    gives: ClassVar[list[Kind]] = [Kind.REPORT, Kind.RULE]
    card: ClassVar[Card] = Card(
        intended_use="A list against forgotten follow-ups.",
        accuracy="Scored on written reports in five languages (docs/figures/field-work.json.follow_up).",
        limits="An examination of the same part by the same modality counts as the follow-up, whatever it was done for; one done elsewhere isn't known.",
    )  # fmt: skip
    cost: ClassVar[Cost] = Cost(seconds=0.1)

    def answer(self, arguments: FollowUpArguments) -> Reply:
        case = self.bench.required_case
        found = follow_ups(case.reports, case.studies, self.bench.today())
        found = [f for f in found if not arguments.open_only or f.status != "done"]
        if not found:
            missing = Missing(what="a recommended follow-up", why="no dated report of the case recommends one that is open" if case.reports else "the case holds no report",
                              would_change="its due date would be watched")  # fmt: skip
            return Reply(text="No report of the case recommends a follow-up that is open.", missing=[missing])
        facts: list[Fact] = []
        said: list[Said] = []
        for one in found:
            mine = [
                due_fact(one, self.bench.today()),
                quoted(one.report, one.sentence),
                *by_rule(case, one.report, self.bench.resources.rules),
            ]
            numbers = list(range(len(facts), len(facts) + len(mine)))
            facts += mine
            said.append(Said(text=mine[0].statement, facts=numbers[:2]))
            said += [Said(text=f.statement, facts=[n]) for f, n in list(zip(mine, numbers, strict=True))[2:]]
        return Reply(text="\n".join(s.text for s in said), facts=facts, said=said)


def due_fact(one: FollowUp, today: date) -> Fact:
    """A follow-up as a fact: it opens at the sentence that recommends it."""
    what = "/".join(one.modalities) or "an examination"
    where = f" of the {one.body_part.lower()}" if one.body_part else ""
    base = quoted(one.report, one.sentence)
    said = f'The report {one.report.handle} of {one.report.date} recommends {what}{where} ("{one.sentence.text}")'
    tail = {
        "done": f"done by {one.done_by}", "undated": "without saying when", "due": f"due by {one.due}",
        "overdue": f"due by {one.due}, overdue: nothing that answers it is in the archive",
    }[one.status]  # fmt: skip
    value = {
        "status": one.status,
        "due": one.due,
        "modalities": list(one.modalities),
        "body_part": one.body_part,
        "done_by": one.done_by,
        "as_of": today.isoformat(),
    }
    return Fact(kind=Kind.REPORT, title=f"Follow-up: {one.status}", statement=f"{said}: {tail}.", value=value, source=base.source)


def by_rule(case: Case, report: Report, rules: RuleBook) -> Iterator[Fact]:
    """What the computed guideline says of the nodule that the report describes, where it states enough."""
    found = nodule_advice(Context(report=report, case=case, rules=rules, age_years=case.age_years))
    if found is not None:
        facts, advice, where = found
        rule = rules.rule("fleischner_2017")
        origin = quoted(report, where)
        source = RuleRef(rule="fleischner_2017", document=rule.document, section=rule.section, inputs=facts,
                         origins={n: Origin(kind="report", statement=origin.statement, source=origin.source) for n in facts})  # type: ignore[arg-type]  # fmt: skip
        yield Fact(kind=Kind.RULE, title=rule.spec["title"], statement=f"By Fleischner 2017, for the nodule of report {report.handle}: {advice}.",
                   value={"category": None, "recommendation": advice, "values": {}, "checked": rule.checked}, source=source)  # fmt: skip
