"""Response worksheets: look, choose other targets, state what images don't show; the category follows."""

from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from knowledge.evidence import Frozen, Kind
from knowledge.response.model import Criteria, Role, Worksheet
from knowledge.response.scoring import changed
from serving.api.deps import Caller, HouseDep
from serving.house import House
from tools.export.tables import MEASUREMENTS, MEDIA, WORKSHEET, TableForm, as_table, measurement_rows, worksheet_rows

router = APIRouter(tags=["worksheets"])
BANNER = "Research use only. Not a medical device. A reader has to check targets and sums."


class ShownWorksheet(Frozen):
    """A worksheet as it stands, with what a reader may choose and state."""

    banner: str
    title: str
    worksheet: Worksheet
    unit: str
    nadir: str | None
    """Handle of the study with the smallest sum."""
    best: str | None
    """Best response so far, confirmed or not."""
    best_confirmed: str | None
    """Best response that a later study, four weeks or more after, confirms."""
    asks: dict[str, dict[str, Any]]
    """Facts of the criteria that a reader may state for a study: what they mean, and their values."""


class Summary(Frozen):
    """A worksheet in a list."""

    id: str
    version: int
    criteria: Criteria
    created: str
    category: str | None
    studies: list[str]


class WorksheetChange(BaseModel):
    """What a reader changes, made from `version`. What isn't named stays."""

    model_config = ConfigDict(extra="forbid")
    version: int
    roles: dict[str, Role] = Field(default_factory=dict, description="Lesion (L1) and what it counts as.")
    baseline: str | None = Field(None, description="Handle of the study that changes are counted from; targets are chosen anew.")
    criteria: Criteria | None = Field(None, description="Other criteria; targets are chosen anew.")
    measure: Literal["diameters", "volume"] | None = Field(None, description="What is summed up; volumes for RANO alone.")
    answers: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="By study: facts that images don't show; null takes one back."
    )


@router.get("/v1/worksheets", operation_id="list_worksheets", summary="A patient's response worksheets")
def list_worksheets(house: HouseDep, who: Caller, patient_id: str) -> list[Summary]:
    return [Summary(id=w.id, version=w.version, criteria=w.criteria, created=w.created, category=w.newest.category if w.newest else None,
                    studies=[s.handle for s in w.studies]) for w in house.resources.responses.of_patient(patient_id)]  # fmt: skip


@router.get("/v1/worksheets/{worksheet_id}", operation_id="show_worksheet", summary="A response worksheet")
def show_worksheet(house: HouseDep, who: Caller, worksheet_id: str, version: int | None = None) -> ShownWorksheet:
    """The newest version, or the one named."""
    return _shown(house, house.resources.responses.get(worksheet_id, version))


@router.patch("/v1/worksheets/{worksheet_id}", operation_id="change_worksheet", summary="Change a response worksheet")
def change_worksheet(house: HouseDep, who: Caller, worksheet_id: str, change: WorksheetChange) -> ShownWorksheet:
    """A new version, computed again by the guideline's rule. 409: somebody changed it in the meantime."""
    before = house.resources.responses.get(worksheet_id)
    made = changed(before, house.resources.rules, change.roles, change.baseline, change.criteria, change.measure, change.answers)
    kept = house.resources.responses.change(made, change.version)
    house.archive.note(
        who, "change worksheet", kept.id, {"version": kept.version, "category": kept.newest.category if kept.newest else None}
    )
    return _shown(house, kept)


@router.get("/v1/worksheets/{worksheet_id}/export", operation_id="export_worksheet", summary="A worksheet as CSV or Parquet", response_class=Response,
            responses={200: {"content": {m: {} for m in MEDIA.values()}}})  # fmt: skip
def export_worksheet(house: HouseDep, who: Caller, worksheet_id: str, form: TableForm = "csv") -> Response:
    """A row for each lesion on each study; days from the first study instead of dates, no identity."""
    sheet = house.resources.responses.get(worksheet_id)
    return Response(as_table(worksheet_rows(sheet), WORKSHEET, form), media_type=MEDIA[form])


@router.get("/v1/patients/{patient_id}/measurements", operation_id="export_measurements", summary="All measurements of a patient as CSV or Parquet",
            response_class=Response, responses={200: {"content": {m: {} for m in MEDIA.values()}}})  # fmt: skip
def export_measurements(house: HouseDep, who: Caller, patient_id: str, form: TableForm = "csv") -> Response:
    """Every measurement that an answer or a tool gave on the patient's images, under a pseudonym, with days from the first study."""
    house.archive.patient(patient_id)
    rows = measurement_rows(
        house.memory.of_patient(patient_id, Kind.MEASUREMENT),
        house.archive.studies(patient_id),
        house.archive.vault.patient(patient_id),
    )
    return Response(as_table(rows, MEASUREMENTS, form), media_type=MEDIA[form])


def _shown(house: House, sheet: Worksheet) -> ShownWorksheet:
    rule = house.resources.rules.rule(sheet.criteria)
    return ShownWorksheet(banner=BANNER, title=rule.spec["title"], worksheet=sheet, unit={"mm2": "mm²"}.get(sheet.unit, sheet.unit),
                          nadir=sheet.nadir.study if sheet.nadir else None, best=sheet.best, best_confirmed=sheet.best_confirmed,
                          asks={n: {"meaning": s["meaning"], "type": s["type"], "values": s.get("values"), "unit": s.get("unit")}
                                for n, s in rule.spec["facts"].items() if s["type"] in ("boolean", "enum") or n == "weeks_since_radiotherapy"})  # fmt: skip
