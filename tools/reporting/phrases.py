"""Words of drafts in the languages of reports (phrases.yaml)."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml


@cache
def _all() -> dict[str, dict[str, str]]:
    loaded: dict[str, dict[str, str]] = yaml.safe_load((Path(__file__).parent / "phrases.yaml").read_text(encoding="utf-8"))
    return loaded


def phrase(language: str, key: str, /, **values: Any) -> str:
    """The sentence or word `name` in `language`; English where it has none."""
    found = _all()[key]
    return found.get(language, found["en"]).format(**values)


def word(language: str, name: str) -> str:
    """A word of evidence (a label, a side, a region) in `language`; as it is where it isn't known."""
    return phrase(language, name) if name in _all() else name
