"""One answer in the making: its events so far, kept so that a listener who comes back misses none."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from typing import Any

from agent.errors import Busy

LAST = "answer"
"""The event after which nothing more comes."""


@dataclass(frozen=True)
class Event:
    """One step of an answer in the making, as the public interface names them; numbered from 1."""

    number: int
    name: str
    data: dict[str, Any]


class Run:
    """Events are told once and heard by whoever listens, from whichever number they want."""

    def __init__(self, after: int = 0) -> None:
        """`after`: the number of the last event that listeners had of this answer before the server was restarted."""
        self._first = after
        self.events: list[Event] = []
        self.done = False
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self._bell = asyncio.Event()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`, which tells its events here; whatever breaks it, its listeners get."""
        self._task = asyncio.create_task(work)
        self._task.add_done_callback(self._ended)

    def stop(self) -> bool:
        """Stop the work; False where it had ended."""
        return self._task is not None and not self.done and self._task.cancel()

    async def ended(self) -> None:
        """Wait until the work has ended, however."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=5)

    def _ended(self, task: asyncio.Task[None]) -> None:
        stopped = Busy("the answer was stopped", "ask again")
        if not self.done:
            self._error = stopped if task.cancelled() else task.exception()
        self.done = True
        self._ring()

    def tell(self, name: str, data: dict[str, Any]) -> None:
        """Add an event."""
        self.events.append(Event(self._first + len(self.events) + 1, name, data))
        self.done = name == LAST
        self._ring()

    def _ring(self) -> None:
        self._bell.set()
        self._bell = asyncio.Event()

    async def listen(self, after: int = 0) -> AsyncGenerator[Event]:
        """Events numbered above `after`, those to come included. Raises the run's error at its end."""
        while True:
            bell = self._bell
            for event in self.events[max(0, after - self._first) :]:
                after = event.number
                yield event
            if after < self._first + len(self.events):
                continue
            if self.done:
                if self._error is not None:
                    raise self._error
                return
            await bell.wait()
