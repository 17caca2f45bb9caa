"""Ask the chat model: within the time left, once more where its reply can't be used, and the built-in planner where it fails."""

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage

from agent.errors import PlannerDown
from agent.turn import Turn

T = TypeVar("T")


class Unusable(Exception):
    """A reply that isn't what was asked for: cut short, or not under its schema."""


async def ask(turn: Turn, bound: Callable[[BaseChatModel], Any], messages: list[AnyMessage], read: Callable[[AIMessage], T]) -> T:
    """`read` of the model's reply. Raises PlannerDown or Unusable where no fallback can take over."""
    for attempt in (1, 2):
        try:
            left = turn.left()
            async with turn.place.away() if turn.waits else nullcontext():
                reply = await asyncio.wait_for(bound(turn.model).ainvoke(messages), None if left is None else max(left, 5.0))
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
    return read(await bound(turn.model).ainvoke(messages))
