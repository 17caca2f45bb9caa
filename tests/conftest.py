"""Fixtures: an archive with the sample case, shared resources, an assistant."""

import os
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import pytest
from filelock import FileLock

from agent.answer import PlannerRef
from agent.assistant import Assistant
from agent.memory import Memory
from agent.planner.builtin import NAME, BuiltinPlanner
from knowledge import sample
from knowledge.case import Case, open_case
from knowledge.guidelines.minilm import MiniLM
from knowledge.guidelines.search import GuidelineIndex
from knowledge.records.search import RecordSearch
from knowledge.studies.archive import Archive
from serving.app import create_app
from serving.settings import Settings
from tools.base import Bench, Resources
from tools.models.catalogue import Catalogue
from tools.models.masks import segmentation

SHARED = Path(__file__).resolve().parents[2] / "shared"
IN_CI = bool(os.environ.get("CI"))


@pytest.fixture(scope="session", autouse=True)
def embedded_once() -> Iterator[None]:
    """A text is embedded once in a test process: each fresh data folder embeds the guidelines in the box, which takes five seconds."""
    embed, known = MiniLM.embed, dict[str, np.ndarray]()

    def remembered(self: MiniLM, texts: Sequence[str], batch: int = 32) -> np.ndarray:
        new = list(dict.fromkeys(t for t in texts if t not in known))
        known.update(zip(new, embed(self, new, batch), strict=True))
        return np.stack([known[t] for t in texts]) if texts else embed(self, [])

    with patch.object(MiniLM, "embed", remembered):
        yield


@pytest.fixture(scope="session")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Resources:
    """Real models, a real Chroma, the real embedder."""
    embedder = MiniLM()
    index = GuidelineIndex(tmp_path_factory.mktemp("chroma"), embedder)
    return Resources(Catalogue(), index, embedder, RecordSearch(embedder))


@pytest.fixture(scope="session")
def sample_archive(resources: Resources, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """An archive with the sample case, its tumour outlined; tests read it and leave it as it is.

    Made once for all test processes, each of which has a copy: the outline takes half a minute.
    """
    every = tmp_path_factory.getbasetemp()
    every = every.parent if os.environ.get("PYTEST_XDIST_WORKER") else every
    whole = every / "sample-of-all"
    with FileLock(every / "sample-of-all.lock"):
        if not whole.exists():
            part = every / "sample-being-made"
            made = Archive(part)
            assert not sample.load(made).rejected
            segmentation(Bench(resources, open_case(made, patient_id=sample.PATIENT_ID)))
            made.engine.dispose()
            part.replace(whole)
    own = tmp_path_factory.mktemp("archive") / "sample"
    shutil.copytree(whole, own)
    return Archive(own)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    made = Archive(tmp_path / "archive")
    yield made
    made.engine.dispose()


@pytest.fixture
def case(sample_archive: Archive) -> Case:
    return open_case(sample_archive, patient_id=sample.PATIENT_ID)


@pytest.fixture
def bench(resources: Resources, case: Case) -> Bench:
    return Bench(resources, case)


@pytest.fixture
async def assistant(resources: Resources, sample_archive: Archive, tmp_path: Path) -> AsyncIterator[Assistant]:
    memory = Memory(tmp_path / "conversations.db")
    planner = BuiltinPlanner.of(resources.embedder)
    ref = PlannerRef(kind="builtin", model=NAME)
    async with Assistant(sample_archive, resources, memory, planner, ref, tmp_path / "checkpoints.db") as made:
        yield made


@pytest.fixture(scope="session")
def data_with_sample(tmp_path_factory: pytest.TempPathFactory, sample_archive: Archive) -> Path:
    """A server's data folder that holds the sample case."""
    data = tmp_path_factory.mktemp("data")
    shutil.copytree(sample_archive.root, data / "archive")
    return data


@pytest.fixture
def settings(data_with_sample: Path) -> Settings:
    return Settings(data=data_with_sample)


@pytest.fixture
def app(settings: Settings):
    return create_app(settings)


def shared(*parts: str) -> Path:
    """A path in ../shared; the test is skipped, with the reason, where the checkout has none beside it (never in CI)."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        message = f"{path} isn't beside this checkout"
        pytest.fail(message) if IN_CI else pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a real PostgreSQL; the test is skipped, with the reason, where Debian's package isn't installed (never in CI)."""
    from tests.postgres import binaries, server

    if binaries() is None:
        message = "PostgreSQL isn't installed: `make services` does that"
        pytest.fail(message) if IN_CI else pytest.skip(message)
    with TemporaryDirectory(prefix="consilium-pg-") as folder:
        Path(folder).chmod(0o755)
        with server(Path(folder)) as url:
            yield url
