"""Learning from use, end to end on the small model: feedback in the archive, `export training`, a LoRA by TRL, vLLM serves it; scores before and after."""

import asyncio
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from agent.answer import PlannerRef
from agent.assistant import Assistant
from agent.memory import Memory
from agent.planner.able import Able
from agent.planner.builtin import NAME, BuiltinPlanner
from agent.planner.remote import remote_planner
from agent.training.questions import Asked, asked, meanings
from knowledge import sample
from knowledge.case import open_case
from knowledge.studies.archive import Archive
from serving.llm.profiles import ROOT, profile_of
from tests.vllm.conftest import PYTHON, serving
from tests.vllm.scores import of_wordings
from tools.base import Resources

pytestmark = pytest.mark.vllm
INTENTS = ("measure", "segment", "list", "metadata", "record", "reports", "quiz", "follow")
"""Whose tools are quick: the adapter learns how this house asks for them."""


def of_the_house(many: int, seed: int) -> list[Asked]:
    """Questions in the wordings that the base model never saw, in English."""
    chance, found = random.Random(seed), dict[str, Asked]()
    pool = [m for m in meanings() if m.intent in INTENTS]
    while len(found) < many:
        intent = chance.choice(INTENTS)
        one = asked(chance.choice([m for m in pool if m.intent == intent]), chance, held=True, language="en")
        if one is not None:
            found.setdefault(one.text, one)
    return list(found.values())


async def used(data: Path, resources: Resources, questions: list[Asked]) -> None:
    """A house at work: the built-in planner answers, users rate; every second answer of several sentences gets a correction that leaves the first."""
    archive = Archive(data / "archive")
    sample.load(archive)
    memory = Memory(data / "conversations.db")
    ref = PlannerRef(kind="builtin", model=NAME)
    async with Assistant(archive, resources, memory, BuiltinPlanner.of(resources.embedder), ref) as assistant:
        several = 0
        for one in questions:
            conversation = assistant.open(patient_id=sample.PATIENT_ID)
            answer = await assistant.ask(conversation.id, one.text)
            several += len(answer.statements) > 1
            if several % 2 and len(answer.statements) > 1:
                first = answer.statements[0]
                memory.rate(conversation.id, answer.id, "down", f"{first.text.rstrip('.')} [{first.evidence[0]}].")
            else:
                memory.rate(conversation.id, answer.id, "up", None)


async def test_feedback_becomes_an_adapter_that_vllm_serves(tmp_path: Path, resources: Resources) -> None:
    learned, asked_later = of_the_house(90, 1), of_the_house(160, 2)
    seen = {q.text for q in learned}
    later = [q for q in asked_later if q.text not in seen][:80]
    data = tmp_path / "data"
    await used(data, resources, learned)

    environment = {**os.environ, "CONSILIUM_LLM_CHOOSES": "true"}
    out = tmp_path / "exported"
    subprocess.run(
        [sys.executable, "-m", "serving", "export", "training", "--out", str(out), "--data", str(data)],
        check=True,
        env=environment,
        cwd=ROOT,
    )
    assert sample.PATIENT_ID not in "".join(p.read_text(encoding="utf-8") for p in out.iterdir())
    base = profile_of("box-fixture").folder
    assert base is not None
    adapter = tmp_path / "adapter"
    run = subprocess.run([PYTHON, ROOT / "agent" / "training" / "lora.py", "--base", base, "--data", out, "--out", adapter, "--epochs", "3"],
                         capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=False)  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    made = json.loads((adapter / "made.json").read_text(encoding="utf-8"))
    print(json.dumps({k: v for k, v in made.items() if k != "base"}))
    assert made["pairs"] > 0 and made["supervised"]["loss_held_back"] < made["before"]["loss_held_back"]
    assert made["pairs_held_back"] > 1 and made["after"]["margin"] > made["supervised"]["margin"], "preferences changed nothing"

    inventory = open_case(Archive(data / "archive"), sample.PATIENT_ID, None).inventory()
    with serving("box-fixture", tmp_path / "log", loras={"ours": adapter}) as served:
        found = {}
        for name in ("box-fixture", "ours"):
            found[name] = await of_wordings(remote_planner(served.url, name, None, 60, Able(context=8192)), inventory, later)
            await asyncio.sleep(0)
    print({n: {k: f[k] for k in ("right", "n", "value", "low", "high", "calls", "valid")} for n, f in found.items()})
    assert (
        found["ours"]["valid"] == found["ours"]["calls"] and found["ours"]["right"] >= found["box-fixture"]["right"] - 4
    )  # 80 questions: within their doubt
