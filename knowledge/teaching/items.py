"""The teaching items in the box."""

from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field

from knowledge.errors import NotFound
from knowledge.evidence import Frozen

FOLDER = Path(__file__).parent
Level = Literal["student", "resident", "specialist"]
LEVELS: tuple[Level, ...] = ("student", "resident", "specialist")


class Point(Frozen):
    """Something that a good answer names. `denies`: it is a denial, so that a negation doesn't count against it."""

    say: str
    words: str
    weight: int = 1
    denies: bool = False


class Wrong(Frozen):
    """Something that an answer must not state, and why."""

    say: str
    words: str


class Item(Frozen):
    """One question with what a good answer names."""

    key: str
    level: Level
    topic: str
    ask: str
    points: list[Point] = Field(min_length=1)
    wrong: list[Wrong] = Field(default_factory=list)
    explain: str
    source: str
    picture: str | None = None
    passage: str | None = None
    """What to look up in the guidelines for the explanation."""


@cache
def items() -> dict[str, Item]:
    """Every item by its name."""
    loaded = yaml.safe_load((FOLDER / "items.yaml").read_text(encoding="utf-8"))
    return {key: Item(key=key, **entry) for key, entry in loaded.items()}


def item(key: str) -> Item:
    """The item of that name. Raises NotFound."""
    if key not in items():
        raise NotFound(f"there is no teaching item {key!r}", "list the items")
    return items()[key]


def picture(key: str) -> bytes:
    """The picture of an item (JPEG or PNG). Raises NotFound."""
    one = item(key)
    if one.picture is None:
        raise NotFound(f"the item {key!r} has no picture", "read its question")
    return (FOLDER / "pictures" / one.picture).read_bytes()
