"""The planner model of twelve million parameters on a real vLLM: the right tool on wordings that it never saw, and whole conversations by itself."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import grounding
from agent.answer import PlannerRef
from agent.assistant import Assistant
from agent.memory import Memory
from agent.planner.able import Able
from agent.planner.builtin import NAME, BuiltinPlanner
from agent.planner.remote import RemotePlanner, remote_planner
from knowledge import sample
from knowledge.case import Case
from knowledge.studies.archive import Archive
from serving.llm.launch import Served
from tests.vllm.conftest import serving
from tests.vllm.scores import conversations, of_conversations, of_wordings, unseen
from tools.base import Resources

pytestmark = pytest.mark.vllm
LLM = PlannerRef(kind="llm", model="box-planner")
TEN_TURNS = {
    "How big is the tumour?": "volume",
    "Where is the tumour?": "half of the brain",
    "What did the radiologist say about the ventricles?": "ventricle",
    "What is the MGMT status?": "MGMT",
    "What is her creatinine?": "Creatinine",
    "What type of tumour is this on the images?": "glioma",
    "Which imaging signs are there?": "",
    "What treatment options are there?": "60 Gy",
    "What do the guidelines say about RANO criteria?": "RANO",
    "What images do we have?": "Study S1",
}
"""Questions of one conversation, each with a word that its answer has to tell."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving("box-planner", tmp_path_factory.mktemp("vllm") / "log") as made:
        yield made


def model_of(served: Served) -> RemotePlanner:
    return remote_planner(served.url, "box-planner", None, 60, Able(context=8192), retries=0)


async def test_the_right_tool_on_wordings_that_it_never_saw(served: Served, case: Case) -> None:
    """120 wordings here; `make vllm-scores` asks more, and the built-in planner beside it. Every call has to be valid; the share is a floor."""
    found = await of_wordings(model_of(served), case.inventory(), unseen(120))
    print(json.dumps({k: v for k, v in found.items() if k != "wrong"}), *found["wrong"], sep="\n")
    assert found["calls"] > 90 and found["valid"] == found["calls"]
    assert found["value"] >= 0.65


async def test_whole_conversations_about_the_sample_case(
    served: Served, resources: Resources, sample_archive: Archive, tmp_path: Path
) -> None:
    """Without a fallback: ten turns in one conversation, every call valid, every statement carried, and what was asked is told. Then conversations
    in wordings that it never saw, beside the built-in planner's answers to the plain ones."""
    builtin = PlannerRef(kind="builtin", model=NAME)
    async with (
        Assistant(
            sample_archive, resources, Memory(tmp_path / "m.db"), model_of(served), LLM, tmp_path / "c.db", chooses=True, reads=0
        ) as alone,
        Assistant(
            sample_archive,
            resources,
            Memory(tmp_path / "b.db"),
            BuiltinPlanner.of(resources.embedder),
            builtin,
            tmp_path / "bc.db",
        ) as teacher,
    ):
        conversation = alone.open(patient_id=sample.PATIENT_ID)
        answers = [await alone.ask(conversation.id, q) for q in TEN_TURNS]
        told = [" ".join(s.text for s in a.statements) for a in answers]
        print(
            *(f"{q} [{', '.join(s.tool for s in a.plan)}] {t[:160]}" for q, a, t in zip(TEN_TURNS, answers, told, strict=True)),
            sep="\n",
        )
        for answer in answers:
            assert answer.provenance.planner == LLM and not answer.left_out
            known = {e.id: e for e in answer.evidence}
            assert all(not grounding.problems(s.text, [known[i] for i in s.evidence]) for s in answer.statements)
            assert all(s.status in ("ok", "not_applicable") for s in answer.plan), [
                (s.tool, s.arguments, s.message) for s in answer.plan
            ]
        right = [word.lower() in t.lower() and bool(t) for word, t in zip(TEN_TURNS.values(), told, strict=True)]
        print(f"{sum(right)} of {len(right)} answers tell what was asked for")
        found = await of_conversations(alone, teacher, sample.PATIENT_ID, conversations(4))
    print(json.dumps({k: v for k, v in found.items() if k != "wrong"}), *found["wrong"], sep="\n")
    assert sum(right) >= 9
    assert found["valid"] == found["calls"] and found["value"] >= 0.5
