"""Which lesion of a later study is which of an earlier one, once the two are brought together: the same, split, merged, new, gone."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from knowledge.studies.volume import Volume
from tools.course.lesions import Lesion
from tools.course.registration import Registration

TOLERANCE_MM = 3.0
"""How far two outlines of one lesion may lie apart beyond a voxel and what the alignment is known to err."""
FAR_MM = 12.0
"""How far a lesion may have moved within its organ (breathing, a lobe that fell in) and still be taken for the same one."""
LIKE = 8.0
"""Most times that a lesion that has moved may have grown or shrunk in volume between two studies to be taken for the same one."""
OVERLAP = 0.1
"""Share of the smaller of two outlines that has to lie in the other."""


class Event(StrEnum):
    """What became of a lesion between two studies."""

    SAME = "same"
    SPLIT = "split"
    MERGED = "merged"
    NEW = "new"
    GONE = "gone"
    NOT_COVERED = "not covered"
    """The other study doesn't show the place."""


@dataclass(frozen=True)
class Link:
    """Lesions of the earlier study (`before`) that are those of the later one (`after`), by their places in the lists."""

    event: Event
    before: tuple[int, ...]
    after: tuple[int, ...]


def match(
    before: Sequence[Lesion], after: Sequence[Lesion], registration: Registration, views: tuple[Volume, Volume]
) -> list[Link]:
    """Every lesion of both studies in exactly one link. `views`: the earlier and the later image, for what they show.

    A tracking UID that both outlines carry decides. Then overlap after alignment, then nearness of what is left.
    """
    moved = [registration.to_fixed(b.points) for b in before]
    shares = _overlaps(moved, after, before, registration.quality.inconsistent_mm)
    tracked = {
        (i, j)
        for i, b in enumerate(before)
        for j, a in enumerate(after)
        if b.tracking and a.tracking and b.tracking[1] == a.tracking[1]
    }
    told = ({i for i, _ in tracked}, {j for _, j in tracked})
    linked = tracked | {
        (i, j) for i, j in zip(*np.nonzero(shares >= OVERLAP), strict=True) if i not in told[0] and j not in told[1]
    }
    linked |= _near(moved, before, after, linked)
    found = [_link(b, a, shares) for b, a in _groups(len(before), len(after), linked)]
    return [
        checked
        for link in (x for many in found for x in many)
        for checked in [_covered(link, before, after, registration, views)]
    ]


def _overlaps(moved: list[np.ndarray], after: Sequence[Lesion], before: Sequence[Lesion], inconsistent_mm: float) -> np.ndarray:
    """Share of the smaller one's voxels that lie within the tolerance of the other, [before, after]."""
    shares = np.zeros((len(moved), len(after)))
    for i, points in enumerate(moved):
        for j, lesion in enumerate(after):
            shares[i, j] = apart_or_share(points, lesion, before[i], inconsistent_mm)
    return shares


def apart_or_share(moved: np.ndarray, after: Lesion, before: Lesion, inconsistent_mm: float = TOLERANCE_MM) -> float:
    """Share of the smaller of two outlines that lies within the tolerance of the other. `moved`: voxels of `before` on the later study."""
    reach = TOLERANCE_MM + min(inconsistent_mm, TOLERANCE_MM) + max(before.pixel_mm, after.pixel_mm)
    if _apart(moved, after.points) > reach:
        return 0.0
    small, large = (moved, after.points) if before.sizes.volume_ml <= after.sizes.volume_ml else (after.points, moved)
    distances, _ = cKDTree(large).query(small, distance_upper_bound=reach)
    return float(np.isfinite(distances).mean())


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    """Distance of two bounding boxes."""
    gap = np.maximum(0, np.maximum(a.min(0) - b.max(0), b.min(0) - a.max(0)))
    return float(np.linalg.norm(gap))


def _near(
    moved: list[np.ndarray], before: Sequence[Lesion], after: Sequence[Lesion], linked: set[tuple[int, int]]
) -> set[tuple[int, int]]:
    """Of what overlaps nothing: pairs of like size, the nearest first (least sum of distances)."""
    left = [i for i in range(len(before)) if all(i != x for x, _ in linked)]
    right = [j for j in range(len(after)) if all(j != y for _, y in linked)]
    if not left or not right:
        return set()
    cost = np.full((len(left), len(right)), 1e6)
    for x, i in enumerate(left):
        for y, j in enumerate(right):
            distance = float(np.linalg.norm(moved[i].mean(0) - after[j].centre))
            ratio = before[i].sizes.volume_ml / max(after[j].sizes.volume_ml, 1e-6)
            if distance <= FAR_MM and 1 / LIKE <= ratio <= LIKE:
                cost[x, y] = distance
    return {(left[x], right[y]) for x, y in zip(*linear_sum_assignment(cost), strict=True) if cost[x, y] < 1e6}


def _groups(before: int, after: int, linked: set[tuple[int, int]]) -> list[tuple[list[int], list[int]]]:
    """Connected groups of the graph in which linked lesions are neighbours."""
    edges = np.array(sorted(linked), int).reshape(-1, 2)
    size = before + after
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], before + edges[:, 1])), shape=(size, size))
    count, part = connected_components(graph, directed=False)
    return [
        ([int(i) for i in np.nonzero(part[:before] == g)[0]], [int(j) for j in np.nonzero(part[before:] == g)[0]])
        for g in range(count)
    ]


def _link(before: list[int], after: list[int], shares: np.ndarray) -> list[Link]:
    """What a group says; a knot of several on both sides is undone at its weakest overlaps."""
    if not after:
        return [Link(Event.GONE, tuple(before), ())]
    if not before:
        return [Link(Event.NEW, (), tuple(after))]
    if len(before) == 1 or len(after) == 1:
        event = Event.SAME if len(before) == len(after) else Event.SPLIT if len(before) == 1 else Event.MERGED
        return [Link(event, tuple(before), tuple(after))]
    rows, columns = linear_sum_assignment(-shares[np.ix_(before, after)])
    pairs = {before[r]: [after[c]] for r, c in zip(rows, columns, strict=True)}
    owners = {after[c]: [before[r]] for r, c in zip(rows, columns, strict=True)}
    for j in after:
        if j not in owners:
            pairs[max(pairs, key=lambda i: shares[i, j])].append(j)
    for i in before:
        if i not in pairs:
            owners[max(owners, key=lambda j: shares[i, j])].append(i)
    found: list[Link] = []
    done: set[int] = set()
    for i, js in pairs.items():
        bs = tuple(sorted({b for j in js for b in owners.get(j, [i])} | {i}))
        event = Event.SAME if len(bs) == len(js) == 1 else Event.SPLIT if len(bs) == 1 else Event.MERGED
        if not done & {*bs}:
            found.append(Link(event, bs, tuple(sorted(js))))
        done |= {*bs}
    return found


def _covered(
    link: Link, before: Sequence[Lesion], after: Sequence[Lesion], registration: Registration, views: tuple[Volume, Volume]
) -> Link:
    """New and gone are said only of places that the other study shows."""
    if link.event is Event.NEW:
        place, view = registration.to_moving(after[link.after[0]].centre[None])[0], views[0]
    elif link.event is Event.GONE:
        place, view = registration.to_fixed(before[link.before[0]].centre[None])[0], views[1]
    else:
        return link
    return link if shows(view, place) else Link(Event.NOT_COVERED, link.before, link.after)


def shows(view: Volume, place: np.ndarray) -> bool:
    """True where a point (patient mm, RAS+) lies within an image."""
    if view.affine is None:
        return False
    at = np.linalg.inv(view.affine) @ np.append(place, 1.0)
    return bool(all(-0.5 <= v <= n - 0.5 for v, n in zip(at[:3], view.array.shape, strict=True)))
