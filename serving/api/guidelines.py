"""Guidelines: documents, search, a hospital's own added with progress, and the pages that citations open."""

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator
from datetime import date
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from knowledge.errors import NotFound, Refused
from knowledge.evidence import Frozen
from knowledge.guidelines.adding import KNOWN, About, Added
from knowledge.guidelines.corpus import Passage
from knowledge.guidelines.library import Document
from serving.api.deps import Caller, HouseDep
from serving.api.studies import form_of
from serving.errors import Problem, problem
from serving.house import House

router = APIRouter(tags=["guidelines"])
TEXTS = ("document", "organisation", "version", "date", "source", "body")
LISTS = ("disease", "modality")
_FORM: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {
        "type": "object", "required": ["files"],
        "properties": {
            "files": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}, "description": KNOWN},
            **{n: {"type": "string", "maxLength": 300, "description": f"The documents' {n}, where the file doesn't say it."} for n in TEXTS},
            **{n: {"type": "string", "maxLength": 300, "description": f"{n.capitalize()}, several with commas."} for n in LISTS},
        },
    }}}},
}  # fmt: skip


class Found(Frozen):
    """A passage that a search found, why, and the characters of its best sentence."""

    passage: Passage
    score: float
    why: str
    sentence: tuple[int, int]


@router.get("/v1/guidelines", operation_id="list_guidelines", summary="Documents of the corpus")
def list_guidelines(house: HouseDep, who: Caller, status: Literal["current", "superseded", "all"] = "all") -> list[Document]:
    return [d for d in documents(house) if status in ("all", d.status)]


def documents(house: House) -> list[Document]:
    """The corpus by document: in the box, then the hospital's own."""
    return house.resources.guidelines.documents()


@router.get("/v1/guidelines/search", operation_id="search_corpus", summary="Search guideline passages")
def search_corpus(house: HouseDep, who: Caller, q: Annotated[str, Query(min_length=1, max_length=2000)],
                  limit: Annotated[int, Query(ge=1, le=50)] = 5, disease: Annotated[str | None, Query(max_length=100)] = None,
                  version: Annotated[str | None, Query(max_length=100, description="Also superseded versions of this name.")] = None,
                  modality: Annotated[str | None, Query(max_length=16)] = None,
                  document: Annotated[str | None, Query(max_length=300)] = None) -> list[Found]:  # fmt: skip
    hits = house.resources.guidelines.search(q, limit, disease, version=version, modality=modality, document=document)
    return [Found(passage=h.passage, score=h.score, why=h.why, sentence=h.sentence) for h in hits]


@router.post("/v1/guidelines", status_code=201, operation_id="add_guidelines", summary="Add a hospital's own guidelines", openapi_extra=_FORM,
             response_model=Added, responses={200: {"description": "With Accept: text/event-stream", "content": {"text/event-stream": {}}}})  # fmt: skip
async def add_guidelines(
    house: HouseDep, who: Caller, request: Request, accept: Annotated[str, Header()] = "application/json"
) -> Any:
    """Each file is taken whole or named in `rejected` with its reason; 422 when none could be taken.

    A newer version of a document supersedes the older one, which stays for old answers. With `Accept: text/event-stream`: events `progress`
    (`{file, stage, done, total}`), then `added` or `error`. A `.yaml` file is a rule; its worked cases are run first.
    """
    form = await form_of(request, house.settings.max_upload_mb * 2**20)
    try:
        about = _about({n: form.get(n) for n in (*TEXTS, *LISTS)})
        sent = [v for v in form.getlist("files") if isinstance(v, UploadFile)]
        files = [(f.filename or "file", await f.read()) for f in sent]
    finally:
        await form.close()
    if not files:
        raise Problem(422, "InvalidRequest", "no file came", "send the files as fields named files")
    stop = threading.Event()
    if "text/event-stream" in accept:
        return EventSourceResponse(_told(house, files, about, stop), ping=15)
    done = await run_in_threadpool(house.add_guidelines, files, about, lambda *step: None, stop.is_set)
    _refuse_nothing(done)
    return Response(done.model_dump_json(), status_code=201, media_type="application/json")


def _refuse_nothing(done: Added) -> None:
    if not done.documents and not done.rules:
        raise Problem(422, "NothingTaken", "; ".join(f"{r.file}: {r.reason}" for r in done.rejected[:10]), f"add {KNOWN}")


async def _told(
    house: House, files: list[tuple[str, bytes]], about: About, stop: threading.Event
) -> AsyncIterator[ServerSentEvent]:
    """The steps of an addition as events; a client that goes away stops it, and what isn't whole is taken out again."""
    loop, steps = asyncio.get_running_loop(), asyncio.Queue[tuple[str, str, int, int] | None]()

    def tell(*step: Any) -> None:
        loop.call_soon_threadsafe(steps.put_nowait, step)

    def work() -> Added:
        try:
            return house.add_guidelines(files, about, tell, stop.is_set)
        finally:
            loop.call_soon_threadsafe(steps.put_nowait, None)

    running = asyncio.ensure_future(run_in_threadpool(work))
    try:
        while (step := await steps.get()) is not None:
            yield ServerSentEvent(json.dumps(dict(zip(("file", "stage", "done", "total"), step, strict=True))), event="progress")
        done = await running
        _refuse_nothing(done)
        yield ServerSentEvent(done.model_dump_json(), event="added")
    except Exception as error:  # the outer door of a stream: whatever breaks leaves as its last event
        yield ServerSentEvent(json.dumps(problem(error)), event="error")
    finally:
        stop.set()


def _about(given: dict[str, Any]) -> About:
    for name, value in given.items():
        if value is not None and (not isinstance(value, str) or len(value) > 300):
            raise Problem(422, "InvalidRequest", f"{name} isn't a text of at most 300 characters", "shorten it")
    day = given["date"]
    if day:
        try:
            date.fromisoformat(f"{day}-01-01"[:10] if re.fullmatch(r"\d{4}", day) else day)
        except ValueError as error:
            raise Problem(422, "InvalidRequest", "date isn't a date", "write it as 2024-05-31 or 2024") from error
    lists = {n: [v.strip() for v in (given[n] or "").split(",") if v.strip()] for n in LISTS}
    return About(**{n: given[n] or None for n in TEXTS}, **lists)


@router.get("/v1/guidelines/{document_id}", operation_id="show_guideline", summary="One document")
def show_guideline(house: HouseDep, who: Caller, document_id: str) -> Document:
    return _document(house, document_id)


def _document(house: House, document_id: str) -> Document:
    found = next((d for d in documents(house) if d.id == document_id), None)
    if found is None:
        raise NotFound(f"there is no document {document_id!r}", "list them with GET /v1/guidelines")
    return found


@router.delete(
    "/v1/guidelines/{document_id}",
    status_code=204,
    operation_id="remove_guideline",
    summary="Take out a document of the hospital's own",
)
def remove_guideline(house: HouseDep, who: Caller, document_id: str) -> None:
    """Old answers keep the words that they quoted; their passages can't be opened any more."""
    if _document(house, document_id).body == "box":
        raise Refused("documents in the box can't be taken out", "name one that was added here")
    house.adder.remove(document_id)


@router.get("/v1/guidelines/{document_id}/pages/{number}", operation_id="guideline_page", summary="The text of a page",
            response_class=Response, responses={200: {"content": {"text/plain": {}}}})  # fmt: skip
def guideline_page(house: HouseDep, who: Caller, document_id: str, number: int) -> Response:
    house.resources.guidelines.library.document(document_id)
    text = house.resources.guidelines.library.page(document_id, number)
    return Response(text, media_type="text/plain; charset=utf-8")


@router.get("/v1/guidelines/{document_id}/pages/{number}/picture", operation_id="guideline_page_picture", summary="A PDF's page as a picture",
            response_class=Response, responses={200: {"content": {"image/png": {}}}})  # fmt: skip
def guideline_page_picture(house: HouseDep, who: Caller, document_id: str, number: int) -> Response:
    return Response(house.resources.guidelines.picture(document_id, number), media_type="image/png")
