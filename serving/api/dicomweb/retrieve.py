"""WADO-RS: retrieve instances, their attributes, frames, bulk data and pictures (PS3.18 10.4)."""

import io
import re
from collections.abc import Iterable, Iterator

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from knowledge.studies import wado
from knowledge.studies.query import Stored
from serving.api import multipart
from serving.api.dicomweb.common import JSON, PART_10, PREFIX, Named, NamedInstance, NamedSeries, NamedStudy, link_to, takes
from serving.errors import Problem

router = APIRouter(prefix=PREFIX, tags=["DICOMweb"])


@router.get("/studies/{study}", operation_id="retrieve_study", summary="Retrieve a study")
async def retrieve_study(named: NamedStudy) -> Response:
    return await run_in_threadpool(_whole, named)


@router.get("/studies/{study}/series/{series}", operation_id="retrieve_series", summary="Retrieve a series")
async def retrieve_series(named: NamedSeries) -> Response:
    return await run_in_threadpool(_whole, named)


@router.get(
    "/studies/{study}/series/{series}/instances/{instance}", operation_id="retrieve_instance", summary="Retrieve an instance"
)
async def retrieve_instance(named: NamedInstance) -> Response:
    """As multipart/related, or alone where application/dicom is accepted. Compressed pixels come as stored where the transfer
    syntax is named or `*`, decompressed otherwise."""  # fmt: skip
    return await run_in_threadpool(_whole, named)


def _whole(named: Named) -> Response:
    stored = named.stored
    choice = next((a for a in multipart.accepted(named.accept) if a.wants in (PART_10, "*/*", "application/*")), None)
    if choice is None:
        raise Problem(
            406, "NotAcceptable", "instances are given as application/dicom", f"accept multipart/related; type={PART_10}"
        )
    natives = [_native(s, choice.syntax) for s in stored]
    if choice.kind == PART_10 and len(stored) == 1:
        chunks = wado.whole(stored[0], natives[0])
        return StreamingResponse(chunks, media_type=PART_10)
    base = named.base
    parts = ((PART_10, link_to(base, s), wado.whole(s, native)) for s, native in zip(stored, natives, strict=True))
    return _related(parts, PART_10)


def _native(stored: Stored, syntax: str) -> bool:
    """Whether an instance is to be decompressed for a transfer syntax that is asked for. Raises 406 for one that it can't be given in."""
    own = wado.syntax_of(stored)
    if syntax in ("*", own):
        return False
    if syntax in ("", *wado.NATIVE):
        return own not in wado.NATIVE
    raise Problem(
        406,
        "NotAcceptable",
        "instances are given as stored or decompressed, in no other transfer syntax",
        "accept transfer-syntax=*",
    )


def _related(parts: Iterable[tuple[str, str, Iterable[bytes]]], kind: str) -> StreamingResponse:
    boundary = multipart.new_boundary()
    media = f'multipart/related; type="{kind}"; boundary={boundary}'
    return StreamingResponse(multipart.written(parts, boundary), headers={"Content-Type": media})


@router.get("/studies/{study}/metadata", operation_id="retrieve_study_metadata", summary="Attributes of a study's instances")
async def retrieve_study_metadata(named: NamedStudy) -> Response:
    return await run_in_threadpool(_metadata, named)


@router.get(
    "/studies/{study}/series/{series}/metadata",
    operation_id="retrieve_series_metadata",
    summary="Attributes of a series' instances",
)
async def retrieve_series_metadata(named: NamedSeries) -> Response:
    return await run_in_threadpool(_metadata, named)


@router.get("/studies/{study}/series/{series}/instances/{instance}/metadata", operation_id="retrieve_instance_metadata",
            summary="Attributes of an instance")  # fmt: skip
async def retrieve_instance_metadata(named: NamedInstance) -> Response:
    return await run_in_threadpool(_metadata, named)


def _metadata(named: Named) -> Response:
    stored = named.stored
    if not takes(named.accept, JSON, "application/json"):
        raise Problem(406, "NotAcceptable", "attributes are told as application/dicom+json", f"accept {JSON}")
    base = named.base

    def written() -> Iterator[bytes]:
        for number, one in enumerate(stored):
            told = wado.attributes(one, f"{link_to(base, one)}/bulkdata")
            yield (b"," if number else b"[") + bytes(JSONResponse(told).body)
        yield b"]"

    return StreamingResponse(written(), media_type=JSON)


@router.get("/studies/{study}/series/{series}/instances/{instance}/bulkdata/{path:path}", operation_id="retrieve_bulkdata",
            summary="The bytes of one attribute")  # fmt: skip
async def retrieve_bulkdata(named: NamedInstance, path: str) -> Response:
    (stored,) = await run_in_threadpool(lambda: named.stored)
    choice = _octets(named.accept)
    data = await run_in_threadpool(wado.bulk_data, stored, path.split("/"))
    return _frames_in([data], choice)


@router.get(
    "/studies/{study}/series/{series}/instances/{instance}/frames/{frames}", operation_id="retrieve_frames", summary="Frames"
)
async def retrieve_frames(named: NamedInstance, frames: str) -> Response:
    """Numbers from 1, parted by commas. Native bytes as application/octet-stream, compressed ones in their own media type."""
    (stored,) = await run_in_threadpool(lambda: named.stored)
    numbers = _numbers(frames)
    for choice in multipart.accepted(named.accept):
        if choice.wants in (wado.OCTETS, "*/*", "application/*") or choice.wants.startswith(("image/", "video/")):
            compressed = choice.syntax not in ("", *wado.NATIVE) or choice.wants not in (wado.OCTETS, "application/*")
            found = await run_in_threadpool(wado.frames_of, stored, numbers, not compressed)
            fits = choice.wants in ("*/*", "image/*", found[0].media) or choice.syntax == "*"
            if fits and choice.syntax in ("", "*", found[0].syntax):
                return _frames_in(found, choice)
    raise Problem(406, "NotAcceptable", "frames are given as stored, or as octets where they can be decompressed",
                  f'accept multipart/related; type="{wado.OCTETS}"')  # fmt: skip


def _numbers(frames: str) -> list[int]:
    if not re.fullmatch(r"\d{1,9}(,\d{1,9}){0,9999}", frames, re.ASCII):
        raise Problem(400, "InvalidFrames", "frames are whole numbers parted by commas", "write frames/1,2,3")
    numbers = [int(f) for f in frames.split(",")]
    if 0 in numbers:
        raise Problem(400, "InvalidFrames", "the first frame is 1", "write frames/1")
    return [n - 1 for n in numbers]


def _octets(accept: str) -> multipart.Accepted:
    choice = next((a for a in multipart.accepted(accept) if a.wants in (wado.OCTETS, "*/*", "application/*")), None)
    if choice is None:
        raise Problem(
            406,
            "NotAcceptable",
            "bulk data is given as application/octet-stream",
            f'accept multipart/related; type="{wado.OCTETS}"',
        )
    return choice


def _frames_in(frames: list[wado.Frame], choice: multipart.Accepted) -> Response:
    if choice.kind in (wado.OCTETS, frames[0].media) and len(frames) == 1:
        return Response(frames[0].data, media_type=frames[0].media)
    parts = ((f"{f.media}; transfer-syntax={f.syntax}", "", [f.data]) for f in frames)
    return _related(parts, frames[0].media)


@router.get(
    "/studies/{study}/series/{series}/instances/{instance}/rendered",
    operation_id="render_instance",
    summary="An instance as a picture",
)
async def render_instance(named: NamedInstance) -> Response:
    """The middle frame. `window=centre,width,function` and `viewport=width,height` as PS3.18 8.3.5.1 has them."""
    return await run_in_threadpool(_rendered, named, None)


@router.get("/studies/{study}/series/{series}/instances/{instance}/frames/{frames}/rendered", operation_id="render_frame",
            summary="A frame as a picture")  # fmt: skip
async def render_frame(named: NamedInstance, frames: str) -> Response:
    return await run_in_threadpool(_rendered, named, _numbers(frames)[0])


@router.get("/studies/{study}/thumbnail", operation_id="study_thumbnail", summary="A study as a small picture")
async def study_thumbnail(named: NamedStudy) -> Response:
    return await run_in_threadpool(_rendered, named, None, small=True)


@router.get("/studies/{study}/series/{series}/thumbnail", operation_id="series_thumbnail", summary="A series as a small picture")
async def series_thumbnail(named: NamedSeries) -> Response:
    return await run_in_threadpool(_rendered, named, None, small=True)


@router.get("/studies/{study}/series/{series}/instances/{instance}/thumbnail", operation_id="instance_thumbnail",
            summary="An instance as a small picture")  # fmt: skip
async def instance_thumbnail(named: NamedInstance) -> Response:
    return await run_in_threadpool(_rendered, named, None, small=True)


SMALL = (200, 200)


def _rendered(named: Named, frame: int | None, small: bool = False) -> Response:
    stored = [s for s in named.stored if s.place.get("frames")]
    if not stored:
        raise Problem(406, "NotAcceptable", "it holds no image that could be shown", "retrieve it")
    one = sorted(stored, key=lambda s: s.place.get("number") or 0)[len(stored) // 2]
    query = named.request.query_params
    window, viewport = _window(query.get("window")), _viewport(query.get("viewport"))
    picture = wado.picture(
        one, one.place["frames"] // 2 if frame is None else frame, window, viewport or (SMALL if small else None)
    )
    kinds = {"image/png": "PNG", "image/jpeg": "JPEG", "image/gif": "GIF"}
    for choice in multipart.accepted(named.accept):
        kind = "image/jpeg" if choice.wants in ("*/*", "image/*") else choice.wants
        if kind in kinds:
            buffer = io.BytesIO()
            picture.save(buffer, kinds[kind])
            return Response(buffer.getvalue(), media_type=kind)
    raise Problem(406, "NotAcceptable", "pictures are given as JPEG, PNG or GIF", "accept image/jpeg")


def _window(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(-?\d{1,7}(?:\.\d{1,6})?),(\d{1,7}(?:\.\d{1,6})?)(?:,(linear|linear-exact|sigmoid))?", text)
    if match is None or float(match.group(2)) < 1:
        raise Problem(400, "InvalidWindow", "a window is centre,width and a function", "write window=40,400,linear")
    return float(match.group(1)), float(match.group(2))


def _viewport(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,4}),(\d{1,4})(?:,.*)?", text)
    if match is None or not (0 < int(match.group(1)) <= 4096 and 0 < int(match.group(2)) <= 4096):
        raise Problem(400, "InvalidViewport", "a viewport is width,height of up to 4096 pixels", "write viewport=512,512")
    return int(match.group(1)), int(match.group(2))
