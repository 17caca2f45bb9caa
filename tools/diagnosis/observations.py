"""What is known of a case, by observation: seen in reports, measured on images, in the record, of the patient, or said by the asker."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from knowledge.case import Case
from knowledge.entities.library import Feature, features, organ_of, signs
from knowledge.evidence import Coding, Fact, ImageRef, Kind, Origin
from knowledge.language import glossed, language_of
from knowledge.records.model import Report
from knowledge.records.reading import certainty_of
from knowledge.records.reports import cut
from knowledge.studies.model import Study
from tools.base import Bench
from tools.concepts import OWN
from tools.conflicts import quoted
from tools.diagnosis.measured import Measured, measured, outlined
from tools.models.masks import image_source
from tools.recorded import record_fact


@dataclass(frozen=True)
class Observed:
    """One observation, with its fact (none for what the asker said or the patient's age)."""

    feature: str
    present: bool
    origin: Origin
    fact: Fact | None = None


def observe(bench: Bench, organ: str, study: Study | None, said: str = "") -> list[Observed]:
    """Every observation of the case that counts for `organ`: measured ones first, then the newest report's, the record's, the asker's."""
    found: dict[str, Observed] = {}
    case = bench.case
    for one in _said(organ, said):
        found.setdefault(one.feature, one)
    if case is not None:
        for one in [*_measured(bench, organ, study), *_reported(case, organ), *_recorded(case, organ), *_of_patient(case, organ)]:
            found.setdefault(one.feature, one)
    for one in [o for o in found.values() if o.present]:
        for other in features(organ)[one.feature].excludes:
            found.setdefault(other, Observed(other, False, one.origin, one.fact))
    return list(found.values())


def _said(organ: str, said: str) -> Iterator[Observed]:
    if not said:
        return
    english = glossed(said, language_of(said))
    age = re.search(r"\b(\d{1,3})[\s-]?(?:year|y/?o\b|yrs?\b)", english, re.I)
    for name, feature in features(organ).items():
        there = _worded(feature, english, asked=True)
        if there is None and feature.age and age:
            there = feature.age[0] <= int(age.group(1)) <= feature.age[1] and (
                feature.sex is None or _sex(english) == feature.sex
            )
        if there is not None and (there or feature.kind != "patient"):
            yield Observed(name, there, Origin(kind="question", statement="as the question states it"))


def _sex(text: str) -> str | None:
    return (
        "F"
        if re.search(r"\b(woman|female|girl)\b", text, re.I)
        else "M"
        if re.search(r"\b(man|male|boy)\b", text, re.I)
        else None
    )


def _worded(feature: Feature, english: str, asked: bool = False) -> bool | None:
    """True or False where the words state or deny it; None where they don't speak of it, or only with doubt (a question's own words don't doubt)."""
    for match in re.finditer(feature.words, english, re.I) if feature.words else ():
        certainty = certainty_of(english, match.start(), match.end())
        if certainty == "negated":
            return False
        return True if asked or certainty == "affirmed" or feature.kind in ("image", "place") else None
    return None


def _reported(case: Case, organ: str) -> Iterator[Observed]:
    for report in sorted(case.reports, key=lambda r: r.date or "", reverse=True):
        if not _about(report, organ):
            continue
        language = language_of(report.text[:2000])
        for sentence in cut(report.text):
            english = glossed(sentence.text, language) if language != "en" else sentence.text
            for name, feature in features(organ).items():
                told = feature.kind in ("history", "marker")
                if (
                    not feature.words
                    or sentence.part in ("TECHNIQUE", "COMPARISON")
                    or (sentence.part == "INDICATION" and not told)
                ):
                    continue
                there = _worded(feature, english)
                if there is not None:
                    fact = quoted(report, sentence)
                    yield Observed(name, there, Origin(kind="report", statement=fact.statement, source=fact.source), fact)  # type: ignore[arg-type]


def _about(report: Report, organ: str) -> bool:
    """True for a report on the organ; tissue reports count where they name it."""
    return organ_of(f"{report.title} {report.text[:300]}") == organ or organ_of(report.text[:1500]) == organ


def _recorded(case: Case, organ: str) -> Iterator[Observed]:
    for item in case.items:
        words = f"{item.name} {item.value if item.value is not None else ''}"
        for name, feature in features(organ).items():
            if feature.kind not in ("history", "marker") or not feature.words:
                continue
            there = _worded(feature, words)
            if there is not None and not (name == "known_cancer" and organ_of(words) == organ):
                fact = record_fact(item, case)
                yield Observed(name, there, Origin(kind="record", statement=fact.statement, source=fact.source), fact)  # type: ignore[arg-type]


def _of_patient(case: Case, organ: str) -> Iterator[Observed]:
    age = case.age_years
    for name, feature in features(organ).items():
        if feature.age is None or age is None:
            continue
        sex = (case.patient.sex or "")[:1].upper()
        if feature.age[0] <= age <= feature.age[1] and (feature.sex is None or sex == feature.sex):
            yield Observed(
                name, True, Origin(kind="patient", statement=f"The patient is {age} years old, as the archive has it.")
            )


def _measured(bench: Bench, organ: str, study: Study | None) -> Iterator[Observed]:
    if organ != "brain" or study is None:
        return
    done = outlined(bench, study.handle)
    for one in measured(bench, done) if done is not None else []:
        feature = signs()[one.sign].feature
        if done is not None and feature:
            fact = sign_fact(one, study, ImageRef(**image_source(done, frame=one.frame)))
            yield Observed(feature, one.present, Origin(kind="finding", statement=fact.statement, source=fact.source), fact)  # type: ignore[arg-type]


def sign_fact(one: Measured, study: Study, source: ImageRef) -> Fact:
    """A measured sign as a fact."""
    name = signs()[one.sign].name
    verdict = "is there by this measure" if one.present else "isn't there by this measure"
    statement = f"{name} {verdict} on study {study.handle}: {one.words}. A reader has to confirm it."
    return Fact(kind=Kind.FINDING, title=f"Sign: {name}", statement=statement, value={"sign": one.sign, "present": one.present, "value": one.value,
                "unit": one.unit}, code=Coding(system=OWN, code=f"sign-{one.sign.replace('_', '-')}", display=name), source=source)  # fmt: skip
