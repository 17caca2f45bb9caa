"""Score this bundle on patients whose data may not be trained on, and on brains without a lesion; writes evaluation.json.

Run from the repository root:

    python tools/models/bundles/brain_mri_glioma/recipe/evaluate.py --data ../shared/data

Patients: mri3d_glioma_brats_NC (human outlines, FLAIR and T1c), and the real tumour of the training patient (consensus of five programs).
Without a lesion: the healed brain of the training patient, and for each of the four the half with less tumour put beside its mirror
image. Where the human outline reaches into that half it isn't free of a lesion: what is outlined there is given (`labelled_ml`), and only
what is found outside of it (`outside_ml`) counts as false.
"""

import argparse
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.metrics import compute_hausdorff_distance
from scipy import ndimage
from simulate import healed, real

from tools.models.bundle import Bundle, brought_back
from tools.models.glioma import SIGMA_MM, THRESHOLD, above_peak

BUNDLE = Path(__file__).resolve().parents[1]
SETS = {"FLAIR+T1+T1c+T2": [1, 1, 1, 1], "FLAIR+T1c": [1, 0, 1, 0], "FLAIR": [1, 0, 0, 0]}


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return round(float(2 * (found & truth).sum() / max(1, found.sum() + truth.sum())), 3)


def hd95(found: np.ndarray, truth: np.ndarray) -> float:
    """95th percentile of the distance between the surfaces, in mm (voxels are 1 mm)."""
    pair = [torch.from_numpy(np.stack([~m, m])[None].astype(np.float32)) for m in (found, truth)]
    return round(float(compute_hausdorff_distance(*pair, percentile=95)[0, 0]), 1)


def labelled(bundle: Bundle, image: np.ndarray, affine: np.ndarray) -> np.ndarray:
    volume = MetaTensor(torch.from_numpy(image.astype(np.float32)), affine=torch.from_numpy(affine))
    labels = bundle.labels(bundle.scores(volume, mirror=True))
    back = brought_back(labels.numpy(), np.asarray(labels.affine), affine, image.shape[1:])
    return back * (image != 0).any(0)


def baseline(flair: np.ndarray) -> np.ndarray:
    """The largest component above the FLAIR threshold, filled: what this bundle has to beat."""
    away = above_peak(torch.from_numpy(flair.astype(np.float32)), SIGMA_MM, narrow=False).numpy()
    parts, count = ndimage.label(away > THRESHOLD)
    if not count:
        return np.zeros(flair.shape, bool)
    return np.asarray(ndimage.binary_fill_holes(parts == np.bincount(parts.ravel())[1:].argmax() + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    bundle = Bundle(BUNDLE)
    rows = []
    images, labels = real(args.data / "mri3d_glioma_tcga_4ch" / "TCGA-DU-7294")
    affine = nib.load(next((args.data / "mri3d_glioma_tcga_4ch" / "TCGA-DU-7294").glob("*_t1_bet.nii.gz"))).affine
    cases = [("TCGA-DU-7294", images, affine, {"whole": labels > 0, "core": labels == 1})]
    free = [("TCGA-DU-7294 healed", healed(images, labels > 0), affine, np.zeros(labels.shape, bool))]
    for folder in sorted((args.data / "mri3d_glioma_brats_NC").glob("*_1")):
        grid = nib.load(folder / "OTMultiClass.nii.gz")
        truth, brain = np.asanyarray(grid.dataobj), np.asanyarray(nib.load(folder / "brainmask.nii.gz").dataobj) > 0
        pair = [np.where(brain, nib.load(folder / f"{n}_subtrMeanDivStd.nii.gz").get_fdata() + 20, 0) for n in ("Flair", "T1c")]
        image = np.stack([pair[0], np.zeros_like(pair[0]), pair[1], np.zeros_like(pair[0])]).astype(np.float32)
        cases.append(
            (folder.name, image, grid.affine, {"whole": truth > 0, "core": np.isin(truth, (1, 3, 4)), "enhancing": truth == 4})
        )
        middle = round(float(np.argwhere(brain)[:, 0].mean()))
        left = (truth[:middle] > 0).sum() > (truth[middle:] > 0).sum()
        half = image[:, middle:] if left else image[:, :middle][:, ::-1]
        there = (truth[middle:] if left else truth[:middle][::-1]) > 0
        free.append((f"{folder.name} other half mirrored", np.concatenate([half[:, ::-1], half], 1), grid.affine,
                     np.concatenate([there[::-1], there])))  # fmt: skip
    for name, image, grid_affine, truths in cases:
        for given, keep in SETS.items():
            shown = image * np.array(keep, np.float32)[:, None, None, None]
            if name != "TCGA-DU-7294" and given == "FLAIR+T1+T1c+T2":
                continue
            found = labelled(bundle, shown, grid_affine)
            masks = {"whole": found > 0, "core": np.isin(found, (1, 3)), "enhancing": found == 3}
            told = ["whole"] if given == "FLAIR" else list(truths)
            row = {"case": name, "sequences": given, **{f"{k}_dice": dice(masks[k], truths[k]) for k in told},
                   "whole_hd95_mm": hd95(masks["whole"], truths["whole"]), "whole_ml": round(float(masks["whole"].sum()) / 1000, 1),
                   "true_ml": round(float(truths["whole"].sum()) / 1000, 1), "enhancing_ml": round(float(masks["enhancing"].sum()) / 1000, 1),
                   "baseline_dice": dice(baseline(image[0]), truths["whole"])}  # fmt: skip
            rows.append(row)
            print(row, flush=True)
    empty = []
    for name, image, grid_affine, there in free:
        for given, keep in SETS.items():
            if name.startswith("brats") and given == "FLAIR+T1+T1c+T2":
                continue
            found = labelled(bundle, image * np.array(keep, np.float32)[:, None, None, None], grid_affine)
            plain = baseline(image[0])
            empty.append({"case": name, "sequences": given, "labelled_ml": round(float(there.sum()) / 1000, 1),
                          "found_ml": round(float((found > 0).sum()) / 1000, 1),
                          "outside_ml": round(float(((found > 0) & ~there).sum()) / 1000, 1),
                          "baseline_ml": round(float(plain.sum()) / 1000, 1),
                          "baseline_outside_ml": round(float((plain & ~there).sum()) / 1000, 1)})  # fmt: skip
            print(empty[-1], flush=True)
    scores = np.array([r["whole_dice"] for r in rows if r["case"] != "TCGA-DU-7294" and r["sequences"] == "FLAIR+T1c"])
    rng = np.random.default_rng(0)
    interval = np.percentile([rng.choice(scores, len(scores)).mean() for _ in range(2000)], [2.5, 97.5]).round(3).tolist()
    summary = {"whole_dice_mean": round(float(scores.mean()), 3), "whole_dice_least": float(scores.min()), "whole_dice_interval": interval,
               "n": len(scores)}  # fmt: skip
    (BUNDLE / "recipe" / "evaluation.json").write_text(
        json.dumps({"summary": summary, "patients": rows, "without_lesion": empty}, indent=1) + "\n"
    )
    print(summary)


if __name__ == "__main__":
    main()
