"""One MONAI bundle: its metadata and card, its network with weights, and how it runs."""

import json
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
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
    novelty: dict[str, float] = Field(default_factory=dict)
    """Distances from which a slice is warned of (`warn`) and refused (`refuse`)."""
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

    def classify(self, images: list["torch.Tensor"]) -> "tuple[torch.Tensor, np.ndarray | None]":
        """Calibrated class probabilities [N, classes] of slices [1, rows, columns], and how foreign each slice is.

        The second is the Mahalanobis distance to the training data in feature space, averaged over the stages that the
        bundle's `novelty.pt` names; None for a bundle without one.
        """
        import torch

        stages = sorted({name.rsplit(".", 1)[0] for name in self._novelty})
        logits, features = self.forward(images, stages)
        probabilities = torch.softmax(logits / self.card.temperature, dim=1)
        return probabilities, self._distances(features) if stages else None

    def forward(self, images: list["torch.Tensor"], stages: Sequence[str]) -> "tuple[torch.Tensor, dict[str, np.ndarray]]":
        """Logits [N, classes], and the mean over positions of each named stage's feature maps [N, channels]."""
        import torch

        found: dict[str, np.ndarray] = {}

        def keep(name: str) -> Any:
            def hook(module: object, given: object, maps: torch.Tensor) -> None:
                found[name] = maps.flatten(2).mean(2).numpy()

            return hook

        with self._lock, torch.inference_mode():
            handles = [self.network.get_submodule(s).register_forward_hook(keep(s)) for s in stages]
            try:
                batch = torch.stack([torch.as_tensor(self.preprocess(i)) for i in images])
                logits: torch.Tensor = self._config.get_parsed_content("inferer")(batch, self.network)
            finally:
                for handle in handles:
                    handle.remove()
        return logits, found

    @cached_property
    def _novelty(self) -> "dict[str, torch.Tensor]":
        """Mean and precision of each stage's features (`STAGE.mean`, `STAGE.precision`); empty where the bundle has none."""
        import torch

        path = self.folder / "models" / "novelty.pt"
        fitted: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True) if path.exists() else {}
        return fitted

    def _distances(self, features: "dict[str, np.ndarray]") -> "np.ndarray":
        scores = []
        for stage, vectors in features.items():
            away = vectors - self._novelty[f"{stage}.mean"].numpy()
            squared = np.einsum("ni,ij,nj->n", away, self._novelty[f"{stage}.precision"].numpy(), away)
            scores.append(np.sqrt(np.maximum(squared, 0) / away.shape[1]))
        return np.asarray(np.mean(scores, axis=0))
