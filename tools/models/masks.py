"""Segment a study once: pick the bundle and the series by its card, check that they fit, keep the mask, describe it."""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from knowledge.case import Case
from knowledge.studies import nifti
from knowledge.studies.model import Series, Study
from knowledge.studies.store import write_whole
from knowledge.studies.volume import Volume
from tools.base import Bench
from tools.errors import NotApplicable
from tools.models import jobs, worker
from tools.models.bundle import Bundle, required
from tools.models.card import Region
from tools.models.fit import fits, same_part
from tools.models.shape import axial

_MAKING = threading.Lock()


@dataclass(frozen=True)
class Segmentation:
    """A label map on the grid of `series`, and where it came from."""

    study: Study
    series: Series
    bundle: Bundle
    mask: Volume
    """Label values, as the bundle's regions name them."""
    inner: Volume | None
    outer: Volume | None
    """The same at a stricter and a looser probability: how far sizes depend on where the line is put."""
    volume: Volume
    url: str
    cached: bool
    used: list[str]
    """Sequences that the network saw (empty where it takes one image of any kind)."""
    warnings: list[str] = field(default_factory=list)
    certainty: dict[int, float] = field(default_factory=dict)
    novelty: float | None = None

    @property
    def regions(self) -> list[Region]:
        """What can be told from the sequences that were there, the widest first."""
        return self.bundle.card.told(set(self.used)) if self.used else self.bundle.card.regions

    @property
    def absent(self) -> list[str]:
        """Sequences that the network knows and that were not there."""
        return [s for s in self.bundle.card.sequences if s not in self.used]

    def region(self, name: str | None = None) -> Region:
        """The region of that name, or the widest. Raises NotApplicable where it can't be told."""
        wanted = (name or self.regions[0].name).replace("_", " ").lower()
        for region in self.regions:
            if region.name.lower() == wanted:
                return region
        known = next((r for r in self.bundle.card.regions if r.name.lower() == wanted), None)
        if known is not None:
            raise NotApplicable(f"the {known.name} can't be told without {' and '.join(known.needs)}", "add that series")
        raise NotApplicable(f"{self.bundle.name} knows no {wanted!r}", f"it knows: {', '.join(r.name for r in self.regions)}")

    def part(self, region: Region, which: str = "mask") -> Volume | None:
        """The region as a mask of 0 and 1 (`which`: mask, inner or outer)."""
        labels: Volume | None = getattr(self, which)
        return None if labels is None else labels.like(np.isin(labels.array, region.labels).astype(np.uint8))


def newest_first(case: Case, study_handle: str | None) -> list[Study]:
    """The study named, or all of the case, newest first. Raises NotApplicable for a case without images."""
    studies = [case.study(study_handle.split(".")[0])] if study_handle else sorted(
        case.studies, key=lambda s: (s.date or "", s.handle), reverse=True)  # fmt: skip
    if not studies:
        raise NotApplicable("the case holds no imaging study", "add the images")
    return studies


def described(studies: Sequence[Study]) -> str:
    """What there is, for a refusal."""
    return "; ".join(f"{s.handle}: {'/'.join(s.image_modalities)} {s.body_part or 'of an unnamed body part'}" for s in studies)


@dataclass(frozen=True)
class _Choice:
    study: Study
    bundle: Bundle
    channels: dict[str, Series]


def is_stack(series: Series) -> bool:
    """True for an image of more than one slice."""
    return series.is_image and len(series.shape) == 3 and series.shape[2] > 1


def chosen(bench: Bench, study_handle: str | None, target: str | None) -> _Choice:
    """The newest study that a segmentation bundle was made for (and that knows `target`), with the series of its channels."""
    case = bench.required_case
    studies = newest_first(case, study_handle)
    reasons: list[str] = []
    for study in studies:
        stacks = [q for q in study.series if is_stack(q)]
        if study_handle and "." in study_handle:
            stacks = [q for q in stacks if q.handle == study_handle] or stacks
        for bundle in bench.resources.catalogue.of("segmentation"):
            card = bundle.card
            if card.dimensions != 3 or (target and not _knows(bundle, target)):
                continue
            mine = [
                q
                for q in stacks
                if q.modality == card.modality and same_part(card.body_part, q.body_part or study.body_part) is not False
            ]
            if not mine:
                continue
            if not card.sequences:
                return _Choice(study, bundle, {"": max(mine, key=lambda q: q.shape[2])})
            by_sequence = {q.sequence: q for q in reversed(mine) if q.sequence}
            try:
                channels = required(bundle, set(by_sequence), f"{card.task} by {bundle.name}")
            except NotApplicable as error:
                reasons.append(str(error))
                continue
            return _Choice(study, bundle, {s: by_sequence[s] for s in channels})
    there = described(studies)
    if reasons:
        raise NotApplicable(f"{reasons[0]} ({there})", "add that series")
    models = ", ".join(sorted({f"{b.card.modality} {b.card.body_part}" for b in bench.resources.catalogue.of("segmentation")
                               if b.card.dimensions == 3}))  # fmt: skip
    what = f" of {target.replace('_', ' ')}" if target else ""
    raise NotApplicable(f"no model for a segmentation{what} fits what the case has ({there})", f"models exist for: {models}")


def _knows(bundle: Bundle, target: str) -> bool:
    wanted = target.replace("_", " ").lower()
    if wanted in ("tumour", "tumor", "lesion"):
        return any(r.tumour for r in bundle.card.regions)
    return any(wanted in (r.name.lower(), r.name.lower().rstrip("s")) for r in bundle.card.regions)


def segmentation(
    bench: Bench, study_handle: str | None = None, target: str | None = None, at: Sequence[float] | None = None
) -> Segmentation:
    """The label map of the newest fitting study, made or taken from what was kept.

    `at` (column, row and frame of the axial view, from 0) asks for the one lesion at that point, by a model of small pictures.

    Raises NotApplicable where nothing fits, Cancelled where the question was, Failed where the model broke.
    """
    case = bench.required_case
    pick = chosen(bench, study_handle, target) if at is None else _chosen_for_point(bench, study_handle)
    bundle, channels = pick.bundle, pick.channels
    series = next(iter(channels.values()))
    volume = case.volume(series)
    used = [s for s in channels if s]
    spot = [round(v) for v in at or ()]
    name = "-".join([bundle.name, bundle.version, *([".".join(used)] if used else []), *map(str, spot)])
    path = case.derived(series) / f"{name}.nii.gz"
    url = f"/v1/studies/{pick.study.id}/series/{series.id}/masks/{path.name}"
    with _MAKING:  # two tools of one plan may want the same mask: the second waits and takes what the first kept
        cached = path.exists() and path.with_suffix(".json").exists()
        if not cached:
            if spot:
                _make_at(bench, pick, volume, path, spot)
            else:
                _make(bench, pick, volume, path)
    about = json.loads(path.with_suffix(".json").read_text())
    main = nifti.read_mask(path)
    sides = [nifti.read_mask(p) if (p := _aside(path, side)).exists() else None for side in ("inner", "outer")]
    return Segmentation(pick.study, series, bundle, main, sides[0], sides[1], volume, url, cached, about["used"],
                        about["warnings"], {int(k): v for k, v in about["certainty"].items()}, about["novelty"])  # fmt: skip


def _aside(path: Path, side: str) -> Path:
    return path.parent / "outlines" / f"{path.name.removesuffix('.nii.gz')}.{side}.nii.gz"


def _make(bench: Bench, pick: _Choice, volume: Volume, path: Path) -> None:
    case, bundle = bench.required_case, pick.bundle
    reference = next(iter(pick.channels.values()))
    warnings = fits(bundle, reference, volume)
    if same_part(bundle.card.body_part, reference.body_part or pick.study.body_part) is None:
        warnings.append(
            f"{reference.handle} doesn't say which body part it shows; it was taken for {bundle.card.body_part.lower()}"
        )
    order = bundle.card.sequences or [""]
    with worker.scratch() as folder:
        files: list[str | None] = []
        used = []
        for number, sequence in enumerate(order):
            series = pick.channels.get(sequence)
            array = (
                None
                if series is None
                else volume.array
                if series is reference
                else on_grid(case, series, reference, volume, warnings)
            )
            if array is None:
                files.append(None)
                continue
            used += [sequence] if sequence else []
            files.append(f"{folder}/{number}.npy")
            np.save(str(files[-1]), array)
        done: jobs.Segmented = worker.run(jobs.segment, str(bundle.folder), files, volume.affine, bundle.card.mirrors,
                                          progress=bench.progress, cancelled=bench.cancelled)  # fmt: skip
        _held_off(bundle, reference, done.novelty, warnings)
        maps = {k: np.load(v) for k, v in done.outlines.items()}
    told = bundle.card.told(set(used)) if used else bundle.card.regions
    if used and len(told) == 1 and len(bundle.card.regions) > 1:  # inner parts can't be told apart: one label for all
        maps = {k: np.where(v > 0, told[0].labels[0], 0).astype(np.uint8) for k, v in maps.items()}
    about = {"bundle": bundle.name, "version": bundle.version, "sha256": bundle.sha256, "series_uid": reference.series_uid, "used": used,
             "series": {s: q.series_uid for s, q in pick.channels.items() if s in used or not s}, "warnings": warnings,
             "novelty": done.novelty, "certainty": done.certainty, "peak_mb": round(done.peak_mb)}  # fmt: skip
    _keep(path, volume, maps, about)


def _keep(path: Path, volume: Volume, maps: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """Write the label maps of a segmentation and what is known of it; the main map last, so that what is there is whole."""
    for side in ("inner", "outer"):
        if side in maps:
            _aside(path, side).parent.mkdir(parents=True, exist_ok=True)
            write_whole(_aside(path, side), nifti.to_bytes(volume.like(maps[side]), np.uint8))
    write_whole(path.with_suffix(".json"), json.dumps(about).encode())
    write_whole(path, nifti.to_bytes(volume.like(maps["main"]), np.uint8))


def _held_off(bundle: Bundle, series: Series, novelty: float | None, warnings: list[str]) -> None:
    """Add a warning where an image differs from what the model was trained on. Raises NotApplicable where it is foreign to it."""
    if novelty is None:
        return
    limits = bundle.card.novelty
    if novelty > limits["refuse"]:
        raise NotApplicable(f"{series.handle} doesn't look like what {bundle.name} was made for (distance {novelty:.2f}, limit "
                            f"{limits['refuse']:.2f})", "name another series or place, or install a model for this one")  # fmt: skip
    if novelty > limits["warn"]:
        warnings.append(f"{series.handle} differs from what {bundle.name} was trained on (distance {novelty:.2f}, usual up "
                        f"to {limits['warn']:.2f}): check the outline with care")  # fmt: skip


PATCH, PATCH_MM = 48, 2.0
"""Pixels of a small picture, and their side, as its model was trained (its card)."""


def _chosen_for_point(bench: Bench, study_handle: str | None) -> _Choice:
    studies = newest_first(bench.required_case, study_handle)
    for bundle in bench.resources.catalogue.of("segmentation"):
        for study in studies if bundle.card.dimensions == 2 else ():
            mine = [q for q in study.series if is_stack(q) and q.modality == bundle.card.modality
                    and same_part(bundle.card.body_part, q.body_part or study.body_part) is not False]  # fmt: skip
            named = [q for q in mine if q.handle == study_handle]
            if mine:
                return _Choice(study, bundle, {"": (named or [max(mine, key=lambda q: q.shape[2])])[0]})
    raise NotApplicable(f"no model outlines a lesion at a point of what the case has ({described(studies)})",
                        "leave `at` out, or add a chest CT")  # fmt: skip


def _make_at(bench: Bench, pick: _Choice, volume: Volume, path: Path, at: Sequence[int]) -> None:
    bundle, series = pick.bundle, pick.channels[""]
    warnings = fits(bundle, series, volume)
    if same_part(bundle.card.body_part, series.body_part or pick.study.body_part) is None:
        warnings.append(f"{series.handle} doesn't say which body part it shows; it was taken for {bundle.card.body_part.lower()}")
    view = axial(volume)
    column, row, frame = at
    if any(not 0 <= v < n for v, n in zip(at, view.array.shape, strict=True)):
        raise NotApplicable(f"the point {list(at)} isn't on {series.handle}, whose axial view has {list(view.array.shape)} columns, rows and frames",
                            "give column, row and frame, from 0")  # fmt: skip
    dx, dy, _ = view.spacing_mm
    across = (np.arange(PATCH) - (PATCH - 1) / 2) * PATCH_MM
    columns, rows = np.meshgrid(column + across / dx, row + across / dy)
    pixels = ndimage.map_coordinates(np.asarray(view.array[:, :, frame], np.float32), [columns, rows], order=1, mode="nearest")
    sure, novelty = worker.run(jobs.patch, str(bundle.folder), pixels, progress=bench.progress, cancelled=bench.cancelled)
    _held_off(bundle, series, novelty, warnings)
    place_x = ((np.arange(view.array.shape[0]) - column) * dx) / PATCH_MM + (PATCH - 1) / 2
    place_y = ((np.arange(view.array.shape[1]) - row) * dy) / PATCH_MM + (PATCH - 1) / 2
    ys, xs = np.meshgrid(place_y, place_x)
    there = ndimage.map_coordinates(sure, [ys, xs], order=1, mode="constant")
    maps, certainty = {}, {}
    for side, threshold in (("main", 0.5), ("inner", jobs.LOWER), ("outer", jobs.UPPER)):
        slab = np.zeros(view.array.shape, np.uint8)
        slab[:, :, frame] = _at_point(there > threshold, (column, row))
        if side == "main" and slab.any():
            certainty[1] = float(there[slab[:, :, frame] > 0].mean())
        maps[side] = Volume(slab, view.affine).aligned_with(volume).array
    warnings.append("one slice was outlined: a volume and an extent in space are of that slice alone")
    about = {"bundle": bundle.name, "version": bundle.version, "sha256": bundle.sha256, "series_uid": series.series_uid, "used": [],
             "series": {"": series.series_uid}, "warnings": warnings, "novelty": novelty, "certainty": certainty, "at": list(at)}  # fmt: skip
    _keep(path, volume, maps, about)


def _at_point(mask: np.ndarray, point: tuple[int, int]) -> np.ndarray:
    """The connected region that is nearest to `point`."""
    parts, count = ndimage.label(mask)
    if not count:
        return mask
    _, nearest = ndimage.distance_transform_edt(parts == 0, return_indices=True)
    return np.asarray(parts == parts[tuple(nearest[(slice(None), *point)])])


def on_grid(case: Case, series: Series, reference: Series, grid: Volume, warnings: list[str]) -> np.ndarray | None:
    """Another sequence on the reference's grid (linear); None, with a warning, where it lies elsewhere in space."""
    other = case.volume(series)
    if grid.same_grid(other):
        return other.array
    frames = [str(q.header.get("FrameOfReferenceUID") or "") for q in (series, reference)]
    if frames[0] != frames[1] or other.affine is None or grid.affine is None:
        warnings.append(
            f"{series.handle} ({series.sequence}) isn't in the same frame of reference as {reference.handle}; it was left out"
        )
        return None
    matrix = np.linalg.inv(other.affine) @ grid.affine
    moved = ndimage.affine_transform(
        np.asarray(other.array, np.float32), matrix[:3, :3], matrix[:3, 3], grid.array.shape, order=1
    )
    if float((moved != 0).mean()) < 0.5 * float((grid.array != 0).mean()):
        warnings.append(
            f"{series.handle} ({series.sequence}) shows less than half of what {reference.handle} shows; it was left out"
        )
        return None
    warnings.append(f"{series.handle} ({series.sequence}) was resampled to the grid of {reference.handle}")
    return np.asarray(moved)


def placed(volume: Volume, frame: int, box: list[float] | None = None, line: list[list[float]] | None = None) -> dict[str, Any]:
    """Where a spot of the axial view (a frame, a box and a line on it) is shown: fields of an ImageRef.

    A series that is read in another plane opens at its own slice through the middle of the spot; a box or a line of the
    axial view can't be drawn there.
    """
    view, shown = axial(volume), volume.display()
    if view.affine is not None and shown.affine is not None and not view.same_grid(shown):
        columns, rows, _ = view.array.shape
        x0, y0, x1, y1 = box or [0.0, 0.0, columns - 1.0, rows - 1.0]
        middle = view.affine @ [(x0 + x1) / 2, (y0 + y1) / 2, frame, 1]
        frame = int(np.clip(round((np.linalg.inv(shown.affine) @ middle)[2]), 0, shown.array.shape[2] - 1))
        box = line = None
    uids = volume.sop_instance_uids[frame : frame + 1]
    return {"frame": frame, "box": box, "line": line, "sop_instance_uids": uids}


def region_of(done: Segmentation, target: str | None) -> Region:
    """The region that `target` names; a tumour in general (or nothing named) is the widest of a lesion."""
    if target is None or target.replace("_", " ").lower() in ("tumour", "tumor", "lesion"):
        return next((r for r in done.regions if r.tumour), done.regions[0])
    return done.region(target)


def image_source(
    done: Segmentation, frame: int, box: list[float] | None = None, line: list[list[float]] | None = None
) -> dict[str, Any]:
    """The ImageRef of a fact about a segmentation; `frame`, `box` and `line` are of the axial view."""
    return {"study_id": done.study.id, "series_uid": done.series.series_uid, "mask": done.url, "model": done.bundle.name,
            "model_version": done.bundle.version, **placed(done.volume, frame, box, line)}  # fmt: skip


def mask_files(folder: Path) -> list[str]:
    """The masks that were made from a series."""
    return sorted(p.name for p in folder.glob("*.nii.gz"))
