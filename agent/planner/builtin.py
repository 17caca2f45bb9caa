"""The built-in planner: a LangChain chat model without a language model. Deterministic; says what it is."""

import json
import re
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from pydantic import Field

from agent.planner import steps
from agent.planner.phrasing import written
from agent.planner.steps import Call, Given
from agent.planner.understand import Reader, Turn, Understanding
from knowledge.guidelines.minilm import MiniLM
from knowledge.guidelines.rules import RULES
from tools.look import Look
from tools.registry import tool_types

NAME = "consilium-builtin-2"
KEPT = 256
"""Questions whose reading is kept while they are answered."""


class BuiltinPlanner(BaseChatModel):
    """Plans by matching the question against what tools say they're asked for; composes from the evidence's sentences.

    It reads what any chat model would: the case message, the questions, the tools' results. With a `response_format`
    it writes the answer, otherwise it calls tools or, when nothing more is needed, says nothing.
    """

    reader: Any = Field(exclude=True)
    kept: Any = Field(default_factory=OrderedDict, exclude=True)

    @classmethod
    def of(cls, embedder: MiniLM) -> "BuiltinPlanner":
        return cls(reader=Reader(embedder))

    @property
    def _llm_type(self) -> str:
        return NAME

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        """Keep each tool's whole statement of itself, not only its schema."""
        return self.bind(tools=[t.described() for t in tools], **kwargs)

    def _generate(self, messages: list[BaseMessage], stop: list[str] | None = None,
                  run_manager: CallbackManagerForLLMRun | None = None, **kwargs: Any) -> ChatResult:  # fmt: skip
        if "response_format" in kwargs:
            message = AIMessage(json.dumps(self._compose(messages, kwargs.get("tools", [])), ensure_ascii=False))
        else:
            message = self._plan(messages, kwargs.get("tools", []))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _plan(self, messages: Sequence[BaseMessage], tools: Sequence[dict[str, Any]]) -> AIMessage:
        case, turns, since = _conversation(messages)
        asked = self._understood(case, turns, tools)
        if steps.refusal(asked, case):
            return AIMessage("")
        done = _calls_of(since)
        calls = steps.wanted(asked, case, tools, _premise_found(since))
        calls = steps.linked(calls, done, _given(since))
        after = {t["name"]: t["needs"]["after"] for t in tools}
        now = steps.due(calls, done, after)
        return AIMessage(
            "", tool_calls=[{"name": c.tool, "args": c.arguments, "id": f"call_{uuid.uuid4().hex[:12]}"} for c in now]
        )

    def _understood(self, case: dict[str, Any] | None, turns: Sequence[Turn], tools: Sequence[dict[str, Any]]) -> Understanding:
        """The question as it was read in this turn's first round: it is the same in each. A reading without tools isn't kept."""
        key = json.dumps([case, [(t.question, t.said, t.facts, t.quiz) for t in turns[-4:]]], default=str)
        kept: OrderedDict[str, Understanding] = self.kept
        if (known := kept.get(key)) is not None:
            return known
        asked: Understanding = self.reader.read(turns[-1].question, turns[:-1], case, with_facts(tools))
        if tools:
            kept[key] = asked
            while len(kept) > KEPT:
                kept.popitem(last=False)
        return asked

    def _compose(self, messages: Sequence[BaseMessage], tools: Sequence[dict[str, Any]]) -> dict[str, Any]:
        case, turns, since = _conversation(messages)
        asked = self._understood(case, turns, [])
        evidence = _evidence(messages[-1])
        results = _results(since)
        return written(asked, case, evidence, results, _sentences(since), None if results else _withheld(asked, case, tools))


FACTS = sorted({n for r in RULES.values() for n in r.spec["facts"]})
"""Names of all facts that rules can use."""


def _withheld(asked: Understanding, case: dict[str, Any] | None, tools: Sequence[dict[str, Any]]) -> str | None:
    """The tool of the box that the question wants and that isn't among those offered: by role, by setting, or since the conversation is held to some."""
    here, every = {t["name"] for t in tools}, {n: t for n, t in tool_types().items() if t is not Look}
    if not tools or here >= set(every):
        return None
    calls = steps.wanted(asked, case, [t.described() for t in every.values()], False)
    return next((c.tool for c in calls if c.tool not in here), None)


def with_facts(tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tools' statements, each with the names of all facts that rules can use."""
    return [{**t, "facts": FACTS} for t in tools] or [{"name": "", "asks": ["nothing"], "facts": FACTS}]


def _conversation(messages: Sequence[BaseMessage]) -> tuple[dict[str, Any] | None, list[Turn], list[BaseMessage]]:
    """The newest inventory, the turns in order (the last has no answer yet), and the messages since the last question."""
    case: dict[str, Any] | None = None
    turns: list[Turn] = []
    since: list[BaseMessage] = []
    for message in messages:
        step = message.additional_kwargs.get("step")
        if isinstance(message, HumanMessage) and step == "case":
            loaded = json.loads(str(message.content).split("\n", 1)[1])
            case = loaded if "studies" in loaded else None
        elif isinstance(message, HumanMessage) and step is None:
            if turns:
                turns[-1] = Turn(turns[-1].question, _plain(since), _computed(since), _quiz(since))
            turns.append(Turn(str(message.content)))
            since = []
        elif step is None:
            since.append(message)
    return case, turns, since


def _plain(since: Sequence[BaseMessage]) -> str:
    """What was said without citing evidence: by another client's history, or an asker's own words."""
    said = [str(m.content) for m in since if isinstance(m, AIMessage) and not m.tool_calls]
    return " ".join(s for s in said if not re.search(r"\[E\d+", s))


def _computed(since: Sequence[BaseMessage]) -> dict[str, dict[str, Any]]:
    """Inputs of the rules that were computed, by rule."""
    lines = [
        line for m in since if isinstance(m, ToolMessage) and m.name == "apply_guideline" for line in str(m.content).splitlines()
    ]
    rows = [json.loads(line) for line in lines if line.startswith('{"evidence"')]
    return {str(r["rule"]): dict(r["inputs"]) for r in rows if "rule" in r}


def _quiz(since: Sequence[BaseMessage]) -> str | None:
    """The teaching session that asked a question, if its tool's last result did."""
    found = None
    for message in since:
        if isinstance(message, ToolMessage) and message.name == "education_quiz":
            rows = [json.loads(line) for line in str(message.content).splitlines() if line.startswith("{")]
            asks = any(str(r.get("title", "")).startswith("Question ") for r in rows)
            found = next((str(r["id"]) for r in rows if r.get("made") == "quiz"), None) if asks else None
    return found


def _calls_of(since: Sequence[BaseMessage]) -> list[Call]:
    return [Call(c["name"], c["args"]) for m in since if isinstance(m, AIMessage) for c in m.tool_calls]


def _results(since: Sequence[BaseMessage]) -> dict[str, list[str]]:
    """Evidence ids by tool, in the order in which the tools gave them."""
    found: dict[str, list[str]] = {}
    for message in since:
        if isinstance(message, ToolMessage):
            ids = re.findall(r'^\{"evidence": "(E\d+)"', str(message.content), re.M)
            found.setdefault(message.name or "", []).extend(ids)
    return found


def _sentences(since: Sequence[BaseMessage]) -> dict[str, list[dict[str, Any]]]:
    """Ready sentences by tool, each with its evidence."""
    found: dict[str, list[dict[str, Any]]] = {}
    for message in since:
        if isinstance(message, ToolMessage):
            rows = [json.loads(line) for line in str(message.content).splitlines() if line.startswith('{"sentence"')]
            found.setdefault(message.name or "", []).extend({"text": r["sentence"], "evidence": r["evidence"]} for r in rows)
    return {t: rows for t, rows in found.items() if rows}


def _given(since: Sequence[BaseMessage]) -> list[Given]:
    """What tools gave since the question, in order."""
    lines = [(m.name or "", line) for m in since if isinstance(m, ToolMessage) for line in str(m.content).splitlines()]
    rows = [(tool, json.loads(line)) for tool, line in lines if line.startswith('{"evidence"')]
    return [Given(tool, str(r["evidence"]), str(r.get("title", ""))) for tool, r in rows]


def _premise_found(since: Sequence[BaseMessage]) -> bool:
    results = _results(since)
    return bool(results.get("patient_record") or results.get("retrieve_reports"))


def _evidence(request: BaseMessage) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in str(request.content).splitlines() if line.startswith('{"id"')]
    return {r["id"]: r for r in rows}
