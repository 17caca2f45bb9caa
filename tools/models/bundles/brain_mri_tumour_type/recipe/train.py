"""Train the network that boxes a tumour on a slice and tells its type; cross-validated by block, then fitted on all slices.

Run from the repository root:

    python tools/models/bundles/brain_mri_tumour_type/recipe/train.py --data ../shared/data/mri2d_brain_tumor_cheng --work /tmp/type

Data: J. Cheng et al., figshare 1512427, CC BY 4.0. The slices of one patient lie next to each other in the file numbers, so a
fold takes whole blocks of numbers of each class, and 12 slices on each side of a block are left out of the training. Each fold's
network and rows are left in --work; score.py judges each slice by the network that never saw its block.
"""

import argparse
import csv
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from monai.utils import set_determinism
from PIL import Image
from safetensors.torch import save_file
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as nn

from tools.models.networks import BoxAndType, averaged

SEED = 20261124
CLASSES = ["glioma", "meningioma", "pituitary"]
SIZE = 192
SEEN = 288
"""Side of the prepared slices from which the augmentation draws."""
FOLDS = 3
BLOCKS = 6
BOX = 5.0
"""Weight of the boxes' loss beside the others'."""
GAP = 12
BUNDLE = Path(__file__).resolve().parents[1]


def folds(rows: list[dict[str, str]]) -> np.ndarray:
    """Block of each row [n, 2]: its fold, and the distance in slices to the nearest block of another fold of its class."""
    found = np.zeros((len(rows), 2), int)
    for label in CLASSES:
        mine = sorted((i for i, r in enumerate(rows) if r["class"] == label), key=lambda i: int(Path(rows[i]["file"]).stem))
        block = np.arange(len(mine)) * BLOCKS // len(mine)
        for place, index in enumerate(mine):
            others = np.flatnonzero(block % FOLDS != block[place] % FOLDS)
            found[index] = block[place] % FOLDS, int(np.abs(others - place).min())
    return found


def skull_stripped(image: np.ndarray, rim: float) -> np.ndarray:
    """The slice without its outer rim (`rim`: share of the image width), as skull stripping would leave it."""
    head = ndimage.binary_fill_holes(ndimage.gaussian_filter(image, 2) > 0.08 * np.percentile(image, 99))
    return np.where(ndimage.distance_transform_edt(head) > rim * image.shape[1], image, 0)


def box_of(row: dict[str, str], size: int) -> np.ndarray:
    x, y, w, h = (float(row[k]) * size for k in ("xc", "yc", "w", "h"))
    return np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])


def loaded(data: Path, rows: list[dict[str, str]]) -> tuple[Tensor, Tensor, Tensor]:
    """Slices cut to the head, on SEEN x SEEN, [n, 2, H, W] (whole, skull removed), their boxes there [n, 4], types [n]."""
    numbers = np.random.default_rng(SEED)
    pictures = torch.zeros(len(rows), 2, SEEN, SEEN, dtype=torch.uint8)
    boxes = torch.zeros(len(rows), 4)
    for index, row in enumerate(rows):
        image = np.asarray(Image.open(data / row["file"]).convert("L"), np.float32)
        bare = skull_stripped(image, numbers.uniform(0.03, 0.08))
        ys, xs = np.nonzero(image > 0.08 * image.max())
        x0, x1 = max(0, xs.min() - 4), min(image.shape[1], xs.max() + 5)
        y0, y1 = max(0, ys.min() - 4), min(image.shape[0], ys.max() + 5)
        scale = SEEN / max(x1 - x0, y1 - y0)
        wide, high = round((x1 - x0) * scale), round((y1 - y0) * scale)
        left, top = (SEEN - wide) // 2, (SEEN - high) // 2
        for view, picture in enumerate((image, bare)):
            cut = nn.interpolate(
                torch.from_numpy(picture[y0:y1, x0:x1])[None, None], (high, wide), mode="bilinear", antialias=True
            )
            pictures[index, view, top : top + high, left : left + wide] = cut[0, 0].round().clamp(0, 255).byte()
        box = (box_of(row, image.shape[1]) - [x0, y0, x0, y0]) * scale + [left, top, left, top]
        boxes[index] = torch.from_numpy(box)
    return pictures, boxes, torch.tensor([CLASSES.index(r["class"]) for r in rows])


def drawn(pictures: Tensor, boxes: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Augmented batch [B, 1, SIZE, SIZE], its boxes in pixels, and whether the lesion is in it."""
    n = len(pictures)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=rng) * (high - low) + low

    view = (torch.rand(n, generator=rng) < 0.35).long()
    x = pictures[torch.arange(n), view][:, None].float()
    centre = (boxes[:, :2] + boxes[:, 2:]) / SEEN - 1  # -1 .. 1
    size = (boxes[:, 2:] - boxes[:, :2]) / SEEN  # half sides in the same unit
    near = torch.rand(n, generator=rng)
    zoom = torch.where(near < 0.4, (size.amax(1) * uniform(1.3, 3.2)).clamp(0.2, 1.2), uniform(0.85, 1.2))
    jitter = torch.stack([uniform(-0.25, 0.25), uniform(-0.25, 0.25)], 1)
    middle = torch.where((near < 0.4)[:, None], centre + jitter * size.amax(1, keepdim=True), jitter * 0.4)
    away = near > 0.95  # a part of the slice without the lesion
    zoom = torch.where(away, uniform(0.3, 0.6), zoom)
    middle = torch.where(away[:, None], torch.stack([uniform(-0.6, 0.6), uniform(-0.6, 0.6)], 1), middle)
    angle, aspect = uniform(-0.3, 0.3), torch.exp(uniform(-0.12, 0.12))
    mirror = torch.where(torch.rand(n, generator=rng) < 0.5, -1.0, 1.0)
    upside = torch.where(torch.rand(n, generator=rng) < 0.05, -1.0, 1.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    forth = torch.stack([torch.stack([cos * mirror * aspect, -sin * upside / aspect], 1),
                         torch.stack([sin * mirror * aspect, cos * upside / aspect], 1)], 1) * zoom[:, None, None]  # fmt: skip
    theta = torch.cat([forth, middle[:, :, None]], 2)
    grid = nn.affine_grid(theta, [n, 1, SIZE, SIZE], align_corners=False)
    y = nn.grid_sample(x, grid, align_corners=False)
    back = torch.linalg.inv(forth)
    place = (back @ (centre - middle)[:, :, None])[:, :, 0]
    half = (back.square() @ size.square()[:, :, None]).sqrt()[:, :, 0]  # the box of the turned ellipse
    new = torch.cat([place - half, place + half], 1)
    inside = (new[:, :2].clamp(-1, 1) - new[:, 2:].clamp(-1, 1)).abs().prod(1) / (4 * half.prod(1))
    new = (new.clamp(-1, 1) + 1) * SIZE / 2
    top = y.amax((1, 2, 3), keepdim=True).clamp_min(1)
    y = (y / top) ** torch.exp(uniform(-0.35, 0.35)).view(-1, 1, 1, 1)
    if torch.rand(1, generator=rng) < 0.25:
        y = nn.interpolate(nn.avg_pool2d(y, 2), size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return normal(y, 0.06 * torch.randn(y.shape, generator=rng)), new, inside


def normal(y: Tensor, noise: Tensor | float = 0.0) -> Tensor:
    """Minus the mean of the non-zero pixels by their deviation (as NormalizeIntensity does it); zero stays."""
    some = (y > 0).float()
    count = some.sum((1, 2, 3), keepdim=True).clamp_min(1)
    mean = y.sum((1, 2, 3), keepdim=True) / count
    deviation = (((y - mean) * some).square().sum((1, 2, 3), keepdim=True) / count).sqrt().clamp_min(1e-4)
    return ((y - mean) / deviation + noise) * some


def loss_of(output: Tensor, boxes: Tensor, inside: Tensor, types: Tensor, weight: Tensor) -> Tensor:
    """Focal loss of the middle's map, generalised IoU of the boxes near the middle, weighted cross-entropy of the type."""
    here = inside > 0.6
    stride = BoxAndType.STRIDE
    cells = output.shape[2]
    places = (torch.arange(cells) + 0.5) * stride
    x, y = places.view(1, 1, -1), places.view(1, -1, 1)
    mx, my = ((boxes[:, i] + boxes[:, i + 2]) / 2 for i in (0, 1))
    sx, sy = ((boxes[:, i + 2] - boxes[:, i]).clamp_min(2 * stride) / 6 for i in (0, 1))
    bell = torch.exp(
        -(((x - mx.view(-1, 1, 1)) / sx.view(-1, 1, 1)) ** 2) / 2 - ((y - my.view(-1, 1, 1)) / sy.view(-1, 1, 1)) ** 2 / 2
    )
    bell = bell * here.view(-1, 1, 1)
    p = torch.sigmoid(output[:, 0]).clamp(1e-4, 1 - 1e-4)
    heat = -(bell * (1 - p) ** 2 * p.log() + (1 - bell) ** 4 * p**2 * (1 - p).log())
    heat_loss = (heat.sum((1, 2)) / bell.sum((1, 2)).clamp_min(4)).mean()
    share = torch.where(bell > 0.3, bell, torch.zeros_like(bell))
    left, top, right, bottom = output[:, 1:5].unbind(1)
    x0, y0, x1, y1 = x - left, y - top, x + right, y + bottom
    b = boxes.view(-1, 4, 1, 1)
    overlap = (torch.minimum(x1, b[:, 2]) - torch.maximum(x0, b[:, 0])).clamp_min(0) * (
        torch.minimum(y1, b[:, 3]) - torch.maximum(y0, b[:, 1])
    ).clamp_min(0)
    union = (x1 - x0) * (y1 - y0) + (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) - overlap
    hull = (torch.maximum(x1, b[:, 2]) - torch.minimum(x0, b[:, 0])) * (torch.maximum(y1, b[:, 3]) - torch.minimum(y0, b[:, 1]))
    giou = overlap / union.clamp_min(1) - (hull - union) / hull.clamp_min(1)
    # Each slice counts the same: summed over the batch, the large boxes of close views would count for nearly all.
    box_loss = (((1 - giou) * share).sum((1, 2)) / share.sum((1, 2)).clamp_min(1)).sum() / here.sum().clamp_min(1)
    inscribed = (
        ((x - mx.view(-1, 1, 1)) / (3 * sx).view(-1, 1, 1)) ** 2 + ((y - my.view(-1, 1, 1)) / (3 * sy).view(-1, 1, 1)) ** 2 < 1
    ).float()
    filled = nn.binary_cross_entropy_with_logits(output[:, 5], inscribed)
    seen = torch.sigmoid(output[:, 5])
    dice = 1 - (2 * (seen * inscribed).sum((1, 2)) + 1) / (seen.sum((1, 2)) + inscribed.sum((1, 2)) + 1)
    kind = nn.cross_entropy(output[:, BoxAndType.TYPES :, 0, 0], types, weight=weight, label_smoothing=0.05, reduction="none")
    return heat_loss + BOX * box_loss + filled + 0.5 * dice.mean() + (kind * here).sum() / here.sum().clamp_min(1)


def network() -> BoxAndType:
    """As in configs/inference.json."""
    return BoxAndType(len(CLASSES), [32, 64, 128, 256], [1, 1, 2, 1])


def trained(pictures: Tensor, boxes: Tensor, types: Tensor, epochs: int, name: str) -> BoxAndType:
    """A network trained on these slices; its weights are the running average."""
    set_determinism(SEED)
    rng = torch.Generator().manual_seed(SEED)
    net = network().to(memory_format=torch.channels_last)
    weight = len(types) / (len(CLASSES) * torch.bincount(types).float())
    batch = 32
    steps = epochs * (len(types) // batch)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.03)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2e-3, total_steps=steps, pct_start=0.15)
    running = {k: v.clone() for k, v in net.state_dict().items()}
    started, step = time.time(), 0
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(types), generator=rng).split(batch):
            if len(chosen) < batch:
                continue
            x, where, inside = drawn(pictures[chosen], boxes[chosen], rng)
            with torch.autocast("cpu", torch.bfloat16):
                output = net(x.to(memory_format=torch.channels_last))
            loss = loss_of(output, where, inside, types[chosen], weight)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            step += 1
            averaged(running, net, min(0.998, step / (step + 10)))
            total += loss.item()
        print(name, epoch, round(total / (steps / epochs), 4), round(time.time() - started), "s", flush=True)
    done = network()
    done.load_state_dict(running)
    return done.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument(
        "--only", type=int, nargs="*", default=[*range(FOLDS), -1], help="Folds to run; -1 is the network on all."
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    rows = list(csv.DictReader((args.data / "labels.csv").open()))
    started = time.time()
    pictures, boxes, types = loaded(args.data, rows)
    print("prepared", round(time.time() - started), "s", flush=True)
    where = folds(rows)
    for fold in (f for f in args.only if f >= 0):
        train = torch.from_numpy(np.flatnonzero((where[:, 0] != fold) & (where[:, 1] > 0)))
        near = np.zeros(len(rows), bool)
        for label in CLASSES:  # slices next to a held-out block are left out of the training
            mine = sorted((i for i, r in enumerate(rows) if r["class"] == label), key=lambda i: int(Path(rows[i]["file"]).stem))
            held = where[mine, 0] == fold
            wide = ndimage.binary_dilation(held, iterations=GAP) & ~held
            near[np.array(mine)[wide]] = True
        train = train[~torch.from_numpy(near)[train]]
        net = trained(pictures[train], boxes[train], types[train], args.epochs, f"fold {fold}")
        torch.save(net.state_dict(), args.work / f"fold{fold}.pt")
        np.savez(args.work / f"fold{fold}.npz", rows=np.flatnonzero(where[:, 0] == fold), train=train.numpy())
    if -1 not in args.only:
        return
    epochs = math.ceil(args.epochs * 0.8)
    net = trained(pictures, boxes, types, epochs, "all")
    weights = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    save_file(weights, BUNDLE / "models" / "model.safetensors")
    about = {"seed": SEED, "epochs": args.epochs, "epochs_all": epochs, "folds": FOLDS, "blocks": BLOCKS, "gap": GAP,
             "seconds": round(time.time() - started), "torch": torch.__version__}  # fmt: skip
    (BUNDLE / "recipe" / "training_log.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
