"""Conversations: open, ask (whole or streamed), stop, show, rate, export."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sse_starlette import EventSourceResponse, ServerSentEvent

from agent.answer import Answer
from agent.errors import Unknown
from agent.memory import Conversation, Listed, Message
from agent.run import Event
from agent.suggest import suggestions
from knowledge.case import Handle
from knowledge.errors import NotFound
from knowledge.evidence import Frozen
from serving import ehr
from serving.api.deps import Caller, HouseDep
from serving.errors import Problem, problem
from serving.exported import FORMS
from serving.house import House
from tools.registry import types_for

router = APIRouter(tags=["conversations"])


class OpenRequest(BaseModel):
    """Whose case: a patient's, or some studies of one patient."""

    model_config = ConfigDict(extra="forbid")
    patient_id: str | None = Field(None, max_length=128)
    study_ids: list[str] | None = Field(None, max_length=200)


class Opened(Frozen):
    """A new conversation, with the handles that it uses."""

    id: str
    handles: list[Handle]
    notes: list[str] = []
    """What could not be brought in (the EHR's record, say)."""


class Place(BaseModel):
    """A point that was clicked: a series of the case, and column, row and frame (from 0) of its axial view."""

    model_config = ConfigDict(extra="forbid")
    series: str = Field(pattern=r"^S\d+(\.\d+)?$", description="Handle (S1.2).")
    point: tuple[float, float, float]


class Question(BaseModel):
    """A question; images as PNG or JPEG data URLs; the place that it is about, where one was clicked."""

    model_config = ConfigDict(extra="forbid")
    text: str = Field(max_length=200_000)
    images: list[str] = Field(default_factory=list)
    at: Place | None = None

    @property
    def whole(self) -> str:
        """The text with its place, as the planner reads it."""
        if self.at is None or not self.text.strip():
            return self.text
        column, row, frame = self.at.point
        return f"{self.text} (at {self.at.series}: {column:g}, {row:g}, {frame:g})"


class Branch(BaseModel):
    """Before which message the new conversation leaves the old one."""

    model_config = ConfigDict(extra="forbid")
    before: str = Field(max_length=64)


class Decision(BaseModel):
    """Whether what an answer waits for may happen."""

    model_config = ConfigDict(extra="forbid")
    approve: bool


class Shown(Frozen):
    """A conversation with its messages."""

    id: str
    created: str
    patient_id: str | None
    handles: list[Handle]
    messages: list[Message]
    tools: list[str] | None = None
    """The tools that it is held to; null: all."""


class Pinned(BaseModel):
    """The tools that a conversation is held to."""

    model_config = ConfigDict(extra="forbid")
    only: list[str] | None = Field(None, max_length=200, description="Names of tools; null: all that the server has.")


class Feedback(BaseModel):
    """What a reader thinks of an answer."""

    model_config = ConfigDict(extra="forbid")
    rating: Literal["up", "down"]
    correction: str | None = Field(None, max_length=10_000)


@router.post("/v1/conversations", status_code=201, operation_id="open_conversation", summary="Open a conversation about a case")
def open_conversation(house: HouseDep, who: Caller, request: OpenRequest) -> Opened:
    """409 for studies of two patients. With neither, the conversation is about guidelines alone."""
    conversation = house.assistant.open(request.patient_id, request.study_ids)
    trouble = ehr.refresh(house, conversation.patient_id) if conversation.patient_id and house.settings.ehr_servers else None
    return Opened(id=conversation.id, handles=_handles(house, conversation), notes=[trouble] if trouble else [])


@router.put("/v1/conversations/{conversation_id}/tools", operation_id="pin_tools", summary="Hold a conversation to some tools")
def pin_tools(house: HouseDep, who: Caller, conversation_id: str, pinned: Pinned) -> Pinned:
    """Its next questions are answered with these tools alone. 404 for a tool that the server doesn't have."""
    known = types_for(house.resources)
    strange = sorted(set(pinned.only or []) - set(known))
    if strange:
        raise NotFound(f"there is no tool {strange[0]!r}", f"the tools are {sorted(known)}")
    house.memory.pin(conversation_id, pinned.only)
    return Pinned(only=house.memory.pinned(conversation_id))


def _handles(house: House, conversation: Conversation) -> list[Handle]:
    case = house.assistant.case_of(conversation)
    return case.handles() if case else []


@router.post("/v1/conversations/{conversation_id}/messages", operation_id="ask", summary="Ask; the Answer, or its events",
             response_model=Answer, responses={200: {"content": {"text/event-stream": {}}}})  # fmt: skip
async def ask(
    house: HouseDep,
    who: Caller,
    conversation_id: str,
    question: Question,
    accept: Annotated[str, Header()] = "application/json",
    last_event_id: Annotated[int | None, Header(ge=0)] = None,
) -> Any:
    """With `Accept: text/event-stream` the steps, then the answer, as server-sent events.

    A client that lost its stream comes back with `Last-Event-ID` and gets the events after it; its question isn't asked again.
    """
    house.memory.conversation(conversation_id)
    if "text/event-stream" not in accept:
        return await house.assistant.ask(conversation_id, question.whole, question.images)
    if last_event_id is not None:
        events = house.assistant.resume(conversation_id, last_event_id)
    else:
        events = house.assistant.stream(conversation_id, question.whole, question.images, linger=True)
    return EventSourceResponse(_told(events, last_event_id or 0), ping=15)


async def _told(events: AsyncGenerator[Event], number: int) -> AsyncIterator[ServerSentEvent]:
    try:
        async with aclosing(events):
            async for event in events:
                number = event.number
                yield ServerSentEvent(json.dumps(event.data, ensure_ascii=False, default=str), event=event.name, id=str(number))
    except Exception as error:  # the outer door of a stream: whatever breaks leaves as its last event
        yield ServerSentEvent(json.dumps(problem(error)), event="error", id=str(number + 1))


@router.delete("/v1/conversations/{conversation_id}/messages/current", status_code=204, operation_id="stop",
               summary="Stop the answer in the making")  # fmt: skip
def stop(house: HouseDep, who: Caller, conversation_id: str) -> None:
    house.memory.conversation(conversation_id)
    if not house.assistant.stop(conversation_id):
        raise Problem(404, "NotFound", "no answer is in the making", "nothing is to be done")


@router.post("/v1/conversations/{conversation_id}/messages/current/confirm", operation_id="confirm",
             summary="Let what the newest answer waits for happen, or decline it")  # fmt: skip
async def confirm(house: HouseDep, who: Caller, conversation_id: str, decision: Decision) -> Answer:
    """An answer's `confirm` names calls that change something; nothing is done before this. 404 where nothing waits."""
    return await house.assistant.confirm(conversation_id, decision.approve)


@router.get("/v1/conversations", operation_id="list_conversations", summary="Conversations, newest first")
def list_conversations(
    house: HouseDep, who: Caller, patient_id: Annotated[str | None, Query(max_length=128)] = None,
    q: Annotated[str, Query(max_length=200, description="Words that a question or an answer holds.")] = "",
    asked: Annotated[bool, Query(description="Leave out those in which nothing was asked yet.")] = False,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> list[Listed]:  # fmt: skip
    return house.memory.listed(patient_id, q, asked, limit)


@router.get("/v1/conversations/{conversation_id}/suggestions", operation_id="suggest", summary="Questions that fit the case")
def suggest(
    house: HouseDep, who: Caller, conversation_id: str, language: Annotated[str, Query(max_length=16)] = "en"
) -> list[str]:
    """In English, German, Spanish, French or Chinese."""
    case = house.assistant.case_of(house.memory.conversation(conversation_id))
    return suggestions(case.inventory() if case else None, language[:2])


@router.post("/v1/conversations/{conversation_id}/branch", status_code=201, operation_id="branch",
             summary="Go on from before a question in a new conversation")  # fmt: skip
def branch(house: HouseDep, who: Caller, conversation_id: str, where: Branch) -> Opened:
    """What was said before the message, and its evidence, are there; the message isn't, and the old conversation stays as it is."""
    made = house.memory.branch(conversation_id, where.before)
    return Opened(id=made.id, handles=_handles(house, made))


@router.get("/v1/conversations/{conversation_id}", operation_id="show_conversation", summary="A conversation with its messages")
def show_conversation(house: HouseDep, who: Caller, conversation_id: str) -> Shown:
    found = house.memory.conversation(conversation_id)
    return Shown(id=found.id, created=found.created, patient_id=found.patient_id, handles=_handles(house, found),
                 messages=house.memory.messages(conversation_id), tools=house.memory.pinned(conversation_id))  # fmt: skip


@router.delete(
    "/v1/conversations/{conversation_id}", status_code=204, operation_id="delete_conversation", summary="Forget a conversation"
)
async def delete_conversation(house: HouseDep, who: Caller, conversation_id: str) -> None:
    await house.assistant.forget(conversation_id)


@router.post("/v1/conversations/{conversation_id}/messages/{message_id}/feedback", status_code=204, operation_id="feedback",
             summary="Rate an answer")  # fmt: skip
def feedback(house: HouseDep, who: Caller, conversation_id: str, message_id: str, given: Feedback) -> None:
    house.memory.rate(conversation_id, message_id, given.rating, given.correction)


@router.get("/v1/conversations/{conversation_id}/export", operation_id="export_conversation", summary="A conversation as a file",
            response_class=Response, responses={200: {"content": {m.split(";")[0]: {} for _, m, _ in FORMS.values()}}})  # fmt: skip
def export(
    house: HouseDep, who: Caller, conversation_id: str, format: Annotated[Literal["md", "pdf", "fhir"], Query()] = "md"
) -> Response:
    """Questions, statements and the evidence that each stands on: Markdown, PDF, or a FHIR document (a preliminary Composition)."""
    conversation = house.memory.conversation(conversation_id)
    messages = house.memory.messages(conversation_id)
    if not messages:
        raise Unknown("the conversation has no messages", "ask something first")
    make, media, ending = FORMS[format]
    name = f"consilium-{conversation.id}.{ending}"
    return Response(
        make(conversation, messages), media_type=media, headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )
