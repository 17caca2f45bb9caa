"""Liveness, readiness, metrics."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import text

from serving.api.deps import HouseDep

router = APIRouter(tags=["health"])


@router.get("/livez", operation_id="livez", summary="The process runs")
def livez() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz", operation_id="readyz", summary="Questions can be answered", response_model=None)
def readyz(house: HouseDep) -> JSONResponse:
    with house.archive.engine.connect() as connection:
        connection.execute(text("select 1"))
    kind = house.assistant.planner_ref
    return JSONResponse({"status": "ok", "planner": kind.model_dump(), "research_use": "not a medical device"})


@router.get("/metrics", operation_id="metrics", summary="Prometheus metrics", response_class=Response)
def metrics(request: Request) -> Response:
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)
