"""The archive's tables (SQLAlchemy), and originals kept as files named by their SHA-256."""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from knowledge.errors import NotFound


class Base(DeclarativeBase):
    """Tables of the archive."""

    type_annotation_map = {dict[str, Any]: JSON, list[str]: JSON}


class PatientRow(Base):
    __tablename__ = "patients"
    id: Mapped[str] = mapped_column(primary_key=True)
    birth_date: Mapped[str | None]
    sex: Mapped[str | None]


class StudyRow(Base):
    __tablename__ = "studies"
    id: Mapped[str] = mapped_column(primary_key=True)
    patient_id: Mapped[str] = mapped_column(ForeignKey("patients.id"), index=True)
    number: Mapped[int]
    uid: Mapped[str | None] = mapped_column(unique=True)
    date: Mapped[str | None]
    description: Mapped[str]
    format: Mapped[str]
    note: Mapped[str]


class SeriesRow(Base):
    __tablename__ = "series"
    id: Mapped[str] = mapped_column(primary_key=True)
    study_id: Mapped[str] = mapped_column(ForeignKey("studies.id"), index=True)
    number: Mapped[int]
    uid: Mapped[str] = mapped_column(unique=True)
    format: Mapped[str]
    modality: Mapped[str]
    description: Mapped[str]
    sequence: Mapped[str | None]
    body_part: Mapped[str]
    header: Mapped[dict[str, Any]]
    layout: Mapped[dict[str, Any]]
    settled: Mapped[bool]
    """False while instances have come in since `layout` was worked out."""


class InstanceRow(Base):
    __tablename__ = "instances"
    sop_uid: Mapped[str] = mapped_column(primary_key=True)
    series_id: Mapped[str] = mapped_column(ForeignKey("series.id"), index=True)
    sha256: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    place: Mapped[dict[str, Any]]


class ReportRow(Base):
    __tablename__ = "reports"
    id: Mapped[str] = mapped_column(primary_key=True)
    patient_id: Mapped[str] = mapped_column(ForeignKey("patients.id"), index=True)
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


class Objects:
    """Original files by their SHA-256. A file appears whole or not at all."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, sha256: str) -> Path:
        return self.root / sha256[:2] / sha256

    def put(self, data: bytes) -> str:
        """Keep `data`; its name."""
        name = hashlib.sha256(data).hexdigest()
        write_whole(self.path(name), data)
        return name

    def get(self, sha256: str) -> bytes:
        try:
            return self.path(sha256).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"the original {sha256[:12]} is gone from the store", "restore it or import again") from error

    def drop(self, sha256: str) -> None:
        self.path(sha256).unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path` by way of a temporary file, flushed to the disk; nothing is done where it exists."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as temporary:
        temporary.write(data)
        temporary.flush()
        os.fsync(temporary.fileno())
    Path(temporary.name).replace(path)
