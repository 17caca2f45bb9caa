"""Read NIfTI-1/2 headers and volumes, and write volumes as NIfTI."""

import gzip
import io
import logging
import math
import re
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import io_orientation
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from knowledge.errors import Refused
from knowledge.studies.volume import Volume

logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # it reports header repairs on stderr

BROKEN = (
    ImageFileError,
    HeaderDataError,
    WrapStructError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    OverflowError,
    OSError,
    MemoryError,
    AttributeError,
)
"""What nibabel raises on damaged files; each is a reason to refuse the file."""
MAX_VOLUMES = 64
"""Volumes in one file (channels, echoes, phases)."""
MAX_VOXELS = 2**30
"""Volumes above one giga-voxel are refused: no clinical series is that large, a forged header is."""


def open_nifti(data: bytes) -> nib.Nifti1Image | nib.Nifti2Image:
    """The image of `data` (.nii or .nii.gz) with its header checked and its length known to fit.

    Raises Refused where the header is broken, the size is absurd or voxels are missing.
    """
    raw = unzipped(data)
    kind = nib.Nifti2Image if raw[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") else nib.Nifti1Image
    try:
        header = kind.header_class.from_fileobj(io.BytesIO(raw))
        shape = header.get_data_shape()
        expected = math.prod(shape) * header.get_data_dtype().itemsize
        if not shape or min(shape) < 1 or math.prod(shape) > MAX_VOXELS:
            raise Refused(f"the NIfTI header names an impossible size {shape}", "export the file again")
        if len(raw) < expected:
            raise Refused(f"the NIfTI file holds {len(raw)} of at least {expected} bytes", "send the whole file")
        image = kind.from_bytes(raw)
    except BROKEN as error:
        raise Refused(f"the NIfTI header can't be read ({type(error).__name__})", "export the file again") from error
    if len(image.shape) < 2 or math.prod(image.shape[3:]) > MAX_VOLUMES:
        raise Refused(f"a NIfTI of shape {image.shape} isn't one volume", "send one file for each volume")
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < 1e-9:
        raise Refused("the NIfTI affine is singular, so lengths would be wrong", "export the file again")
    try:
        if np.isnan(io_orientation(image.affine)).any():
            raise ValueError("an axis has no direction")
    except (ValueError, np.linalg.LinAlgError) as error:
        raise Refused("the NIfTI affine names no orientation", "export the file again") from error
    return image


def unzipped(data: bytes) -> bytes:
    """`data` without its gzip layer, if it has one. Raises Refused for broken data and for a bomb."""
    if data[:2] != b"\x1f\x8b":
        return data
    limit = MAX_VOXELS * 8
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            head = stream.read(min(limit, max(2**28, 60 * len(data))))
            if stream.read(1):
                raise Refused("the file unpacks to far more than it should", "send the volume uncompressed")
            return head
    except (OSError, EOFError, zlib.error) as error:
        raise Refused("the gzip data is broken or cut short", "send the whole file") from error


def volume_of(data: bytes, component: int = 0) -> Volume:
    """The voxels of `data` as stored, rescaled by the header's slope, as float32 [i, j, k]; of several volumes, the one asked for."""
    volumes = volumes_of(data)
    if not 0 <= component < len(volumes):
        raise Refused(f"the file holds {len(volumes)} volumes", "send the whole file")
    return volumes[component]


def volumes_of(data: bytes) -> list[Volume]:
    """Every volume of a file: one, or as many as its fourth dimension says."""
    image = open_nifti(data)
    try:
        array = np.asarray(image.dataobj, dtype=np.float32)
    except BROKEN as error:
        raise Refused("the NIfTI file is cut short or its data type can't be read", "send the whole file") from error
    count = math.prod(array.shape[3:]) if array.ndim > 3 and min(array.shape[:3]) > 1 else 1
    flat = array.reshape((*array.shape[:3], count)) if count > 1 else array.reshape((*array.shape[:2], -1, 1))
    affine = np.asarray(image.affine, float)
    return [Volume(flat[..., n], affine, "axial") for n in range(flat.shape[-1])]


def said_by(data: bytes) -> str:
    """What the header says of the image in words (its description), letters and digits alone."""
    raw = data[148:228] if data[344:347] in (b"n+1", b"ni1") else b""
    return re.sub(r"[^A-Za-z0-9 ._+-]", "", raw.split(b"\0")[0].decode("latin-1"))[:60].strip()


def to_bytes(volume: Volume, dtype: type = np.float32, level: int = 1) -> bytes:
    """`volume` as a gzipped NIfTI-1 on its own grid, spatial units mm. `level`: of compression; 0 only wraps."""
    affine = np.eye(4) if volume.affine is None else volume.affine
    image = nib.Nifti1Image(volume.array.astype(dtype), affine)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), level, mtime=0)


def for_looking(volume: Volume) -> bytes:
    """As `to_bytes`, there sooner: int16 where no value is lost by it, and wrapped, not compressed."""
    whole = volume.array.size > 0 and np.isfinite(volume.array).all() and np.abs(volume.array).max() < 2**15
    small = volume.array.astype(np.int16) if whole else volume.array
    return to_bytes(volume, np.int16 if whole and np.array_equal(small, volume.array) else np.float32, level=0)


def read_mask(path: Path) -> Volume:
    """A mask written by this project, as uint8."""
    volume = volume_of(path.read_bytes())
    return Volume(volume.array.astype(np.uint8), volume.affine, volume.frames)
