"""Tools: what there is, and running one."""

import asyncio
import threading
import time
import uuid
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from agent.answer import Conflict
from knowledge.case import Case, open_case
from knowledge.errors import NotFound
from knowledge.evidence import Evidence, Frozen
from serving.api.deps import Caller, HouseDep
from serving.house import House
from tools.base import Bench, CaseTool, Effect, Made, Missing, Progress
from tools.errors import ToolError, TryAgain
from tools.registry import types_for
from tools.rules import inputs_of

router = APIRouter(tags=["tools"])


class RunRequest(BaseModel):
    """Arguments of a tool, and the case that it may see."""

    model_config = ConfigDict(extra="forbid")
    study_ids: list[str] | None = None
    patient_id: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    confirmed: bool = Field(False, description="A person lets a tool that changes something do so.")


class Ran(Frozen):
    """What a tool gave."""

    status: Literal["ok", "not_applicable", "failed", "refused"]
    text: str
    evidence: list[Evidence]
    missing: list[Missing]
    conflicts: list[Conflict] = []
    made: Made | None = None
    seconds: float


@router.get("/v1/tools", operation_id="list_tools", summary="Every tool with its schema and card")
def list_tools(house: HouseDep, who: Caller) -> list[dict[str, Any]]:
    return [_described(house, t) for t in types_for(house.resources).values()]


@router.get("/v1/tools/{name}", operation_id="show_tool", summary="One tool")
def show_tool(house: HouseDep, who: Caller, name: str) -> dict[str, Any]:
    return _described(house, type_of(house, name))


def _described(house: House, chosen: type[CaseTool]) -> dict[str, Any]:
    """A tool's statement; of `apply_guideline` with every rule's typed inputs, the hospital's own too."""
    told = chosen.described()
    return {**told, "rules": {n: inputs_of(r) for n, r in house.resources.rules.rules.items()}} if "rules" in told else told


def type_of(house: House, name: str) -> type[CaseTool]:
    known = types_for(house.resources)
    if name not in known:
        raise NotFound(f"there is no tool {name!r}", f"the tools are {sorted(known)}")
    return known[name]


@router.post("/v1/tools/{name}", operation_id="run_tool", summary="Run one tool on a case")
async def run_tool(house: HouseDep, who: Caller, name: str, request: RunRequest, http: Request) -> Ran:
    """`status` as in a plan; arguments that don't fit are a 422. A client that goes away stops the model that runs for it."""
    stop = threading.Event()
    running = asyncio.ensure_future(run_in_threadpool(run, house, name, request, stop))
    while not (await asyncio.wait([running], timeout=0.2))[0]:
        if await http.is_disconnected():
            stop.set()
    return await running


def run(house: House, name: str, request: RunRequest, stop: threading.Event, progress: Progress | None = None) -> Ran:
    """Run a tool on the case that the request names; `stop` once set, it ends with Cancelled. Raises TryAgain and KnowledgeErrors."""
    chosen = type_of(house, name)
    if chosen.effect is Effect.WRITE and not request.confirmed:
        return Ran(status="refused", text="The tool changes something. Send confirmed: true once a person has agreed.", evidence=[], missing=[],
                   seconds=0.0)  # fmt: skip
    case: Case | None = None
    if request.study_ids or request.patient_id:
        case = open_case(house.archive, request.patient_id, request.study_ids)
    tool = chosen.bound(Bench(house.resources, case, progress or (lambda done, total: None), stop.is_set))
    started = time.perf_counter()
    try:
        reply = tool.reply(request.arguments)
    except TryAgain:
        raise
    except ToolError as error:
        text = f"{error}. {error.hint}".strip()
        return Ran(status=error.status, text=text, evidence=[], missing=[], seconds=round(time.perf_counter() - started, 3))
    scope = f"t_{uuid.uuid4().hex[:16]}"
    patient = case.patient.id if case else None
    evidence = house.memory.number(scope, reply.facts, patient)
    conflicts = [Conflict(statements=reply.conflicts, evidence=[e.id for e in evidence])] if reply.conflicts else []
    for clash in reply.clashes:
        both = house.memory.number(scope, clash.facts, patient)
        evidence += [e for e in both if e.id not in {k.id for k in evidence}]
        conflicts.append(Conflict(statements=[clash.statement], evidence=[e.id for e in both]))
    return Ran(status="ok", text=reply.text, evidence=evidence, missing=reply.missing, conflicts=conflicts, made=reply.made,
               seconds=round(time.perf_counter() - started, 3))  # fmt: skip
