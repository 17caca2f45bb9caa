"""create_app(settings): the ASGI application. Nothing happens at import."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import errors, house
from serving.api import (
    cds_hooks,
    conversations,
    dicomweb,
    drafts,
    evidence,
    fhir,
    followups,
    guidelines,
    health,
    openai,
    outgoing,
    session,
    smart,
    studies,
    teaching,
    tools,
    viewing,
    worksheets,
)
from serving.door import Door
from serving.errors import Problem, answered, problem
from serving.outgoing import Outbox
from serving.settings import Settings
from serving.subscriptions import Subscriptions

if TYPE_CHECKING:
    from serving.dimse import Node
    from serving.mllp import Listener

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
        outbox = app.state.outbox = Outbox(app.state.house, settings.conversations_url or settings.data / "outgoing.db")
        node = _dicom_node(app.state.house)
        app.state.subscriptions = Subscriptions(app.state.house, outbox)
        if settings.priors_from:
            from serving.priors import Priors

            Priors(app.state.house)
        outbox.start()
        listener = await _listener(app.state.house)
        async with app.state.house.assistant, door.running():
            warming = asyncio.create_task(asyncio.to_thread(app.state.house.warm))
            yield
            await asyncio.wait([warming], timeout=10)
        if node is not None:
            node.stop()
        if listener is not None:
            await listener.stop()
        await asyncio.to_thread(outbox.stop)
        await asyncio.to_thread(app.state.house.close)

    def housed() -> house.House:
        held: house.House = app.state.house
        return held

    door = Door(housed)
    app = FastAPI(title="Consilium", version="0.1.0", description=DESCRIPTION, lifespan=life, docs_url=None, redoc_url=None)
    app.state.registry = CollectorRegistry()
    _measure(app, settings)
    errors.install(app)
    for module in (
        health,
        session,
        studies,
        viewing,
        worksheets,
        conversations,
        drafts,
        followups,
        teaching,
        evidence,
        tools,
        guidelines,
        openai,
        dicomweb,
        smart,
        cds_hooks,
        outgoing,
    ):
        app.include_router(module.router, responses=errors.DOCUMENTED)
    app.include_router(fhir.router)

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(WEB / "index.html")

    app.router.routes.append(Route("/mcp", door, name="mcp", include_in_schema=False))
    app.mount("/web", StaticFiles(directory=WEB), name="web")
    return app


async def _listener(of: house.House) -> "Listener | None":
    """HL7 over MLLP, where the settings name a port."""
    if of.settings.mllp_port is None:
        return None
    from serving.mllp import Listener

    listener = Listener(of.archive, of.settings.mllp_allowed)
    await listener.start(of.settings.host, of.settings.mllp_port)
    return listener


def _dicom_node(of: house.House) -> "Node | None":
    """Our application entity, listening where the settings name a port."""
    if of.settings.dimse_port is None:
        return None
    from serving.dimse import Node, peers_of

    node = Node(of.archive, of.settings.ae_title, peers_of(of.settings.dimse_peers))
    node.committed = lambda transaction, kept, missing: of.archive.note(
        "PACS", "storage commitment", transaction, {"kept": kept, "missing": missing}
    )
    node.start(of.settings.host, of.settings.dimse_port)
    return node


def _measure(app: FastAPI, settings: Settings) -> None:
    """Headers, the upload limit, and metrics by route template (never by path: paths hold patient ids)."""
    requests = Counter(
        "consilium_http_requests", "Requests by route and status", ["route", "status"], registry=app.state.registry
    )
    seconds = Histogram("consilium_http_seconds", "Seconds to the response's head", ["route"], registry=app.state.registry)

    def told(scope: Scope, status: int, started: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        requests.labels(route, str(status)).inc()
        seconds.labels(route).observe(time.perf_counter() - started)

    if settings.allowed_origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.allowed_origins, allow_methods=["GET", "POST", "OPTIONS"],
                           allow_headers=["Authorization", "Content-Type", "Accept"], expose_headers=["Warning"])  # fmt: skip
    app.add_middleware(_Outer, limit=settings.max_upload_mb, told=told)


class _Outer:
    """The outermost layer, plain ASGI: a layer that wraps requests and responses costs a streamed answer milliseconds."""

    def __init__(self, app: ASGIApp, limit: int, told: Callable[[Scope, int, float], None]) -> None:
        self.app, self.limit, self.told = app, limit, told
        self.headers = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
        self.plain = [(k, v) for k, v in self.headers if k != b"content-security-policy"]
        """Of the page that lets an app in: it has a policy of its own, without script and with the form's target."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = self.plain if scope["path"] == "/auth/authorize" else self.headers
                own = {k for k, _ in headers}
                kept = [(k, v) for k, v in message.get("headers", []) if k.lower() not in own]
                message = {**message, "headers": [*kept, *headers]}
                self.told(scope, status, started)
            await send(message)

        refused = self._refused(Headers(scope=scope))
        await (answered(problem(refused)) if refused else self.app)(scope, receive, sending)

    def _refused(self, headers: Headers) -> Problem | None:
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.limit * 2**20:
            return Problem(413, "TooLarge", f"more than {self.limit} MiB", "send less at once")
        if headers.get("content-encoding", "identity") != "identity":
            return Problem(415, "Encoding", "compressed request bodies aren't taken", "send it as it is")
        return None
