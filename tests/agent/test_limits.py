"""Limits, stops, restarts, fallbacks, confirmations: what the graph does when something doesn't go as planned."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from typing import Any, ClassVar

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage

from agent.answer import Answer, PlannerRef
from agent.assistant import KEPT_TURNS, Assistant
from agent.errors import PlannerDown, Unknown
from agent.memory import Memory
from agent.planner.builtin import NAME, BuiltinPlanner
from agent.planner.remote import remote_planner
from agent.testing import ScriptedModel, scripted_server, tool_call
from knowledge import sample
from knowledge.evidence import Fact, Kind, RecordRef
from knowledge.studies.archive import Archive
from knowledge.studies.intake import Hints
from knowledge.studies.unpack import Incoming
from tests.others import WriteNote
from tools import registry
from tools.base import Card, CaseTool, Needs, Reply, Resources

BUILTIN = PlannerRef(kind="builtin", model=NAME)
LLM = PlannerRef(kind="llm", model="scripted")
Made = Callable[..., AbstractAsyncContextManager[Assistant]]


@pytest.fixture
def made(resources: Resources, sample_archive: Archive, tmp_path: Path) -> Made:
    """An assistant on the sample's archive, with the built-in planner where no model is given."""

    def make(model: BaseChatModel | None = None, **more: Any) -> Assistant:
        ref = LLM if model is not None else BUILTIN
        settings = {"checkpoints": tmp_path / "c.db", **more}
        return Assistant(
            sample_archive, resources, Memory(tmp_path / "m.db"), model or BuiltinPlanner.of(resources.embedder), ref, **settings
        )

    return make


def drafted(*statements: tuple[str, list[str]]) -> AIMessage:
    rows = [{"text": t, "evidence": e} for t, e in statements]
    return AIMessage(json.dumps({"statements": rows, "missing": [], "abstained": not rows, "lead": ""}))


def calls(name: str, arguments: dict[str, Any], number: int = 1) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": f"c{number}"}])


CREATININE = ("The record gives Creatinine: 71 µmol/L.", ["E1"])


@pytest.mark.parametrize(
    ("false", "reason"),
    [
        (("The record gives Creatinine: 171 µmol/L.", ["E1"]), "171"),
        (("The record gives Creatinine: 71 mm.", ["E1"]), "71 mm"),
        (("The left kidney has a creatinine of 71 µmol/L.", ["E1"]), "side"),
        (("Creatinine was not measured.", ["E1"]), "denies"),
        (("Creatinine is 71 µmol/L.", ["E99"]), "isn't there"),
        (("Creatinine was 71 µmol/L on 2019-01-01.", ["E1"]), "2019-01-01"),
    ],
)
async def test_a_model_that_says_something_false_is_caught(made: Made, false: tuple[str, list[str]], reason: str) -> None:
    """Sent back once with the reason; said again, it is left out."""
    script = ScriptedModel(lines=[calls("patient_record", {"topics": ["creatinine"]}), AIMessage(""), drafted(CREATININE, false),
                                  drafted(CREATININE, false)])  # fmt: skip
    async with made(script) as assistant:
        answer = await assistant.ask(assistant.open(patient_id=sample.PATIENT_ID).id, "What is the creatinine?")
    script.finish()
    assert [s.text for s in answer.statements] == [CREATININE[0]] and not answer.abstained
    assert answer.left_out[0].text == false[0] and reason in answer.left_out[0].reason
    assert reason in str(script.seen[-1][-1].content), "the model was told what doesn't hold"


async def test_a_model_that_mends_its_statement_keeps_it(made: Made) -> None:
    wrong = ("The record gives Creatinine: 17 µmol/L.", ["E1"])
    script = ScriptedModel(
        lines=[calls("patient_record", {"topics": ["creatinine"]}), AIMessage(""), drafted(wrong), drafted(CREATININE)]
    )
    async with made(script) as assistant:
        answer = await assistant.ask(assistant.open(patient_id=sample.PATIENT_ID).id, "What is the creatinine?")
    assert [s.text for s in answer.statements] == [CREATININE[0]] and not answer.left_out


async def test_a_model_that_calls_a_tool_that_is_not_there_is_told(made: Made) -> None:
    script = ScriptedModel(lines=[calls("send_to_pacs", {}), AIMessage(""), drafted()])
    async with made(script) as assistant:
        answer = await assistant.ask(assistant.open(patient_id=sample.PATIENT_ID).id, "What is the creatinine?")
    assert answer.plan[0].status == "failed" and "no tool" in str(answer.plan[0].message) and answer.abstained


async def test_a_model_that_repeats_itself_is_stopped(made: Made) -> None:
    """The same call again brings nothing new: the answer is composed, and says why."""
    script = ScriptedModel(lines=[calls("patient_record", {"topics": ["creatinine"]}, n) for n in (1, 2)] + [drafted(CREATININE)])
    async with made(script) as assistant:
        answer = await assistant.ask(assistant.open(patient_id=sample.PATIENT_ID).id, "What is the creatinine?")
    script.finish()
    assert len(answer.plan) == 1 and answer.statements and "the same calls again" in answer.text


async def test_a_model_that_never_ends_is_stopped(made: Made) -> None:
    rounds = [calls("patient_record", {"topics": [f"creatinine {n}"]}, n) for n in range(20)]
    script = ScriptedModel(lines=[*rounds[:6], drafted()])
    async with made(script) as assistant:
        answer = await assistant.ask(assistant.open(patient_id=sample.PATIENT_ID).id, "What is the creatinine?")
    script.finish()
    assert len(answer.plan) == 6 and "6 rounds" in answer.text


async def test_a_draft_that_is_no_json_is_asked_for_once_more(made: Made) -> None:
    lines = [
        calls("patient_record", {"topics": ["creatinine"]}),
        AIMessage(""),
        AIMessage("Sure! The creatinine"),
        drafted(CREATININE),
    ]
    async with made(ScriptedModel(lines=lines)) as assistant:
        answer = await assistant.ask(assistant.open(patient_id=sample.PATIENT_ID).id, "What is the creatinine?")
    assert [s.text for s in answer.statements] == [CREATININE[0]]


async def test_a_reply_that_was_cut_off_is_not_used(made: Made, resources: Resources) -> None:
    """`finish_reason` is read before the content; after a second one the built-in planner takes over and says so."""
    cut = [AIMessage('{"name": "patient_rec', response_metadata={"finish_reason": "length"}) for _ in range(2)]
    async with made(ScriptedModel(lines=cut), fallback=(BuiltinPlanner.of(resources.embedder), BUILTIN)) as assistant:
        answer = await assistant.ask(assistant.open(patient_id=sample.PATIENT_ID).id, "What is the creatinine?")
    assert "71" in answer.text and "could not be used" in answer.lead and answer.provenance.planner == BUILTIN


async def test_where_the_server_is_down_the_built_in_planner_answers_and_says_so(made: Made, resources: Resources) -> None:
    planner = remote_planner("http://127.0.0.1:9/v1", "gone", None, 2)
    async with made(planner, fallback=(BuiltinPlanner.of(resources.embedder), BUILTIN)) as assistant:
        answer = await assistant.ask(assistant.open(patient_id=sample.PATIENT_ID).id, "Wie hoch ist das Kreatinin?")
    assert "71" in answer.text and "Sprachmodells" in answer.lead and answer.provenance.planner.kind == "builtin"
    async with made(planner) as assistant:
        with pytest.raises(PlannerDown):
            await assistant.ask(assistant.open(patient_id=sample.PATIENT_ID).id, "What is the creatinine?")


async def test_a_server_that_breaks_off_in_the_middle_loses_nothing_that_was_found(made: Made, resources: Resources) -> None:
    with scripted_server([tool_call("patient_record", {"topics": ["creatinine"]})]) as (url, requests):
        planner = remote_planner(url, "scripted", None, 5)
        async with made(planner, fallback=(BuiltinPlanner.of(resources.embedder), BUILTIN)) as assistant:
            answer = await assistant.ask(assistant.open(patient_id=sample.PATIENT_ID).id, "What is the creatinine?")
    assert [s.tool for s in answer.plan] == ["patient_record"] and "71" in answer.text and answer.lead
    assert all(t["function"].get("strict") for t in requests[0]["tools"])


class _Slow(CaseTool):
    """Takes its time, and looks whether it is still wanted."""

    name: str = "slow_tool"
    description: str = "Takes long."
    asks: ClassVar[list[str]] = ["Run the slow tool", "Do the slow thing", "slow please", "start the slow work", "go slowly"]
    needs: ClassVar[Needs] = Needs()
    gives: ClassVar[list[Kind]] = [Kind.RECORD]
    card: ClassVar[Card] = Card(intended_use="test", accuracy="none", limits="test")
    stopped: ClassVar[list[bool]] = []

    def answer(self, arguments: Any) -> Reply:
        for _ in range(200):
            if self.bench.cancelled():
                self.stopped.append(True)
                break
            time.sleep(0.05)
        return Reply(text="late")


@pytest.fixture
def third_parties(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        registry, "tool_types", lambda types=registry.tool_types(): {**types, "slow_tool": _Slow, "write_note": WriteNote}
    )
    WriteNote.written.clear()
    _Slow.stopped.clear()


@pytest.mark.usefixtures("third_parties")
async def test_a_time_limit_ends_what_runs_and_tells_what_was_found(made: Made) -> None:
    both = AIMessage(
        "",
        tool_calls=[
            {"name": n, "args": a, "id": n} for n, a in (("slow_tool", {}), ("patient_record", {"topics": ["creatinine"]}))
        ],
    )
    async with made(ScriptedModel(lines=[both, drafted(CREATININE)]), seconds=1.0) as assistant:
        answer = await assistant.ask(assistant.open(patient_id=sample.PATIENT_ID).id, "What is the creatinine?")
        assert {s.tool: s.status for s in answer.plan} == {"slow_tool": "failed", "patient_record": "ok"}
        assert answer.statements and "1 s" in answer.lead
        await asyncio.sleep(0.3)
    assert _Slow.stopped == [True], "the tool saw that it isn't wanted any more"


@pytest.mark.usefixtures("third_parties")
@pytest.mark.parametrize("approve", [True, False])
async def test_what_writes_waits_for_a_person(made: Made, approve: bool) -> None:
    said = drafted(("A note was written: follow up.", ["E1"])) if approve else drafted()
    script = ScriptedModel(lines=[calls("write_note", {"text": "follow up"}), AIMessage(""), said])
    async with made(script) as assistant:
        conversation = assistant.open(patient_id=sample.PATIENT_ID)
        waiting = await assistant.ask(conversation.id, "Write a note: follow up")
        assert waiting.confirm[0].tool == "write_note" and not waiting.statements and not WriteNote.written
        assert "waits for your confirmation" in waiting.text
    async with made(script) as assistant:  # the server was restarted in between
        answer = await assistant.confirm(conversation.id, approve)
        assert WriteNote.written == (["follow up"] if approve else [])
        assert answer.plan[0].status == ("ok" if approve else "refused") and bool(answer.statements) == approve
        with pytest.raises(Unknown):
            await assistant.confirm(conversation.id, True)
    assert len(WriteNote.written) == int(approve), "confirmed once, done once"


@pytest.mark.usefixtures("third_parties")
async def test_another_question_lets_a_write_go(made: Made) -> None:
    script = ScriptedModel(lines=[calls("write_note", {"text": "x"}), AIMessage(""), drafted()])
    async with made(script) as assistant:
        conversation = assistant.open(patient_id=sample.PATIENT_ID)
        await assistant.ask(conversation.id, "Write a note: x")
        await assistant.ask(conversation.id, "Never mind.")
        with pytest.raises(Unknown):
            await assistant.confirm(conversation.id, True)
    assert not WriteNote.written


@pytest.mark.usefixtures("third_parties")
async def test_a_tool_of_others_takes_part_by_its_statement_alone(made: Made, resources: Resources) -> None:
    async with made(seconds=1.0) as assistant:
        answer = await assistant.ask(assistant.open(patient_id=sample.PATIENT_ID).id, "Please run the slow tool")
    assert "slow_tool" in [s.tool for s in answer.plan]


KILLED = """
import asyncio, os, signal, sys, time
from pathlib import Path
from agent.answer import PlannerRef
from agent.assistant import Assistant
from agent.memory import Memory
from agent.planner.builtin import BuiltinPlanner
from knowledge import sample
from knowledge.guidelines.minilm import MiniLM
from knowledge.guidelines.search import GuidelineIndex
from knowledge.records.search import RecordSearch
from knowledge.studies.archive import Archive
from tools.base import Resources
from tools.models.catalogue import Catalogue

class Dies(BuiltinPlanner):
    def _compose(self, messages, tools):
        time.sleep(0.5)  # as long as a language model would think: checkpoints are written beside it
        os.kill(os.getpid(), signal.SIGKILL)

async def main(root, data):
    embedder = MiniLM()
    resources = Resources(Catalogue(), GuidelineIndex(data / "index", embedder), embedder, RecordSearch(embedder))
    ref = PlannerRef(kind="builtin", model="x")
    async with Assistant(Archive(root), resources, Memory(data / "m.db"), Dies.of(embedder), ref, data / "c.db") as assistant:
        conversation = assistant.open(patient_id=sample.PATIENT_ID)
        print(conversation.id, flush=True)
        await assistant.ask(conversation.id, "How big is the tumour?")

if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def killed_in_the_middle(archive: Archive, data: Path) -> str:
    """A conversation whose server was killed after the tools of an answer had run and before it was composed."""
    script = data / "killed.py"
    script.write_text(KILLED)
    run = subprocess.run([sys.executable, str(script), str(archive.root), str(data)], capture_output=True, text=True,
                         env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})  # fmt: skip
    assert run.returncode == -signal.SIGKILL, run.stderr[-800:]
    return run.stdout.strip()


async def test_an_answer_goes_on_after_a_restart(made: Made, sample_archive: Archive, tmp_path: Path) -> None:
    """Its tools aren't run again, and the client that comes back gets numbered events and the answer."""
    conversation = killed_in_the_middle(sample_archive, tmp_path)
    async with made() as assistant:
        assert await assistant.interrupted(conversation)
        async with aclosing(assistant.resume(conversation, 7)) as events:
            told = [e async for e in events]
        assert told[-1].name == "answer" and told[0].number == 8
        answer = Answer.model_validate(told[-1].data)
        assert "mL" in answer.text and "measure" in [s.tool for s in answer.plan]
        assert not any(e.name == "tool.started" for e in told), "what had run isn't run again"
        assert not await assistant.interrupted(conversation)
        again = await assistant.ask(conversation, "and in cm?")
    assert "cm" in again.text


async def test_results_of_a_conversation_are_used_again(made: Made) -> None:
    async with made() as assistant:
        conversation = assistant.open(patient_id=sample.PATIENT_ID)
        first = await assistant.ask(conversation.id, "How big is the tumour?")
        second = await assistant.ask(conversation.id, "How big is the tumour?")
    assert [s.evidence for s in first.plan] == [s.evidence for s in second.plan]
    assert all(s.seconds == 0 and s.message == "from this conversation" for s in second.plan)


async def test_a_forgotten_conversation_leaves_nothing(made: Made, tmp_path: Path) -> None:
    async with made() as assistant:
        conversation = assistant.open(patient_id=sample.PATIENT_ID)
        await assistant.ask(conversation.id, "What is the creatinine?")
        await assistant.forget(conversation.id)
        with pytest.raises(Unknown):
            await assistant.ask(conversation.id, "And again?")
    with sqlite3.connect(tmp_path / "c.db") as kept:
        assert [kept.execute(f"select count(*) from {table}").fetchone()[0] for table in ("checkpoints", "writes")] == [0, 0]


async def test_a_case_that_changed_is_looked_at_again(resources: Resources, archive: Archive, tmp_path: Path) -> None:
    sample.load(archive)
    async with Assistant(
        archive, resources, Memory(tmp_path / "m.db"), BuiltinPlanner.of(resources.embedder), BUILTIN, tmp_path / "c.db"
    ) as assistant:
        conversation = assistant.open(patient_id=sample.PATIENT_ID)
        await assistant.ask(conversation.id, "What is the creatinine?")
        later = {"resourceType": "Observation", "id": "later", "status": "final", "code": {"text": "Creatinine"}, "effectiveDateTime": "2026-11-01",
                 "valueQuantity": {"value": 140, "unit": "umol/L"}, "subject": {"reference": f"Patient/{sample.PATIENT_ID}"}}  # fmt: skip
        archive.add([Incoming("later.json", json.dumps(later).encode())], Hints(patient_id=sample.PATIENT_ID))
        answer = await assistant.ask(conversation.id, "What is the creatinine?")
    assert "140" in answer.text


async def test_a_long_conversation_is_summed_up_and_keeps_its_evidence(made: Made) -> None:
    script_needed = 2 * KEPT_TURNS + 3
    async with made() as assistant:
        conversation = assistant.open(patient_id=sample.PATIENT_ID)
        first = await assistant.ask(conversation.id, "What is the creatinine?")
        for number in range(script_needed):
            await assistant.ask(conversation.id, ["What is her KPS?", "What are her platelets?", "MGMT status?"][number % 3])
        state = await assistant._graph.aget_state({"configurable": {"thread_id": conversation.id}})
        messages = state.values["messages"]
        summary = [m for m in messages if m.additional_kwargs.get("step") == "summary"]
        assert len(summary) == 1 and "creatinine" in summary[0].content and first.statements[0].evidence[0] in summary[0].content
        asked = [m for m in messages if isinstance(m, HumanMessage) and m.additional_kwargs.get("step") is None]
        assert len(asked) <= 2 * KEPT_TURNS + 1 and messages[0].type == "system"
        again = await assistant.ask(conversation.id, "What is the creatinine?")
    assert again.statements[0].evidence == first.statements[0].evidence


async def test_an_emergency_in_the_newest_report_stands_first_and_once(
    resources: Resources, archive: Archive, tmp_path: Path
) -> None:
    sample.load(archive)
    text = "MRI brain 2026-11-20\n\nFINDINGS:\nThe mass has grown. There is uncal herniation on the right. No tension pneumothorax.\n"
    archive.add([Incoming("new.txt", text.encode())], Hints(patient_id=sample.PATIENT_ID, study_date="2026-11-20"))
    async with Assistant(
        archive, resources, Memory(tmp_path / "m.db"), BuiltinPlanner.of(resources.embedder), BUILTIN, tmp_path / "c.db"
    ) as assistant:
        conversation = assistant.open(patient_id=sample.PATIENT_ID)
        answer = await assistant.ask(conversation.id, "What is the creatinine?")
        assert "uncal herniation" in answer.statements[0].text and answer.urgent == answer.statements[0].evidence
        assert answer.text.startswith("First to be looked at") and "pneumothorax" not in answer.text
        assert not (await assistant.ask(conversation.id, "What is her KPS?")).urgent
        again = await assistant.ask(conversation.id, "Is there anything urgent?")
        assert "uncal herniation" in again.statements[0].text and not again.abstained


async def test_a_model_that_sees_gets_the_key_slices_with_the_evidence(
    resources: Resources, sample_archive: Archive, tmp_path: Path
) -> None:
    from dataclasses import replace

    from tools.base import Vision

    script = ScriptedModel(lines=[calls("measure", {}), AIMessage(""), drafted()])
    seeing = replace(resources, vision=Vision(script, "scripted"))
    async with Assistant(sample_archive, seeing, Memory(tmp_path / "m.db"), script, LLM, tmp_path / "c.db") as assistant:
        await assistant.ask(assistant.open(patient_id=sample.PATIENT_ID).id, "How big is it?")
    parts = script.seen[-1][-1].content
    assert isinstance(parts, list) and 1 <= len([p for p in parts if p["type"] == "image_url"]) <= 4
    assert all(p["image_url"]["url"].startswith("data:image/png;base64,") for p in parts[1:])


async def test_conversations_and_checkpoints_in_postgresql(resources: Resources, sample_archive: Archive, postgres: str) -> None:
    """Asked, confirmed-less and asked again by two processes' worth of assistants on one database."""
    planner = BuiltinPlanner.of(resources.embedder)
    async with Assistant(sample_archive, resources, Memory(postgres), planner, BUILTIN, postgres) as assistant:
        conversation = assistant.open(patient_id=sample.PATIENT_ID)
        first = await assistant.ask(conversation.id, "What is the creatinine?")
    async with Assistant(sample_archive, resources, Memory(postgres), planner, BUILTIN, postgres) as assistant:
        again = await assistant.ask(conversation.id, "And again?")
        state = await assistant._graph.aget_state({"configurable": {"thread_id": conversation.id}})
        assert [s.message for s in again.plan] == ["from this conversation"] and again.statements[0].evidence == first.statements[
            0
        ].evidence
        assert sum(m.type == "system" for m in state.values["messages"]) == 1
        assert [m.question for m in assistant.memory.messages(conversation.id)] == ["What is the creatinine?", "And again?"]


def test_two_processes_number_the_evidence_of_one_conversation(postgres: str) -> None:
    """The number that another process gave in between isn't given twice."""
    one, two = Memory(postgres), Memory(postgres)

    def fact(name: str) -> Fact:
        return Fact(
            kind=Kind.RECORD, title=name, statement=name, value=name, source=RecordRef(resource="Observation/1", path="value")
        )

    assert [e.id for e in one.number("t_shared", [fact("a")], None)] == ["E1"]
    assert [e.id for e in two.number("t_shared", [fact("a"), fact("b")], None)] == ["E1", "E2"]
    assert [e.id for e in one.number("t_shared", [fact("c"), fact("b")], None)] == ["E3", "E2"]
