"""Kinds of tools that need no code of their own: a package's entry point (group `consilium.tools`) names one of these offers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar

import yaml
from platformdirs import user_cache_path

from knowledge.evidence import Kind
from tools.base import Bench, Card, CaseTool, Cost, Needs, Reply
from tools.errors import NotApplicable
from tools.models.add import GivenCard, add, stated_card
from tools.models.bundle import Bundle
from tools.models.card import BundleCard
from tools.models.catalogue import Catalogue
from tools.openapi import Service


class Offer:
    """Something that tools are made of."""

    def tools(self) -> "list[type[CaseTool]] | None":
        """The tools; None where they join when a house is built, since a server is asked for them."""
        return None


@dataclass(frozen=True)
class Mcp(Offer):
    """An MCP server: a URL of streamable HTTP, or the command that starts one on standard input and output (its own environment's Python, say)."""

    server: str | list[str]


@dataclass(frozen=True)
class Http(Offer):
    """An HTTP service that describes itself by OpenAPI 3."""

    service: Service


@dataclass(frozen=True)
class Model(Offer):
    """An imaging model: a MONAI bundle's folder, an nnU-Net v2 or TotalSegmentator results folder, TorchScript or ONNX.

    `card`: a YAML file (as for `consilium models add`), for what the model doesn't state itself. `asks`: questions that it answers;
    left out: made of its regions or classes. The model is checked and laid out in the user's cache at its first use.
    """

    name: str
    source: Path
    card: Path | None = None
    asks: Sequence[str] = field(default_factory=tuple)

    def tools(self) -> list[type[CaseTool]]:
        """One tool, which runs this model on the series that it was made for."""
        return [_tool_of(self)]

    @cached_property
    def given(self) -> GivenCard:
        """What the card's file says."""
        told = yaml.safe_load(self.card.read_text(encoding="utf-8")) if self.card else {}
        return GivenCard.model_validate({"name": self.name, **(told or {})})

    @cached_property
    def stated(self) -> BundleCard:
        """The model's card. Raises NotApplicable where modality or body part aren't stated."""
        return stated_card(self.source, self.given)

    @property
    def version(self) -> str:
        """The model's version: its card's, or its metadata's."""
        metadata = self.source / "configs" / "metadata.json"
        if "version" not in self.given.model_fields_set and metadata.exists():
            return str(json.loads(metadata.read_text()).get("version", self.given.version))
        return self.given.version


@cache
def bundle_of(offer_name: str, source: Path, newest: float, given: str) -> Bundle:
    """The model laid out as a bundle; made once for each state of its files."""
    import hashlib

    digest = hashlib.sha256(f"{source} {newest} {given}".encode()).hexdigest()[:16]
    folder = user_cache_path("consilium") / "offered" / digest
    if (folder / offer_name / "configs" / "metadata.json").exists():
        return Bundle(folder / offer_name)
    return add(
        source, folder, GivenCard.model_validate_json(given), trust_code=True
    )  # whoever installs a package trusts its code


def laid_out(offer: Model) -> Bundle:
    """The offer's model as a bundle. Raises NotApplicable where it can't be used."""
    files = [offer.source, *offer.source.rglob("*")] if offer.source.is_dir() else [offer.source]
    if not offer.source.exists():
        raise NotApplicable(f"the model of {offer.name} isn't there", "install its package again")
    return bundle_of(
        offer.name, offer.source, max(f.stat().st_mtime for f in files), offer.given.model_dump_json(exclude_unset=True)
    )


def _asks(card: BundleCard) -> list[str]:
    """Questions that a model of this card answers, where its package names none."""
    where = f"{card.body_part.lower()} {card.modality}"
    if card.task == "classification":
        return [f"Classify the {where}", f"Is it {' or '.join(card.classes[:3])}?", f"What does the model make of the {where}?"]
    names = [r.name for r in card.regions]
    if card.task == "detection" or not names:
        return [f"Find the {n} on the {where}" for n in card.classes[:6]] or [
            f"Find lesions on the {where}",
            f"Run the detector on the {where}",
        ]
    return [q for n in names[:6] for q in (f"Outline the {n}", f"Where is the {n}?", f"How large is the {n}?")]


def _tool_of(offer: Model) -> type[CaseTool]:
    from tools.classify import Classify
    from tools.detect import Detect
    from tools.segment import Segment

    stated = offer.stated
    base: Any = {"segmentation": Segment, "classification": Classify, "detection": Detect}[stated.task]

    class Offered(CaseTool):
        """One model, by the tool of the box that runs models of its task."""

        name: str = offer.name
        description: str = f"{stated.intended_use} ({stated.kind}; {stated.modality} of the {stated.body_part.lower()})"
        args_schema: Any = base.model_fields["args_schema"].default
        asks: ClassVar[list[str]] = list(offer.asks) or _asks(stated)
        needs: ClassVar[Needs] = Needs(modality=[stated.modality], body_part=[stated.body_part], sequences=stated.sequences)
        gives: ClassVar[list[Kind]] = list(base.gives)
        card: ClassVar[Card] = Card(intended_use=stated.intended_use, accuracy=stated.accuracy, limits=stated.limits, licence=stated.licence,
                                    version=offer.version)  # fmt: skip
        cost: ClassVar[Cost] = Cost(seconds=stated.seconds, memory_mb=stated.memory_mb)

        def answer(self, arguments: Any) -> Reply:
            bundle = laid_out(offer)
            only = replace(self.bench.resources, catalogue=_Only(bundle))
            bench: Bench = replace(self.bench, resources=only)
            reply: Reply = base.bound(bench).answer(arguments)
            return reply

    Offered.__name__ = offer.name
    return Offered


class _Only(Catalogue):
    """A catalogue of one bundle."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(())
        self._one = bundle

    @property
    def bundles(self) -> dict[str, Bundle]:
        """The one."""
        return {self._one.folder.name: self._one}
