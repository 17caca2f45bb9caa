"""dicomweb-client stores, searches and retrieves; what comes back is what was sent."""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from tests.serving.test_dicomweb import series

pytestmark = pytest.mark.interop
DRIVER = Path(__file__).parent / "drive_dicomweb_client.py"


async def test_dicomweb_client(clients: Path, link: str, tmp_path: Path) -> None:
    folder = tmp_path / "sent"
    folder.mkdir()
    for number, file in enumerate(series("P1")):
        (folder / f"{number}.dcm").write_bytes(file)
    base, key = link.split("/#key=")
    command = [str(clients / "venv" / "bin" / "python"), str(DRIVER), f"{base}/dicom-web", key, str(folder)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "referenced": 5, "failed": 0, "studies": 1, "series": 1, "instances": 5, "same": True, "frame": True, "bulk": True, "metadata": 5,
        "rendered": True, "iterated": 5,
    }  # fmt: skip
