"""Train the glioma network of this bundle on simulated tumours, and write its weights and log.

Run from the repository root:

    python tools/models/bundles/brain_mri_glioma/recipe/train.py --data ../shared/data/mri3d_glioma_tcga_4ch/TCGA-DU-7294

Validation, every 250 steps: the patient's real tumour (never shown in training) and the healed brain (nothing should be found).
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from monai.losses import DiceLoss
from safetensors.torch import save_file
from simulate import SHAPE, Simulator, centred, halved, real, standard
from torch import Tensor

from tools.models.networks import FoldedSegResNet, averaged

SEED = 20261124
CROP = 64
POOL = 240
SETS = {"all": [1, 1, 1, 1], "FLAIR+T1c": [1, 0, 1, 0], "FLAIR": [1, 0, 0, 0], "T2": [0, 0, 0, 1]}
BUNDLE = Path(__file__).resolve().parents[1]


def network() -> FoldedSegResNet:
    """As in configs/inference.json."""
    return FoldedSegResNet(4, 3, 24, [1, 2, 2, 2], [1, 1, 1])


def cropped(image: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A cube of CROP voxels, in three of four cases around a voxel of the tumour, randomly mirrored."""
    places = torch.nonzero(labels[0]) if rng.random() < 0.75 else torch.nonzero(image.abs().sum(0))
    if not len(places):
        places = torch.nonzero(image.abs().sum(0))
    middle = places[int(rng.integers(len(places)))].tolist()
    low = [int(np.clip(m - rng.integers(8, CROP - 8), 0, n - CROP)) for m, n in zip(middle, SHAPE, strict=True)]
    cut = tuple(slice(a, a + CROP) for a in low)
    image, labels = image[(slice(None), *cut)], labels[(slice(None), *cut)]
    flips = [axis for axis in (1, 2, 3) if rng.random() < (0.5 if axis == 1 else 0.15)]
    return torch.flip(image, flips), torch.flip(labels, flips)


def loss_of(logits: Tensor, labels: Tensor, image: Tensor, dice: DiceLoss) -> Tensor:
    """Dice and cross-entropy; core and enhancing count only where T1c is there to show them."""
    cross = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean((2, 3, 4))
    overlap = dice(logits, labels).flatten(1) * (labels.sum((2, 3, 4)) > 0)
    weight = torch.ones_like(cross)
    seen = (image[:, 2].abs().sum((1, 2, 3)) > 0).float()
    weight[:, 1] = weight[:, 2] = seen
    return ((3 * cross + overlap) * weight).sum() / weight.sum()


def overlap(found: Tensor, truth: Tensor) -> float:
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()).clamp_min(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    simulator = Simulator(args.data, SEED)
    rng = np.random.default_rng(SEED)
    images, labels = real(args.data)
    brain = halved((images[1] != 0).astype(np.float32)) > 0.5
    held = standard(torch.from_numpy(centred(halved(images) * brain, brain).copy()))
    truth = [torch.from_numpy(centred(halved((m).astype(np.float32)) > 0.5, brain).copy()) for m in (labels > 0, labels == 1)]
    clean = standard(simulator.volume[:4].clone())

    net = network()
    running = {k: v.clone() for k, v in net.state_dict().items()}
    dice = DiceLoss(sigmoid=True, batch=False, reduction="none")
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=args.steps, pct_start=0.1)
    pool = [tuple(t.half() for t in simulator.sample()) for _ in range(24)]
    started, log, total = time.time(), [], 0.0
    for step in range(1, args.steps + 1):
        fresh = tuple(t.half() for t in simulator.sample())
        if len(pool) < POOL:
            pool.append(fresh)
        else:
            pool[int(rng.integers(POOL))] = fresh
        chosen = [fresh, pool[int(rng.integers(len(pool)))]]
        pairs = [cropped(i.float(), t.float(), rng) for i, t in chosen]
        image, labelled = (torch.stack(x) for x in zip(*pairs, strict=True))
        image = image * (1 + 0.1 * torch.randn(2, 4, 1, 1, 1)) + 0.1 * torch.randn(2, 4, 1, 1, 1) * (image != 0)
        loss = loss_of(net(image), labelled, image, dice)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        averaged(running, net, min(0.995, step / (step + 10)))
        total += loss.item()
        if step % 250 == 0:
            shadow = network()
            shadow.load_state_dict(running)
            shadow.eval()
            row: dict[str, float | int] = {"step": step, "loss": total / 250, "seconds": round(time.time() - started)}
            with torch.inference_mode():
                for name, keep in SETS.items():
                    mask = torch.tensor(keep).view(4, 1, 1, 1)
                    found = shadow((held * mask)[None])[0] > 0
                    row[f"{name} whole"] = round(overlap(found[0], truth[0]), 3)
                    row[f"{name} core"] = round(overlap(found[1], truth[1]), 3)
                    nothing = shadow((clean * mask)[None])[0] > 0
                    row[f"{name} healed mL"] = round(float(nothing[0].sum()) * 0.008, 2)
            total = 0.0
            log.append(row)
            print(row, flush=True)
            save_file(
                {k: v.half() if v.is_floating_point() else v for k, v in running.items()}, BUNDLE / "models" / "model.safetensors"
            )
            kept = {"seed": SEED, "steps": args.steps, "torch": torch.__version__, "log": log}
            (BUNDLE / "recipe" / "training_log.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
