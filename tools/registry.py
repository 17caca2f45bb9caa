"""One list of tools: those in the box, and those that installed packages offer (entry points `consilium.tools`)."""

from functools import cache
from importlib.metadata import entry_points

from tools.base import Bench, CaseTool, Resources
from tools.classify import Classify
from tools.compare import CompareStudies
from tools.detect import Detect
from tools.diagnosis.differential import DifferentialDiagnosis
from tools.diagnosis.signs import ImagingSigns
from tools.followup import FollowUpTool
from tools.guidelines import SearchGuidelines
from tools.look import Look
from tools.measure import Measure
from tools.radiomics import Radiomics
from tools.records import PatientRecord
from tools.reporting.checking import CheckReport
from tools.reporting.drafting import DraftReport
from tools.reports import RetrieveReports
from tools.rules import ApplyGuideline
from tools.segment import Segment
from tools.studies import ExplainImageMetadata, ListStudies
from tools.teaching.quiz import EducationQuiz

IN_THE_BOX: list[type[CaseTool]] = [
    ListStudies, ExplainImageMetadata, Segment, Detect, Classify, Measure, CompareStudies, Radiomics, Look, RetrieveReports, PatientRecord, SearchGuidelines,
    ApplyGuideline, DifferentialDiagnosis, ImagingSigns, DraftReport, CheckReport, EducationQuiz, FollowUpTool,
]  # fmt: skip


@cache
def tool_types() -> dict[str, type[CaseTool]]:
    """Every tool by name. An installed tool can't take the name of one in the box."""
    found = {t.model_fields["name"].default: t for t in IN_THE_BOX}
    for point in entry_points(group="consilium.tools"):
        offered = point.load()
        found.setdefault(offered.model_fields["name"].default, offered)
    return found


def types_for(resources: Resources) -> dict[str, type[CaseTool]]:
    """Every tool by name, those of joined servers too; they can't take the name of another."""
    return {**{t.model_fields["name"].default: t for t in resources.joined}, **tool_types()}


def tools_for(bench: Bench) -> list[CaseTool]:
    """Every tool bound to the case of `bench`; without a case only those that need none, and `look` only with a model that can see."""
    fitting = [t for t in types_for(bench.resources).values() if bench.case is not None or not t.needs.case]
    return [t.bound(bench) for t in fitting if t is not Look or bench.resources.vision is not None]
