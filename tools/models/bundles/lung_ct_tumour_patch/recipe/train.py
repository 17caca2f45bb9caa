"""Train the lung-tumour patch network: cross-validated by runs of patches, then fitted on all.

Run from the repository root:

    python tools/models/bundles/lung_ct_tumour_patch/recipe/train.py --data ../shared/data/ct2d_lung_tumour_msd_patches/patches_13patients.h5

Data: Medical Segmentation Decathlon Task06 (CC BY-SA 4.0) as 48 x 48 patches at 2 mm of 13 patients, scaled to 0 … 1. Which patch is of
which patient isn't in the file, and its order may be random, so the folds are disjoint by patch, not proven to be by patient.
"""

import argparse
import json
import time
from pathlib import Path

import h5py
import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.utils import set_determinism
from safetensors.torch import save_file
from skimage.filters import threshold_otsu
from torch import Tensor
from torch.nn import functional as nn

from tools.models.networks import averaged

SEED = 20261124
FOLDS = 5
BUNDLE = Path(__file__).resolve().parents[1]


def network() -> UNet:
    """As in configs/inference.json: two classes, so that nothing normalises a lone output channel away."""
    return UNet(2, 1, 2, (16, 32, 64, 128), (2, 2, 2), num_res_units=2, norm="BATCH")


def drawn(x: Tensor, t: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    n = len(x)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=rng) * (high - low) + low

    angle, zoom = uniform(-3.14, 3.14), uniform(0.75, 1.3)
    mirror = torch.where(torch.rand(n, generator=rng) < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = zoom * torch.cos(angle) * mirror, -zoom * torch.sin(angle)
    theta[:, 1, 0], theta[:, 1, 1] = zoom * torch.sin(angle) * mirror, zoom * torch.cos(angle)
    theta[:, 0, 2], theta[:, 1, 2] = uniform(-0.2, 0.2), uniform(-0.2, 0.2)
    bend = nn.interpolate(torch.randn(n, 2, 5, 5, generator=rng) * 0.04, size=x.shape[2:], mode="bicubic").permute(0, 2, 3, 1)
    grid = nn.affine_grid(theta, list(x.shape), align_corners=False) + bend
    y = nn.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    label = nn.grid_sample(t, grid, padding_mode="reflection", align_corners=False) > 0.5
    y = (y * uniform(0.85, 1.15).view(-1, 1, 1, 1) + uniform(-0.1, 0.1).view(-1, 1, 1, 1)) + 0.03 * torch.randn(
        y.shape, generator=rng
    )
    return y, label.float()


def trained(x: Tensor, t: Tensor, steps: int) -> UNet:
    set_determinism(SEED)
    rng = torch.Generator().manual_seed(SEED)
    net, loss_of = network(), DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=3e-3, total_steps=steps)
    running = {k: v.clone() for k, v in net.state_dict().items()}
    for step in range(steps):
        chosen = torch.randint(0, len(x), (24,), generator=rng)
        image, label = drawn(x[chosen], t[chosen], rng)
        loss = loss_of(net(image), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        averaged(running, net, min(0.995, step / (step + 10)))
    done = network()
    done.load_state_dict(running)
    return done.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=700)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with h5py.File(args.data) as file:
        x, t = (torch.from_numpy(np.asarray(file[k], np.float32)) for k in ("images", "labels"))
    t = (t > 0.5).float()
    started = time.time()
    fold = np.arange(len(x)) * FOLDS // len(x)
    rows = []
    for which in range(FOLDS):
        net = trained(x[fold != which], t[fold != which], args.steps)
        for index in np.flatnonzero(fold == which):
            with torch.inference_mode():
                runs = [torch.rot90(net(torch.rot90(x[index : index + 1], k, (2, 3))), -k, (2, 3)) for k in range(4)]
            mine, truth = (sum(runs).argmax(1)[0] > 0).numpy(), t[index, 0].numpy() > 0
            plain = x[index, 0].numpy() > threshold_otsu(x[index, 0].numpy())
            rows.append({"patch": int(index), "truth": int(truth.sum()), "found": int(mine.sum()), "both": int((mine & truth).sum()),
                         "otsu": int(plain.sum()), "otsu_both": int((plain & truth).sum())})  # fmt: skip
        print("fold", which, round(time.time() - started), "s", flush=True)
    net = trained(x, t, args.steps)
    save_file({k: v.half().contiguous() if v.is_floating_point() else v for k, v in net.state_dict().items()},
              BUNDLE / "models" / "model.safetensors")  # fmt: skip
    dice = np.array([2 * r["both"] / (r["found"] + r["truth"]) for r in rows if r["truth"]])
    otsu = np.array([2 * r["otsu_both"] / (r["otsu"] + r["truth"]) for r in rows if r["truth"]])
    rng = np.random.default_rng(SEED)
    boot = [float(rng.choice(dice, len(dice)).mean()) for _ in range(2000)]
    empty = [r for r in rows if not r["truth"]]
    result = {"seed": SEED, "steps": args.steps, "folds": FOLDS, "patches": len(rows), "dice": float(dice.mean()), "dice_median": float(np.median(dice)),
              "dice_interval": np.percentile(boot, [2.5, 97.5]).tolist(), "otsu_dice": float(otsu.mean()),
              "empty_patches": len(empty), "empty_with_more_than_10_pixels": sum(r["found"] > 10 for r in empty),
              "seconds": round(time.time() - started), "torch": torch.__version__, "rows": rows}  # fmt: skip
    (BUNDLE / "recipe" / "training_log.json").write_text(json.dumps(result) + "\n")
    print({k: v for k, v in result.items() if k != "rows"})


if __name__ == "__main__":
    main()
