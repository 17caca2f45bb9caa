"""Fit this bundle's check for places that are no lung with a lesion; writes evaluation.json and the weights' novelty file.

Run from the repository root, after train.py:

    python tools/models/bundles/lung_ct_tumour_patch/recipe/score.py --data ../shared/data

The features are those of the shipped network, which saw all patches; the distance of a patch is to the patches of other runs of numbers,
so the own distances are a little optimistic. Foreign are squares of the abdomen and of other images, in the patches' own range of values;
the limits are set in sight of both.
"""

import argparse
import json
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
from safetensors.torch import save_file
from scipy import ndimage
from train import BUNDLE, FOLDS, SEED

from tools.models.bundle import Bundle
from tools.models.scoring import features_of, foreign, limits, stages_told

STAGES = ["model.0", "model.1.submodule.0", "model.1.submodule.1.submodule.0", "model.1.submodule.1.submodule.1.submodule"]
SIDE, SIDE_MM, LOW, HIGH = 48, 2.0, -1000.0, 100.0
EACH = 80


def squares(images: list[np.ndarray], rng: np.random.Generator, count: int = EACH) -> list[np.ndarray]:
    """Squares of SIDE pixels at random places of images [rows, columns], those that aren't one value everywhere."""
    found = []
    while len(found) < count:
        image = images[rng.integers(len(images))]
        y, x = (int(rng.integers(0, max(1, n - SIDE))) for n in image.shape)
        cut = image[y : y + SIDE, x : x + SIDE]
        if cut.shape == (SIDE, SIDE) and np.ptp(cut) > 0:
            found.append(cut.astype(np.float32))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    rng = np.random.default_rng(SEED)
    with h5py.File(args.data / "ct2d_lung_tumour_msd_patches" / "patches_13patients.h5") as file:
        patches = np.asarray(file["images"], np.float32)[:, 0] * (HIGH - LOW) + LOW
    own = list(patches)
    others: dict[str, list[np.ndarray]] = {}
    ct = nib.load(args.data / "ct_mr_body_totalseg" / "example_ct.nii.gz")
    fine = ndimage.zoom(ct.get_fdata(dtype=np.float32), (3 / SIDE_MM, 3 / SIDE_MM, 1), order=1)
    others["squares of an abdominal CT"] = squares([fine[:, :, k].T for k in range(fine.shape[2])], rng)
    for kind, images in foreign(args.data).items():
        if "lung" in kind or "body CT" in kind:
            continue
        others[kind] = squares([(i - i.min()) / max(float(np.ptp(i)), 1e-6) * (HIGH - LOW) + LOW for i in images], rng)
    bundle = Bundle(BUNDLE)
    told = features_of(bundle, own, STAGES)
    fold = np.arange(len(own)) * FOLDS // len(own)
    away = np.zeros(len(own))
    for number in range(FOLDS):
        bundle._novelty = stages_told({s: v[fold != number] for s, v in told.items()})
        away[fold == number] = bundle.distances({s: v[fold == number] for s, v in told.items()})
    fitted = stages_told(told)
    bundle._novelty = fitted
    distances = {k: bundle.distances(features_of(bundle, v, STAGES)) for k, v in others.items()}
    far = np.concatenate(list(distances.values()))
    bounds = limits(away, far)
    save_file({k: v.half() if k.endswith("mean") else v for k, v in fitted.items()}, BUNDLE / "models" / "novelty.safetensors")
    result = {
        "novelty": bounds,
        "foreign": {k: {"n": len(d), "median": round(float(np.median(d)), 2), "refused": round(float((d > bounds["refuse"]).mean()), 3),
                        "warned": round(float((d > bounds["warn"]).mean()), 3)} for k, d in {"own": away, **distances}.items()},
        "rates": {"false_acceptance": round(float((far <= bounds["refuse"]).mean()), 4), "false_refusal": round(float((away > bounds["refuse"]).mean()), 4),
                  "false_warning": round(float((away > bounds["warn"]).mean()), 4), "foreign": len(far), "own": len(own)},
    }  # fmt: skip
    (BUNDLE / "recipe" / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
