"""The corpus in the box: passages in our own words, each with its source, version, date and section."""

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from knowledge.evidence import Frozen

FOLDER = Path(__file__).parent / "corpus"
CHECKED = {
    "source": "checked against the source",
    "secondary": "from secondary sources",
    "unchecked": "not yet checked against the source",
    "hospital": "added by this hospital as it is, not checked here",
}


class Passage(Frozen):
    """A passage of a guideline. `checked` says how far its facts were checked (see CHECKED)."""

    id: str
    document: str
    organisation: str
    version: str
    date: str
    section: str
    page: int | None = None
    text: str
    disease: list[str]
    modality: list[str]
    source: str
    checked: str
    strength: str | None = None
    asks: str = ""
    """Other words in which people ask for it: searched, never shown as the guideline's."""
    body: str = "box"
    """The body of guidelines, with a collection of its own; `box` for what ships with Consilium."""
    status: str = "current"
    """`current`, or `superseded` by a newer version: kept for old answers, found only when its version is asked for."""
    document_id: str = ""
    start: int | None = None
    end: int | None = None
    """Characters of the page's text, where the document has pages."""
    applies: list[tuple[str, str, float]] = []
    """Conditions on facts under which the passage applies: (fact name, < or >=, bound)."""

    def fits(self, facts: dict[str, Any]) -> bool:
        """False where a known fact lies outside the passage's conditions; unknown facts don't exclude it."""
        for name, sign, bound in self.applies:
            value = facts.get(name)
            if isinstance(value, int | float) and (value < bound) != (sign == "<"):
                return False
        return True


def read_document(path: Path) -> list[Passage]:
    """The passages of one Markdown file: YAML front matter, then a heading for each passage."""
    _, front, body = path.read_text(encoding="utf-8").split("---\n", 2)
    about = yaml.safe_load(front)
    about["date"], about["version"] = str(about["date"]), str(about["version"])
    passages = []
    for part in re.split(r"^## ", body, flags=re.M)[1:]:
        section, text = part.split("\n", 1)
        strength = re.search(r"^> strength: (.+)$", text, re.M)
        asks = re.search(r"^> asks: (.+)$", text, re.M)
        applies = re.findall(r"(\w+) (<|>=) (\d+)", "".join(re.findall(r"^> applies: (.+)$", text, re.M)))
        text = " ".join(re.sub(r"^> .*$", "", text, flags=re.M).split())
        slug = re.sub(r"[^a-z0-9]+", "-", section.lower()).strip("-")
        passages.append(Passage(id=f"{path.stem}.{slug}", document_id=path.stem, section=section.strip(), text=text,
                                strength=strength.group(1) if strength else None, asks=asks.group(1) if asks else "",
                                applies=[(n, s, float(b)) for n, s, b in applies], **about))  # fmt: skip
    return passages


@cache
def passages() -> tuple[Passage, ...]:
    """All passages in the box, in order of their files."""
    return tuple(p for path in sorted(FOLDER.glob("*.md")) for p in read_document(path))


@cache
def version() -> str:
    """A short hash of the corpus: part of the collection's name and of every answer's provenance."""
    return hashlib.sha256("".join(p.model_dump_json() for p in passages()).encode()).hexdigest()[:12]
