"""The contract of a tool: a LangChain tool bound to one case, that states what it is for.

A tool of one's own subclasses `CaseTool`, names its arguments in a Pydantic model and implements `answer`.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from langchain_core.tools import BaseTool
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from knowledge.case import Case
from knowledge.errors import KnowledgeError
from knowledge.evidence import Evidence, Fact, Frozen, Kind
from knowledge.guidelines.minilm import MiniLM
from knowledge.guidelines.rulebook import RuleBook
from knowledge.guidelines.search import GuidelineIndex
from knowledge.records.search import RecordSearch
from knowledge.reporting.drafts import DraftStore
from knowledge.response.store import ResponseStore
from knowledge.similar import CaseIndex
from knowledge.teaching.sessions import TeachingStore
from tools.conflicts import Clash, clashes
from tools.errors import NotApplicable, ToolError, TryAgain

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from tools.models.catalogue import Catalogue


CONTRACT = "1"
"""Version of what a tool and the house promise each other. A change that an older tool can't bear makes it 2; the older ones are named here."""
STILL_RUN = {"1"}


CLOSED = frozenset({"find_similar_cases"})
"""Tools that see other patients: off unless a server's settings open them for a role."""


class Effect(StrEnum):
    """What a tool does to the world."""

    READ = "read"
    """It only looks."""
    WRITE = "write"
    """It changes something and waits for a clinician's confirmation."""


class Card(Frozen):
    """What a tool is for and how well it does it, on what."""

    intended_use: str
    accuracy: str
    limits: str
    licence: str = "Apache-2.0"
    version: str = "1"


class Needs(Frozen):
    """What has to be there: modalities, body parts, sequences (any of each), or an earlier tool."""

    case: bool = True
    modality: list[str] = Field(default_factory=list)
    body_part: list[str] = Field(default_factory=list)
    sequences: list[str] = Field(default_factory=list)
    after: list[str] = Field(default_factory=list)


class Cost(Frozen):
    """Typical seconds and memory of one call on two cores."""

    seconds: float
    memory_mb: int = 50
    device: str = "cpu"


class Missing(Frozen):
    """Something that isn't there, why it matters and what would change with it."""

    what: str
    why: str
    would_change: str


class Made(Frozen):
    """Something that a tool made and that a person goes on with: a draft to edit and sign, a check to go through, a question to answer."""

    kind: str
    id: str
    title: str


class Said(Frozen):
    """A ready sentence and the facts that it stands on, as they count in the reply."""

    text: str
    facts: list[int] = Field(min_length=1)


class Reply(Frozen):
    """What a tool gives: text for the model, facts for everyone else, and what it lacked."""

    text: str
    facts: list[Fact] = Field(default_factory=list)
    missing: list[Missing] = Field(default_factory=list)
    conflicts: list[str] = Field(default_factory=list)
    """Each a sentence that names two sources which disagree; the reply's facts are its evidence."""
    clashes: list[Clash] = Field(default_factory=list)
    """What other sources of the case contradict, each with the facts of both sides; added by `reply`."""
    said: list[Said] = Field(default_factory=list)
    """Ready sentences, each on one or several facts, where these say it better than the facts' own statements do."""
    made: Made | None = None


Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Vision:
    """A served model that takes pictures, and its name."""

    model: "BaseChatModel"
    name: str
    most: int = 4
    """Pictures that its server takes in one request."""


@dataclass(frozen=True)
class HouseStyle:
    """How a hospital wants its reports: its own templates (a folder), language and style, where a request names none."""

    templates: Path | None = None
    language: str = "en"
    style: str = "concise"


@dataclass(frozen=True)
class Resources:
    """What tools share: the models, the guideline index, the embedder, and a vision-language model where one is set up."""

    catalogue: "Catalogue"
    guidelines: GuidelineIndex
    embedder: MiniLM
    records: RecordSearch
    vision: Vision | None = None
    rules: RuleBook = field(default_factory=RuleBook)
    drafts: DraftStore = field(default_factory=DraftStore)
    responses: ResponseStore = field(default_factory=ResponseStore)
    cases: CaseIndex | None = None
    """The archive's studies by what networks see of them; None where the hospital hasn't switched it on."""
    teaching: TeachingStore = field(default_factory=TeachingStore)
    house_style: HouseStyle = field(default_factory=HouseStyle)
    joined: tuple[type["CaseTool"], ...] = ()
    """Tools of servers and services that the settings or installed packages name."""
    lets: Callable[[str], bool] = field(default=lambda name: name not in CLOSED)
    """Whether the tool of this name is switched on, and whoever asks may use it."""
    wrapped: Callable[[type["CaseTool"]], type["CaseTool"]] = field(default=lambda tool: tool)
    """A tool as it is run here: by itself, or in a process of its own."""

    @classmethod
    def plain(cls, guidelines: Path, *models: Path) -> Self:
        """The models in the box and those in the folders `models`, and the guidelines under a folder; nothing that a server adds."""
        from tools.models.catalogue import IN_THE_BOX, Catalogue

        embedder = MiniLM()
        return cls(Catalogue((IN_THE_BOX, *models)), GuidelineIndex(guidelines, embedder), embedder, RecordSearch(embedder))


@dataclass(frozen=True)
class Bench:
    """The place where a tool runs: one case (or none), the shared resources, and where to report progress."""

    resources: Resources
    case: Case | None = None
    progress: Progress = field(default=lambda done, total: None)
    cancelled: Callable[[], bool] = field(default=lambda: False)
    """Asked while something long runs; once true, the tool stops with Cancelled."""
    evidence: Callable[[str], Evidence | None] = field(default=lambda name: None)
    """The conversation's evidence by number (E3), so that a fact can be taken from it."""
    known: Callable[[], list[Evidence]] = field(default=lambda: [])
    """All evidence of the conversation so far, in order."""
    only: frozenset[str] | None = None
    """The tools that this conversation is pinned to; None: all."""
    today: Callable[[], date] = field(default=lambda: datetime.now(UTC).date())
    """The day on which the tool runs, for what is due."""

    @property
    def required_case(self) -> Case:
        """The case. Raises NotApplicable where there is none."""
        if self.case is None:
            raise NotApplicable("no case is open", "name a patient or studies")
        return self.case


class NoArguments(BaseModel):
    """For tools that take none."""

    model_config = ConfigDict(extra="forbid")


class CaseTool(BaseTool):
    """A LangChain tool bound to one case; its artifact is a Reply."""

    asks: ClassVar[list[str]]
    needs: ClassVar[Needs] = Needs()
    gives: ClassVar[list[Kind]]
    card: ClassVar[Card]
    cost: ClassVar[Cost] = Cost(seconds=0.1)
    effect: ClassVar[Effect] = Effect.READ
    contract: ClassVar[str] = CONTRACT
    """The version of this contract that the tool was written for."""
    example: ClassVar[dict[str, Any]] = {}
    """Arguments that fit the schema: for the docs, and for the checks."""
    deterministic: ClassVar[bool] = True
    """The same call on the same case gives the same facts."""
    network: ClassVar[bool] = False
    """True for a tool that calls another service."""

    bench: Any = Field(exclude=True, repr=False)
    response_format: str = "content_and_artifact"  # type: ignore[assignment]
    args_schema: Any = NoArguments

    @abstractmethod
    def answer(self, arguments: Any) -> Reply:
        """Do the work. Raises TryAgain, NotApplicable, Failed or NeedsApproval."""

    def _run(self, **arguments: Any) -> tuple[str, Reply]:
        reply = self.reply(arguments)
        return reply.text, reply

    def reply(self, arguments: dict[str, Any]) -> Reply:
        """`answer` on checked arguments, held against the case's other sources; errors of the knowledge room become TryAgain."""
        try:
            checked = self.args_schema.model_validate(arguments)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise TryAgain(f"the arguments of {self.name} don't fit ({problems})", "mend the arguments") from error
        try:
            found: Reply = self.answer(checked)
            if self.bench.case is None:
                return found
            return found.model_copy(update={"clashes": [*found.clashes, *clashes(self.bench.case, found.facts)]})
        except KnowledgeError as error:
            raise TryAgain(str(error), error.hint) from error

    @classmethod
    def phantom(cls) -> list[bytes] | None:
        """DICOM files on which the example works, for the checks; None: a phantom of the house that fits `needs`."""
        return None

    @classmethod
    def bound(cls, bench: Bench) -> Self:
        """This tool at `bench`."""
        return cls.model_validate({"bench": bench})

    @classmethod
    def described(cls) -> dict[str, Any]:
        """The tool's statement of itself, for the REST route, the prompt and the docs."""
        return dict(_statement_of(cls))


@lru_cache(maxsize=512)
def _statement_of(tool: type[CaseTool]) -> dict[str, Any]:
    fields = tool.model_fields
    return {
        "name": fields["name"].default,
        "description": fields["description"].default,
        "parameters": fields["args_schema"].default.model_json_schema(),
        "asks": tool.asks,
        "needs": tool.needs.model_dump(),
        "gives": [str(k) for k in tool.gives],
        "card": tool.card.model_dump(),
        "cost": tool.cost.model_dump(),
        "effect": str(tool.effect),
        "contract": tool.contract,
        "example": tool.example,
        "deterministic": tool.deterministic,
        "network": tool.network,
    }


__all__ = [
    "Bench",
    "Card",
    "CaseTool",
    "Cost",
    "Effect",
    "Made",
    "Missing",
    "Needs",
    "NoArguments",
    "Reply",
    "Resources",
    "Said",
    "ToolError",
    "Vision",
]
