"""The LangGraph wiring: plan, confirm what writes, act, compose, check; one screen to read."""

from typing import Any

from langchain_core.messages import AIMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from agent.acting import act, confirm, writers
from agent.asking import Unusable, as_kept, ask
from agent.composing import check, compose
from agent.turn import State, Turn

MAX_ROUNDS = 6
"""Plan-and-act rounds before the answer is composed with what there is."""
MAX_CALLS = 16
"""Calls of one round; a model that asks for more is cut off there."""


async def plan(state: State, runtime: Runtime[Turn]) -> dict[str, Any]:
    """Ask the planner which tools to call next; none where a limit is reached, or where it asks for what it has again."""
    turn = runtime.context
    if turn.left() == 0.0:
        return {"limit": f"{turn.seconds:g} s"}
    if state["rounds"] >= MAX_ROUNDS:
        return {"limit": f"{MAX_ROUNDS} rounds"}
    tools = turn.make_tools(lambda done, total: None, lambda: False)
    try:
        reply = await ask(turn, lambda model: model.bind_tools(tools, inventory=turn.inventory), state["messages"], _whole)
    except Unusable:
        reply = AIMessage("")
    done = {f"{s['tool']} {s['arguments']}" for s in state.get("steps", [])}
    fresh = [c for c in as_kept(turn, reply.tool_calls[:MAX_CALLS]) if f"{c['name']} {c['args']}" not in done]
    repeats = bool(reply.tool_calls) and not fresh
    turn.emit("plan", {"round": state["rounds"] + 1, "calls": [{"tool": c["name"], "arguments": c["args"]} for c in fresh]})
    # What a model says beside or instead of its calls isn't kept: the answer is composed from evidence.
    messages = [AIMessage("", id=reply.id, tool_calls=fresh)] if fresh else []
    return {"messages": messages, "rounds": state["rounds"] + 1, "approved": [], "declined": [],
            **({"limit": "the same calls again"} if repeats else {})}  # fmt: skip


def _whole(reply: AIMessage) -> AIMessage:
    return reply


def after_plan(state: State, runtime: Runtime[Turn]) -> str:
    """On to the tools (through a person's confirmation where one writes), or to the answer."""
    last = state["messages"][-1]
    if not (isinstance(last, AIMessage) and last.tool_calls):
        return "compose"
    writing = writers(runtime.context)
    return "confirm" if any(c["name"] in writing for c in last.tool_calls) else "act"


def build(checkpointer: BaseCheckpointSaver[Any] | None) -> Any:
    """The compiled graph."""
    graph = StateGraph(State, context_schema=Turn)
    for node in (plan, confirm, act, compose, check):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "plan")
    graph.add_conditional_edges("plan", after_plan, ["confirm", "act", "compose"])
    graph.add_edge("confirm", "act")
    graph.add_edge("act", "plan")
    graph.add_edge("compose", "check")
    graph.add_edge("check", END)
    return graph.compile(checkpointer=checkpointer)
