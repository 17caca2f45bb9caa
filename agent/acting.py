"""Run what the planner called: side by side, within the time limit, each call of a conversation once."""

import asyncio
import json
import logging
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, ToolCall, ToolMessage
from langgraph.runtime import Runtime
from langgraph.types import interrupt

from agent.answer import Conflict, PlanStep
from agent.guard import as_data
from agent.turn import State, Turn
from knowledge.evidence import Evidence, RuleRef
from tools.base import CaseTool, Effect, Made, Missing, Said
from tools.errors import Failed, ToolError

log = logging.getLogger("consilium.agent")

NEVER_REUSED = {"look", "draft_report", "check_report", "education_quiz"}
"""Tools that may answer the same call differently: they look at the conversation too, or make something new."""
MOST_KNOWN = 200
"""Results that a conversation keeps ready; older ones are computed again (from the masks that the archive keeps)."""


def writers(turn: Turn) -> set[str]:
    """Names of the tools that change something."""
    return {t.name for t in turn.make_tools(_silent, _never) if t.effect is Effect.WRITE}


async def confirm(state: State, runtime: Runtime[Turn]) -> dict[str, Any]:
    """Wait until a person lets the calls that write something happen, or declines them (a LangGraph interrupt)."""
    last = state["messages"][-1]
    assert isinstance(last, AIMessage)
    writing = writers(runtime.context)
    waiting = [c for c in last.tool_calls if c["name"] in writing]
    said = interrupt([{"tool": c["name"], "arguments": c["args"]} for c in waiting])
    ids = [str(c["id"]) for c in waiting]
    return {"approved": ids, "declined": []} if said is True else {"approved": [], "declined": ids}


async def act(state: State, runtime: Runtime[Turn]) -> dict[str, Any]:
    """Run the called tools side by side."""
    last = state["messages"][-1]
    assert isinstance(last, AIMessage)
    turn = runtime.context
    async with turn.place.away():
        ran = await asyncio.gather(*(_call(c, state, turn) for c in last.tool_calls))
    known = {**state.get("known", {}), **{r.key: r.kept() for r in ran if r.key}}
    late = any(r.step.status == "failed" and r.late for r in ran)
    return {
        "messages": [r.message for r in ran],
        "steps": [*state.get("steps", []), *(r.step.model_dump(mode="json") for r in ran)],
        "missing": [*state.get("missing", []), *(m.model_dump() for r in ran for m in r.missing)],
        "conflicts": [*state.get("conflicts", []), *(c.model_dump() for r in ran for c in r.conflicts)],
        "known": dict(list(known.items())[-MOST_KNOWN:]),
        **({"limit": f"{turn.seconds:g} s"} if late else {}),
    }


class _Ran:
    """How one call went."""

    def __init__(self, call: ToolCall, status: str, seconds: float, evidence: list[Evidence], missing: list[Missing],
                 conflicts: list[Conflict], text: str = "", problem: str | None = None, key: str = "", late: bool = False,
                 note: str | None = None, made: Made | None = None, said: Sequence[Said] = ()) -> None:  # fmt: skip
        self.key, self.late, self.missing, self.conflicts = key, late, missing, conflicts
        self.text = "" if evidence or missing else text
        self.step = PlanStep(tool=call["name"], arguments=call["args"], status=status, seconds=seconds,  # type: ignore[arg-type]
                             evidence=[e.id for e in evidence], message=problem or note, made=made)  # fmt: skip
        self.message = ToolMessage(_told(evidence, missing, text, problem, said, made), tool_call_id=call["id"] or call["name"], name=call["name"],
                                   status="success" if status == "ok" else "error")  # fmt: skip

    def kept(self) -> dict[str, Any]:
        """What a later call of the same kind is answered with."""
        return {"evidence": self.step.evidence, "missing": [m.model_dump() for m in self.missing],
                "conflicts": [c.model_dump() for c in self.conflicts], "text": self.text}  # fmt: skip


async def _call(call: ToolCall, state: State, turn: Turn) -> _Ran:
    turn.emit("tool.started", {"tool": call["name"], "arguments": call["args"]})
    ran = _again(call, state, turn) or await _run(call, state, turn)
    turn.emit("tool.finished", ran.step.model_dump(mode="json"))
    for number in ran.step.evidence:
        turn.emit("evidence", turn.evidence[number].model_dump(mode="json"))
    return ran


def key_of(call: ToolCall, turn: Turn) -> str:
    """Names a call on this case."""
    return f"{turn.case_key} {call['name']} {json.dumps(call['args'], sort_keys=True, default=str)}"


def _again(call: ToolCall, state: State, turn: Turn) -> _Ran | None:
    """The result that this conversation has for the call, if it has one."""
    key = key_of(call, turn)
    kept = state.get("known", {}).get(key)
    if kept is None:
        return None
    known = {e.id: e for e in turn.memory.numbered(turn.scope)}
    if not set(kept["evidence"]) <= set(known):
        return None
    evidence = [known[i] for i in kept["evidence"]]
    conflicts = [Conflict.model_validate(c) for c in kept["conflicts"]]
    turn.evidence.update({e.id: e for e in [*evidence, *(known[i] for c in conflicts for i in c.evidence if i in known)]})
    return _Ran(call, "ok", 0.0, evidence, [Missing.model_validate(m) for m in kept["missing"]], conflicts, kept["text"],
                key=key, note="from this conversation")  # fmt: skip


async def _run(call: ToolCall, state: State, turn: Turn) -> _Ran:
    name, loop = call["name"], asyncio.get_running_loop()

    def progress(done: int, total: int) -> None:
        loop.call_soon_threadsafe(turn.emit, "tool.progress", {"tool": name, "done": done, "total": total})

    stop = threading.Event()
    started, missing = time.perf_counter(), []
    late, key, status = False, "", "ok"
    try:
        tool = _tool(name, turn.make_tools(progress, stop.is_set))
        if str(call["id"]) in state.get("declined", []):
            raise _Declined("a person declined this", "ask again if it is wanted after all")
        if tool.effect is Effect.WRITE and str(call["id"]) not in state.get("approved", []):
            raise _Declined("it changes something and wasn't confirmed", "confirm it first")
        reply = await asyncio.wait_for(asyncio.to_thread(tool.reply, call["args"]), turn.left())
        evidence = turn.memory.number(turn.scope, reply.facts, turn.patient_id)
        turn.evidence.update({e.id: e for e in evidence})
        conflicts = [Conflict(statements=reply.conflicts, evidence=[e.id for e in evidence])] if reply.conflicts else []
        for clash in reply.clashes:
            both = turn.memory.number(turn.scope, clash.facts, turn.patient_id)
            turn.evidence.update({e.id: e for e in both})
            conflicts.append(Conflict(statements=[clash.statement], evidence=[e.id for e in both]))
        if tool.effect is Effect.READ and name not in NEVER_REUSED:
            key = key_of(call, turn)
        return _Ran(
            call, "ok", _since(started), evidence, reply.missing, conflicts, reply.text, key=key, made=reply.made, said=reply.said
        )
    except asyncio.CancelledError:
        stop.set()  # the thread looks at it, and ends its model's run
        raise
    except TimeoutError:
        stop.set()
        late, status, problem = True, Failed.status, f"stopped at the time limit of {turn.seconds:g} s"
    except ToolError as error:
        status, problem = error.status, f"{error}. {error.hint}".strip()
        if status == "not_applicable":
            missing.append(Missing(what=f"input for {name}", why=str(error), would_change=error.hint or "it could run"))
    except Exception as error:  # noqa: BLE001 (tools come from anywhere: one that breaks must not take the answer with it)
        run = uuid.uuid4().hex[:12]
        log.error("run %s: the tool %s broke with %s", run, name, type(error).__name__)
        status, problem = Failed.status, f"the tool broke; the log names it as run {run}"
    return _Ran(call, status, _since(started), [], missing, [], problem=problem, late=late)


class _Declined(ToolError):
    """A write that nobody let happen."""

    status = "refused"


def _tool(name: str, tools: list[CaseTool]) -> CaseTool:
    found = next((t for t in tools if t.name == name), None)
    if found is None:
        raise ToolError(f"there is no tool {name!r}", "use a tool that is offered")
    return found


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 3)


def _silent(done: int, total: int) -> None:
    """Progress that nobody wants to know of."""


def _never() -> bool:
    return False


def _told(
    numbered: list[Evidence], missing: list[Missing], text: str, problem: str | None, said: Sequence[Said], made: Made | None
) -> str:
    """What the model reads of a tool's result: evidence as data, and what was missing."""
    rows: list[dict[str, Any]] = [row_of(e) for e in numbered]
    rows += [{"made": made.kind, "id": made.id}] if made is not None else []
    rows += [{"sentence": s.text, "evidence": [numbered[i].id for i in s.facts]} for s in said]
    rows += [{"missing": m.what, "why": m.why} for m in missing if problem is None]
    return as_data(rows or [{"error" if problem else "text": problem or text}])


def row_of(evidence: Evidence) -> dict[str, Any]:
    """An evidence as a model reads it in a tool's result."""
    told = {"evidence": evidence.id, "kind": evidence.kind, "title": evidence.title, "statement": evidence.statement}
    return {**told, **_inputs(evidence)}


def _inputs(evidence: Evidence) -> dict[str, Any]:
    """A rule's name and inputs, so that a follow-up can change one of them."""
    return {"rule": evidence.source.rule, "inputs": evidence.source.inputs} if isinstance(evidence.source, RuleRef) else {}
