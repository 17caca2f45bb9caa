"""Calibrate this bundle, fit its check for foreign pictures, and score it out of fold; writes evaluation.json and the weights' novelty file.

Run from the repository root, after train.py (which leaves each fold's weights in --work):

    python tools/models/bundles/breast_us_lesion_type/recipe/score.py --data ../shared/data --work /tmp/us

The temperature of a fold is fitted on the other folds; the shipped one on all. A fold's distances come from its own training pictures;
the limits are set in sight of them and of the foreign sets that are named, so the rates are a little optimistic.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from train import BUNDLE, CLASSES, FOLDS, files, folds

from tools.models.bundle import Bundle
from tools.models.scoring import ece, features_of, foreign, interval, limits, softened, stages_told, temperature_of

STAGES = [f"members.0.body.layer{n}" for n in (1, 2, 3, 4)]
SPECIFICITY = 0.8


def sensitivity(score: np.ndarray, malignant: np.ndarray) -> float:
    """Share of malignant pictures above the line that leaves SPECIFICITY of the others below."""
    return float((score[malignant] > np.quantile(score[~malignant], SPECIFICITY)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(2)
    paths, kinds = files(args.data / "us2d_breast_busi")
    types, fold = kinds.numpy(), folds(paths)
    pictures = [np.asarray(Image.open(p).convert("L"), np.float32) for p in paths]
    seen, away = np.zeros((len(paths), 2, len(CLASSES))), np.zeros(len(paths))
    for number in range(FOLDS):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "bundle"
            shutil.copytree(BUNDLE / "configs", root / "configs")
            (root / "models").mkdir()
            shutil.copyfile(args.work / f"fold{number}.safetensors", root / "models" / "model.safetensors")
            bundle = Bundle(root)
            train, held = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            bundle._novelty = stages_told(features_of(bundle, [pictures[i] for i in train], STAGES))
            own = [torch.from_numpy(pictures[i])[None] for i in held]
            for look, images in enumerate((own, [torch.flip(i, [2]) for i in own])):
                seen[held, look] = np.concatenate(
                    [bundle.forward(images[f : f + 32], [])[0].numpy() for f in range(0, len(images), 32)]
                )
            away[held] = bundle.distances(features_of(bundle, [pictures[i] for i in held], STAGES))
        print("fold", number, flush=True)
    crossed = np.zeros((len(paths), len(CLASSES)))
    for number in range(FOLDS):
        temperature = temperature_of(seen[fold != number], types[fold != number])
        crossed[fold == number] = softened(seen[fold == number], temperature)
    told, malignant, score = crossed.argmax(1), types == 1, crossed[:, 1]
    groups = np.arange(len(paths))  # no patient ids: near-duplicates stay in one fold, the interval is by picture
    darkness = np.array(
        [-float(p[p.shape[0] // 4 : 3 * p.shape[0] // 4, p.shape[1] // 4 : 3 * p.shape[1] // 4].mean()) for p in pictures]
    )
    result: dict = {"n": len(paths), "scores": {"whole": {
        "n": len(paths), "accuracy": round(float((told == types).mean()), 3),
        "accuracy_interval": interval(lambda r: (told[r] == types[r]).mean(), groups),
        **{f"recall_{c}": round(float((told == types)[types == k].mean()), 3) for k, c in enumerate(CLASSES)},
        "auc_malignant": round(float(roc_auc_score(malignant, score)), 3),
        "auc_interval": interval(lambda r: roc_auc_score(malignant[r], score[r]), groups),
        "auc_malignant_to_benign": round(float(roc_auc_score(malignant[types < 2], score[types < 2])), 3),
        "sensitivity_at_specificity_0.8": round(sensitivity(score, malignant), 3),
        "sensitivity_interval": interval(lambda r: sensitivity(score[r], malignant[r]), groups),
        "ece": round(ece(crossed, types), 3), "ece_uncalibrated": round(ece(softened(seen, 1.0), types), 3),
        "ece_interval": interval(lambda r: ece(crossed[r], types[r]), groups)}}}  # fmt: skip
    result["temperature"] = round(temperature_of(seen, types), 3)
    result["baseline"] = {
        "most_frequent_class": round(float((types == 0).mean()), 3),
        "auc_darkness_of_the_middle": round(float(roc_auc_score(malignant, darkness)), 3),
    }
    bundle = Bundle(BUNDLE)
    fitted = stages_told(features_of(bundle, pictures, STAGES))
    save_file({k: v.half() if k.endswith("mean") else v for k, v in fitted.items()}, BUNDLE / "models" / "novelty.safetensors")
    bundle = Bundle(BUNDLE)
    others = {k: bundle.distances(features_of(bundle, v, STAGES)) for k, v in foreign(args.data).items() if "BUSI" not in k}
    far = np.concatenate(list(others.values()))
    bounds = limits(away, far)
    result["novelty"] = bounds
    result["foreign"] = {k: {"n": len(d), "median": round(float(np.median(d)), 2), "refused": round(float((d > bounds["refuse"]).mean()), 3),
                             "warned": round(float((d > bounds["warn"]).mean()), 3)} for k, d in {"own": away, **others}.items()}  # fmt: skip
    result["rates"] = {"false_acceptance": round(float((far <= bounds["refuse"]).mean()), 4),
                       "false_refusal": round(float((away > bounds["refuse"]).mean()), 4),
                       "false_warning": round(float((away > bounds["warn"]).mean()), 4)}  # fmt: skip
    (BUNDLE / "recipe" / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
