"""Transcripts of our own agent on a case: what a served model is told, and what the built-in planner does, call by call."""

import json
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from jinja2.sandbox import ImmutableSandboxedEnvironment
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, convert_to_openai_messages
from langchain_core.outputs import ChatResult
from pydantic import Field

from agent.answer import PlannerRef
from agent.assistant import Assistant
from agent.guard import case_told
from agent.planner.builtin import BuiltinPlanner
from agent.planner.offered import offered
from agent.prompts import prompt
from agent.training.questions import Meant, canonical
from tools.base import CaseTool, Reply
from tools.look import Look
from tools.registry import tool_types

END = "<|end|>"
QUERY = {
    "reports": "conclusion",
    "summary": "findings",
    "options": "treatment",
    "contrast": "contrast kidney",
    "growth": "growth",
}
"""What stands for the question's own words in a query, where the question has no topic."""


@dataclass(frozen=True)
class Piece:
    """A part of a transcript; the model learns those that it would have said. Questions stand as marks: see `mark`."""

    text: str
    learned: bool


@dataclass(frozen=True)
class Transcript:
    """One chain of a model's calls: what all transcripts on the case begin with, and the rest in pieces."""

    front: str
    pieces: tuple[Piece, ...]
    meant: tuple[tuple[Meant, ...], ...]
    """What each question of the conversation means, in order."""

    @property
    def chooses(self) -> bool:
        """True where its last word is the choice of evidence, not a call."""
        return self.pieces[-1].text.startswith('{"abstained"')


def mark(number: int) -> str:
    """Stands for the wording of a question."""
    return f"\x02{number}\x03"


class Teacher(BuiltinPlanner):
    """The built-in planner, which notes what it is told and says. Queries are the topic alone: a small model copies no sentence."""

    noted: Any = Field(default_factory=list, exclude=True)
    topics: Any = Field(default_factory=dict, exclude=True)
    """The query of each question."""
    whole: Any = Field(default_factory=dict, exclude=True)
    """The arguments that the built-in planner gave, by call: it knows its calls by them."""

    def _generate(self, messages: list[BaseMessage], stop: list[str] | None = None,
                  run_manager: CallbackManagerForLLMRun | None = None, **kwargs: Any) -> ChatResult:  # fmt: skip
        result = super()._generate([self._with_whole(m) for m in messages], stop, run_manager, **kwargs)
        reply = result.generations[0].message
        if isinstance(reply, AIMessage) and reply.tool_calls:
            asked = next(str(m.content) for m in reversed(messages) if _is_question(m))
            for call in reply.tool_calls:
                self.whole[call["id"]] = call["args"]
                call["args"] = self._short(call["name"], call["args"], self.topics.get(asked, ""))
        self.noted.append((list(messages), "response_format" in kwargs, reply))
        return result

    def _with_whole(self, message: BaseMessage) -> BaseMessage:
        if not (isinstance(message, AIMessage) and message.tool_calls):
            return message
        calls = [{**c, "args": self.whole.get(c["id"], c["args"])} for c in message.tool_calls]
        return AIMessage(message.content, tool_calls=calls, additional_kwargs=message.additional_kwargs)

    def _short(self, tool: str, arguments: dict[str, Any], topic: str) -> dict[str, Any]:
        own_words = ("findings", "question", *(("topic",) if tool == "education_quiz" else ()))
        short = {k: topic if k == "query" else v for k, v in arguments.items() if k not in own_words and v not in ({}, None)}
        order = list(tool_types()[tool].described()["parameters"].get("properties", {}))
        return {k: short[k] for k in order if k in short}


def _is_question(message: BaseMessage) -> bool:
    return isinstance(message, HumanMessage) and message.additional_kwargs.get("step") is None


async def of_conversation(assistant: Assistant, teacher: Teacher, patient_id: str, meant: Sequence[tuple[Meant, ...]],
                          inventory: dict[str, Any]) -> list[Transcript]:  # fmt: skip
    """Ask the real agent these questions in one conversation, and note each call that a model would have had to answer."""
    assistant.planner, assistant.planner_ref = teacher, PlannerRef(kind="builtin", model="teacher")
    conversation = assistant.open(patient_id=patient_id)
    texts: list[str] = []
    found: list[Transcript] = []
    for number, parts in enumerate(meant):
        texts.append(" and ".join(canonical(m) for m in parts) + "?")
        teacher.topics[texts[-1]] = next((m.topic for m in parts if m.topic), QUERY.get(parts[0].intent, parts[0].intent))
        teacher.noted.clear()
        await assistant.ask(conversation.id, texts[-1])
        plans = [(m, r) for m, writes, r in teacher.noted if not writes]
        drafts = [(m, r) for m, writes, r in teacher.noted if writes][:1]
        for chain in (plans, drafts):
            if chain:
                found.append(
                    _transcript(
                        [(_marked(_choosing(m), texts), _said(r)) for m, r in chain], inventory, tuple(meant[: number + 1])
                    )
                )
    return found


def of_plan(teacher: Teacher, inventory: dict[str, Any] | None, meant: Meant) -> Transcript:
    """The first round of a question about a case that is only described."""
    question = canonical(meant) + "?"
    teacher.topics[question] = meant.topic or QUERY.get(meant.intent, meant.intent)
    messages: list[BaseMessage] = [
        SystemMessage(prompt("system")),
        HumanMessage(case_told(inventory), additional_kwargs={"step": "case"}),
        HumanMessage(question),
    ]
    reply = teacher.bind_tools(_tools()).invoke(messages)
    return _transcript([(_marked(messages, [question]), _said(reply))], inventory, ((meant,),))


def _choosing(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The request to write, as a model that only chooses gets it."""
    last = messages[-1]
    if last.additional_kwargs.get("step") != "compose":
        return list(messages)
    ours, theirs = prompt("compose").split("{evidence}")[0], prompt("choose").split("{evidence}")[0]
    return [*messages[:-1], HumanMessage(str(last.content).replace(ours, theirs))]


def _said(reply: BaseMessage) -> str:
    """What a served model would have to say for it."""
    calls = reply.tool_calls if isinstance(reply, AIMessage) else []
    if calls or not reply.content:
        return "".join(
            f"<tool_call>{json.dumps({'name': c['name'], 'arguments': c['args']}, ensure_ascii=False)}</tool_call>" for c in calls
        )
    draft = json.loads(str(reply.content))
    ids = list(dict.fromkeys(i for s in draft["statements"] for i in s["evidence"]))[:12]
    return json.dumps(
        {"abstained": not ids, "evidence": ids}, separators=(",", ":")
    )  # as vLLM writes under a schema: without white space


def _marked(messages: Sequence[BaseMessage], texts: Sequence[str]) -> list[dict[str, Any]]:
    told = convert_to_openai_messages(list(messages))
    number = 0
    for message, shown in zip(messages, told, strict=True):
        if _is_question(message) and number < len(texts) and message.content == texts[number]:
            shown["content"] = mark(number)
            number += 1
        for call in shown.get("tool_calls", []):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return told


def _transcript(
    chain: Sequence[tuple[list[dict[str, Any]], str]], inventory: dict[str, Any] | None, meant: tuple[tuple[Meant, ...], ...]
) -> Transcript:
    tools = offered(_tools(), inventory)
    front = rendered(chain[0][0][:2], tools, False)
    text, pieces = front, []
    for messages, said in chain:
        asked = rendered(messages, tools, True)
        assert asked.startswith(text), "a later prompt doesn't begin with the earlier one"
        pieces += [Piece(asked[len(text) :], False), Piece(said + END, True)]
        text = asked + said + END
    return Transcript(front, tuple(pieces), meant)


@cache
def _tools() -> tuple[type[CaseTool], ...]:
    return tuple(t for t in tool_types().values() if t is not Look)


@cache
def _template() -> Any:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string((Path(__file__).parent / "template.jinja").read_text(encoding="utf-8"))


def rendered(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], ask: bool) -> str:
    """What vLLM makes of a request for these models."""
    return str(_template().render(messages=messages, tools=tools, add_generation_prompt=ask))


def remembering() -> AbstractContextManager[Any]:
    """Within it, a tool that gets the same arguments again gives the same reply at once: transcripts ask it hundreds of times."""
    known: dict[str, Reply] = {}
    run: Callable[[CaseTool, dict[str, Any]], Reply] = CaseTool.reply

    def reply(tool: CaseTool, arguments: dict[str, Any]) -> Reply:
        key = json.dumps([tool.name, arguments], sort_keys=True, default=str)
        if key not in known:
            known[key] = run(tool, arguments)
        return known[key]

    return patch.object(CaseTool, "reply", reply)


def inventories(chance: random.Random, many: int) -> list[dict[str, Any]]:
    """Cases that are only described, made up: another organ, other dates, other series."""
    kinds = [("CT", "CHEST", "chest CT", []), ("CT", "LIVER", "liver CT", []), ("MR", "BRAIN", "brain MRI", ["FLAIR", "T1c", "T1", "T2"]),
             ("MR", "PROSTATE", "prostate MRI", ["T2", "ADC", "DWI"]), ("MG", "BREAST", "mammogram", []), ("CT", "ABDOMEN", "abdomen CT", []),
             ("US", "THYROID", "thyroid ultrasound", []), ("PT", "CHEST", "FDG PET-CT", [])]  # fmt: skip
    found = []
    for n in range(many):
        modality, part, name, sequences = kinds[n % len(kinds)]
        dates = sorted(
            f"20{chance.randint(21, 26)}-{chance.randint(1, 12):02d}-{chance.randint(1, 28):02d}"
            for _ in range(chance.choice([1, 1, 2]))
        )
        studies = [{"handle": f"S{k}", "date": d, "modality": [modality], "body_part": part, "description": name,
                    "series": [{"handle": f"S{k}.{j}", "modality": modality, "sequence": q, "description": q or name, "shape": [256, 256, chance.randint(20, 200)],
                                "geometry": "ok"} for j, q in enumerate(sequences or [""], 1)]} for k, d in enumerate(dates, 1)]  # fmt: skip
        reports = [
            {"handle": f"R{k}", "title": f"{name} report", "kind": "radiology", "date": d}
            for k, d in enumerate(dates, 1)
            if chance.random() < 0.7
        ]
        records = chance.sample(
            [
                "Creatinine",
                "Haemoglobin",
                "Platelets",
                "Karnofsky performance status",
                "PSA",
                "Bilirubin",
                "EGFR gene mutation",
                "INR",
            ],
            chance.randint(0, 4),
        )
        patient = {"age": chance.randint(30, 85), "sex": chance.choice("MF")} if chance.random() < 0.8 else {}
        found.append({"patient": patient, "studies": studies, "reports": reports, "records": sorted(records)})
    return found
