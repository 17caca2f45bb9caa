"""Tools and guidelines: what there is, and running one."""

import asyncio
import threading
import time
import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from knowledge.case import Case, open_case
from knowledge.errors import NotFound
from knowledge.evidence import Evidence, Frozen
from knowledge.guidelines import corpus
from knowledge.guidelines.corpus import Passage
from serving.api.deps import Caller, HouseDep
from tools.base import Bench, CaseTool, Missing
from tools.errors import ToolError, TryAgain
from tools.registry import tool_types

router = APIRouter(tags=["tools"])


class RunRequest(BaseModel):
    """Arguments of a tool, and the case that it may see."""

    model_config = ConfigDict(extra="forbid")
    study_ids: list[str] | None = None
    patient_id: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)


class Ran(Frozen):
    """What a tool gave."""

    status: Literal["ok", "not_applicable", "failed", "refused"]
    text: str
    evidence: list[Evidence]
    missing: list[Missing]
    seconds: float


@router.get("/v1/tools", operation_id="list_tools", summary="Every tool with its schema and card")
def list_tools(house: HouseDep, who: Caller) -> list[dict[str, Any]]:
    return [t.described() for t in tool_types().values()]


@router.get("/v1/tools/{name}", operation_id="show_tool", summary="One tool")
def show_tool(house: HouseDep, who: Caller, name: str) -> dict[str, Any]:
    return _type(name).described()


def _type(name: str) -> type[CaseTool]:
    if name not in tool_types():
        raise NotFound(f"there is no tool {name!r}", f"the tools are {sorted(tool_types())}")
    return tool_types()[name]


@router.post("/v1/tools/{name}", operation_id="run_tool", summary="Run one tool on a case")
async def run_tool(house: HouseDep, who: Caller, name: str, request: RunRequest, http: Request) -> Ran:
    """`status` as in a plan; arguments that don't fit are a 422. A client that goes away stops the model that runs for it."""
    stop = threading.Event()
    running = asyncio.ensure_future(run_in_threadpool(_run, house, name, request, stop))
    while not (await asyncio.wait([running], timeout=0.2))[0]:
        if await http.is_disconnected():
            stop.set()
    return await running


def _run(house: HouseDep, name: str, request: RunRequest, stop: threading.Event) -> Ran:
    chosen = _type(name)
    case: Case | None = None
    if request.study_ids or request.patient_id:
        case = open_case(house.archive, request.patient_id, request.study_ids)
    tool = chosen.bound(Bench(house.resources, case, cancelled=stop.is_set))
    started = time.perf_counter()
    try:
        reply = tool.reply(request.arguments)
    except TryAgain:
        raise
    except ToolError as error:
        text = f"{error}. {error.hint}".strip()
        return Ran(status=error.status, text=text, evidence=[], missing=[], seconds=round(time.perf_counter() - started, 3))
    scope = f"t_{uuid.uuid4().hex[:16]}"
    evidence = house.memory.number(scope, reply.facts, case.patient.id if case else None)
    return Ran(
        status="ok", text=reply.text, evidence=evidence, missing=reply.missing, seconds=round(time.perf_counter() - started, 3)
    )


class Document(Frozen):
    """A document of the corpus."""

    document: str
    organisation: str
    version: str
    date: str
    source: str
    checked: str
    passages: int


class Found(Frozen):
    """A passage that a search found, and why."""

    passage: Passage
    score: float
    why: str


@router.get("/v1/guidelines", operation_id="list_guidelines", summary="Documents of the corpus")
def list_guidelines(house: HouseDep, who: Caller) -> list[Document]:
    return documents()


def documents() -> list[Document]:
    """The corpus by document."""
    found: dict[str, list[Passage]] = {}
    for passage in corpus.passages():
        found.setdefault(passage.document, []).append(passage)
    return [Document(document=n, organisation=p[0].organisation, version=p[0].version, date=p[0].date, source=p[0].source,
                     checked=corpus.CHECKED[p[0].checked], passages=len(p)) for n, p in found.items()]  # fmt: skip


@router.get("/v1/guidelines/search", operation_id="search_corpus", summary="Search guideline passages")
def search_corpus(house: HouseDep, who: Caller, q: Annotated[str, Query(min_length=1, max_length=2000)],
                  limit: Annotated[int, Query(ge=1, le=50)] = 5, disease: str | None = None) -> list[Found]:  # fmt: skip
    hits = house.resources.guidelines.search(q, limit, disease)
    return [Found(passage=h.passage, score=h.score, why=h.why) for h in hits]
