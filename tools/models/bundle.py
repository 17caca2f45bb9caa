"""One MONAI bundle: its metadata and card, its network with weights, and how it runs."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tools.errors import Failed, NotApplicable
from tools.models.card import BundleCard

if TYPE_CHECKING:
    import torch
    from monai.bundle import ConfigParser
    from monai.data import MetaTensor

Step = Callable[[int, int], None]
"""Told after each window: windows done, windows in all."""

WEIGHTS = ("model.safetensors", "model.pt", "model.ts", "model.onnx")
"""What a bundle's models folder may hold, best first: tensors alone, a state dict, TorchScript, ONNX."""
ONLY_ELSEWHERE = {"LoadImaged", "EnsureChannelFirstd", "SaveImaged", "Invertd", "LoadImage", "EnsureChannelFirst", "SaveImage"}
"""Transforms of a file-based pipeline that have no work here: images come as arrays, and masks are brought back by their affine."""


class Bundle:
    """A bundle folder (`configs/metadata.json`, `configs/inference.json`, `models/`). Torch loads on first use."""

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

    @property
    def weights(self) -> Path | None:
        """The file with the weights; None where the bundle has none."""
        return next((p for n in WEIGHTS if (p := self.folder / "models" / n).exists()), None)

    @cached_property
    def sha256(self) -> str:
        """Digest of the weights (and of what is foreign to them), so that a result names exactly what made it."""
        digest = hashlib.sha256()
        for path in sorted((self.folder / "models").glob("*")):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    @cached_property
    def config(self) -> "ConfigParser":
        from monai.bundle import ConfigParser

        parser = ConfigParser()
        parser.read_config(self.folder / "configs" / "inference.json")
        return parser

    @cached_property
    def network(self) -> "torch.nn.Module":
        """The network in evaluation mode with the bundle's weights. Raises Failed where they don't fit it."""
        import torch

        path = self.weights
        if path is not None and path.suffix == ".ts":
            scripted: torch.nn.Module = torch.jit.load(str(path), map_location="cpu")
            return scripted.eval()
        if path is not None and path.suffix == ".onnx":
            from tools.models.onnx import OnnxNetwork

            return OnnxNetwork(path)
        with torch.inference_mode(False):  # so that a saliency map can ask it for gradients later
            network: torch.nn.Module = self.config.get_parsed_content("network")
            state = _state(path) if path is not None else None
        if state is not None:
            try:
                network.load_state_dict(state)
            except RuntimeError as error:
                raise Failed(f"the weights of {self.name} don't fit its network", "add the bundle again, whole") from error
        return network.eval()

    def _asked(self, image: "torch.Tensor") -> "torch.Tensor":
        """The network's output in full precision; its sums in bfloat16 where the bundle says that it bears it and the processor has it."""
        import torch

        halves = self.config.get("precision") == "bfloat16" and torch.cpu.get_capabilities().get("avx512_bf16", False)
        with torch.autocast("cpu", torch.bfloat16, enabled=halves):
            output: torch.Tensor = self.network(image)
        return output.float()

    def preprocess(self, image: "MetaTensor") -> "MetaTensor":
        """The bundle's own preprocessing on a channel-first image."""
        from monai.transforms import Compose

        if "preprocessing_array" in self.config:
            prepared: MetaTensor = self.config.get_parsed_content("preprocessing_array")(image)
            return prepared
        chain = [t for t in self.config.get_parsed_content("preprocessing").transforms if type(t).__name__ not in ONLY_ELSEWHERE]
        whole: MetaTensor = Compose(chain)({"image": image})["image"]
        return whole

    def scores(self, image: "MetaTensor", step: Step | None = None, mirror: bool = False) -> "MetaTensor":
        """What the network says of `image` [C, X, Y, Z], on the prepared grid (its affine kept): probabilities where it can say them.

        `mirror` averages with the run on the image mirrored along its first axis.
        """
        return self.scores_of(*self.ready(image), step, mirror)

    def ready(self, image: "MetaTensor") -> "tuple[MetaTensor, MetaTensor]":
        """A volume [C, X, Y, Z] after the bundle's preprocessing, and what its network is shown of it."""
        import torch

        with self._lock, torch.inference_mode():
            prepared = self.preprocess(image)
            return prepared, self._network_input(prepared)

    def scores_of(
        self, prepared: "MetaTensor", given: "MetaTensor", step: Step | None = None, mirror: bool = False
    ) -> "MetaTensor":
        """`scores` of a volume that is `ready`."""
        import torch
        from monai.data import MetaTensor

        with self._lock, torch.inference_mode():
            inferer = self.config.get_parsed_content("inferer")
            plain = given.as_tensor()[None].float()
            runs = [plain, torch.flip(plain, [2])] if mirror else [plain]
            counted = _Counted(self._asked, _windows(inferer, plain) * len(runs), step)
            found = [self._probable(inferer(x, counted)) for x in runs]
            mean = (found[0] + torch.flip(found[1], [2])) / 2 if mirror else found[0]
            scores = MetaTensor(mean[0], affine=given.affine)
            if "combination" in self.config:
                return self.config.get_parsed_content("combination")(prepared, scores)
            return scores

    def _network_input(self, prepared: "MetaTensor") -> "MetaTensor":
        """What the network sees of a prepared image: the image itself, unless the bundle names further steps."""
        if "network_input_array" not in self.config:
            return prepared
        changed: MetaTensor = self.config.get_parsed_content("network_input_array")(prepared)
        return changed

    def _probable(self, output: "torch.Tensor") -> "torch.Tensor":
        """Probabilities of a network's output: softmax where classes exclude each other, sigmoid where the config says so."""
        import torch

        kind = self.config.get("activation", "softmax" if output.shape[1] > 1 else "sigmoid")
        if kind == "none":
            return output
        return torch.sigmoid(output) if kind == "sigmoid" else torch.softmax(output, 1)

    def labels(self, scores: "MetaTensor", threshold: float = 0.5) -> "MetaTensor":
        """The label map [X, Y, Z] of `scores`, after the bundle's own post-processing."""
        import torch
        from monai.data import MetaTensor
        from monai.transforms import Compose

        with torch.inference_mode():
            if "postprocessing_array" in self.config:
                if "threshold" in self.config:
                    self.config["threshold"] = threshold
                    self.config.parse(True)
                done = self.config.get_parsed_content("postprocessing_array")(scores)
            elif "postprocessing" in self.config:
                wanted = self.config.get_parsed_content("postprocessing").transforms
                chain = [t for t in wanted if type(t).__name__ not in ONLY_ELSEWHERE | {"Activationsd"}]
                done = Compose(chain)({"pred": scores, "image": scores})["pred"]
            else:
                done = scores.argmax(0, keepdim=True) if scores.shape[0] > 1 else scores > threshold
            if done.shape[0] > 1:
                done = done.argmax(0, keepdim=True)
            grid = done.affine if isinstance(done, MetaTensor) else scores.affine
            return MetaTensor(torch.as_tensor(done).as_subclass(torch.Tensor)[0].to(torch.uint8), affine=grid)

    def segment(self, image: "MetaTensor", step: Step | None = None) -> np.ndarray:
        """The label map of `image` [C, X, Y, Z] on its own grid [X, Y, Z], uint8."""
        scores = self.scores(image, step)
        labels = self.labels(scores)
        return brought_back(labels.numpy(), np.asarray(scores.affine), np.asarray(image.affine), tuple(image.shape[1:]))

    def boxes(self, image: "MetaTensor") -> tuple[np.ndarray, np.ndarray]:
        """What a MONAI detector finds on `image` [C, X, Y, Z]: boxes [n, 6] (x0, y0, z0, x1, y1, z1 in voxels of `image`, its outer
        edges at 0 and its size), and their scores [n], highest first."""
        import torch

        with self._lock, torch.inference_mode():
            prepared = self.preprocess(image)
            detector = self.config.get_parsed_content("detector")
            detector.network = self.network
            self.config.get_parsed_content("detector_ops", default=None)
            detector.eval()
            (found,) = detector([prepared.as_tensor().float()], use_inferer=detector.inferer is not None)
        boxes, scores = found[detector.target_box_key].numpy(), found[detector.pred_score_key].numpy()
        order = np.argsort(-scores)
        return boxes_on(boxes[order], np.asarray(prepared.affine), np.asarray(image.affine)), scores[order]

    def classify(self, images: list["torch.Tensor"]) -> "tuple[torch.Tensor, np.ndarray | None]":
        """Calibrated class probabilities [N, classes] of slices [1, rows, columns], and how foreign each slice is.

        The second is the Mahalanobis distance to the training data in feature space, averaged over the stages that the
        bundle's `novelty` file names; None for a bundle without one.
        """
        import torch

        from tools.models.networks import BoxAndType

        output, features = self.forward(images, self.stages)
        logits = output[:, BoxAndType.TYPES :, 0, 0] if output.ndim == 4 else output
        return torch.softmax(logits / self.card.temperature, dim=1), self.distances(features)

    def forward(self, images: list["torch.Tensor"], stages: Sequence[str]) -> "tuple[torch.Tensor, dict[str, np.ndarray]]":
        """The network's output for `images`, and mean and deviation over positions of each named stage's maps [N, 2 x channels]."""
        import torch

        with self._lock, torch.inference_mode(), self._watched(stages) as found:
            batch = torch.stack([torch.as_tensor(self.preprocess(i)) for i in images])
            output: torch.Tensor = self.config.get_parsed_content("inferer")(batch, self.network)
        return output, found

    @contextmanager
    def _watched(self, stages: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """While it lasts, each run of the network leaves here mean and deviation over positions of the named stages' maps."""
        found: dict[str, np.ndarray] = {}
        handles = [self.network.get_submodule(s).register_forward_hook(_keep(found, s)) for s in stages]
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()

    @property
    def stages(self) -> list[str]:
        """The stages of the network whose features are looked at for foreign images."""
        return sorted({s for _, s in self._measures})

    @cached_property
    def _novelty(self) -> "dict[str, torch.Tensor]":
        """Mean and precision of each stage's features (`[KIND/]STAGE.mean`, `….precision`); empty where the bundle has none."""
        path = self.folder / "models" / "novelty.safetensors"
        return _state(path) if path.exists() else {}

    @property
    def _measures(self) -> set[tuple[str, str]]:
        """Kind (of training image) and stage of each fitted measure."""
        named = {name.rsplit(".", 1)[0] for name in self._novelty}
        return {(kind, stage) for kind, _, stage in (n.rpartition("/") for n in named)}

    def distances(self, features: "dict[str, np.ndarray]") -> "np.ndarray | None":
        """How far features lie from those of the training data: one number an image, some 1 for one of its own; None without a measure.

        The distance to a kind of training image is that of the stage in which it is greatest; the nearest kind counts.
        """
        if not self._novelty:
            return None
        by_kind: dict[str, list[np.ndarray]] = {}
        for kind, stage in sorted(self._measures):
            name = f"{kind}/{stage}" if kind else stage
            away = features[stage] - self._novelty[f"{name}.mean"].numpy()
            squared = np.einsum("ni,ij,nj->n", away, self._novelty[f"{name}.precision"].numpy(), away)
            by_kind.setdefault(kind, []).append(np.sqrt(np.maximum(squared, 0) / away.shape[1]))
        return np.asarray(np.min([np.max(stages, axis=0) for stages in by_kind.values()], axis=0))

    def embedding_of(self, features: "dict[str, np.ndarray]") -> "np.ndarray | None":
        """The features of all stages in spreads of the training data, each image's of length one [N, features]; None without a measure."""
        if not self._novelty:
            return None
        parts = []
        for kind, stage in sorted(self._measures):
            name = f"{kind}/{stage}" if kind else stage
            spread = np.sqrt(np.maximum(np.diag(self._novelty[f"{name}.precision"].numpy()), 1e-12))
            parts.append((features[stage] - self._novelty[f"{name}.mean"].numpy()) * spread / np.sqrt(features[stage].shape[1]))
        joined = np.concatenate(parts, axis=1)
        return np.asarray(joined / np.maximum(np.linalg.norm(joined, axis=1, keepdims=True), 1e-9), np.float32)

    def embedded(self, given: "MetaTensor") -> "np.ndarray | None":
        """`embedding_of` a volume as the network is shown it (`ready`)."""
        import torch

        if not self._novelty:
            return None
        with self._lock, torch.inference_mode(), self._watched(self.stages) as found:
            self.network(given.as_tensor()[None].float())
        made = self.embedding_of(found)
        return None if made is None else made[0]

    def novelty_of(self, given: "MetaTensor") -> float | None:
        """How foreign a volume is to the network, as the network is shown it (`ready`); None where the bundle can't tell."""
        import torch

        if not self._novelty:
            return None
        with self._lock, torch.inference_mode(), self._watched(self.stages) as found:
            self.network(given.as_tensor()[None].float())
        distance = self.distances(found)
        return None if distance is None else float(distance[0])


def _keep(found: dict[str, np.ndarray], name: str) -> Any:
    def hook(module: object, given: object, maps: "torch.Tensor") -> None:
        flat = maps.float().flatten(2)
        found[name] = np.concatenate([flat.mean(2).numpy(), flat.std(2).numpy()], axis=1)

    return hook


def _state(path: Path) -> "dict[str, torch.Tensor]":
    """Tensors of a weights file, halves widened to full precision; nothing in it can run."""
    import torch

    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        found = load_file(path)
    else:
        found = torch.load(path, map_location="cpu", weights_only=True)
    return {k: v.float() if v.dtype == torch.float16 else v for k, v in found.items()}


class _Counted:
    """A network that tells how many windows it has seen."""

    def __init__(self, network: Any, total: int, step: Step | None) -> None:
        self.network, self.total, self.step, self.done = network, total, step, 0

    def __call__(self, *given: Any, **named: Any) -> Any:
        output = self.network(*given, **named)
        self.done += 1
        if self.step is not None:
            self.step(min(self.done, self.total), self.total)
        return output


def _windows(inferer: Any, image: "torch.Tensor") -> int:
    """How many times `inferer` will ask the network."""
    from monai.data.utils import dense_patch_slices
    from monai.inferers.utils import _get_scan_interval
    from monai.utils import fall_back_tuple

    size = getattr(inferer, "roi_size", None)
    if size is None:
        return 1
    shape = tuple(image.shape[2:])
    roi = fall_back_tuple(size, shape)
    padded = tuple(max(a, b) for a, b in zip(shape, roi, strict=True))
    overlap = inferer.overlap if isinstance(inferer.overlap, Sequence) else [inferer.overlap] * len(shape)
    interval = _get_scan_interval(padded, roi, len(shape), overlap)
    return -(-len(dense_patch_slices(padded, roi, interval)) // inferer.sw_batch_size)


def boxes_on(boxes: np.ndarray, affine: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Boxes [n, 6] in voxels of the grid `affine` (outer edges) as the boxes around them in voxels of the grid `target`."""
    corners = boxes.reshape(-1, 2, 3)[:, [[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], [0, 1, 2]] - 0.5
    matrix = np.linalg.inv(target) @ affine
    moved = corners @ matrix[:3, :3].T + matrix[:3, 3] + 0.5
    return np.concatenate([moved.min(1), moved.max(1)], 1)


def brought_back(labels: np.ndarray, affine: np.ndarray, target: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Labels [x, y, z] with `affine` on the grid `target` of `shape`, nearest neighbour; outside of them is 0.

    One pass over the target's voxels: no field of coordinates is kept, so a CT of a thousand slices fits in memory.
    """
    from scipy import ndimage

    if labels.shape == tuple(shape) and np.allclose(affine, target, atol=1e-4):
        return labels.astype(np.uint8)
    matrix = np.linalg.inv(affine) @ target
    turned = not np.allclose(matrix[:3, :3], np.diag(np.diag(matrix[:3, :3])), atol=1e-6)
    if turned:
        return np.asarray(ndimage.affine_transform(labels, matrix[:3, :3], matrix[:3, 3], shape, np.uint8, order=0))
    index = [np.rint(np.arange(n) * matrix[i, i] + matrix[i, 3]).astype(int) for i, n in enumerate(shape)]
    inside = [(ix >= 0) & (ix < n) for ix, n in zip(index, labels.shape, strict=True)]
    found = np.zeros(shape, np.uint8)
    cut = [ix[ok] for ix, ok in zip(index, inside, strict=True)]
    if all(len(c) for c in cut):
        spans = tuple(slice(int(ok.argmax()), len(ok) - int(ok[::-1].argmax())) for ok in inside)
        found[spans] = labels[np.ix_(*cut)]
    return found


def required(bundle: Bundle, sequences: set[str], what: str) -> list[str]:
    """The channels of `bundle` that `sequences` fill. Raises NotApplicable where what it needs isn't among them."""
    channels = bundle.card.fitting(sequences)
    if channels is None:
        wanted = " or ".join(" with ".join(group) for group in bundle.card.needs or [bundle.card.sequences[:1]])
        there = ", ".join(sorted(sequences)) or "none"
        raise NotApplicable(f"{what} needs {wanted}; the sequences there are: {there}", "add that series")
    return channels
