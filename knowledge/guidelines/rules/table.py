"""A rule that is a table: a YAML file with its typed facts, its rows in order, and worked cases that are run on it.

```yaml
name: my_rule
title: What it decides
version: "2024"
document: Organisation, document
section: Table 2
checked: true                  # false: every result says that its facts await a check
facts:                         # as in facts.json; left out for a rule whose facts stand there
  size_mm: {type: number, unit: mm, minimum: 0, meaning: Largest diameter., required: true}
refuse:
  - {when: {age_years: "<18"}, because: it is for adults}
rows:                          # the first row that holds
  - {when: {size_mm: "<10", kind: [a, b]}, category: low, recommendation: Nothing further.}
cases:
  - {facts: {size_mm: 5, kind: a}, category: low}
```

A condition is a value, a list of values, or `<`, `<=`, `>`, `>=` with a number (two joined by ` and `). Where a fact that a row asks for
isn't known, the row may hold or not: the rule gives a category only if all rows that may hold agree on it, and otherwise names the fact.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from knowledge.errors import Refused
from knowledge.guidelines.rules.base import Facts, Outcome, Rule, specs

_COMPARED = re.compile(r"(<=|>=|<|>)\s*(-?\d+(?:\.\d+)?)")
_TYPES = ("number", "integer", "boolean", "enum", "list")


@dataclass(frozen=True)
class Table:
    """A rule, and the worked cases that its file brings."""

    rule: Rule
    cases: list[dict[str, Any]]


def read_table(path: Path) -> Table:
    """The table in a YAML file. Raises Refused with what to mend."""
    try:
        about = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise Refused(f"{path.name} isn't a YAML file", "see knowledge/guidelines/rules/table.py for the form") from error
    problem = _problem(about)
    if problem:
        raise Refused(f"{path.name}: {problem}", "see knowledge/guidelines/rules/table.py for the form")
    rows, refuse = about["rows"], about.get("refuse", [])
    own = None
    if "facts" in about:
        own = {"title": about["title"], "version": str(about["version"]), "facts": _whole(about["facts"]),
               "categories": list(dict.fromkeys(r["category"] for r in rows)), "values": {},
               **({"one_of": about["one_of"]} if "one_of" in about else {})}  # fmt: skip

    one_of = (own or specs().get(about["name"], {})).get("one_of", [])

    def compute(facts: Facts) -> Outcome:
        return _look_up(facts, _fitting(rows, one_of, facts), refuse)

    rule = Rule(about["name"], about["document"], str(about["section"]), bool(about.get("checked", False)), compute,
                tuple(about.get("topics", [about["title"]])), own=own)  # fmt: skip
    return Table(rule, about.get("cases", []))


def _fitting(rows: list[dict[str, Any]], one_of: list[list[list[str]]], facts: Facts) -> list[dict[str, Any]]:
    """Without the rows that ask for an alternative (`one_of`) in place of which another one is given."""
    unused = {n for group in one_of if any(all(f in facts for f in c) for c in group) for c in group for n in c if n not in facts}
    return [r for r in rows if not unused & set(r["when"])]


def _whole(facts: dict[str, Any]) -> dict[str, Any]:
    return {n: {"unit": None, "required": False, "meaning": n.replace("_", " "), **s} for n, s in facts.items()}


def _problem(about: Any) -> str:
    if not isinstance(about, dict):
        return "it has to be a mapping"
    lacking = [k for k in ("name", "title", "version", "document", "section", "rows") if not about.get(k)]
    if lacking:
        return f"it lacks {', '.join(lacking)}"
    if not re.fullmatch(r"[a-z][a-z0-9_]{2,60}", str(about["name"])):
        return "its name has to be of small letters, digits and _"
    for name, spec in about.get("facts", {}).items():
        if not isinstance(spec, dict) or spec.get("type") not in _TYPES:
            return f"the fact {name} needs a type of {', '.join(_TYPES)}"
        if spec["type"] == "enum" and not isinstance(spec.get("values"), list):
            return f"the fact {name} needs its values"
    for number, row in enumerate(about["rows"], 1):
        if not isinstance(row, dict) or not isinstance(row.get("when"), dict) or "category" not in row:
            return f"row {number} needs when and category"
        strange = set(row["when"]) - set(about["facts"]) if "facts" in about else set()
        if strange:
            return f"row {number} asks for {', '.join(sorted(strange))}, which isn't among the facts"
    return ""


def _look_up(facts: Facts, rows: list[dict[str, Any]], refuse: list[dict[str, Any]]) -> Outcome:
    for row in refuse:
        if _holds(row["when"], facts)[0] is True:
            return Outcome(None, refusal=row["because"])
    possible: list[dict[str, Any]] = []
    missing: list[str] = []
    for row in rows:
        holds, unknown = _holds(row["when"], facts)
        if holds is False:
            continue
        possible.append(row)
        missing += unknown
        if holds:
            break
    categories = {r["category"] for r in possible}
    missing = list(dict.fromkeys(missing))
    if len(categories) == 1 and not (missing and len(possible) == 1):
        advice = list(dict.fromkeys(r.get("recommendation", "") for r in possible))
        return Outcome(possible[0]["category"], " Or: ".join(filter(None, advice)), missing=missing if len(advice) > 1 else [])
    return Outcome(None, "", missing=missing)


def _holds(when: dict[str, Any], facts: Facts) -> tuple[bool | None, list[str]]:
    """True, False, or None with the facts that would settle it."""
    unknown = []
    for name, wanted in when.items():
        if name not in facts:
            unknown.append(name)
        elif not _meets(facts[name], wanted):
            return False, []
    return (None, unknown) if unknown else (True, [])


def _meets(value: Any, wanted: Any) -> bool:
    if isinstance(value, list):
        return any(w in value for w in wanted) if isinstance(wanted, list) and wanted else value == wanted
    if isinstance(wanted, list):
        return value in wanted
    compared = _COMPARED.findall(wanted) if isinstance(wanted, str) and isinstance(value, int | float) else []
    if compared:
        return all({"<": value < float(b), "<=": value <= float(b), ">": value > float(b), ">=": value >= float(b)}[s]
                   for s, b in compared)  # fmt: skip
    return bool(value == wanted)
