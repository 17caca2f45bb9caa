"""Grade a free answer against the points of an item, and say what it lacks."""

import re
from dataclasses import dataclass

from knowledge.language import glossed, language_of
from knowledge.records.reading import certainty_of
from knowledge.teaching.items import Item, Point, Wrong

GIVEN_UP = re.compile(
    r"^\W*(i (?:don'?t|do not) know|no idea|skip|next|pass|weiß (?:ich )?nicht|keine ahnung|je ne sais pas|no (?:lo )?sé|不知道|下一题)\W*$",
    re.I,
)
STOP = re.compile(r"^\W*(stop|quit|end|exit|enough|finish)\b.{0,30}$", re.I)
NUMBER = re.compile(r"(\d+(?:[.,]\d+)?)\s*(mm|cm|ml)?", re.I)


@dataclass(frozen=True)
class Grade:
    """The points that an answer has and lacks, and what it states wrongly. `score` is its share of the weights, less a half for what is wrong."""

    has: list[Point]
    lacks: list[Point]
    wrong: list[Wrong]
    score: float


def grade(item: Item, answer: str) -> Grade:
    """The grade of an answer in any language of the glossary; a point that is denied isn't named."""
    plain = re.sub(r"^\W*(no|yes|nein|ja|non|oui|sí|不|是)\b[\s,:.]*", "", answer, flags=re.I)
    english = glossed(plain, language_of(answer))
    has = [p for p in item.points if _named(p, english)]
    lacks = [p for p in item.points if p not in has]
    wrong = [
        w
        for w in item.wrong
        if (m := re.search(w.words, english, re.I)) and certainty_of(english, m.start(), m.end()) != "negated"
    ]
    total = sum(p.weight for p in item.points)
    share = sum(p.weight for p in has) / total
    return Grade(has, lacks, wrong, round(max(0.0, share - 0.5 * len(wrong) / len(item.points)), 2))


def _named(point: Point, english: str) -> bool:
    if (span := re.match(r"^number:(\d+(?:\.\d+)?):(\d+(?:\.\d+)?):(\w+)$", point.words)) is not None:
        low, high, unit = float(span.group(1)), float(span.group(2)), span.group(3).lower()
        return any(low <= _in(n, u, unit) <= high for n, u in NUMBER.findall(english))
    for part in re.split(r"(?<=[.!?])\s+|\n", english):
        match = re.search(point.words, part, re.I)
        if match is not None and (point.denies or certainty_of(part, match.start(), match.end()) != "negated"):
            return True
    return False


def _in(number: str, unit: str, wanted: str) -> float:
    value = float(number.replace(",", "."))
    return value * 10 if unit.lower() == "cm" and wanted == "mm" else value
