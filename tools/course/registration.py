"""Two examinations of one body part brought together (SimpleITK): rigid, then deformable, with measured quality.

Points are patient millimetres, RAS+ (as in `Volume.affine`). The later study is the fixed image, the earlier one the moving image.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    import SimpleITK as sitk

COARSE_MM, FINE_MM = 8.0, 4.0
"""Voxel sides at which the images are brought together; sizes are measured on the originals, never on these."""
AIR_HU = -400.0
"""CT values above this are body (air is -1000, fat some -100 HU)."""
CT_RANGE_HU = (-1000.0, 600.0)
"""Beyond it, metal and bone would rule the differences."""
LEAST_SHARED = 0.35
"""Share of the smaller body that has to lie on the other; below it, the studies show other places."""
LEAST_CORRELATION = 0.6
"""Correlation after alignment of images of one kind; see `docs/course.md` for how it was chosen."""
LEAST_INFORMATION = 1.08
"""Normalised mutual information after alignment of images of two kinds."""
MOST_INCONSISTENT_MM = 10.0
"""Mean distance between the alignment and the inverse of the one found the other way round."""
ALIKE, WORTHWHILE = 0.95, 0.7
"""Images that correlate by more than `ALIKE` after the rigid step are left so; a deformation is kept where it takes away at least 30 % of
what correlation lacks and folds nothing. Otherwise it follows the noise: on a rigidly moved MR it added 1.3 mm of error (docs/course.md)."""
_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
"""RAS+ to LPS, which ITK uses, and back."""


@dataclass(frozen=True)
class Quality:
    """How well two images lie on each other, as measured after the alignment."""

    shared: float
    """Share of the smaller body that lies on the other."""
    correlation: float
    """Pearson's, of the intensities where both bodies are, smoothed to 4 mm."""
    information: float
    """Normalised mutual information (Studholme 1999): 1 for images that say nothing of each other, 2 for the same."""
    correlation_before: float
    inconsistent_mm: float
    """Mean distance between the rigid alignment and the inverse of the one found from the other side, over the body."""
    folded: float
    """Share of the deformation that folds space; 0 is sound."""
    deformed: bool
    moved_mm: float
    """Mean distance that the body was moved by."""

    def doubts(self, same_kind: bool) -> str:
        """Why lesions can't be matched by this alignment; empty where they can."""
        if self.shared < LEAST_SHARED:
            return f"only {100 * self.shared:.0f} % of the smaller body lies on the other"
        if same_kind and self.correlation < LEAST_CORRELATION:
            return (
                f"after alignment the images correlate by {self.correlation:.2f} only (at least {LEAST_CORRELATION:g} is wanted)"
            )
        if not same_kind and self.information < LEAST_INFORMATION:
            return f"after alignment the images share little (normalised mutual information {self.information:.2f})"
        if self.inconsistent_mm > MOST_INCONSISTENT_MM:
            return f"alignment there and back differs by {self.inconsistent_mm:.0f} mm"
        return ""


@dataclass(frozen=True)
class Registration:
    """Where a point of the later (fixed) study lies in the earlier (moving) one."""

    matrix: np.ndarray
    """4x4, fixed to moving, after the deformation."""
    field: np.ndarray | None
    """Displacement [x, y, z, 3] in mm on `grid`, added to a fixed point first; None where the alignment is rigid."""
    grid: np.ndarray
    """4x4, voxel of the field to mm."""
    quality: Quality

    @cached_property
    def _to_voxel(self) -> np.ndarray:
        return np.linalg.inv(self.grid)

    def to_moving(self, points: np.ndarray) -> np.ndarray:
        """Points [n, 3] of the fixed study in the moving one."""
        return _mapped(points + self._shift(points), self.matrix)

    def to_fixed(self, points: np.ndarray) -> np.ndarray:
        """Points [n, 3] of the moving study in the fixed one (the deformation is undone by fixed-point iteration)."""
        plain = _mapped(points, np.linalg.inv(self.matrix))
        found = plain
        for _ in range(12):
            found = plain - self._shift(found)
        return found

    def _shift(self, points: np.ndarray) -> np.ndarray:
        if self.field is None:
            return np.zeros_like(points, float)
        at = _mapped(points, self._to_voxel).T
        return np.stack([ndimage.map_coordinates(self.field[..., a], at, order=1, mode="constant") for a in range(3)], -1)


def _mapped(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return np.asarray(points @ matrix[:3, :3].T + matrix[:3, 3])


@dataclass(frozen=True)
class Image:
    """What is registered: voxels [i, j, k], their affine (RAS+), and whether they are HU."""

    array: np.ndarray
    affine: np.ndarray
    hounsfield: bool


def register(fixed: Image, moving: Image, same_kind: bool, deform: bool = True, step: Callable[[int, int], None] | None = None) -> Registration:  # fmt: skip
    """Rigid by mutual information at 8 and 4 mm, then diffeomorphic demons where both images are of one kind and it is worthwhile.

    Several beginnings are tried (as the headers have it, centre on centre, body on body) and the best is gone on with.
    """
    import SimpleITK as sitk

    told = step or (lambda done, total: None)
    fine = [_coarser(i, FINE_MM) for i in (fixed, moving)]
    coarse = [_binned(i, COARSE_MM) for i in fine]
    told(1, 5)
    bodies = [_body(i, image.hounsfield) for i, image in zip(coarse, (fixed, moving), strict=True)]
    forward = _rigid(coarse[0], coarse[1], bodies[0], _begun(coarse, bodies))
    told(2, 5)
    backward = _rigid(coarse[1], coarse[0], bodies[1], forward.GetInverse())
    rigid = _rigid(fine[0], fine[1], _body(fine[0], fixed.hounsfield), forward)
    told(3, 5)
    hounsfield, ways = (fixed.hounsfield, moving.hounsfield), (forward, backward)
    quality = _quality(fine, hounsfield, rigid, None, ways, bodies[0])
    field = None
    if same_kind and deform and quality.correlation < ALIKE:
        made = _deformed(fine, rigid)
        better = _quality(fine, hounsfield, rigid, made, ways, bodies[0])
        if 1 - better.correlation < WORTHWHILE * (1 - quality.correlation) and better.folded == 0:
            field, quality = made, better
    told(4, 5)
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(rigid.GetMatrix()).reshape(3, 3)
    centre, moved = np.array(rigid.GetCenter()), np.array(rigid.GetTranslation())
    matrix[:3, 3] = moved + centre - matrix[:3, :3] @ centre
    grid = _affine_of(fine[0])
    shifts = None
    if field is not None:
        shifts = (sitk.GetArrayFromImage(field).transpose(2, 1, 0, 3) * [-1, -1, 1]).astype(np.float32)
    told(5, 5)
    return Registration(_FLIP @ matrix @ _FLIP, shifts, _FLIP @ grid, quality)


def _itk(image: Image) -> "sitk.Image":
    import SimpleITK as sitk

    array = np.asarray(image.array)
    if image.hounsfield:
        array = np.clip(array, *CT_RANGE_HU)
    made = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0), np.float32))
    lps = _FLIP @ image.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    made.SetSpacing([float(v) for v in spacing])
    made.SetOrigin([float(v) for v in lps[:3, 3]])
    directions, _, others = np.linalg.svd(
        lps[:3, :3] / spacing
    )  # the nearest right-angled frame: a gantry's tilt is left to the rigid step
    made.SetDirection([float(v) for v in (directions @ others).ravel()])
    return made


def _coarser(image: Image, side_mm: float) -> "sitk.Image":
    import SimpleITK as sitk

    made = _binned(_itk(image), side_mm)
    sides = np.array(made.GetSpacing())
    if sides.min() > 0.8 * side_mm:
        return made
    size = np.maximum(2, np.round(np.array(made.GetSize()) * sides / np.maximum(sides, side_mm))).astype(
        int
    )  # 3 mm, say: between two bins
    wider = sides * np.array(made.GetSize()) / size
    origin = made.TransformContinuousIndexToPhysicalPoint([float(v) for v in (wider / sides - 1) / 2])
    return sitk.Resample(
        made, [int(v) for v in size], sitk.Transform(), sitk.sitkLinear, origin, [float(v) for v in wider], made.GetDirection()
    )


def _binned(image: "sitk.Image", side_mm: float) -> "sitk.Image":
    """Means over blocks of voxels: fewer voxels, and nothing aliased."""
    import SimpleITK as sitk

    steps = [max(1, min(n // 2, int(side_mm / s + 0.1))) for s, n in zip(image.GetSpacing(), image.GetSize(), strict=True)]
    return sitk.BinShrink(image, steps)


def _affine_of(image: "sitk.Image") -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return affine


def _body(image: "sitk.Image", hounsfield: bool) -> "sitk.Image":
    """The patient without what lies around: by HU, or by Otsu's threshold on a stripped or whole image."""
    import SimpleITK as sitk

    if hounsfield:
        return sitk.Cast(image > AIR_HU, sitk.sitkUInt8)
    array = sitk.GetArrayViewFromImage(image)
    low, high = float(np.percentile(array, 1)), float(np.percentile(array, 99))
    made = sitk.Cast(image > low + 0.08 * (high - low), sitk.sitkUInt8)
    return sitk.BinaryMorphologicalClosing(made, [1, 1, 1])


def _begun(images: list["sitk.Image"], bodies: list["sitk.Image"]) -> "sitk.Euler3DTransform":
    """The best of: as the headers have it, centre on centre, body on body; by mutual information at 8 mm."""
    import SimpleITK as sitk

    fixed, moving = images
    tries = [sitk.Euler3DTransform()]
    modes = sitk.CenteredTransformInitializerFilter
    for pair, mode in ((images, modes.GEOMETRY), (bodies, modes.MOMENTS)):
        one = [sitk.Cast(i, sitk.sitkFloat32) for i in pair]
        if mode == modes.MOMENTS and any(float(sitk.GetArrayViewFromImage(i).sum()) == 0 for i in one):
            continue
        tries.append(sitk.Euler3DTransform(sitk.CenteredTransformInitializer(*one, sitk.Euler3DTransform(), mode)))
    centre = fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()])
    best, least = tries[-1], np.inf
    for one in tries:
        turned = _centred(one, centre)
        shared = _shared(sitk.Resample(bodies[1], bodies[0], turned, sitk.sitkNearestNeighbor, 0), bodies[0], bodies[1])
        if shared < LEAST_SHARED / 2:
            continue
        method = _method(turned, None)
        try:
            value = method.MetricEvaluate(fixed, moving)
        except RuntimeError:
            continue  # no voxel of one lies on the other
        if value < least:
            best, least = turned, value
    return best


def _centred(transform: "sitk.Euler3DTransform", centre: Any) -> "sitk.Euler3DTransform":
    """The same shift, turned about the fixed image's centre from here on."""
    import SimpleITK as sitk

    return sitk.Euler3DTransform(centre, 0.0, 0.0, 0.0, transform.GetTranslation())


def _method(transform: Any, body: "sitk.Image | None", share: float = 1.0) -> "sitk.ImageRegistrationMethod":
    import SimpleITK as sitk

    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    if share < 1:
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(share)
    if body is not None:
        method.SetMetricFixedMask(sitk.BinaryDilate(body, [2, 2, 2]))
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 0.005, 100, 0.7, 1e-8)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    return method


def _rigid(fixed: "sitk.Image", moving: "sitk.Image", body: "sitk.Image | None", begin: Any) -> "sitk.Euler3DTransform":
    import SimpleITK as sitk

    if not isinstance(begin, sitk.Euler3DTransform):
        begin = sitk.Euler3DTransform(begin)
    transform = sitk.Euler3DTransform(begin)
    voxels = int(np.prod(fixed.GetSize()))
    try:
        _method(transform, body, min(1.0, 40_000 / voxels)).Execute(fixed, moving)
    except RuntimeError:
        return sitk.Euler3DTransform(begin)  # it lost the other image on the way: the quality will say so
    return transform


def _deformed(fine: list["sitk.Image"], rigid: Any) -> "sitk.Image":
    """Displacements of the fixed grid at 4 mm (diffeomorphic demons), smooth over some 8 mm so that a lesion's own growth stays."""
    import SimpleITK as sitk

    fixed, moving = fine
    outside = float(sitk.GetArrayViewFromImage(moving).min())
    brought = sitk.HistogramMatching(sitk.Resample(moving, fixed, rigid, sitk.sitkLinear, outside), fixed, 256, 12, True)
    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetNumberOfIterations(30)
    demons.SetSmoothDisplacementField(True)
    demons.SetStandardDeviations(2.0)
    return demons.Execute(fixed, brought)


def _shared(brought: "sitk.Image", body: "sitk.Image", other: "sitk.Image") -> float:
    """Share of the smaller of two bodies that lies on the other."""
    import SimpleITK as sitk

    both = sitk.GetArrayViewFromImage(brought), sitk.GetArrayViewFromImage(body)
    sizes = [float(sitk.GetArrayViewFromImage(i).sum()) * float(np.prod(i.GetSpacing())) for i in (body, other)]
    inside = float(((both[0] > 0) & (both[1] > 0)).sum()) * float(np.prod(body.GetSpacing()))
    return inside / min(sizes) if min(sizes) else 0.0


def _quality(fine: list["sitk.Image"], hounsfield: tuple[bool, bool], rigid: Any, field: "sitk.Image | None",
             ways: tuple[Any, Any], coarse_body: "sitk.Image") -> Quality:  # fmt: skip
    import SimpleITK as sitk

    fixed, moving = fine
    whole = sitk.Transform(rigid)
    if field is not None:
        whole = sitk.CompositeTransform([rigid, sitk.DisplacementFieldTransform(sitk.Image(field))])
    bodies = [_body(i, h) for i, h in zip(fine, hounsfield, strict=True)]
    outside = float(sitk.GetArrayViewFromImage(moving).min())
    brought = sitk.Resample(bodies[1], bodies[0], whole, sitk.sitkNearestNeighbor, 0)
    both = (sitk.GetArrayViewFromImage(brought) > 0) & (sitk.GetArrayViewFromImage(bodies[0]) > 0)
    here = sitk.GetArrayViewFromImage(fixed)
    there = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, whole, sitk.sitkLinear, outside))
    before = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkLinear, outside))
    folded = 0.0
    if field is not None:
        folded = float((sitk.GetArrayViewFromImage(sitk.DisplacementFieldJacobianDeterminant(field)) <= 0).mean())
    points = _points(coarse_body)
    there_and_back = _applied(ways[1], _applied(ways[0], points)) - points
    moved = _applied(rigid, points) - points
    return Quality(shared=round(_shared(brought, bodies[0], bodies[1]), 3), correlation=round(_correlation(here, there, both), 3),
                   information=round(_information(here, there, both), 3),
                   correlation_before=round(_correlation(here, before, both), 3),
                   inconsistent_mm=round(float(np.linalg.norm(there_and_back, axis=1).mean()), 2), folded=round(folded, 4),
                   deformed=field is not None, moved_mm=round(float(np.linalg.norm(moved, axis=1).mean()), 1))  # fmt: skip


def _points(body: "sitk.Image") -> np.ndarray:
    """Some hundred points inside a body, LPS mm."""
    import SimpleITK as sitk

    inside = np.argwhere(sitk.GetArrayViewFromImage(body) > 0)[:, ::-1]
    chosen = inside[:: max(1, len(inside) // 300)] if len(inside) else np.zeros((1, 3))
    return np.asarray(_mapped(chosen, _affine_of(body)))


def _applied(transform: Any, points: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint([float(v) for v in p]) for p in points])


def _correlation(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    if where.sum() < 10 or a[where].std() == 0 or b[where].std() == 0:
        return 0.0
    return float(np.corrcoef(a[where], b[where])[0, 1])


def _information(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    """(H(a) + H(b)) / H(a, b) over 32 bins (Studholme 1999, doi:10.1016/S0031-3203(98)00091-0)."""
    if where.sum() < 10:
        return 1.0
    joint, _, _ = np.histogram2d(a[where], b[where], bins=32)
    share = joint / joint.sum()

    def entropy(p: np.ndarray) -> float:
        return float(-(p[p > 0] * np.log(p[p > 0])).sum())

    together = entropy(share.ravel())
    return (entropy(share.sum(0)) + entropy(share.sum(1))) / together if together > 0 else 1.0
