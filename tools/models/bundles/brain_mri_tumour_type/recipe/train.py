"""Train the tumour-type network of this bundle, and write weights, log and held-out scores beside it.

Run from the repository root:

    python tools/models/bundles/brain_mri_tumour_type/recipe/train.py --data ../shared/data/mri2d_brain_tumor_cheng

Data: J. Cheng et al., figshare 1512427, CC BY 4.0. The slices of one patient lie next to each other in
the file numbers, so the split is by blocks of numbers per class, with a gap of 12 slices between parts.
"""

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.utils import set_determinism
from PIL import Image
from scipy import ndimage
from sklearn.metrics import confusion_matrix, roc_auc_score

SEED = 20261123
CLASSES = ["glioma", "meningioma", "pituitary"]
SIZE = 160
GAP = 12
VIEWS = ["whole", "skull_removed", "crop", "crop_skull_removed"]
"""What the network is shown of a slice: all of it, or the square around the tumour; each also without the skull."""
PARTS = {"test": [(0.08, 0.13), (0.40, 0.45), (0.70, 0.75)], "val": [(0.25, 0.30), (0.56, 0.61), (0.88, 0.93)]}
BUNDLE = Path(__file__).resolve().parents[1]


def split(rows: list[dict]) -> dict[str, list[dict]]:
    """Rows of labels.csv by part (train, val, test), by blocks of consecutive file numbers within a class."""
    parts: dict[str, list[dict]] = {"train": [], "val": [], "test": []}
    for label in CLASSES:
        mine = sorted((r for r in rows if r["class"] == label), key=lambda r: int(Path(r["file"]).stem))
        where = np.array(["train"] * len(mine), dtype=object)
        for part, spans in PARTS.items():
            for start, end in spans:
                a, b = int(start * len(mine)), int(end * len(mine))
                where[max(0, a - GAP) : b + GAP] = "gap"
                where[a:b] = part
        for row, part in zip(mine, where, strict=True):
            if part != "gap":
                parts[part].append(row)
    return parts


def skull_stripped(image: np.ndarray, rim: float) -> np.ndarray:
    """The slice without its outer rim (`rim`: share of the image width), as skull stripping would leave it."""
    head = ndimage.binary_fill_holes(ndimage.gaussian_filter(image, 2) > 0.08 * np.percentile(image, 99))
    return np.where(ndimage.distance_transform_edt(head) > rim * image.shape[1], image, 0)


def cropped(image: np.ndarray, row: dict, scale: float) -> np.ndarray:
    """The square around the tumour's box, its side `scale` times the box's longer side (at least 20 % of the image)."""
    height, width = image.shape
    side = max(scale * max(float(row["w"]) * width, float(row["h"]) * height), 0.2 * width)
    x, y = float(row["xc"]) * width, float(row["yc"]) * height
    x0, y0 = int(max(0, x - side / 2)), int(max(0, y - side / 2))
    return image[y0 : int(y + side / 2), x0 : int(x + side / 2)]


def augment(x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Random flips, rotation by 15 degrees, scale, shift, gamma and noise on a batch [B, 1, H, W]."""
    n = len(x)

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(n, generator=rng) * (high - low) + low

    angle, scale = uniform(-0.26, 0.26), uniform(0.85, 1.15)
    flip = torch.where(torch.rand(n, generator=rng) < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = scale * torch.cos(angle) * flip, -scale * torch.sin(angle)
    theta[:, 1, 0], theta[:, 1, 1] = scale * torch.sin(angle) * flip, scale * torch.cos(angle)
    theta[:, 0, 2], theta[:, 1, 2] = uniform(-0.08, 0.08), uniform(-0.08, 0.08)
    low = x.amin((1, 2, 3), keepdim=True)
    grid = torch.nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
    y = torch.nn.functional.grid_sample(x - low, grid, align_corners=False)
    top = y.amax((1, 2, 3), keepdim=True).clamp_min(1e-3)
    y = top * (y / top) ** torch.exp(uniform(-0.3, 0.3)).view(-1, 1, 1, 1) + low
    return y + 0.05 * torch.randn(y.shape, generator=rng)


def ece(probabilities: np.ndarray, truth: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error over equal-width bins of the top probability (Guo et al. 2017)."""
    top, right = probabilities.max(1), probabilities.argmax(1) == truth
    error = 0.0
    for low in np.linspace(0, 1, bins, endpoint=False):
        inside = (top > low) & (top <= low + 1 / bins)
        if inside.any():
            error += inside.mean() * abs(top[inside].mean() - right[inside].mean())
    return float(error)


def logits_of(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    net.eval()
    with torch.inference_mode():
        return torch.cat([net(b) for b in x.split(64)])


def scores(logits: torch.Tensor, truth: torch.Tensor, temperature: float) -> dict:
    p = torch.softmax(logits / temperature, 1).numpy()
    t = truth.numpy()
    matrix = confusion_matrix(t, p.argmax(1), labels=range(len(CLASSES)))
    return {
        "n": len(t),
        "accuracy": float((p.argmax(1) == t).mean()),
        "balanced_accuracy": float((matrix.diagonal() / matrix.sum(1)).mean()),
        "macro_auc": float(roc_auc_score(t, p, multi_class="ovr")),
        "ece": ece(p, t),
        "confusion_rows_true": matrix.tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args()
    set_determinism(SEED)
    rng = torch.Generator().manual_seed(SEED)
    numbers = np.random.default_rng(SEED)
    config = ConfigParser()
    config.read_config(BUNDLE / "configs" / "inference.json")
    prepare = config.get_parsed_content("preprocessing_array")
    net = config.get_parsed_content("network_def").to(memory_format=torch.channels_last)

    started = time.time()
    data: dict[str, dict[str, torch.Tensor]] = {}
    parts = split(list(csv.DictReader((args.data / "labels.csv").open())))
    for part, rows in parts.items():
        views: dict[str, list[torch.Tensor]] = {v: [] for v in VIEWS}
        for row in rows:
            image = np.asarray(Image.open(args.data / row["file"]).convert("L").resize((256, 256)), np.float32)
            bare = skull_stripped(image, numbers.uniform(0.03, 0.08))
            low, high = (1.3, 3.0) if part == "train" else (2.0, 2.0)
            near = [cropped(image, row, numbers.uniform(low, high)), cropped(bare, row, numbers.uniform(low, high))]
            for view, picture in zip(VIEWS, [image, bare, *near], strict=True):
                views[view].append(prepare(picture[None]).as_tensor())
        truth = torch.tensor([CLASSES.index(r["class"]) for r in rows])
        data[part] = {**{v: torch.stack(x) for v, x in views.items()}, "truth": truth}
    print({p: len(r) for p, r in parts.items()}, f"prepared in {time.time() - started:.0f} s", flush=True)

    train = data["train"]
    weight = len(train["truth"]) / (len(CLASSES) * torch.bincount(train["truth"]).float())
    loss_of = torch.nn.CrossEntropyLoss(weight=weight, label_smoothing=0.05)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.02)
    batch = 32
    steps = args.epochs * (len(train["truth"]) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2e-3, total_steps=steps)
    log = []
    for epoch in range(args.epochs):
        net.train()
        total = 0.0
        for indices in torch.randperm(len(train["truth"]), generator=rng).split(batch):
            if len(indices) < batch:
                continue
            choice = torch.multinomial(torch.tensor([0.3, 0.15, 0.3, 0.25]), batch, True, generator=rng)
            x = torch.stack([train[VIEWS[c]][i] for c, i in zip(choice.tolist(), indices.tolist(), strict=True)])
            x = augment(x, rng).to(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(x)
            loss = loss_of(logits.float(), train["truth"][indices])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        right = [logits_of(net, data["val"][v]).argmax(1) == data["val"]["truth"] for v in ("whole", "crop")]
        accuracy = torch.cat(right).float().mean().item()
        log.append(
            {
                "epoch": epoch,
                "train_loss": total / (steps / args.epochs),
                "val_accuracy": accuracy,
                "seconds": round(time.time() - started, 1),
            }
        )
        print(log[-1], flush=True)

    both = torch.cat([logits_of(net, data["val"][k]) for k in VIEWS])
    truth = data["val"]["truth"].repeat(len(VIEWS))
    grid = np.linspace(0.3, 5, 95)
    losses = [torch.nn.functional.cross_entropy(both / t, truth).item() for t in grid]
    temperature = float(grid[int(np.argmin(losses))])
    result = {
        "seed": SEED,
        "epochs": args.epochs,
        "split": {p: {c: sum(r["class"] == c for r in rows) for c in CLASSES} for p, rows in parts.items()},
        "temperature": temperature,
        "test": {v: scores(logits_of(net, data["test"][v]), data["test"]["truth"], temperature) for v in VIEWS},
        "val": {v: scores(logits_of(net, data["val"][v]), data["val"]["truth"], temperature) for v in VIEWS},
        "seconds": round(time.time() - started, 1),
        "torch": torch.__version__,
    }
    net.to(memory_format=torch.contiguous_format)
    torch.save({k: v.contiguous() for k, v in net.state_dict().items()}, BUNDLE / "models" / "model.pt")
    (BUNDLE / "recipe" / "training_log.json").write_text(json.dumps({**result, "log": log}, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
