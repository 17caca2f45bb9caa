"""Open what arrives: files, folders and zip archives, each member bounded and named."""

import io
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from knowledge.errors import NotFound

MAX_MEMBERS = 20_000
MAX_TOTAL = 4 * 2**30
MAX_RATIO = 200
"""A zip member that claims to unpack to more than 200 times its packed size is a bomb, not an image."""


@dataclass(frozen=True)
class Incoming:
    """One file as it came: its name for the caller, and its bytes or the reason why there are none."""

    name: str
    data: bytes = b""
    refusal: str = ""


def from_paths(paths: Iterable[Path]) -> Iterator[Incoming]:
    """Each file under `paths`, zips opened. Raises NotFound for a path that isn't there or an empty folder."""
    for path in paths:
        if not path.exists():
            raise NotFound(f"{path} isn't there", "check the path")
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        if not files:
            raise NotFound(f"the folder {path} is empty", "name a folder with DICOM, NIfTI, pictures, reports or FHIR")
        for file in files:
            name = str(file.relative_to(path.parent)) if path.is_dir() else file.name
            yield from from_bytes(name, file.read_bytes())


def from_bytes(name: str, data: bytes) -> Iterator[Incoming]:
    """The file itself, or each member of a zip."""
    if data[:4] not in (b"PK\x03\x04", b"PK\x05\x06") or name.lower().endswith((".docx", ".xlsx")):
        yield Incoming(name, data)
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            if len(members) > MAX_MEMBERS or sum(m.file_size for m in members) > MAX_TOTAL:
                yield Incoming(name, refusal="the zip holds more files or bytes than are taken at once: split it")
                return
            yield from (_member(archive, m, name) for m in members)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        yield Incoming(name, refusal=f"the zip is broken ({type(error).__name__}): pack it again")


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Incoming:
    label = f"{name}/{member.filename}"
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        return Incoming(label, refusal="its path points outside the zip: pack it again without '..'")
    if member.flag_bits & 1:
        return Incoming(label, refusal="it is encrypted: pack it without a password")
    if member.file_size > MAX_RATIO * max(member.compress_size, 1) and member.file_size > 2**20:
        return Incoming(label, refusal="it unpacks to far more than its packed size (a zip bomb?)")
    try:
        with archive.open(member) as stream:
            data = stream.read(member.file_size + 1)
    except (zipfile.BadZipFile, EOFError, RuntimeError, OSError, ValueError) as error:
        return Incoming(label, refusal=f"it can't be unpacked ({type(error).__name__}): pack it again")
    if len(data) > member.file_size:
        return Incoming(label, refusal="it is larger than the zip says (a zip bomb?)")
    if data[:4] == b"PK\x03\x04" and not label.lower().endswith(".docx"):
        return Incoming(label, refusal="a zip within a zip isn't opened: unpack it once")
    return Incoming(label, data)
