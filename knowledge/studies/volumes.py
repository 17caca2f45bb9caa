"""Volumes of stored series: read in place, decoded, or from the cache of those that were slow to read."""

import hashlib
import json
import os
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from knowledge.database import batches
from knowledge.studies import contours, grids, nifti, picture, pixels
from knowledge.studies.render import stated_window
from knowledge.studies.store import InstanceRow, Objects, SeriesRow
from knowledge.studies.volume import Volume

VERSION = "1"
"""Of what is cached: raised when decoding changes."""


class VolumeCache:
    """Decoded voxels as .npy files, mapped when read; the ones unused longest go when there are too many bytes."""

    def __init__(self, root: Path, limit: int = 8 * 2**30) -> None:
        self.root, self.limit = root, limit

    def path(self, series_id: str, digest: str, kind: str) -> Path:
        return self.root / f"{series_id}.{digest}.{kind}.npy"

    def get(self, series_id: str, digest: str, kind: str) -> np.ndarray | None:
        """The cached array, mapped read-only; None where there is none (or a broken one)."""
        path = self.path(series_id, digest, kind)
        try:
            array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
            path.touch()
        except (OSError, ValueError, EOFError):
            return None
        return array

    def put(self, series_id: str, digest: str, kind: str, array: np.ndarray) -> None:
        """Keep an array; a full disk only means that it isn't kept."""
        part = self.root / f".{uuid.uuid4().hex}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with part.open("xb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path(series_id, digest, kind))
        except OSError:
            part.unlink(missing_ok=True)
        self._trim()

    def _trim(self) -> None:
        found = []
        for path in self.root.glob("*.npy"):
            with suppress(FileNotFoundError):
                about = path.stat()
                found.append((about.st_mtime, about.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.limit:
                return
            path.unlink(missing_ok=True)
            total -= size

    def forget(self, series_id: str) -> int:
        """Drop what is cached of a series; how many files."""
        gone = list(self.root.glob(f"{series_id}.*"))
        for path in gone:
            path.unlink(missing_ok=True)
        return len(gone)


@dataclass(frozen=True)
class InPlace:
    """A DICOM series whose slices lie uncompressed in its files and are 16-bit whole numbers by their headers: each can be read alone."""

    like: Volume
    """What the whole volume is but its voxels: they are zeros without memory."""
    paths: tuple[Path, ...]
    places: tuple[dict[str, Any], ...]
    order: tuple[pixels.Slot, ...]

    def part(self, run: slice) -> Volume:
        """The slices of `run`, with the whole's window and unit and without its place in space."""
        array = pixels.load(self.paths, self.places, self.order[run]).array
        return replace(self.like, array=array.transpose(2, 1, 0), affine=None)


def in_place(session: Session, objects: Objects, series: SeriesRow) -> InPlace | None:
    """None for a series whose slices have to be read together: to decode them, or to find the range of their values."""
    if series.format != "DICOM" or not series.layout.get("shape") or not all(series.frames):
        return None
    rows, order = _rows(session, series)
    if not pixels.whole_numbers([r.place for r in rows]):
        return None
    shape = (len(order), rows[0].place["rows"], rows[0].place["columns"])
    like = _dressed(series, np.broadcast_to(np.int16(0), shape), None, [rows[s[0]].sop_uid for s in order if s], rows[0].place)
    paths = tuple(objects.path(r.sha256) for r in rows)
    return InPlace(like, paths, tuple(r.place for r in rows), tuple(order)) if like.window else None


def _rows(session: Session, series: SeriesRow) -> tuple[list[InstanceRow], list[pixels.Slot]]:
    """The instances of a series, and for each slice which of them and which frame of it."""
    ids = [s[0] for s in series.frames if s]
    found = {r.id: r for some in batches(ids) for r in session.scalars(select(InstanceRow).where(InstanceRow.id.in_(some)))}
    index = {i: n for n, i in enumerate(found)}
    return list(found.values()), [None if s is None else (index[s[0]], s[1]) for s in series.frames]


def volume_of(session: Session, objects: Objects, cache: VolumeCache, series: SeriesRow) -> Volume:
    """The voxels of a series in their source grid. Raises Refused where they can't be read, NoGeometry for objects without any."""
    rows, order = _rows(session, series)
    if series.format != "DICOM":
        number, component = series.frames[0]
        return _grid(objects, cache, series, next(r for r in rows if r.id == number), component)
    if not series.layout.get("shape"):
        return contours.label_map(session, objects, cache, series)
    direct = all(r.place["pixels"] for r in rows)
    digest = _digest(series.frames, [r.sha256 for r in rows])
    array = None if direct else cache.get(series.id, digest, "grey")
    rgb = None if array is None else cache.get(series.id, digest, "rgb")
    if array is None:
        voxels = pixels.load([objects.path(r.sha256) for r in rows], [r.place for r in rows], order)
        array, rgb = voxels.array, voxels.rgb
        if not direct:
            cache.put(series.id, digest, "grey", array)
            if rgb is not None:
                cache.put(series.id, digest, "rgb", rgb)
    return _dressed(
        series, array, rgb, [r.sop_uid if s else "" for s in order for r in [rows[s[0]] if s else rows[0]]], rows[0].place
    )


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps([VERSION, *parts]).encode()).hexdigest()[:16]


def _dressed(series: SeriesRow, array: np.ndarray, rgb: np.ndarray | None, uids: list[str], place: dict[str, Any]) -> Volume:
    affine = series.layout.get("affine")
    pixel = series.layout.get("pixel_mm")
    return Volume(
        array.transpose(2, 1, 0), None if affine is None else np.array(affine), "source", uids,
        rgb=None if rgb is None else rgb.transpose(2, 1, 0, 3), unit=series.layout.get("unit", ""), window=stated_window(series.header, place.get("suv") or 1.0),
        window_function=str(series.header.get("VOILUTFunction") or "LINEAR"), inverted=place.get("photometric") == "MONOCHROME1",
        pixel_mm=(pixel[0], pixel[1]) if pixel else None,
    )  # fmt: skip


def _grid(objects: Objects, cache: VolumeCache, series: SeriesRow, row: InstanceRow, component: int) -> Volume:
    if series.format == "picture":
        return picture.picture_of(objects.get(row.sha256))
    kind, digest = row.place.get("kind"), _digest(row.sha256, component)
    array = cache.get(series.id, digest, "grid")
    affine = cache.get(series.id, digest, "affine")
    if array is not None and affine is not None:
        return Volume(array, np.array(affine), "axial", unit=series.layout.get("unit", ""))
    if kind is None:
        volume = nifti.volume_of(objects.get(row.sha256), component)
    else:
        other = objects.path(row.companion) if row.companion else None
        volume = grids.volume_of(kind, objects.path(row.sha256), other, row.place.get("data_name"))
    assert volume.affine is not None
    cache.put(series.id, digest, "grid", np.asfortranarray(volume.array))
    cache.put(series.id, digest, "affine", volume.affine)
    return volume
