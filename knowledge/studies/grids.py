"""Volumes of NRRD, MetaImage and Analyze files, read by SimpleITK and nibabel in a process that can be killed."""

import io
import os
import re
import tempfile
from pathlib import Path

import numpy as np

from knowledge.errors import Refused
from knowledge.studies import workers
from knowledge.studies.nifti import BROKEN, MAX_VOXELS
from knowledge.studies.volume import Volume

HEADERS = (".hdr", ".nhdr", ".mhd")
DATA = (".img", ".raw", ".zraw", ".raw.gz", ".img.gz")
SUFFIX = {"NRRD": ".nrrd", "MHA": ".mha"}
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def kind_of(head: bytes) -> str | None:
    """NRRD, MHA or Analyze by a file's first bytes; None for others."""
    if head[:4] == b"NRRD":
        return "NRRD"
    if re.match(rb"\s*(ObjectType|NDims)\s*=", head):
        return "MHA"
    sizes = (int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big"))
    if 348 in sizes and len(head) >= 348:
        return "Analyze" if head[344:347] not in (b"ni1", b"n+1") else "NIfTI pair" if head[344:347] == b"ni1" else None
    return None


def data_file(head: bytes) -> str | None:
    """The file that a detached NRRD or MetaImage header names for its voxels; None where they follow the header."""
    found = re.search(rb"^(?:data ?file|ElementDataFile)\s*[:=]\s*(\S[^\r\n]*)", head[:65536], re.M | re.I)
    if not found or found.group(1).strip().upper() == b"LOCAL":
        return None
    name = found.group(1).strip().decode("latin-1")
    if name.upper().startswith("LIST") or "%" in name or "/" in name or "\\" in name or name in (".", ".."):
        raise Refused("its header points to several files or outside its folder", "send it as one file (.nrrd, .mha)")
    return name


def volume_of(kind: str, path: Path, companion: Path | None, data_name: str | None = None) -> Volume:
    """The voxels as [i, j, k] with their affine (RAS mm). Raises Refused: broken, cut short, too large."""
    found = workers.run(_read, (kind, str(path), str(companion) if companion else None, data_name))
    if isinstance(found, Refused):
        raise found
    array, affine = found
    return Volume(array, affine, "axial")


def _read(task: tuple[str, str, str | None, str | None]) -> "tuple[np.ndarray, np.ndarray] | Refused":
    kind, path, companion, data_name = task
    try:
        return _analyze(path, companion) if kind in ("Analyze", "NIfTI pair") else _itk(kind, path, companion, data_name)
    except Refused as refusal:
        return refusal
    except BROKEN as error:
        return Refused(f"the {kind} file can't be read ({type(error).__name__})", "export it again")


def _itk(kind: str, path: str, companion: str | None, data_name: str | None) -> tuple[np.ndarray, np.ndarray]:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        suffix = SUFFIX[kind] if companion is None else {"NRRD": ".nhdr", "MHA": ".mhd"}[kind]
        there = Path(folder) / f"volume{suffix}"
        os.symlink(path, there)
        if companion is not None and data_name:
            os.symlink(companion, Path(folder) / data_name)
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(there))
        try:
            reader.ReadImageInformation()
            _check(kind, reader, Path(companion or path))
            image = reader.Execute()
        except RuntimeError as error:
            raise Refused(f"the {kind} file is broken or cut short", "export it again") from error
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return array, LPS_TO_RAS @ affine


def _check(kind: str, reader: "object", data: Path) -> None:
    size = reader.GetSize()  # type: ignore[attr-defined]
    if len(size) != 3 or reader.GetNumberOfComponents() != 1:  # type: ignore[attr-defined]
        raise Refused(f"a {kind} of {len(size)} dimensions or in colour isn't one volume", "send one file for each volume")
    voxels = int(np.prod([float(n) for n in size]))
    # Deflate packs a thousandfold at most; fewer bytes than that can't hold what the header declares.
    if not 0 < voxels <= MAX_VOXELS or voxels > 1100 * data.stat().st_size:
        raise Refused(f"the {kind} header names an impossible size {size}", "export the file again")


def _analyze(path: str, companion: str | None) -> tuple[np.ndarray, np.ndarray]:
    import nibabel as nib

    if companion is None:
        raise Refused("its voxels (.img) didn't come with it", "send both files")
    head = Path(path).read_bytes()
    kind = nib.Nifti1Pair if head[344:347] == b"ni1" else nib.Spm2AnalyzeImage
    header = kind.header_class.from_fileobj(io.BytesIO(head))
    shape = header.get_data_shape()
    expected = int(np.prod([float(n) for n in shape])) * header.get_data_dtype().itemsize
    if not shape or min(shape) < 1 or expected > MAX_VOXELS * 4 or expected > Path(companion).stat().st_size:
        raise Refused("the voxel file is shorter than its header says, or the size is impossible", "send the whole files")
    files = {"header": nib.FileHolder(filename=path), "image": nib.FileHolder(fileobj=io.BytesIO(Path(companion).read_bytes()))}
    if "mat" in [n for n, _ in kind.files_types]:
        files["mat"] = nib.FileHolder(filename=os.devnull)
    image = kind.from_file_map(files)
    array = np.asarray(image.dataobj, np.float32)
    return array.reshape((*array.shape[:2], -1)), np.asarray(image.affine, float)
