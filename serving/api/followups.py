"""Follow-ups that reports recommend: of a patient, and of the whole archive."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Annotated

from fastapi import APIRouter, Query

from knowledge.evidence import Frozen
from knowledge.records.followups import FollowUp, Status, follow_ups
from serving.api.deps import Caller, HouseDep
from serving.house import House

router = APIRouter(tags=["follow-ups"])
PAGE = 200


class ShownFollowUp(Frozen):
    """One recommended follow-up, with the sentence that recommends it."""

    patient_id: str
    report_id: str
    report_date: str | None
    sentence: str
    start: int
    end: int
    modalities: list[str]
    body_part: str
    earliest: str | None
    due: str | None
    status: Status
    done_by: str | None


class Page(Frozen):
    """Follow-ups of the archive, the most overdue first; `next` names where the next page starts."""

    as_of: str
    follow_ups: list[ShownFollowUp]
    total: int
    next: int | None


@router.get(
    "/v1/patients/{patient_id}/follow-ups",
    operation_id="patient_follow_ups",
    summary="Follow-ups that a patient's reports recommend",
)
def of_patient(house: HouseDep, who: Caller, patient_id: str, as_of: date | None = None) -> list[ShownFollowUp]:
    """`as_of`: the day against which they are due; left out: today."""
    return list(_of(house, patient_id, as_of or _today()))


@router.get("/v1/follow-ups", operation_id="follow_ups", summary="Follow-ups of the whole archive")
def of_archive(
    house: HouseDep,
    who: Caller,
    status: Annotated[Status | None, Query(description="Left out: those that are overdue.")] = "overdue",
    as_of: date | None = None,
    start: Annotated[int, Query(ge=0)] = 0,
) -> Page:
    """Overdue ones by default, most overdue first."""
    day = as_of or _today()
    found = [f for p in house.archive.patients_with_reports() for f in _of(house, p, day) if f.status == status]
    found.sort(key=lambda f: f.due or "")
    part = found[start : start + PAGE]
    return Page(
        as_of=day.isoformat(), follow_ups=part, total=len(found), next=start + PAGE if start + PAGE < len(found) else None
    )


def _of(house: House, patient_id: str, day: date) -> Iterator[ShownFollowUp]:
    house.archive.patient(patient_id)
    reports = house.archive.reports(patient_id)
    if follow_ups(reports, [], day):  # studies are read only where something is recommended
        yield from (_shown(patient_id, f) for f in follow_ups(reports, house.archive.studies(patient_id), day))


def _shown(patient_id: str, one: FollowUp) -> ShownFollowUp:
    return ShownFollowUp(
        patient_id=patient_id, report_id=one.report.id, report_date=one.report.date, sentence=one.sentence.text, start=one.sentence.start,
        end=one.sentence.end, modalities=list(one.modalities), body_part=one.body_part, earliest=one.earliest, due=one.due, status=one.status,
        done_by=one.done_by,
    )  # fmt: skip


def _today() -> date:
    return datetime.now(UTC).date()
