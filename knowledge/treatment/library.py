"""The treatments as objects."""

from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from knowledge.evidence import Frozen


class Look(Frozen):
    """One fact of a patient to look at, and what it says of the treatment."""

    kind: Literal["lab", "input", "condition", "medication", "given"]
    effect: Literal["for", "against", "note"]
    say: str
    source: str
    item: str = ""
    words: str = ""
    input: str = ""
    value: str | None = None
    below: float | None = None
    above: float | None = None
    unit: str | None = None

    @property
    def checked(self) -> bool:
        """True where it stands on something that was read."""
        return self.source != "K"

    def holds(self, value: Any) -> bool:
        """Whether a value is the one looked for."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return (self.below is not None and value < self.below) or (self.above is not None and value >= self.above)
        if isinstance(value, list):
            return any(self.holds(v) for v in value)
        return self.value is not None and str(value).lower().startswith(self.value.lower())


class Treatment(Frozen):
    """A treatment that guidelines name."""

    name: str
    label: str
    words: str
    need: list[str] = Field(default_factory=list)
    looks: list[Look]


@cache
def treatments() -> dict[str, Treatment]:
    """Every treatment by name."""
    loaded = yaml.safe_load((Path(__file__).parent / "considerations.yaml").read_text(encoding="utf-8"))
    return {name: Treatment(name=name, **entry) for name, entry in loaded.items()}
