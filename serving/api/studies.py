"""Studies: take in, list, show, look at, delete; and the patient's timeline."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, Response, UploadFile
from starlette.concurrency import run_in_threadpool

from knowledge.errors import NotFound
from knowledge.evidence import Frozen
from knowledge.records.model import spelled
from knowledge.studies import nifti, render
from knowledge.studies.archive import Import
from knowledge.studies.intake import Hints
from knowledge.studies.model import Series, Study
from knowledge.studies.unpack import Incoming, from_bytes
from serving.api.deps import Caller, HouseDep
from serving.errors import Problem
from serving.house import House
from tools.models.outline import mask_files

router = APIRouter(tags=["studies"])
Text = Annotated[str | None, Form(max_length=128)]


class TimelineEntry(Frozen):
    """One thing in the patient's time."""

    date: str | None
    kind: str
    id: str
    title: str


@router.post("/v1/studies", status_code=201, operation_id="import_studies", summary="Take in images, reports and records")
async def import_studies(
    house: HouseDep, who: Caller, files: Annotated[list[UploadFile], File()], patient_id: Text = None, study_date: Text = None,
    modality: Text = None, body_part: Text = None,
) -> Import:  # fmt: skip
    """Each file is taken whole or refused with its reason; 422 when nothing could be taken."""
    if study_date and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", study_date):
        raise Problem(422, "InvalidRequest", "study_date isn't a date", "write it as 2024-05-31")
    incoming: list[Incoming] = []
    for file in files:
        incoming.extend(from_bytes(file.filename or "file", await file.read()))
    hints = Hints(patient_id or None, study_date or None, modality or None, body_part or None)
    done = await run_in_threadpool(house.archive.add, incoming, hints)
    if not done.studies and not done.records:
        reasons = "; ".join(f"{r.file}: {r.reason}" for r in done.rejected[:10]) or "no file came"
        raise Problem(422, "NothingTaken", reasons, "send DICOM, NIfTI, PNG, JPEG, text reports, FHIR bundles, or a zip of these")
    return done


@router.get("/v1/studies", operation_id="list_studies_of_archive", summary="List studies")
def list_studies(house: HouseDep, who: Caller, patient_id: str | None = None) -> list[Study]:
    return house.archive.studies(patient_id)


@router.get("/v1/studies/{study_id}", operation_id="show_study", summary="Show a study with its series")
def show_study(house: HouseDep, who: Caller, study_id: str) -> Study:
    return house.archive.study(study_id)


@router.delete(
    "/v1/studies/{study_id}", status_code=204, operation_id="delete_study", summary="Delete a study and what derives from it"
)
def delete_study(house: HouseDep, who: Caller, study_id: str) -> None:
    house.archive.delete(study_id)
    house.viewer.forget()


def _series(house: House, study_id: str, series_id: str) -> Series:
    for series in house.archive.study(study_id).series:
        if series_id in (series.id, series.series_uid, series.handle):
            return series
    raise NotFound(f"the study has no series {series_id}", "show the study")


@router.get("/v1/studies/{study_id}/series/{series_id}/slices/{n}.png", operation_id="slice_png", summary="One frame as PNG",
            response_class=Response, responses={200: {"content": {"image/png": {}}}})  # fmt: skip
def slice_png(house: HouseDep, who: Caller, study_id: str, series_id: str, n: int,
              window: Annotated[str | None, Query(pattern=r"^-?\d+(\.\d+)?,\d+(\.\d+)?$")] = None,
              overlay: str | None = None) -> Response:  # fmt: skip
    """Frame `n` from 0; `window` as centre,width; `overlay` the name of a mask of this series."""
    series = _series(house, study_id, series_id)
    stack = house.viewer.stack(series.id)
    mask = nifti.read_mask(_mask_path(house, series, overlay)).aligned_with(stack) if overlay else None
    chosen = None
    if window:
        centre, width = (float(v) for v in window.split(","))
        chosen = (centre, max(width, 1e-6))
    data = render.png(stack, n, chosen, mask)
    return Response(data, media_type="image/png", headers={"Cache-Control": "private, max-age=300"})


def _mask_path(house: House, series: Series, name: str) -> Any:
    folder = house.archive.derived(series.id)
    if name not in mask_files(folder):
        raise NotFound(f"the series has no mask {name}", "ask for a segmentation first")
    return folder / name


@router.get("/v1/studies/{study_id}/series/{series_id}/masks", operation_id="list_masks", summary="Masks made from a series")
def list_masks(house: HouseDep, who: Caller, study_id: str, series_id: str) -> list[str]:
    return mask_files(house.archive.derived(_series(house, study_id, series_id).id))


@router.get("/v1/studies/{study_id}/series/{series_id}/masks/{name}", operation_id="mask_nifti", summary="A mask as NIfTI",
            response_class=Response, responses={200: {"content": {"application/gzip": {}}}})  # fmt: skip
def mask_nifti(house: HouseDep, who: Caller, study_id: str, series_id: str, name: str) -> Response:
    """The mask in the space of its source series."""
    path = _mask_path(house, _series(house, study_id, series_id), name)
    return Response(path.read_bytes(), media_type="application/gzip")


@router.get("/v1/studies/{study_id}/series/{series_id}/volume.nii.gz", operation_id="volume_nifti", summary="A series as NIfTI",
            response_class=Response, responses={200: {"content": {"application/gzip": {}}}})  # fmt: skip
def volume_nifti(house: HouseDep, who: Caller, study_id: str, series_id: str) -> Response:
    """The voxels in their source grid, float32."""
    volume = house.archive.volume(_series(house, study_id, series_id).id)
    return Response(nifti.to_bytes(volume), media_type="application/gzip")


@router.get("/v1/patients", operation_id="list_patients", summary="Patients of the archive")
def list_patients(house: HouseDep, who: Caller) -> list[str]:
    return house.archive.patient_ids()


@router.get("/v1/patients/{patient_id}/timeline", operation_id="timeline", summary="Studies, reports and records in time")
def timeline(house: HouseDep, who: Caller, patient_id: str) -> list[TimelineEntry]:
    house.archive.patient(patient_id)
    entries = [TimelineEntry(date=s.date, kind="study", id=s.id, title=f"{'/'.join(s.modalities)} {s.body_part}: {s.description}")
               for s in house.archive.studies(patient_id)]  # fmt: skip
    entries += [TimelineEntry(date=r.date, kind="report", id=r.id, title=r.title) for r in house.archive.reports(patient_id)]
    entries += [TimelineEntry(date=i.date, kind="record", id=i.id, title=i.name if i.value is None else
                              f"{i.name}: {i.value}{spelled(i.unit)}") for i in house.archive.items(patient_id)]  # fmt: skip
    return sorted(entries, key=lambda e: e.date or "", reverse=True)


@router.get("/v1/reports/{report_id}", operation_id="show_report", summary="A report's text")
def show_report(house: HouseDep, who: Caller, report_id: str) -> dict[str, Any]:
    return house.archive.report(report_id).model_dump()
