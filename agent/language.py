"""The few sentences that the agent itself says, in the language of the question."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml


@cache
def phrases(language: str) -> dict[str, Any]:
    """The sentences of a language; English where there is no catalogue for it."""
    folder = Path(__file__).parent / "phrases"
    path = folder / f"{language}.yaml"
    loaded: dict[str, Any] = yaml.safe_load((path if path.exists() else folder / "en.yaml").read_text(encoding="utf-8"))
    return loaded


def nothing_line(language: str) -> str:
    """What an answer says that found no evidence."""
    return str(phrases(language)["nothing"])


MOST_NAMED = 6
"""Of what is missing, in the text; the rest stands in the answer's list."""


def missing_line(language: str, names: Sequence[str]) -> str:
    """What is missing, in one line."""
    said = phrases(language)
    more = [str(said["more"]).format(n=len(names) - MOST_NAMED)] if len(names) > MOST_NAMED else []
    return f"{said['missing']}: {'; '.join([*names[:MOST_NAMED], *more])}."


def conflict_line(language: str, statements: Sequence[str], marks: str) -> str:
    """What contradicts what, in one line."""
    return f"{phrases(language)['conflict']}: {' '.join(statements)} {marks}".strip()
