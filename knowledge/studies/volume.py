"""A volume with true geometry, and the stack of frames that a reader sees of it."""

from dataclasses import dataclass, field, replace

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import aff2axcodes, apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from knowledge.errors import NoGeometry


@dataclass(frozen=True)
class Volume:
    """Voxels [i, j, k] with a 4x4 `affine` from voxel index to patient millimetres (RAS+, as in NIfTI).

    `affine` is None where the image carries no spacing (a photo or a screenshot). `frames` says how the
    display stack is made: "source" keeps columns, rows and slices as acquired (DICOM); "axial" turns the
    array to columns to the Left, rows to Posterior, slices to Superior (NIfTI).

    `rgb` [i, j, k, 3] holds the colours of a picture that has them (`array` is then its luminance), `unit` that of the voxel values
    (HU, g/mL …), `window` (centre, width) the one that the header states, `inverted` is true where low values are shown bright
    (MONOCHROME1), `pixel_mm` the column and row distance of frames without position in space.
    """

    array: np.ndarray
    affine: np.ndarray | None
    frames: str = "source"
    sop_instance_uids: list[str] = field(default_factory=list)
    rgb: np.ndarray | None = None
    unit: str = ""
    window: tuple[float, float] | None = None
    window_function: str = "LINEAR"
    inverted: bool = False
    pixel_mm: tuple[float, float] | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size in mm along i, j, k. Raises NoGeometry without an affine."""
        if self.affine is None:
            raise NoGeometry("the image has no spacing", "send the original DICOM or NIfTI series")
        x, y, z = voxel_sizes(self.affine)
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in mL, from the affine's determinant (true also for sheared grids)."""
        if self.affine is None:
            raise NoGeometry("the image has no spacing", "send the original DICOM or NIfTI series")
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    def oriented(self, codes: str = "LPS") -> "Volume":
        """This volume with its axes flipped and swapped to `codes`; no voxel is resampled."""
        if self.affine is None:
            return self
        transform = ornt_transform(io_orientation(self.affine), axcodes2ornt(tuple(codes)))
        array = apply_orientation(self.array, transform)
        return replace(
            self, array=array, affine=self.affine @ inv_ornt_aff(transform, self.array.shape), frames="source", rgb=None
        )

    def part(self, run: slice) -> "Volume":
        """The frames of `run` alone, without their place in space."""
        return replace(self, array=self.array[:, :, run], rgb=None if self.rgb is None else self.rgb[:, :, run], affine=None)

    def display(self) -> "Volume":
        """The stack as a reader sees it: frame k is `array[:, :, k]` with columns first."""
        return self.oriented("LPS") if self.frames == "axial" else self

    def aligned_with(self, other: "Volume") -> "Volume":
        """This volume with its axes in the order and direction of `other`'s (a mask over the stack that is shown, say)."""
        return self if other.affine is None else self.oriented("".join(aff2axcodes(other.affine)))

    def like(self, array: np.ndarray) -> "Volume":
        """Another array (a mask, say) on this grid."""
        if array.shape != self.array.shape:
            raise ValueError(f"shape {array.shape} is not this grid's {self.array.shape}")
        return Volume(array, self.affine, self.frames, self.sop_instance_uids)  # not its unit, nor its window

    def same_grid(self, other: "Volume") -> bool:
        """True when both have the same shape and, within a micrometre, the same affine."""
        if self.array.shape != other.array.shape or self.affine is None or other.affine is None:
            return False
        return bool(np.allclose(self.affine, other.affine, atol=1e-3))
