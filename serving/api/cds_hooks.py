"""CDS Hooks 2.0 (`/cds-services`): discovery, `patient-view`, `order-select`, feedback. Cards come from what is stored."""

import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import jwt
from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from knowledge.errors import NotFound
from serving.access.assertions import Assertions
from serving.access.grants import Grant
from serving.api.deps import HouseDep, grant_of, root_of
from serving.api.fhir.shelf import Shelf
from serving.cards import Cards
from serving.errors import Problem
from serving.house import House

router = APIRouter(tags=["cds-hooks"])
PATIENT = "Patient/{{context.patientId}}"
SERVICES = [
    {"id": "patient-view", "hook": "patient-view", "title": "Tumour imaging: what is open",
     "description": "Emergencies in the newest report, growth that no report tells of, follow-ups overdue by report or computed guideline. Research use only.",
     "prefetch": {"patient": PATIENT}},
    {"id": "order-select", "hook": "order-select", "title": "Imaging orders: contrast, duplicates, recommendations",
     "description": "Kidney function before contrast, the same imaging done lately, imaging that was recommended instead. Research use only.",
     "prefetch": {"patient": PATIENT}},
]  # fmt: skip


class Context(BaseModel):
    """The hook's context, as far as it is used."""

    model_config = ConfigDict(extra="allow")
    patientId: str = Field(min_length=1, max_length=200)
    selections: list[str] = []
    draftOrders: dict[str, Any] = {}


class HookRequest(BaseModel):
    """A hook's request."""

    model_config = ConfigDict(extra="allow")
    hook: str
    hookInstance: str = Field(max_length=100)
    context: Context
    prefetch: dict[str, Any] = {}


class Told(BaseModel):
    """What became of a card."""

    model_config = ConfigDict(extra="allow")
    card: str = Field(max_length=100)
    outcome: Literal["accepted", "overridden"]


class FeedbackRequest(BaseModel):
    """Feedback on cards."""

    model_config = ConfigDict(extra="allow")
    feedback: list[Told] = Field(min_length=1, max_length=100)


async def calling(house: HouseDep, request: Request) -> Grant:
    """The EHR that calls: by a JWT that its registered key signed for this very URL, or with a key of ours. Raises 401."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and secret.count(".") == 2:
        try:
            issuer = await run_in_threadpool(
                Assertions(house.settings.cds_clients, house.tokens).issuer,
                secret.strip(),
                f"{root_of(request)}{request.url.path}",
            )
        except (jwt.PyJWTError, OSError, ValueError, KeyError) as error:
            raise Problem(401, "Unauthorized", "the EHR's JWT isn't taken", str(error)[:200]) from error
        return Grant(f"{issuer} (CDS Hooks)")
    grant = grant_of(house, request.headers)
    if grant.scopes is not None:
        raise Problem(403, "Scope", "a token of SMART isn't for CDS Hooks", "sign a JWT for the service's URL, or use a key")
    return grant


Calling = Annotated[Grant, Depends(calling)]


@router.get("/cds-services", operation_id="cds_services", summary="Discovery")
def services() -> dict[str, Any]:
    return {"services": SERVICES}


@router.post("/cds-services/{service}", operation_id="cds_hook", summary="Cards for a hook",
             responses={412: {"description": "The patient isn't known here and wasn't sent"}})  # fmt: skip
def hook(
    house: HouseDep, grant: Calling, request: Request, response: Response, service: str, asked: HookRequest
) -> dict[str, Any]:
    """412 where the patient can't be told: neither known by the id nor sent as prefetch."""
    offered = _service(service)
    if asked.hook != offered["hook"]:
        raise Problem(400, "WrongHook", f"the service is for {offered['hook']}", "see /cds-services")
    patient = _patient(house, asked)
    if patient is None:
        return {"cards": []}
    cards = Cards(house, patient, root_of(request))
    made = cards.patient_view() if offered["hook"] == "patient-view" else cards.order_select(_orders(asked.context))
    return {"cards": [{"uuid": str(uuid.uuid4()), **c} for c in made]}


def _service(name: str) -> dict[str, Any]:
    found = next((s for s in SERVICES if s["id"] == name), None)
    if found is None:
        raise NotFound("there is no such service", "see /cds-services")
    return found


def _patient(house: House, asked: HookRequest) -> str | None:
    """The patient as the archive knows them; None where they were sent and aren't here. Raises 412."""
    known = Shelf(house, "").patient_of(asked.context.patientId.removeprefix("Patient/"))
    if known is not None:
        return known
    sent = asked.prefetch.get("patient")
    if not isinstance(sent, dict) or sent.get("resourceType") != "Patient":
        raise Problem(
            412,
            "NoPatient",
            "the patient isn't known here by this id",
            "send Patient as prefetch, with the identifiers that the PACS uses",
        )
    mine = set(house.archive.patient_ids())
    values = [str(i.get("value")) for i in sent.get("identifier") or [] if isinstance(i, dict)]
    return next((v for v in values if v in mine), None)


def _orders(context: Context) -> Sequence[dict[str, Any]]:
    """The selected draft orders; all of them where none is named."""
    listed = [e.get("resource") for e in context.draftOrders.get("entry") or [] if isinstance(e, dict)]
    orders = [r for r in listed if isinstance(r, dict)]
    chosen = [r for r in orders if f"{r.get('resourceType')}/{r.get('id')}" in context.selections]
    return chosen or orders


@router.post("/cds-services/{service}/feedback", operation_id="cds_feedback", summary="What became of cards")
def feedback(house: HouseDep, grant: Calling, service: str, given: FeedbackRequest) -> dict[str, Any]:
    """Counted in the audit; reasons in free words aren't kept, since they may tell of the patient."""
    _service(service)
    for one in given.feedback:
        house.archive.note(grant.name, "card feedback", one.card, {"service": service, "outcome": one.outcome})
    return {}
