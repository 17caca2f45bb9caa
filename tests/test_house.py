"""The house itself: what the README promises is there, tools are documented, names resolve to this checkout."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from serving.doctor import strangers
from tools.registry import tool_types

ROOT = Path(__file__).resolve().parents[1]


def test_the_four_rooms_are_this_checkout() -> None:
    assert strangers() == []


def test_the_lock_names_no_index_and_pins_everything() -> None:
    lines = [x for x in (ROOT / "requirements.lock").read_text().splitlines() if x and not x.lstrip().startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^\s+]+", x) for x in lines), [x for x in lines if "==" not in x or "+" in x]
    assert "torch==2.13.0" in lines


@pytest.mark.parametrize("name", sorted(tool_types()))
def test_the_readme_names_every_tool(name: str) -> None:
    assert f"`{name}`" in (ROOT / "README.md").read_text()


def test_the_server_comes_up_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom fastapi.testclient import TestClient\nfrom serving.app import create_app\n"
        "from serving.settings import Settings\n"
        f"with TestClient(create_app(Settings(data=Path({str(tmp_path)!r}), no_auth=True))) as c:\n"
        "    assert c.get('/readyz').status_code == 200\n    assert not {'torch', 'monai', 'transformers'} & set(sys.modules)\n"
        "assert 'onnxruntime' in sys.modules\n"  # loaded by then, in the background
    )
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False,
                          env={**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not [f for f in home.rglob("*") if "onnxruntime" in f.name], "onnxruntime gathers events for its maker"


def test_no_file_of_the_repository_is_large() -> None:
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    most = {".safetensors": 40 * 2**20}
    """Weights of our own language models may be twice as large as anything else."""
    assert not [
        f for f in files if f and (ROOT / f).exists() and (ROOT / f).stat().st_size > most.get(Path(f).suffix, 20 * 2**20)
    ]


def test_the_sample_case_is_small_and_says_that_it_is_made_up() -> None:
    folder = ROOT / "knowledge" / "sample"
    assert sum(f.stat().st_size for f in folder.iterdir() if f.is_file()) < 15 * 2**20
    assert "Made up" in (folder / "report.txt").read_text() and "Made up" in (folder / "bundle.json").read_text()
    assert "CC BY 3.0" in (folder / "ATTRIBUTION.md").read_text()
