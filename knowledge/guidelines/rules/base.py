"""What every rule shares: typed facts, checked before it runs, and a result that shows inputs and what is missing."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from knowledge.errors import InvalidFacts

Facts = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What a rule found. `category` is None where it can't tell (see `missing`) or is out of scope (`refusal`)."""

    category: str | None
    recommendation: str = ""
    values: dict[str, float] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    refusal: str = ""
    would_change: dict[str, str] = field(default_factory=dict)
    """For each missing fact: the other results that it could bring, by value; empty for one that no single value settles."""


@dataclass(frozen=True)
class Rule:
    """A computable guideline. `document` and `section` are cited; `checked` is False where facts await a check."""

    name: str
    document: str
    section: str
    checked: bool
    compute: Callable[[Facts], Outcome]
    topics: tuple[str, ...] = ()
    open_ended: bool = False
    """True where the rule has a category of its own for a case whose deciding facts are missing (NOS)."""
    own: dict[str, Any] | None = None
    """The typed inputs of a hospital's rule, which brings them in its own file."""

    @property
    def spec(self) -> dict[str, Any]:
        """Title, version, facts, categories and values, as in facts.json."""
        return self.own if self.own is not None else specs()[self.name]

    def apply(self, facts: Facts) -> Outcome:
        """Check `facts` and compute. Raises InvalidFacts for an unknown name, a wrong type or an impossible value.

        A fact that was assumed (a default, the scope) counts as missing where another value of it would change the category.
        """
        known = self.spec["facts"]
        for name, value in facts.items():
            if name not in known:
                raise InvalidFacts(f"{self.name} knows no fact {name!r}", f"its facts are {sorted(known)}")
            _check(name, known[name], value)
        given = {n: s["default"] for n, s in known.items() if "default" in s} | facts
        lacking = [n for n, s in known.items() if s["required"] and n not in given]
        for alternatives in self.spec.get("one_of", []):
            if not any(all(n in given for n in choice) for choice in alternatives):
                lacking += [n for n in alternatives[0] if n not in given]
        outcome = self.compute(given)
        if outcome.refusal:
            return Outcome(None, refusal=outcome.refusal)
        lacks = bool(lacking) and not self.open_ended
        category = None if lacks else outcome.category
        missing = list(dict.fromkeys([*lacking, *outcome.missing]))
        others = {n: self._others(given, n, category) for n in missing}
        if category is not None or (outcome.values and not lacks):
            assumed = [n for n, s in known.items() if n not in facts and n not in missing and ("default" in s or s.get("scope"))]
            others |= {n: found for n in assumed if (found := self._others(given, n, category))}
        would = {n: "; ".join(f"{v}: {r}" for v, r in found) for n, found in others.items()}
        return Outcome(category, outcome.recommendation, outcome.values, list(others), would_change=would)

    def _others(self, given: Facts, name: str, category: str | None) -> list[tuple[str, str]]:
        """Results other than `category` that one value of `name` alone would bring: (value, result), one for each result."""
        found: dict[str, str] = {}
        for value in _probes(self.spec["facts"][name]):
            other = self.compute(given | {name: value})
            result = "does not apply" if other.refusal else other.category
            if result and result != category:
                found.setdefault(result, _shown(value, self.spec["facts"][name]))
        return [(value, result) for result, value in found.items()]


def _probes(spec: dict[str, Any]) -> list[Any]:
    """Values of a fact that stand for all others: every value of an enum, numbers at the usual limits of clinical tables."""
    if spec["type"] == "boolean":
        return [True, False]
    if spec["type"] == "enum":
        return list(spec["values"])
    if spec["type"] == "list":
        return [[], *([v] for v in spec["items"].get("values", []))]
    low, high = spec.get("minimum", 0), spec.get("maximum", 200)
    steps = [0.01, 0.05, 0.2, 0.6, 0.97] if spec.get("maximum") == 1 and spec["type"] == "number" else _STEPS
    return [v for v in steps if low <= v <= high]


_STEPS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 17, 20, 25, 30, 34, 40, 45, 50, 60, 70, 75, 80, 90, 100, 150, 200)


def _shown(value: Any, spec: dict[str, Any]) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)).replace("_", " ") or "none"
    unit = f" {spec['unit']}" if spec.get("unit") not in (None, "1") else ""
    return f"{value:g}{unit}" if isinstance(value, int | float) else str(value).replace("_", " ")


def _check(name: str, spec: dict[str, Any], value: Any) -> None:
    kind = spec["type"]
    if kind == "list":
        if not isinstance(value, list):
            raise InvalidFacts(f"{name} must be a list", spec["meaning"])
        for item in value:
            _check(name, spec["items"], item)
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    right = {"number": number, "integer": number and float(value).is_integer() if number else False,
             "boolean": isinstance(value, bool), "enum": value in spec.get("values", [])}[kind]  # fmt: skip
    if not right:
        wanted = f"one of {spec['values']}" if kind == "enum" else f"a {kind}"
        raise InvalidFacts(f"{name} must be {wanted}, not {value!r}", spec.get("meaning", ""))
    if number and not spec.get("minimum", value) <= value <= spec.get("maximum", value):
        bounds = f"{spec.get('minimum', '')} to {spec.get('maximum', '')} {spec.get('unit') or ''}".strip()
        raise InvalidFacts(f"{name} = {value} lies outside {bounds}", spec.get("meaning", ""))


@cache
def specs() -> dict[str, dict[str, Any]]:
    """The typed inputs of every rule in the box."""
    loaded: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "facts.json").read_text(encoding="utf-8"))
    return loaded


def absent(facts: Facts, *names: str) -> list[str]:
    """Those of `names` that aren't given."""
    return [n for n in names if n not in facts]


def required(rule: str, facts: Facts) -> list[str]:
    """The facts that the rule of this name requires and that aren't given."""
    return absent(facts, *(n for n, s in specs()[rule]["facts"].items() if s["required"]))


def percent(now: float, then: float) -> float:
    """Change from `then` to `now` in percent of `then`."""
    return 100 * (now - then) / then
