"""The tutorial followed to the letter, from an empty folder to answers in chat; and the example tools, installed and checked."""

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = (ROOT / "docs" / "tools" / "tutorial.md").read_text(encoding="utf-8")
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)


@pytest.fixture
def shell(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """An empty folder, and an environment of its own in which Consilium is installed as it is here."""
    place = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    packages = next(place.glob("lib/python*/site-packages"))
    (packages / "house.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n{ROOT}\n")
    for name, run in (("consilium", "-m serving"), ("pytest", "-m pytest -p no:cacheprovider -c /dev/null")):
        (place / "bin" / name).write_text(f'#!/bin/sh\nexec "{place}/bin/python" -W ignore {run} "$@"\n')
        (place / "bin" / name).chmod(0o755)
    empty = tmp_path / "empty"
    empty.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CONSILIUM_", "PYTEST_", "COVERAGE"))}
    return empty, {**kept, "PATH": f"{place}/bin:{os.environ['PATH']}", "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"),
                   "XDG_DATA_HOME": str(tmp_path / "data"), "PYTHONNOUSERSITE": "1"}  # fmt: skip


def test_its_code_is_the_examples() -> None:
    blocks = {title: body for _, title, body in BLOCK.findall(TUTORIAL) if title}
    assert len(blocks) == 2
    for title, body in blocks.items():
        assert body == (ROOT / "examples" / title).read_text(encoding="utf-8"), title
    own = [x for x in blocks["hu_histogram/consilium_hu_histogram/__init__.py"].splitlines() if x.strip()]
    assert len(own) <= 30, "thirty lines of one's own"


@pytest.mark.slow
def test_it_is_followed_to_the_letter(shell: tuple[Path, dict[str, str]]) -> None:
    folder, environment = shell
    script = ["set -euo pipefail", 'trap "kill \\$SERVER 2>/dev/null || true" EXIT', "SERVER="]
    for kind, title, body in BLOCK.findall(TUTORIAL):
        if title:
            script.append(f"cat > {title} <<'END_OF_FILE'\n{body}END_OF_FILE")
        elif kind == "sh":
            script.append(body)
    (folder.parent / "tutorial.sh").write_text("\n".join(script))
    with (folder.parent / "said.txt").open("w") as said:  # a file: the server in the background may outlive a pipe
        done = subprocess.run(
            ["bash", str(folder.parent / "tutorial.sh")],
            cwd=folder,
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
            timeout=900,
            check=False,
        )
    told = (folder.parent / "said.txt").read_text(errors="replace")
    assert done.returncode == 0, told[-4000:]
    assert told.count(", 0 fail,") == 3 and " FAIL " not in told
    assert re.search(r"50th percentile of the nodule on series S1\.1: 4\d HU", told)
    chat = json.loads((folder / "chat.json").read_text())["choices"][0]["message"]["content"]
    assert "50th percentile of the nodule" in chat
    organs = json.loads((folder / "organs.json").read_text())
    assert organs["status"] == "ok" and organs["evidence"][0]["source"]["model"]
    doubling = json.loads((folder / "doubling.json").read_text())
    assert "133 days" in doubling["text"] and doubling["evidence"][0]["source"]["resource"] == "MCP/doubling_time"


def test_the_mcp_example_is_what_the_command_writes() -> None:
    from serving.cli_tools import Kind, scaffold

    for path, content in scaffold("doubling_time", Kind.MCP).items():
        kept = (ROOT / "examples" / "doubling_time" / path).read_text(encoding="utf-8")
        same = ast.dump(ast.parse(kept)) == ast.dump(ast.parse(content)) if path.endswith(".py") else kept == content
        assert same, path


@pytest.mark.slow
def test_the_example_of_a_model_is_sound(shell: tuple[Path, dict[str, str]]) -> None:
    """The other two are what the tutorial makes."""
    folder, environment = shell
    name = "soft_tissue"
    subprocess.run(["cp", "-r", str(ROOT / "examples" / name), str(folder)], check=True)
    for command in (
        ["python", "-m", "pip", "install", "-q", "--no-build-isolation", "-e", name],
        ["consilium", "tools", "check", name],
    ):
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-2000:]}"
