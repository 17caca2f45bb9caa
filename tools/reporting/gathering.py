"""What a report can stand on: the image tools' facts on one study, the record, the reports, and what the conversation computed."""

import re
from dataclasses import dataclass, field

from knowledge.case import Case
from knowledge.evidence import Evidence, Fact, Kind
from knowledge.records.model import Report
from knowledge.records.reports import cut
from knowledge.studies.model import Study
from tools.base import Bench, CaseTool, Missing
from tools.classify import Classify
from tools.compare import CompareStudies
from tools.conflicts import Clash, quoted, reports_near
from tools.detect import Detect
from tools.errors import ToolError
from tools.measure import Measure
from tools.segment import Segment

ON_IMAGES: tuple[type[CaseTool], ...] = (Detect, Segment, Classify, Measure)
"""Tools whose findings a report has to speak of, in the order of a report."""


@dataclass
class Gathered:
    """Facts by the tool that gave them, what was missing, and what contradicts what."""

    facts: dict[str, list[Fact]] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)
    clashes: list[Clash] = field(default_factory=list)
    unfit: dict[str, str] = field(default_factory=dict)
    """Tool -> why it wasn't fit for the study."""

    def of(self, *tools: str) -> list[Fact]:
        """The facts of these tools, in order."""
        return [f for t in tools for f in self.facts.get(t, [])]


def on_images(bench: Bench, study: Study, compare: bool = True) -> Gathered:
    """What the image tools find on a study; those that aren't fit for it say why. Outlines that exist are used again."""
    found = Gathered()
    calls: list[tuple[type[CaseTool], dict[str, object]]] = [(t, {"study": study.handle}) for t in ON_IMAGES]
    if compare and earlier(bench.required_case, study):
        calls.append((CompareStudies, {"studies": [earlier(bench.required_case, study)[-1].handle, study.handle]}))
    for tool, arguments in calls:
        name = tool.model_fields["name"].default
        try:
            reply = tool.bound(bench).reply(arguments)
        except ToolError as error:
            if error.status != "not_applicable":
                raise
            found.unfit[name] = f"{error}"
            continue
        found.facts[name] = reply.facts
        found.missing += reply.missing
        found.clashes += reply.clashes
    return found


def earlier(case: Case, study: Study) -> list[Study]:
    """Dated examinations of the same body part and modality before `study`, oldest first."""
    same = [s for s in case.studies
            if s.id != study.id and s.body_part == study.body_part and s.date and study.date and s.date < study.date
            and set(s.image_modalities) & set(study.image_modalities)]  # fmt: skip
    return sorted(same, key=lambda s: s.date or "")


def reports_on(case: Case, study: Study) -> list[Report]:
    """Reports that are dated as the study is (two weeks to either side)."""
    return reports_near(case, study.date)


def indication(case: Case, study: Study) -> list[Fact]:
    """Sentences of the study's own reports that say why it was done."""
    return [quoted(r, s) for r in reports_on(case, study) for s in cut(r.text) if s.part == "INDICATION"]


def computed(bench: Bench) -> list[Fact]:
    """Rules that the conversation has computed, the newest of each."""
    rules: dict[str, Fact] = {}
    for one in bench.known():
        if one.kind is Kind.RULE:
            rules[one.title] = as_fact(one)
    return list(rules.values())


def as_fact(one: Evidence) -> Fact:
    """An evidence without its number."""
    return Fact.model_validate(one.model_dump(exclude={"id", "href"}))


def study_of(case: Case, handle: str | None) -> Study | None:
    """The study that a handle names (S1, or a series of it), or the newest examination. Raises NotFound."""
    return case.study(handle.split(".")[0]) if handle else newest_study(case)


def newest_study(case: Case) -> Study | None:
    """The newest examination that shows the patient."""
    images = [s for s in case.studies if set(s.image_modalities) - {"SR"}]
    return max(images, key=lambda s: s.date or "", default=None)


def organ_of(study: Study) -> str:
    """The organ or region of a study, as templates and phrases name it."""
    words = f"{study.body_part} {study.description}"
    named = {"brain": r"brain|head|neuro|cereb|skull", "chest": r"chest|thora|lung", "breast": r"breast|mamm", "prostate": r"prostat",
             "abdomen": r"abdom|liver|kidney|pelvi"}  # fmt: skip
    return next((n for n, p in named.items() if re.search(p, words, re.I)), study.body_part.lower() or "region")
