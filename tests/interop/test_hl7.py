"""hl7apy as a sender: its message is kept, and our acknowledgement is valid by its tables."""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from serving.app import create_app
from serving.settings import Settings
from tests.serving.browser import free_port

pytestmark = pytest.mark.interop


async def test_hl7apy_sends(clients: Path, tmp_path: Path) -> None:
    port = free_port()
    with TestClient(
        create_app(Settings(data=tmp_path / "data", no_auth=True, mllp_port=port, mllp_allowed=["127.0.0.1"]))
    ) as client:
        command = (
            str(clients / "venv" / "bin" / "python"),
            str(Path(__file__).with_name("drive_hl7.py")),
            "127.0.0.1",
            str(port),
        )
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr[-2000:]
        assert json.loads(done.stdout) == {"code": "AA", "control": "C1", "type": "ACK^R01^ACK", "valid": True}
        [item] = client.app.state.house.archive.items("P7")  # type: ignore[attr-defined]
        assert (item.name, item.value, item.unit) == ("Creatinine", 1.3, "mg/dL")
