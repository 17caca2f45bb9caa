"""The knowledge base as objects: entities with what speaks for and against them, observations, signs, sources."""

import re
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, Field

from knowledge.evidence import Frozen

VERSION = "1 (2026-11)"
FOLDER = Path(__file__).parent
ORGANS = ("brain", "lung", "liver", "breast", "kidney", "prostate", "thyroid")
Confidence = Literal["verified", "second-hand", "general", "measured"]


class Source(Frozen):
    """Where facts were looked up, and how far that can be trusted."""

    title: str
    place: str
    confidence: Confidence
    note: str = ""


class Feature(Frozen):
    """An observation: how it is called, and how reports word it (in English) or between which completed years of age it holds."""

    label: str
    kind: Literal["image", "place", "patient", "history", "marker"]
    words: str = ""
    age: tuple[int, int] | None = None
    sex: str | None = None
    excludes: list[str] = Field(default_factory=list)
    """Observations that can't be there where this one is."""


class Link(Frozen):
    """What an observation says of an entity: weight -3 to 3, and the source of that."""

    weight: int = Field(ge=-3, le=3)
    source: str

    @property
    def checked(self) -> bool:
        """True where it stands on something that was read, second-hand included."""
        return any(sources()[k].confidence != "general" for k in source_keys(self.source))


class Entity(Frozen):
    """A tumour or what looks like one."""

    name: str
    organ: str
    label: str
    kind: str
    common: Literal["common", "uncommon", "rare"]
    classifier: str | None = None
    """The class of an image classifier in the box that it belongs to."""
    needs: str | None = None
    """The observation without which it isn't thought of first."""
    links: dict[str, Link]


class Figure(Frozen):
    """A number about a sign, with its source."""

    text: str
    source: str
    confidence: Confidence


class Sign(Frozen):
    """A named imaging sign."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    key: str
    name: str
    organ: str
    modality: list[str]
    seen: str
    means: str
    source: str
    figures: list[Figure]
    look_alikes: list[str]
    measured: str | None
    feature: str | None
    words: str


def source_keys(text: str) -> list[str]:
    """The sources that a fact names: `G: … ; D: …` or a bare `K`."""
    return re.findall(r"(?:^|; )([A-Z])(?::|$)", text)


def _read(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return loaded


@cache
def sources() -> dict[str, Source]:
    """The sources by their letter."""
    return {k: Source(**v) for k, v in _read("sources.yaml").items()}


@cache
def features(organ: str) -> dict[str, Feature]:
    """The observations that count for an organ."""
    return {n: Feature(**f) for n, f in _read("features.yaml").get(organ, {}).items()}


@cache
def entities(organ: str) -> dict[str, Entity]:
    """The entities of an organ by name."""
    return {n: Entity(name=n, organ=organ, **{**e, "links": {f: Link(weight=w, source=s) for f, (w, s) in e["links"].items()}})
            for n, e in _read("entities.yaml").get(organ, {}).items()}  # fmt: skip


@cache
def signs() -> dict[str, Sign]:
    """Every named sign."""
    return {k: Sign(key=k, **s) for k, s in _read("signs.yaml").items()}


def spelled(source: str) -> str:
    """A fact's source in words: each source's title with the place in it."""
    told = []
    for part in re.split(r"; (?=[A-Z]:)", source):
        key, _, place = part.partition(":")
        one = sources()[key.strip()]
        told.append(f"{one.title}{', ' + place.strip() if place.strip() else ''} [{one.confidence}]")
    return "; ".join(told)


def organ_of(text: str) -> str | None:
    """The organ that words name."""
    named = {"brain": r"brain|head|cereb|intracran|glio|mening|cranial|\bcns\b|neuro|hirn|schädel|脑", "lung": r"lung|chest|thora|pulmon|bronch|肺|胸", "liver": r"liver|hepat|leber|肝",
             "breast": r"breast|mamm|brust|乳", "kidney": r"kidney|renal|nephr|niere|肾", "prostate": r"prostat|前列腺", "thyroid": r"thyroid|schilddr|tiroid|甲状腺"}  # fmt: skip
    return next((organ for organ, pattern in named.items() if re.search(pattern, text, re.I)), None)


def described(rule: str) -> dict[str, Any] | None:
    """What the evidence of a differential or a sign opens: title, version, sources; None for another rule."""
    kind, _, name = rule.partition(":")
    if kind == "differential" and name in ORGANS:
        return {"title": f"Differential diagnosis: {name}", "version": VERSION, "facts": {n: {"meaning": f.label, "kind": f.kind} for n, f in features(name).items()},
                "notes": "Weights are this project's reading of its sources; no clinician set them.",
                "sources": {k: s.model_dump() for k, s in sources().items()}}  # fmt: skip
    if kind == "quiz":
        return {
            "title": "Teaching item",
            "version": VERSION,
            "facts": {},
            "notes": "Graded by the words of its points; no teacher reviewed it.",
        }
    if kind == "sign" and name in signs():
        one = signs()[name]
        return {"title": f"Sign: {one.name}", "version": VERSION, "facts": {}, "notes": f"Seen: {one.seen}. Source: {spelled(one.source)}",
                "sources": {k: sources()[k].model_dump() for k in source_keys(one.source)}}  # fmt: skip
    return None
