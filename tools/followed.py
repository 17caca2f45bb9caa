"""Made-up patients over time, as DICOM with outlines: lesions whose sizes are known to the voxel. For tests, evaluation and tool makers."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pydicom
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from tools.phantoms import dicom_series

COLUMNS, ROWS, SLICES = 240, 180, 36
PIXEL_MM, SLICE_MM = 1.0, 5.0
NOISE = 10.0
_SITES = {
    "lung": codes.SCT.Lung,
    "liver": codes.SCT.Liver,
    "brain": codes.SCT.Brain,
    "lymph node": codes.SCT.LymphNode,
    "kidney": codes.SCT.Kidney,
}


@dataclass(frozen=True)
class Made:
    """A lesion: its centre (mm from the image's, LPS), longest axial diameter and the one perpendicular to it (whole mm), and where it lies.

    `height_mm` along the body. `shape`: `ellipsoid`; `diamond`, whose two diameters come out exactly where both are odd; `box`, whose volume does.
    """

    at: tuple[float, float, float]
    long_mm: int
    short_mm: int
    organ: str = "lung"
    label: str = "lesion"
    height_mm: float = 20.0
    tracking: tuple[str, str] | None = None
    shape: str = "ellipsoid"


def examination(lesions: Sequence[Made], date: str, patient_id: str = "COURSE", modality: str = "CT", shift_mm: tuple[float, float, float] = (0, 0, 0),
                body_part: str = "", seed: int = 0, slices: int = SLICES, slice_mm: float = SLICE_MM, frame_of_reference: str | None = None,
                outlined: bool = True) -> list[bytes]:  # fmt: skip
    """One examination: a made-up chest CT (HU) or head MR (FLAIR), and a SEG with a segment for each lesion as its last file.

    Sizes are `long_mm` voxels of 1 mm along the columns, `short_mm` along the rows. `shift_mm` is how the patient lies.
    `frame_of_reference`: of the SEG, where it is to be another one than the image's.
    """
    part = body_part or ("CHEST" if modality == "CT" else "BRAIN")
    shape = (COLUMNS, ROWS, slices)
    spacing = np.array([PIXEL_MM, PIXEL_MM, slice_mm])
    middle = (np.array(shape) - 1) / 2 * spacing
    x, y, z = np.meshgrid(
        *(s * np.arange(n) - m - t for n, s, m, t in zip(shape, spacing, middle, shift_mm, strict=True)), indexing="ij"
    )
    image = _chest(x, y, z) if modality == "CT" else _head(x, y, z)
    masks = [_mask(one, shape, spacing, middle, shift_mm) for one in lesions]
    for one, mask in zip(lesions, masks, strict=True):
        image[mask] = (60 if one.organ == "lung" else 110) if modality == "CT" else 900
    image += np.random.default_rng(seed).normal(0, NOISE, shape)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -middle
    low = -1024 if modality == "CT" else 0
    files = dicom_series(np.round(image).clip(low, 3000).astype(np.int16), affine, patient_id, "Made up" if modality == "CT" else "FLAIR", date=date,
                         body_part=part, modality=modality)  # fmt: skip
    sources = [pydicom.dcmread(io.BytesIO(f)) for f in files]
    frame = generate_uid()
    for one_file in sources:
        one_file.FrameOfReferenceUID, one_file.PositionReferenceIndicator = frame, ""
        one_file.SeriesNumber, one_file.Manufacturer, one_file.ImageType = (
            1,
            "Consilium (made up)",
            ["ORIGINAL", "PRIMARY", "AXIAL"],
        )
        for empty in ("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyTime", "ReferringPhysicianName"):
            setattr(
                one_file, empty, "" if empty not in ("StudyID", "StudyTime") else {"StudyID": "1", "StudyTime": "120000"}[empty]
            )
    written = [_bytes(s) for s in sources]
    if outlined and lesions:
        written.append(_bytes(outline(sources, lesions, masks, frame_of_reference)))
    return written


def outline(
    sources: list[pydicom.Dataset], lesions: Sequence[Made], masks: Sequence[np.ndarray], frame_of_reference: str | None = None
) -> pydicom.Dataset:
    """A SEG of the lesions, one segment each, as a person draws it (highdicom)."""
    import highdicom as hd

    described = []
    for number, one in enumerate(lesions, 1):
        described.append(hd.seg.SegmentDescription(
            number, one.label, codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.LymphNode if one.organ == "lymph node" else codes.SCT.Neoplasm,
            hd.seg.SegmentAlgorithmTypeValues.MANUAL, anatomic_regions=[_SITES[one.organ]] if one.organ in _SITES else None,
            tracking_id=one.tracking[0] if one.tracking else None, tracking_uid=one.tracking[1] if one.tracking else None,
        ))  # fmt: skip
    made = hd.seg.Segmentation(
        source_images=sources, pixel_array=np.stack([m.transpose(2, 1, 0) for m in masks], -1).astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY, segment_descriptions=described, series_instance_uid=generate_uid(), series_number=2,
        sop_instance_uid=generate_uid(), instance_number=1, manufacturer="Consilium", manufacturer_model_name="phantom", software_versions="1",
        device_serial_number="1", series_description="lesions, drawn by hand",
    )  # fmt: skip
    if frame_of_reference:
        made.FrameOfReferenceUID = frame_of_reference
    return made


def _bytes(dataset: pydicom.Dataset) -> bytes:
    dataset.save_as(buffer := io.BytesIO(), enforce_file_format=True)
    return buffer.getvalue()


def _chest(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """HU of a body with lungs, heart, liver and spine, none of which is symmetric."""
    image = np.full(x.shape, -1000.0)
    image[(x / 112) ** 2 + (y / 82) ** 2 < 1] = 40
    for side, width in ((-50, 42), (52, 38)):
        image[((x - side) / width) ** 2 + ((y + 4) / 62) ** 2 + (z / 95) ** 2 < 1] = -830
    image[((x - 14) / 34) ** 2 + ((y + 22) / 30) ** 2 + ((z + 20) / 40) ** 2 < 1] = 45
    image[((x + 52) / 48) ** 2 + ((y + 2) / 60) ** 2 + ((z + 95) / 45) ** 2 < 1] = 65
    image[(x / 16) ** 2 + ((y - 62) / 14) ** 2 < 1] = 350
    image[(x / 6) ** 2 + ((y - 78) / 4) ** 2 + (((z + 8) % 24 - 12) / 6) ** 2 < 1] = 450
    return image


def _head(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Grey values of a brain with ventricles and a brighter rim, longer from front to back."""
    image = np.zeros(x.shape)
    inside = (x / 66) ** 2 + (y / 82) ** 2 + (z / 72) ** 2
    image[inside < 1] = 320
    image[(inside < 1) & (inside > 0.82)] = 420
    for side, bend in ((-11, 4), (12, 2)):
        image[((x - side) / 6) ** 2 + ((y + bend) / 30) ** 2 + ((z - 8) / 14) ** 2 < 1] = 90
    image[(x / 30) ** 2 + ((y - 52) / 22) ** 2 + ((z + 40) / 18) ** 2 < 1] = 370
    return image


def _mask(
    one: Made, shape: tuple[int, int, int], spacing: np.ndarray, middle: np.ndarray, shift: tuple[float, float, float]
) -> np.ndarray:
    """The voxels of a lesion: exactly `long_mm` x `short_mm` on its widest slice, on 1 mm pixels."""
    axes = []
    for axis, size in enumerate((one.long_mm, one.short_mm, one.height_mm)):
        centre = (one.at[axis] + shift[axis] + middle[axis]) / spacing[axis]
        if axis < 2:  # on a voxel's centre or edge, so that the size is whole
            centre = np.floor(centre) + (0.5 if size % 2 == 0 else 0.0)
        else:
            centre = np.floor(centre) + (0.5 if round(size / spacing[2]) % 2 == 0 else 0.0)
        axes.append((np.arange(shape[axis]) - centre) * spacing[axis] / (size / 2))
    u, v, w = np.meshgrid(*axes, indexing="ij")
    if one.shape == "box":
        return np.asarray((np.abs(u) < 1) & (np.abs(v) < 1) & (np.abs(w) < 1))
    if one.shape == "diamond":
        return np.asarray(np.abs(u) + np.abs(v) + np.abs(w) < 1)
    return np.asarray(u**2 + v**2 + w**2 < 1)


LUNG_RIGHT, LUNG_LEFT, LUNG_UPPER, LIVER, NODE = (
    (-52.0, -2.0, -5.0),
    (54.0, 2.0, 20.0),
    (-46.0, 8.0, 55.0),
    (-50.0, -2.0, -80.0),
    (6.0, 24.0, 30.0),
)
"""Places in the made-up chest."""


def course_of_three(patient_id: str = "COURSE") -> list[list[bytes]]:
    """Three examinations of one made-up patient: two lung targets, one in the liver and a node shrink, then grow again, and a lesion is new."""
    sizes = [
        ((40, 28), (26, 20), (30, 22), (24, 18)),
        ((24, 18), (16, 12), (22, 16), (16, 12)),
        ((31, 22), (22, 16), (25, 18), (19, 14)),
    ]
    dates, shifts = ("20260105", "20260406", "20260706"), ((0.0, 0.0, 0.0), (5.0, -3.0, 4.0), (-4.0, 4.0, -6.0))
    found = []
    for number, (four, date, shift) in enumerate(zip(sizes, dates, shifts, strict=True)):
        places = ((LUNG_RIGHT, "lung", "right lung metastasis"), (LUNG_LEFT, "lung", "left lung metastasis"), (LIVER, "liver", "liver metastasis"),
                  (NODE, "lymph node", "mediastinal lymph node"))  # fmt: skip
        lesions = [Made(at, long, short, organ, label) for (long, short), (at, organ, label) in zip(four, places, strict=True)]
        if number == 2:
            lesions.append(Made(LUNG_UPPER, 14, 12, "lung", "new lung metastasis"))
        found.append(examination(lesions, date, patient_id, shift_mm=shift, seed=number))
    return found
