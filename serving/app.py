"""create_app(settings): the ASGI application. Nothing happens at import."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CollectorRegistry, Counter, Histogram

from serving import errors, house
from serving.api import conversations, evidence, guidelines, health, openai, studies, tools
from serving.errors import Problem, answered, problem
from serving.settings import Settings

WEB = Path(__file__).parent / "web"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
DESCRIPTION = "A conversational multimodal agent for tumour imaging. Research use only; not a medical device."


def create_app(settings: Settings) -> FastAPI:
    """The application for `settings`; data folders are made when it starts."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        app.state.house = await asyncio.to_thread(house.build, settings)
        async with app.state.house.assistant:
            warming = asyncio.create_task(asyncio.to_thread(app.state.house.warm))
            yield
            await asyncio.wait([warming], timeout=10)

    app = FastAPI(title="Consilium", version="0.1.0", description=DESCRIPTION, lifespan=life, docs_url=None, redoc_url=None)
    app.state.registry = CollectorRegistry()
    _measure(app, settings)
    errors.install(app)
    for module in (health, studies, conversations, evidence, tools, guidelines, openai):
        app.include_router(module.router, responses=errors.DOCUMENTED)

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(WEB / "index.html")

    app.mount("/web", StaticFiles(directory=WEB), name="web")
    return app


def _measure(app: FastAPI, settings: Settings) -> None:
    """Headers, the upload limit, and metrics by route template (never by path: paths hold patient ids)."""
    requests = Counter(
        "consilium_http_requests", "Requests by route and status", ["route", "status"], registry=app.state.registry
    )
    seconds = Histogram("consilium_http_seconds", "Seconds to the response's head", ["route"], registry=app.state.registry)

    @app.middleware("http")
    async def outer(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        started = time.perf_counter()
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > settings.max_upload_mb * 2**20:
            response: Response = answered(
                problem(Problem(413, "TooLarge", f"more than {settings.max_upload_mb} MiB", "send less at once"))
            )
        elif request.headers.get("content-encoding", "identity") != "identity":
            response = answered(problem(Problem(415, "Encoding", "compressed request bodies aren't taken", "send it as it is")))
        else:
            response = await call_next(request)
        response.headers.update(HEADERS)
        route = getattr(request.scope.get("route"), "path", "other")
        requests.labels(route, str(response.status_code)).inc()
        seconds.labels(route).observe(time.perf_counter() - started)
        return response
