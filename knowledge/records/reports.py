"""Sections and sentences of a report, each with its character span."""

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

# A sentence ends at . ! or ? before white space and a capital, not after a unit's or a title's abbreviation; in Chinese at its own stops.
_END = re.compile(
    r"(?<!\bDr)(?<!\bca)(?<!\bapprox)(?<!\bNr)(?<!\bbzw)(?<!\bz\.B)(?<!\bv\.a)[.!?](?:[\"”»](?=\s))?(?=\s+[A-ZÄÖÜÀÉÈÊÎÔÁÍÓÚÑ¿0-9(]|\s*$)|[。！？；]|\n\s*\n|\n(?=\s*[-*•])"
)
_DATE = re.compile(
    r"^[ \t]*(?:DATE|STUDY DATE|EXAM(?:INATION)? DATE|DATUM|FECHA|日期|检查日期)[ \t]*[:：][ \t]*(\d{4}-\d{2}-\d{2})", re.M | re.I
)
_TITLE = re.compile(
    r"^[ \t]*(?:EXAMINATION|EXAM|STUDY|PROCEDURE|REPORT|UNTERSUCHUNG|EXAMEN|ESTUDIO|检查项目)[ \t]*[:：][ \t]*(\S.*)$",
    re.M | re.I,
)
_HEADING = re.compile(
    r"\s*(?![^\n]*(?:compar|prior|previous|vorunter|vergleich|anterior|antérieur|对比|既往|与))(\S[^\n:：]{2,100}?)[ \t,(（]+(\d{4}-\d{2}-\d{2})[)）]?[ \t]*(?:\n|$)",
    re.I,
)
"""A first line that names the examination and ends with its date."""


@dataclass(frozen=True)
class Sentence:
    """One sentence: characters [start, end) of the report, the heading it stands under, and the section's one name (`part`)."""

    text: str
    section: str
    start: int
    end: int
    part: str = ""


@cache
def words() -> dict[str, Any]:
    """The word lists of reports, by language (language.yaml)."""
    loaded: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "language.yaml").read_text(encoding="utf-8"))
    return loaded


@cache
def _headings() -> dict[str, str]:
    """Heading in lower case -> name of its section; a heading that two sections claim goes to the first."""
    found: dict[str, str] = {}
    for part, names in words()["sections"].items():
        for name in names:
            found.setdefault(name.lower(), part)
    return found


@cache
def _section() -> re.Pattern[str]:
    names = "|".join(re.escape(n) for n in sorted(_headings(), key=len, reverse=True))
    return re.compile(
        rf"(?:^|(?<=[.!?])[ \t])[ \t]*(?:\*\*|#+ )?[【\[]?(?P<name>{names})[】\]]?(?:\*\*)?[ \t]*[:：]?(?:\*\*)?[ \t]*(?=\n|\S)",
        re.M | re.I,
    )


def _is_heading(match: re.Match[str], text: str) -> bool:
    written = match.group(0).rstrip()
    alone = text[match.end() :].split("\n", 1)[0].strip() == ""
    name = match.group("name")
    if match.start() and text[match.start() - 1] != "\n":  # within a line: a pasted report without line breaks
        return name.isupper() and name.isascii() and written.rstrip("*").endswith(":")
    marked = written.rstrip("*").endswith((":", "：")) or any(c in written for c in "【[#")
    return marked or (name.isupper() and (name.isascii() or alone)) or (alone and not name.isascii())


def sentences(text: str) -> list[Sentence]:
    """The report's sentences in order; a section's heading belongs to none."""
    marks = [m for m in _section().finditer(text) if _is_heading(m, text)]
    bounds = [("", "", 0, marks[0].start() if marks else len(text))]
    for here, following in zip(marks, [*marks[1:], None][: len(marks)], strict=True):
        name = here.group("name")
        bounds.append((name.upper(), _headings()[name.lower()], here.end(), following.start() if following else len(text)))
    found = []
    for section, part, start, end in bounds:
        found += _split(text, section, part, start, end)
    return found


@lru_cache(maxsize=512)
def cut(text: str) -> tuple[Sentence, ...]:
    """As `sentences`, kept: a question reads the same reports many times."""
    return tuple(sentences(text))


def _split(text: str, section: str, part: str, start: int, end: int) -> list[Sentence]:
    found, here = [], start
    for stop in [*(m.end() for m in _END.finditer(text, start, end)), end]:
        piece = text[here:stop]
        left = len(piece) - len(piece.lstrip(" \t\r\n-*•"))
        body = piece.strip(" \t\r\n-*•")
        if body:
            found.append(Sentence(re.sub(r"\s+", " ", body), section, here + left, here + left + len(body), part))
        here = stop
    return found


def date_of(text: str) -> str | None:
    """The date that the report states for itself (ISO), if it does."""
    match = _DATE.search(text)
    heading = _HEADING.match(text)
    return match.group(1) if match else heading.group(2) if heading else None


def title_of(text: str) -> str | None:
    """What the report says it is about, if it does."""
    match = _TITLE.search(text) or _HEADING.match(text)
    return match.group(1).strip() if match else None
