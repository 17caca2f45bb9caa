"""One list of tools: those in the box, and those that installed packages offer (entry points `consilium.tools`).

An entry point names a tool class, or a list of them, or an offer of `tools.kinds` (a bundle's folder, an MCP server, an HTTP service).
What can't be loaded, or was made for another contract, is left out, and said with the reason: it takes nothing else with it.
"""

import importlib
import importlib.util
import logging
import re
import site
import sys
import threading
import time
from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from knowledge.evidence import Frozen
from tools.annotations import ReadAnnotations
from tools.base import CONTRACT, STILL_RUN, Bench, CaseTool, Resources
from tools.classify import Classify
from tools.compare import CompareStudies
from tools.detect import Detect
from tools.diagnosis.differential import DifferentialDiagnosis
from tools.diagnosis.signs import ImagingSigns
from tools.followup import FollowUpTool
from tools.guidelines import SearchGuidelines
from tools.kinds import Offer
from tools.look import Look
from tools.measure import Measure
from tools.radiomics import Radiomics
from tools.records import PatientRecord
from tools.reporting.checking import CheckReport
from tools.reporting.drafting import DraftReport
from tools.reports import RetrieveReports
from tools.rules import ApplyGuideline
from tools.segment import Segment
from tools.similar import FindSimilarCases
from tools.studies import ExplainImageMetadata, ListStudies
from tools.teaching.quiz import EducationQuiz

log = logging.getLogger("consilium.tools")
IN_THE_BOX: list[type[CaseTool]] = [
    ListStudies, ExplainImageMetadata, Segment, Detect, Classify, Measure, CompareStudies, ReadAnnotations, Radiomics, Look, RetrieveReports, PatientRecord, SearchGuidelines,
    ApplyGuideline, DifferentialDiagnosis, ImagingSigns, DraftReport, CheckReport, EducationQuiz, FollowUpTool, FindSimilarCases,
]  # fmt: skip
GROUP = "consilium.tools"
LOOK_S = 1.0
"""Seconds between two looks at what is installed, where that is watched."""


class LeftOut(Frozen):
    """Something that a package offers and that isn't a tool here, with the reason and what to do."""

    name: str
    package: str
    reason: str


class Installed(Frozen):
    """What the installed packages offer."""

    tools: dict[str, Any]
    """Tool classes by name."""
    offers: dict[str, Any]
    """Servers and services by the entry point's name, whose tools join when a house is built."""
    left_out: list[LeftOut]


@cache
def installed() -> Installed:
    """What the installed packages offer, loaded once; `Watch` looks again."""
    tools: dict[str, type[CaseTool]] = {}
    offers: dict[str, Offer] = {}
    left_out: list[LeftOut] = []
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        package = f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
        try:
            found = list(_loaded(point, offers))
        except Exception as error:  # noqa: BLE001 (another's package: whatever breaks in it stays there)
            left_out.append(
                LeftOut(
                    name=point.name, package=package, reason=f"it can't be loaded ({type(error).__name__}: {str(error)[:200]})"
                )
            )
            continue
        for tool in found:
            name, why = _judged(tool, tools)
            if why:
                left_out.append(LeftOut(name=name or point.name, package=package, reason=why))
            else:
                tools[name] = tool
    for one in left_out:
        log.warning("the tool %s of %s is left out: %s", one.name, one.package, one.reason)
    return Installed(tools=tools, offers=offers, left_out=left_out)


def _loaded(point: EntryPoint, offers: dict[str, Offer]) -> Iterable[type[CaseTool]]:
    offered = point.load()
    if isinstance(offered, Offer):
        made = offered.tools()
        if made is None:
            offers[point.name] = offered
        return made or []
    return offered if isinstance(offered, list | tuple) else [offered]


def _judged(tool: Any, known: dict[str, type[CaseTool]]) -> tuple[str, str]:
    """The tool's name, and why it can't be taken, if so."""
    if not (isinstance(tool, type) and issubclass(tool, CaseTool)):
        return "", "it isn't a subclass of CaseTool"
    name = str(tool.model_fields["name"].default)
    lacking = [a for a in ("asks", "gives", "card") if getattr(tool, a, None) is None]
    if lacking:
        return name, f"its statement lacks {', '.join(lacking)}"
    if tool.contract not in STILL_RUN:
        return (
            name,
            f"it was made for contract {tool.contract}, and this Consilium keeps contract {CONTRACT}: install a version of it that fits",
        )
    if not re.fullmatch(r"[a-z][a-z0-9_]{1,59}", name):
        return name, "its name isn't lower-case letters, digits and underscores"
    if name in {t.model_fields["name"].default for t in IN_THE_BOX} | set(known):
        return name, "the name is taken"
    try:
        tool.described()
        tool.bound(Bench(None))  # type: ignore[arg-type]  # that it can be made at all
    except Exception as error:  # noqa: BLE001
        return name, f"it can't be made ({type(error).__name__}: {str(error)[:200]})"
    return name, ""


@cache
def tool_types() -> dict[str, type[CaseTool]]:
    """Every tool by name. An installed tool can't take the name of one in the box."""
    return {**{t.model_fields["name"].default: t for t in IN_THE_BOX}, **installed().tools}


class Watch:
    """Notices packages that are installed, changed or taken away while the server runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._looked, self._seen = time.monotonic(), self._state()

    def look(self) -> bool:
        """True where something changed since the last look (no oftener than each `LOOK_S`); then it is loaded anew."""
        with self._lock:
            if time.monotonic() - self._looked < LOOK_S:
                return False
            found, self._looked = self._state(), time.monotonic()
            if found == self._seen:
                return False
            changed = {package for package, _ in set(found.items()) ^ set(self._seen.items())}
            for name in [m for m in sys.modules if m.partition(".")[0] in changed]:
                del sys.modules[name]
            self._seen = found
            installed.cache_clear()
            tool_types.cache_clear()
            log.info("tools were loaded anew: %s", ", ".join(sorted(changed)))
            return True

    @staticmethod
    def _state() -> dict[str, tuple[tuple[str, str], float]]:
        """Each entry point's top package, with what it names and when its files changed last."""
        importlib.invalidate_caches()
        _read_path_files()
        found = {}
        for point in entry_points(group=GROUP):
            top = point.module.partition(".")[0]
            spec = importlib.util.find_spec(top)
            folders = [Path(p) for p in spec.submodule_search_locations or []] if spec else []
            times = [f.stat().st_mtime for folder in folders for f in folder.rglob("*") if f.suffix in (".py", ".yaml", ".json")]
            found[top] = ((point.name, point.value), max(times, default=0.0))
        return found


def _read_path_files() -> None:
    """Bring in what an editable install wrote after this process began (its .pth file)."""
    for folder in site.getsitepackages():
        for file in Path(folder).glob("*.pth"):
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith("/") and line not in sys.path and Path(line).is_dir():
                    sys.path.append(line)
                elif line.startswith("import __editable__"):
                    finder = line.removeprefix("import ").partition(";")[0]
                    if finder not in sys.modules:
                        importlib.import_module(finder).install()


_watch: Watch | None = None


def watch() -> None:
    """From now on, tools of packages that come or change are loaded anew (`consilium serve --reload-tools`)."""
    global _watch
    _watch = _watch or Watch()


def types_for(resources: Resources) -> dict[str, type[CaseTool]]:
    """Every tool that may be used, by name, those of joined servers too; they can't take the name of another."""
    if _watch is not None:
        _watch.look()
    every = {**{t.model_fields["name"].default: t for t in resources.joined}, **tool_types()}
    return {n: resources.wrapped(t) for n, t in every.items() if resources.lets(n)}


def tools_for(bench: Bench) -> list[CaseTool]:
    """Every tool bound to the case of `bench`; without a case only those that need none, and `look` only with a model that can see."""
    fitting = [
        t
        for n, t in types_for(bench.resources).items()
        if (bench.case is not None or not t.needs.case) and (bench.only is None or n in bench.only)
    ]
    return [t.bound(bench) for t in fitting if not issubclass(t, Look) or bench.resources.vision is not None]
