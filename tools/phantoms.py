"""Phantoms with known answers, as DICOM: for our tests, and for those who make tools."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

if TYPE_CHECKING:
    from tools.base import Bench

NODULE_MM, NODULE_HU = 14.0, 40
"""Diameter and value of the nodule in `chest_ct`."""
NOISE_HU = 12.0


def sphere(shape: tuple[int, int, int], affine: np.ndarray, radius_mm: float) -> np.ndarray:
    """A sphere of `radius_mm` around the grid's centre: boolean [i, j, k], true distances through `affine`."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    points = grid @ affine[:3, :3].T + affine[:3, 3]
    centre = ((np.array(shape) - 1) / 2) @ affine[:3, :3].T + affine[:3, 3]
    return np.asarray(np.linalg.norm(points - centre, axis=-1) <= radius_mm)


def dicom_series(
    array: np.ndarray,
    lps: np.ndarray,
    patient_id: str = "PHANTOM",
    description: str = "FLAIR",
    study_uid: str | None = None,
    name: str = "Phantom^Made",
    date: str = "20260102",
    body_part: str = "BRAIN",
    modality: str = "MR",
) -> list[bytes]:
    """`array` [column, row, slice] as single-frame MR (or CT) instances; `lps` maps indices to patient mm in LPS."""
    study, series = study_uid or generate_uid(), generate_uid()
    columns, rows, normals = (lps[:3, i] for i in range(3))
    dx, dy, dz = (float(np.linalg.norm(v)) for v in (columns, rows, normals))
    signed = bool(array.min() < 0)
    files = []
    for k in range(array.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        made.StudyInstanceUID, made.SeriesInstanceUID = study, series
        made.PatientID, made.PatientName, made.StudyDate = patient_id, name, date
        made.Modality, made.SeriesDescription, made.BodyPartExamined = modality, description, body_part
        if modality == "CT":
            made.RescaleSlope, made.RescaleIntercept = 1, 0
        made.InstanceNumber = array.shape[2] - k  # numbered backwards: position has to decide
        made.Rows, made.Columns = array.shape[1], array.shape[0]
        made.PixelSpacing, made.SliceThickness = [dy, dx], dz
        made.ImageOrientationPatient = [*(columns / dx), *(rows / dy)]
        made.ImagePositionPatient = [float(v) for v in lps[:3, 3] + k * normals]
        made.BitsAllocated = made.BitsStored = 16
        made.HighBit, made.PixelRepresentation, made.SamplesPerPixel = 15, int(signed), 1
        made.PhotometricInterpretation = "MONOCHROME2"
        made.PixelData = np.ascontiguousarray(array[:, :, k].T.astype("<i2" if signed else "<u2")).tobytes()
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, made, enforce_file_format=True)
        files.append(buffer.getvalue())
    return files


def chest_ct(patient_id: str = "PHANTOM", name: str = "Phantom^Made", description: str = "Chest, made up", body_part: str = "CHEST",
             date: str = "20260102", shift_mm: float = 0.0, diameter_mm: float = NODULE_MM) -> list[bytes]:  # fmt: skip
    """A made-up chest CT (96 x 96 x 40 voxels of 3 x 3 x 3 mm; HU): body, two lungs, a round nodule in the right one, and its outline.

    The last file is a DICOM SEG whose one segment, `nodule`, is the nodule. `shift_mm` moves the nodule along the patient's long axis.
    """
    import highdicom as hd

    shape, spacing = (96, 96, 40), 3.0
    x, y, z = np.meshgrid(*(spacing * (np.arange(n) - (n - 1) / 2) for n in shape), indexing="ij")
    hu = np.full(shape, -1000.0)
    hu[(x / 130) ** 2 + (y / 100) ** 2 < 1] = 30
    for side in (-60, 60):
        hu[((x - side) / 45) ** 2 + (y / 70) ** 2 + (z / 75) ** 2 < 1] = -850
    nodule = (x + 60) ** 2 + (y - 10) ** 2 + (z - shift_mm) ** 2 <= (diameter_mm / 2) ** 2
    hu[nodule] = NODULE_HU
    hu += np.random.default_rng(0).normal(0, NOISE_HU, shape)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = [-spacing * (n - 1) / 2 for n in shape]
    files = dicom_series(
        np.round(hu).astype(np.int16), affine, patient_id, description, name=name, date=date, body_part=body_part, modality="CT"
    )
    sources = [pydicom.dcmread(io.BytesIO(f)) for f in files]
    for one in sources:
        one.FrameOfReferenceUID = sources[0].SeriesInstanceUID + ".1"
        one.PatientBirthDate = one.PatientSex = one.AccessionNumber = one.StudyID = one.StudyTime = one.ReferringPhysicianName = (
            ""
        )
    described = hd.seg.SegmentDescription(1, "nodule", codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Nodule,
                                          hd.seg.SegmentAlgorithmTypeValues.MANUAL)  # fmt: skip
    seg = hd.seg.Segmentation(
        source_images=sources, pixel_array=nodule.transpose(2, 1, 0).astype(np.uint8), segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[described], series_instance_uid=generate_uid(), series_number=2, sop_instance_uid=generate_uid(), instance_number=1,
        manufacturer="Consilium", manufacturer_model_name="phantom", software_versions="1", device_serial_number="1",
        series_description="nodule, drawn by hand",
    )  # fmt: skip
    written = []
    for one in [*sources, seg]:
        one.save_as(buffer := io.BytesIO(), enforce_file_format=True)
        written.append(buffer.getvalue())
    return written


def mr_head(
    patient_id: str = "PHANTOM", description: str = "FLAIR", body_part: str = "BRAIN", name: str = "Phantom^Made"
) -> list[bytes]:
    """A made-up FLAIR of a head: an ellipsoid with a bright ball in it."""
    affine = np.diag([3.0, 3.0, 4.0, 1.0])
    head, ball = sphere((64, 64, 36), affine, 70), sphere((64, 64, 36), affine, 16)
    array = (head * 300 + ball * 500 + np.random.default_rng(0).normal(0, 8, head.shape) * head).clip(0).astype(np.uint16)
    return dicom_series(array, affine, patient_id, description, name=name, body_part=body_part)


def bench_with(files: list[bytes], folder: Path) -> "Bench":
    """A bench at the case of these DICOM files, in an archive under `folder`, with the models in the box: what a tool's own test needs."""
    from knowledge.case import open_case
    from knowledge.studies.archive import Archive
    from knowledge.studies.unpack import Incoming
    from tools.base import Bench, Resources

    archive = Archive(folder / "archive")
    done = archive.add([Incoming(f"{n}.dcm", f) for n, f in enumerate(files)])
    if done.rejected or len(done.patient_ids) != 1:
        raise ValueError(
            f"the files aren't one patient's DICOM: {[r.reason for r in done.rejected[:3]] or sorted(done.patient_ids)}"
        )
    return Bench(Resources.plain(folder / "guidelines"), open_case(archive, next(iter(done.patient_ids))))


def written_to(folder: Path, files: list[bytes]) -> Path:
    """The files in a folder of their own, as 0000.dcm, 0001.dcm, …"""
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(files):
        (folder / f"{number:04d}.dcm").write_bytes(data)
    return folder
