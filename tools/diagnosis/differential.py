"""`differential_diagnosis`: what it may be, ranked, with what speaks for and against each and what would tell them apart."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from knowledge.entities.library import ORGANS, VERSION, Link, features, organ_of, spelled
from knowledge.entities.ranking import LACKING, Argument, Differential, Ranked, rank
from knowledge.evidence import Fact, Kind, Origin, RuleRef
from knowledge.records.model import RecordItem
from knowledge.studies.model import Study
from tools.base import Card, CaseTool, Cost, Missing, Needs, Reply, Said
from tools.classify import Classify
from tools.diagnosis.integrated import beside_each_other, integrated
from tools.diagnosis.observations import Observed, observe
from tools.errors import NotApplicable, ToolError
from tools.recorded import record_fact
from tools.reporting.gathering import study_of

MOST = 5
"""Entities that are told; the rest stands in the evidence."""
DOCUMENT = f"Consilium knowledge base of tumour entities, version {VERSION}"


class DifferentialArguments(BaseModel):
    """What to rank for."""

    model_config = ConfigDict(extra="forbid")
    organ: str | None = Field(None, description=f"One of {', '.join(ORGANS)}; left out: the case's own.")
    findings: str = Field("", max_length=2000, description="What the asker states of the lesion and the patient, in words.")
    study: str | None = Field(None, description="Handle of the study (S1); left out: the newest.")


class DifferentialDiagnosis(CaseTool):
    """Ranked differential diagnosis."""

    name: str = "differential_diagnosis"
    description: str = (
        "Rank what a lesion may be (tumours and mimics of brain, lung, liver, breast, kidney, prostate, thyroid): for and against each from measured "
        "signs, reports, record, age and what the asker states, joined with the classifier; what would tell them apart, and how sure it is."
    )
    args_schema: type[BaseModel] = DifferentialArguments
    asks: ClassVar[list[str]] = [
        "What is the differential diagnosis?", "Give me a ranked differential", "What else could this be?", "What are the differentials for this lesion?",
        "Differential of a ring-enhancing lesion", "What speaks for glioblastoma and what against?", "How would you tell metastasis from glioblastoma?",
        "Which diagnoses fit these findings?",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs(case=False)
    gives: ClassVar[list[Kind]] = [Kind.RULE, Kind.FINDING, Kind.REPORT, Kind.RECORD]
    card: ClassVar[Card] = Card(
        intended_use="A ranked list to think with; tissue and a reader decide.",
        accuracy="Scored on written vignettes (docs/figures/field-work.json.differential); never on patients.",
        limits="Points, not probabilities. Facts are from compilations that were read, and from field knowledge that is marked as unchecked. Entities outside "
        "the knowledge base aren't thought of.",
    )  # fmt: skip
    cost: ClassVar[Cost] = Cost(seconds=4, memory_mb=2000)

    def answer(self, arguments: DifferentialArguments) -> Reply:
        case = self.bench.case
        study = None
        if case is not None:
            study = study_of(case, arguments.study)
        organ = self._organ(arguments, study)
        observed = observe(self.bench, organ, study, arguments.findings)
        classified = self._classified(study) if organ in ("brain", "breast") else None
        probabilities = classified.value["probabilities"] if classified is not None else None
        found = rank(organ, {o.feature: o.present for o in observed}, probabilities)
        if found.certainty == "none":
            raise NotApplicable(
                f"nothing but {'the classifier and ' if classified else ''}how often things are met is known of this lesion of the {organ}",
                "describe the lesion (enhancement, margin, place), or add a report",
            )
        return self._told(found, observed, classified, probabilities)

    def _organ(self, arguments: DifferentialArguments, study: Study | None) -> str:
        named = arguments.organ if arguments.organ in ORGANS else organ_of(f"{arguments.organ or ''} {arguments.findings}")
        if named is None and study is not None:
            named = organ_of(f"{study.body_part} {study.description}")
        if named is None:
            raise NotApplicable(f"the knowledge base holds {', '.join(ORGANS)}", "name one of these organs")
        return named

    def _classified(self, study: Study | None) -> Fact | None:
        """The classifier's class with its calibrated probabilities, where one fits the study."""
        if study is None:
            return None
        try:
            facts = Classify.bound(self.bench).reply({"study": study.handle}).facts
        except ToolError:
            return None
        return next((f for f in facts if isinstance(f.value, dict) and "probabilities" in f.value), None)

    def _told(
        self, found: Differential, observed: list[Observed], classified: Fact | None, probabilities: dict[str, float] | None
    ) -> Reply:
        by_feature = {o.feature: o for o in observed}
        proven = self._proven()
        facts: list[Fact] = [*proven]
        said = [Said(text=f.statement, facts=[i]) for i, f in enumerate(proven)]
        beside = beside_each_other(self.bench.case, found.organ, classified) if self.bench.case is not None else None
        by_rule, tests = integrated(self.bench, found.organ)
        for fact, behind in [*([beside] if beside else []), *((f, [f]) for f in by_rule)]:
            said.append(Said(text=fact.statement, facts=_numbers(facts, [fact, *behind])))
        for place, one in enumerate([r for r in found.ranked if r.pro][:MOST], 1):
            rule = _as_fact(found, one, place, by_feature, probabilities)
            mine = [rule, *(o.fact for a in one.arguments if (o := by_feature[a.feature]).fact is not None)]
            mine += [classified] if classified is not None and one.classifier_points else []
            said.append(Said(text=rule.statement, facts=_numbers(facts, [f for f in mine if f is not None])))
        missing = [Missing(what=features(found.organ)[f].label, why="neither images nor reports nor record speak of it",
                           would_change=f"it would speak for {a} rather than {b}") for f, a, b in found.apart]  # fmt: skip
        missing.append(Missing(what="tissue", why="imaging alone doesn't settle the entity", would_change="the diagnosis would be established")
                       if not proven else Missing(what="agreement of imaging with tissue", why="the ranking is by imaging and history alone",
                                                  would_change="a result that doesn't fit would be looked at again"))  # fmt: skip
        return Reply(text="\n".join(s.text for s in said), facts=facts, said=said, missing=[*tests[:6], *missing])

    def _proven(self) -> list[Fact]:
        """What tissue has established, as the record lists it: it stands before any ranking."""
        case = self.bench.case
        items: list[RecordItem] = (
            [] if case is None else [i for i in case.items if i.category == "condition" and i.status != "inactive"]
        )
        return [record_fact(i, case) for i in items if case is not None and organ_of(i.name) in ORGANS][:2]


def _numbers(facts: list[Fact], mine: list[Fact]) -> list[int]:
    """The places of `mine` in `facts`, to which new ones are added."""
    facts += [f for f in mine if f not in facts]
    return list(dict.fromkeys(facts.index(f) for f in mine))


def _as_fact(
    found: Differential, one: Ranked, place: int, by_feature: dict[str, Observed], probabilities: dict[str, float] | None
) -> Fact:
    unchecked = sum(1 for a in one.arguments if not a.checked)
    sure = {"clear": "it leads clearly", "open": "others fit about as well"}[found.certainty] if place == 1 else ""
    pro, con = ("; ".join(_argued(a) for a in part) for part in (one.pro, one.con))
    by_classes = lacks = ""
    if one.classifier_points and one.entity.classifier:
        share = 100 * (probabilities or {})[one.entity.classifier]
        by_classes = f" The image classifier holds {one.entity.classifier} probable at {share:.0f} %, which counts {one.classifier_points:+g}."
    if one.lacks:
        lacks = f" It isn't known to have: {features(found.organ)[one.lacks].label} ({LACKING:+g})."
    statement = (
        f"{place}. {one.entity.label} ({one.entity.kind}, {one.entity.common}): {one.points:g} points{', ' + sure if sure else ''}. "
        f"For: {pro or 'none of what is known'}. Against: {con or 'none of what is known'}.{by_classes}{lacks}"
        + (
            f" Of these arguments {unchecked} stand{'s' * (unchecked == 1)} on field knowledge that wasn't looked up."
            if unchecked
            else ""
        )
    )
    inputs = {a.feature: a.present for a in one.arguments}
    origins = {f: _origin(by_feature[f]) for f in inputs}
    others = [f for f in one.entity.links if f not in by_feature and abs(one.entity.links[f].weight) >= 2][:6]
    value = {"entity": one.entity.name, "place": place, "points": one.points, "certainty": found.certainty, "category": one.entity.label,
             "recommendation": "", "values": {}, "checked": unchecked == 0,
             "arguments": [{"finding": a.label, "present": a.present, "points": a.points, "source": spelled(a.source), "checked": a.checked} for a in one.arguments]}  # fmt: skip
    return Fact(kind=Kind.RULE, title=f"Differential: {one.entity.label}", statement=statement, value=value,
                source=RuleRef(rule=f"differential:{found.organ}", document=DOCUMENT, section=one.entity.label, inputs=inputs, missing=others,
                               origins=origins, would_change={f: _changes(one.entity.links[f]) for f in others}))  # fmt: skip


def _argued(argument: Argument) -> str:
    return f"{'' if argument.present else 'no '}{argument.label} ({argument.points:+g})"


def _changes(link: Link) -> str:
    return f"its presence would count {link.weight:+d}"


def _origin(one: Observed) -> Origin:
    return one.origin
