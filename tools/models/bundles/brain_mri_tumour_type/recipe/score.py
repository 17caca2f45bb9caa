"""Calibrate this bundle, fit its check for foreign pictures, and score it out of fold; writes evaluation.json and the weights' novelty file.

Run from the repository root, after train.py (which leaves the folds' networks in --work):

    python tools/models/bundles/brain_mri_tumour_type/recipe/score.py --data ../shared/data --work /tmp/type

Each slice is judged as `classify` and `detect` do it (two looks, both mirrored; tools/models/jobs.py), by a network that never saw its
block. The temperature of a fold is fitted on the other folds; the shipped one on all. A fold's distances come from its own training
slices; the limits are set in sight of them and of the foreign sets that are named, so the rates are a little optimistic.
"""

import argparse
import csv
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from train import BLOCKS, BUNDLE, CLASSES, FOLDS, SEED, box_of, folds, skull_stripped

from tools.models import jobs
from tools.models.bundle import Bundle
from tools.models.networks import BoxAndType
from tools.models.scoring import ece, features_of, foreign, interval, limits, softened, stages_told, temperature_of

STAGES = ["body.layer2", "body.layer3", "body.layer4"]
VIEWS = ("whole", "skull_removed")


def bundle_with(weights: Path, folder: Path) -> Bundle:
    """This bundle with the weights of a fold."""
    shutil.copytree(BUNDLE / "configs", folder / "configs")
    (folder / "models").mkdir()
    state = torch.load(weights, weights_only=True)
    save_file(
        {k: v.half().contiguous() if v.is_floating_point() else v for k, v in state.items()},
        folder / "models" / "model.safetensors",
    )
    return Bundle(folder)


def logits(bundle: Bundle, images: list[torch.Tensor]) -> np.ndarray:
    """[n, 2, classes]: as it is, and mirrored."""
    both = [bundle.forward(x, [])[0][:, BoxAndType.TYPES :, 0, 0].numpy() for x in (images, [torch.flip(i, [2]) for i in images])]
    return np.stack(both, 1)


def looks(bundle: Bundle, pictures: list[np.ndarray], near: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits [n, looks, classes], boxes and their scores. `near`: known boxes, seen alone; None: whole slices and the network's own boxes."""
    found = []
    for first in range(0, len(pictures), 32):
        images = [torch.from_numpy(p)[None] for p in pictures[first : first + 32]]
        boxes, scores, spans = jobs.found(bundle, images)
        if near is not None:
            spans = [jobs._square(i, b) for i, b in zip(images, near[first : first + 32], strict=True)]
        cut = [i[:, y0:y1, x0:x1].contiguous() for i, (x0, y0, x1, y1) in zip(images, spans, strict=True)]
        told = [logits(bundle, cut)] if near is not None else [logits(bundle, images), logits(bundle, cut)]
        found.append((np.concatenate(told, 1), boxes, scores))
    return tuple(np.concatenate(f) for f in zip(*found, strict=True))


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    wide = (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).clip(0).prod(1)
    return wide / ((a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - wide)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    source = args.data / "mri2d_brain_tumor_cheng"
    rows = list(csv.DictReader((source / "labels.csv").open()))
    types = np.array([CLASSES.index(r["class"]) for r in rows])
    truth = np.array([box_of(r, 512) for r in rows])
    fold = folds(rows)[:, 0]
    block = np.zeros(len(rows), int)
    for number, label in enumerate(CLASSES):
        mine = sorted((i for i, r in enumerate(rows) if r["class"] == label), key=lambda i: int(Path(rows[i]["file"]).stem))
        block[mine] = number * BLOCKS + np.arange(len(mine)) * BLOCKS // len(mine)
    numbers = np.random.default_rng(SEED + 1)
    whole = [np.asarray(Image.open(source / r["file"]).convert("L"), np.float32) for r in rows]
    pictures = {"whole": whole, "skull_removed": [skull_stripped(i, numbers.uniform(0.03, 0.08)) for i in whole]}
    seen = {v: np.zeros((len(rows), 4 if v == "whole" else 2, len(CLASSES))) for v in VIEWS}
    boxes = {v: np.zeros((len(rows), 4)) for v in VIEWS}
    away = {v: np.zeros(len(rows)) for v in VIEWS}
    for number in range(FOLDS):
        with tempfile.TemporaryDirectory() as folder:
            bundle = bundle_with(args.work / f"fold{number}.pt", Path(folder) / "bundle")
            train = np.load(args.work / f"fold{number}.npz")["train"]
            held = np.flatnonzero(fold == number)
            views = {v: features_of(bundle, [pictures[v][i] for i in train], STAGES) for v in VIEWS}
            bundle._novelty = {k: t for v, f in views.items() for k, t in stages_told(f, v).items()}
            for view in VIEWS:
                own = [pictures[view][i] for i in held]
                near = None if view == "whole" else truth[held]  # a volume comes with its outline
                seen[view][held], boxes[view][held], _ = looks(bundle, own, near)
                away[view][held] = bundle.distances(features_of(bundle, own, STAGES))
        print("fold", number, flush=True)
    result: dict = {"n": len(rows), "scores": {}}
    for view in VIEWS:
        crossed = np.zeros((len(rows), len(CLASSES)))
        for number in range(FOLDS):
            temperature = temperature_of(seen[view][fold != number], types[fold != number])
            crossed[fold == number] = softened(seen[view][fold == number], temperature)
        told = crossed.argmax(1)
        plain = softened(seen[view], 1.0)
        overlap = iou(boxes[view], truth) >= 0.5
        result["scores"][view] = {
            "n": len(rows), "accuracy": round(float((told == types).mean()), 3),
            "accuracy_interval": interval(lambda r, told=told: (told[r] == types[r]).mean(), block),
            **{f"recall_{c}": round(float((told == types)[types == k].mean()), 3) for k, c in enumerate(CLASSES)},
            "ece": round(ece(crossed, types), 3), "ece_uncalibrated": round(ece(plain, types), 3),
            "ece_interval": interval(lambda r, crossed=crossed: ece(crossed[r], types[r]), block),
            "boxes_iou_half": round(float(overlap.mean()), 3),
            "boxes_interval": interval(lambda r, overlap=overlap: overlap[r].mean(), block),
            **{f"boxes_{c}": round(float(overlap[types == k].mean()), 3) for k, c in enumerate(CLASSES)},
        }  # fmt: skip
    result["temperatures"] = {v: round(temperature_of(seen[v], types), 3) for v in VIEWS}
    result["temperature"] = round(float(np.mean(list(result["temperatures"].values()))), 3)
    for view in VIEWS:
        result["scores"][view]["ece_as_shipped"] = round(ece(softened(seen[view], result["temperature"]), types), 3)
    middle = np.array([np.median(truth[types == k], 0) for k in range(len(CLASSES))]).mean(0)
    result["baseline"] = {"most_frequent_type": round(float((types == np.bincount(types).argmax()).mean()), 3),
                          "median_box_iou_half": round(float((iou(np.tile(middle, (len(rows), 1)), truth) >= 0.5).mean()), 3)}  # fmt: skip
    bundle = Bundle(BUNDLE)
    fitted = {k: t for v in VIEWS for k, t in stages_told(features_of(bundle, pictures[v], STAGES), v).items()}
    save_file({k: v.half() if k.endswith("mean") else v for k, v in fitted.items()}, BUNDLE / "models" / "novelty.safetensors")
    bundle = Bundle(BUNDLE)
    others = {k: bundle.distances(features_of(bundle, v, STAGES)) for k, v in foreign(args.data).items() if "Cheng" not in k}
    near_kinds = [k for k in others if k.startswith("brain T1c")]
    brains = [k for k in others if k.startswith("brain") and k not in near_kinds]
    far = np.concatenate([d for k, d in others.items() if k not in near_kinds + brains])
    own = np.concatenate([away[v] for v in VIEWS])
    bounds = limits(own, far)
    near = np.concatenate([others[k] for k in near_kinds])
    # What its header calls MR of the brain needs no such narrow limit: slices of another scanner are to be warned of, not refused. It lies
    # halfway (geometric mean) to the far kinds; CT slices of a body lie among the near ones, and no header of theirs says MR.
    beyond = np.concatenate([d for k, d in others.items() if k not in near_kinds + brains + ["body CT slices"]])
    bounds["refuse_stated"] = round(float(np.sqrt(np.quantile(near, 0.99) * np.quantile(beyond, 0.01))), 3)
    result["novelty"] = bounds
    result["foreign"] = {k: {"n": len(d), "median": round(float(np.median(d)), 2), "refused": round(float((d > bounds["refuse"]).mean()), 3),
                             "refused_as_stated": round(float((d > bounds["refuse_stated"]).mean()), 3),
                             "warned": round(float((d > bounds["warn"]).mean()), 3)} for k, d in {**{f"own, {v}": away[v] for v in VIEWS}, **others}.items()}  # fmt: skip
    result["rates"] = {"false_acceptance": round(float((far <= bounds["refuse"]).mean()), 4),
                       "false_refusal": round(float((own > bounds["refuse"]).mean()), 4),
                       "false_acceptance_as_stated": round(float((far <= bounds["refuse_stated"]).mean()), 4),
                       "false_refusal_as_stated": round(float((own > bounds["refuse_stated"]).mean()), 4),
                       "false_warning": round(float((own > bounds["warn"]).mean()), 4)}  # fmt: skip
    (BUNDLE / "recipe" / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
