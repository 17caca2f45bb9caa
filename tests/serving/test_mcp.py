"""MCP: the tools and `ask` for assistants that others wrote, over both wire versions and stdio; and tools of others that join ours."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from mcp import StdioServerParameters
from mcp.client import Client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from agent.guard import reads_like_an_order
from serving.access.keys import KeyRing
from serving.app import create_app
from serving.settings import Settings
from tests.serving.browser import free_port, running
from tools import registry
from tools.base import Bench, CaseTool, Reply
from tools.errors import Cancelled, Failed, TryAgain
from tools.mcp import joined

PATIENT = "SAMPLE-GLIOMA"
LAB = [sys.executable, str(Path(__file__).with_name("mcp_lab.py"))]


STOPPED = threading.Event()


class Slow(CaseTool):
    """Goes on until it is told to stop."""

    name: str = "slow_tool"
    description: str = "Slow."
    asks = ["be slow"]
    gives = []
    card = registry.IN_THE_BOX[0].card
    needs = registry.IN_THE_BOX[0].needs.model_copy(update={"case": False})

    def answer(self, arguments: Any) -> Reply:
        for done in range(200):
            self.bench.progress(done, 200)
            if self.bench.cancelled():
                STOPPED.set()
                raise Cancelled("stopped")
            time.sleep(0.05)
        return Reply(text="done")


@pytest.fixture(scope="module")
def place(data_with_sample: Path) -> Iterator[tuple[str, str]]:
    """URL and key of a server with the sample case."""
    port = free_port()
    app = create_app(Settings(data=data_with_sample))
    with running(app, port):
        yield f"http://127.0.0.1:{port}/mcp", KeyRing(data_with_sample / "access").local()


def client(place: tuple[str, str], mode: str = "auto") -> Client:
    url, key = place
    return Client(
        streamable_http_client(url, http_client=httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=60)),
        mode=mode,
    )


@pytest.mark.parametrize(("mode", "version"), [("auto", "2026-07-28"), ("legacy", "2025-11-25")])
async def test_both_wire_versions(place: tuple[str, str], mode: str, version: str) -> None:
    seen: list[str] = []

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        seen.append(str(message))

    async with client(place, mode) as session:
        assert session.protocol_version == version
        tools = {t.name: t for t in (await session.list_tools()).tools}
        assert {"ask", "measure", "search_guidelines", "draft_report"} <= set(tools)
        assert "patient_id" in tools["measure"].input_schema["required"]
        assert (
            "required" not in tools["search_guidelines"].input_schema
            or "patient_id" not in tools["search_guidelines"].input_schema["required"]
        )
        assert PATIENT not in json.dumps([t.model_dump(mode="json") for t in tools.values()])
        told = await session.call_tool(
            "ask", {"question": "How big is the tumour?", "patient_id": PATIENT}, progress_callback=heard
        )
        assert not told.is_error and "mm" in told.content[0].text and "Research use only" in told.content[0].text
        assert told.structured_content and told.structured_content["statements"]
        assert "measure started" in seen and "measure finished" in seen
        link = next(c for c in told.content if c.type == "resource_link")
        evidence = json.loads((await session.read_resource(link.uri)).contents[0].text)
        assert evidence["statement"] and evidence["id"] == link.name
        again = {"question": "And its volume?", "conversation_id": told.structured_content["conversation_id"]}
        assert "mL" in (await session.call_tool("ask", again)).content[0].text
        measured = await session.call_tool("measure", {"patient_id": PATIENT})
        assert measured.structured_content and measured.structured_content["evidence"][0]["unit"]


async def test_what_cannot_be_called(place: tuple[str, str]) -> None:
    async with client(place) as session:
        for name, arguments in (("measure", {}), ("measure", {"patient_id": "NOBODY"}), ("measure", {"patient_id": PATIENT, "study": 7}),
                                ("ask", {}), ("ask", {"question": "?", "patient_id": 7})):  # fmt: skip
            told = await session.call_tool(name, arguments)
            assert told.is_error and told.content[0].text, (name, arguments)
        with pytest.raises(MCPError, match="no tool"):
            await session.call_tool("nothing", {})
        for uri in ("consilium://studies/none", "consilium://evidence/x.E1", "file:///etc/passwd", "consilium://keys/local"):
            with pytest.raises(MCPError):
                await session.read_resource(uri)


async def test_resources(place: tuple[str, str]) -> None:
    async with client(place) as session:
        [study, *_] = (await session.list_resources()).resources
        assert study.title and "MR" in study.title
        assert json.loads((await session.read_resource(study.uri)).contents[0].text)["patient_id"] == PATIENT
        assert {t.name for t in (await session.list_resource_templates()).resource_templates} == {"study", "evidence"}


def test_nobody_without_a_key(place: tuple[str, str]) -> None:
    url, _ = place
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    headers = {"accept": "application/json, text/event-stream"}
    for sent in ({}, {"authorization": "Bearer ck_wrong"}):
        reply = httpx2.post(url, json=body, headers={**headers, **sent})
        assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer"
    evil = httpx2.post(
        url, json=body, headers={**headers, "authorization": f"Bearer {place[1]}", "origin": "https://evil.example"}
    )
    assert evil.status_code == 403


async def test_a_call_can_be_stopped(place: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "tool_types", lambda types=registry.tool_types(): {**types, "slow_tool": Slow})
    begun = asyncio.Event()

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        assert total == 200
        begun.set()

    async with client(place) as session:
        calling = asyncio.ensure_future(session.call_tool("slow_tool", {}, progress_callback=heard))
        await asyncio.wait_for(begun.wait(), 20)
        calling.cancel()
        assert await asyncio.to_thread(STOPPED.wait, 10)


async def test_over_stdio(data_with_sample: Path) -> None:
    command = ["-m", "serving", "mcp", "--data", str(data_with_sample), "--patient", PATIENT]
    async with Client(stdio_client(StdioServerParameters(command=sys.executable, args=command))) as session:
        tools = {t.name: t for t in (await session.list_tools()).tools}
        assert "patient_id" not in json.dumps(tools["measure"].input_schema)  # it is bound to its patient
        told = await session.call_tool("patient_record", {"topics": ["MGMT"]})
        assert not told.is_error and "methylated" in told.content[0].text
        assert (await session.call_tool("measure", {"patient_id": "OTHER"})).is_error


# Tools of others


def test_tools_of_others_join(resources: Any, tmp_path: Path) -> None:
    tools = {
        t.model_fields["name"].default: t for t in joined({"lab": LAB, "gone": "http://127.0.0.1:9/mcp"}, reads_like_an_order)
    }
    assert set(tools) == {"lab_turnaround", "lab_order_test", "lab_hostile"}
    assert tools["lab_turnaround"].effect == "read" and tools["lab_order_test"].effect == "write"
    assert (
        "benign" not in json.dumps(tools["lab_hostile"].described())
        and "like an order" in tools["lab_hostile"].described()["description"]
    )
    bench = Bench(resources)
    [fact] = tools["lab_turnaround"].bound(bench).reply({"laboratory": "North"}).facts
    assert "North: 3 days" in fact.statement and fact.source.resource == "MCP/lab"
    with pytest.raises(TryAgain):
        tools["lab_turnaround"].bound(bench).reply({"laboratory": 7})
    with pytest.raises(Cancelled):
        tools["lab_turnaround"].bound(Bench(resources, cancelled=lambda: True)).reply({"laboratory": "North"})


def test_joined_tools_in_the_house(data_with_sample: Path) -> None:
    settings = Settings(data=data_with_sample, no_auth=True, mcp_servers={"lab": LAB})
    with TestClient(create_app(settings)) as made:
        assert {"lab_turnaround", "lab_order_test"} <= {t["name"] for t in made.get("/v1/tools").json()}
        ran = made.post("/v1/tools/lab_turnaround", json={"arguments": {"laboratory": "North"}}).json()
        assert ran["status"] == "ok" and ran["evidence"][0]["source"]["resource"] == "MCP/lab"
        refused = made.post("/v1/tools/lab_order_test", json={"arguments": {"name": "CBC"}}).json()
        assert refused["status"] == "refused" and "confirmed" in refused["text"]
        opened = made.post("/v1/conversations", json={"patient_id": PATIENT}).json()["id"]
        answer = made.post(f"/v1/conversations/{opened}/messages", json={"text": "How big is the tumour?"}).json()
        assert [s["tool"] for s in answer["plan"]] == ["segment", "measure"]  # others' tools take no question that is ours


def test_a_server_that_goes_away(resources: Any, tmp_path: Path) -> None:
    script = tmp_path / "lab.py"
    script.write_text(Path(LAB[1]).read_text())
    tool = joined({"lab": [LAB[0], str(script)]}, reads_like_an_order)[0]
    script.write_text("raise SystemExit(1)")
    with pytest.raises(Failed, match="can't be reached"):
        tool.bound(Bench(resources)).reply({"laboratory": "North"})
