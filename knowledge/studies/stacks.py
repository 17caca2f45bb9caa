"""From the frames of a series to volumes: what belongs together, in which order, with which geometry, and what is wrong with it.

Frames are sorted by their position along the normal (PS3.3 C.7.6.2.1.1), never by instance number alone. Frames of other size or
orientation, and frames that claim a position twice (echoes, phases, b values), become parts of their own.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from knowledge.studies.placement import DISCRIMINATORS, frames_of

POSITION_TOLERANCE_MM = 0.01
"""Slices nearer than this along the normal lie at the same position."""
TURN_TOLERANCE = 0.005
"""Direction cosines that differ by less are one orientation: headers of one series differ in the last digits."""
SPACING_TOLERANCE = 0.05
"""Share of the median distance by which a slice distance may differ before the geometry is doubted."""
MAX_PARTS = 64

_WORDS = {"segment": "segment {}", "stack": "stack {}", "b": "b {}", "echo": "TE {} ms", "inversion": "TI {} ms", "type": "{}",
          "phase": "phase {}", "trigger": "trigger {} ms", "direction": "direction {}", "acquisition": "acquisition {}",
          "time": "at {}"}  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """One frame: `instance` (index) and `index` in it, its size, place and keys; `along`: position along the normal, mm."""

    instance: int
    index: int
    size: tuple[int, int]
    facts: dict[str, Any]
    place: dict[str, Any]

    @cached_property
    def along(self) -> float:
        """Position along the normal in mm; 0 where it isn't known."""
        turn, position = self.facts["orientation"], self.facts["position"]
        if not turn or not position:
            return 0.0
        (a, b, c, d, e, f), (x, y, z) = turn, position
        return float((b * f - c * e) * x + (c * d - a * f) * y + (a * e - b * d) * z)

    @property
    def order(self) -> tuple[int, int]:
        """By instance number, then frame: what is left where positions are missing."""
        return self.place["number"], self.index


@dataclass(frozen=True)
class Part:
    """A volume of a series. `order` lists (instance index, frame) from first to last slice, None for a slice of zeros.

    `key` names the part within its series, empty for the first; `words` tell a reader what sets it apart. `affine` as in Volume
    (RAS mm), None without geometry; `pixel_mm`: column and row distance of frames without position.
    """

    key: str
    words: str
    order: list[tuple[int, int] | None]
    shape: tuple[int, int, int]
    affine: np.ndarray | None
    warnings: list[str]
    pixel_mm: tuple[float, float] | None = None
    values: dict[str, Any] = field(default_factory=dict)


def arrange(places: Sequence[dict[str, Any]]) -> list[Part]:
    """The parts of a series, the one that starts with the lowest instance number first."""
    frames = [Frame(n, i, (p["columns"], p["rows"]), f, p) for n, p in enumerate(places) for i, f in enumerate(frames_of(p))]
    if not frames:
        return []
    groups = _alike(frames)
    if len(groups) > MAX_PARTS:  # radial or rotating acquisitions: one stack without geometry
        part = _without_geometry(
            sorted(frames, key=lambda f: f.order), [f"its {len(groups)} frames' orientations or sizes all differ"]
        )
        return [part]
    groups.sort(key=lambda g: min(f.order for f in g))
    parts = [piece for group in groups for piece in _told_apart(group, "" if len(groups) == 1 else _looks(group))]
    return [replace(p, key="" if n == 0 else p.key or f"part {n + 1}") for n, p in enumerate(_unique(parts))]


def _unique(parts: list[Part]) -> list[Part]:
    seen: Counter[str] = Counter()
    named = []
    for part in parts:
        seen[part.key] += 1
        again = f" {seen[part.key]}" if seen[part.key] > 1 else ""
        named.append(replace(part, key=f"{part.key}{again}", words=f"{part.words}{again}"))
    return named


def _alike(frames: list[Frame]) -> list[list[Frame]]:
    """Groups of frames that share size, orientation, pixel spacing and kind."""
    groups: list[list[Frame]] = []
    for frame in frames:
        home = next((g for g in groups if _same(g[0], frame)), None)
        if home is None:
            groups.append([frame])
            if len(groups) > MAX_PARTS:
                return groups
        else:
            home.append(frame)
    return groups


def _same(one: Frame, other: Frame) -> bool:
    plain = (one.size == other.size and one.place["samples"] == other.place["samples"]
             and one.place["localizer"] == other.place["localizer"])  # fmt: skip
    return plain and _near(one.facts["orientation"], other.facts["orientation"], TURN_TOLERANCE) and _near(
        one.facts["spacing"], other.facts["spacing"], 0.01 * (one.facts["spacing"] or [1.0])[0])  # fmt: skip


def _near(one: list[float] | None, other: list[float] | None, tolerance: float) -> bool:
    if one is None or other is None:
        return one is other
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= tolerance


def plane_of(orientation: Sequence[float] | None) -> str | None:
    """axial, coronal or sagittal by the largest component of the normal; with "oblique " before it beyond 20 degrees."""
    if orientation is None:
        return None
    normal = np.abs(np.cross(orientation[:3], orientation[3:]))
    name = ("sagittal", "coronal", "axial")[int(normal.argmax())]
    return name if normal.max() > math.cos(math.radians(20)) else f"oblique {name}"


def _looks(group: list[Frame]) -> str:
    plane = plane_of(group[0].facts["orientation"])
    return f"{plane or 'without orientation'}, {group[0].size[0]} x {group[0].size[1]}"


def _told_apart(group: list[Frame], words: str) -> list[Part]:
    """The group as it is, or split by what tells frames at one position apart."""
    segmented = any("segment" in f.facts["key"] for f in group)
    pieces = _split_by("segment", group) if segmented else [("", group)]
    for name in DISCRIMINATORS:
        if name == "segment":
            continue
        pieces = [new for label, piece in pieces for new in _refined(name, label, piece)]
    parts = []
    for label, piece in pieces:
        dealt, doubt = _dealt(label, piece)
        parts += [_part(", ".join(w for w in (words, text) if w), frames, doubt) for text, frames in dealt]
    return parts


Piece = tuple[str, list[Frame]]


def _claims(frames: list[Frame]) -> int:
    """How many frames claim a position that another has."""
    if any(f.facts["position"] is None or f.facts["orientation"] is None for f in frames):
        return 0
    along = np.sort([f.along for f in frames])
    return int((np.diff(along) <= POSITION_TOLERANCE_MM).sum())


def _split_by(name: str, frames: list[Frame]) -> list[Piece]:
    found: dict[str, list[Frame]] = defaultdict(list)
    for frame in frames:
        found[str(frame.facts["key"].get(name, ""))].append(frame)

    def by_value(item: tuple[str, list[Frame]]) -> tuple[float, str]:
        try:
            return float(item[0]), ""
        except ValueError:
            return math.inf, item[0]

    return [(_WORDS[name].format(value or "not stated"), list(members)) for value, members in sorted(found.items(), key=by_value)]


def _refined(name: str, label: str, frames: list[Frame]) -> list[Piece]:
    """`frames` split by `name` where that settles who has a claimed position, and makes no crumbs."""
    before = _claims(frames)
    if not before:
        return [(label, frames)]
    pieces = _split_by(name, frames)
    if not 1 < len(pieces) <= MAX_PARTS or len(pieces) > 2 * _most_at_one(frames):
        return [(label, frames)]
    if sum(_claims(p) for _, p in pieces) >= before:
        return [(label, frames)]
    return [(", ".join(w for w in (label, words) if w), piece) for words, piece in pieces]


def _most_at_one(frames: list[Frame]) -> int:
    return max(len(p) for p in _by_position(frames))


def _by_position(frames: list[Frame]) -> list[list[Frame]]:
    """Frames at each position, positions in order."""
    ordered = sorted(frames, key=lambda f: (f.along, f.order))
    found = [[ordered[0]]]
    for frame in ordered[1:]:
        if frame.along - found[-1][0].along > POSITION_TOLERANCE_MM:
            found.append([frame])
        else:
            found[-1].append(frame)
    return found


def _dealt(label: str, frames: list[Frame]) -> tuple[list[Piece], str]:
    """Where every position is claimed equally often and nothing says why: the n-th claim of each makes the n-th part."""
    if not _claims(frames):
        return [(label, frames)], ""
    positions = _by_position(frames)
    count = len(positions[0])
    if count > MAX_PARTS or len(positions) < 2 or any(len(p) != count for p in positions):
        return [(label, frames)], ""
    dealt = [(", ".join(w for w in (label, f"pass {n + 1} of {count}") if w), [p[n] for p in positions]) for n in range(count)]
    return dealt, f"each position comes {count} times and nothing in the header says why: told apart by instance number alone"


def _part(words: str, frames: list[Frame], doubt: str) -> Part:
    doubts = [doubt] if doubt else []
    turn = frames[0].facts["orientation"]
    if turn is None or frames[0].facts["spacing"] is None or any(f.facts["position"] is None for f in frames):
        return replace(_without_geometry(sorted(frames, key=lambda f: f.order), doubts), key=words, words=words)
    positions = _by_position(frames)
    unique = [p[0] for p in positions]
    if len(unique) < len(frames):
        doubts.append(f"{len(frames) - len(unique)} slices lie at a position that another slice has; the first was kept")
    order: list[tuple[int, int] | None] = [(f.instance, f.index) for f in unique]
    if "segment" in frames[0].facts["key"]:
        order = _filled(unique, order)
    affine = _affine(unique, len(order), doubts)
    if any(f.place["localizer"] for f in unique):
        doubts.append("a localizer: not meant for measuring")
    return Part(words, words, order, (*frames[0].size, len(order)), affine, doubts, values=dict(unique[0].facts["key"]))


def _filled(unique: list[Frame], order: list[tuple[int, int] | None]) -> list[tuple[int, int] | None]:
    """Segments leave out empty frames: gaps of whole steps are slices of zeros."""
    gaps = np.diff([f.along for f in unique])
    if not len(gaps):
        return order
    steps = gaps / gaps.min()
    if np.abs(steps - np.round(steps)).max() > SPACING_TOLERANCE or steps.max() > 1000:
        return order
    filled: list[tuple[int, int] | None] = [order[0]]
    for step, slot in zip(np.round(steps).astype(int), order[1:], strict=True):
        filled += [None] * (int(step) - 1) + [slot]
    return filled


def _without_geometry(frames: list[Frame], doubts: list[str]) -> Part:
    spacing, source = frames[0].facts["spacing"], frames[0].place["spacing_from"]
    doubts = [*doubts, "position, orientation or pixel spacing is missing: lengths can't be measured"]
    if spacing and source == "detector":
        doubts[-1] = "a projection: its pixel spacing is that of the detector, so lengths are not corrected for magnification"
    elif spacing and source == "ultrasound":
        doubts[-1] = "no position in space: lengths hold within the calibrated ultrasound region of one frame alone"
    elif spacing:
        doubts[-1] = "no position in space: lengths hold within one frame alone"
    if any(f.place["localizer"] for f in frames):
        doubts.append("a localizer: not meant for measuring")
    pixel = (spacing[1], spacing[0]) if spacing else None
    same = [f for f in frames if f.size == frames[0].size and f.place["samples"] == frames[0].place["samples"]]
    return Part("", "", [(f.instance, f.index) for f in same], (*frames[0].size, len(same)), None, doubts, pixel)


def _affine(slices: list[Frame], count: int, doubts: list[str]) -> np.ndarray:
    """Voxel index to RAS mm; what is irregular goes to `doubts`."""
    first = slices[0].facts
    row, column = np.array(first["orientation"][:3]), np.array(first["orientation"][3:])
    normal = np.cross(row, column)
    gaps = np.diff([f.along for f in slices])
    step = normal * (first["thickness"] or 1.0)
    if len(gaps):
        median = float(np.median(gaps)) if count == len(slices) else float(gaps.min())
        if count == len(slices):
            _doubt_gaps(gaps, median, doubts)
        start, end = np.array(first["position"]), np.array(slices[-1].facts["position"])
        step = (end - start) / (count - 1)
        tilt = math.degrees(math.acos(min(1.0, abs(float(np.dot(step, normal))) / float(np.linalg.norm(step)))))
        if tilt > 0.5:
            doubts.append(f"slices are sheared by {tilt:.1f} degrees (gantry tilt): lengths across slices need care")
        if abs(float(np.dot(step, normal)) - median) > SPACING_TOLERANCE * median:
            step = step / np.linalg.norm(step) * median
    elif not first["thickness"]:
        doubts.append("a single slice without thickness: volumes can't be measured")
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = row * first["spacing"][1], column * first["spacing"][0]
    lps[:3, 2], lps[:3, 3] = step, first["position"]
    return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps)


def _doubt_gaps(gaps: np.ndarray, median: float, doubts: list[str]) -> None:
    if gaps.max() - gaps.min() <= SPACING_TOLERANCE * median:
        return
    steps = gaps / median
    missing = int((np.round(steps) - 1)[steps > 1.5].sum())
    regular = np.abs(steps - np.round(steps)).max() <= SPACING_TOLERANCE * 2
    if regular and missing:
        plural = "s are" if missing > 1 else " is"
        doubts.append(f"{missing} slice{plural} missing: distances vary from {gaps.min():.2f} to {gaps.max():.2f} mm")
    else:
        doubts.append(
            f"slice distances vary from {gaps.min():.2f} to {gaps.max():.2f} mm: a slice may be missing, or the spacing is mixed"
        )
