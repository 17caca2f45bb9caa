"""The LangGraph wiring: plan, act, compose, check; one screen to read."""

import asyncio
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolCall, ToolMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime

from agent import grounding
from agent.answer import Conflict, Draft, LeftOut, PlanStep, Statement, draft_schema
from agent.guard import as_data
from agent.memory import Memory
from agent.prompts import prompt
from knowledge.evidence import Evidence, RuleRef
from tools.base import CaseTool, Missing, Reply
from tools.errors import Failed, ToolError

log = logging.getLogger("consilium.agent")

MAX_ROUNDS = 6
"""Plan-and-act rounds before the answer is composed with what there is."""
Emit = Callable[[str, dict[str, Any]], None]


@dataclass
class Turn:
    """What one question runs with. Not kept in checkpoints."""

    scope: str
    patient_id: str | None
    model: BaseChatModel
    make_tools: Callable[[Callable[[int, int], None], Callable[[], bool]], list[CaseTool]]
    memory: Memory
    emit: Emit
    steps: list[PlanStep] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    evidence: dict[str, Evidence] = field(default_factory=dict)


class State(TypedDict):
    """What a checkpoint keeps: messages hold text and ids only, never pixels."""

    messages: Annotated[list[AnyMessage], add_messages]
    rounds: int
    draft: dict[str, Any]
    left_out: list[dict[str, Any]]


async def plan(state: State, runtime: Runtime[Turn]) -> dict[str, Any]:
    """Ask the planner which tools to call next."""
    turn = runtime.context
    if state["rounds"] >= MAX_ROUNDS:
        return {}
    tools = turn.make_tools(lambda done, total: None, lambda: False)
    reply = await turn.model.bind_tools(tools).ainvoke(state["messages"])
    calls = [{"tool": c["name"], "arguments": c["args"]} for c in getattr(reply, "tool_calls", [])]
    turn.emit("plan", {"round": state["rounds"] + 1, "calls": calls})
    # What a model says beside or instead of its calls isn't kept: the answer is composed from evidence.
    return {"messages": [reply] if calls else [], "rounds": state["rounds"] + 1}


def after_plan(state: State) -> str:
    """On to the tools, or to the answer."""
    last = state["messages"][-1]
    return "act" if isinstance(last, AIMessage) and last.tool_calls else "compose"


async def act(state: State, runtime: Runtime[Turn]) -> dict[str, Any]:
    """Run the called tools side by side."""
    last = state["messages"][-1]
    assert isinstance(last, AIMessage)
    ran = await asyncio.gather(*(_call(c, runtime.context) for c in last.tool_calls))
    return {"messages": ran}


async def _call(call: ToolCall, turn: Turn) -> ToolMessage:
    name, loop = call["name"], asyncio.get_running_loop()

    def progress(done: int, total: int) -> None:
        loop.call_soon_threadsafe(turn.emit, "tool.progress", {"tool": name, "done": done, "total": total})

    turn.emit("tool.started", {"tool": name, "arguments": call["args"]})
    started, status, reply, message = time.perf_counter(), "ok", None, None
    stop = threading.Event()
    tool = next((t for t in turn.make_tools(progress, stop.is_set) if t.name == name), None)
    try:
        if tool is None:
            raise ToolError(f"there is no tool {name!r}", "use a tool that is offered")
        reply = await asyncio.to_thread(tool.reply, call["args"])
    except asyncio.CancelledError:
        stop.set()  # the thread looks at it, and ends its model's run
        raise
    except ToolError as error:
        status, message = error.status, f"{error}. {error.hint}".strip()
        if status == "not_applicable":
            turn.missing.append(Missing(what=f"input for {name}", why=str(error), would_change=error.hint or "it could run"))
    except Exception as error:  # noqa: BLE001 (tools come from anywhere: one that breaks must not take the answer with it)
        run = uuid.uuid4().hex[:12]
        log.error("run %s: the tool %s broke with %s", run, name, type(error).__name__)
        status, message = Failed.status, f"the tool broke; the log names it as run {run}"
    seconds = round(time.perf_counter() - started, 3)
    numbered = turn.memory.number(turn.scope, reply.facts, turn.patient_id) if reply else []
    turn.evidence.update({e.id: e for e in numbered})
    turn.missing.extend(reply.missing if reply else [])
    if reply and reply.conflicts:
        turn.conflicts.append(Conflict(statements=reply.conflicts, evidence=[e.id for e in numbered]))
    for clash in reply.clashes if reply else []:
        both = turn.memory.number(turn.scope, clash.facts, turn.patient_id)
        turn.evidence.update({e.id: e for e in both})
        turn.conflicts.append(Conflict(statements=[clash.statement], evidence=[e.id for e in both]))
    step = PlanStep(tool=name, arguments=call["args"], status=status, seconds=seconds,  # type: ignore[arg-type]
                    evidence=[e.id for e in numbered], message=message)  # fmt: skip
    turn.steps.append(step)
    turn.emit("tool.finished", step.model_dump(mode="json"))
    for evidence in numbered:
        turn.emit("evidence", evidence.model_dump(mode="json"))
    return ToolMessage(_told(numbered, reply, message), tool_call_id=call["id"] or name, name=name,
                       status="success" if status == "ok" else "error")  # fmt: skip


def _told(numbered: list[Evidence], reply: Reply | None, message: str | None) -> str:
    """What the model reads of a tool's result: evidence as data, and what was missing."""
    rows: list[dict[str, Any]] = [
        {"evidence": e.id, "kind": e.kind, "title": e.title, "statement": e.statement, **_inputs(e)} for e in numbered
    ]
    rows += [{"missing": m.what, "why": m.why} for m in (reply.missing if reply else [])]
    return as_data(rows or [{"error" if message else "text": message or (reply.text if reply else "")}])


def _inputs(evidence: Evidence) -> dict[str, Any]:
    """A rule's name and inputs, so that a follow-up can change one of them."""
    return {"rule": evidence.source.rule, "inputs": evidence.source.inputs} if isinstance(evidence.source, RuleRef) else {}


async def compose(state: State, runtime: Runtime[Turn]) -> dict[str, Any]:
    """Have the planner write statements that cite evidence ids; ids are an enum of those that exist."""
    turn = runtime.context
    request = HumanMessage(_compose_text(turn), additional_kwargs={"step": "compose"})
    messages = state["messages"]
    draft = await _drafted(turn, [*messages, request])
    bad = _unsound(draft, turn)
    if bad:
        listed = as_data([{"statement": s.text, "evidence": s.evidence, "problems": why} for s, why in bad])
        again = HumanMessage(prompt("rewrite").replace("{problems}", listed), additional_kwargs={"step": "compose"})
        first = AIMessage(draft.model_dump_json())
        draft = await _drafted(turn, [*messages, request, first, again])
    return {"draft": draft.model_dump(mode="json")}


def _compose_text(turn: Turn) -> str:
    rows = [
        e.model_dump(include={"id", "kind", "title", "statement", "value", "unit", "interval"}) for e in turn.evidence.values()
    ]
    lacking = [m.model_dump() for m in turn.missing]
    text = prompt("compose").replace("{evidence}", as_data(rows) or "(none)")
    return text.replace("{missing}", as_data(lacking) or "(nothing)")


async def _drafted(turn: Turn, messages: list[Any]) -> Draft:
    schema = draft_schema(list(turn.evidence))
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    reply = await turn.model.bind(response_format=wanted).ainvoke(messages)
    try:
        data = json.loads(reply.content if isinstance(reply.content, str) else "")
        sound = [s for s in data.get("statements", []) if s.get("evidence") and set(s["evidence"]) <= set(turn.evidence)]
        return Draft.model_validate({**data, "statements": sound})
    except (ValueError, TypeError, AttributeError):
        return Draft(abstained=True, lead="")


def _unsound(draft: Draft, turn: Turn) -> list[tuple[Statement, list[str]]]:
    checked = [(s, grounding.problems(s.text, [turn.evidence[i] for i in s.evidence])) for s in draft.statements]
    return [(s, why) for s, why in checked if why]


async def check(state: State, runtime: Runtime[Turn]) -> dict[str, Any]:
    """Take out what is still not carried, and remember the answer's text in the conversation."""
    draft = Draft.model_validate(state["draft"])
    bad = {s.text: "; ".join(why) for s, why in _unsound(draft, runtime.context)}
    kept = draft.model_copy(update={"statements": [s for s in draft.statements if s.text not in bad]})
    said = " ".join(f"{s.text} [{', '.join(s.evidence)}]" for s in kept.statements) or kept.lead or "(no answer)"
    return {"draft": kept.model_dump(mode="json"), "messages": [AIMessage(said)],
            "left_out": [LeftOut(text=t, reason=r).model_dump() for t, r in bad.items()]}  # fmt: skip


def build(checkpointer: BaseCheckpointSaver[Any] | None) -> Any:
    """The compiled graph."""
    graph = StateGraph(State, context_schema=Turn)
    for node in (plan, act, compose, check):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "plan")
    graph.add_conditional_edges("plan", after_plan, ["act", "compose"])
    graph.add_edge("act", "plan")
    graph.add_edge("compose", "check")
    graph.add_edge("check", END)
    return graph.compile(checkpointer=checkpointer)
