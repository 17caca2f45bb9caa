"""Bringing two studies together against SimpleITK's defaults, and export of a large SEG against highdicom's plain call. `make bench`."""

import io
import time
from typing import Any

import numpy as np

from tests.eval_course import made_pair
from tools.course.matching import match
from tools.course.registration import Image, register


def registration(pairs: tuple[int, ...] = (0, 18)) -> dict[str, float]:
    """Whole-size brains (240 x 240 x 155): seconds of ours and of SimpleITK's defaults (Mattes, all voxels, gradient descent), and the error at lesions."""
    ours, theirs, ours_mm, theirs_mm, compared = [], [], [], [], []
    for number in pairs:
        pair = made_pair(number)
        fixed, moving = (_padded(f.volume.array, f.volume.affine) for f in (pair.after, pair.before))
        start = time.perf_counter()
        made = register(Image(*fixed, False), Image(*moving, False), same_kind=True)
        ours.append(time.perf_counter() - start)
        match(pair.before.lesions, pair.after.lesions, made, (pair.before.volume, pair.after.volume))
        compared.append(time.perf_counter() - start)
        points = np.array([x.centre for x in pair.after.lesions])
        truth = pair.where(points)
        ours_mm.append(float(np.linalg.norm(made.to_moving(points) - truth, axis=1).mean()))
        start = time.perf_counter()
        transform = _defaults(fixed, moving)
        theirs.append(time.perf_counter() - start)
        flip = np.array([-1.0, -1.0, 1.0])
        brought = np.array([transform.TransformPoint([float(v) for v in p * flip]) for p in points]) * flip
        theirs_mm.append(float(np.linalg.norm(brought - truth, axis=1).mean()))
    return {"register_240x240x155_s": float(np.median(ours)), "register_and_match_s": float(np.median(compared)), "simpleitk_defaults_s": float(np.median(theirs)),
            "ratio_to_simpleitk_defaults": float(np.median(ours) / np.median(theirs)), "error_mm": float(np.median(ours_mm)),
            "simpleitk_defaults_error_mm": float(np.median(theirs_mm))}  # fmt: skip


def _padded(array: np.ndarray, affine: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The volume on the full grid of its kind, the rest zero."""
    assert affine is not None
    whole = np.zeros((240, 240, 155), np.float32)
    size = [min(a, b) for a, b in zip(array.shape, whole.shape, strict=True)]
    whole[: size[0], : size[1], : size[2]] = array[: size[0], : size[1], : size[2]]
    return whole, affine


def _defaults(fixed: tuple[np.ndarray, np.ndarray], moving: tuple[np.ndarray, np.ndarray]) -> Any:
    """SimpleITK's registration as its documentation begins: centred on geometry, Mattes mutual information over all voxels, gradient descent of 100 steps."""
    import SimpleITK as sitk

    from tools.course.registration import _itk

    images = [_itk(Image(a, m, False)) for a, m in (fixed, moving)]
    begin = sitk.CenteredTransformInitializer(
        images[0], images[1], sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation()
    method.SetOptimizerAsGradientDescent(learningRate=1.0, numberOfIterations=100)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetInitialTransform(begin, inPlace=False)
    return method.Execute(*images)


def export(slices: int = 300) -> dict[str, float]:
    """A SEG of `slices` slices with four lesions: ours (with the sources read from the archive) beside highdicom's plain call on data sets in memory."""
    import tempfile
    from pathlib import Path

    import highdicom as hd
    import pydicom
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    from tools.course.following import follow
    from tools.export.drawn import drawing_of
    from tools.export.seg import as_seg
    from tools.followed import LIVER, LUNG_LEFT, LUNG_RIGHT, NODE, Made, examination
    from tools.phantoms import bench_with

    places = ((LUNG_RIGHT, "lung"), (LUNG_LEFT, "lung"), (LIVER, "liver"), (NODE, "lymph node"))
    lesions = [Made(at, 30, 22, organ) for at, organ in places]
    files = [examination(lesions, day, slices=slices, slice_mm=0.6, seed=n) for n, day in enumerate(("20260105", "20260406"))]
    with tempfile.TemporaryDirectory() as folder:
        bench = bench_with([f for one in files for f in one], Path(folder))
        course = follow(bench, bench.required_case.studies)
        found = course.founds[0]
        path = bench.required_case.derived(found.image) / course.maps[0].rsplit("/", 1)[1]
        start = time.perf_counter()
        drawing = drawing_of(bench.required_case.archive, bench.resources.catalogue, found.study, found.image, path)
        ours = as_seg(drawing)
        whole = time.perf_counter() - start
        start = time.perf_counter()
        as_seg(drawing)
        call = time.perf_counter() - start
        sources = [pydicom.dcmread(io.BytesIO(f)) for f in files[0][:slices]]
        algorithm = hd.AlgorithmIdentificationSequence("x", codes.DCM.ArtificialIntelligence, "1")
        described = [hd.seg.SegmentDescription(n, f"{n}", codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Neoplasm,
                                               hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC, algorithm) for n in range(1, len(drawing.parts) + 1)]  # fmt: skip
        pixels = np.stack([drawing.inside(p) for p in drawing.parts], -1).astype(np.uint8)
        start = time.perf_counter()
        made = hd.seg.Segmentation(
            sources,
            pixels,
            hd.seg.SegmentationTypeValues.BINARY,
            described,
            generate_uid(),
            1,
            generate_uid(),
            1,
            "x",
            "x",
            "1",
            "1",
        )
        made.save_as(io.BytesIO(), enforce_file_format=True)
        plain = time.perf_counter() - start
    return {"seg_300_slices_s": whole, "seg_300_slices_without_reading_s": call, "highdicom_plain_s": plain, "ratio_to_highdicom": call / plain,
            "ratio_with_reading": whole / plain, "seg_mb": len(ours) / 2**20}  # fmt: skip


def figures() -> dict[str, float]:
    """Both."""
    return {**registration(), **export()}


if __name__ == "__main__":
    import json

    print(json.dumps(figures(), indent=1))
