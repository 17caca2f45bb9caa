"""One MONAI bundle: its metadata and card, its network with weights, and how it runs."""

import json
import threading
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from knowledge.evidence import Frozen

if TYPE_CHECKING:
    import torch
    from monai.bundle import ConfigParser
    from monai.data import MetaTensor


class BundleCard(Frozen):
    """What a bundle is for: read from the `consilium` part of its metadata.json."""

    task: str
    kind: str
    modality: str
    body_part: str
    sequences: list[str]
    classes: list[str] = Field(default_factory=list)
    intended_use: str
    accuracy: str
    limits: str
    training_data: str
    licence: str
    temperature: float = 1.0
    scores: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Held-out figures by the view that the model is shown (whole, crop …)."""


class Bundle:
    """A bundle folder (`configs/metadata.json`, `configs/inference.json`, `models/model.pt`). Torch loads on first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """metadata.json as MONAI defines it."""
        loaded: dict[str, Any] = json.loads((self.folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
        return loaded

    @property
    def version(self) -> str:
        return str(self.metadata["version"])

    @cached_property
    def card(self) -> BundleCard:
        return BundleCard.model_validate(self.metadata["consilium"])

    @cached_property
    def _config(self) -> "ConfigParser":
        from monai.bundle import ConfigParser

        parser = ConfigParser()
        parser.read_config(self.folder / "configs" / "inference.json")
        return parser

    @cached_property
    def network(self) -> "torch.nn.Module":
        """The network in evaluation mode, with the bundle's weights where it has some."""
        import torch

        network: torch.nn.Module = self._config.get_parsed_content("network")
        weights = self.folder / "models" / "model.pt"
        if weights.exists():
            network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        return network.eval()

    def preprocess(self, image: "MetaTensor") -> "MetaTensor":
        """The bundle's own preprocessing on a channel-first image."""
        prepared: MetaTensor = self._config.get_parsed_content("preprocessing_array")(image)
        return prepared

    def segment(self, image: "MetaTensor") -> "MetaTensor":
        """The mask of `image` [C, X, Y, Z], on the grid of `image` (nearest neighbour), values 0 and 1."""
        import torch
        from monai.transforms import ResampleToMatch

        with self._lock, torch.inference_mode():
            prepared = self.preprocess(image)
            inferer = self._config.get_parsed_content("inferer")
            scores = inferer(prepared[None], self.network)
            mask = self._config.get_parsed_content("postprocessing_array")(scores[0])
            mask.affine = prepared.affine
            whole: MetaTensor = ResampleToMatch(mode="nearest", padding_mode="zeros")(mask, image)
            return whole

    def classify(self, images: list["torch.Tensor"]) -> "torch.Tensor":
        """Calibrated class probabilities [N, classes] of slices, each [1, rows, columns]."""
        import torch

        with self._lock, torch.inference_mode():
            batch = torch.stack([torch.as_tensor(self.preprocess(i)) for i in images])
            logits: torch.Tensor = self._config.get_parsed_content("inferer")(batch, self.network)
            return torch.softmax(logits / self.card.temperature, dim=1)
