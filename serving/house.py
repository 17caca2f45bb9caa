"""What a running server holds: archive, resources, memory, keys, and the assistant."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agent.answer import PlannerRef
from agent.assistant import Assistant
from agent.guard import reads_like_an_order
from agent.memory import Memory, now
from agent.pictures import MOST as MOST_SHOWN
from agent.planner.able import Able
from agent.planner.builtin import NAME, BuiltinPlanner
from knowledge.errors import KnowledgeError
from knowledge.guidelines.adding import About, Added, Adder, RefusedFile, Told
from knowledge.guidelines.embedders import embedder_of
from knowledge.guidelines.minilm import MiniLM
from knowledge.guidelines.rerank import reranker_of
from knowledge.guidelines.rulebook import RuleBook
from knowledge.guidelines.search import GuidelineIndex
from knowledge.records.search import RecordSearch
from knowledge.reporting.drafts import DraftStore
from knowledge.response.store import ResponseStore
from knowledge.similar import CaseIndex
from knowledge.studies.archive import Archive
from knowledge.studies.frames import Scale, Shown, run_of, shown, values_of
from knowledge.studies.nifti import read_mask
from knowledge.studies.volume import Volume
from knowledge.studies.volumes import InPlace
from knowledge.teaching.sessions import TeachingStore
from serving.access.keys import KeyRing
from serving.access.tokens import TokenStore
from serving.settings import Settings
from tools.apart import apart
from tools.base import CLOSED, CaseTool, HouseStyle, Resources, Vision
from tools.models.catalogue import IN_THE_BOX, Catalogue

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

log = logging.getLogger("consilium.serving")
ROLE: ContextVar[str | None] = ContextVar("role", default=None)
"""The role of the key that the request in hand came with."""

SHOWN = 4
"""Volumes kept ready for the viewer (some 35 MB each)."""


@dataclass
class Viewer:
    """Display stacks of the series looked at last."""

    archive: Archive
    _stacks: "OrderedDict[str, Volume]" = field(default_factory=OrderedDict)
    _places: "OrderedDict[str, InPlace | None]" = field(default_factory=OrderedDict)
    _shown: "OrderedDict[str, Shown]" = field(default_factory=OrderedDict)
    _masks: "OrderedDict[tuple[Path, int], Volume]" = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def stack(self, series_id: str) -> Volume:
        """The display stack of a series."""
        with self._lock:
            if series_id not in self._stacks:
                self._stacks[series_id] = self.archive.volume(series_id).display()
                while len(self._stacks) > SHOWN:
                    self._stacks.popitem(last=False)
            self._stacks.move_to_end(series_id)
            return self._stacks[series_id]

    def shown(self, series_id: str) -> Shown:
        """How the stack is shown."""
        stack = self._like(series_id)
        with self._lock:
            if series_id not in self._shown:
                self._shown[series_id] = shown(stack)
            return self._shown[series_id]

    def frames(self, series_id: str, first: int, count: int) -> bytes:
        """Frames as numbers, scaled as `shown` says; of a series that lies uncompressed these frames alone are read."""
        told, place = self.shown(series_id), self._place(series_id)
        run = run_of(told.frames, first, count)
        part = place.part(run) if place else self.stack(series_id).part(run)
        return values_of(part, Scale(told.slope, told.intercept))

    def _like(self, series_id: str) -> Volume:
        """The stack, without its voxels where they needn't be read together."""
        place = self._place(series_id)
        return place.like if place else self.stack(series_id)

    def _place(self, series_id: str) -> InPlace | None:
        with self._lock:
            if series_id not in self._places:
                self._places[series_id] = self.archive.in_place(series_id)
                while len(self._places) > 16 * SHOWN:
                    self._places.popitem(last=False)
            return self._places[series_id]

    def mask(self, series_id: str, path: Path) -> Volume:
        """A mask over the stack of its series; read again where its file was written anew."""
        stack, key = self._like(series_id), (path, path.stat().st_mtime_ns)
        with self._lock:
            if key not in self._masks:
                self._masks[key] = read_mask(path).aligned_with(stack)
                while len(self._masks) > 2 * SHOWN:
                    self._masks.popitem(last=False)
            return self._masks[key]

    def forget(self, series_id: str) -> None:
        """Drop what is kept of a series: it changed or went."""
        with self._lock:
            self._masks.clear()
            for kept in (self._stacks, self._places, self._shown):
                kept.pop(series_id, None)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class House:
    """Everything that the routes share."""

    settings: Settings
    archive: Archive
    resources: Resources
    memory: Memory
    keys: KeyRing
    assistant: Assistant
    viewer: Viewer
    adder: Adder
    tokens: TokenStore
    started: str = field(default_factory=now)

    def add_guidelines(
        self, files: Iterable[tuple[str, bytes]], about: About, told: Told, cancelled: Callable[[], bool]
    ) -> Added:
        """Add documents to the library and tables (.yaml) to the rules. A file that can't be taken is named; the rest goes in."""
        rules: list[str] = []
        rejected: list[RefusedFile] = []

        def words() -> Iterator[tuple[str, bytes]]:
            for name, data in files:
                if not name.lower().endswith((".yaml", ".yml")):
                    yield name, data
                    continue
                try:
                    rules.append(self.resources.rules.add_text(name, data).name)
                except KnowledgeError as error:
                    rejected.append(RefusedFile(file=name, reason=f"{error}: {error.hint}"))

        done = self.adder.add(words(), about, told, cancelled)
        return Added(documents=done.documents, rejected=[*done.rejected, *rejected], rules=rules)

    def close(self) -> None:
        """Let go of files and connections, once nothing runs any more."""
        stores = (
            self.archive,
            self.memory,
            self.tokens,
            self.resources.drafts,
            self.resources.responses,
            self.resources.teaching,
        )
        for store in stores:
            store.engine.dispose()
        self.resources.guidelines.close()
        if self.resources.cases is not None:
            self.resources.cases.close()

    def warm(self) -> None:
        """Load what the first question needs, in the background."""
        from agent.planner.phrases import likeness
        from knowledge.language import language_of

        self.resources.guidelines.warm()
        language_of("How big is the tumour?")
        likeness("How big is the tumour?")


def able_of(settings: Settings) -> Able:
    """What the language model's server can do; of one that doesn't answer now, that is assumed which every vLLM with a tool parser can."""
    if not (settings.llm_url and settings.llm_model and settings.llm_probe):
        return Able(images=MOST_SHOWN if settings.llm_vision else 0)
    from serving.llm.probe import NoServer, quick

    key = settings.llm_key.get_secret_value() if settings.llm_key else None
    try:
        found = quick(settings.llm_url, settings.llm_model, key, min(settings.llm_timeout_s, 30))
    except NoServer as error:
        log.warning("the language model's server couldn't be tried (%s); it is asked as a vLLM with a tool parser", error)
        return Able(images=MOST_SHOWN if settings.llm_vision else 0)
    return (
        found
        if settings.llm_vision is None
        else replace(found, images=(found.images or MOST_SHOWN) if settings.llm_vision else 0)
    )


def planner_of(settings: Settings, embedder: MiniLM, able: Able | None = None) -> "tuple[BaseChatModel, PlannerRef]":
    """The chat model behind the plan, by settings."""
    if settings.llm_url and settings.llm_model:
        from agent.planner.remote import remote_planner

        key = settings.llm_key.get_secret_value() if settings.llm_key else None
        model = remote_planner(settings.llm_url, settings.llm_model, key, settings.llm_timeout_s, able)
        return model, PlannerRef(kind="llm", model=settings.llm_model)
    return BuiltinPlanner.of(embedder), PlannerRef(kind="builtin", model=NAME)


def archive_of(settings: Settings) -> Archive:
    """The archive for these settings."""
    root = settings.data / "archive"
    if settings.deidentify_on_import == "off":
        return Archive(root, settings.database_url)
    from knowledge.studies.deidentify.vault import Vault
    from knowledge.studies.export import OnImport, options_of

    return Archive(root, settings.database_url, OnImport(options_of(settings.deidentify_on_import), Vault(root / "vault")))


def joined_of(settings: Settings) -> tuple[type[CaseTool], ...]:
    """Tools of the MCP servers and HTTP services that the settings and the installed packages name; the settings come first."""
    from tools.kinds import Http, Mcp
    from tools.registry import installed

    offers = installed().offers
    servers = {**{n: o.server for n, o in offers.items() if isinstance(o, Mcp)}, **settings.mcp_servers}
    services = {**{n: o.service for n, o in offers.items() if isinstance(o, Http)}, **settings.http_services}
    found: list[type[CaseTool]] = []
    if servers:
        from tools import mcp

        found += mcp.joined(servers, reads_like_an_order)
    if services:
        from tools import openapi

        found += openapi.joined(services, reads_like_an_order)
    return tuple(found)


def lets_of(settings: Settings) -> Callable[[str], bool]:
    """Whether a tool is switched on, and the role in hand may use it."""

    def lets(name: str) -> bool:
        if name in CLOSED and not (settings.similar_cases and ROLE.get() in settings.similar_for):
            return False
        return name not in settings.tools_off and (name not in settings.tools_for or ROLE.get() in settings.tools_for[name])

    return lets


def wrapped_of(settings: Settings, archive: Path) -> Callable[[type[CaseTool]], type[CaseTool]]:
    """Tools that the settings put into a process of their own, there; others as they are."""

    def wrapped(tool: type[CaseTool]) -> type[CaseTool]:
        process = settings.tool_processes.get(str(tool.model_fields["name"].default))
        return apart(tool, process, archive, settings.database_url, settings.data, settings.model_folder) if process else tool

    return wrapped


def build(settings: Settings) -> House:
    """The house for these settings; nothing heavy is loaded yet."""
    data = settings.data
    archive = archive_of(settings)
    embedder = MiniLM()
    able = able_of(settings)
    model, ref = planner_of(settings, embedder, able)
    vision = Vision(model, ref.model, able.images) if able.images and ref.kind == "llm" else None
    catalogue = Catalogue((IN_THE_BOX, settings.model_folder))
    key = settings.embedder_key.get_secret_value() if settings.embedder_key else None
    finder = embedder if settings.embedder == "minilm" else embedder_of(settings.embedder, settings.embedder_url, key)
    guidelines = GuidelineIndex(data / "guidelines", finder, settings.chroma_url,
                                reranker_of(settings.reranker, settings.reranker_url, key))  # fmt: skip
    cases = CaseIndex(data / "similar", settings.chroma_url) if settings.similar_cases else None
    resources = Resources(
        catalogue, guidelines, embedder, RecordSearch(embedder), vision, RuleBook(data / "rules"),
        drafts=DraftStore(settings.database_url or data / "drafts.db"), responses=ResponseStore(settings.database_url or data / "responses.db"), cases=cases,
        teaching=TeachingStore(settings.database_url or data / "teaching.db"),
        house_style=HouseStyle(settings.report_templates or data / "templates", settings.report_language, settings.report_style),
        joined=joined_of(settings), lets=lets_of(settings), wrapped=wrapped_of(settings, archive.root),
    )  # fmt: skip
    memory = Memory(settings.conversations_url or data / "conversations.db")
    builtin = (BuiltinPlanner.of(embedder), PlannerRef(kind="builtin", model=NAME))
    assistant = Assistant(archive, resources, memory, model, ref, settings.conversations_url or data / "checkpoints.db",
                          fallback=builtin if ref.kind == "llm" and settings.llm_fallback else None,
                          seconds=settings.answer_timeout_s, chooses=settings.llm_chooses, reads=settings.llm_turns)  # fmt: skip
    viewer = Viewer(archive)
    archive.watchers.append(viewer.forget)
    return House(settings, archive, resources, memory, KeyRing(data / "access"), assistant, viewer, Adder(guidelines),
                 TokenStore(settings.conversations_url or data / "access" / "tokens.db"))  # fmt: skip
