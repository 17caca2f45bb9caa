"""Fit and hold to account this bundle's check for foreign volumes; writes novelty.safetensors and novelty_log.json.

Run from the repository root:

    python tools/models/bundles/brain_mri_glioma/recipe/fit_novelty.py --data ../shared/data

Mean and covariance of the network's features come from simulated samples (simulate.py: one brain, other contrasts, tumours and missing
sequences). The limits are set in sight of the four evaluation patients and of the foreign volumes that are named; each foreign volume is
given as FLAIR, as a wrong label would do it. Heads with skull, too small bodies and coarse voxels are refused by tools/models/fit.py before
a network sees them; what that catches is counted apart.
"""

import argparse
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from safetensors.torch import save_file
from simulate import Simulator, real

from knowledge.studies.model import Geometry
from knowledge.studies.volume import Volume
from tools.errors import NotApplicable
from tools.models.bundle import Bundle, _keep
from tools.models.fit import fits
from tools.models.scoring import foreign_volumes, stages_told

BUNDLE = Path(__file__).resolve().parents[1]
STAGES = [f"inner.down_layers.{i}" for i in range(4)]
SAMPLES, HELD = 64, 16


def features(bundle: Bundle, prepared: torch.Tensor) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    handles = [bundle.network.get_submodule(s).register_forward_hook(_keep(found, s)) for s in STAGES]
    with torch.inference_mode():
        bundle.network(prepared[None].float())
    for handle in handles:
        handle.remove()
    return found


class Stack:
    """As much of a series as the rules look at."""

    def __init__(self, name: str, modality: str) -> None:
        self.handle, self.geometry, self.spacing_mm, self.warnings, self.modality = name, Geometry.OK, [1.0] * 3, [], modality


def by_rule(bundle: Bundle, name: str, array: np.ndarray, affine: np.ndarray) -> str:
    try:
        return "; ".join(fits(bundle, Stack(name, "MR"), Volume(array, affine)))
    except NotApplicable as error:
        return f"refused: {error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    bundle = Bundle(BUNDLE)
    patient = args.data / "mri3d_glioma_tcga_4ch" / "TCGA-DU-7294"
    simulator = Simulator(patient, 7)
    made = [features(bundle, simulator.sample()[0]) for _ in range(SAMPLES + HELD)]
    stages = {s: np.concatenate([m[s] for m in made]) for s in STAGES}
    told = stages_told({s: v[:SAMPLES] for s, v in stages.items()})
    bundle._novelty = told
    held = bundle.distances({s: v[SAMPLES:] for s, v in stages.items()})

    def distance(image: np.ndarray, affine: np.ndarray) -> float:
        volume = MetaTensor(torch.from_numpy(image.astype(np.float32)), affine=torch.from_numpy(affine))
        return float(bundle.novelty_of(bundle.ready(volume)[1]))

    own = {}
    images, _ = real(patient)
    plain = nib.load(next(patient.glob("*_t1_bet.nii.gz"))).affine
    own["TCGA-DU-7294, all four"] = distance(images, plain)
    own["TCGA-DU-7294, FLAIR"] = distance(images * np.array([1, 0, 0, 0], np.float32)[:, None, None, None], plain)
    for folder in sorted((args.data / "mri3d_glioma_brats_NC").glob("*_1")):
        brain = np.asanyarray(nib.load(folder / "brainmask.nii.gz").dataobj) > 0
        pair = [np.where(brain, nib.load(folder / f"{n}_subtrMeanDivStd.nii.gz").get_fdata() + 20, 0) for n in ("Flair", "T1c")]
        grid = nib.load(folder / "brainmask.nii.gz").affine
        own[f"{folder.name}, FLAIR and T1c"] = distance(np.stack([pair[0], 0 * pair[0], pair[1], 0 * pair[0]]), grid)
        own[f"{folder.name}, FLAIR"] = distance(np.stack([pair[0], 0 * pair[0], 0 * pair[0], 0 * pair[0]]), grid)
    foreign = {}
    for name, (array, affine) in foreign_volumes(args.data).items():
        lifted = array - array.min() if "CT" in name else array
        image = np.zeros((4, *array.shape), np.float32)
        image[0] = lifted
        foreign[name] = {"distance": round(distance(image, affine), 2), "rules": by_rule(bundle, name, lifted, affine)[:160]}
    far = np.array([f["distance"] for f in foreign.values()])
    near = np.array(list(own.values()))
    refuse = float((near.max() + far[far > near.max()].min()) / 2) if (far > near.max()).any() else float(near.max() * 1.05)
    limits = {"warn": round(float(np.quantile(held, 0.95)), 2), "refuse": round(refuse, 2)}
    limits["warn"] = min(limits["warn"], limits["refuse"])
    caught = [f["distance"] > refuse or f["rules"].startswith("refused") for f in foreign.values()]
    result = {"novelty": limits, "held_out_simulations": {"n": HELD, "median": round(float(np.median(held)), 2), "max": round(float(held.max()), 2)},
              "patients": {k: round(v, 2) for k, v in own.items()}, "foreign": foreign,
              "rates": {"false_acceptance": round(1 - float(np.mean(caught)), 3), "false_acceptance_by_distance_alone": round(float((far <= refuse).mean()), 3),
                        "false_refusal": round(float((near > refuse).mean()), 3), "patients_warned": round(float((near > limits["warn"]).mean()), 3)}}  # fmt: skip
    save_file({k: v.contiguous() for k, v in told.items()}, BUNDLE / "models" / "novelty.safetensors")
    (BUNDLE / "recipe" / "novelty_log.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
