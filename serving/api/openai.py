"""The OpenAI API's `models` and `chat/completions`, so that chat clients work unchanged."""

import base64
import json
import re
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from agent.answer import Answer
from agent.pictures import pictures_of
from knowledge.errors import NotFound
from knowledge.studies.archive import Import
from knowledge.studies.intake import Hints
from knowledge.studies.unpack import from_bytes
from serving.api.deps import Caller, HouseDep
from serving.api.studies import form_of
from serving.errors import Problem, problem
from serving.house import House

router = APIRouter(tags=["openai"])
MODEL = "consilium"
_NAMED = re.compile(r"\b(patient|study):([\w.\-]{1,128})")


class ChatMessage(BaseModel):
    """A message; content as text or parts."""

    model_config = ConfigDict(extra="allow")
    role: str
    content: str | list[dict[str, Any]] | None = None


class ChatRequest(BaseModel):
    """What clients send; parameters that aren't used are accepted."""

    model_config = ConfigDict(extra="allow")
    model: str = MODEL
    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    stream: bool = False
    metadata: dict[str, Any] | None = None


@router.get("/v1/models", operation_id="openai_models", summary="Models, as the OpenAI API lists them")
def models(house: HouseDep, who: Caller) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1763900000, "owned_by": "consilium"}]}


_ERRORS: dict[int | str, dict[str, Any]] = {
    s: {
        "description": "An error as the OpenAI API has it",
        "content": {"application/json": {"schema": {"type": "object"}}, "application/problem+json": {}},
    }
    for s in (400, 403, 404, 409, 410, 422, 500, 503)
}


@router.post(
    "/v1/chat/completions",
    operation_id="openai_chat",
    summary="Chat, as the OpenAI API has it",
    response_model=None,
    responses=_ERRORS,
)
async def chat(house: HouseDep, who: Caller, request: ChatRequest, raw: Request) -> Any:
    """The case comes in `metadata.patient_id` or `metadata.study_ids`, or as patient:ID or study:ID in a message."""
    try:
        texts = [_text(m) for m in request.messages if m.role == "user"]
        if not texts:
            raise Problem(422, "InvalidRequest", "there is no user message", "send one")
        if texts[-1].startswith("### Task:"):  # a client's housekeeping (titles, tags) isn't a question about a patient
            return _whole("Consilium", texts[-1]) if not request.stream else _sse(_plain("Consilium"))
        files = await run_in_threadpool(_files, house, request.messages, who)
        images = _images(request.messages)
        if not files and not _named(request, texts) and any(_images([m]) for m in request.messages if m.role == "user"):
            files, images = await run_in_threadpool(_seen, house, request.messages, who), []
        conversation = _conversation(house, request, texts, files)
        page = str(raw.base_url)
        question = _NAMED.sub("", texts[-1]).strip()
        if request.stream:
            return _sse(_chunks(house, conversation, question, images, _earlier(request.messages), page))
        async with aclosing(house.assistant.stream(conversation, question, images, _earlier(request.messages))) as events:
            async for event in events:
                if event.name == "answer":
                    return _whole(event.data["text"], question, event.data, _marks(Answer.model_validate(event.data), page))
        raise Problem(500, "NoAnswer", "no answer came", "ask again")
    except Exception as error:  # the outer door of a standard with its own error form
        body = problem(error)
        return JSONResponse(_error(body), body["status"])


def _error(body: dict[str, Any]) -> dict[str, Any]:
    hint = f" ({body['hint']})" if body.get("hint") else ""
    return {"error": {"message": f"{body['detail']}{hint}", "type": body["title"], "param": None, "code": str(body["status"])}}


def _text(message: ChatMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    parts = [p.get("text", "") for p in message.content or [] if p.get("type") == "text"]
    return "\n".join(str(p) for p in parts)


def _earlier(messages: list[ChatMessage]) -> list[str]:
    """Questions and answers in turn, before the newest question; an answer that is missing is empty."""
    told: list[str] = []
    spoken = [m for m in messages if m.role in ("user", "assistant")]
    last = max(n for n, m in enumerate(spoken) if m.role == "user")
    for message in spoken[:last]:
        asks = message.role == "user"
        if asks == bool(len(told) % 2):
            told.append("")
        told.append(_NAMED.sub("", _text(message)).strip())
    return [*told, ""] if len(told) % 2 else told


def _images(messages: list[ChatMessage]) -> list[str]:
    last = next(m for m in reversed(messages) if m.role == "user")
    parts = last.content if isinstance(last.content, list) else []
    return [
        str(p["image_url"].get("url")) for p in parts if p.get("type") == "image_url" and isinstance(p.get("image_url"), dict)
    ]


def _files(house: House, messages: list[ChatMessage], who: str) -> list[str]:
    """Ids of the files that messages name or bring with them, which are taken into the archive."""
    found = []
    for message in messages:
        for part in message.content if isinstance(message.content, list) else []:
            file = part.get("file") if part.get("type") == "file" else None
            if not isinstance(file, dict):
                continue
            if file.get("file_id"):
                found.append(str(file["file_id"]))
            elif file.get("file_data"):
                try:
                    data = base64.b64decode(str(file["file_data"]).rpartition(",")[2], validate=True)
                except ValueError as error:
                    raise Problem(
                        422, "InvalidRequest", "file_data isn't base64", "send a data URL, or upload it with POST /v1/files"
                    ) from error
                found.append(_taken(house, str(file.get("filename") or "file"), data, who))
    return found


def _seen(house: House, messages: list[ChatMessage], who: str) -> list[str]:
    """A chat without a case that shows pictures has these as its case, of one patient of their own. A client sends its whole chat
    each time: what was taken before is known again by its bytes."""
    pictures = [p for m in messages if m.role == "user" for p in pictures_of(_images([m]))]
    found: list[str] = []
    for picture in pictures:
        hints = Hints(patient_id=_owner(house, found[0])) if found else Hints()
        found.append(_took(house.archive.add([picture], hints, who)))
    return found


def _taken(house: House, name: str, data: bytes, who: str) -> str:
    return _took(house.archive.add(from_bytes(name, data), Hints(), who))


def _took(done: Import) -> str:
    """The id of what came in. Raises Problem where nothing did."""
    if not done.studies and not done.records:
        raise Problem(
            422,
            "NothingTaken",
            "; ".join(r.reason for r in done.rejected[:3]) or "nothing was in it",
            "send DICOM, NIfTI, a report, or a zip of them",
        )
    return f"file-{(done.studies or done.records)[0].id}"


def _owner(house: House, file_id: str) -> str:
    """The patient whose file it is. Raises NotFound."""
    name = file_id.removeprefix("file-")
    try:
        return house.archive.study(name).patient_id
    except NotFound:
        return house.archive.report(name).patient_id


@router.post("/v1/files", operation_id="openai_file", summary="Upload a file, as the OpenAI API has it")
async def upload(house: HouseDep, who: Caller, request: Request) -> dict[str, Any]:
    """Fields `file` and `purpose`. A study or report is taken into the archive; a message names it with `{"type": "file", "file": {"file_id": …}}`."""
    form = await form_of(request, house.settings.max_upload_mb * 2**20)
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise Problem(422, "InvalidRequest", "no file came", "send it as the field named file")
        name, data = file.filename or "file", await file.read()
        taken = await run_in_threadpool(_taken, house, name, data, who)
        return {"id": taken, "object": "file", "bytes": len(data), "created_at": int(time.time()), "filename": name,
                "purpose": str(form.get("purpose") or "user_data"), "status": "processed"}  # fmt: skip
    finally:
        await form.close()


def _named(request: ChatRequest, texts: list[str]) -> bool:
    """True where the request names its case."""
    metadata = request.metadata or {}
    return bool(metadata.get("patient_id") or metadata.get("study_ids") or any(_NAMED.search(t) for t in texts))


def _conversation(house: House, request: ChatRequest, texts: list[str], files: list[str]) -> str:
    metadata = request.metadata or {}
    patient, studies = metadata.get("patient_id"), metadata.get("study_ids")
    owners = {_owner(house, f) for f in files}
    if len(owners) > 1:
        raise Problem(409, "MixedPatients", "these files belong to different patients", "ask about one patient at a time")
    if owners and not (patient or studies):
        patient = owners.pop()
    if isinstance(studies, str):
        studies = [s.strip() for s in studies.split(",") if s.strip()]
    for text in texts if not (patient or studies) else []:
        for kind, name in _NAMED.findall(text):
            patient, studies = (name, None) if kind == "patient" else (None, [name])
    return house.assistant.open(str(patient) if patient else None, studies).id


def _usage(question: str, text: str) -> dict[str, int]:
    """Words, since the built-in planner has no tokens."""
    asked, said = len(question.split()), len(text.split())
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


def _marks(answer: Answer, page: str) -> list[dict[str, Any]]:
    """Citations that open the evidence on the page."""
    return [{"type": "url_citation", "url_citation": {"url": f"{page}#evidence={e.href.rsplit('/', 1)[1]}", "title": f"[{e.id}] {e.title}"}}
            for e in answer.evidence]  # fmt: skip


def _whole(
    text: str, question: str, answer: dict[str, Any] | None = None, marks: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, **({"annotations": marks} if marks else {})}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": "chat.completion", "created": int(time.time()), "model": MODEL,
            "choices": [choice], "usage": _usage(question, text), **({"consilium": answer} if answer else {})}  # fmt: skip


def _sse(chunks: AsyncIterator[str]) -> StreamingResponse:
    return StreamingResponse(chunks, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


def _chunk(delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> str:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}] if delta is not None else []
    body = {"id": "chatcmpl-consilium", "object": "chat.completion.chunk", "created": int(time.time()), "model": MODEL,
            "choices": choices, **more}  # fmt: skip
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


async def _plain(text: str) -> AsyncIterator[str]:
    yield _chunk({"role": "assistant", "content": text})
    yield _chunk({}, "stop")
    yield _chunk(None, usage=_usage("", text))
    yield "data: [DONE]\n\n"


async def _chunks(
    house: House, conversation: str, question: str, images: list[str], history: list[str], page: str
) -> AsyncIterator[str]:
    """Steps as status lines, then the text, the citations, and the usage."""
    try:
        yield _chunk({"role": "assistant", "content": ""})
        async with aclosing(house.assistant.stream(conversation, question, images, history)) as events:
            async for event in events:
                if event.name == "tool.started":
                    yield _chunk(
                        None, event={"type": "status", "data": {"description": f"{event.data['tool']} …", "done": False}}
                    )
                elif event.name == "tool.finished":
                    told = f"{event.data['tool']}: {event.data['status']}, {event.data['seconds']} s"
                    yield _chunk(None, event={"type": "status", "data": {"description": told, "done": False}})
                elif event.name == "answer":
                    answer = Answer.model_validate(event.data)
                    for paragraph in answer.text.split("\n\n"):
                        yield _chunk({"content": paragraph + "\n\n"})
                    yield _chunk({"annotations": _marks(answer, page)})
                    yield _chunk(None, event={"type": "status", "data": {"description": "answered", "done": True}})
                    yield _chunk({}, "stop")
                    yield _chunk(None, usage=_usage(question, answer.text))
    except Exception as error:  # the outer door of a stream
        yield f"data: {json.dumps(_error(problem(error)))}\n\n"
    yield "data: [DONE]\n\n"
