"""Follow-ups that reports recommend: what, until when, and whether it was done."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

from knowledge.language import glossed, language_of
from knowledge.records.model import Report
from knowledge.records.reading import dated, read
from knowledge.records.reports import Sentence, cut
from knowledge.studies.model import Study
from knowledge.studies.which import body_part_of

GRACE_DAYS = 30
"""A follow-up counts as overdue this many days after its due date: appointments slip by a few weeks."""
EARLY = 0.5
"""An examination counts as the follow-up from this share of the interval on: an earlier one was for something else."""
DAYS = {"day": 1.0, "week": 7.0, "month": 30.44, "year": 365.25}
_UNITS = {"day": r"days?|tage?n?|jours?|días?|天", "week": r"weeks?|wochen?|semaines?|semanas?|周", "month": r"months?|monate?n?|mois|mes(?:es)?|个月|月",
          "year": r"years?|jahre?n?|ans?|años?|年"}  # fmt: skip
_SPAN = re.compile(
    rf"(\d+)\s*(?:(?:-|–|to|bis|à|a|至)\s*(\d+)\s*)?[- ]?({'|'.join(f'(?:{p})' for p in _UNITS.values())})(?![a-z])", re.I
)
_WORDS = {"one": "1", "two": "2", "three": "3", "four": "4", "six": "6", "twelve": "12", "eighteen": "18"}
_ANNUAL = re.compile(r"\b(annual\w*|yearly|every year|jährlich|anual|annuel\w*)\b|每年", re.I)
_MODALITIES = {"MR": r"\bmri?\b|\bmrt\b|\birm\b|\brm\b|magnet|磁共振", "CT": r"\bct\b|\bldct\b|tomogra|\btc\b|\bscanner\b|\btac\b", "US": r"ultraso|sonogra|ecogra|échogra|超声|\bus\b",
               "MG": r"mammogra|mamogra", "PT": r"\bpet\b|\btep\b", "XR": r"radiogra|x-?ray|röntgen"}  # fmt: skip
_NOT_IMAGING = re.compile(r"\b(biops|referral|consult|surgery|resection|board|mdt|correlat)\w*", re.I)
_FOLLOW = re.compile(
    r"follow[\s-]?up|kontrolle|contrôle|seguimiento|控制|复查|随访|\brepeat|surveillance|\bagain\b|re-?evaluat", re.I
)
Status = Literal["done", "due", "overdue", "undated"]


@dataclass(frozen=True)
class FollowUp:
    """One recommended follow-up. Dates are whole days (ISO); `due` is the end of the interval that the report names."""

    report: Report
    sentence: Sentence
    modalities: tuple[str, ...]
    body_part: str
    earliest: str | None
    due: str | None
    status: Status
    done_by: str | None = None
    """Handle of the examination that answers it."""


def modalities_of(text: str) -> tuple[str, ...]:
    """The imaging modalities that a text names, as DICOM writes them."""
    return tuple(m for m, p in _MODALITIES.items() if re.search(p, text, re.I))


def follow_ups(reports: Sequence[Report], studies: Sequence[Study], today: date) -> list[FollowUp]:
    """Every follow-up that the reports recommend, the most overdue first; undated reports are left out."""
    found = []
    for report in reports:
        if not report.date or len(report.date) != 10:
            continue
        for sentence in cut(report.text):
            if sentence.part in ("INDICATION", "TECHNIQUE", "COMPARISON"):
                continue
            one = _read(report, sentence, studies, today)
            if one is not None:
                found.append(one)
    rank = {"overdue": 0, "due": 1, "undated": 2, "done": 3}
    return sorted(_once(found), key=lambda f: (rank[f.status], f.due or ""))


def _once(found: list[FollowUp]) -> list[FollowUp]:
    return list({(f.report.id, f.due, f.modalities): f for f in found}.values())


def _read(report: Report, sentence: Sentence, studies: Sequence[Study], today: date) -> FollowUp | None:
    english = glossed(sentence.text, language_of(sentence.text)) if not sentence.text.isascii() else sentence.text
    both = f"{sentence.text} {english}"
    closing = sentence.part in ("IMPRESSION", "CONCLUSION", "RECOMMENDATION", "DIAGNOSIS")
    modalities = modalities_of(both)
    span = interval_days(both)
    asks = read(sentence.text).recommends or bool(_FOLLOW.search(both)) or (closing and bool(modalities) and span is not None)
    denied = re.search(
        r"\bno (?:routine |further )?(?:follow|imaging)|\bnot? (?:needed|necessary|required)|keine? .{0,20}kontrolle", both, re.I
    )
    if not asks or denied or (_NOT_IMAGING.search(both) and not modalities) or (span is None and not _FOLLOW.search(both)):
        return None
    if re.search(r"\b(before|previously|unchanged|since|compared)\b", both, re.I) and not read(sentence.text).recommends:
        return None
    day = date.fromisoformat(report.date or "")
    part = body_part_of(f"{sentence.text} {report.title} {report.text[:400]}")
    named = next((d for d in dated(sentence.text) if len(d) == 10 and d > (report.date or "")), None)
    earliest = (day + timedelta(days=round(EARLY * span[0]))).isoformat() if span else named
    due = (day + timedelta(days=round(span[1]))).isoformat() if span else named
    done = _done(report, studies, modalities, part, earliest)
    status: Status
    if done is not None:
        status = "done"
    elif due is None:
        status = "undated"
    else:
        status = "overdue" if today > date.fromisoformat(due) + timedelta(days=GRACE_DAYS) else "due"
    return FollowUp(report, sentence, modalities, part, earliest, due, status, done)


def interval_days(text: str) -> tuple[float, float] | None:
    """The first interval that a text names, in days: least and greatest; None where it names none."""
    plain = re.sub(rf"\b({'|'.join(_WORDS)})\b", lambda m: _WORDS[m.group(1).lower()], text, flags=re.I)
    for match in _SPAN.finditer(plain):
        after = plain[match.end() : match.end() + 4]
        if re.match(r"[\s-]*(old|alt)\b", after, re.I):
            continue
        unit = next(u for u, p in _UNITS.items() if re.fullmatch(p, match.group(3), re.I))
        low, high = float(match.group(1)), float(match.group(2) or match.group(1))
        return low * DAYS[unit], max(low, high) * DAYS[unit]
    return (DAYS["year"], DAYS["year"]) if _ANNUAL.search(plain) else None


def _done(report: Report, studies: Sequence[Study], modalities: tuple[str, ...], part: str, earliest: str | None) -> str | None:
    """The first later examination of the same part by a named modality, not before its time."""
    for study in sorted(studies, key=lambda s: s.date or ""):
        if not study.date or study.date <= (report.date or "") or (earliest and study.date < earliest):
            continue
        theirs = {"PT" if m in ("PT", "PET") else m for m in study.image_modalities}
        fits = not modalities or bool(set(modalities) & theirs)
        same = (
            not part
            or not study.body_part
            or part.upper() == study.body_part.upper()
            or body_part_of(study.description).upper() == part.upper()
        )
        if fits and same:
            return study.handle
    return None
