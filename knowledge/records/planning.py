"""What planning treatment asks for, per disease (planning.yaml)."""

import re
from functools import cache
from pathlib import Path

import yaml
from pydantic import ConfigDict

from knowledge.evidence import Frozen


class Item(Frozen):
    """One thing to know: `record` finds it in the record, `report` names the fact that reports may state, `patient` the archive's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    record: str = ""
    report: str | None = None
    patient: str | None = None
    would_change: str


@cache
def needs() -> dict[str, tuple[str, tuple[Item, ...]]]:
    """Disease -> (how it is called, what to know)."""
    loaded = yaml.safe_load((Path(__file__).parent / "planning.yaml").read_text(encoding="utf-8"))
    return {name: (entry["words"], tuple(Item(**i) for i in entry["items"])) for name, entry in loaded.items()}


def disease_of(*texts: str) -> str | None:
    """The disease that the words name first: the first text that names one decides, in it the narrower word."""
    for text in texts:
        found = [(m.start(), name) for name, (words, _) in needs().items() if (m := re.search(words, text, re.I))]
        if found:
            return "brain metastases" if "brain metastases" in [n for _, n in found] else min(found)[1]
    return None
