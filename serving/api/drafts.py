"""Drafts of reports: look, edit, sign, export."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from agent import grounding
from knowledge.errors import NotFound
from knowledge.evidence import Evidence, Frozen
from knowledge.reporting.drafts import By, Draft, Sentence, Signature
from knowledge.reporting.templates import LANGUAGES, Part, templates
from knowledge.studies.intake import Hints
from knowledge.studies.model import Study
from knowledge.studies.unpack import from_bytes
from serving.api.deps import Caller, HouseDep, OutboxDep, SubscriptionsDep
from serving.house import House
from tools.export.fhir import own_id
from tools.export.report import FORMS, banner

router = APIRouter(tags=["drafts"])


class ShownSentence(Frozen):
    """A sentence with the evidence that it stands on, and what that evidence doesn't carry (of a reader's own words)."""

    part: Part
    text: str
    by: By
    evidence: list[str]
    problems: list[str] = []


class ShownDraft(Frozen):
    """A draft as it stands."""

    id: str
    version: int
    status: Literal["draft", "signed"]
    banner: str
    patient_id: str
    study_id: str | None
    study_date: str | None
    template: str
    title: str
    language: str
    created: str
    sentences: list[ShownSentence]
    evidence: list[Evidence]
    signature: Signature | None = None


class Summary(Frozen):
    """A draft in a list."""

    id: str
    version: int
    status: str
    title: str
    study_date: str | None
    created: str
    open_places: int


class Words(BaseModel):
    """A sentence as a person leaves it; `evidence` names what it stands on (numbers of the draft's evidence)."""

    model_config = ConfigDict(extra="forbid")
    part: Part
    text: str = Field(min_length=1, max_length=2000)
    evidence: list[str] = Field(default_factory=list, max_length=40)


class Edit(BaseModel):
    """The whole draft as a person leaves it, made from `version`."""

    model_config = ConfigDict(extra="forbid")
    version: int
    sentences: list[Words] = Field(min_length=1, max_length=200)


class SignRequest(BaseModel):
    """Who signs, and which version was read."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=2, max_length=120)
    version: int


class Signed(Frozen):
    """A signed draft, and the report that joined the patient's reports."""

    draft: ShownDraft
    report_id: str | None


@router.get("/v1/drafts", operation_id="list_drafts", summary="A patient's drafts and signed reports")
def list_drafts(house: HouseDep, who: Caller, patient_id: str) -> list[Summary]:
    return [Summary(id=d.id, version=d.version, status=d.status, title=d.title, study_date=d.study_date, created=d.created,
                    open_places=len(d.open_places)) for d in house.resources.drafts.of_patient(patient_id)]  # fmt: skip


@router.get("/v1/report-templates", operation_id="list_templates", summary="Templates of structured reports")
def list_templates(house: HouseDep, who: Caller) -> list[dict[str, Any]]:
    """The hospital's own among them; `languages` are those that its words are in."""
    return [{"name": t.name, "title": t.title["en"], "modality": t.modality, "items": [i.ask["en"] for i in t.items],
             "languages": [n for n in LANGUAGES if n in t.title], "source": t.source}
            for t in templates(house.resources.house_style.templates).values()]  # fmt: skip


@router.get("/v1/drafts/{draft_id}", operation_id="show_draft", summary="A draft with its evidence")
def show_draft(house: HouseDep, who: Caller, draft_id: str, version: int | None = None) -> ShownDraft:
    """The newest version, or the one named."""
    return _shown(house, house.resources.drafts.get(draft_id, version))


@router.put("/v1/drafts/{draft_id}", operation_id="edit_draft", summary="Change a draft")
def edit_draft(house: HouseDep, who: Caller, draft_id: str, edit: Edit) -> ShownDraft:
    """A new version. Sentences that a person changed are theirs; `problems` says what their evidence doesn't carry. 409: it was signed or changed."""
    before = house.resources.drafts.get(draft_id)
    numbers = {f"E{n + 1}": n for n in range(len(before.facts))}
    kept = {(s.part, s.text): s for s in before.sentences}
    places = {s.text for s in before.open_places}
    written = []
    for one in edit.sentences:
        unknown = [i for i in one.evidence if i not in numbers]
        if unknown:
            raise NotFound(f"the draft has no evidence {unknown[0]}", f"it has E1 to E{len(numbers)}")
        facts = [numbers[i] for i in one.evidence]
        old = kept.get((one.part, one.text))
        by = old.by if old is not None and old.facts == facts else By.OPEN if one.text in places else By.READER
        written.append(Sentence(part=one.part, text=one.text, by=by, facts=facts))
    return _shown(house, house.resources.drafts.edit(draft_id, written, edit.version))


@router.post("/v1/drafts/{draft_id}/sign", operation_id="sign_draft", summary="Sign a draft as a person")
def sign_draft(
    house: HouseDep, outbox: OutboxDep, subscriptions: SubscriptionsDep, who: Caller, draft_id: str, request: SignRequest
) -> Signed:
    """Only the version that was read, and only without open places. The signed text joins the patient's reports; it can't be changed after."""
    draft = house.resources.drafts.sign(draft_id, request.name, request.version)
    text = FORMS["text"][0](draft, house.archive.patient(draft.patient_id), _study(house, draft))
    hints = Hints(patient_id=draft.patient_id, study_date=draft.study_date)
    taken = house.archive.add(from_bytes(f"{draft.id}.txt", text), hints, by=who)
    study = _study(house, draft)
    if study is not None and study.source.format == "DICOM":
        outbox.route("report", {"draft_id": draft.id}, request.name, who)
    subscriptions.happened("report.ready", f"DiagnosticReport/{own_id(draft.id)}", draft.patient_id)
    return Signed(draft=_shown(house, draft), report_id=taken.records[0].id if taken.records else None)


class Found(Frozen):
    """One point of a checked report. Characters [start, end) are the report's."""

    kind: str
    severity: str
    start: int
    end: int
    message: str
    suggestion: str
    evidence: list[str]


class ShownCheck(Frozen):
    """A report as it was checked, with what was found."""

    id: str
    patient_id: str
    title: str
    text: str
    created: str
    issues: list[Found]
    evidence: list[Evidence]


@router.get("/v1/checks/{check_id}", operation_id="show_check", summary="A report as it was checked, and what was found")
def show_check(house: HouseDep, who: Caller, check_id: str) -> ShownCheck:
    """`POST /v1/tools/check_report` makes one; its `made.id` names it."""
    checked = house.resources.drafts.checked(check_id)
    evidence = house.memory.number(checked.id, checked.facts, checked.patient_id)
    issues = [Found(**{**i, "evidence": [evidence[n].id for n in i["evidence"]]}) for i in checked.issues]
    return ShownCheck(id=checked.id, patient_id=checked.patient_id, title=checked.report.title, text=checked.report.text, created=checked.created,
                      issues=issues, evidence=evidence)  # fmt: skip


@router.delete("/v1/drafts/{draft_id}", status_code=204, operation_id="delete_draft", summary="Delete an unsigned draft")
def delete_draft(house: HouseDep, who: Caller, draft_id: str) -> None:
    house.resources.drafts.delete(draft_id)


@router.get("/v1/drafts/{draft_id}/export", operation_id="export_draft", summary="A draft as a file", response_class=Response,
            responses={200: {"content": {m: {} for _, m, _ in FORMS.values()}}})  # fmt: skip
def export_draft(
    house: HouseDep,
    who: Caller,
    draft_id: str,
    form: Annotated[Literal["text", "pdf", "docx", "fhir", "sr", "dicom_pdf"], Query()] = "pdf",
    version: int | None = None,
) -> Response:
    """Text, PDF, DOCX, FHIR DiagnosticReport, DICOM SR or encapsulated PDF. What isn't signed says so in each."""
    draft = house.resources.drafts.get(draft_id, version)
    make, media, ending = FORMS[form]
    data = make(draft, house.archive.patient(draft.patient_id), _study(house, draft))
    name = f"{draft.status}-{draft.template}-{draft.study_date or 'undated'}.{ending}"
    return Response(data, media_type=media, headers={"Content-Disposition": f'attachment; filename="{name}"'})


def _study(house: House, draft: Draft) -> Study | None:
    return house.archive.study(draft.study_id) if draft.study_id else None


def _shown(house: House, draft: Draft) -> ShownDraft:
    evidence = house.memory.number(draft.id, draft.facts, draft.patient_id)
    sentences = []
    for one in draft.sentences:
        mine = [evidence[i] for i in one.facts]
        problems = grounding.problems(one.text, mine) if one.by is By.READER and mine else []
        sentences.append(ShownSentence(part=one.part, text=one.text, by=one.by, evidence=[e.id for e in mine], problems=problems))
    return ShownDraft(
        id=draft.id, version=draft.version, status="signed" if draft.signature else "draft", banner=banner(draft), patient_id=draft.patient_id,
        study_id=draft.study_id, study_date=draft.study_date, template=draft.template, title=draft.title, language=draft.language,
        created=draft.created, sentences=sentences, evidence=evidence, signature=draft.signature,
    )  # fmt: skip
