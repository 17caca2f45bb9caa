"""What one question runs with, and what a checkpoint keeps of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AnyMessage
from langgraph.graph.message import add_messages

from agent.lanes import Place
from agent.memory import Memory
from knowledge.evidence import Evidence
from tools.base import CaseTool

Emit = Callable[[str, dict[str, Any]], None]
MakeTools = Callable[[Callable[[int, int], None], Callable[[], bool]], list[CaseTool]]


@dataclass
class Turn:
    """What one question runs with. Not kept in checkpoints: a resumed question gets a new one."""

    scope: str
    patient_id: str | None
    model: BaseChatModel
    make_tools: MakeTools
    memory: Memory
    emit: Emit
    fallback: BaseChatModel | None = None
    """Takes over where `model` fails."""
    pictures: Callable[[list[Evidence]], list[str]] | None = None
    """Key slices of evidence as data URLs, for a model that sees."""
    chooses: bool = False
    """True where `model` only chooses evidence, which is told in its own sentences."""
    reads: int | None = None
    """Earlier questions of the conversation that `model` reads; None: all. What those found isn't offered to a model that reads none."""
    seconds: float | None = None
    """Time limit of the answer; None: none."""
    waits: bool = False
    """True where `model` is a server's: others think while it is waited for."""
    inventory: dict[str, Any] | None = None
    """What a model is told of the case; None without one."""
    case_key: str = ""
    """Changes with what the case holds: results of an older case aren't used again."""
    evidence: dict[str, Evidence] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """What a model that forgets reads in place of evidence ids, by id: those of the question at hand, counted from one."""
    fell_back: str | None = None
    """Why `fallback` took over: a name of agent.language."""
    place: Place = field(default_factory=Place)
    checked: dict[tuple[str, tuple[str, ...]], list[str]] = field(default_factory=dict)
    """What grounding found of a statement and its citations."""
    started: float = field(default_factory=time.monotonic)

    def left(self) -> float | None:
        """Seconds until the time limit, not below zero; None where there is none."""
        return None if self.seconds is None else max(0.0, self.seconds - (time.monotonic() - self.started))

    @property
    def forgets(self) -> bool:
        """True for a model that reads the question at hand alone."""
        return self.reads == 0 and self.model is not self.fallback

    def give_way(self, why: str) -> bool:
        """Let the fallback plan from here on; False where there is none, or it already does."""
        if self.fallback is None or self.model is self.fallback:
            return False
        self.model, self.fell_back, self.waits = self.fallback, why, False
        return True


class State(TypedDict, total=False):
    """What a checkpoint keeps: messages hold text and ids only, never pixels."""

    messages: Annotated[list[AnyMessage], add_messages]
    rounds: int
    steps: list[dict[str, Any]]
    missing: list[dict[str, Any]]
    conflicts: list[dict[str, Any]]
    known: dict[str, dict[str, Any]]
    """Results of this conversation's read-only calls, by call: evidence ids, what was missing, conflicts."""
    approved: list[str]
    """Ids of calls that a person let happen."""
    declined: list[str]
    draft: dict[str, Any]
    left_out: list[dict[str, Any]]
    limit: str | None
    before: list[str]
    """Evidence that the conversation had before the question."""
    asked: str
    language: str
