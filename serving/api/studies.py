"""Studies: take in, list, show, look at, delete; and the patient's timeline."""

import io
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, BackgroundTasks, Body, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.types import Message

from knowledge.errors import NotFound, Refused
from knowledge.evidence import Frozen
from knowledge.records.model import spelled
from knowledge.studies import intake, nifti, render
from knowledge.studies.archive import Import
from knowledge.studies.audit import AuditEntry
from knowledge.studies.deidentify.profile import Option
from knowledge.studies.export import options_of, write_zip
from knowledge.studies.frames import thinned
from knowledge.studies.model import Series, Study
from knowledge.studies.unpack import Incoming, from_stream, opened_again
from serving.api.deps import Caller, Granted, HouseDep, OutboxDep
from serving.errors import Problem
from serving.house import House
from tools.export.drawn import drawing_of
from tools.export.objects import OBJECTS, Form, made
from tools.models.masks import mask_files

router = APIRouter(tags=["studies"])
MAX_FILES = 100_000
FIELDS = ("patient_id", "study_date", "modality", "body_part")
_FORM: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {
        "type": "object", "required": ["files"],
        "properties": {
            "files": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}, "description": intake.KNOWN},
            **{name: {"type": "string", "maxLength": 128, "description": f"For files that carry no {name} of their own."} for name in FIELDS},
        },
    }}}},
}  # fmt: skip


class TimelineEntry(Frozen):
    """One thing in the patient's time."""

    date: str | None
    kind: str
    id: str
    title: str


@router.post("/v1/studies", status_code=201, operation_id="import_studies", summary="Take in images, reports and records",
             openapi_extra=_FORM)  # fmt: skip
async def import_studies(house: HouseDep, who: Caller, request: Request) -> Import:
    """Each file is taken whole or refused with its reason; 422 when nothing could be taken.

    Files go through the disk, so memory doesn't grow with the upload. `conflicts` names what contradicts itself or the archive, `asks`
    what the files don't say of themselves.
    """
    form = await form_of(request, house.settings.max_upload_mb * 2**20)
    try:
        files = [v for v in form.getlist("files") if isinstance(v, UploadFile)]
        hints = _hints({name: form.get(name) for name in FIELDS})
        if not files:
            raise Problem(422, "InvalidRequest", "no file came", "send the files as fields named files")
        done = await run_in_threadpool(house.archive.add, _unpacked(files), hints, who)
    finally:
        await form.close()
    if not done.studies and not done.records:
        reasons = "; ".join(f"{r.file}: {r.reason}" for r in done.rejected[:10]) or "no file came"
        raise Problem(422, "NothingTaken", reasons, intake.KNOWN)
    return done


async def form_of(request: Request, limit: int) -> FormData:
    """The form, its files on the disk. A body without a stated length is counted as it comes."""
    kind = request.headers.get("content-type", "").lower()
    if not kind.startswith("multipart/form-data") or "boundary=" not in kind:
        raise Problem(422, "InvalidRequest", "the body isn't multipart/form-data", "send the files as fields named files")
    came = 0

    async def receive() -> Message:
        nonlocal came
        message = await request.receive()
        came += len(message.get("body", b""))
        if came > limit:
            raise Problem(413, "TooLarge", f"more than {limit >> 20} MiB", "send less at once")
        return message

    try:
        return await Request(request.scope, receive).form(max_files=MAX_FILES, max_fields=MAX_FILES)
    except (MultiPartException, HTTPException) as error:
        raise Problem(
            422, "InvalidRequest", "the multipart body can't be read", "send the files as fields named files"
        ) from error


def _unpacked(files: list[UploadFile]) -> Iterator[Incoming]:
    for file in files:
        yield from from_stream(file.filename or "file", partial(opened_again, file.file))


def _hints(given: dict[str, Any]) -> intake.Hints:
    for name, value in given.items():
        if value is not None and (not isinstance(value, str) or len(value) > 128):
            raise Problem(422, "InvalidRequest", f"{name} isn't a text of at most 128 characters", "shorten it")
    day = given["study_date"]
    if day and not _is_day(day):
        raise Problem(422, "InvalidRequest", "study_date isn't a date", "write it as 2024-05-31")
    return intake.Hints(*(given[name] or None for name in FIELDS))


def _is_day(text: str) -> bool:
    try:
        return re.fullmatch(r"\d{4}-\d{2}-\d{2}", text) is not None and bool(date.fromisoformat(text))
    except ValueError:
        return False


_STUDIES = TypeAdapter(list[Study])


@router.get("/v1/studies", operation_id="list_studies_of_archive", summary="List studies", response_model=list[Study])
def list_studies(
    house: HouseDep, who: Caller, grant: Granted, patient_id: str | None = None,
    modality: Annotated[str | None, Query(max_length=16)] = None,
    since: Annotated[date | None, Query(description="First study date.")] = None,
    until: Annotated[date | None, Query(description="Last study date.")] = None,
    limit: Annotated[int | None, Query(ge=1, le=1000, description="Left out: 50 of all patients, 1000 of one.")] = None,
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
) -> Response:  # fmt: skip
    """Studies of a patient in their order, or of all patients, newest first; `X-Next-Offset` says where the next page starts."""
    first, last = (d.isoformat() if d else None for d in (since, until))
    patient_id = grant.patient or patient_id
    page = limit or (1000 if patient_id else 50)
    found = house.archive.studies(patient_id, modality, first, last, page + 1, offset)
    headers = {"X-Next-Offset": str(offset + page)} if len(found) > page else None
    return Response(_STUDIES.dump_json(found[:page]), media_type="application/json", headers=headers)


@router.get("/v1/studies/{study_id}/export.zip", operation_id="export_study", summary="A study's files, de-identified by choice",
            response_class=FileResponse, responses={200: {"content": {"application/zip": {}}}})  # fmt: skip
def export_study(
    house: HouseDep, who: Caller, study_id: str, background: BackgroundTasks,
    profile: Annotated[Literal["none", "basic", "research"], Query(description="PS3.15 profile; none: the originals.")] = "none",
    option: Annotated[list[Option] | None, Query(description="More options of PS3.15 E.3, faces among them; they need a profile.")] = None,
) -> FileResponse:  # fmt: skip
    """With a profile only what it can clean goes in; `X-Left-Out` counts the rest. The audit keeps who exported what."""
    if option and profile == "none":
        raise Problem(422, "InvalidRequest", "options are those of a profile", "add profile=basic or profile=research")
    options = None if profile == "none" else options_of(profile, option or [])
    handle, name = tempfile.mkstemp(suffix=".zip")
    background.add_task(Path(name).unlink, missing_ok=True)
    try:
        with os.fdopen(handle, "wb") as file:
            done = write_zip(house.archive, study_id, file, options, who)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    headers = {"X-Left-Out": str(len(done.left_out)), "X-Text-Blanked": str(done.blanked)}
    return FileResponse(name, media_type="application/zip", filename=f"{study_id}.zip", headers=headers, background=background)


class Correction(Frozen):
    """What a study's files don't say of themselves."""

    patient_id: str | None = Field(None, min_length=1, max_length=128)
    study_date: date | None = None
    modality: str | None = Field(None, min_length=1, max_length=16)
    body_part: str | None = Field(None, min_length=1, max_length=64)


@router.patch("/v1/studies/{study_id}", operation_id="complete_study", summary="Say what a study's files don't")
def complete_study(house: HouseDep, who: Caller, study_id: str, said: Annotated[Correction, Body()]) -> Study:
    """Whose it is, when, what it shows: for files that carry none of it. DICOM says it itself: 409."""
    if said.study_date or said.modality or said.body_part:
        day = said.study_date.isoformat() if said.study_date else None
        house.archive.describe(study_id, day, said.modality, said.body_part, who)
    if said.patient_id:
        house.archive.assign(study_id, said.patient_id, who)
    return house.archive.study(study_id)


@router.get("/v1/audit", operation_id="show_audit", summary="What was done to the archive")
def show_audit(
    house: HouseDep, who: Caller, subject: Annotated[str | None, Query(max_length=64)] = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[AuditEntry]:  # fmt: skip
    """Newest first; no patient is named in it."""
    return house.archive.audit(limit, subject)


@router.get("/v1/studies/{study_id}", operation_id="show_study", summary="Show a study with its series")
def show_study(house: HouseDep, who: Caller, study_id: str) -> Study:
    return house.archive.study(study_id)


@router.delete(
    "/v1/studies/{study_id}", status_code=204, operation_id="delete_study", summary="Delete a study and what derives from it"
)
def delete_study(house: HouseDep, who: Caller, study_id: str) -> None:
    patient_id = house.archive.study(study_id).patient_id
    house.archive.delete(study_id, who)
    house.resources.drafts.forget_study(study_id, patient_id)
    house.resources.responses.forget_study(study_id, patient_id)
    if house.resources.cases is not None:
        house.resources.cases.forget([study_id])


def series_of(house: House, study_id: str, series_id: str) -> Series:
    """The series by id, UID or handle. Raises NotFound."""
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
    series = series_of(house, study_id, series_id)
    stack = house.viewer.stack(series.id)
    mask = house.viewer.mask(series.id, mask_path(house, series, overlay)) if overlay else None
    chosen = None
    if window:
        centre, width = (float(v) for v in window.split(","))
        chosen = (centre, max(width, 1e-6))
    data = render.png(stack, n, chosen, mask)
    return Response(data, media_type="image/png", headers={"Cache-Control": "private, max-age=300"})


def mask_path(house: House, series: Series, name: str) -> Path:
    """The file of a mask of this series. Raises NotFound."""
    folder = house.archive.derived(series.id)
    if name not in mask_files(folder):
        raise NotFound(f"the series has no mask {name}", "ask for a segmentation first")
    return folder / name


@router.get("/v1/studies/{study_id}/series/{series_id}/masks", operation_id="list_masks", summary="Masks made from a series")
def list_masks(house: HouseDep, who: Caller, study_id: str, series_id: str) -> list[str]:
    return mask_files(house.archive.derived(series_of(house, study_id, series_id).id))


@router.get("/v1/studies/{study_id}/series/{series_id}/masks/{name}", operation_id="mask_nifti", summary="A mask as NIfTI",
            response_class=Response, responses={200: {"content": {"application/gzip": {}}}})  # fmt: skip
def mask_nifti(house: HouseDep, who: Caller, study_id: str, series_id: str, name: str) -> Response:
    """The mask in the space of its source series."""
    path = mask_path(house, series_of(house, study_id, series_id), name)
    return Response(path.read_bytes(), media_type="application/gzip")


class Confirmed(BaseModel):
    """Who looked at what is to be stored, and wants it stored."""

    model_config = ConfigDict(extra="forbid")
    confirmed_by: str = Field(min_length=2, max_length=128)
    forms: list[Form] = Field(default=["seg"], min_length=1, max_length=5)


@router.get("/v1/studies/{study_id}/series/{series_id}/masks/{name}/seg.dcm", operation_id="mask_seg", summary="A mask as DICOM SEG",
            response_class=Response, responses={200: {"content": {"application/dicom": {}}}})  # fmt: skip
def mask_seg(house: HouseDep, who: Caller, study_id: str, series_id: str, name: str) -> Response:
    """One segment for each region. 422 where the source isn't DICOM."""
    return Response(_objects(house, study_id, series_id, name, "seg")[0], media_type="application/dicom")


@router.get("/v1/studies/{study_id}/series/{series_id}/masks/{name}/dicom", operation_id="mask_dicom", summary="A mask as DICOM objects",
            response_class=Response, responses={200: {"content": {"application/dicom": {}, "application/zip": {}}}})  # fmt: skip
def mask_dicom(house: HouseDep, who: Caller, study_id: str, series_id: str, name: str, form: Form = "seg") -> Response:
    """`form`: seg, sr (TID 1500), rtstruct, ko (key objects), sc (key images as pictures, in a zip). 422 where the source isn't DICOM."""
    files = _objects(house, study_id, series_id, name, form)
    if form == "sc":
        return Response(_zipped(files), media_type="application/zip")
    return Response(files[0], media_type="application/dicom")


@router.post("/v1/studies/{study_id}/series/{series_id}/masks/{name}/store", status_code=201, operation_id="store_mask",
             summary="Keep a mask in the archive as DICOM objects")  # fmt: skip
def store_mask(
    house: HouseDep, outbox: OutboxDep, who: Caller, study_id: str, series_id: str, name: str, confirmed: Confirmed
) -> Import:
    """From then on they are series of the study, and DICOMweb gives them out beside its source. Who confirmed it stands in the audit."""
    files = [f for form in dict.fromkeys(confirmed.forms) for f in _objects(house, study_id, series_id, name, form)]
    done = house.archive.add([Incoming(f"{n}.dcm", f) for n, f in enumerate(files)], by=who)
    if done.rejected:
        raise Refused(done.rejected[0].reason)
    kinds = "/".join(OBJECTS[f] for f in dict.fromkeys(confirmed.forms))
    house.archive.note(who, "store result", study_id, {"kind": kinds, "confirmed_by": confirmed.confirmed_by, "mask": name})
    series = series_of(house, study_id, series_id)
    outbox.route("mask", {"study_id": study_id, "series_id": series.id, "name": name}, confirmed.confirmed_by, who)
    return done


def _zipped(files: list[bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, data in enumerate(files, 1):
            archive.writestr(f"{number:02d}.dcm", data)
    return packed.getvalue()


def _objects(house: House, study_id: str, series_id: str, name: str, form: Form) -> list[bytes]:
    series = series_of(house, study_id, series_id)
    drawing = drawing_of(
        house.archive, house.resources.catalogue, house.archive.study(study_id), series, mask_path(house, series, name)
    )
    return made(drawing, form)


@router.get("/v1/studies/{study_id}/series/{series_id}/volume.nii.gz", operation_id="volume_nifti", summary="A series as NIfTI",
            response_class=Response, responses={200: {"content": {"application/gzip": {}}}})  # fmt: skip
def volume_nifti(
    house: HouseDep, who: Caller, study_id: str, series_id: str,
    at_most: Annotated[int | None, Query(ge=32, le=1024, description="Leave voxels out so that no axis has more (for looking at).")] = None,
) -> Response:  # fmt: skip
    """The voxels in their source grid, float32. With `at_most` int16 where no value is lost by it, and hardly compressed: to be there soon."""
    volume = house.archive.volume(series_of(house, study_id, series_id).id)
    found = nifti.for_looking(thinned(volume, at_most)) if at_most else nifti.to_bytes(volume)
    return Response(found, media_type="application/gzip")


@router.get("/v1/patients", operation_id="list_patients", summary="Patients of the archive")
def list_patients(house: HouseDep, who: Caller, grant: Granted) -> list[str]:
    return [grant.patient] if grant.patient else house.archive.patient_ids()


@router.get("/v1/patients/{patient_id}/timeline", operation_id="timeline", summary="Studies, reports and records in time")
def timeline(house: HouseDep, who: Caller, patient_id: str) -> list[TimelineEntry]:
    house.archive.patient(patient_id)
    entries = [TimelineEntry(date=s.date, kind="study", id=s.id, title=": ".join(w for w in (f"{'/'.join(s.modalities)} {s.body_part}".strip(), s.description) if w))
               for s in house.archive.studies(patient_id)]  # fmt: skip
    entries += [TimelineEntry(date=r.date, kind="report", id=r.id, title=r.title) for r in house.archive.reports(patient_id)]
    entries += [TimelineEntry(date=i.date, kind="record", id=i.id, title=i.name if i.value is None else
                              f"{i.name}: {i.value}{spelled(i.unit)}") for i in house.archive.items(patient_id)]  # fmt: skip
    return sorted(entries, key=lambda e: e.date or "", reverse=True)


@router.get("/v1/reports/{report_id}", operation_id="show_report", summary="A report's text")
def show_report(house: HouseDep, who: Caller, report_id: str) -> dict[str, Any]:
    return house.archive.report(report_id).model_dump()
