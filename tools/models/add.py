"""Models that a hospital brings: a MONAI bundle, an nnU-Net or TotalSegmentator results folder, TorchScript or ONNX with a card.

Each becomes a bundle folder of its own in the house's model folder, and is checked before it is used.
"""

import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tools.errors import NotApplicable, ToolError
from tools.models.bundle import Bundle
from tools.models.card import BundleCard, Region

KNOWN = ("monai.", "torch.nn.", "torch.optim.", "tools.models.", "ignite.")
"""Where a `_target_` of a foreign bundle may lie; bare names are MONAI's own."""
DETECTOR_PARTS = {"imports", "network", "network_def", "backbone", "feature_extractor", "anchor_generator", "detector", "detector_ops", "preprocessing",
                  "preprocessing_array", "returned_layers", "base_anchor_shapes", "conv1_t_stride", "spatial_size", "infer_patch_size",
                  "pixdim", "spacing"}  # fmt: skip
"""Parts of a detection bundle's configuration that are kept, beside plain values."""
DOUBTFUL = re.compile(
    r"__|\b(import|os|sys|subprocess|eval|exec|open|getattr|setattr|globals|locals|socket|shutil|pathlib|pickle)\b"
)
"""Words in an expression that could do more than arithmetic. Expressions run as Python: what has them needs a person's word."""


class GivenCard(BaseModel):
    """What a person states of a model (card.yaml, or the command's options); what a bundle states itself needs no repeating."""

    model_config = ConfigDict(extra="forbid")
    name: str | None = Field(None, pattern=r"^[a-z0-9_]{3,60}$")
    version: str = "1.0.0"
    task: str = "segmentation"
    modality: str | None = None
    body_part: str | None = None
    sequences: list[str] = []
    needs: list[list[str]] = []
    dimensions: int = 3
    classes: list[str] = []
    tumour: list[str] = []
    """Classes that are (parts of) lesions."""
    intended_use: str = "Not stated by whoever added it."
    accuracy: str = "Not measured here; as its makers state it."
    limits: str = "Not measured here. No check for foreign images: only modality, body part and sequences are looked at."
    training_data: str = "not stated"
    licence: str = "not stated"
    fit: dict[str, Any] = {}
    orientation: str = "RAS"
    spacing_mm: list[float] | None = None
    size: list[int] | None = None
    """Pixels of a 2D network's input."""
    window: list[float] | None = None
    """Values that are put to 0 … 1; left out: mean 0, deviation 1."""
    patch: list[int] | None = None
    activation: str | None = None


def add(source: Path, models: Path, given: GivenCard, trust_code: bool = False) -> Bundle:
    """Take a model in, checked. Raises NotApplicable with the reason where it can't be used; nothing of it then stays."""
    if not source.exists():
        raise NotApplicable(f"{source} isn't there", "name a folder or file")
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models, prefix=".adding-") as folder:
        made = Path(folder) / "bundle"
        name = given.name or re.sub(r"[^a-z0-9]+", "_", source.stem.lower()).strip("_")
        try:
            _laid_out(source, made, given, name, trust_code)
            bundle = Bundle(made)
            _checked(bundle)
        except (ValidationError, KeyError, OSError, ValueError, TypeError) as error:
            told = (
                "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
                if isinstance(error, ValidationError)
                else error
            )
            raise NotApplicable(f"{source.name} can't be read as a model ({type(error).__name__}: {told})",
                                "see docs/models.md for the layouts that are taken") from error  # fmt: skip
        target = models / name
        if target.exists():
            raise NotApplicable(f"there is a model {name!r} already", "remove it first, or give another --name")
        made.rename(target)
    return Bundle(target)


def _is_results_folder(folder: Path) -> bool:
    """True for a folder that nnU-Net's training wrote: dataset.json, plans.json and at least one fold."""
    return (folder / "dataset.json").exists() and (folder / "plans.json").exists() and any(folder.glob("fold_*/checkpoint_*.pth"))


def stated_card(source: Path, given: GivenCard) -> BundleCard:
    """The card of a model that isn't taken in yet; its weights aren't read. Raises NotApplicable where it lacks what a card needs."""
    if (metadata := source / "configs" / "metadata.json").exists():
        told = json.loads(metadata.read_text(encoding="utf-8"))
        if "consilium" in told:
            return BundleCard.model_validate({**told["consilium"], "origin": "added"})
        configs = [p for n in ("inference.json", "inference.yaml", "inference.yml") if (p := source / "configs" / n).exists()]
        detects = bool(configs) and "detector" in yaml.safe_load(configs[0].read_text(encoding="utf-8"))
        return _card(
            {**_stated(told), **({"task": "detection"} if detects else {})},
            given,
            "MONAI detector" if detects else "MONAI bundle",
        )
    stated: dict[str, Any] = {}
    if source.is_dir() and _is_results_folder(source):
        told = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
        labels = told["labels"]
        if "CT" in {str(n).upper() for n in told.get("channel_names", {}).values()}:
            stated["modality"] = "CT"
        stated["classes"] = sorted((n for n, v in labels.items() if isinstance(v, int)), key=lambda n: labels[n])
        return _card(stated, given, "nnU-Net results folder")
    return _card(stated, given, "ONNX" if source.suffix == ".onnx" else "TorchScript")


def _laid_out(source: Path, made: Path, given: GivenCard, name: str, trust_code: bool) -> None:
    if source.is_dir() and (source / "configs" / "metadata.json").exists():
        _from_bundle(source, made, given, trust_code)
    elif source.is_dir() and _is_results_folder(source):
        from tools.models import nnunet  # with torch, which a server that starts doesn't need

        config, about, weights = nnunet.converted(source, given.orientation)
        _write(made, given, name, config, about, "nnU-Net results folder")
        from safetensors.torch import save_file

        save_file({k: v.clone().contiguous() for k, v in weights.items()}, made / "models" / "model.safetensors")
    elif source.suffix in (".ts", ".pt", ".pth", ".onnx"):
        suffix = ".onnx" if source.suffix == ".onnx" else ".ts"
        _write(made, given, name, _config(given), {}, "ONNX" if suffix == ".onnx" else "TorchScript")
        shutil.copyfile(source, made / "models" / f"model{suffix}")
    else:
        raise NotApplicable(f"{source.name} is no model that is known here",
                            "give a MONAI bundle, an nnU-Net results folder, a TorchScript (.ts, .pt) or an ONNX file")  # fmt: skip


def _from_bundle(source: Path, made: Path, given: GivenCard, trust_code: bool) -> None:
    """Copy a Model Zoo bundle: metadata, inference configuration (JSON or YAML) and weights."""
    config = next(
        (p for n in ("inference.json", "inference.yaml", "inference.yml") if (p := source / "configs" / n).exists()), None
    )
    if config is None:
        raise NotApplicable("the bundle has no configs/inference.json", "give a bundle that can infer")
    loaded = yaml.safe_load(config.read_text(encoding="utf-8"))
    detects = "detector" in loaded
    if detects:  # a MONAI detector is asked directly: what a bundle puts around it (its own inferer, box files) has no work here
        loaded = {k: v for k, v in loaded.items() if k in DETECTOR_PARTS or not isinstance(v, dict | list)}
    doubts = list(_doubtful(loaded))
    if doubts and not trust_code:
        raise NotApplicable(f"the bundle's configuration runs code that isn't MONAI's: {'; '.join(doubts[:3])}",
                            "read it; if you trust who made it, add it again with --trust-code")  # fmt: skip
    (made / "configs").mkdir(parents=True)
    (made / "models").mkdir()
    if "network" not in loaded and "network_def" in loaded:
        loaded["network"] = "$@network_def"
    if (
        "network" not in loaded
        or not {"preprocessing", "preprocessing_array"} & set(loaded)
        or not {"inferer", "detector"} & set(loaded)
    ):
        raise NotApplicable(
            "the bundle's inference configuration names no network, preprocessing, inferer or detector",
            "give one as the Model Zoo has it",
        )
    (made / "configs" / "inference.json").write_text(json.dumps({"bundle_root": ".", **loaded}, indent=1))
    metadata = json.loads((source / "configs" / "metadata.json").read_text(encoding="utf-8"))
    if "consilium" not in metadata:
        metadata["consilium"] = _card({**_stated(metadata), **({"task": "detection"} if detects else {})}, given,
                                      "MONAI detector" if detects else "MONAI bundle").model_dump()  # fmt: skip
    metadata["consilium"]["origin"] = "added"
    (made / "configs" / "metadata.json").write_text(json.dumps(metadata, indent=1))
    for name in ("model.safetensors", "model.pt", "model.ts", "novelty.safetensors"):
        if (source / "models" / name).exists():
            shutil.copyfile(source / "models" / name, made / "models" / name)
    if Bundle(made).weights is None:
        raise NotApplicable("the bundle has no weights (models/model.pt, .ts or .safetensors)", "download it whole")


def _doubtful(node: Any, where: str = "") -> Any:
    """Expressions and targets in a configuration that aren't plainly MONAI's."""
    if isinstance(node, dict):
        target = node.get("_target_")
        if isinstance(target, str) and "." in target and not target.startswith(KNOWN):
            yield f"{where}: {target}"
        for key, value in node.items():
            yield from _doubtful(value, f"{where}.{key}".strip("."))
    elif isinstance(node, list):
        for value in node:
            yield from _doubtful(value, where)
    elif isinstance(node, str) and node.startswith("$"):
        plain = re.sub(r"\$import (glob|os|torch|json|numpy as np|monai)$", "", node)
        if re.match(r"\$import os$|\$import glob$", node):
            return
        if DOUBTFUL.search(plain.replace("os.path.join", "").replace("os.path.basename", "")):
            yield f"{where}: {node[:80]}"


def _stated(metadata: dict[str, Any]) -> dict[str, Any]:
    """What the Model Zoo's metadata says of inputs and outputs, in the card's words."""
    inputs = metadata["network_data_format"]["inputs"]["image"]
    outputs = next(iter(metadata["network_data_format"]["outputs"].values()))
    channels = outputs.get("channel_def") or {}
    classes = [str(channels[k]) for k in sorted(channels, key=int)]
    shape = inputs.get("spatial_shape", [])
    found = {"modality": {"MRI": "MR"}.get(str(inputs.get("modality", "")).upper(), str(inputs.get("modality", "")).upper()),
             "classes": classes, "dimensions": len(shape) if len(shape) in (2, 3) else 3,
             "task": "segmentation" if outputs.get("format") == "segmentation" else "classification",
             "intended_use": metadata.get("intended_use", ""), "training_data": str(metadata.get("data_source", "not stated")),
             "accuracy": f"As its makers state it: {json.dumps(metadata['eval_metrics'])}" if metadata.get("eval_metrics") else None}  # fmt: skip
    if int(inputs.get("num_channels", 1)) > 1:
        named = inputs.get("channel_def", {})
        found["sequences"] = [str(named[k]) for k in sorted(named, key=int)]
        found["needs"] = [found["sequences"]]
    return {k: v for k, v in found.items() if v}


def _card(stated: dict[str, Any], given: GivenCard, kind: str) -> BundleCard:
    """The card from what a model states and what a person states of it; the person's word counts more."""
    said = {k: v for k, v in given.model_dump(exclude={"name", "version", "tumour", "orientation", "spacing_mm", "size", "window", "patch",
                                                       "activation"}).items() if k in given.model_fields_set}  # fmt: skip
    default = GivenCard().model_dump()
    base = {k: default[k] for k in ("task", "intended_use", "accuracy", "limits", "training_data", "licence", "dimensions")}
    merged = {**base, "kind": kind, **stated, **said, "origin": "added"}
    lacking = [k for k in ("modality", "body_part") if not merged.get(k)]
    if lacking:
        raise NotApplicable(f"the model doesn't state its {' and '.join(lacking)}", "state them with --card or the options")
    if merged["task"] == "segmentation" and not merged.get("regions"):
        names = merged.get("classes", [])
        merged["regions"] = [
            Region(name=n.replace("_", " "), labels=[i]).model_dump() for i, n in enumerate(names) if i or len(names) == 1
        ]
        if len(names) == 1:
            merged["regions"][0]["labels"] = [1]
    for region in merged.get("regions", []):
        region["tumour"] = region.get("tumour") or region["name"] in given.tumour
    return BundleCard.model_validate(merged)


def _config(given: GivenCard) -> dict[str, Any]:
    """An inference configuration for a lone network file, from what its card states."""
    steps: list[dict[str, Any]] = [{"_target_": "EnsureType", "dtype": "$torch.float32"}]
    if given.dimensions == 3:
        steps.append({"_target_": "Orientation", "axcodes": given.orientation, "labels": None})
    if given.spacing_mm:
        steps.append({"_target_": "Spacing", "pixdim": given.spacing_mm, "mode": "bilinear", "padding_mode": "border"})
    if given.size:
        steps.append({"_target_": "Resize", "spatial_size": given.size, "mode": "bilinear", "anti_aliasing": True})
    if given.window:
        steps.append(
            {
                "_target_": "ScaleIntensityRange",
                "a_min": given.window[0],
                "a_max": given.window[1],
                "b_min": 0,
                "b_max": 1,
                "clip": True,
            }
        )
    else:
        steps.append({"_target_": "NormalizeIntensity"})
    inferer: dict[str, Any] = {"_target_": "SimpleInferer"}
    if given.patch:
        inferer = {"_target_": "SlidingWindowInferer", "roi_size": given.patch, "sw_batch_size": 1, "overlap": 0.25}
    return {"imports": ["$import torch"], "preprocessing_array": {"_target_": "Compose", "transforms": steps}, "inferer": inferer,
            **({"activation": given.activation} if given.activation else {})}  # fmt: skip


def _write(made: Path, given: GivenCard, name: str, config: dict[str, Any], stated: dict[str, Any], kind: str) -> None:
    (made / "configs").mkdir(parents=True)
    (made / "models").mkdir()
    card = _card(stated, given, stated.get("kind", kind))
    metadata = {"version": given.version, "name": name, "task": card.task, "description": card.intended_use,
                "network_data_format": {"inputs": {}, "outputs": {}}, "consilium": card.model_dump()}  # fmt: skip
    (made / "configs" / "metadata.json").write_text(json.dumps(metadata, indent=1))
    (made / "configs" / "inference.json").write_text(json.dumps({"bundle_root": ".", **config}, indent=1))


def _checked(bundle: Bundle) -> None:
    """Run the model once on made-up values: it has to load, keep the image's shape, and name each class that its card names."""
    import torch
    from monai.data import MetaTensor

    card = bundle.card
    channels = max(1, len(card.sequences))
    rng = np.random.default_rng(0)
    try:
        if card.dimensions == 2:
            image = torch.from_numpy(rng.uniform(0, 255, (channels, 96, 96)).astype(np.float32))
            output, _ = bundle.forward([image], [])
            count = output.shape[1]
        else:
            side = [48, 48, 48]
            data = torch.from_numpy(rng.uniform(-200, 300, (channels, *side)).astype(np.float32))
            image3 = MetaTensor(data, affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64)))
            if card.task == "detection":
                bundle.boxes(image3)
                return
            scores = bundle.scores(image3)
            output, count = scores.as_tensor(), scores.shape[0]
            bundle.labels(scores)
    except ToolError:
        raise
    except Exception as error:  # a foreign network can fail in any way
        raise NotApplicable(f"the model doesn't run on an image of the kind that its card states ({type(error).__name__})",
                            "check channels, size and spacing in its card") from error  # fmt: skip
    if not bool(torch.isfinite(output).all()):
        raise NotApplicable("the model gives values that are no numbers", "check its normalisation")
    classes = (
        max([len(card.classes), *(max(r.labels) + 1 for r in card.regions)], default=count)
        if card.regions or card.classes
        else count
    )
    if count not in (classes, 1 if classes == 2 else classes):
        raise NotApplicable(
            f"the model gives {count} classes, and its card names {classes}", "name every class in its card, background first"
        )


def digest(folder: Path) -> str:
    """sha256 over a bundle's files, in the order of their names."""
    held = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        held.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return held.hexdigest()
