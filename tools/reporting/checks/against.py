"""A report against the images, earlier reports, the record and the patient."""

import re
from collections.abc import Iterator

from knowledge.evidence import Fact, ImageRef
from knowledge.records.reading import dated, sizes
from knowledge.records.reports import cut
from tools.concepts import LESION, WHOLE_TUMOUR
from tools.conflicts import apart, clashes, quoted
from tools.reporting.checks.inside import _find
from tools.reporting.checks.model import Context, Issue

COPIED = 0.6
"""Share of the findings' sentences (four at least) that stand word for word in an earlier report, from which copying is named."""
_AGE = re.compile(r"\b(\d{1,3})[\s-]?(?:years?[\s-]?old|y/?o\b|jährige[rn]?|ans\b|años\b|岁)", re.I)
_SEX = {
    "female": r"\b(woman|female|lady|girl|frau|patientin|femme|mujer)\b|女",
    "male": r"\b(man|male|gentleman|boy|mann|homme|hombre)\b|男",
}
_ORGANS = {
    "female": r"\b(prostate|seminal vesicles?|testes|testic\w+|scrotum|prostata)\b|前列腺",
    "male": r"\b(uterus|ovar(?:y|ies)|endometri\w+|cervix uteri|gebärmutter)\b|子宫|卵巢",
}
_DENIED = re.compile(r"\b(no|without|absent|status post|surgically)\b", re.I)


def patient(context: Context) -> Iterator[Issue]:
    """Age or sex that isn't the patient's, or an organ that the patient doesn't have."""
    sex = {"F": "female", "M": "male"}.get((context.sex or "")[:1].upper()) if context.sex else None
    for sentence in context.sentences:
        age = _AGE.search(sentence.text)
        if age and context.age_years is not None and abs(int(age.group(1)) - context.age_years) > 1:
            yield Issue(kind="patient", severity="critical", start=sentence.start + age.start(), end=sentence.start + age.end(),
                        message=f"The report says {age.group(1)} years, the archive {context.age_years}: is this the patient?",
                        suggestion=age.group(0).replace(age.group(1), str(context.age_years)))  # fmt: skip
        if sex is None:
            continue
        other = "male" if sex == "female" else "female"
        said = re.search(_SEX[other], sentence.text, re.I) if sentence.part in ("INDICATION", "") else None
        organ = (
            re.search(_ORGANS[sex], sentence.text, re.I)
            if sentence.part not in ("INDICATION", "TECHNIQUE", "COMPARISON")
            else None
        )
        found = said or (organ if organ and not _DENIED.search(sentence.text[: organ.start()]) else None)
        if found and not re.search(_SEX[sex], sentence.text, re.I):
            yield Issue(kind="patient", severity="critical", start=sentence.start + found.start(), end=sentence.start + found.end(),
                        message=f"'{found.group(0)}' doesn't go with a {sex} patient: is this the patient?", suggestion="")  # fmt: skip


def dates(context: Context) -> Iterator[Issue]:
    """A comparison after the examination, or with one that the case doesn't hold; an examination dated otherwise than in the archive."""
    day = context.report.date or (context.study.date if context.study else None)
    known = {
        d for d in [*((s.date for s in context.case.studies) if context.case else ()), *(r.date for r in context.priors)] if d
    }
    for sentence in context.sentences:
        head = re.match(r"^(?:study |examination |exam )?date\s*:", sentence.text, re.I) or (
            sentence.part == "" and re.match(r"^(?:datum|fecha|日期)\s*[:：]", sentence.text, re.I))  # fmt: skip
        for told in dated(sentence.text):
            place = _place(context, sentence.start, sentence.end, told)
            if head and context.study and context.study.date and told != context.study.date[: len(told)]:
                yield Issue(kind="date", severity="major", start=place[0], end=place[1], suggestion=context.study.date,
                            message=f"The report is dated {told}, the examination {context.study.date}.")  # fmt: skip
            elif day and not head and told[:10] > day[: len(told)] and not _ahead(sentence.text):
                yield Issue(kind="date", severity="major", start=place[0], end=place[1], suggestion="",
                            message=f"{told} lies after the examination ({day}).")  # fmt: skip
            elif (
                sentence.part == "COMPARISON"
                and known - {day}
                and told not in known
                and not any(k.startswith(told) for k in known)
            ):
                nearest = min((k for k in known if not day or k < day), key=lambda k: apart(k, told), default=None)
                if nearest:
                    yield Issue(kind="date", severity="minor", start=place[0], end=place[1], suggestion=nearest,
                                message=f"The case holds no examination of {told}; the nearest is of {nearest}.")  # fmt: skip


def _ahead(text: str) -> bool:
    return bool(re.search(r"\b(follow[\s-]?up|recommend|scheduled|planned|due|appointment|next)\b", text, re.I))


def _place(context: Context, start: int, end: int, told: str) -> tuple[int, int]:
    written = re.search(r"\d{4}-\d{2}-\d{2}|\d{1,2}[./]\d{1,2}[./]\d{4}|\d{1,2}/\d{4}", context.report.text[start:end])
    return (start + written.start(), start + written.end()) if written else (start, end)


def images(context: Context) -> Iterator[Issue]:
    """What the image tools found and the report doesn't have, or has otherwise."""
    for clash in clashes(context.case, list(context.image_facts), [context.report]) if context.case else []:
        span = next((f.source for f in clash.facts if not isinstance(f.source, ImageRef)), None)
        kind = "side" if " lies on the " in clash.statement else "count" if " marks " in clash.statement else "size"
        if span is not None:
            yield Issue(kind=kind, severity="critical" if kind == "side" else "major", start=getattr(span, "start", 0), end=getattr(span, "end", 0),  # type: ignore[arg-type]
                        message=clash.statement, facts=[f for f in clash.facts if isinstance(f.source, ImageRef)])  # fmt: skip
    marked = [f for f in context.image_facts if _lesion(f)]
    said = [m for m in context.mentions if m.finding == "lesion"]
    if marked and not any(m.there for m in said):
        denied = next((m for m in said if not m.there and not m.qualified), None)
        words = marked[0].statement.rstrip(".")
        if denied is not None:
            yield Issue(kind="contradiction", severity="critical", start=denied.sentence.start, end=denied.sentence.end,
                        message=f"The report denies a lesion; on the images: {words}.", facts=marked[:1])  # fmt: skip
        else:
            end = min(60, len(context.report.text))
            yield Issue(kind="unaddressed", severity="major", start=0, end=end, message=f"The report doesn't speak of what was marked on the images: {words}.",
                        facts=marked[:1])  # fmt: skip


def _lesion(fact: Fact) -> bool:
    value = fact.value if isinstance(fact.value, dict) else {}
    if fact.code == LESION:
        return value.get("count", 0) > 0 if "count" in value else value.get("label") not in ("none", None)
    return fact.code == WHOLE_TUMOUR and value.get("label") not in ("none", None)


def priors(context: Context) -> Iterator[Issue]:
    """Findings taken over word for word from an earlier report."""
    body = [s for s in context.body if s.part in ("FINDINGS", "") and len(s.text.split()) >= 2]
    for prior in reversed(context.priors):
        if not body or prior.id == context.report.id or not (prior.date or "") < (context.report.date or "9999"):
            continue
        before = {_plain(s.text): s for s in cut(prior.text)}
        same = [s for s in body if _plain(s.text) in before]
        sized = [s for s in same if any(z.mm and not z.prior for z in sizes(s.text))]
        for sentence in sized:
            size = next(z for z in sizes(sentence.text) if z.mm and not z.prior)
            place = _find(context.report.text, size.written, sentence.start, sentence.end)
            yield Issue(kind="copied", severity="major", start=place[0], end=place[1],
                        message=f"This sentence with its size stands word for word in the report of {prior.date or 'an earlier date'}: was it measured again?",
                        facts=[quoted(prior, before[_plain(sentence.text)])])  # fmt: skip
        told = any(len(s.text.split()) >= 5 for s in same)  # `no ascites` alone is how everyone writes it
        if len(body) >= 4 and len(same) / len(body) >= COPIED and not sized and told:
            yield Issue(kind="copied", severity="minor", start=same[0].start, end=same[-1].end,
                        message=f"{len(same)} of {len(body)} sentences of the findings stand word for word in the report of {prior.date or 'an earlier date'}.",
                        facts=[quoted(prior, before[_plain(same[0].text)])])  # fmt: skip
        if same:
            return


def _plain(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip()


def records(context: Context) -> Iterator[Issue]:
    """Status, performance, category or a procedure's date that the record gives otherwise."""
    if context.case is None:
        return
    for clash in clashes(context.case, list(context.records), [context.report]):
        span = next((f.source for f in clash.facts if getattr(f.source, "record_id", None) == context.report.id), None)
        kind = "date" if "dates " in clash.statement else "record"
        if span is not None:
            yield Issue(kind=kind, severity="major", start=getattr(span, "start", 0), end=getattr(span, "end", 0), message=clash.statement,  # type: ignore[arg-type]
                        facts=[f for f in clash.facts if getattr(f.source, "record_id", None) != context.report.id])  # fmt: skip
