"""Outline the tumour of a study once: pick the bundle and the series by their cards, cache the mask, describe it."""

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from knowledge.case import Case
from knowledge.studies import nifti
from knowledge.studies.model import Geometry, Series, Study
from knowledge.studies.store import write_whole
from knowledge.studies.volume import Volume
from tools.base import Bench
from tools.errors import NotApplicable
from tools.models.bundle import Bundle
from tools.models.shape import axial

STRIPPED = 0.3
"""A skull-stripped head volume has at least this share of exact zeros; raw MR background is noise."""

_MAKING = threading.Lock()


@dataclass(frozen=True)
class Outline:
    """A mask on the grid of `series`, and where it came from."""

    study: Study
    series: Series
    bundle: Bundle
    mask: Volume
    volume: Volume
    url: str
    cached: bool


def series_of(case: Case, study_handle: str | None, sequences: list[str], what: str) -> tuple[Study, Series]:
    """The newest study (or the one named) that has one of `sequences`, and that series."""
    studies = [case.study(study_handle.split(".")[0])] if study_handle else sorted(
        case.studies, key=lambda s: (s.date or "", s.handle), reverse=True)  # fmt: skip
    if not studies:
        raise NotApplicable(f"the case holds no imaging study, so {what} can't be done", "add the images")
    for study in studies:
        for sequence in sequences:
            for series in study.series:
                if series.sequence == sequence and len(series.shape) == 3 and series.shape[2] > 1:
                    return study, series
    there = "; ".join(f"{s.handle}: {'/'.join(s.modalities)} {s.body_part} ({s.description})" for s in studies)
    raise NotApplicable(f"{what} needs {' or '.join(sequences)}, and the case has {there}", "add that series")


def outline(bench: Bench, study_handle: str | None = None) -> Outline:
    """The whole-tumour mask of the newest fitting study, made or taken from the cache."""
    case = bench.required_case
    target = case.study(study_handle.split(".")[0]) if study_handle else None
    part, modality = _subject(case, target)
    bundle = bench.resources.catalogue.pick("segmentation", part, modality)
    study, series = series_of(case, study_handle, bundle.card.sequences, "segmentation")
    if series.geometry is not Geometry.OK and series.spacing_mm is None:
        raise NotApplicable(f"{series.handle} has no true geometry: {'; '.join(series.warnings)}", "send the original")
    volume = case.volume(series)
    path = case.derived(series) / f"{bundle.name}-{bundle.version}.nii.gz"
    url = f"/v1/studies/{study.id}/series/{series.id}/masks/{path.name}"
    with _MAKING:  # two tools of one plan may want the same mask: the second waits and takes it from the cache
        cached = path.exists()
        mask = nifti.read_mask(path) if cached else _made(bench, bundle, series, volume, path)
    return Outline(study, series, bundle, mask, volume, url, cached)


def _made(bench: Bench, bundle: Bundle, series: Series, volume: Volume, path: Path) -> Volume:
    if float((volume.array == 0).mean()) < STRIPPED:
        raise NotApplicable(f"{series.handle} is not skull-stripped, and {bundle.name} was made for skull-stripped images",
                            "strip the skull first, or install another model")  # fmt: skip
    bench.progress(0, 1)
    mask = volume.like(_run(bundle, volume))
    write_whole(path, nifti.to_bytes(mask, np.uint8))
    about = {"bundle": bundle.name, "version": bundle.version, "series_uid": series.series_uid}
    write_whole(path.with_suffix(".json"), json.dumps(about).encode())
    bench.progress(1, 1)
    return mask


def _subject(case: Case, study: Study | None) -> tuple[str, str]:
    """Body part and modality to look for: those of the study named, or of the newest study."""
    study = study or max(case.studies, key=lambda s: (s.date or "", s.handle), default=None)
    if study is None:
        raise NotApplicable("the case holds no imaging study", "add the images")
    modality = next((s.modality for s in study.series if s.is_image), "")
    return study.body_part.split("/")[0], modality


def _run(bundle: Bundle, volume: Volume) -> np.ndarray:
    import torch
    from monai.data import MetaTensor

    image = MetaTensor(
        torch.from_numpy(np.ascontiguousarray(volume.array, np.float32))[None], affine=torch.from_numpy(volume.affine)
    )
    return np.asarray(bundle.segment(image)[0].numpy(), np.uint8)


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


def image_source(
    done: Outline, frame: int, box: list[float] | None = None, line: list[list[float]] | None = None
) -> dict[str, Any]:
    """The ImageRef of a fact about an outline; `frame`, `box` and `line` are of the axial view."""
    return {"study_id": done.study.id, "series_uid": done.series.series_uid, "mask": done.url, "model": done.bundle.name,
            "model_version": done.bundle.version, **placed(done.volume, frame, box, line)}  # fmt: skip


def mask_files(folder: Path) -> list[str]:
    """The masks that were made from a series."""
    return sorted(p.name for p in folder.glob("*.nii.gz"))
