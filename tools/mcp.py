"""Tools of MCP servers that the settings name, as tools of this house: what they say of themselves and what they answer is data.

A tool that its server doesn't call read-only waits for a person's confirmation. One that needs the case gets only what the plan gives it.
"""

import asyncio
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

import jsonschema
from mcp import StdioServerParameters
from mcp.client import Client
from mcp.client.stdio import stdio_client
from pydantic import BaseModel, ConfigDict, model_validator

from knowledge.evidence import Fact, Kind, RecordRef
from tools.base import Card, CaseTool, Cost, Effect, Needs, Reply
from tools.errors import Cancelled, Failed, ToolError, TryAgain

log = logging.getLogger("consilium.tools.mcp")
SECONDS = 30.0
"""For one call, and for a server's list of tools."""
MOST_TOOLS, MOST_WORDS, MOST_TEXT = 64, 400, 8000
"""Tools of a server; characters of a description, and of an answer."""
Server = str | list[str]
"""A URL of streamable HTTP, or the command of a server on standard input and output."""


def joined(servers: Mapping[str, Server], suspicious: Callable[[str], bool]) -> list[type[CaseTool]]:
    """Every tool of every server that answers, named server_tool. `suspicious`: true for words that address a model; they aren't handed on."""
    found: list[type[CaseTool]] = []
    for name, server in servers.items():
        try:
            told = asyncio.run(asyncio.wait_for(_listed(server), SECONDS))
        except Exception as error:  # noqa: BLE001 (a server that isn't there takes nothing else with it)
            log.warning("the MCP server %s can't be asked for its tools (%s): it is left out", name, type(error).__name__)
            continue
        found += [_made(name, server, one, suspicious) for one in told[:MOST_TOOLS]]
    return found


def _client(server: Server) -> Client:
    if isinstance(server, str):
        return Client(server, raise_exceptions=False)
    return Client(stdio_client(StdioServerParameters(command=server[0], args=server[1:])))


async def _listed(server: Server) -> Sequence[Any]:
    async with _client(server) as client:
        return list((await client.list_tools()).tools)


def _made(server_name: str, server: Server, told: Any, suspicious: Callable[[str], bool]) -> type[CaseTool]:
    plain = re.sub(r"[^a-z0-9]+", "_", str(told.name).lower()).strip("_")
    own = f"{re.sub(r'[^a-z0-9]+', '_', server_name.lower())}_{plain}"[:60]
    words = re.sub(r"\s+", " ", str(told.description or told.title or plain)).strip()[:MOST_WORDS]
    words = (
        f"{plain.replace('_', ' ')} (its server's own words read like an order and were left out)" if suspicious(words) else words
    )
    hints = told.annotations
    schema = dict(told.input_schema or {"type": "object", "properties": {}})

    class Joined(CaseTool):
        """A tool of an MCP server."""

        name: str = own
        description: str = f"Of the server {server_name}: {words}"
        args_schema: Any = _arguments(schema, suspicious)
        asks: ClassVar[list[str]] = [words.split(". ")[0]]
        needs: ClassVar[Needs] = Needs(case=False)
        gives: ClassVar[list[Kind]] = [Kind.RECORD]
        card: ClassVar[Card] = Card(
            intended_use=f"As the MCP server {server_name} says; nothing of it was checked here.", accuracy="unknown",
            limits="Another program's answer: taken as data, shown with its source.", licence="its server's", version="unknown",
        )  # fmt: skip
        cost: ClassVar[Cost] = Cost(seconds=5)
        effect: ClassVar[Effect] = Effect.READ if hints is not None and hints.read_only_hint else Effect.WRITE

        def answer(self, arguments: Any) -> Reply:
            return _answered(self, server_name, server, str(told.name), arguments.model_dump())

    Joined.__name__ = own
    return Joined


def _arguments(schema: dict[str, Any], suspicious: Callable[[str], bool]) -> type[BaseModel]:
    """Arguments by a JSON schema of the server's."""
    cleaned: dict[str, Any] = _cleaned(schema, suspicious)

    class Arguments(BaseModel):
        model_config = ConfigDict(extra="allow")

        @model_validator(mode="before")
        @classmethod
        def _fit(cls, value: Any) -> Any:
            try:
                jsonschema.validate(value, schema)
            except jsonschema.ValidationError as error:
                raise ValueError(f"{error.json_path}: {error.message[:200]}") from error
            return value

        @classmethod
        def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
            return cleaned

    return Arguments


def _cleaned(node: Any, suspicious: Callable[[str], bool]) -> Any:
    """A schema whose descriptions address no model."""
    if isinstance(node, list):
        return [_cleaned(n, suspicious) for n in node]
    if not isinstance(node, dict):
        return node
    return {
        k: _cleaned(v, suspicious) for k, v in node.items() if not (k == "description" and isinstance(v, str) and suspicious(v))
    }


def _answered(tool: CaseTool, server_name: str, server: Server, name: str, arguments: dict[str, Any]) -> Reply:
    async def call() -> Any:
        """The result, or the error that ends the call: one that is raised in here comes out wrapped in the client's own."""
        async with _client(server) as client:
            calling = asyncio.ensure_future(client.call_tool(name, arguments, progress_callback=told))
            until = asyncio.get_running_loop().time() + SECONDS
            while not tool.bench.cancelled() and asyncio.get_running_loop().time() < until:
                if (await asyncio.wait([calling], timeout=0.2))[0]:
                    return calling.result()
            calling.cancel()
        if tool.bench.cancelled():
            return Cancelled("it was stopped", "ask again")
        return Failed(f"the server {server_name} didn't answer within {SECONDS:g} s", "try again later")

    async def told(progress: float, total: float | None, message: str | None) -> None:
        tool.bench.progress(int(progress), int(total or 0))

    try:
        result = asyncio.run(call())
    except Exception as error:
        log.warning("the MCP server %s failed with %s", server_name, type(error).__name__)
        raise Failed(f"the server {server_name} can't be reached or failed", "see whether it runs") from error
    if isinstance(result, ToolError):
        raise result
    text = "\n".join(c.text for c in result.content if getattr(c, "type", "") == "text")[:MOST_TEXT]
    if result.is_error:
        raise TryAgain(f"{name} refused: {text[:300]}", "mend the arguments")
    value = result.structured_content if result.structured_content is not None else text
    if not text:
        text = json.dumps(value, ensure_ascii=False)[:MOST_TEXT]
    day = datetime.now(UTC).date().isoformat()
    statement = f'{server_name} answers to {name.replace("_", " ")}: "{_short(text)}".'
    source = RecordRef(resource=f"MCP/{server_name}", path=name, date=day)
    fact = Fact(kind=Kind.RECORD, title=f"{server_name}: {name}", statement=statement, value=value, source=source)
    return Reply(text=statement, facts=[fact])


def _short(text: str, most: int = 600) -> str:
    plain = re.sub(r"\s+", " ", text).strip()
    return plain if len(plain) <= most else f"{plain[:most]}…"
