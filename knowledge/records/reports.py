"""Sections and sentences of a report, each with its character span."""

import re
from dataclasses import dataclass

_SECTION = re.compile(
    r"^[ \t]*(?P<name>CLINICAL (?:HISTORY|INFORMATION)|HISTORY|INDICATION|TECHNIQUE|COMPARISON|FINDINGS|IMPRESSION|CONCLUSION|"
    r"DIAGNOSIS|RECOMMENDATION|BEFUND|BEURTEILUNG|INDIKATION|TECHNIK)[ \t]*:?[ \t]*(?=\n|\S)",
    re.MULTILINE | re.IGNORECASE,
)
# A sentence ends at . ! or ? before white space and a capital, not after a unit's or a title's abbreviation.
_END = re.compile(r"(?<!\bDr)(?<!\bca)(?<!\bapprox)[.!?](?=\s+[A-ZÄÖÜ0-9(]|\s*$)|\n\s*\n|\n(?=\s*[-*•])")
_DATE = re.compile(r"^[ \t]*(?:DATE|STUDY DATE|EXAM(?:INATION)? DATE|DATUM)[ \t]*:[ \t]*(\d{4}-\d{2}-\d{2})", re.M | re.I)
_TITLE = re.compile(r"^[ \t]*(?:EXAMINATION|EXAM|STUDY|PROCEDURE|REPORT)[ \t]*:[ \t]*(\S.*)$", re.M | re.I)


@dataclass(frozen=True)
class Sentence:
    """One sentence: characters [start, end) of the report, and the section that it stands in."""

    text: str
    section: str
    start: int
    end: int


def sentences(text: str) -> list[Sentence]:
    """The report's sentences in order; a section's heading belongs to none."""
    marks = [m for m in _SECTION.finditer(text) if m.group(0).rstrip().endswith(":") or m.group("name").isupper()]
    bounds = [("", 0, marks[0].start() if marks else len(text))]
    for here, following in zip(marks, [*marks[1:], None], strict=True):
        bounds.append((here.group("name").upper(), here.end(), following.start() if following else len(text)))
    found = []
    for section, start, end in bounds:
        found += _split(text, section, start, end)
    return found


def _split(text: str, section: str, start: int, end: int) -> list[Sentence]:
    found, here = [], start
    for stop in [*(m.end() for m in _END.finditer(text, start, end)), end]:
        piece = text[here:stop]
        left = len(piece) - len(piece.lstrip(" \t\r\n-*•"))
        body = piece.strip(" \t\r\n-*•")
        if body:
            found.append(Sentence(re.sub(r"\s+", " ", body), section, here + left, here + left + len(body)))
        here = stop
    return found


def date_of(text: str) -> str | None:
    """The date that the report states for itself (ISO), if it does."""
    match = _DATE.search(text)
    return match.group(1) if match else None


def title_of(text: str) -> str | None:
    """What the report says it is about, if it does."""
    match = _TITLE.search(text)
    return match.group(1).strip() if match else None
