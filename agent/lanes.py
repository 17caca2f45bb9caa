"""How many answers think at once. Those that wait have told their first event; those whose tools run, or that wait for a served model, make place."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

AT_ONCE = 2
"""Answers that plan or compose side by side. More would only share the same cores, and keep new questions from being heard."""


class Place:
    """An answer's place among those that think."""

    def __init__(self, lanes: asyncio.Semaphore | None = None) -> None:
        self._lanes = lanes or asyncio.Semaphore(AT_ONCE)
        self._held = False

    async def take(self) -> None:
        """Wait for a place."""
        await self._lanes.acquire()
        self._held = True

    def leave(self) -> None:
        """Make place; nothing where none is held."""
        if self._held:
            self._held = False
            self._lanes.release()

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Others may think while something else is waited for. Whoever is cancelled meanwhile doesn't come back."""
        self.leave()
        yield
        await self.take()
