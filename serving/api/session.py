"""What whoever calls may do here: for pages and clients that show no button which would be refused."""

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field

from knowledge.evidence import Frozen
from serving.access.bounds import acts
from serving.access.grants import Grant
from serving.api.deps import Caller, granted

router = APIRouter(tags=["health"])


class Session(Frozen):
    """Rights of a key or a token."""

    patient_id: str | None = Field(description="The one patient whom a token is for; null for keys, which see all.")
    may: list[str] = Field(description="Of add_files, describe, confirm, sign, send: what isn't refused.")


@router.get("/v1/session", operation_id="show_session", summary="What this key or token may do")
def show_session(who: Caller, grant: Annotated[Grant, Depends(granted)]) -> Session:
    return Session(patient_id=grant.patient, may=acts(grant))
