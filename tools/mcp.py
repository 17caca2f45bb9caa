"""Tools of MCP servers that the settings or an installed package name (see `tools.joining`)."""

import asyncio
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from mcp import StdioServerParameters
from mcp.client import Client
from mcp.client.stdio import stdio_client

from tools.base import CaseTool, Reply
from tools.errors import Cancelled, Failed, TryAgain
from tools.joining import MOST_TEXT, MOST_TOOLS, SECONDS, Suspicious, gathered, joined_tool, quoted

log = logging.getLogger("consilium.tools.mcp")
Server = str | list[str]
"""A URL of streamable HTTP, or the command of a server on standard input and output."""


def joined(servers: Mapping[str, Server], suspicious: Suspicious) -> list[type[CaseTool]]:
    """Every tool of every server that answers, named server_tool."""

    def tools_of(name: str, server: Server) -> list[type[CaseTool]]:
        told = asyncio.run(asyncio.wait_for(_listed(server), SECONDS))
        return [_made(name, server, one, suspicious) for one in told[:MOST_TOOLS]]

    return gathered("MCP server", servers, tools_of)


def _client(server: Server) -> Client:
    if isinstance(server, str):
        return Client(server, raise_exceptions=False)
    return Client(stdio_client(StdioServerParameters(command=server[0], args=server[1:])))


async def _listed(server: Server) -> Sequence[Any]:
    async with _client(server) as client:
        return list((await client.list_tools()).tools)


def _made(name: str, server: Server, told: Any, suspicious: Suspicious) -> type[CaseTool]:
    schema = dict(told.input_schema or {"type": "object", "properties": {}})
    reads = told.annotations is not None and bool(told.annotations.read_only_hint)
    said = str(told.description or told.title or "")
    return joined_tool(
        "MCP server", name, str(told.name), said, schema, reads, suspicious, partial(_answered, name, server, str(told.name))
    )


def _answered(server_name: str, server: Server, name: str, tool: CaseTool, arguments: dict[str, Any]) -> Reply:
    async def call() -> Any:
        async with _client(server) as client:
            return await asyncio.wait_for(client.call_tool(name, arguments, progress_callback=told), SECONDS)

    async def told(progress: float, total: float | None, message: str | None) -> None:
        tool.bench.progress(int(progress), int(total or 0))

    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append(asyncio.run(call()))
        except BaseException as error:  # noqa: BLE001 (told below, by the thread that waits)
            outcome.append(error)

    # In a thread of its own: a server that has to be ended takes seconds for it, and whoever stopped the call doesn't wait for that.
    working = threading.Thread(target=work, daemon=True)
    working.start()
    until = time.monotonic() + 2 * SECONDS
    while working.is_alive() and time.monotonic() < until:
        working.join(timeout=0.1)
        if tool.bench.cancelled():
            raise Cancelled("it was stopped", "ask again")
    result = outcome[0] if outcome else TimeoutError()
    if isinstance(result, TimeoutError):
        raise Failed(f"the server {server_name} didn't answer within {SECONDS:g} s", "try again later")
    if isinstance(result, BaseException):
        log.warning("the MCP server %s failed with %s", server_name, type(result).__name__)
        raise Failed(f"the server {server_name} can't be reached or failed", "see whether it runs") from result
    text = "\n".join(c.text for c in result.content if getattr(c, "type", "") == "text")[:MOST_TEXT]
    if result.is_error:
        raise TryAgain(f"{name} refused: {text[:300]}", "mend the arguments")
    value = result.structured_content if result.structured_content is not None else text
    return quoted("MCP", server_name, name, text, value)
