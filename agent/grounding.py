"""Hold each statement against the evidence that it cites: numbers with units, sides, dates, negation."""

import re
from collections.abc import Sequence

from knowledge.evidence import Evidence

# To a common unit: length mm, area mm2, volume mL. Both spellings of each language in use.
_UNITS = {"mm": ("mm", 1.0), "cm": ("mm", 10.0), "µm": ("mm", 0.001), "mm2": ("mm2", 1.0), "mm²": ("mm2", 1.0),
          "cm2": ("mm2", 100.0), "cm²": ("mm2", 100.0), "ml": ("ml", 1.0), "cm3": ("ml", 1.0), "cm³": ("ml", 1.0),
          "cc": ("ml", 1.0), "mm3": ("ml", 0.001), "mm³": ("ml", 0.001), "l": ("ml", 1000.0), "毫米": ("mm", 1.0),
          "厘米": ("mm", 10.0), "毫升": ("ml", 1.0)}  # fmt: skip
_NUMBER = re.compile(
    r"(?<![\w.])(-?\d+(?:\.\d+)?)\s*(mm²|mm³|cm²|cm³|mm2|mm3|cm2|cm3|mm|cm|µm|mL|ml|cc|毫米|厘米|毫升|l)?(?![\w²³])"
)
_SIDES = {
    "left": r"\bleft\b|\blinks?\b|\blinken?\b|左|\bizquierd|\bgauche\b",
    "right": r"\bright\b|\brecht\w*|右|\bderech|\bdroite?\b",
}
_NEGATION = re.compile(r"\b(no|not|without|none|never|kein\w*|nicht|ohne|sin|pas|sans)\b|没有|无|未|不", re.IGNORECASE)
_CITED = re.compile(r"\[E\d+\]|\b[SR]\d+(\.\d+)?\b|\bE\d+\b")


def problems(text: str, cited: Sequence[Evidence]) -> list[str]:
    """Why `text` isn't carried by `cited`; empty where it is."""
    if not cited:
        return ["it cites no evidence"]
    source = " ".join(f"{e.statement} {e.title} {_words(e.value)} {e.unit or ''}" for e in cited)
    found = []
    text, source = _points(text), _points(source)
    theirs = [_scaled(float(m.group(1)), m.group(2)) for m in _NUMBER.finditer(source)]
    theirs += [_scaled(float(e.value), e.unit) for e in cited if isinstance(e.value, int | float)]
    theirs += [_scaled(end, e.unit) for e in cited for end in e.interval or []]
    for number, spelled in _numbers(_CITED.sub(" ", text)):
        if not any(_same(number, other) for other in theirs):
            found.append(f"the number {spelled} isn't in the cited evidence")
    for side, pattern in _SIDES.items():
        if re.search(pattern, text, re.I) and not re.search(pattern, source, re.I):
            found.append(f"the side '{side}' isn't in the cited evidence")
    if bool(_NEGATION.search(text)) and not _NEGATION.search(source):
        found.append("it denies what the cited evidence doesn't deny")
    quoted = [e for e in cited if e.kind == "report"]
    if (
        quoted
        and all(_NEGATION.search(str(e.value)) for e in quoted)
        and len(cited) == len(quoted)
        and not _NEGATION.search(text)
    ):
        found.append("it affirms what the cited report denies")
    return found


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
    name, factor = _UNITS.get((unit or "").lower(), ("", 1.0))
    return number * factor, name


def _numbers(text: str) -> list[tuple[tuple[Quantity, float], str]]:
    """Numbers of `text` in common units, with half of their last decimal as tolerance."""
    found = []
    for match in _NUMBER.finditer(text):
        places = len(match.group(1).partition(".")[2])
        scale = _scaled(1.0, match.group(2))[0]
        tolerance = 0.5 * 10**-places * scale * 1.0001
        found.append(((_scaled(float(match.group(1)), match.group(2)), tolerance), match.group(0).strip()))
    return found


def _same(number: tuple[Quantity, float], other: Quantity) -> bool:
    (value, unit), tolerance = number
    if unit and other[1] and unit != other[1]:
        return False
    if bool(unit) != bool(other[1]) and unit:
        return False
    return abs(value - other[0]) <= max(tolerance, 1e-9)
