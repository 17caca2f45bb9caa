"""Followed lesions against known truth: follow-ups made from real volumes by known changes. `python -m tests.eval_course --out course.json`.

Every follow-up is MADE: a real brain MR or body CT, lesions of known size set into it, and a second examination in which the patient lies otherwise, the
anatomy is smoothly deformed, lesions have grown, shrunk, gone, appeared, split or merged, other voxels, noise and brightness. The truth is what was set.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from knowledge.studies.model import Geometry, Series, Study, StudySource
from knowledge.studies.volume import Volume
from tests.conftest import shared
from tests.eval import wilson
from tools.course.lesions import Found, Lesion
from tools.course.matching import match
from tools.course.registration import Image, Registration, register

PAIRS = 72
KINDS = ("unchanged", "growth", "shrinkage", "shift", "new and gone", "other spacing", "noise", "split and merged", "crowded")
DAYS = (date(2026, 1, 5), date(2026, 4, 6))


@dataclass(frozen=True)
class Base:
    """A real volume: voxels, their place, whether HU, and where lesions may be set."""

    name: str
    array: np.ndarray
    affine: np.ndarray
    hounsfield: bool
    inside: np.ndarray


@cache
def bases() -> list[Base]:
    """One glioma patient (CC BY), four of the NC set (evaluation alone), one body CT (Apache-2.0)."""
    data = shared() / "data"
    files = [
        data / "mri3d_glioma_tcga_4ch/TCGA-DU-7294/TCGA-DU-7294_fla_bet.nii.gz",
        *sorted((data / "mri3d_glioma_brats_NC").rglob("Flair_*.nii.gz")),
    ]
    found = []
    for file in files:
        image = nib.as_closest_canonical(nib.load(file))
        array = np.asarray(image.dataobj, np.float32)
        body = ndimage.binary_fill_holes(array != array[0, 0, 0])
        found.append(
            Base(file.parent.name, array - array.min(), image.affine, False, ndimage.binary_erosion(body, iterations=12))
        )
    image = nib.as_closest_canonical(nib.load(data / "ct_mr_body_totalseg/example_ct.nii.gz"))
    array = np.asarray(image.dataobj, np.float32)
    found.append(Base("body CT", array, image.affine, True, ndimage.binary_erosion(array > -300, iterations=6)))
    return found


@dataclass(frozen=True)
class Blob:
    """A lobed ball: centre (mm), radius (mm), and how its surface waves."""

    centre: np.ndarray
    radius: float
    phase: np.ndarray

    def mask(self, shape: tuple[int, ...], affine: np.ndarray, turn: np.ndarray) -> np.ndarray:
        """Its voxels on a grid; `turn`: how the patient is turned."""
        made = np.zeros(shape, bool)
        middle = np.linalg.inv(affine) @ np.append(self.centre, 1.0)
        reach = 1.3 * self.radius / np.linalg.norm(affine[:3, :3], axis=0) + 1
        low = [max(0, int(v)) for v in middle[:3] - reach]
        high = [min(n, int(v) + 2) for v, n in zip(middle[:3] + reach, shape, strict=True)]
        index = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), -1)
        away = (index @ affine[:3, :3].T + affine[:3, 3] - self.centre) @ turn
        distance = np.linalg.norm(away, axis=-1) + 1e-6
        u = away / distance[..., None]
        surface = self.radius * (1 + 0.12 * np.sin(3 * u[..., 0] + self.phase[0]) + 0.1 * np.cos(4 * u[..., 1] + self.phase[1]))
        made[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = distance <= surface
        return made


@dataclass
class Pair:
    """Two examinations, their lesions, and the truth: links (earlier, later) and the factor by which each linked lesion's lengths changed."""

    kind: str
    base: str
    before: Found
    after: Found
    links: set[tuple[int, int]]
    factor: dict[tuple[int, int], float]
    still: set[tuple[int, int]] = field(default_factory=set)
    """Links of lesions that didn't change at all."""
    where: Callable[[np.ndarray], np.ndarray] = lambda p: p
    """Where a point of the later examination lies in the earlier one."""


def made_pair(number: int) -> Pair:
    """Pair `number`; the same number gives the same pair."""
    random = np.random.default_rng(1000 + number)
    base, kind = bases()[(number + number // len(KINDS)) % len(bases())], KINDS[number % len(KINDS)]
    least = 6.0 if base.hounsfield else 4.0
    count = int(random.integers(2, 6))
    apart = 17.0 if kind == "crowded" else 34.0
    sites = _sites(base, random, count + 2, apart)
    blobs = [Blob(p, float(random.uniform(least, 7.0 if kind == "crowded" else 13.0)), random.uniform(0, 6.3, 2)) for p in sites]
    middle = (base.affine @ np.r_[(np.array(base.array.shape) - 1) / 2, 1.0])[:3]
    turn = Rotation.from_euler("xyz", random.uniform(-7, 7, 3), degrees=True).as_matrix()
    shift = random.uniform(-9, 9, 3)
    bend = ndimage.zoom(random.normal(0, 1.5, (4, 4, 4, 3)), (5, 5, 5, 1), order=3)
    spacing = np.linalg.norm(base.affine[:3, :3], axis=0)
    voxel = np.array(spacing)
    if kind == "other spacing":
        voxel = voxel * (1.0, 1.0, float(random.uniform(1.6, 3.0)))
    shape = tuple(int(v) for v in np.maximum(2, np.round(np.array(base.array.shape) * spacing / voxel)))
    affine = base.affine @ np.diag([*(voxel / spacing), 1.0])

    def where(points: np.ndarray) -> np.ndarray:
        at = (
            (points - base.affine[:3, 3])
            @ np.linalg.inv(base.affine[:3, :3]).T
            / np.array(base.array.shape)
            * np.array(bend.shape[:3])
        )
        moved = np.stack([ndimage.map_coordinates(bend[..., a], at.T, order=1, mode="nearest") for a in range(3)], -1)
        return np.asarray((points + moved - middle) @ turn.T + middle + shift)

    def here(point: np.ndarray) -> np.ndarray:
        found = (point - shift - middle) @ turn + middle
        for _ in range(30):
            found = found + (point - where(found[None])[0]) @ turn
        return np.asarray(found)

    first, second, links, factor = _changed(kind, blobs, count, random, here)
    later = _grid(shape, affine)
    source = where(later)
    noise = 0.01 if kind != "noise" else 0.05
    image = _painted(base, base.array.copy(), [b.mask(base.array.shape, base.affine, np.eye(3)) for b in first])
    voxels = ((source - base.affine[:3, 3]) @ np.linalg.inv(base.affine[:3, :3]).T).T
    low = float(base.array.min())
    moved = ndimage.map_coordinates(base.array, voxels, order=1, mode="constant", cval=low).reshape(shape)
    masks = [b.mask(shape, affine, turn) for b in second]
    moved = _painted(base, moved, masks)
    span = float(np.percentile(base.array, 99.5) - low)
    gain = 1.0 if base.hounsfield else float(random.uniform(0.8, 1.25))
    moved = (moved - low) * gain + low + random.normal(0, noise * span, shape) * (moved > low)
    founds = [_found(0, Volume(image, base.affine, unit="HU" if base.hounsfield else ""), [b.mask(base.array.shape, base.affine, np.eye(3)) for b in first], base),
              _found(1, Volume(moved.astype(np.float32), affine, unit="HU" if base.hounsfield else ""), masks, base)]  # fmt: skip
    still = {k for k, v in factor.items() if v == 1.0}
    return Pair(kind, base.name, founds[0], founds[1], links, factor, still, where)


def _sites(base: Base, random: np.random.Generator, count: int, apart: float) -> list[np.ndarray]:
    """Places inside the body, `apart` mm at least from each other; where they are to be crowded, all within 45 mm."""
    places = np.argwhere(base.inside)
    found: list[np.ndarray] = []
    while len(found) < count:
        point = (base.affine @ np.r_[places[random.integers(len(places))], 1.0])[:3]
        crowd = apart < 30 and found and np.linalg.norm(point - found[0]) > 45
        if not crowd and all(np.linalg.norm(point - p) > apart for p in found):
            found.append(point)
    return found


def _changed(kind: str, blobs: list[Blob], count: int, random: np.random.Generator, here: Any) -> tuple[list[Blob], list[Blob], set[tuple[int, int]], dict[tuple[int, int], float]]:  # fmt: skip
    """Lesions of both examinations and the truth of them. Of every kind but one, about a third of the lesions doesn't change."""
    first, second, links, factor = [], [], set(), {}
    for number, blob in enumerate(blobs[:count]):
        by = {
            "growth": float(random.uniform(1.15, 1.8)),
            "crowded": float(random.uniform(0.7, 1.3)),
            "shrinkage": float(random.uniform(0.5, 0.87)),
        }.get(kind, 1.0)
        by = 1.0 if number % 3 == 2 else by
        away = random.normal(0, 1, 3)
        wander = away / np.linalg.norm(away) * float(random.uniform(2, 7)) if kind == "shift" else np.zeros(3)
        if kind == "new and gone" and number == 0:
            first.append(blob)
            continue
        if kind == "split and merged" and number < 2:
            step = np.array([blob.radius * 1.0, 0, 0])
            whole = Blob(blob.centre, blob.radius * 1.25, blob.phase)
            parts = [Blob(blob.centre + s * step, blob.radius * 0.62, blob.phase) for s in (-1.35, 1.35)]
            one, two = ([whole], parts) if number == 0 else (parts, [whole])
            start, begin = len(first), len(second)
            first += one
            second += [Blob(here(b.centre), b.radius, b.phase) for b in two]
            links |= {(start + a, begin + b) for a in range(len(one)) for b in range(len(two))}
            continue
        links.add((len(first), len(second)))
        factor[len(first), len(second)] = by
        first.append(blob)
        second.append(Blob(here(blob.centre + wander), blob.radius * by, blob.phase))
    if kind == "new and gone":
        second.append(Blob(here(blobs[count].centre), blobs[count].radius, blobs[count].phase))
    return first, second, links, factor


def _grid(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1).reshape(-1, 3)
    return np.asarray(index @ affine[:3, :3].T + affine[:3, 3])


def _painted(base: Base, array: np.ndarray, masks: list[np.ndarray]) -> np.ndarray:
    value = 90.0 if base.hounsfield else float(np.percentile(base.array[base.inside], 97))
    for mask in masks:
        array[mask] = value
    return array


def _found(number: int, volume: Volume, masks: list[np.ndarray], base: Base) -> Found:
    series = Series(id=f"q{number}", handle=f"S{number + 1}.1", series_uid=f"1.2.{number}.{base.name}", modality="CT" if base.hounsfield else "MR", description="made",
                    sequence=None if base.hounsfield else "FLAIR", body_part="", instances=1, shape=list(volume.array.shape), spacing_mm=list(volume.spacing_mm),
                    geometry=Geometry.OK)  # fmt: skip
    study = Study(id=f"s{number}", handle=f"S{number + 1}", patient_id="made", study_instance_uid=None, date=DAYS[number].isoformat(), description="made",
                  modalities=[series.modality], body_part="", series=[series], source=StudySource(format="made", files=1))  # fmt: skip
    lesions = [
        Lesion(
            study,
            DAYS[number],
            series,
            volume,
            Volume(m.astype(np.uint8), volume.affine),
            (),
            "made",
            "",
            False,
            True,
            "made",
            True,
        )
        for m in masks
    ]
    return Found(study, DAYS[number], lesions, series, volume, [])


@dataclass
class Score:
    """What came of all pairs."""

    true: int = 0
    told: int = 0
    right: int = 0
    errors: list[float] = field(default_factory=list)
    volume_errors: list[float] = field(default_factory=list)
    target_mm: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    still: int = 0
    false_growth: int = 0
    false_shrinkage: int = 0
    grown: int = 0
    grown_told: int = 0
    by_pair: list[tuple[int, int, int]] = field(default_factory=list)


def scored(numbers: range, told: Callable[[str], None] = lambda words: None) -> Score:
    """Matching and change over the pairs of these numbers."""
    import time

    score = Score()
    for number in numbers:
        pair = made_pair(number)
        images = [
            Image(f.volume.array, f.volume.affine, f.volume.unit == "HU")
            for f in (pair.after, pair.before)
            if f.volume.affine is not None
        ]
        begun = time.perf_counter()
        registration = register(images[0], images[1], same_kind=True)
        if why := registration.quality.doubts(True):
            score.refused.append(f"{number} ({pair.kind}, {pair.base}): {why}")
        links = match(pair.before.lesions, pair.after.lesions, registration, (pair.before.volume, pair.after.volume))
        score.seconds.append(time.perf_counter() - begun)
        found = {(i, j) for link in links for i in link.before for j in link.after}
        right = len(found & pair.links)
        score.true, score.told, score.right = score.true + len(pair.links), score.told + len(found), score.right + right
        score.by_pair.append((len(pair.links), len(found), right))
        _errors(score, pair, registration, found)
        told(f"{number} {pair.kind} {pair.base}: {right} of {len(pair.links)}, {len(found)} told")
    return score


def _errors(score: Score, pair: Pair, registration: Registration, found: set[tuple[int, int]]) -> None:
    for lesion in pair.after.lesions:
        away = registration.to_moving(lesion.centre[None]) - pair.where(lesion.centre[None])
        score.target_mm.append(float(np.linalg.norm(away)))
    for (i, j), factor in pair.factor.items():
        if (i, j) not in found:
            continue
        before, after = pair.before.lesions[i], pair.after.lesions[j]
        change = 100 * (after.value("diameter") / before.value("diameter") - 1)
        volume = 100 * (after.value("volume") / before.value("volume") - 1)
        score.errors.append(abs(change - 100 * (factor - 1)))
        score.volume_errors.append(abs(volume - 100 * (factor**3 - 1)))
        more = any(after.span(q)[0] > before.span(q)[1] for q in ("diameter", "volume", "product"))
        less = any(after.span(q)[1] < before.span(q)[0] for q in ("diameter", "volume", "product"))
        if (i, j) in pair.still:
            score.still, score.false_growth, score.false_shrinkage = (
                score.still + 1,
                score.false_growth + more,
                score.false_shrinkage + less,
            )
        elif factor > 1:
            score.grown, score.grown_told = score.grown + 1, score.grown_told + more


def course_scores(pairs: int = PAIRS, told: Callable[[str], None] = lambda words: None) -> dict[str, Any]:
    """Match F1, error of change, false growth, on made pairs; intervals by resampling pairs, or Wilson's."""
    score = scored(range(pairs), told)
    random = np.random.default_rng(0)
    rows = np.array(score.by_pair)
    f1s = [2 * s[2] / max(s[0] + s[1], 1) for s in (rows[random.integers(0, len(rows), len(rows))].sum(0) for _ in range(1000))]
    return {
        "made_pairs": pairs, "kinds": list(KINDS), "lesions_linked": score.true,
        "match_f1": round(2 * score.right / (score.true + score.told), 4), "match_f1_interval": [round(float(v), 4) for v in np.percentile(f1s, [2.5, 97.5])],
        "diameter_change_error_percent": {"median": round(float(np.median(score.errors)), 2), "p95": round(float(np.percentile(score.errors, 95)), 2)},
        "volume_change_error_percent": {"median": round(float(np.median(score.volume_errors)), 2), "p95": round(float(np.percentile(score.volume_errors, 95)), 2)},
        "false_growth": round(score.false_growth / max(score.still, 1), 4), "false_growth_interval": [round(v, 4) for v in wilson(score.false_growth, score.still)], "unchanged_lesions": score.still,
        "false_shrinkage": round(score.false_shrinkage / max(score.still, 1), 4),
        "growth_told": round(score.grown_told / max(score.grown, 1), 4), "growth_told_interval": [round(v, 4) for v in wilson(score.grown_told, score.grown)], "grown_lesions": score.grown,
        "target_error_mm": {"median": round(float(np.median(score.target_mm)), 2), "p95": round(float(np.percentile(score.target_mm, 95)), 2)},
        "refused": score.refused, "seconds_a_pair_median": round(float(np.median(score.seconds)), 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found = course_scores(arguments.pairs, lambda words: print(words, flush=True))
    print(json.dumps(found, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
