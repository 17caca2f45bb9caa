"""The ASGI endpoint of `/mcp`: nobody comes in without a key. What speaks MCP is loaded when somebody first does."""

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from serving.access.bounds import CHAT
from serving.api.deps import grant_of
from serving.errors import Problem, answered, problem
from serving.house import House


class Door:
    """Lets callers in while it is `running`."""

    def __init__(self, house: Callable[[], House]) -> None:
        self._house = house
        self._manager: Any = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sessions live within."""
        self._opening, self._ended = asyncio.Lock(), asyncio.Event()
        holding: asyncio.Task[None] | None = None

        async def opened() -> Any:
            nonlocal holding
            async with self._opening:
                if holding is None:
                    module = await asyncio.to_thread(importlib.import_module, "serving.api.mcp")
                    manager, ready = module.manager_of(self._house), asyncio.Event()
                    holding = asyncio.create_task(self._hold(manager, ready))
                    await ready.wait()
                    self._manager = manager
            return self._manager

        self._opened = opened
        yield
        self._ended.set()
        if holding is not None:
            await holding

    async def _hold(self, manager: Any, ready: asyncio.Event) -> None:
        """Keep the sessions' tasks in one task of their own, from the first call to the end."""
        async with manager.run():
            ready.set()
            await self._ended.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            grant = scope["consilium.grant"] = grant_of(self._house(), Headers(scope=scope))
            if grant.scopes is not None and (CHAT not in grant.scopes or grant.patient is None):
                raise Problem(403, "Scope", f"the token's scopes lack {CHAT}", "ask for it, for one patient")
        except Problem as refusal:
            await answered(problem(refusal))(scope, receive, send)
            return
        manager = await self._opened()
        await manager.asgi_app(scope, receive, send)
