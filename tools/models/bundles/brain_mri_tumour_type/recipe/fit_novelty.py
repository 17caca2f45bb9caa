"""Fit what is foreign to the tumour-type network: distances in its feature space, stage by stage.

Run from the repository root after train.py:

    python tools/models/bundles/brain_mri_tumour_type/recipe/fit_novelty.py --data ../shared/data    # needs h5py too

For each stage the mean over positions of its feature maps is taken as a vector; its Mahalanobis distance to the training
slices (all four views, Ledoit-Wolf covariance), divided by the square root of its length, is averaged over stages. `warn` is
the 99th percentile of the validation slices. `refuse` lies halfway (geometric mean) between `warn` and the 5th percentile of the
first half of the foreign pictures (breast ultrasound, lung CT patches). What is reported as refused is the second half, which had no
part in the limit, and two families that had none at all: body CT slices and noise.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import torch
from PIL import Image
from sklearn.covariance import LedoitWolf

BUNDLE = Path(__file__).resolve().parents[1]
STAGES = ("layer1", "layer2", "layer3", "layer4")
"""Stages of MONAI's ResNet whose features are looked at; the fitted file names them for the bundle."""
sys.path.insert(0, str(BUNDLE / "recipe"))
from train import SEED, VIEWS, cropped, skull_stripped, split  # noqa: E402

from tools.models.bundle import Bundle  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    bundle = Bundle(BUNDLE)
    numbers = np.random.default_rng(SEED)

    def features(pictures: list[np.ndarray]) -> dict[str, np.ndarray]:
        tensors = [torch.from_numpy(p[None].astype(np.float32)) for p in pictures]
        batches = [bundle.forward(tensors[i : i + 32], STAGES)[1] for i in range(0, len(tensors), 32)]
        return {stage: np.concatenate([b[stage] for b in batches]) for stage in batches[0]}

    def views(rows: list[dict]) -> list[np.ndarray]:
        made = []
        for row in rows:
            image = np.asarray(
                Image.open(args.data / "mri2d_brain_tumor_cheng" / row["file"]).convert("L").resize((256, 256)), np.float32
            )
            bare = skull_stripped(image, numbers.uniform(0.03, 0.08))
            made += [image, bare, cropped(image, row, 2.0), cropped(bare, row, 2.0)]
        return made

    parts = split(list(csv.DictReader((args.data / "mri2d_brain_tumor_cheng" / "labels.csv").open())))
    train = features(views(parts["train"][::3]))
    fitted = {}
    for stage, vectors in train.items():
        model = LedoitWolf().fit(vectors)
        fitted[f"{stage}.mean"] = torch.from_numpy(model.location_.astype(np.float32))
        fitted[f"{stage}.precision"] = torch.from_numpy(model.precision_.astype(np.float32))
    torch.save(fitted, BUNDLE / "models" / "novelty.pt")
    bundle = Bundle(BUNDLE)

    def distances(pictures: list[np.ndarray]) -> np.ndarray:
        tensors = [torch.from_numpy(p[None].astype(np.float32)) for p in pictures]
        return np.concatenate([bundle.classify(tensors[i : i + 32])[1] for i in range(0, len(tensors), 32)])

    val, test = distances(views(parts["val"])), distances(views(parts["test"]))
    ultrasound = [
        np.asarray(Image.open(p).convert("L"), np.float32) for p in sorted((args.data / "us2d_breast_busi").rglob("*.png"))[::6]
    ]
    with h5py.File(args.data / "ct2d_lung_tumour_msd_patches" / "patches_13patients.h5") as file:
        arrays = [np.asarray(v) for v in _arrays(file)]
    ct = [np.squeeze(a).astype(np.float32) - float(a.min()) for a in arrays if np.squeeze(a).ndim == 2][:120]
    for array in arrays:
        if np.squeeze(array).ndim == 3 and not ct:
            ct = [s.astype(np.float32) - float(s.min()) for s in np.squeeze(array)[:120]]
    body = nib.load(args.data / "ct_mr_body_totalseg" / "example_ct.nii.gz").get_fdata(dtype=np.float32).clip(-200, 300) + 200
    halves = {"breast_ultrasound": np.array_split(distances(ultrasound), 2), "lung_ct_patches": np.array_split(distances(ct), 2)}
    foreign = {
        **{name: second for name, (_, second) in halves.items()},
        "body_ct_slices_family_unseen": distances([body[:, :, k].T for k in range(10, body.shape[2] - 10, 3)]),
        "noise_family_unseen": distances([numbers.uniform(0, 255, (200, 200)).astype(np.float32) for _ in range(20)]),
    }
    gliomas = []
    for folder in sorted((args.data / "mri3d_glioma_brats_NC").glob("*_1")):
        t1c, mask = (
            nib.load(folder / "T1c_subtrMeanDivStd.nii.gz").get_fdata(),
            nib.load(folder / "OTMultiClass.nii.gz").get_fdata() > 0,
        )
        brain = nib.load(folder / "brainmask.nii.gz").get_fdata() > 0
        t1c = np.where(brain, t1c - t1c[brain].min(), 0)
        for k in np.argsort(mask.sum((0, 1)))[::-1][:20:4]:
            columns, rows = np.nonzero(mask[:, :, k])
            half = max(np.ptp(columns), np.ptp(rows)) + 1
            x, y = int(columns.mean()), int(rows.mean())
            gliomas.append(t1c[max(0, x - half) : x + half, max(0, y - half) : y + half, k].T)
    foreign_low = float(np.percentile(np.concatenate([first for first, _ in halves.values()]), 5))
    warn = float(np.percentile(val, 99))
    refuse = float(np.sqrt(warn * foreign_low)) if foreign_low > warn else warn
    other = distances(gliomas)
    result = {
        "views": VIEWS,
        "warn": round(warn, 3),
        "refuse": round(refuse, 3),
        "test_slices_refused": float((test > refuse).mean()),
        "test_slices_warned": float((test > warn).mean()),
        "counts": {"test": len(test), **{k: len(v) for k, v in foreign.items()}, "gliomas": len(other)},
        "foreign_refused": {k: float((v > refuse).mean()) for k, v in foreign.items()},
        "skull_stripped_gliomas": {"refused": float((other > refuse).mean()), "warned": float((other > warn).mean())},
        "medians": {
            "val": float(np.median(val)),
            "gliomas": float(np.median(other)),
            **{k: float(np.median(v)) for k, v in foreign.items()},
        },
    }
    (BUNDLE / "recipe" / "novelty_log.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def _arrays(group: h5py.Group) -> list[h5py.Dataset]:
    found: list[h5py.Dataset] = []
    group.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
    return found


if __name__ == "__main__":
    main()
