"""Templates of structured reports: which examination each fits, its sections, and what a reader is asked to look at."""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError

from knowledge.errors import Refused
from knowledge.evidence import Frozen

IN_THE_BOX = Path(__file__).parent / "templates"
LANGUAGES = ("en", "de", "es", "fr", "zh")
Part = Literal["INDICATION", "TECHNIQUE", "COMPARISON", "FINDINGS", "IMPRESSION"]
PARTS: tuple[Part, ...] = ("INDICATION", "TECHNIQUE", "COMPARISON", "FINDINGS", "IMPRESSION")
"""The sections of a report, in their order (RSNA's reporting templates and the ESR's guidance name the same five)."""


class Item(Frozen):
    """Something that the findings have to speak of: in words for each language; `known` finds it in a sentence that is there."""

    ask: dict[str, str]
    known: str
    """Regular expression: a sentence that matches speaks of it, so that the reader isn't asked."""


class Template(Frozen):
    """One structured report."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{2,40}$")
    title: dict[str, str]
    modality: list[str] = Field(default_factory=list)
    """DICOM codes that it fits; empty: any."""
    body: str = ""
    """Regular expression over the study's body part and description."""
    items: list[Item] = Field(default_factory=list, max_length=40)
    source: str = ""
    """Where the list of items comes from."""

    def titled(self, language: str) -> str:
        """The title in `language`, in English where there is none."""
        return self.title.get(language) or self.title["en"]

    def fits(self, modalities: Iterable[str], body: str) -> bool:
        """True for a study of these modalities whose body part and description read `body`."""
        return (not self.modality or bool(set(self.modality) & set(modalities))) and bool(re.search(self.body, body, re.I))


def read_template(name: str, text: str) -> Template:
    """A template from YAML. Raises Refused with what is wrong."""
    try:
        found = Template.model_validate(yaml.safe_load(text))
        for pattern in [found.body, *(i.known for i in found.items)]:
            re.compile(pattern)
    except (yaml.YAMLError, ValidationError, re.error, TypeError) as error:
        problem = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error).splitlines()[0]}
        where = ".".join(map(str, problem["loc"]))
        raise Refused(f"{name} is no template: {where} {problem['msg']}".replace("  ", " "), "see docs/reports.md") from error
    if "en" not in found.title or any("en" not in i.ask for i in found.items):
        raise Refused(f"{name} is no template: each title and each item needs its English words (en)", "see docs/reports.md")
    return found


@cache
def _in_folder(folder: Path, changed: float) -> tuple[Template, ...]:
    return tuple(read_template(p.name, p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.y*ml")))


def templates(own: Path | None = None) -> dict[str, Template]:
    """Every template by name: a hospital's own (the folder `own`) go before those in the box, and replace them by name."""
    folders = [f for f in (own, IN_THE_BOX) if f is not None and f.is_dir()]
    found: dict[str, Template] = {}
    for folder in folders:
        newest = max((p.stat().st_mtime for p in folder.glob("*.y*ml")), default=0.0)
        for template in _in_folder(folder, newest):
            found.setdefault(template.name, template)
    return found
