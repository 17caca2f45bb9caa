"""A fitted FLAIR threshold as a module, so that it runs, ships and is cited as a MONAI bundle. It is no neural network."""

import torch
from monai.networks.layers import GaussianFilter
from torch import Tensor, nn

BINS = 1000
SMOOTHING = 20.0
"""Bins between the 1st and the 99th percentile, and the Gaussian over them (in bins), so that a bin's edge decides nothing."""
HALF_WIDTH_TO_SIGMA = 1.1774
"""Half the width of a normal distribution at half its height is this many standard deviations (sqrt(2 ln 2))."""


def tissue_peak(values: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and standard deviation of the main tissue peak of `values` (1D).

    The spread is read off the dark flank of the histogram's peak, so that a large bright lesion does not widen it.
    """
    count = values.numel()
    low = values.kthvalue(max(1, int(0.01 * count))).values
    high = values.kthvalue(max(1, int(0.99 * count))).values
    counts = torch.histc(values, BINS, float(low), float(high))
    smooth = GaussianFilter(1, SMOOTHING)(counts[None, None])[0, 0]
    width = (high - low) / BINS
    peak = int(smooth.argmax())
    below = (smooth[:peak] < smooth[peak] / 2).nonzero()
    flank = peak - int(below[-1]) if len(below) else max(peak, 1)
    return low + (peak + 0.5) * width, flank * width / HALF_WIDTH_TO_SIGMA


class FlairThreshold(nn.Module):
    """Score = smoothed FLAIR in standard deviations above the tissue peak, minus a threshold; above 0 is tumour.

    Input [B, 1, X, Y, Z] at 1 mm, zero outside the skull-stripped brain; output of the same shape. The two
    parameters, threshold (in standard deviations above the brain's tissue peak) and sigma (mm), are fitted
    by the bundle's recipe and kept as its weights.
    """

    threshold: Tensor
    sigma_mm: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(0.0))
        self.register_buffer("sigma_mm", torch.tensor(1.0))

    def forward(self, image: Tensor) -> Tensor:
        brain = image != 0
        middle, spread = tissue_peak(image[brain])
        score = torch.where(brain, (image - middle) / spread, torch.full_like(image, -5.0))
        return GaussianFilter(3, float(self.sigma_mm))(score) - self.threshold
