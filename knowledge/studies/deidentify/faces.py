"""Take the surface of a face off a head MR or CT, so that it can't be rebuilt from the volume.

The front of the head loses a layer of skin and what stands out of it (nose, lips, ears), to a depth that varies smoothly so that
what is left is no copy of the surface. The layer is thinner than scalp and skull together, so the brain stays. The idea of obscuring a
surface layer is that of Milchenko and Marcus, Neuroinformatics 2013; depth and extent here are this project's own.
"""

import numpy as np

from knowledge.errors import NoGeometry, Refused
from knowledge.studies.volume import Volume

DEPTH_MM, ROUGHNESS_MM, SMOOTH_MM = 9.0, 3.0, 15.0
PROTRUSION_MM = 25.0
"""What no ball of this radius within the head reaches stands out of it."""
FRONT = 0.6
"""Share of the head, from the front, that is treated: the face and both ears' front."""
CLOSING_MM = 12.0
"""Nostrils, mouth and ear canals narrower than this are taken as inside the head."""
AIR_SHARE = 0.12
"""Of the range from the 1st to the 99th percentile: below it is air."""
HEAD_MM = (110.0, 320.0)


def face_of(volume: Volume, seed: int = 0) -> np.ndarray:
    """Where the face's surface layer is: boolean on the volume's own grid. Raises NoGeometry, or Refused where no head is seen."""
    from scipy import ndimage

    if volume.affine is None:
        raise NoGeometry("the series has no true geometry", "a face can't be found in it")
    shown = volume.oriented("LPS")
    spacing = np.array(shown.spacing_mm)
    array = np.asarray(shown.array, np.float32)
    low, high = np.percentile(array[::3, ::3, ::3], [1, 99])
    body = ndimage.binary_opening(array > low + AIR_SHARE * (high - low), iterations=1)
    labels, count = ndimage.label(body)
    if not count:
        raise Refused("no head is seen in the series", "export it without taking the face off")
    head = labels == 1 + int(np.argmax(ndimage.sum_labels(body, labels, range(1, count + 1))))
    extent = [np.ptp(np.nonzero(head.any(tuple(a for a in range(3) if a != axis)))[0]) * spacing[axis] for axis in (0, 1)]
    if not all(HEAD_MM[0] <= e <= HEAD_MM[1] for e in extent):
        raise Refused(
            f"what is seen is {extent[0]:.0f} x {extent[1]:.0f} mm across: not a head", "export it without taking the face off"
        )
    inside = _closed(head, spacing)
    depth = ndimage.distance_transform_edt(inside, sampling=spacing)
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=array.shape).astype(np.float32), SMOOTH_MM / spacing)
    limit = DEPTH_MM + ROUGHNESS_MM * np.clip(noise / max(float(noise.std()), 1e-9), -2, 2) / 2
    rows = np.nonzero(inside.any((0, 2)))[0]
    front = np.zeros(array.shape, bool)
    front[:, : rows[0] + int(FRONT * np.ptp(rows)) + 1, :] = True  # LPS: rows run from the front to the back
    # What stands out (nose, lips, ears) goes whole. Air in front of the surface goes too: a faint halo would draw the profile.
    core = ndimage.distance_transform_edt(depth <= PROTRUSION_MM, sampling=spacing)
    layer = front & ((depth <= limit) | (core > PROTRUSION_MM) | ~inside)
    return _back(layer, shown, volume)


def _closed(head: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """The head with nostrils, sinuses and mouth filled: closed by distance, then slice by slice."""
    from scipy import ndimage

    outside = ndimage.distance_transform_edt(~head, sampling=spacing)
    grown = outside <= CLOSING_MM / 2
    closed = ndimage.distance_transform_edt(grown, sampling=spacing) > CLOSING_MM / 2
    return np.stack([ndimage.binary_fill_holes(closed[:, :, k] | head[:, :, k]) for k in range(head.shape[2])], -1)


def _back(layer: np.ndarray, shown: Volume, volume: Volume) -> np.ndarray:
    made = Volume(layer.astype(np.uint8), shown.affine).aligned_with(volume)
    return np.asarray(made.array > 0)
