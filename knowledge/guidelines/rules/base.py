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

    @property
    def spec(self) -> dict[str, Any]:
        """Title, version, facts, categories and values, as in facts.json."""
        return specs()[self.name]

    def apply(self, facts: Facts) -> Outcome:
        """Check `facts` and compute. Raises InvalidFacts for an unknown name, a wrong type or an impossible value."""
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
        missing = list(dict.fromkeys([*lacking, *outcome.missing]))
        if lacking and not self.open_ended:
            return Outcome(None, outcome.recommendation, outcome.values, missing)
        return Outcome(outcome.category, outcome.recommendation, outcome.values, missing)


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


def percent(now: float, then: float) -> float:
    """Change from `then` to `now` in percent of `then`."""
    return 100 * (now - then) / then
