"""A real vLLM server with a tiny model that sees and has no tool parser: pictures arrive in order, plans come under a schema, nothing ungrounded is said."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent import grounding
from agent.answer import PlannerRef
from agent.assistant import Assistant
from agent.memory import Memory
from agent.planner.remote import remote_planner
from agent.testing import dicom_series
from agent.training.seeing import WORDS
from knowledge import sample
from knowledge.case import open_case
from knowledge.studies.archive import Archive
from knowledge.studies.unpack import Incoming
from serving.llm.launch import Served
from serving.llm.probe import probe, quick
from tests.vllm.conftest import serving
from tools.base import Bench, Resources, Vision
from tools.look import Look

pytestmark = pytest.mark.vllm
LLM = PlannerRef(kind="llm", model="box-sees")


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving("box-sees", tmp_path_factory.mktemp("vllm") / "log") as served:
        yield served


def bands(levels: list[int]) -> np.ndarray:
    """A stack whose slices run through these grey levels, a quarter of the stack each: [column, row, slice]."""
    return np.repeat(np.repeat(np.repeat(np.array(levels, np.int16)[None, None], 64, 0), 64, 1), 5, 2)


def test_the_probe_finds_pictures_and_no_tool_parser(seeing: Served) -> None:
    found = probe(seeing.url)
    assert found.images == 4 and not found.tools and found.schema and "auto" in found.reasons["tools"]
    assert quick(seeing.url, "box-sees") == found.able


@pytest.mark.parametrize("levels", [[0, 0, 240, 240], [240, 240, 0, 0]])
def test_look_shows_key_slices_in_order(seeing: Served, resources: Resources, archive: Archive, levels: list[int]) -> None:
    """The model names the brightness of each of two pictures: darker first and brighter first are told apart."""
    files = dicom_series(bands(levels), np.diag([1.0, 1.0, 3.0, 1.0]), description="T1")
    archive.add([Incoming(f"{n}.dcm", f) for n, f in enumerate(files)])
    model = remote_planner(seeing.url, "box-sees", None, 60, quick(seeing.url, "box-sees"))
    bench = Bench(Resources(resources.catalogue, resources.guidelines, resources.embedder, resources.records, Vision(model, "box-sees", 2)),
                  open_case(archive, "PHANTOM"))  # fmt: skip
    reply = Look.bound(bench).reply({"question": "what do you see?", "series": "S1.1"})
    said = reply.facts[0].value["said"]  # type: ignore[index,call-overload]
    words = [s.split(" is ")[1].rstrip(".") for s in said.split(". ") if " is " in s]
    first, last = (WORDS.index(w) for w in words)
    assert (first < last) == (levels[0] == 0) and first != last, said
    assert reply.missing and reply.facts[0].source.model == "box-sees"  # type: ignore[union-attr]


async def test_its_answers_go_through_the_same_grounding(
    seeing: Served, resources: Resources, sample_archive: Archive, tmp_path: Path
) -> None:
    """A model that can only tell brightness plans under a schema and writes with the key slices before it: nothing that its evidence doesn't carry is said."""
    able = quick(seeing.url, "box-sees")
    model = remote_planner(seeing.url, "box-sees", None, 120, able)
    with_eyes = Resources(
        resources.catalogue, resources.guidelines, resources.embedder, resources.records, Vision(model, "box-sees", able.images)
    )
    async with Assistant(
        sample_archive, with_eyes, Memory(tmp_path / "m.db"), model, LLM, tmp_path / "c.db", seconds=240
    ) as assistant:
        answer = await assistant.ask(assistant.open(patient_id=sample.PATIENT_ID).id, "How big is the tumour?")
    known = {e.id: e for e in answer.evidence}
    print(json.dumps({"plan": [(s.tool, s.arguments, s.status) for s in answer.plan], "said": [s.text for s in answer.statements],
                      "left_out": [x.model_dump() for x in answer.left_out], "lead": answer.lead}, ensure_ascii=False))  # fmt: skip
    assert all(not grounding.problems(s.text, [known[i] for i in s.evidence]) for s in answer.statements)
    assert all(set(s.evidence) <= set(known) for s in answer.statements)
