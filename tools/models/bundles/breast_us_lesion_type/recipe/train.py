"""Train the breast-ultrasound network of this bundle: cross-validated by groups of near-duplicates, then fitted on all pictures.

Run from the repository root:

    python tools/models/bundles/breast_us_lesion_type/recipe/train.py --data ../shared/data/us2d_breast_busi --work /tmp/us

Data: Al-Dhabyani et al. 2019, CC BY 4.0. There are no patient ids; pictures whose 40 x 40 thumbnails correlate above 0.93 are kept in
one fold (the rule of the set's own split). The network starts from the brain tumour bundle's weights (the same layers, another task).
Each fold's weights are left in --work; score.py judges each picture by the networks that never saw its group.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from monai.utils import set_determinism
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn import functional as nn

from tools.models.networks import LesionType, LesionTypes, averaged

SEED = 20261124
CLASSES = ["benign", "malignant", "normal"]
SIZE = 160
SEEN = 192
FOLDS = 4
MEMBERS = 3
ALIKE = 0.93
BUNDLE = Path(__file__).resolve().parents[1]
START = BUNDLE.parent / "brain_mri_tumour_type" / "models" / "model.safetensors"


def files(data: Path) -> tuple[list[Path], Tensor]:
    found = [(p, CLASSES.index(c)) for c in CLASSES for p in sorted((data / c).glob("*.png"))]
    return [p for p, _ in found], torch.tensor([t for _, t in found])


def folds(paths: list[Path]) -> np.ndarray:
    """The fold of each picture: near-duplicates together, classes spread evenly."""
    thumbs = np.stack([np.asarray(Image.open(p).convert("L").resize((40, 40)), np.float32).ravel() for p in paths])
    thumbs -= thumbs.mean(1, keepdims=True)
    thumbs /= np.linalg.norm(thumbs, axis=1, keepdims=True)
    _, group = connected_components(thumbs @ thumbs.T > ALIKE)
    rng = np.random.default_rng(SEED)
    counts = np.zeros((FOLDS, len(CLASSES)))
    fold = np.zeros(len(paths), int)
    kinds = np.array([CLASSES.index(p.parent.name) for p in paths])
    groups = rng.permutation(np.unique(group))
    for g in sorted(groups, key=lambda g: -int((group == g).sum())):
        mine = np.bincount(kinds[group == g], minlength=len(CLASSES))
        fold[group == g] = best = int(np.argmin(((counts + mine) * mine).sum(1)))
        counts[best] += mine
    return fold


def normal(y: Tensor) -> Tensor:
    """Minus the mean of the non-zero pixels by their deviation; zero stays."""
    some = (y > 0).float()
    count = some.sum((1, 2, 3), keepdim=True).clamp_min(1)
    mean = y.sum((1, 2, 3), keepdim=True) / count
    deviation = (((y - mean) * some).square().sum((1, 2, 3), keepdim=True) / count).sqrt().clamp_min(1e-4)
    return ((y - mean) / deviation) * some


def drawn(pictures: Tensor, rng: torch.Generator) -> Tensor:
    """Augmented batch [B, 1, SIZE, SIZE]: mirrored, turned, zoomed, shifted, darker or brighter, speckled, a patch hidden."""
    n = len(pictures)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=rng) * (high - low) + low

    angle, zoom, aspect = uniform(-0.2, 0.2), uniform(0.6, 1.05), torch.exp(uniform(-0.2, 0.2))
    mirror = torch.where(torch.rand(n, generator=rng) < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = zoom * torch.cos(angle) * mirror * aspect, -zoom * torch.sin(angle)
    theta[:, 1, 0], theta[:, 1, 1] = zoom * torch.sin(angle) * mirror, zoom * torch.cos(angle) / aspect
    theta[:, 0, 2], theta[:, 1, 2] = (1.05 - zoom) * uniform(-0.8, 0.8), (1.05 - zoom) * uniform(-0.8, 0.8)
    grid = nn.affine_grid(theta, [n, 1, SIZE, SIZE], align_corners=False)
    y = nn.grid_sample(pictures[:, None].float() / 255, grid, align_corners=False)
    y = y ** torch.exp(uniform(-0.35, 0.35)).view(-1, 1, 1, 1)
    coarse = torch.randn(n, 1, SIZE // 2, SIZE // 2, generator=rng) * uniform(0, 0.15).view(-1, 1, 1, 1)
    y = y * (1 + nn.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear"))
    x0, y0 = (torch.randint(0, SIZE - 40, (n,), generator=rng) for _ in range(2))
    for k in range(n):
        if torch.rand(1, generator=rng) < 0.3:
            y[k, :, int(y0[k]) : int(y0[k]) + 36, int(x0[k]) : int(x0[k]) + 36] = 0
    return normal(y.clamp_min(0))


def network() -> LesionTypes:
    """As in configs/inference.json."""
    return LesionTypes(MEMBERS, len(CLASSES), [32, 64, 128, 256], [1, 1, 2, 1])


def trained(pictures: Tensor, types: Tensor, epochs: int, name: str) -> LesionTypes:
    """Networks trained on these pictures, each from its own seed."""
    done = network()
    for number in range(MEMBERS):
        done.members[number] = member(pictures, types, epochs, SEED + number, f"{name}, member {number}")
    return done.eval()


def member(pictures: Tensor, types: Tensor, epochs: int, seed: int, name: str) -> LesionType:
    """A network trained on these pictures; its weights are the running average."""
    set_determinism(seed)
    rng = torch.Generator().manual_seed(seed)
    net = LesionType(len(CLASSES), [32, 64, 128, 256], [1, 1, 2, 1])
    first = {k: v.float() for k, v in load_file(START).items() if k.startswith("body.")}
    lacking = net.load_state_dict(first, strict=False)
    assert not lacking.unexpected_keys and all(k.startswith("kind.") for k in lacking.missing_keys)
    net = net.to(memory_format=torch.channels_last)
    weight = (len(types) / (len(CLASSES) * torch.bincount(types).float())) ** 0.5
    batch = 24
    steps = epochs * (len(types) // batch)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1e-3, total_steps=steps, pct_start=0.15)
    running = {k: v.clone() for k, v in net.state_dict().items()}
    started, step = time.time(), 0
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(types), generator=rng).split(batch):
            if len(chosen) < batch:
                continue
            x, t = drawn(pictures[chosen], rng), nn.one_hot(types[chosen], len(CLASSES)).float()
            if epoch < 0.8 * epochs:  # mixing pairs of pictures and their labels
                share, order = float(np.random.beta(0.3, 0.3)), torch.randperm(batch, generator=rng)
                x, t = share * x + (1 - share) * x[order], share * t + (1 - share) * t[order]
            with torch.autocast("cpu", torch.bfloat16):
                output = net(x.to(memory_format=torch.channels_last))
            loss = nn.cross_entropy(output.float(), t, weight=weight, label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            step += 1
            averaged(running, net, min(0.995, step / (step + 10)))
            total += loss.item()
        if epoch % 10 == 9:
            print(name, epoch, round(total / (steps / epochs), 4), round(time.time() - started), "s", flush=True)
    done = LesionType(len(CLASSES), [32, 64, 128, 256], [1, 1, 2, 1])
    done.load_state_dict(running)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument(
        "--only", type=int, nargs="*", default=[*range(FOLDS), -1], help="Folds to run; -1 is the network on all."
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    paths, types = files(args.data)
    pictures = torch.from_numpy(np.stack([np.asarray(Image.open(p).convert("L").resize((SEEN, SEEN)), np.uint8) for p in paths]))
    fold = folds(paths)
    started = time.time()
    for which in args.only:
        train = torch.from_numpy(np.flatnonzero(fold != which))
        net = trained(pictures[train], types[train], args.epochs, "all" if which < 0 else f"fold {which}")
        if which >= 0:
            save_file({k: v.contiguous() for k, v in net.state_dict().items()}, args.work / f"fold{which}.safetensors")
            continue
        save_file({k: v.half().contiguous() if v.is_floating_point() else v for k, v in net.state_dict().items()},
                  BUNDLE / "models" / "model.safetensors")  # fmt: skip
        about = {"seed": SEED, "members": MEMBERS, "epochs": args.epochs, "folds": FOLDS, "groups_alike_above": ALIKE, "torch": torch.__version__,
                 "per_fold": [np.bincount(types[torch.from_numpy(np.flatnonzero(fold == f))], minlength=3).tolist() for f in range(FOLDS)],
                 "seconds": round(time.time() - started)}  # fmt: skip
        (BUNDLE / "recipe" / "training_log.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
