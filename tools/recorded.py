"""A value of the record as a fact: its sentence, with reference range, trend, other unit and age."""

from datetime import date

from knowledge.case import Case
from knowledge.evidence import Fact, Kind, RecordRef
from knowledge.records.model import RecordItem, spelled
from knowledge.records.units import MOLAR, convert, ucum


def said(item: RecordItem) -> str:
    """The item as a sentence, with its date."""
    when = f" ({item.date})" if item.date else ""
    if item.value is None:
        status = f", {item.status}" if item.status else ""
        return f"The record lists the {item.category} {item.name}{status}{when}."
    return f"The record gives {item.name}: {item.value}{spelled(item.unit)}{when}."


def record_fact(item: RecordItem, case: Case, unit: str | None = None) -> Fact:
    """The newest value as a fact: with reference range, change since the value before, and how old it is."""
    more = [*_range(item), *_converted(item, unit), *_trend(item, case.items), *_age(item, case)]
    statement = said(item)[:-1] + "".join(f"; {m}" for m in more) + "."
    code = item.codes[0] if item.codes else None
    return Fact(kind=Kind.RECORD, title=item.name, statement=statement, value=item.value if item.value is not None else item.name,
                unit=item.unit, code=code, source=RecordRef(resource=item.resource, path=item.path, date=item.date))  # fmt: skip


def _number(item: RecordItem) -> float | None:
    return float(item.value) if isinstance(item.value, int | float) and not isinstance(item.value, bool) else None


def _range(item: RecordItem) -> list[str]:
    """The reference range, and where the value lies."""
    value = _number(item)
    if value is None or (item.low is None and item.high is None):
        return [f"marked {item.interpretation}"] if item.interpretation else []
    if item.low is not None and item.high is not None:
        bounds = f"{item.low:g} to {item.high:g}"
    else:
        bounds = f"from {item.low:g}" if item.low is not None else f"up to {item.high:g}"
    where = (
        "below it"
        if item.low is not None and value < item.low
        else "above it"
        if item.high is not None and value > item.high
        else "within it"
    )
    return [f"reference {bounds}{spelled(item.unit)}, {where}"]


def _substance(item: RecordItem) -> str:
    return next((s for s in MOLAR if s[:9] in item.name.lower()), "")


def _converted(item: RecordItem, unit: str | None) -> list[str]:
    value = _number(item)
    if unit is None or value is None:
        return []
    changed = convert(value, item.unit, ucum(unit), _substance(item))
    if changed is None:
        return [f"not converted: {item.unit or 'no unit'} and {unit} don't go together, or one isn't known"]
    return [f"that is {changed:.3g}{spelled(ucum(unit))}"] if ucum(item.unit) != ucum(unit) else []


def _trend(item: RecordItem, items: list[RecordItem]) -> list[str]:
    """The value before this one, in the same unit, and the change."""
    value = _number(item)
    if value is None or not item.date:
        return []
    codes = {(c.system, c.code) for c in item.codes}
    for other in items:
        same = other.name == item.name or bool(codes & {(c.system, c.code) for c in other.codes})
        before = _number(other)
        if not same or before is None or not other.date or other.date >= item.date:
            continue
        before = convert(before, other.unit, ucum(item.unit), _substance(item))
        if before is None:
            return [f"an earlier value of {other.date} is in {other.unit or 'no unit'} and wasn't converted"]
        word = "unchanged from" if before == value else "up from" if value > before else "down from"
        percent = f", {100 * (value - before) / before:+.0f} %" if before and before != value else ""
        return [f"{word} {before:.4g}{spelled(item.unit)} on {other.date}{percent}"]
    return []


def _age(item: RecordItem, case: Case) -> list[str]:
    """How old the value is against the newest entry of the case, in days."""
    days = [
        d[:10]
        for d in [*(s.date for s in case.studies), *(r.date for r in case.reports), *(i.date for i in case.items)]
        if d and len(d) >= 10
    ]
    try:
        apart = (date.fromisoformat(max(days)) - date.fromisoformat((item.date or "")[:10])).days
    except ValueError:
        return []
    return [f"{apart} day{'' if apart == 1 else 's'} before the newest entry of the case"] if apart > 0 else []
