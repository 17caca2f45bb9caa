"""Train the organ network on the two labelled CTs; each is also scored by a network that saw the other alone.

Run from the repository root:

    python tools/models/bundles/body_ct_organs/recipe/train.py --data ../shared/data/ct_mr_body_totalseg

Data: TotalSegmentator's example CTs (Apache-2.0). Their labels are the output of the TotalSegmentator program, not of people: what is
learned here is to resemble it. Two patients are all there is, so the figures are of two single cases.
"""

import argparse
import json
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.losses import DiceCELoss
from monai.transforms import Orientation, Spacing
from monai.utils import set_determinism
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as nn

from tools.models.networks import SlicewiseUNet, averaged

SEED = 20261124
ORGANS: dict[str, list[int]] = {
    "spleen": [1], "kidneys": [2, 3], "liver": [5], "stomach": [6], "lungs": [10, 11, 12, 13, 14], "vertebrae": list(range(26, 51)),
    "aorta": [52], "inferior vena cava": [63], "spinal cord": [79], "back muscles": [86, 87],
}  # fmt: skip
"""Our names, and the values of TotalSegmentator's label table that they join."""
SIZE = 160
BUNDLE = Path(__file__).resolve().parents[1]


def cases(data: Path) -> list[tuple[MetaTensor, Tensor]]:
    """HU [1, x, y, z] at 3 mm, RAS, and the joined labels on the same grid."""
    small, label = nib.load(data / "example_ct_sm.nii.gz"), nib.load(data / "example_seg.nii.gz")
    pairs = [(small.get_fdata(dtype=np.float32), small.affine, np.asanyarray(label.dataobj))]
    files = sorted(
        (pydicom.dcmread(p) for p in (data / "example_ct_dicom").iterdir()), key=lambda f: float(f.ImagePositionPatient[2])
    )
    stack = np.stack([f.pixel_array.T * float(f.RescaleSlope) + float(f.RescaleIntercept) for f in files], -1).astype(np.float32)
    other = nib.load(data / "example_seg_dicom.nii.gz")
    x, y, z = (float(v) for v in files[0].ImagePositionPatient)
    dy, dx = (float(v) for v in files[0].PixelSpacing)
    dz = float(files[1].ImagePositionPatient[2]) - z
    affine = np.array([[-dx, 0, 0, -x], [0, -dy, 0, -y], [0, 0, dz, z], [0, 0, 0, 1]])
    to_label = np.linalg.inv(other.affine) @ affine
    index = [np.rint(np.arange(n) * to_label[i, i] + to_label[i, 3]).astype(int) for i, n in enumerate(stack.shape)]
    pairs.append((stack, affine, np.asanyarray(other.dataobj)[np.ix_(*index)]))
    done = []
    for image, grid, labels in pairs:
        joined = np.zeros(labels.shape, np.float32)
        for number, values in enumerate(ORGANS.values(), 1):
            joined[np.isin(labels, values)] = number
        both = [
            MetaTensor(torch.from_numpy(np.ascontiguousarray(a))[None], affine=torch.from_numpy(grid)) for a in (image, joined)
        ]
        both = [Orientation("RAS", labels=None)(b) for b in both]
        done.append(
            (Spacing((3, 3, 3), mode="bilinear")(both[0]), Spacing((3, 3, 3), mode="nearest")(both[1]).as_tensor().long())
        )
    return done


def network() -> SlicewiseUNet:
    """As in configs/inference.json."""
    return SlicewiseUNet(len(ORGANS) + 1, [24, 48, 96, 160])


def drawn(image: Tensor, labels: Tensor, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Triples of slices [n, 3, SIZE, SIZE], -1 … 1, and the middle one's labels [n, 1, …]: turned, bent, mirrored never (sides matter)."""
    depth = image.shape[3]

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=rng) * (high - low) + low

    k = torch.randint(0, depth, (n,), generator=rng)
    x = torch.stack([torch.stack([image[0, :, :, min(max(int(c) + d, 0), depth - 1)] for d in (-1, 0, 1)]) for c in k])
    t = torch.stack([labels[0, :, :, int(c)] for c in k])[:, None].float()
    angle, zoom = uniform(-0.25, 0.25), uniform(0.75, 1.35)
    theta = torch.zeros(n, 2, 3)
    wide = torch.tensor([SIZE / x.shape[3], SIZE / x.shape[2]])
    theta[:, 0, 0], theta[:, 0, 1] = zoom * torch.cos(angle) * wide[0], -zoom * torch.sin(angle) * wide[0]
    theta[:, 1, 0], theta[:, 1, 1] = zoom * torch.sin(angle) * wide[1], zoom * torch.cos(angle) * wide[1]
    theta[:, 0, 2], theta[:, 1, 2] = uniform(-0.25, 0.25), uniform(-0.25, 0.25)
    bend = nn.interpolate(torch.randn(n, 2, 6, 6, generator=rng) * 0.05, size=(SIZE, SIZE), mode="bicubic").permute(0, 2, 3, 1)
    grid = nn.affine_grid(theta, [n, 3, SIZE, SIZE], align_corners=False) + bend
    y = nn.grid_sample(x + 1024, grid, align_corners=False) - 1024
    label = nn.grid_sample(t, grid, mode="nearest", align_corners=False)
    for organ in range(len(ORGANS) + 1):  # other phases of contrast: each organ brighter or darker
        if torch.rand(1, generator=rng) < 0.5:
            y = y + float(torch.randn(1, generator=rng)) * 25 * (label == organ)
    y = y + 20 * torch.randn(y.shape, generator=rng) * uniform(0, 1.5).view(-1, 1, 1, 1)
    y = 2 * (y.clamp(-200, 300) + 200) / 500 - 1
    return y, label


def trained(data: list[tuple[MetaTensor, Tensor]], steps: int, name: str) -> SlicewiseUNet:
    set_determinism(SEED)
    rng = torch.Generator().manual_seed(SEED)
    net, loss_of = network(), DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2e-3, total_steps=steps)
    running = {k: v.clone() for k, v in net.state_dict().items()}
    started = time.time()
    for step in range(steps):
        image, labels = data[step % len(data)]
        x, t = drawn(image.as_tensor(), labels, 8, rng)
        loss = loss_of(net.inner(x), t)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        averaged(running, net, min(0.99, step / (step + 10)))
        if step % 100 == 99:
            print(name, step + 1, round(loss.item(), 3), round(time.time() - started), "s", flush=True)
    done = network()
    done.load_state_dict(running)
    return done.eval()


def scored(net: SlicewiseUNet, image: MetaTensor, labels: Tensor) -> dict[str, float]:
    config = ConfigParser()
    config.read_config(BUNDLE / "configs" / "inference.json")
    x = config.get_parsed_content("preprocessing_array")(image)
    with torch.inference_mode():
        found = net(x.as_tensor()[None])[0].argmax(0)
    result = {}
    for number, organ in enumerate(ORGANS, 1):
        mine, truth = found == number, labels[0] == number
        if truth.sum() >= 20:
            result[organ] = round(float(2 * (mine & truth).sum() / (mine.sum() + truth.sum())), 3)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = cases(args.data)
    started = time.time()
    crossed = {}
    for held, name in enumerate(("nifti", "dicom")):
        net = trained([data[1 - held]], args.steps, f"without {name}")
        crossed[name] = scored(net, *data[held])
        print(name, crossed[name], flush=True)
    net = trained(data, args.steps, "both")
    seen = {name: scored(net, *data[i]) for i, name in enumerate(("nifti", "dicom"))}
    save_file({k: v.half().contiguous() if v.is_floating_point() else v for k, v in net.state_dict().items()},
              BUNDLE / "models" / "model.safetensors")  # fmt: skip
    result = {"seed": SEED, "steps": args.steps, "dice_on_the_case_not_seen": crossed, "dice_on_the_training_cases": seen,
              "seconds": round(time.time() - started), "torch": torch.__version__}  # fmt: skip
    (BUNDLE / "recipe" / "training_log.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
