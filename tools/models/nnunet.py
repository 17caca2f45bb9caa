"""nnU-Net and TotalSegmentator results folders as bundles: their plans say network, spacing, normalisation and patch."""

import json
from pathlib import Path
from pydoc import locate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tools.errors import NotApplicable

NUMPY_SCALARS = [
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    np.dtype,
    *{type(np.dtype(c)) for c in "?bhilqBHILQefd"},
]
"""What nnU-Net's checkpoints hold beside tensors; nothing else is let out of a pickle."""


class ReversedAxes(nn.Module):
    """A network that wants [B, C, z, y, x] (as nnU-Net's readers give it), used on [B, C, x, y, z]."""

    def __init__(self, architecture: dict[str, Any], in_channels: int, classes: int) -> None:
        super().__init__()
        kind: Any = locate(architecture["network_class_name"])
        if kind is None or not str(architecture["network_class_name"]).startswith("dynamic_network_architectures."):
            raise NotApplicable(f"the network {architecture['network_class_name']!r} isn't known here",
                                "install dynamic-network-architectures in the version that the plans were made with")  # fmt: skip
        given = dict(architecture["arch_kwargs"])
        for name in architecture.get("_kw_requires_import", []):
            given[name] = locate(given[name]) if given[name] else None
        self.inner: nn.Module = kind(input_channels=in_channels, num_classes=classes, deep_supervision=False, **given)

    def forward(self, image: Tensor) -> Tensor:
        return self.inner(image.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)


def converted(folder: Path, orientation: str = "RAS") -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """inference.json, what the card says, and the weights of a results folder. Raises NotApplicable where it can't be used."""
    dataset = json.loads((folder / "dataset.json").read_text())
    plans = json.loads((folder / "plans.json").read_text())
    labels = {n: v for n, v in dataset["labels"].items() if n != "ignore"}
    if any(isinstance(v, list) for v in labels.values()):
        raise NotApplicable("this nnU-Net was trained on overlapping regions", "use one trained on plain labels")
    checkpoint = sorted(folder.glob("fold_*/checkpoint_final.pth")) or sorted(folder.glob("fold_*/checkpoint_best.pth"))
    with torch.serialization.safe_globals(NUMPY_SCALARS):
        held = torch.load(checkpoint[0], map_location="cpu", weights_only=True)
    name = held["init_args"]["configuration"]
    plan = dict(plans["configurations"][name])
    while "inherits_from" in plan:
        parent = plan.pop("inherits_from")
        plan = {**plans["configurations"][parent], **plan}
    if len(plan["patch_size"]) != 3 or "architecture" not in plan:
        raise NotApplicable("only 3D configurations of nnU-Net 2.4 and newer are read", "train 3d_fullres with a present nnU-Net")
    channels = dataset["channel_names"]
    spread = plans["foreground_intensity_properties_per_channel"]
    steps: list[dict[str, Any]] = [{"_target_": "EnsureType", "dtype": "$torch.float32"},
                                   {"_target_": "Orientation", "axcodes": orientation, "labels": None},
                                   {"_target_": "tools.models.nnunet.Normalised", "schemes": plan["normalization_schemes"],
                                    "properties": [spread.get(str(i), {}) for i in range(len(channels))]},
                                   {"_target_": "Spacing", "pixdim": plan["spacing"][::-1], "mode": "bilinear", "padding_mode": "border"}]  # fmt: skip
    config = {
        "imports": ["$import torch"],
        "activation": "softmax",
        "network_def": {"_target_": "tools.models.nnunet.ReversedAxes", "architecture": plan["architecture"], "in_channels": len(channels),
                        "classes": len(labels)},
        "network": "$@network_def",
        "preprocessing_array": {"_target_": "Compose", "transforms": steps},
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": plan["patch_size"][::-1], "sw_batch_size": 1, "overlap": 0.5,
                    "mode": "gaussian"},
    }  # fmt: skip
    about = {"modality": "CT" if all("CT" in str(n).upper() for n in channels.values()) else "MR",
             "sequences": [] if len(channels) == 1 else [str(n) for n in channels.values()],
             "needs": [] if len(channels) == 1 else [[str(n) for n in channels.values()]],
             "classes": [n for n, _ in sorted(labels.items(), key=lambda i: i[1])],
             "regions": [{"name": n.replace("_", " "), "labels": [v]} for n, v in labels.items() if v],
             "kind": f"nnU-Net ({name})"}  # fmt: skip
    weights = {f"inner.{k.removeprefix('module.').removeprefix('_orig_mod.')}": v for k, v in held["network_weights"].items()}
    return config, about, weights


class Normalised:
    """nnU-Net's normalisation of each channel: CT by the plans' percentiles, mean and deviation; others by their own."""

    def __init__(self, schemes: list[str], properties: list[dict[str, float]]) -> None:
        unknown = set(schemes) - {"CTNormalization", "ZScoreNormalization", "NoNormalization"}
        if unknown:
            raise NotApplicable(f"the normalisation {', '.join(sorted(unknown))} isn't known here", "use another model")
        self.schemes, self.properties = schemes, properties

    def __call__(self, image: Tensor) -> Tensor:
        made = image.clone()
        for channel, scheme, p in zip(made, self.schemes, self.properties, strict=True):
            if scheme == "CTNormalization":
                channel.clamp_(p["percentile_00_5"], p["percentile_99_5"])
                channel.sub_(p["mean"]).div_(max(p["std"], 1e-8))
            elif scheme == "ZScoreNormalization":
                channel.sub_(channel.mean()).div_(channel.std().clamp_min(1e-8))
        return made
