"""What a sentence of a report asserts: negated or uncertain, which side, which sizes (with unit and date), what it recommends."""

import re
from dataclasses import dataclass, field
from functools import cache

from knowledge.records.reports import words

Certainty = str
"""`affirmed`, `negated` or `uncertain`."""
SCOPE = 60
"""Characters after a negation that it reaches (NegEx counts some five words), unless a conjunction ends it."""
_CM = {"cm": 10.0, "mm": 1.0, "厘米": 10.0, "毫米": 1.0}
_NUMBER = r"\d+(?:[.,]\d+)?"
_SIZE = re.compile(
    rf"(?<![\d./-])(?<!\d,)(?P<a>{_NUMBER})\s*(?:(?:mm|cm)\s*)?(?:[x×*]\s*(?P<b>{_NUMBER})\s*(?:(?:mm|cm)\s*)?(?:[x×*]\s*(?P<c>{_NUMBER})\s*)?)?"
    r"(?P<unit>mm|cm|厘米|毫米)(?![a-z²³\d])",
    re.I,
)
_VOLUME = re.compile(rf"(?<![\d.])(?<!\d,)(?P<a>{_NUMBER})\s*(?:ml|cm³|cm3|cc|毫升)(?![a-z])", re.I)
_DAY = re.compile(r"(\d{4})-(\d{2})-(\d{2})|(\d{1,2})[./](\d{1,2})[./](\d{4})|(\d{1,2})/(\d{4})")
_STOP = re.compile(r"[,;，；]|\bbut\b|\bhowever\b|\baber\b|\bjedoch\b|\bmais\b|\bpero\b|但|\bwith(?!out)\b|\bwhich\b")
_INTERVAL = re.compile(
    r"(?<!\d)(?:\b(?:in|after|at|within|nach|dans|à|en|a los)\s+)?(\d+)\s*(?:(?:-|–|to|bis|à|a)\s*(\d+)\s*)?"
    r"(days?|weeks?|months?|years?|tage?n?|wochen?|monate?n?|jahre?n?|jours?|semaines?|mois|ans?|días?|semanas?|meses|mes|años?|天|周|个月|月|年)",
    re.I,
)


@dataclass(frozen=True)
class Size:
    """Sizes written together, largest first, in mm; or a volume in mL. `prior`: said of an earlier examination; `date` if it is named."""

    mm: tuple[float, ...] = ()
    ml: float | None = None
    written: str = ""
    prior: bool = False
    date: str | None = None
    start: int = 0


@dataclass(frozen=True)
class Reading:
    """What one sentence asserts."""

    certainty: Certainty = "affirmed"
    sides: frozenset[str] = frozenset()
    sizes: tuple[Size, ...] = ()
    recommends: bool = False
    interval: str | None = None
    """The time that a recommendation names, as it is written."""
    cues: tuple[str, ...] = field(default=())
    """The words that made it negated or uncertain."""


@cache
def _patterns(kind: str) -> tuple[re.Pattern[str], ...]:
    listed = words()[kind]
    flat = [p for group in listed.values() for p in group] if isinstance(listed, dict) else listed
    return tuple(re.compile(p, re.I) for p in flat)


@cache
def _side_patterns() -> dict[str, tuple[re.Pattern[str], ...]]:
    return {side: tuple(re.compile(p, re.I) for p in patterns) for side, patterns in words()["sides"].items()}


def read(text: str) -> Reading:
    """The reading of a sentence as a whole."""
    certainty, cues = _overall(text)
    asked = [m for p in _patterns("recommendation") for m in p.finditer(text)]
    recommends = any(not _denied(text, m.start(), m.end()) for m in asked)
    interval = _INTERVAL.search(text) if recommends else None
    return Reading(certainty, sides(text), tuple(sizes(text)), recommends, interval.group(0).strip() if interval else None, cues)


def _overall(text: str) -> tuple[Certainty, tuple[str, ...]]:
    doubtful = [m.group(0) for p in _patterns("uncertainty") if (m := p.search(text))]
    if doubtful:
        return "uncertain", tuple(dict.fromkeys(doubtful))
    denied = [m for p in _patterns("negation") if (m := p.search(text))]
    if not denied:
        return "affirmed", ()
    first = min(denied, key=lambda m: m.start())
    # a negation late in the sentence denies a part of it, not the finding that it opens with
    opening = _STOP.split(text[: first.start()])[0]
    whole = len(opening.split()) <= 7 and not _STOP.search(text[: first.start()])
    return ("negated" if whole else "affirmed"), tuple(dict.fromkeys(m.group(0) for m in denied))


def certainty_of(text: str, start: int, end: int) -> Certainty:
    """How the words [start, end) of a sentence are asserted."""
    if _denied(text, start, end):
        return "negated"
    return "uncertain" if any(p.search(text) for p in _patterns("uncertainty")) else "affirmed"


def _denied(text: str, start: int, end: int) -> bool:
    for pattern in _patterns("negation"):
        for match in pattern.finditer(text):
            after = text[match.end() : start] if match.end() <= start else None
            if after is not None and len(after) <= SCOPE and not _STOP.search(after):
                return True
    return any(
        (m := p.search(text, end)) and m.start() - end <= 25 and not _STOP.search(text[end : m.start()])
        for p in _patterns("denied_after")
    )


def sides(text: str) -> frozenset[str]:
    """left, right, both: the sides that are named."""
    found = {side for side, patterns in _side_patterns().items() if any(p.search(text) for p in patterns)}
    return frozenset({"left", "right", "both"} if "both" in found else found)


def sizes(text: str) -> list[Size]:
    """Every size and volume that is written, in order; sizes in mm whatever they were written in."""
    found = []
    for match in _SIZE.finditer(text):
        factor = _CM[match.group("unit").lower()]
        numbers = [float(v.replace(",", ".")) * factor for v in match.group("a", "b", "c") if v]
        found.append(Size(tuple(sorted((round(n, 2) for n in numbers), reverse=True)), None, match.group(0),
                          *_when(text, match.start(), match.end()), match.start()))  # fmt: skip
    for match in _VOLUME.finditer(text):
        found.append(Size((), float(match.group("a").replace(",", ".")), match.group(0), *_when(text, match.start(), match.end()),
                          match.start()))  # fmt: skip
    return sorted(found, key=lambda s: s.start)


def _when(text: str, start: int, end: int) -> tuple[bool, str | None]:
    """Whether the size at [start, end) is of an earlier examination, and the date beside it."""
    head = re.split(r"[,;(，（]", text[:start])[-1][-40:]
    tail = re.split(r"[,;)，）(（]", text[end:])[0][:40]
    prior = any(p.search(head) for p in _patterns("prior")) or bool(
        re.match(r"\s*(before|previously|zuvor|avant|antes|on prior)", tail, re.I)
    )
    day = _DAY.search(head) or _DAY.search(tail)
    return prior, _iso(day) if day else None


def dated(text: str) -> list[str]:
    """The dates that a sentence names, ISO, as fine as they are written."""
    return [_iso(m) for m in _DAY.finditer(text)]


def _iso(match: re.Match[str]) -> str:
    y, m, d, day, month, year, only_month, only_year = match.groups()
    if y:
        return f"{y}-{m}-{d}"
    return f"{year}-{int(month):02d}-{int(day):02d}" if year else f"{only_year}-{int(only_month):02d}"
