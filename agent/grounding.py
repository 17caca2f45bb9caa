"""Hold each statement against the evidence that it cites.

Numbers with units, dates, codes and categories, sides and places, what excludes each other (methylated or not, grew or shrank), named things,
negation and certainty. What is written in another language is put into English first, by the glossary that questions are read with.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from agent.grounding_terms import CERTAIN, CODES, DOUBT, ENTITIES, MOST, NEGATION, NOT_DENIED, NUMBER_WORDS, OPPOSITES, UNITS
from knowledge.evidence import Evidence, RuleRef
from knowledge.language import glossed, language_of

_UNIT = "|".join(sorted(map(re.escape, UNITS), key=len, reverse=True))
_NUMBER = re.compile(rf"(?<![\w.])([-−]?\d+(?:\.\d+)?)\s*(?:({_UNIT})(?![\w²³/]))?", re.I)
_DATE = re.compile(r"(?<!\d)(\d{4})-(\d{2})-(\d{2})(?!\d)|(?<!\d)(\d{1,2})\.(\d{1,2})\.(\d{4})(?!\d)")
_CITED = re.compile(r"\[E\d+\]|\b[SR]\d+(\.\d+)?\b|\bE\d+\b")
_SIDES = {
    "left": r"\bleft\b|\blinks?\b|\blinken?\b|左|\bizquierd|\bgauche\b",
    "right": r"\bright\b|\brecht\w*|右|\bderech|\bdroite?\b",
}


def problems(text: str, cited: Sequence[Evidence]) -> list[str]:
    """Why `text` isn't carried by `cited`; empty where it is."""
    if not cited:
        return ["it cites no evidence"]
    if len(cited) == 1 and text.strip() == cited[0].statement.strip():
        return []  # the evidence's own sentence
    source = " ".join(f"{e.statement} {e.title} {_words(e.value)} {e.unit or ''} {_inputs(e)}" for e in cited)
    theirs, said = _points(source), _points(_CITED.sub(" ", text))
    there, here = _english(theirs), _english(said)
    found = _dates(said, theirs)
    said, theirs = _DATE.sub(" ", said), _DATE.sub(" ", theirs)
    found += _codes(said, theirs)
    found += _numbers_differ(said, theirs, cited)
    found += [f"the side '{side}' isn't in the cited evidence" for side, pattern in _SIDES.items()
              if re.search(pattern, text, re.I) and not re.search(pattern, source, re.I)]  # fmt: skip
    found += _excluded(here, there) + _strangers(here, there)
    found += _denial(here, there, cited)
    return found + _certainty(here, " ".join([there, *(e.statement for e in cited)]), cited)


@lru_cache(maxsize=2048)
def _english(text: str) -> str:
    return f"{text} {glossed(text, language_of(text))}".lower()


def _inputs(evidence: Evidence) -> str:
    if not isinstance(evidence.source, RuleRef):
        return ""
    return f"{_words(evidence.source.inputs).replace('_', ' ')} {evidence.source.section}"


def _dates(said: str, theirs: str) -> list[str]:
    known = {_day(m) for m in _DATE.finditer(theirs)}
    return [f"the date {m.group(0)} isn't in the cited evidence" for m in _DATE.finditer(said) if _day(m) not in known]


def _day(match: re.Match[str]) -> tuple[int, int, int]:
    year, month, day, d, m, y = match.groups()
    return (int(year), int(month), int(day)) if year else (int(y), int(m), int(d))


def _codes(said: str, theirs: str) -> list[str]:
    """Categories and codes (LR-5, 4B, T2a, IIIB, G12C, PD) that the evidence doesn't have."""
    found = []
    for kind, pattern in CODES.items():
        known = {_plain(m.group("code")) for m in pattern.finditer(theirs)}
        loose = _plain(theirs)
        for match in pattern.finditer(said):
            code = _plain(match.group("code"))
            if code not in known and (known or not re.search(rf"(?<![a-z0-9]){re.escape(code)}(?![a-z0-9])", loose)):
                found.append(f"the {kind} {match.group(0).strip()} isn't in the cited evidence")
    return found


def _plain(code: str) -> str:
    return re.sub(r"[\s-]+", "-", code.lower())


def _numbers_differ(said: str, theirs: str, cited: Sequence[Evidence]) -> list[str]:
    known = [_scaled(float(m.group(1).replace("−", "-")), m.group(2)) for m in _NUMBER.finditer(theirs)]
    known += [_scaled(float(n), None) for w, n in NUMBER_WORDS.items() if re.search(rf"\b{w}\b", theirs, re.I)]
    known += [_scaled(float(e.value), e.unit) for e in cited if isinstance(e.value, int | float)]
    known += [_scaled(end, e.unit) for e in cited for end in e.interval or []]
    spelled = {
        w: n
        for w, n in NUMBER_WORDS.items()
        if re.search(rf"\b{w}\b (?:\w+ )?(?:lesions?|nodules?|metast\w+|mets|masses|series|studies|cysts?|foci)", said, re.I)
    }
    wrong = [f"the number {written} isn't in the cited evidence" for number, written in _numbers(said)
             if not any(_same(number, other) for other in known)]  # fmt: skip
    return wrong + [
        f"the number {w} isn't in the cited evidence" for w, n in spelled.items() if not any(n == k[0] for k in known)
    ]


def _excluded(here: str, there: str) -> list[str]:
    """Words that say the opposite of what the evidence says, on the same thing."""
    found = []
    for group in OPPOSITES:
        mine = {name for name, pattern in group.items() if pattern.search(here)}
        theirs = {name for name, pattern in group.items() if pattern.search(there)}
        if mine and theirs and mine - theirs:
            found.append(f"it says {', '.join(sorted(mine - theirs))} where the cited evidence says {', '.join(sorted(theirs))}")
    return found


def _strangers(here: str, there: str) -> list[str]:
    """Organs, diseases, markers and drugs that the evidence doesn't name."""
    return [
        f"'{name}' isn't in the cited evidence"
        for name, pattern in ENTITIES.items()
        if pattern.search(here) and not pattern.search(there)
    ]


def _denial(here: str, there: str, cited: Sequence[Evidence]) -> list[str]:
    mine, theirs = _denies(here), _denies(there)
    if mine and not theirs:
        return ["it denies what the cited evidence doesn't deny"]
    told = [str(e.value) if e.kind == "report" else e.statement.split(";")[0] for e in cited if e.kind in ("report", "finding")]
    if not mine and len(told) == len(cited) and all(_denies(_english(t)) for t in told):
        return ["it affirms what the cited evidence denies"]
    return []


def _denies(text: str) -> bool:
    return bool(NEGATION.search(NOT_DENIED.sub(" ", text)))


def _certainty(here: str, there: str, cited: Sequence[Evidence]) -> list[str]:
    """More certain than the evidence: doubt left out, or a probability told as a fact."""
    if re.search(r"excludes? none|doesn't exclude|does not exclude", there) and re.search(
        r"\b(is|are) excluded\b|\bruled out\b", here
    ):
        return ["it excludes what the cited evidence doesn't exclude"]
    probable = [e for e in cited if isinstance(e.value, dict) and "probability" in e.value]
    told = " ".join(_english(str(e.value if e.kind == "report" else e.statement)) for e in cited)
    doubted = bool(DOUBT.search(told)) or bool(probable)
    for label in [str(e.value["label"]).lower() for e in probable if "label" in e.value]:
        if MOST.search(here) and not (ENTITIES[label].search(here) if label in ENTITIES else label in here):
            return [f"it calls something else than {label} most likely"]
    if doubted and not DOUBT.search(here) and not (probable and re.search(r"%|probabil|\bp ?=|0\.\d", here)):
        return ["it is more certain than the cited evidence"]
    if CERTAIN.search(here) and not CERTAIN.search(there):
        return ["it is more certain than the cited evidence"]
    return []


def _points(text: str) -> str:
    """Decimal commas as points; commas between thousands taken out."""
    return re.sub(r"(\d),(\d)", r"\1.\2", re.sub(r"(\d),(\d{3})(?!\d)", r"\1\2", text))


def _words(value: object) -> str:
    return " ".join(map(str, _flat(value)))


def _flat(value: object) -> list[object]:
    if isinstance(value, dict):
        return [x for k, v in value.items() for x in (k, *_flat(v))]
    if isinstance(value, list | tuple):
        return [x for v in value for x in _flat(v)]
    if isinstance(value, float) and 0 <= value <= 1:
        return [value, round(100 * value, 1), round(100 * value)]
    return [value]


Quantity = tuple[float, str]


def _scaled(number: float, unit: str | None) -> Quantity:
    name, factor = UNITS.get((unit or "").lower(), ("", 1.0))
    return number * factor, name


def _numbers(text: str) -> list[tuple[tuple[Quantity, float], str]]:
    """Numbers of `text` in common units, with half of their last decimal as tolerance."""
    found = []
    for match in _NUMBER.finditer(text):
        places = len(match.group(1).partition(".")[2])
        scale = _scaled(1.0, match.group(2))[0]
        tolerance = 0.5 * 10**-places * scale * 1.0001
        number = float(match.group(1).replace("−", "-"))
        found.append(((_scaled(number, match.group(2)), tolerance), match.group(0).strip()))
    return found


def _same(number: tuple[Quantity, float], other: Quantity) -> bool:
    (value, unit), tolerance = number
    if unit and unit != other[1]:
        return False
    return abs(value - other[0]) <= max(tolerance, 1e-9) or abs(value + other[0]) <= 1e-9 < abs(value)
