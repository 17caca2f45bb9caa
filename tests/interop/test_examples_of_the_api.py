"""Every block of docs/api.md, and the researchers' notebook, run against a real server: curl, Python, JavaScript."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.access.keys import KeyRing
from serving.app import create_app
from serving.settings import Settings
from tests.serving.browser import free_port, running

pytestmark = pytest.mark.interop
ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"^```(sh|python|js)\n(.*?)^```$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.M | re.S)
NODE = ROOT / ".interop" / "npm" / "node_modules" / "node" / "bin" / "node"


@pytest.fixture(scope="module")
def environment(data_with_sample: Path) -> Iterator[dict[str, str]]:
    port, key = free_port(), KeyRing(data_with_sample / "access").local()
    with running(create_app(Settings(data=data_with_sample, port=port)), port):
        bin_ = str(Path(sys.executable).parent)
        yield {
            **os.environ,
            "CONSILIUM_URL": f"http://127.0.0.1:{port}",
            "CONSILIUM_KEY": key,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{bin_}:{os.environ['PATH']}",
        }


def run(kind: str, code: str, folder: Path, environment: dict[str, str]) -> str:
    node = str(NODE) if NODE.exists() else shutil.which("node") or "node"
    name, command = {
        "sh": ("x.sh", ["bash", "-euo", "pipefail"]),
        "python": ("x.py", [sys.executable, "-W", "ignore"]),
        "js": ("x.mjs", [node]),
    }[kind]
    (folder / name).write_text(code)
    done = subprocess.run([*command, name], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    return done.stdout


@pytest.mark.parametrize(("number", "kind"), [(n, k) for n, (k, _) in enumerate(BLOCKS)])
def test_a_block_of_the_page_runs(environment: dict[str, str], tmp_path: Path, number: int, kind: str) -> None:
    assert run(kind, BLOCKS[number][1], tmp_path, environment).strip()


def test_the_three_languages_get_the_same_answer(environment: dict[str, str], tmp_path: Path) -> None:
    told = [re.findall(r"\d+\.?\d* ?mm", run(k, BLOCKS[n][1], tmp_path, environment)) for n, (k, _) in enumerate(BLOCKS[:3])]
    assert told[0] and told[0] == told[1] == told[2]


def test_the_notebook_runs(environment: dict[str, str], tmp_path: Path) -> None:
    cells = json.loads((ROOT / "docs" / "notebooks" / "researchers.ipynb").read_text())["cells"]
    said = run("python", "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code"), tmp_path, environment)
    assert "mL counted" in said and "FLAIR signal inside" in said
