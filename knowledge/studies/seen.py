"""What the image itself says where names and tags say nothing: body part of a CT, T2 weighting of a brain MR. Otherwise nothing.

Both are thresholds on plain measurements, few and coarse on purpose; `docs/intake.md` gives how often they are right.
"""

import numpy as np

from knowledge.studies.volume import Volume

AIR, LUNG, BONE = -300.0, (-950.0, -600.0), 300.0  # HU; lung and bone windows as in any CT textbook
LUNG_SHARE = 0.08
"""Share of the body's slices that is lung before a CT is called one of the chest."""
HEAD_WIDTH_MM = 240.0
"""A cross-section narrower than this with much bone is a head (adult heads are some 150 mm wide, trunks 300 or more)."""
HEAD_BONE_SHARE = 0.08
T2_SKEW, T2_LOW = 1.5, -1.0
"""Grey values of a skull-stripped brain on T2: a long bright tail (fluid) and hardly any dark voxels, in interquartile ranges."""
MIN_VOXELS = 20_000
MIN_COVERED_MM = 60.0
"""A few slices may be of lung bases or of an air-filled bowel: they are left undecided."""


def body_part_in_ct(volume: Volume) -> str | None:
    """CHEST, BRAIN or ABDOMEN (any trunk without lung) by what a CT in HU shows; None where it isn't a cross-section of a body."""
    from scipy import ndimage

    if volume.affine is None or volume.array.size < MIN_VOXELS:
        return None
    shown = volume.oriented("LPS")
    if shown.array.shape[2] * shown.spacing_mm[2] < MIN_COVERED_MM:
        return None
    step = max(1, shown.array.shape[2] // 24)
    slices = np.asarray(shown.array[::2, ::2, ::step], np.float32)
    inside = ndimage.binary_opening(slices > AIR, iterations=1)
    labels, count = ndimage.label(inside)
    if not count:
        return None
    body = labels == 1 + int(np.argmax(ndimage.sum_labels(inside, labels, range(1, count + 1))))
    filled = np.stack([ndimage.binary_fill_holes(body[:, :, k]) for k in range(body.shape[2])], -1)
    widths = [
        np.ptp(np.nonzero(filled[:, :, k].any(1))[0]) * 2 * shown.spacing_mm[0]
        for k in range(body.shape[2])
        if filled[:, :, k].any()
    ]
    if not widths or float(np.median(widths)) < 80:
        return None
    lung = (slices > LUNG[0]) & (slices < LUNG[1]) & filled
    shares = lung.sum((0, 1)) / np.maximum(filled.sum((0, 1)), 1)
    bone = float((slices[filled] > BONE).mean())
    if float(np.median(widths)) < HEAD_WIDTH_MM and bone > HEAD_BONE_SHARE:
        return "BRAIN"
    if float(np.mean(shares > LUNG_SHARE)) > 0.4:
        return "CHEST"
    return "ABDOMEN" if float(np.median(widths)) >= HEAD_WIDTH_MM else None


def sequence_in_brain_mr(volume: Volume) -> str | None:
    """T2 where a skull-stripped brain's grey values leave no doubt; None otherwise (T1, T1c and FLAIR aren't told apart)."""
    array = np.asarray(volume.array[::2, ::2, ::2], np.float32)
    values, counts = np.unique(array, return_counts=True)
    if array.size < MIN_VOXELS or counts.max() < 0.4 * array.size:
        return None  # no uniform background: not skull-stripped
    brain = array[array != values[counts.argmax()]]
    low, first, middle, third = np.percentile(brain, [5, 25, 50, 75])
    spread = third - first
    if not spread > 0:
        return None
    skew = float(np.mean(((brain - brain.mean()) / brain.std()) ** 3))
    return "T2" if skew > T2_SKEW and (low - middle) / spread > T2_LOW else None
