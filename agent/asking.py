"""Ask the chat model: within the time left, once more where its reply can't be used, and the built-in planner where it fails."""

import asyncio
import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolCall

from agent.errors import PlannerDown
from agent.turn import Turn

T = TypeVar("T")


class Unusable(Exception):
    """A reply that isn't what was asked for: cut short, or not under its schema."""


def asks(message: AnyMessage) -> bool:
    """True for a question of the user's."""
    return isinstance(message, HumanMessage) and message.additional_kwargs.get("step") is None


def _read(turn: Turn, messages: list[AnyMessage]) -> list[AnyMessage]:
    """What the model reads: all, or the system prompt, the newest case and no more than its last questions. To one that reads the question at
    hand alone, its evidence is counted from one (`turn.names`), as if the conversation began there."""
    recent = _recent(turn, messages)
    turn.names = {}
    if not turn.forgets:
        return recent
    ids = {i for m in recent for i in _ID.findall(m.text)}
    turn.names = {i: f"E{n}" for n, i in enumerate(sorted(ids, key=lambda i: int(i[1:])), 1)}
    return [_renamed_in(m, turn.names) for m in recent]


def as_kept(turn: Turn, calls: list[ToolCall]) -> list[ToolCall]:
    """A reply's calls with the conversation's own evidence ids in their arguments."""
    return _calls_with({name: i for i, name in turn.names.items()}, calls)


def _calls_with(names: dict[str, str], calls: list[ToolCall]) -> list[ToolCall]:
    return [{**c, "args": json.loads(renamed(json.dumps(c["args"]), names))} for c in calls] if names else calls


def _renamed_in(message: AnyMessage, names: dict[str, str]) -> AnyMessage:
    changed: dict[str, Any] = {"content": _in_parts(message.content, names)}
    if isinstance(message, AIMessage) and message.tool_calls:
        changed["tool_calls"] = _calls_with(names, message.tool_calls)
    return message.model_copy(update=changed)


def _in_parts(content: Any, names: dict[str, str]) -> Any:
    if isinstance(content, str):
        return renamed(content, names)
    return [{**p, "text": renamed(p["text"], names)} if isinstance(p, dict) and "text" in p else p for p in content]


_ID = re.compile(r'(?<=")E\d+(?=")')


def renamed(text: str, names: dict[str, str]) -> str:
    """`text` with other names for the evidence ids in it, which stand in quotation marks."""
    return _ID.sub(lambda m: names.get(m.group(), m.group()), text)


def _recent(turn: Turn, messages: list[AnyMessage]) -> list[AnyMessage]:
    starts = [n for n, m in enumerate(messages) if asks(m)]
    if turn.reads is None or turn.model is turn.fallback or len(starts) <= turn.reads + 1:
        return messages
    case = [m for m in messages if m.additional_kwargs.get("step") == "case"][-1:]
    recent = [m for m in messages[starts[-1 - turn.reads] :] if m.additional_kwargs.get("step") != "case"]
    return [*messages[:1], *case, *recent]


async def ask(turn: Turn, bound: Callable[[BaseChatModel], Any], messages: list[AnyMessage], read: Callable[[AIMessage], T]) -> T:
    """`read` of the model's reply. Raises PlannerDown or Unusable where no fallback can take over."""
    for attempt in (1, 2):
        try:
            left = turn.left()
            async with turn.place.away() if turn.waits else nullcontext():
                told = _read(turn, messages)
                reply = await asyncio.wait_for(bound(turn.model).ainvoke(told), None if left is None else max(left, 5.0))
            if reply.response_metadata.get("finish_reason") == "length":
                raise Unusable
            return read(reply)
        except Unusable:
            if attempt == 2 and not turn.give_way("model_unusable"):
                raise
        except (PlannerDown, TimeoutError) as error:
            if not turn.give_way(error.why if isinstance(error, PlannerDown) else "model_slow"):
                raise (
                    error if isinstance(error, PlannerDown) else PlannerDown("the language model took too long", "ask again")
                ) from error
            break
    told = _read(turn, messages)
    return read(await bound(turn.model).ainvoke(told))
