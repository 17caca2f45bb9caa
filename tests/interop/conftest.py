"""Clients that others wrote, as `make interop-test` installs them, and a server that they are driven against."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.browser import served

ROOT = Path(__file__).resolve().parents[2]
INTEROP = ROOT / ".interop"


@pytest.fixture(scope="session")
def clients() -> Path:
    """The folder of the clients."""
    if not (INTEROP / ".ready").exists():
        pytest.fail("the clients aren't installed: make interop-test")
    return INTEROP


@pytest.fixture
def link(tmp_path: Path) -> Iterator[str]:
    """The chat link (its key in the fragment) of a server with an empty archive."""
    with served(tmp_path / "data") as url:
        yield url
