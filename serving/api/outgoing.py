"""What leaves for other systems: propose (with its difference), confirm, decline, list, try again."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from serving.api.deps import Caller, OutboxDep
from serving.outgoing import Outgoing

router = APIRouter(tags=["outgoing"])


class Proposal(BaseModel):
    """A signed report (`draft_id`) or a mask (`study_id`, `series_id`, `name`), and where it is to go."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["report", "mask"]
    receiver: str = Field(max_length=500)
    draft_id: str | None = Field(None, max_length=80)
    study_id: str | None = Field(None, max_length=80)
    series_id: str | None = Field(None, max_length=80)
    name: str | None = Field(None, max_length=200, pattern=r"^[^/\\]+$")

    @model_validator(mode="after")
    def _whole(self) -> "Proposal":
        needed = {"report": [self.draft_id], "mask": [self.study_id, self.series_id, self.name]}[self.kind]
        if not all(needed):
            raise ValueError("a report is named by draft_id, a mask by study_id, series_id and name")
        return self

    @property
    def what(self) -> dict[str, str]:
        """What is sent, by its names."""
        names = ("draft_id",) if self.kind == "report" else ("study_id", "series_id", "name")
        return {n: getattr(self, n) for n in names}


class Confirmation(BaseModel):
    """Who looked at the difference, and which content it was."""

    model_config = ConfigDict(extra="forbid")
    confirmed_by: str = Field(min_length=2, max_length=128)
    sha256: str = Field(min_length=64, max_length=64)


@router.get("/v1/receivers", operation_id="list_receivers", summary="Where something can be sent, and what")
def list_receivers(outbox: OutboxDep, who: Caller) -> dict[str, list[str]]:
    return outbox.receivers()


@router.post("/v1/outgoing", status_code=201, operation_id="propose_sending", summary="What would be sent, with its difference")
def propose(outbox: OutboxDep, who: Caller, wanted: Proposal) -> Outgoing:
    """Nothing leaves yet. `difference` is against what this receiver got last about the same study."""
    return outbox.propose(wanted.kind, wanted.what, wanted.receiver, who)


@router.get("/v1/outgoing", operation_id="list_outgoing", summary="What leaves, newest first; status=dead: what was given up")
def list_outgoing(
    outbox: OutboxDep, who: Caller, patient_id: Annotated[str | None, Query(max_length=128)] = None,
    status: Literal["proposed", "waiting", "sent", "dead", "declined"] | None = None,
) -> list[Outgoing]:  # fmt: skip
    return outbox.listed(patient_id, status)


@router.get("/v1/outgoing/{name}", operation_id="show_outgoing", summary="One, with its difference")
def show_outgoing(outbox: OutboxDep, who: Caller, name: str) -> Outgoing:
    return outbox.get(name)


@router.post("/v1/outgoing/{name}/confirm", operation_id="confirm_sending", summary="A person wants it sent")
def confirm(outbox: OutboxDep, who: Caller, name: str, confirmed: Confirmation) -> Outgoing:
    """409 where it isn't what they looked at any more. Who confirmed stands in the audit, and in Provenance."""
    return outbox.confirm(name, confirmed.sha256, confirmed.confirmed_by, who)


@router.post("/v1/outgoing/{name}/decline", operation_id="decline_sending", summary="It isn't wanted")
def decline(outbox: OutboxDep, who: Caller, name: str) -> Outgoing:
    return outbox.decline(name, who)


@router.post("/v1/outgoing/{name}/again", operation_id="send_again", summary="Try once more what was given up")
def again(outbox: OutboxDep, who: Caller, name: str) -> Outgoing:
    return outbox.again(name, who)
