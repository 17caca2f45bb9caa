"""Real vLLM servers, started by the profiles as `consilium llm serve` starts them; `make vllm-test` makes their environment first."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from serving.llm.launch import Served
from serving.llm.profiles import ROOT, profile_of

PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
Serve = Callable[..., Any]


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


@contextmanager
def serving(name: str, log: Path | None = None, loras: dict[str, Path] | None = None, **changed: Any) -> Iterator[Served]:
    """A server of the profile, answering. `log`: where it writes, a temporary file by default."""
    if not PYTHON.exists():
        pytest.fail("vLLM's environment isn't there: make vllm-setup")
    with TemporaryDirectory() as folder:
        log = log or Path(folder) / "log"
        with Served(
            profile_of(name, **changed), port=free_port(), python=str(PYTHON), loras=loras, log=log, served=name
        ) as served:
            served.wait(600)
            yield served


@pytest.fixture(scope="module")
def planner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The small planner model on vLLM, one server for a module."""
    with serving("box-fixture", tmp_path_factory.mktemp("vllm") / "log") as served:
        yield served
