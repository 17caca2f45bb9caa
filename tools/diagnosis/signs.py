"""`imaging_signs`: named signs, whether they are there, what they mean, how specific they are, and what looks like them."""

import re
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from knowledge.entities.library import VERSION, Sign, organ_of, signs, spelled
from knowledge.evidence import Fact, ImageRef, Kind, RuleRef
from knowledge.language import glossed, language_of
from knowledge.records.reading import certainty_of
from knowledge.records.reports import cut
from knowledge.studies.model import Study
from tools.base import Card, CaseTool, Cost, Missing, Needs, Reply, Said
from tools.conflicts import quoted
from tools.diagnosis.measured import MEASURES, outlined
from tools.diagnosis.observations import sign_fact
from tools.errors import TryAgain
from tools.models.masks import image_source
from tools.reporting.gathering import study_of

DOCUMENT = f"Consilium knowledge base of imaging signs, version {VERSION}"


class SignArguments(BaseModel):
    """Which sign."""

    model_config = ConfigDict(extra="forbid")
    sign: str | None = Field(
        None, max_length=200, description="Name of a sign, or words with it; left out: every sign of the study's organ."
    )
    study: str | None = Field(None, description="Handle of the study (S1); left out: the newest.")


class ImagingSigns(CaseTool):
    """Named imaging signs."""

    name: str = "imaging_signs"
    description: str = (
        "Named imaging signs (T2-FLAIR mismatch, ring enhancement, dural tail, butterfly, washout, capsule, spiculation, halo …): whether it is there, measured "
        "where it can be, else by reports or for a reader to judge; what it means, how specific it is with source, its look-alikes."
    )
    args_schema: type[BaseModel] = SignArguments
    asks: ClassVar[list[str]] = [
        "Is there a T2-FLAIR mismatch?", "Which signs are there?", "Is there a dural tail sign?", "What does the halo sign mean?", "How specific is washout?",
        "What looks like ring enhancement?", "Is this a butterfly glioma?", "Any imaging signs of malignancy?", "Does it show the popcorn sign?",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs(case=False)
    gives: ClassVar[list[Kind]] = [Kind.RULE, Kind.FINDING, Kind.REPORT]
    card: ClassVar[Card] = Card(
        intended_use="What a named sign is, and whether this case shows it.",
        accuracy="Measured signs: phantoms that show them and don't (tests/tools/test_diagnosis.py); on patients uncalibrated.",
        limits="Three signs are measured (ring enhancement, T2-FLAIR mismatch, growth across the midline); the others a reader has to judge. Figures are given "
        "only where one was found, with its source.",
    )  # fmt: skip
    cost: ClassVar[Cost] = Cost(seconds=3, memory_mb=2000)

    def answer(self, arguments: SignArguments) -> Reply:
        case = self.bench.case
        study = None
        if case is not None:
            study = study_of(case, arguments.study)
        chosen = _chosen(arguments.sign, study)
        facts: list[Fact] = []
        said: list[Said] = []
        missing: list[Missing] = []
        for one in chosen:
            told = [*self._measured(one, study), *self._reported(one)]
            if arguments.sign is None and not told:
                continue
            meaning = _meaning(one)
            for fact in [*told, meaning]:
                facts.append(fact)
                said.append(Said(text=fact.statement, facts=[len(facts) - 1]))
            if not told and case is not None:
                missing.append(Missing(what=f"a reader's judgement of: {one.name}", why="it can't be measured here and no report names it",
                                       would_change=f"it would speak for {one.means}"))  # fmt: skip
        if not facts:
            names = ", ".join(s.name for s in chosen)
            missing.append(
                Missing(
                    what=f"a reader's judgement of: {names}",
                    why="none of them is measured or named in a report",
                    would_change="they would count",
                )
            )
        return Reply(
            text="\n".join(s.text for s in said) or "No sign is measured or named.", facts=facts, said=said, missing=missing
        )

    def _measured(self, one: Sign, study: Study | None) -> list[Fact]:
        if one.measured is None or study is None or organ_of(f"{study.body_part} {study.description}") != one.organ:
            return []
        done = outlined(self.bench, study.handle)
        found = MEASURES[one.key](self.bench, done) if done is not None and one.key in MEASURES else None
        return (
            [sign_fact(found, study, ImageRef(**image_source(done, frame=found.frame)))]
            if done is not None and found is not None
            else []
        )

    def _reported(self, one: Sign) -> list[Fact]:
        found = []
        for report in sorted(self.bench.case.reports, key=lambda r: r.date or "", reverse=True) if self.bench.case else []:
            language = language_of(report.text[:2000])
            for sentence in cut(report.text):
                english = glossed(sentence.text, language) if language != "en" else sentence.text
                match = re.search(one.words, english, re.I)
                if (
                    match
                    and sentence.part not in ("TECHNIQUE", "COMPARISON")
                    and certainty_of(english, match.start(), match.end())
                ):
                    found.append(quoted(report, sentence))
        return found[:2]


def _chosen(named: str | None, study: Study | None) -> list[Sign]:
    organ = organ_of(f"{study.body_part} {study.description}") if study is not None else None
    if named is None:
        return [s for s in signs().values() if organ in (None, s.organ)]
    english = glossed(named, language_of(named))
    wanted = [
        s
        for s in signs().values()
        if re.search(s.words, english, re.I) or s.name.lower() in english.lower() or s.key.replace("_", " ") in english.lower()
    ]
    wanted = [s for s in wanted if s.organ == organ] or wanted
    about = organ_of(english)
    wanted = [s for s in wanted if s.organ == about] or wanted
    if not wanted:
        raise TryAgain(f"no sign of that name is known ({named})", f"known are {', '.join(s.name for s in signs().values())}")
    return wanted


def _meaning(one: Sign) -> Fact:
    figures = (
        " ".join(f"{f.text} ({f.source}; {f.confidence}.)" for f in one.figures) or "No figure of how specific it is was found."
    )
    statement = (f"{one.name}: {one.seen}. It means: {one.means}. {figures} Looks like it: {', '.join(one.look_alikes)}. "
                 f"Source: {spelled(one.source)}.")  # fmt: skip
    return Fact(kind=Kind.RULE, title=f"Meaning of: {one.name}", statement=statement, value={"category": one.name, "recommendation": one.means, "values": {},
                "checked": "[general]" not in spelled(one.source)},
                source=RuleRef(rule=f"sign:{one.key}", document=DOCUMENT, section=one.name, inputs={}))  # fmt: skip
