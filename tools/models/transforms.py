"""Transforms that the in-box bundles need beside MONAI's own."""

import torch
from monai.data import MetaTensor
from monai.transforms.transform import Transform
from torch.nn import functional


class Halved(Transform):
    """Means of 2 x 2 x 2 voxels of [C, X, Y, Z]; where most of the eight are zero the mean is set to zero too. The affine follows."""

    def __call__(self, image: MetaTensor) -> MetaTensor:
        pad = [p for n in reversed(image.shape[1:]) for p in (0, n % 2)]
        whole = functional.pad(image.as_tensor(), pad)[None]
        some = functional.avg_pool3d((whole != 0).to(whole.dtype), 2) > 0.5
        small = functional.avg_pool3d(whole, 2) * some
        return MetaTensor(small[0], affine=_scaled(image.affine, [2.0] * 3))


class Doubled(Transform):
    """[C, X, Y, Z] on a grid twice as fine (trilinear). The affine follows."""

    def __call__(self, image: MetaTensor) -> MetaTensor:
        fine = functional.interpolate(image.as_tensor()[None], scale_factor=2, mode="trilinear", align_corners=False)
        return MetaTensor(fine[0], affine=_scaled(image.affine, [0.5] * 3))


class Fitted(Transform):
    """A picture [C, rows, columns] with its longer side at `size` pixels: bilinear, smoothed where it shrinks. The affine follows.

    MONAI's Resize smooths with a Gaussian, in which most of a picture's time went.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: MetaTensor) -> MetaTensor:
        sides = image.shape[1:]
        new = [max(1, round(n * self.size / max(sides))) for n in sides]
        small = functional.interpolate(image.as_tensor()[None], new, mode="bilinear", antialias=True, align_corners=False)
        return MetaTensor(small[0], affine=_scaled(image.affine, [a / b for a, b in zip(sides, new, strict=True)] + [1.0]))


def _scaled(affine: torch.Tensor, factors: list[float]) -> torch.Tensor:
    """The affine of a grid whose voxels are `factors` times as long, with the same outer corner."""
    scale = torch.diag(torch.tensor([*factors, 1.0], dtype=torch.float64))
    scale[:3, 3] = (torch.tensor(factors, dtype=torch.float64) - 1) / 2
    return affine.to(torch.float64) @ scale


class Tissue(Transform):
    """HU clipped to a window and put to -1 … 1."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def __call__(self, image: MetaTensor) -> MetaTensor:
        return 2 * (image.clamp(self.low, self.high) - self.low) / (self.high - self.low) - 1
