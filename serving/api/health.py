"""Liveness, readiness, metrics."""

import httpx
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
    told = {"status": "ok", "planner": kind.model_dump(), "research_use": "not a medical device"}
    if house.settings.llm_url:  # its failure doesn't make us unready: the built-in planner takes over and says so
        told["language_model"] = _served(house.settings.llm_url)
    return JSONResponse(told)


def _served(url: str) -> str:
    """Whether the language model's server answers now."""
    try:
        status = httpx.get(f"{url.rstrip('/')}/models", timeout=2, trust_env=False).status_code
    except httpx.HTTPError:
        return "doesn't answer"
    return "answers" if status < 500 else "fails"


@router.get("/metrics", operation_id="metrics", summary="Prometheus metrics", response_class=Response)
def metrics(request: Request) -> Response:
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)
