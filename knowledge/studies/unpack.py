"""Open what arrives: files, folders, zip, tar, gz and ISO images of patient CDs, one within another, each member bounded and named."""

import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from isal import isal_zlib
from pycdlib import PyCdlib
from pycdlib.pycdlibexception import PyCdlibException

from knowledge.errors import NotFound, Refused

MAX_MEMBERS = 100_000
MAX_TOTAL = 64 * 2**30
MAX_DEPTH = 3
"""An archive in an archive in an archive is opened; one further down is refused."""
BOMB_RATIO, BOMB_SIZE = 500, 32 * 2**20
"""A member that unpacks to more than 500 times its packed size, and to more than 32 MiB, is a bomb, not an image."""
IN_MEMORY = 32 * 2**20
"""Members up to this size are handled in memory; larger ones go by way of a temporary file."""
MAX_UNSTATED = 2**30
"""Bytes under a bzip2 or xz layer, which states no size."""
SYSTEM_FILES = {"thumbs.db", "desktop.ini", ".ds_store", "autorun.inf"}
"""What operating systems leave in folders; never worth a word to the caller."""


@dataclass(frozen=True)
class Incoming:
    """One file as it came: its name for the caller, and its bytes, a way to open it, or the reason why there are none."""

    name: str
    data: bytes = b""
    refusal: str = ""
    opener: Callable[[], BinaryIO] | None = None

    def open(self) -> BinaryIO:
        """Its bytes as a stream. Raises Refused where they can't be had."""
        return self.opener() if self.opener else io.BytesIO(self.data)


@dataclass
class Budget:
    """What one file that was sent may still unpack; shared by all archives in it."""

    members: int = MAX_MEMBERS
    bytes: int = MAX_TOTAL

    def spend(self, size: int) -> None:
        """Raises Refused when the upload holds more than is taken at once."""
        self.members -= 1
        self.bytes -= size
        if self.members < 0 or self.bytes < 0:
            raise Refused("the archive holds more files or bytes than are taken at once", "split it")


@dataclass(frozen=True)
class _Here:
    """Where in an upload an archive stands."""

    name: str
    depth: int
    budget: Budget = field(default_factory=Budget)


def from_paths(paths: Iterable[Path]) -> Iterator[Incoming]:
    """Each file under `paths`, archives opened. Raises NotFound for a path that isn't there or an empty folder."""
    for path in paths:
        if not path.exists():
            raise NotFound(f"{path} isn't there", "check the path")
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        if not files:
            raise NotFound(f"the folder {path} is empty", "name a folder with DICOM, NIfTI, pictures, reports or FHIR")
        for file in files:
            yield from from_stream(str(file.relative_to(path.parent)) if path.is_dir() else file.name, _opener(file))


def _opener(path: Path) -> Callable[[], BinaryIO]:
    return lambda: path.open("rb")


def from_bytes(name: str, data: bytes) -> Iterator[Incoming]:
    """The file itself, or each member of an archive."""
    yield from from_stream(name, lambda: io.BytesIO(data))


def from_stream(name: str, opener: Callable[[], BinaryIO]) -> Iterator[Incoming]:
    """What `opener` opens (seekable): the file itself, or each member of an archive."""
    yield from _opened(opener, _Here(name, 0))


def _opened(opener: Callable[[], BinaryIO], here: _Here) -> Iterator[Incoming]:
    if PurePosixPath(here.name).name.lower() in SYSTEM_FILES or "__MACOSX/" in here.name:
        return
    with opener() as stream:
        unpack = _kind(stream)
        if unpack is None:
            yield Incoming(here.name, opener=opener)
            return
        if here.depth >= MAX_DEPTH:
            yield Incoming(here.name, refusal=f"archives are opened {MAX_DEPTH} deep at most: unpack it once")
            return
        stream.seek(0)
        try:
            yield from unpack(stream, here)
        except Refused as refusal:
            yield Incoming(here.name, refusal=f"{refusal}: {refusal.hint}")
        except BROKEN_ARCHIVE as error:
            yield Incoming(here.name, refusal=f"the archive is broken ({type(error).__name__}): pack it again")


_INFLATING: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # the stub calls the class an instance
BROKEN_ARCHIVE: tuple[type[BaseException], ...] = (zipfile.BadZipFile, tarfile.TarError, PyCdlibException, EOFError, OSError, NotImplementedError, ValueError,
                  LookupError, struct.error, lzma.LZMAError, zlib.error, _INFLATING, RuntimeError, TypeError, AttributeError,
                  OverflowError, MemoryError)  # fmt: skip
"""What the unpacking libraries raise on damaged archives."""

Unpacker = Callable[[BinaryIO, _Here], Iterator[Incoming]]


def _kind(stream: BinaryIO) -> Unpacker | None:
    """How `stream` is unpacked; None for a file that isn't an archive."""
    head = stream.read(512)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _zip
    if head[257:262] == b"ustar":
        return _tar
    if head[:6] in (b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07"):
        return _foreign
    inner = _head_within(stream, head)
    if inner[257:262] == b"ustar":
        return _tar
    if head[:3] == b"BZh" or head[:6] == b"\xfd7zXZ\x00":
        return _squeezed
    stream.seek(32769)
    return _iso if stream.read(5) == b"CD001" else None


def _head_within(stream: BinaryIO, head: bytes) -> bytes:
    """The first bytes under a gzip, bzip2 or xz layer; empty without one, or where it is broken."""
    stream.seek(0)
    try:
        if head[:2] == b"\x1f\x8b":
            return gzip.GzipFile(fileobj=stream).read(512)
        if head[:3] == b"BZh":
            return bz2.BZ2File(stream).read(512)
        if head[:6] == b"\xfd7zXZ\x00":
            return lzma.LZMAFile(stream).read(512)
    except (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError):
        pass
    return b""


def _foreign(stream: BinaryIO, here: _Here) -> Iterator[Incoming]:
    raise Refused("7z and RAR archives aren't opened", "pack it as zip")


def _squeezed(stream: BinaryIO, here: _Here) -> Iterator[Incoming]:
    """The one file under a bzip2 or xz layer."""
    layer: IO[bytes] = bz2.BZ2File(stream) if stream.read(3) == b"BZh" else lzma.LZMAFile(stream)  # noqa: SIM115  the caller closes the stream under it
    stream.seek(0)
    yield from _member(layer, f"{here.name}/{PurePosixPath(here.name).stem}", None, here)


def _zip(stream: BinaryIO, here: _Here) -> Iterator[Incoming]:
    with zipfile.ZipFile(stream) as archive:
        names = set(archive.namelist())
        if "[Content_Types].xml" in names:  # an Office document is a zip of its own kind
            stream.seek(0)
            yield Incoming(here.name, _bounded(stream, IN_MEMORY))
            return
        lock = threading.Lock()
        members = [m for m in archive.infolist() if not m.is_dir()]
        if len(members) > here.budget.members or sum(m.file_size for m in members) > here.budget.bytes:
            raise Refused("the zip holds more files or bytes than are taken at once", "split it")
        for member in members:
            yield from _zip_member(archive, member, stream, lock, here)


def _zip_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, stream: BinaryIO, lock: threading.Lock,
                here: _Here) -> Iterator[Incoming]:  # fmt: skip
    label = f"{here.name}/{member.filename}"
    reason = _path_refusal(member.filename)
    if member.flag_bits & 1:
        reason = "it is encrypted: pack it without a password"
    elif member.file_size > BOMB_RATIO * max(member.compress_size, 1) and member.file_size > BOMB_SIZE:
        reason = "it unpacks to far more than its packed size (a zip bomb?)"
    if reason:
        yield Incoming(label, refusal=reason)
        return
    here.budget.spend(member.file_size)
    image = member.filename.lower().endswith((".iso", ".img", ".bin"))  # its mark stands far behind the first bytes
    if member.file_size <= IN_MEMORY and member.compress_type == zipfile.ZIP_DEFLATED and not image:
        with lock:
            packed = _packed(stream, member)
        # Nothing but a look at the first bytes is done here: the threads that take the files in unpack them.
        head = isal_zlib.decompressobj(-15).decompress(packed[:4096], 512)
        if (
            head[:4] not in (b"PK\x03\x04", b"Rar!", b"7z\xbc\xaf")
            and head[257:262] != b"ustar"
            and head[:2] not in (b"\x1f\x8b", b"BZ", b"\xfd7")
        ):
            yield Incoming(label, opener=lambda: io.BytesIO(_inflated(packed, member.file_size, member.CRC)))
            return
        data = _inflated(packed, member.file_size, member.CRC)
        yield from _opened(lambda: io.BytesIO(data), _Here(label, here.depth + 1, here.budget))
        return
    with archive.open(member) as unpacked:
        yield from _member(unpacked, label, member.file_size, here, spent=True)


def _packed(stream: BinaryIO, member: zipfile.ZipInfo) -> bytes:
    """The packed bytes of a member (its local header's name and extra field stand before them; APPNOTE 4.3.7)."""
    stream.seek(member.header_offset)
    header = stream.read(30)
    if header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile("no local header")
    name, extra = struct.unpack("<HH", header[26:30])
    stream.seek(member.header_offset + 30 + name + extra)
    packed = stream.read(member.compress_size)
    if len(packed) < member.compress_size:
        raise zipfile.BadZipFile("cut short")
    return packed


def _inflated(packed: bytes, size: int, crc: int) -> bytes:
    """A member's bytes, checked against the size and the checksum that the zip states. Raises Refused."""
    try:
        inflater = isal_zlib.decompressobj(-15)
        data: bytes = inflater.decompress(packed, size + 1)
    except _INFLATING as error:
        raise Refused("it can't be unpacked", "pack it again") from error
    if len(data) > size:
        raise Refused("it is larger than the zip says (a zip bomb?)", "pack it again")
    if len(data) < size or isal_zlib.crc32(data) != crc:
        raise Refused("it can't be unpacked (its checksum is wrong)", "pack it again")
    return data


def _tar(stream: BinaryIO, here: _Here) -> Iterator[Incoming]:
    with tarfile.open(fileobj=stream, mode="r:*") as archive:
        for member in archive:
            if not member.isfile():
                if member.issym() or member.islnk():
                    yield Incoming(
                        f"{here.name}/{member.name}", refusal="a link within a tar isn't followed: pack the file itself"
                    )
                continue
            label, reason = f"{here.name}/{member.name}", _path_refusal(member.name)
            unpacked = archive.extractfile(member)
            if reason or unpacked is None:
                yield Incoming(label, refusal=reason or "it can't be unpacked: pack it again")
                continue
            yield from _member(unpacked, label, member.size, here)


def _iso(stream: BinaryIO, here: _Here) -> Iterator[Incoming]:
    """The files of an ISO 9660 image (Rock Ridge or Joliet names where it has them)."""
    image = PyCdlib()
    image.open_fp(stream)
    try:
        kind = "rr_path" if image.has_rock_ridge() else "joliet_path" if image.has_joliet() else "iso_path"
        for folder, _, files in image.walk(**{kind: "/"}):
            for file in sorted(files):
                path = f"{folder.rstrip('/')}/{file}"
                label = f"{here.name}{path.removesuffix(';1').rstrip('.')}"
                with image.open_file_from_iso(**{kind: path}) as unpacked:
                    yield from _member(unpacked, label, unpacked.length(), here)
    finally:
        image.close()


def _member(unpacked: IO[bytes], label: str, size: int | None, here: _Here, spent: bool = False) -> Iterator[Incoming]:
    """One member read in turn, by way of a temporary file when large; archives in it are opened. `size`: as stated, if it is."""
    try:
        limit = MAX_UNSTATED if size is None else size
        if not spent:
            here.budget.spend(limit)
        held = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115  closed when the last that can open it is gone
        copied = 0
        while copied <= limit and (chunk := unpacked.read(min(2**20, limit + 1 - copied))):
            copied += held.write(chunk)
        if copied > limit:
            raise Refused("it is larger than the archive says (a bomb?)", "pack it again")
        if size is not None and copied < size:
            raise Refused(f"{copied} of {size} bytes are there", "pack it again")
        yield from _opened(lambda: opened_again(held), _Here(label, here.depth + 1, here.budget))
    except Refused as refusal:
        yield Incoming(label, refusal=f"{refusal}: {refusal.hint}")
    except BROKEN_ARCHIVE as error:
        yield Incoming(label, refusal=f"it can't be unpacked ({type(error).__name__}): pack it again")


def opened_again(held: IO[bytes]) -> BinaryIO:
    """A held file from its start, to be closed without closing the held one: its bytes when small, another descriptor when not."""
    size = held.seek(0, os.SEEK_END)
    held.seek(0)
    return io.BytesIO(held.read()) if size <= 2**20 else os.fdopen(os.dup(held.fileno()), "rb")


def _path_refusal(name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        return "its path points outside the archive: pack it again without '..'"
    return ""


def _bounded(stream: BinaryIO, limit: int) -> bytes:
    data = stream.read(limit + 1)
    if len(data) > limit:
        raise Refused("the document is too large", "send it in parts")
    return data
