"""Is an image what a model was made for? What isn't is refused with the reason; what is doubtful is warned of."""

import numpy as np

from knowledge.studies.model import Geometry, Series
from knowledge.studies.volume import Volume
from tools.errors import NotApplicable
from tools.models.bundle import Bundle

STRIPPED = 0.3
"""A skull-stripped head volume has at least this share of exact zeros; raw MR background is noise."""
AIR_HU = -500.0
"""Above this a CT voxel is body, not the air around it."""


UNTELLING = {"PARTIALBODY", "WHOLEBODY"}
"""Values of Body Part Examined (0018,0015) that don't say which part is shown."""


def same_part(card_part: str, said: str) -> bool | None:
    """True where a stated body part is one of the card's; None where none is stated."""
    mine, theirs = set(card_part.upper().split("/")), {p for p in said.upper().split("/") if p and p not in UNTELLING}
    return None if not theirs else bool(mine & theirs)


def fits(bundle: Bundle, series: Series, volume: Volume) -> list[str]:
    """Warnings about `volume`. Raises NotApplicable where it is nothing for the model."""
    fit, name, handle = bundle.card.fit, bundle.name, series.handle
    array = volume.array
    if volume.affine is None or (series.geometry is not Geometry.OK and series.spacing_mm is None):
        raise NotApplicable(
            f"{handle} has no true geometry: {'; '.join(series.warnings) or 'no spacing'}",
            "send the original DICOM or NIfTI series",
        )
    if not np.isfinite(array).all():
        raise NotApplicable(f"{handle} holds values that are no numbers (NaN or infinite)", "export the series again")
    low, high = float(array.min()), float(array.max())
    if low == high:
        raise NotApplicable(f"{handle} is one value everywhere ({low:g}), so there is nothing to see", "export the series again")
    warnings = [f"{handle}: {w}" for w in series.warnings] if series.geometry is not Geometry.OK else []
    coarsest = max(volume.spacing_mm)
    if fit.spacing_refuse_mm is not None and coarsest > fit.spacing_refuse_mm:
        raise NotApplicable(f"{handle} has voxels of {coarsest:.1f} mm, and {name} was made for up to {fit.spacing_refuse_mm:g} mm",
                            "add a thinner series")  # fmt: skip
    if fit.spacing_warn_mm is not None and coarsest > fit.spacing_warn_mm:
        warnings.append(f"{handle} has voxels of {coarsest:.1f} mm: sizes across them are as coarse as that")
    if fit.window is not None and (high <= fit.window[0] or low >= fit.window[1] or high - low < 10):
        raise NotApplicable(f"{handle} holds values from {low:g} to {high:g}, which are no {bundle.card.modality} values that {name} "
                            "knows", "send the original series with its rescale slope and intercept")  # fmt: skip
    if fit.air and low > AIR_HU:
        raise NotApplicable(f"{handle} holds no value below {AIR_HU:g} HU (its least is {low:g}), so it is no CT of the body in HU",
                            "send the original series with its rescale slope and intercept")  # fmt: skip
    if fit.skull_stripped and float((array == 0).mean()) < STRIPPED:
        raise NotApplicable(f"{handle} is not skull-stripped, and {name} was made for skull-stripped images",
                            "strip the skull first, or install another model")  # fmt: skip
    if fit.extent_min_mm is not None or fit.longest_front_to_back:
        sides = extent_mm(volume, AIR_HU if series.modality == "CT" else 0.0)
        names = ("from side to side", "from front to back", "from bottom to top")
        for side, least, what in zip(sides, fit.extent_min_mm or [0, 0, 0], names, strict=True):
            if side < least:
                raise NotApplicable(
                    f"{handle} shows {side:.0f} mm {what}, and {name} needs {least:g} mm", "add a series that shows more"
                )
        if fit.longest_front_to_back and sides[0] > 1.1 * sides[1]:
            warnings.append(
                f"{handle} is wider ({sides[0]:.0f} mm) than it is long from front to back ({sides[1]:.0f} mm): "
                "check that its orientation is right, since sides and places depend on it"
            )
    return warnings


def extent_mm(volume: Volume, background: float) -> tuple[float, float, float]:
    """Extent of what is above `background` (or, for MR, not it), in mm along left-right, front-back and head-feet."""
    turned = volume.oriented("LPS")
    step = tuple(slice(None, None, max(1, n // 128)) for n in turned.array.shape)
    some = turned.array[step]
    inside = some != background if background == 0 else some > background
    sides = []
    for axis in range(3):
        along = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        voxels = (along.max() - along.min() + 1) * (step[axis].step or 1) if len(along) else 0
        sides.append(min(voxels, turned.array.shape[axis]) * turned.spacing_mm[axis])
    return sides[0], sides[1], sides[2]
