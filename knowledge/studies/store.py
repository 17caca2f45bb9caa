"""The archive's tables (SQLAlchemy), and originals kept as files named by their SHA-256.

An original is written under a temporary name, flushed to the disk, renamed; the folders are flushed, and only then do rows name it.
What an upload writes is noted in a journal that it holds locked: whatever a killed process left behind is swept at the next start.
"""

import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import JSON, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from knowledge.errors import NotFound, StorageFailed

IN_MEMORY = 32 * 2**20
"""Files up to this size are read at once; larger ones are hashed while they go to the disk."""
CHUNK = 2**20


class Base(DeclarativeBase):
    """Tables of the archive."""

    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON, list[str]: JSON}


class PatientRow(Base):
    __tablename__ = "patients"
    id: Mapped[str] = mapped_column(primary_key=True)
    birth_date: Mapped[str | None]
    sex: Mapped[str | None]
    name: Mapped[str] = mapped_column(default="")
    """As the header has it; only compared, to keep two people with one ID apart."""
    issuer: Mapped[str] = mapped_column(default="")
    shared_id: Mapped[str] = mapped_column(default="", index=True)
    """The PatientID as sent, where two people came with the same one."""
    made: Mapped[bool] = mapped_column(default=False)
    """True where the files named no patient: whose they are is to be said."""


class StudyRow(Base):
    __tablename__ = "studies"
    id: Mapped[str] = mapped_column(primary_key=True)
    patient_id: Mapped[str] = mapped_column(ForeignKey("patients.id"), index=True)
    number: Mapped[int]
    uid: Mapped[str | None] = mapped_column(index=True)
    date: Mapped[str | None]
    description: Mapped[str]
    format: Mapped[str]
    note: Mapped[str]
    modalities: Mapped[str] = mapped_column(default="")
    """In bars, as |MR|SR|, for filters."""
    __table_args__ = (Index("ix_studies_date", "date", "id"),)


class SeriesRow(Base):
    __tablename__ = "series"
    id: Mapped[str] = mapped_column(primary_key=True)
    study_id: Mapped[str] = mapped_column(ForeignKey("studies.id"), index=True)
    number: Mapped[int]
    uid: Mapped[str] = mapped_column(index=True)
    part: Mapped[str] = mapped_column(default="")
    """What sets it apart from other parts of the same DICOM series; empty for the first."""
    format: Mapped[str]
    modality: Mapped[str]
    description: Mapped[str]
    sequence: Mapped[str | None]
    body_part: Mapped[str]
    header: Mapped[dict[str, Any]] = mapped_column(deferred=True)
    layout: Mapped[dict[str, Any]]
    which: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Plane, phase, contrast, and the reasons."""
    frames: Mapped[list[Any]] = mapped_column(default=list, deferred=True)
    """[instance id, frame] of each slice, first to last; None for a slice of zeros."""
    instances: Mapped[int] = mapped_column(default=0)
    settled: Mapped[bool]
    """False while instances have come in since `layout` was worked out."""
    __table_args__ = (UniqueConstraint("study_id", "uid", "part"),)


class InstanceRow(Base):
    __tablename__ = "instances"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    study_id: Mapped[str] = mapped_column(ForeignKey("studies.id"), index=True)
    series_uid: Mapped[str]
    sop_uid: Mapped[str] = mapped_column(index=True)
    sop_class: Mapped[str] = mapped_column(default="")
    sha256: Mapped[str] = mapped_column(index=True)
    companion: Mapped[str | None]
    """The second file of a pair (Analyze, detached NRRD, MHD), by its SHA-256."""
    name: Mapped[str]
    place: Mapped[dict[str, Any]]
    variant: Mapped[int] = mapped_column(default=0)
    """0: the first of its SOP Instance UID; COPY: the same picture with another header; above: other content."""
    __table_args__ = (UniqueConstraint("study_id", "sop_uid", "sha256"), Index("ix_instances_series", "study_id", "series_uid"))


COPY = -1


class WaitingRow(Base):
    """A series that got instances one at a time and isn't laid out since."""

    __tablename__ = "waiting"
    study_id: Mapped[str] = mapped_column(ForeignKey("studies.id"), primary_key=True)
    series_uid: Mapped[str] = mapped_column(primary_key=True)
    by: Mapped[str] = mapped_column(primary_key=True)
    files: Mapped[int]


class ReportRow(Base):
    __tablename__ = "reports"
    id: Mapped[str] = mapped_column(primary_key=True)
    patient_id: Mapped[str] = mapped_column(ForeignKey("patients.id"), index=True)
    study_id: Mapped[str | None] = mapped_column(index=True)
    """The study whose DICOM object it was read from, and with which it goes."""
    number: Mapped[int]
    title: Mapped[str]
    date: Mapped[str | None]
    text: Mapped[str]
    sha256: Mapped[str]
    note: Mapped[str]


class BundleRow(Base):
    __tablename__ = "bundles"
    id: Mapped[str] = mapped_column(primary_key=True)
    patient_id: Mapped[str] = mapped_column(ForeignKey("patients.id"), index=True)
    study_id: Mapped[str | None] = mapped_column(index=True)
    title: Mapped[str]
    sha256: Mapped[str]
    items: Mapped[int]
    note: Mapped[str]


class ItemRow(Base):
    __tablename__ = "record_items"
    id: Mapped[str] = mapped_column(primary_key=True)
    patient_id: Mapped[str] = mapped_column(ForeignKey("patients.id"), index=True)
    bundle_id: Mapped[str] = mapped_column(ForeignKey("bundles.id"), index=True)
    data: Mapped[dict[str, Any]]


class AuditRow(Base):
    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[str]
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    detail: Mapped[dict[str, Any]]
    chain: Mapped[str]


class Staged:
    """A file on its way in: its SHA-256 and bytes; on the disk already where it is large."""

    def __init__(self, stream: BinaryIO, folder: Path) -> None:
        self.part: Path | None = None
        self.data: bytes | memoryview = stream.read(IN_MEMORY + 1)
        digest = hashlib.sha256(self.data)
        if len(self.data) > IN_MEMORY:
            self.part = folder / uuid.uuid4().hex
            with storing():
                file = self.part.open("xb")
            with file:
                chunk: bytes | memoryview = self.data
                while chunk:
                    with storing():
                        file.write(chunk)
                    chunk = stream.read(CHUNK)
                    digest.update(chunk)
            self.data = _mapped(self.part)
        self.sha256 = digest.hexdigest()

    def drop(self) -> None:
        """Forget it."""
        self.data = b""
        if self.part is not None:
            self.part.unlink(missing_ok=True)


def _mapped(path: Path) -> memoryview:
    import mmap

    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


class Journal:
    """What one upload writes, so that it can be taken back; locked as long as the upload lives."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{uuid.uuid4().hex}.journal"
        self._file = self.path.open("x")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self.names: list[str] = []
        self.folders: set[Path] = set()

    def note(self, sha256: str) -> None:
        """Said before the original gets its name."""
        self._file.write(sha256 + "\n")
        self._file.flush()
        self.names.append(sha256)

    def close(self) -> None:
        self.path.unlink(missing_ok=True)
        self._file.close()


class Objects:
    """Original files by their SHA-256. A file appears whole or not at all."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.parts = root / ".part"
        self.parts.mkdir(parents=True, exist_ok=True)
        folders = {f"{n:02x}" for n in range(256)}
        if missing := folders - {f.name for f in root.iterdir()}:
            for name in missing:
                (root / name).mkdir(exist_ok=True)
            _flushed(root)

    def path(self, sha256: str) -> Path:
        return self.root / sha256[:2] / sha256

    def stage(self, stream: BinaryIO) -> Staged:
        """Take a file's bytes in hand; nothing is kept yet."""
        return Staged(stream, self.parts)

    def put(self, staged: Staged, journal: Journal) -> None:
        """Keep a staged file; nothing is done where it is there already."""
        path = self.path(staged.sha256)
        if path.exists():
            staged.drop()
            return
        with storing():
            part = staged.part or self.parts / uuid.uuid4().hex
            try:
                handle = os.open(part, os.O_RDWR if staged.part else os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                try:
                    if staged.part is None:
                        _write_all(handle, staged.data)
                    os.fsync(handle)
                finally:
                    os.close(handle)
                journal.note(staged.sha256)
                part.replace(path)
            except OSError:
                part.unlink(missing_ok=True)
                raise
            journal.folders.add(path.parent)

    def settle(self, journal: Journal) -> None:
        """Flush the folders that got new names, so that the names outlive a power failure. Rows may name the originals after it."""
        with storing():
            for folder in sorted(journal.folders):
                _flushed(folder)
        journal.folders.clear()

    def get(self, sha256: str) -> bytes:
        try:
            return self.path(sha256).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"the original {sha256[:12]} is gone from the store", "restore it or import again") from error

    def there(self, sha256: str) -> bool:
        return self.path(sha256).exists()

    def drop(self, names: Iterable[str]) -> int:
        """Take originals out; how many there were."""
        gone = 0
        for name in names:
            with suppress(FileNotFoundError):
                self.path(name).unlink()
                gone += 1
        return gone

    @contextmanager
    def left_behind(self) -> Iterator[list[str]]:
        """What uploads wrote whose process is gone: names of originals, to be judged within the block; forgotten after it."""
        names: list[str] = []
        dead: list[tuple[Path, Any]] = []
        for path in self.parts.glob("*.journal"):
            with suppress(FileNotFoundError):
                file = path.open("r+")
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.close()
                    continue
                names += [n for n in file.read().split("\n") if len(n) == 64]
                dead.append((path, file))
        yield names
        living = set(self.parts.glob("*.journal")) - {path for path, _ in dead}
        if not living:  # then every part is of a dead one
            for path in self.parts.iterdir():
                if path.suffix != ".journal":
                    path.unlink(missing_ok=True)
        for path, file in dead:
            path.unlink(missing_ok=True)
            file.close()


def _flushed(folder: Path) -> None:
    """Bring a folder's names onto the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_all(handle: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.write(handle, view[done : done + 2**24])


@contextmanager
def storing() -> Iterator[None]:
    """Storage that fails (full, read-only, no permission) as StorageFailed, with what to do."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        raise StorageFailed(f"the archive can't be written: {reason}", "make room or mend the permissions of the data folder, "
                            "then send the upload again; nothing of it was stored") from error  # fmt: skip


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path` by way of a temporary file, flushed to the disk; nothing is done where it exists."""
    if path.exists():
        return
    with storing():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.parent / f".{uuid.uuid4().hex}"
        try:
            with part.open("xb") as temporary:
                temporary.write(data)
                temporary.flush()
                os.fsync(temporary.fileno())
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
