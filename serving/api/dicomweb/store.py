"""STOW-RS: store instances (PS3.18 10.5)."""

import io
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from knowledge.studies import wado
from knowledge.studies.archive import Import
from knowledge.studies.intake import Hints
from knowledge.studies.tags import Tags, put
from knowledge.studies.unpack import Incoming
from serving.api import multipart
from serving.api.deps import Caller, HouseDep
from serving.api.dicomweb.common import (
    JSON,
    PART_10,
    PREFIX,
    StudyUid,
    base_of,
)
from serving.errors import Problem
from serving.house import House

router = APIRouter(prefix=PREFIX, tags=["DICOMweb"])
_UNKNOWN_DATA, _NOT_THIS_STUDY, _NOT_UNDERSTOOD = 0xA900, 0xA901, 0xC000
"""Failure reasons by the ranges of PS3.4 B.2.3: A9xx, the data set doesn't fit (its class; the study that was named); Cxxx, it can't be understood."""


@router.post("/studies", operation_id="store", summary="Store instances")
async def store(house: HouseDep, who: Caller, request: Request) -> Response:
    """multipart/related of application/dicom. 200 where all are stored, 202 where some are, 409 or 400 where none is."""
    return await _stored(house, who, request, "")


@router.post("/studies/{study}", operation_id="store_in_study", summary="Store instances of a study")
async def store_in_study(house: HouseDep, who: Caller, request: Request, study: StudyUid) -> Response:
    return await _stored(house, who, request, study)


async def _stored(house: House, who: str, request: Request, study: str) -> Response:
    boundary = multipart.boundary_of(request.headers.get("content-type", ""), PART_10)
    body = await multipart.body_of(request.stream(), boundary, house.settings.max_upload_mb * 2**20)
    try:
        if not any(p.size for p in body.parts):
            raise Problem(400, "EmptyBody", "the body holds no instance", "send at least one part")
        files = [Incoming(f"{n}", opener=partial(_opened, p)) for n, p in enumerate(body.parts)]
        done = await run_in_threadpool(house.archive.add, files, Hints(study_uid=study), who)
    finally:
        body.close()
    status = 200 if not done.rejected else 202 if done.instances else 409 if any(r.other_study for r in done.rejected) else 400
    return JSONResponse(_answer(done, base_of(request), study), status, media_type=JSON)


def _opened(part: multipart.Part) -> Any:
    if part.open().read(132)[128:] == b"DICM":
        return part.open()
    return io.BytesIO(wado.part_10(part.open().read()))


def _answer(done: Import, base: str, study: str) -> Tags:
    """What became of each instance (PS3.18 10.5.3.2)."""
    told: Tags = {}
    if study:
        told |= put("RetrieveURL", f"{base}/studies/{study}")
    if done.instances:
        told |= put("ReferencedSOPSequence", *({
            **put("ReferencedSOPClassUID", i.sop_class), **put("ReferencedSOPInstanceUID", i.sop_uid),
            **put("RetrieveURL", f"{base}/studies/{i.study_uid}/series/{i.series_uid}/instances/{i.sop_uid}"),
        } for i in done.instances))  # fmt: skip
    failed = [r for r in done.rejected if r.sop_uid]
    if failed:
        told |= put("FailedSOPSequence", *({
            **put("ReferencedSOPClassUID", r.sop_class), **put("ReferencedSOPInstanceUID", r.sop_uid),
            **put("FailureReason", _NOT_THIS_STUDY if r.other_study else _UNKNOWN_DATA),
        } for r in failed))  # fmt: skip
    others = [r for r in done.rejected if not r.sop_uid]
    if others:
        told |= put("OtherFailuresSequence", *(put("FailureReason", _NOT_UNDERSTOOD) for _ in others))
    return told
