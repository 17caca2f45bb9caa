"""schemathesis over the whole API: no server error, no status and no media type that isn't documented."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from serving.access.keys import KeyRing
from serving.app import create_app
from serving.settings import Settings
from tests.serving.browser import free_port, running

pytestmark = pytest.mark.interop
SECONDS = 90
"""One worker: Python 3.11 parses in several threads at once with a recursion depth that they share ("AST constructor recursion depth mismatch")."""


async def test_nothing_undocumented(clients: Path, data_with_sample: Path) -> None:
    port = free_port()
    with running(create_app(Settings(data=data_with_sample)), port):
        key = KeyRing(data_with_sample / "access").local()
        done = await asyncio.to_thread(
            subprocess.run,
            [str(clients / "venv" / "bin" / "schemathesis"), "run", f"http://127.0.0.1:{port}/openapi.json", "-H", f"Authorization: Bearer {key}",
             "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance", "-n", "10", "-w", "1",
             "--phases", "coverage,fuzzing", "--max-time", str(SECONDS), "--request-timeout", "60", "--generation-deterministic",
             "--continue-on-failure"],
            capture_output=True, text=True, timeout=SECONDS + 300, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[:6000] + done.stdout[-6000:] + done.stderr[-2000:]
    assert "Tested:" in done.stdout
