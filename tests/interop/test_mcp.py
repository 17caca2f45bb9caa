"""MCP's own conformance suite on what a server of any purpose has, and the TypeScript SDK's client with our tools."""

import asyncio
import json
import re
import subprocess
from pathlib import Path

import pytest

from serving.access.keys import KeyRing
from serving.app import create_app
from serving.settings import Settings
from tests.serving.browser import free_port, running

pytestmark = pytest.mark.interop
SCENARIOS = (
    "server-initialize",
    "ping",
    "tools-list",
    "resources-list",
    "server-sse-multiple-streams",
    "dns-rebinding-protection",
)
"""The others of the suite call tools, prompts and resources that only a server written for the suite has (test_simple_text …)."""


async def run(*command: str) -> str:
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    return done.stdout


async def test_conformance(clients: Path, tmp_path: Path) -> None:
    bins = clients / "npm" / "node_modules" / ".bin"
    port = free_port()
    with running(create_app(Settings(data=tmp_path / "data", no_auth=True)), port):
        for scenario in SCENARIOS:
            told = await run(str(bins / "node"), str(bins / "conformance"), "server", "--url", f"http://127.0.0.1:{port}/mcp", "--scenario", scenario,
                             "-o", str(tmp_path))  # fmt: skip
            passed = re.search(r"(\d+)\s*(?:/\s*\d+\s*)?passed|Passed:\s*(\d+)", told)
            assert passed, told[-800:]


async def test_typescript_client(clients: Path, data_with_sample: Path) -> None:
    port = free_port()
    with running(create_app(Settings(data=data_with_sample)), port):
        script = Path(__file__).with_name("drive_mcp.mjs")
        node = clients / "npm" / "node_modules" / ".bin" / "node"
        key = KeyRing(data_with_sample / "access").local()
        told = json.loads(
            await run(str(node), str(script), str(clients / "npm" / "node_modules"), f"http://127.0.0.1:{port}/mcp", key)
        )
    assert "ask" in told["tools"] and "measure" in told["tools"]
    assert " mm" in told["answer"] and told["progress"] > 0 and told["evidence"].startswith("{")
    assert told["refused"] == "401"
