"""`draft_report`: a structured report written from evidence alone, for a person to edit and sign."""

import re
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from knowledge.case import Case
from knowledge.evidence import Coding, Fact, Kind
from knowledge.records.planning import disease_of
from knowledge.records.reports import cut
from knowledge.reporting.drafts import By, Draft, Sentence, new_id, now
from knowledge.reporting.templates import Part, Template, templates
from knowledge.studies.model import Study
from tools.base import Bench, Card, CaseTool, Cost, Made, Missing, Needs, Reply, Said
from tools.concepts import (
    FROM_MIDLINE,
    INTENSITY,
    LESION,
    LESION_TYPE,
    LONG_AXIS,
    ORGAN,
    PRODUCT,
    SHORT_AXIS,
    STUDY_CONTENT,
    TUMOUR_TYPE,
    VOLUME,
)
from tools.concepts import WHOLE_TUMOUR as WHOLE
from tools.conflicts import quoted
from tools.errors import NotApplicable, ToolError, TryAgain
from tools.records import PatientRecord
from tools.reporting.gathering import Gathered, computed, earlier, indication, on_images, organ_of, reports_on, study_of
from tools.reporting.phrases import phrase, word
from tools.rules import ApplyGuideline
from tools.studies import ListStudies

BOARD = "tumour_board"
SOFTWARE = "consilium 0.1.0"
_RULES_OF = {"glioblastoma": ["who_cns_2021_glioma", "gbm_mgmt_stupp"], "lung cancer": ["nsclc_first_line"], "hepatocellular carcinoma": ["bclc_2022"],
             "brain metastases": ["astro_brain_mets_2022"]}  # fmt: skip
"""Disease -> the computed guidelines that a board asks for, where the box has them."""


class DraftArguments(BaseModel):
    """What to draft."""

    model_config = ConfigDict(extra="forbid")
    study: str | None = Field(None, description="Handle of the study (S1); left out: the newest.")
    template: str | None = Field(None, max_length=41, description="Name of a template; left out: the one that fits the study. "
                                 f"{BOARD}: a summary of the whole case.")  # fmt: skip
    language: Literal["en", "de", "es", "fr", "zh"] | None = Field(
        None, description="Language of the report; left out: the house's."
    )
    style: Literal["concise", "full"] | None = Field(
        None, description="full: with the doubt of each measurement; left out: the house's."
    )
    indication: str | None = Field(None, max_length=500, description="Why the examination was done, in the asker's words.")


class DraftReport(CaseTool):
    """A structured draft."""

    name: str = "draft_report"
    description: str = (
        "Draft a structured report (indication, technique, comparison, findings, impression) of one study from evidence alone, or a summary "
        "for the tumour board; a person edits and signs it."
    )
    args_schema: type[BaseModel] = DraftArguments
    asks: ClassVar[list[str]] = [
        "Write a draft report for this CT", "Draft the report of this MRI", "Prepare a structured report", "Dictate the findings and impression",
        "Write an impression for this study", "Draft a tumour board summary", "Generate a radiology report", "Draft the report in German",
    ]  # fmt: skip
    needs: ClassVar[Needs] = Needs()
    gives: ClassVar[list[Kind]] = [Kind.FINDING, Kind.MEASUREMENT, Kind.REPORT, Kind.RECORD, Kind.RULE]
    card: ClassVar[Card] = Card(
        intended_use="A first version of a report for a person to check, complete and sign.",
        accuracy="Every sentence holds against its evidence (docs/figures/field-work.json); what it doesn't know is left open by name.",
        limits="It sees what the image tools measure and what is written down, nothing else: normal findings are never written on its own account.",
    )  # fmt: skip
    cost: ClassVar[Cost] = Cost(seconds=10, memory_mb=2000)

    def answer(self, arguments: DraftArguments) -> Reply:
        case = self.bench.required_case
        study = study_of(case, arguments.study)
        template = _template(self.bench, arguments.template, study)
        if study is None and template.name != BOARD:
            raise NotApplicable("the case holds no images to report on", "add a study, or ask for a summary for the tumour board")
        found = on_images(self.bench, study) if study is not None else Gathered()
        house = self.bench.resources.house_style
        writer = _Writer(
            self.bench, study, template, arguments.language or house.language, (arguments.style or house.style) == "full", found
        )
        board = template.name == BOARD
        draft = writer.draft(
            indication(case, study) if study else [], arguments.indication, computed(self.bench),
            self._of_the_board(case) if board else [],
        )  # fmt: skip
        self.bench.resources.drafts.add(draft)
        open_places = [Missing(what=s.text.strip("[]"), why="no evidence of the case speaks of it", would_change="the draft could be signed")
                       for s in draft.open_places]  # fmt: skip
        text = "\n".join(f"{s.part}: {s.text}" for s in draft.sentences)
        conflicts = [c.statement for c in found.clashes]
        return Reply(text=f"Draft {draft.id} (not signed), {draft.title}.\n{text}", facts=draft.facts,
                     missing=[*open_places, *found.missing][:12], clashes=found.clashes if conflicts else [],
                     said=[Said(text=s.text, facts=s.facts) for s in draft.sentences if s.facts],
                     made=Made(kind="draft", id=draft.id, title=draft.title))  # fmt: skip

    def _of_the_board(self, case: Case) -> list[Fact]:
        """What is written down of disease, markers and fitness, and the computed options."""
        found = list(PatientRecord.bound(self.bench).reply({"topics": ["all"]}).facts) if case.items else []
        disease = disease_of(
            " ".join(i.name for i in case.items if i.category == "condition"), " ".join(r.text[:4000] for r in case.reports)
        )
        for rule in _RULES_OF.get(disease or "", []):
            try:
                found += [f for f in ApplyGuideline.bound(self.bench).reply({"guideline": rule}).facts if f.kind is Kind.RULE]
            except ToolError:
                continue
        return found


def _template(bench: Bench, name: str | None, study: Study | None) -> Template:
    known = templates(bench.resources.house_style.templates)
    if name is not None:
        if name not in known:
            raise TryAgain(f"there is no template {name!r}", f"use one of {sorted(known)}")
        return known[name]
    if study is None:
        return known[BOARD]
    body = f"{study.body_part} {study.description} {' '.join(q.description for q in study.series)}"
    fitting = [t for t in known.values() if t.name not in (BOARD, "general") and t.fits(study.image_modalities, body)]
    return fitting[0] if fitting else known["general"]


class _Writer:
    """Writes one draft: each sentence takes the facts that it stands on."""

    def __init__(self, bench: Bench, study: Study | None, template: Template, language: str, full: bool, found: Gathered) -> None:
        self.bench, self.case, self.study, self.template = bench, bench.required_case, study, template
        self.language, self.full, self.found = language, full, found
        self.facts: list[Fact] = []
        self.sentences: list[Sentence] = []

    def say(self, part: Part, text: str, facts: Iterable[Fact]) -> None:
        """Add a sentence that stands on `facts`."""
        numbers = []
        for fact in facts:
            if fact not in self.facts:
                self.facts.append(fact)
            numbers.append(self.facts.index(fact))
        if text not in [s.text for s in self.sentences if s.part == part]:
            self.sentences.append(Sentence(part=part, text=text, facts=numbers))

    def leave_open(self, part: Part, item: str) -> None:
        """Add a place for a reader."""
        self.sentences.append(Sentence(part=part, text=phrase(self.language, "open", item=item), by=By.OPEN))

    def draft(self, why: list[Fact], told: str | None, rules: list[Fact], board: list[Fact]) -> Draft:
        """The draft as a whole."""
        self._indication(why, told)
        self._technique()
        self._comparison()
        self._findings(board)
        self._impression([*rules, *(f for f in board if f.kind is Kind.RULE and f.title not in [r.title for r in rules])])
        study = self.study
        return Draft(
            id=new_id(), patient_id=self.case.patient.id, study_id=study.id if study else None, study_date=study.date if study else None,
            modality="/".join(study.image_modalities) if study else None, body_part=study.body_part if study else None,
            template=self.template.name, title=self.template.titled(self.language), language=self.language, created=now(),
            sentences=self.sentences, facts=self.facts, software=SOFTWARE,
        )  # fmt: skip

    def _indication(self, why: list[Fact], told: str | None) -> None:
        for fact in why:
            self.say("INDICATION", str(fact.value), [fact])
        if told:
            self.sentences.append(Sentence(part="INDICATION", text=told, by=By.READER))
        if not why and not told:
            self.leave_open("INDICATION", phrase(self.language, "indication"))

    def _technique(self) -> None:
        if self.study is None:
            return
        (fact,) = (f for f in ListStudies.bound(self.bench).reply({"study": self.study.handle}).facts)
        series = ", ".join(q.sequence or q.description or q.modality for q in self.study.series if q.is_image)
        text = phrase(self.language, "technique", modality="/".join(self.study.image_modalities), series=series,
                      date=self.study.date or phrase(self.language, "undated"))  # fmt: skip
        self.say("TECHNIQUE", text, [fact])

    def _comparison(self) -> None:
        if self.study is None:
            return
        before = earlier(self.case, self.study)
        here = [f for f in ListStudies.bound(self.bench).reply({}).facts if f.code == STUDY_CONTENT]
        for study in before[-2:]:
            fact = next(f for f in here if f.title == f"Study {study.handle}")
            text = phrase(self.language, "prior", modality="/".join(study.image_modalities), date=study.date, handle=study.handle)
            self.say("COMPARISON", text, [fact])
        if not before:
            self.say("COMPARISON", phrase(self.language, "no_prior"), here[:1])

    def _findings(self, board: list[Fact]) -> None:
        lesion = self._lesion()
        if lesion:
            self.say("FINDINGS", *lesion)
        self._parts()
        self._others()
        for text, facts in self._changes():
            self.say("FINDINGS", text, facts)
        for fact in board:
            if fact.kind is not Kind.RULE:
                self.say("FINDINGS", fact.statement, [fact])
        if board:
            for report in self.case.reports[::-1][:3]:
                for sentence in [s for s in cut(report.text) if s.part in ("IMPRESSION", "CONCLUSION", "DIAGNOSIS")][:3]:
                    self._quote("FINDINGS", quoted(report, sentence), report.handle, report.date)
        elif self.study is not None:
            for report in reports_on(self.case, self.study):
                for sentence in [s for s in cut(report.text) if s.part == "FINDINGS"]:
                    self._quote("FINDINGS", quoted(report, sentence), report.handle, report.date)
        said = " ".join(s.text for s in self.sentences if s.part == "FINDINGS")
        own = " ".join(s.text for s in self.sentences)
        for item in self.template.items:
            if not re.search(item.known, said if not board else own, re.I):
                self.leave_open("FINDINGS", item.ask.get(self.language, item.ask["en"]))

    def _quote(self, part: Part, fact: Fact, handle: str, day: str | None) -> None:
        text = phrase(self.language, "quoted", handle=handle, date=day or phrase(self.language, "undated"), text=fact.value)
        self.say(part, text, [fact])

    def _value(self, code: Coding, title: str | None = None) -> Fact | None:
        mine = self.found.of("measure")
        return next((f for f in mine if f.code == code and (title is None or f.title == title)), None)

    def _number(self, fact: Fact) -> str:
        doubt = phrase(self.language, "doubt", low=f"{fact.interval[0]:g}", high=f"{fact.interval[1]:g}", unit=fact.unit) if (
            self.full and fact.interval) else ""  # fmt: skip
        return f"{fact.value:g} {fact.unit}" + doubt

    def _size(self) -> tuple[str, list[Fact]]:
        """The sizes of the outlined region in words, with the facts."""
        long, short, volume = (
            self._value(LONG_AXIS, "Longest axial diameter"),
            self._value(SHORT_AXIS),
            self._value(VOLUME, "Volume"),
        )
        words, used = [], []
        if long and short:
            words.append(phrase(self.language, "axes", long=f"{long.value:g}", short=f"{short.value:g}"))
            used += [long, short]
        elif long:
            words.append(phrase(self.language, "long", long=f"{long.value:g}"))
            used.append(long)
        if volume:
            words.append(phrase(self.language, "volume", volume=f"{volume.value:g}"))
            if self.full and volume.interval:
                words[-1] += phrase(
                    self.language, "doubt", low=f"{volume.interval[0]:g}", high=f"{volume.interval[1]:g}", unit="mL"
                )
            used.append(volume)
        return ", ".join(words), used

    def _lesion(self) -> tuple[str, list[Fact]] | None:
        outlined = next(
            (f for f in self.found.of("segment") if f.code == WHOLE and isinstance(f.value, dict) and "side" in f.value), None
        )
        size, used = self._size()
        if outlined is None or not size or self.study is None:
            return None
        value: dict[str, Any] = outlined.value
        organ = word(self.language, organ_of(self.study))
        name = word(self.language, str(value["label"]))
        if value.get("crosses_midline"):
            return phrase(self.language, "lesion_middle", organ=organ, name=name, size=size), [outlined, *used]
        return phrase(self.language, "lesion", organ=organ, name=name, side=word(self.language, str(value["side"])), size=size), [
            outlined,
            *used,
        ]

    def _parts(self) -> None:
        for fact in self.found.of("measure"):
            if fact.code == VOLUME and fact.title.startswith("Volume of the "):
                name = word(self.language, fact.title.removeprefix("Volume of the "))
                self.say("FINDINGS", phrase(self.language, "part", name=name, volume=self._number(fact)), [fact])

    def _others(self) -> None:
        """Everything else that the image tools found."""
        spoken = {LONG_AXIS, SHORT_AXIS, VOLUME, PRODUCT, TUMOUR_TYPE, LESION_TYPE, WHOLE}
        for fact in self.found.of("measure", "detect", "segment"):
            if fact.title in ("No outline", "No lesion found"):
                self.say("FINDINGS", phrase(self.language, "none"), [fact])
            elif fact.code == FROM_MIDLINE:
                side = next((s for s in ("left", "right") if re.search(rf"\b{s}\b", fact.statement)), "")
                self.say(
                    "FINDINGS", phrase(self.language, "midline", value=self._number(fact), side=word(self.language, side)), [fact]
                )
            elif fact.code == LESION and isinstance(fact.value, dict) and "count" in fact.value:
                self.say("FINDINGS", phrase(self.language, "count", count=fact.value["count"]), [fact])
            elif (
                fact.code in (ORGAN, INTENSITY)
                or (fact.code == LESION and fact.title != "Lesion 1")
                or (fact.code == VOLUME and not self._lesion() and fact.title == "Volume")
                or (fact.code not in spoken and fact.code != LESION and self.full)
            ):
                self.say("FINDINGS", fact.statement, [fact])

    def _changes(self) -> list[tuple[str, list[Fact]]]:
        found = []
        for fact in self.found.of("compare_studies"):
            match = re.match(r"Change in (volume|diameter|product)", fact.title)
            if match is None:
                continue
            numbers = re.search(r"from ([\d.]+) to ([\d.]+) (mL|mm²|mm)", fact.statement)
            verdict = "beyond" if "more than the doubt" in fact.statement else "within"
            if numbers:
                text = phrase(self.language, "change", quantity=phrase(self.language, f"q_{match.group(1)}"), old=numbers.group(1), new=numbers.group(2),
                              unit=numbers.group(3), percent=f"{fact.value:+g}", verdict=phrase(self.language, verdict))  # fmt: skip
                found.append((text, [fact]))
        return found

    def _impression(self, rules: list[Fact]) -> None:
        lesion = self._lesion()
        if lesion:
            self.say("IMPRESSION", *lesion)
        for fact in self.found.of("classify"):
            if fact.code in (TUMOUR_TYPE, LESION_TYPE) and isinstance(fact.value, dict) and "probability" in fact.value:
                text = phrase(
                    self.language,
                    "type",
                    label=word(self.language, str(fact.value["label"])),
                    percent=round(100 * fact.value["probability"]),
                )
                self.say("IMPRESSION", text, [fact])
        for text, facts in self._changes()[:1]:
            self.say("IMPRESSION", text, facts)
        for fact in rules:
            self.say("IMPRESSION", fact.statement, [fact])
        for clash in self.found.clashes:
            self.sentences.append(
                Sentence(part="IMPRESSION", text=phrase(self.language, "decide", text=clash.statement), by=By.OPEN)
            )
        if not any(s.part == "IMPRESSION" and s.by is By.EVIDENCE for s in self.sentences) or not rules:
            self.leave_open("IMPRESSION", phrase(self.language, "conclusion"))
