"""Lesions followed through all studies of a body part: aligned pair by pair, matched, named for good, drawn into one label map a study."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from knowledge.evidence import ImageRef
from knowledge.response.model import DatedStudy, Size, State
from knowledge.response.model import Lesion as Row
from knowledge.response.store import Name
from knowledge.studies import nifti
from knowledge.studies.model import Study
from knowledge.studies.store import write_whole
from tools.base import Bench, Missing
from tools.course import jobs
from tools.course.lesions import Found, Lesion, lesions_of
from tools.course.matching import OVERLAP, Event, Link, apart_or_share, match, shows
from tools.course.registration import Quality, Registration
from tools.errors import NotApplicable
from tools.models import worker
from tools.models.masks import placed
from tools.models.shape import axial

VERSION = "1"
"""Of alignment and matching: raised when either changes."""
MAP = "lesions"
"""How the label maps are called (lesions-1-….nii.gz)."""


@dataclass
class Track:
    """One lesion through the studies. `parts[k]` are its outlines on study k; `states[k]` says why there are none."""

    parts: list[list[Lesion]]
    states: list[State]
    events: list[Event | None]
    """What happened since the study before."""
    name: Name | None = None

    @property
    def first(self) -> int:
        """Place of the first study that shows it."""
        return next(k for k, p in enumerate(self.parts) if p)

    @property
    def seen(self) -> list[Lesion]:
        """Its outlines, earliest first."""
        return [x for p in self.parts for x in p]

    @property
    def called(self) -> str:
        """L1 …"""
        return self.name.name if self.name else "?"

    @property
    def organ(self) -> str:
        """Where it lies, by its first outline that says so."""
        return next((x.organ for x in self.seen if x.organ), "")

    def largest(self, k: int) -> Lesion | None:
        """Its largest outline on study k."""
        return max(self.parts[k], key=lambda x: x.sizes.volume_ml, default=None)

    def total(self, k: int, quantity: str) -> float:
        """The quantity on study k, parts added."""
        return float(sum(x.value(quantity) for x in self.parts[k]))

    def span(self, k: int, quantity: str) -> tuple[float, float]:
        """Least and greatest value on study k, parts added."""
        spans = [x.span(quantity) for x in self.parts[k]]
        return sum(s[0] for s in spans), sum(s[1] for s in spans)


@dataclass
class Course:
    """Everything that was followed."""

    bench: Bench
    founds: list[Found]
    alignments: list[Registration]
    """Between each study and the next."""
    tracks: list[Track]
    missing: list[Missing]

    @property
    def studies(self) -> list[Study]:
        """The studies, earliest first."""
        return [f.study for f in self.founds]

    @cached_property
    def maps(self) -> list[str]:
        """URL of each study's label map, in which a lesion's label is its number."""
        return [self._map(k) for k in range(len(self.founds))]

    def _map(self, k: int) -> str:
        found = self.founds[k]
        labels = np.zeros(found.volume.array.shape[:3], np.uint8)
        about: dict[str, Any] = {}
        for track in sorted(self.tracks, key=lambda t: -(t.total(k, "volume") if t.parts[k] else 0.0)):
            assert track.name is not None
            for one in track.parts[k]:
                labels[one.mask.array > 0] = track.name.number
                about[str(track.name.number)] = {
                    "uid": track.name.uid,
                    "organ": track.organ,
                    "node": one.node,
                    "by": one.by,
                    "drawn": one.drawn,
                }
        digest = jobs.digest(labels)
        path = self.bench.required_case.derived(found.image) / f"{MAP}-{VERSION}-{digest}.nii.gz"
        if not path.exists():
            told: dict[str, Any] = {"bundle": MAP, "version": VERSION, "series_uid": found.image.series_uid, "used": [], "warnings": [], "certainty": {}, "novelty": None,
                    "lesions": about}  # fmt: skip
            write_whole(path.with_suffix(".json"), json.dumps(told).encode())
            write_whole(path, nifti.to_bytes(found.volume.like(labels), np.uint8))
        return f"/v1/studies/{found.study.id}/series/{found.image.id}/masks/{path.name}"

    def place_on(self, track: Track, k: int) -> np.ndarray | None:
        """Where a lesion's centre lies on study k (patient mm): its own, or brought over from the nearest study that shows it."""
        own = track.largest(k)
        if own is not None:
            return own.centre
        near = min((n for n, p in enumerate(track.parts) if p), key=lambda n: abs(n - k))
        centre = track.largest(near)
        assert centre is not None
        point = centre.centre[None]
        for step in range(near, k):
            point = self.alignments[step].to_fixed(point)
        for step in range(near - 1, k - 1, -1):
            point = self.alignments[step].to_moving(point)
        return point[0] if shows(self.founds[k].volume, point[0]) else None

    def source(self, track: Track, k: int, model: tuple[str, str], ruler: bool = True) -> dict[str, Any] | None:
        """ImageRef fields of a lesion on study k: its slice with box and longest line, or the same level where it isn't seen."""
        found, own = self.founds[k], track.largest(k)
        base = {
            "study_id": found.study.id,
            "series_uid": found.image.series_uid,
            "mask": self.maps[k],
            "model": model[0],
            "model_version": model[1],
        }
        if own is not None:
            plane = own.sizes.plane
            line = [[round(x, 1), round(y, 1)] for x, y in plane.long_line] if ruler else None
            return base | placed(found.volume, plane.frame, [round(v, 1) for v in plane.box], line)
        point = self.place_on(track, k)
        if point is None:
            return None
        view = axial(found.volume)
        assert view.affine is not None
        frame = round(float((np.linalg.inv(view.affine) @ np.append(point, 1.0))[2]))
        return base | placed(found.volume, int(np.clip(frame, 0, view.array.shape[2] - 1)))

    def ref(self, track: Track, k: int, model: tuple[str, str]) -> ImageRef:
        """A lesion on study k; the study's image alone where it doesn't show the place."""
        found = self.founds[k]
        plain = {
            "study_id": found.study.id,
            "series_uid": found.image.series_uid,
            "frame": 0,
            "model": model[0],
            "model_version": model[1],
        }
        return ImageRef(**(self.source(track, k, model) or plain))

    def beside(self, track: Track, others: Sequence[int], model: tuple[str, str]) -> list[ImageRef]:
        """The lesion's place on other studies, as far as they show it."""
        return [ImageRef(**s) for k in others if (s := self.source(track, k, model)) is not None]

    def rows(self) -> list[Row]:
        """The lesions as a worksheet has them."""
        return [self._row(t) for t in self.tracks]

    def dated(self) -> list[DatedStudy]:
        """The studies as a worksheet has them."""
        return [DatedStudy(handle=f.study.handle, id=f.study.id, date=f.day.isoformat()) for f in self.founds]

    def _row(self, track: Track) -> Row:
        assert track.name is not None
        first = track.seen[0]
        return Row(name=track.called, tracking_uid=track.name.uid, label=first.label[:60], organ=track.organ, node=any(x.node for x in track.seen),
                   measurable_kind=first.measurable_kind, sizes=[self._size(track, k) for k in range(len(self.founds))])  # fmt: skip

    def _size(self, track: Track, k: int) -> Size:
        handle = self.founds[k].study.handle
        parts = track.parts[k]
        if not parts or track.states[k] is not State.MEASURED:
            return Size(study=handle, state=track.states[k])
        low, high = track.span(k, "diameter")
        return Size(study=handle, state=State.MEASURED, long_mm=round(track.total(k, "diameter"), 1), short_mm=round(track.total(k, "short"), 1),
                    product_mm2=round(track.total(k, "product"), 1), volume_ml=round(track.total(k, "volume"), 2),
                    interval_mm=(round(low, 1), round(high, 1)), slices=max(x.slices for x in parts), slice_mm=round(parts[0].slice_mm, 2),
                    parts=len(parts))  # fmt: skip


def follow(bench: Bench, studies: Sequence[Study], target: str | None = None) -> Course:
    """The lesions of dated studies (earliest first) through time. Raises NotApplicable where two studies can't be brought together."""
    founds = [lesions_of(bench, s, target) for s in studies]
    if not any(f.lesions for f in founds):
        raise NotApplicable(
            f"no lesion is outlined on {' or '.join(s.handle for s in studies)}, so there is nothing to compare", "check by eye"
        )
    alignments = [aligned(bench, a, b) for a, b in pairwise(founds)]
    tracks = _tracks(founds, alignments)
    names = bench.resources.responses.names(
        bench.required_case.patient.id, [[(x.digest, x.study.id, x.tracking[1] if x.tracking else None) for x in t.seen] for t in tracks])  # fmt: skip
    for track, name in zip(tracks, names, strict=True):
        track.name = name
    tracks.sort(key=lambda t: t.name.number if t.name else 0)
    return Course(bench, founds, alignments, tracks, [m for f in founds for m in f.missing])


def alike(a: Found, b: Found) -> bool:
    """True where both images are of one kind, so that their grey values can be compared."""
    return a.image.modality == b.image.modality and (a.image.modality == "CT" or a.image.sequence == b.image.sequence)


def aligned(bench: Bench, earlier: Found, later: Found) -> Registration:
    """The later study brought onto the earlier one; kept for the next time. Raises NotApplicable where they don't show the same place."""
    case = bench.required_case
    folder = case.derived(later.image) / "alignments"
    path = folder / f"{VERSION}-{earlier.image.id}.npz"
    same = alike(earlier, later)
    if path.exists():
        made = jobs.kept(path)
    else:
        if _identical(earlier, later):
            raise NotApplicable(f"{earlier.study.handle} and {later.study.handle} hold the same images: this is one examination, sent twice",
                                "name two different examinations")  # fmt: skip
        with worker.scratch() as scratch:
            files = []
            for number, found in enumerate((later, earlier)):
                files.append(f"{scratch}/{number}.npy")
                np.save(files[-1], found.volume.array)
            made = worker.run(jobs.align, files, [later.volume.affine, earlier.volume.affine], [f.volume.unit == "HU" for f in (later, earlier)], same,
                              progress=bench.progress, cancelled=bench.cancelled)  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        jobs.keep(path, made)
    if why := made.quality.doubts(same):
        raise NotApplicable(f"{earlier.study.handle} and {later.study.handle} can't be brought together: {why}",
                            "check that both show the same place of the same patient, and name others if not")  # fmt: skip
    return made


def _identical(a: Found, b: Found) -> bool:
    return a.volume.same_grid(b.volume) and np.array_equal(a.volume.array, b.volume.array)


def _tracks(founds: list[Found], alignments: list[Registration]) -> list[Track]:
    count = len(founds)
    owner: dict[tuple[int, int], Track] = {}
    tracks: list[Track] = []

    def begin(k: int, places: Sequence[int], events: Event | None) -> None:
        for j in places:
            track = Track(
                [[] for _ in range(count)],
                [State.NOT_YET] * k + [State.MEASURED] + [State.GONE] * (count - k - 1),
                [None] * count,
            )
            track.parts[k] = [founds[k].lesions[j]]
            track.events[k] = events
            owner[k, j] = track
            tracks.append(track)

    begin(0, range(len(founds[0].lesions)), None)
    for k in range(1, count):
        links = match(founds[k - 1].lesions, founds[k].lesions, alignments[k - 1], (founds[k - 1].volume, founds[k].volume))
        for link in links:
            _carry(link, k, owner, founds, begin)
        _again(k, owner, tracks, founds, alignments)
        for track in tracks:  # what wasn't there on the study before either
            if not track.parts[k] and track.first < k and track.states[k] is State.GONE:
                track.states[k] = (
                    State.NOT_COVERED if track.states[k - 1] is State.NOT_COVERED and track.events[k] is None else track.states[k]
                )
    return tracks


def _carry(link: Link, k: int, owner: dict[tuple[int, int], Track], founds: list[Found], begin: Any) -> None:
    lesions = founds[k].lesions
    if not link.before:
        begin(k, link.after, link.event)
        if link.event is Event.NOT_COVERED:
            for j in link.after:
                owner[k, j].states[:k] = [State.NOT_COVERED] * k
        return
    mine = list(dict.fromkeys(id(owner[k - 1, i]) for i in link.before))
    heirs = [next(owner[k - 1, i] for i in link.before if id(owner[k - 1, i]) == m) for m in mine]
    if not link.after:
        for track in heirs:
            track.events[k] = link.event
            track.states[k] = State.GONE if link.event is Event.GONE else State.NOT_COVERED
        return
    main = max(heirs, key=lambda t: t.total(k - 1, "volume"))
    main.parts[k] = [lesions[j] for j in link.after]
    main.states[k], main.events[k] = State.MEASURED, link.event
    for track in heirs:
        if track is not main:
            track.states[k], track.events[k] = State.MERGED, Event.MERGED
    for j in link.after:
        owner[k, j] = main


def _again(
    k: int, owner: dict[tuple[int, int], Track], tracks: list[Track], founds: list[Found], alignments: list[Registration]
) -> None:
    """A lesion that seems new at the place of one that had gone (or lay outside a study between) is that one."""
    for j, lesion in enumerate(founds[k].lesions):
        new = owner[k, j]
        if new.first != k or k < 2:
            continue
        for old in tracks:
            last = max((n for n, p in enumerate(old.parts) if p), default=k)
            if old is new or last >= k - 1 or old.states[k] is State.MEASURED:
                continue
            points = old.largest(last)
            assert points is not None
            moved = points.points
            for step in range(last, k):
                moved = alignments[step].to_fixed(moved)
            if apart_or_share(moved, lesion, points) >= OVERLAP:
                old.parts[k], old.states[k], old.events[k] = [lesion], State.MEASURED, Event.SAME
                owner[k, j] = old
                tracks.remove(new)
                break


def quality_words(quality: Quality) -> str:
    """The alignment's quality in a sentence's words."""
    how = "rigidly, then deformably" if quality.deformed else "rigidly"
    return (f"{how} (SimpleITK): the body was moved by {quality.moved_mm:g} mm on average, {100 * min(quality.shared, 1.0):.0f} % of the smaller one lies on the "
            f"other, correlation {quality.correlation_before:.2f} before and {quality.correlation:.2f} after, there and back {quality.inconsistent_mm:g} mm")  # fmt: skip


def as_dict(quality: Quality) -> dict[str, Any]:
    """The quality for a fact's value."""
    return asdict(quality)
