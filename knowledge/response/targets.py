"""Which lesions are targets at baseline, by each criteria's own rules (knowledge/guidelines/corpus: recist_1_1, rano_2_0, mrecist, lugano_2014)."""

from collections.abc import Sequence
from dataclasses import dataclass

from knowledge.response.model import Criteria, Lesion, Role, Size, State

NODE_TARGET_MM, NODE_DISEASE_MM = 15.0, 10.0
"""RECIST 1.1: short axis from which a node is a target, and from which it is disease (Eisenhauer 2009, doi:10.1016/j.ejca.2008.10.026)."""
LESION_MM, THIN_SLICE_MM, THICK_TIMES = 10.0, 5.0, 2.0
"""RECIST 1.1: longest diameter on slices up to 5 mm; on thicker ones twice the slice."""
RANO_MM, RANO_SLICES = 10.0, 2
"""RANO 2.0: 10 x 10 mm on two slices (Wen 2023, doi:10.1200/JCO.23.01059)."""
LUGANO_NODE_MM, LUGANO_EXTRANODAL_MM = 15.0, 10.0
"""Lugano: longest diameter of a node above 15 mm, of an extranodal site above 10 mm (Cheson 2014, doi:10.1200/JCO.2013.54.8800)."""
TOO_SMALL_MM = 5.0
"""RECIST 1.1: what is there but too small to measure counts 5 mm."""


@dataclass(frozen=True)
class Limits:
    """How many targets, and how many of one organ."""

    most: int
    per_organ: int | None


LIMITS = {Criteria.RECIST: Limits(5, 2), Criteria.IRECIST: Limits(5, 2), Criteria.MRECIST: Limits(5, 2), Criteria.RANO: Limits(2, None),
          Criteria.LUGANO: Limits(6, None)}  # fmt: skip


def measurable(criteria: Criteria, lesion: Lesion, size: Size) -> str:
    """Why a lesion can't be a target at baseline; empty where it can."""
    if size.state is not State.MEASURED or size.long_mm is None or size.short_mm is None:
        return "not seen at baseline"
    if not lesion.measurable_kind:
        return "of a kind that is never measured"
    if criteria is Criteria.RANO:
        if min(size.long_mm, size.short_mm) < RANO_MM:
            return f"{size.long_mm:g} x {size.short_mm:g} mm, below {RANO_MM:g} x {RANO_MM:g} mm"
        return "" if size.slices >= RANO_SLICES else f"seen on {size.slices} slice only"
    if criteria is Criteria.LUGANO:
        least = LUGANO_NODE_MM if lesion.node else LUGANO_EXTRANODAL_MM
        return "" if size.long_mm > least else f"longest diameter {size.long_mm:g} mm, not above {least:g} mm"
    if lesion.node:
        return "" if size.short_mm >= NODE_TARGET_MM else f"short axis {size.short_mm:g} mm, below {NODE_TARGET_MM:g} mm"
    least = max(LESION_MM, THICK_TIMES * size.slice_mm if size.slice_mm > THIN_SLICE_MM else 0.0)
    return "" if size.long_mm >= least else f"longest diameter {size.long_mm:g} mm, below {least:g} mm"


def chosen(criteria: Criteria, lesions: Sequence[Lesion], baseline: str) -> list[Lesion]:
    """The lesions with their roles by the rules: the largest measurable ones as targets, within the limits of number and organ."""
    limits = LIMITS[criteria]
    taken: dict[str, int] = {}
    roles: dict[str, tuple[Role, str]] = {}
    largest = sorted(lesions, key=lambda x: -(x.at(baseline).long_mm or 0.0))
    for one in largest:
        size = one.at(baseline)
        if size.state in (State.NOT_YET, State.NOT_COVERED):
            roles[one.name] = (
                (Role.NEW, "first seen after baseline")
                if size.state is State.NOT_YET
                else (Role.IGNORED, "baseline doesn't show its place")
            )
            continue
        why = measurable(criteria, one, size)
        full = sum(taken.values()) >= limits.most
        crowded = limits.per_organ is not None and taken.get(one.organ, 0) >= limits.per_organ
        if not why and not full and not crowded:
            taken[one.organ] = taken.get(one.organ, 0) + 1
            roles[one.name] = (Role.TARGET, "measurable, among the largest")
        elif _normal_node(criteria, one, size):
            roles[one.name] = (Role.IGNORED, why or "a node of normal size")
        else:
            beyond = (
                f"{limits.most} targets are chosen already"
                if full
                else f"{limits.per_organ} targets of the {one.organ} are chosen already"
            )
            roles[one.name] = (Role.NON_TARGET, why or beyond)
    return [x.model_copy(update={"role": roles[x.name][0], "why": roles[x.name][1], "by": "rules"}) for x in lesions]


def _normal_node(criteria: Criteria, lesion: Lesion, size: Size) -> bool:
    if not lesion.node:
        return False
    if criteria is Criteria.LUGANO:
        return (size.long_mm or 0.0) <= LUGANO_NODE_MM
    return (size.short_mm or 0.0) < NODE_DISEASE_MM


def departures(criteria: Criteria, lesions: Sequence[Lesion], baseline: str) -> list[str]:
    """Where a reader's targets aren't what the rules allow."""
    targets = [x for x in lesions if x.role is Role.TARGET]
    limits, found = LIMITS[criteria], []
    if len(targets) > limits.most:
        found.append(f"{len(targets)} targets were chosen; the criteria follow {limits.most} at most")
    organs = [x.organ for x in targets]
    for organ in dict.fromkeys(organs):
        if limits.per_organ is not None and organs.count(organ) > limits.per_organ:
            found.append(f"{organs.count(organ)} targets are of the {organ}; the criteria allow {limits.per_organ} of one organ")
    for one in targets:
        if one.by == "reader" and (why := measurable(criteria, one, one.at(baseline))):
            found.append(f"{one.name} was chosen as a target though it isn't measurable at baseline: {why}")
    return found
