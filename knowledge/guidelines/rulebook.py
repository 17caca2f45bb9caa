"""All rules of a house: those in the box, those of installed packages, and a hospital's own tables, checked before they join."""

import os
import re
import tempfile
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from knowledge.errors import InvalidFacts, KnowledgeError, NotFound, Refused
from knowledge.guidelines.rules import RULES, Rule, Table, read_table


class RuleBook:
    """Rules by name. A file in `folder` or a package can add a rule, never replace one in the box."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._read: tuple[tuple[tuple[str, int], ...], dict[str, Rule]] = ((), {})

    @property
    def rules(self) -> dict[str, Rule]:
        """Every rule by name; files that were added meanwhile are there too."""
        return {**self._own(), **_installed(), **RULES}

    def rule(self, name: str) -> Rule:
        """The rule of that name. Raises NotFound."""
        found = self.rules
        if name not in found:
            raise NotFound(f"there is no rule {name!r}", f"the rules are {sorted(found)}")
        return found[name]

    def add(self, path: Path) -> Rule:
        """Check a table's file by its own worked cases and by what holds for every rule, then keep it. Raises Refused."""
        if self.folder is None:
            raise Refused("this house has no folder for rules", "start it with a data folder")
        table = read_table(path)
        name = table.rule.name
        if name in RULES or name in _installed():
            raise Refused(f"there is a rule {name} in the box", "give yours another name")
        if not table.cases:
            raise Refused(f"{path.name} brings no worked cases", "add cases: each with facts and the category that they give")
        problems = list(problems_of(table))
        if problems:
            raise Refused(f"{path.name}: {'; '.join(problems[:5])}", "mend the rows or the cases")
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f".{name}.part"
        part.write_bytes(path.read_bytes())
        os.replace(part, self.folder / f"{name}.yaml")
        return table.rule

    def add_text(self, name: str, data: bytes) -> Rule:
        """As `add`, for a file that was sent."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / (Path(name).name or "rule.yaml")
            file.write_bytes(data)
            return self.add(file)

    def _own(self) -> dict[str, Rule]:
        if self.folder is None or not self.folder.is_dir():
            return {}
        seen = tuple((p.name, p.stat().st_mtime_ns) for p in sorted(self.folder.glob("*.yaml")))
        if seen != self._read[0]:
            tables = [read_table(self.folder / name).rule for name, _ in seen]
            self._read = seen, {r.name: r for r in tables if r.own is not None}
        return self._read[1]


@cache
def _installed() -> dict[str, Rule]:
    """Rules of installed packages (entry points `consilium.rules`, each a Rule with its own typed facts)."""
    loaded = [point.load() for point in entry_points(group="consilium.rules")]
    return {r.name: r for r in loaded if isinstance(r, Rule) and r.own is not None and r.name not in RULES}


def problems_of(table: Table) -> Iterator[str]:
    """What is wrong with a table: cases that come out otherwise, and answers given though a needed fact is missing."""
    rule = table.rule
    for number, case in enumerate(table.cases, 1):
        try:
            outcome = rule.apply(case.get("facts", {}))
        except KnowledgeError as error:
            yield f"case {number}: {error}"
            continue
        if case.get("refuses", False) != bool(outcome.refusal) or outcome.category != case.get("category"):
            yield f"case {number} gives {outcome.category or outcome.refusal or 'no category'}, not {case.get('category')}"
        said = re.sub(r"\s+", " ", outcome.recommendation.lower())
        lacks = [p for p in case.get("recommendation_any", []) if not any(a.lower() in said for a in str(p).split("|"))]
        if lacks:
            yield f"case {number}: the recommendation lacks {lacks[0]!r}"
        for name, spec in rule.spec["facts"].items():
            without = {k: v for k, v in case.get("facts", {}).items() if k != name}
            if spec["required"] and name in case.get("facts", {}):
                reduced = rule.apply(without)
                if reduced.category is not None or (not reduced.refusal and name not in reduced.missing):
                    yield f"case {number} gives an answer without {name}, which is required"
    try:
        rule.apply({"no_such_fact": 1})
        yield "it takes facts that it doesn't know"
    except InvalidFacts:
        pass
