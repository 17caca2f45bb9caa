"""One map from the rooms' errors to HTTP problems (RFC 9457)."""

import logging
import uuid
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match

from agent import errors as agent_errors
from knowledge import errors as knowledge_errors
from knowledge.reporting.drafts import NotSignable
from knowledge.response.scoring import InvalidChange
from knowledge.response.store import Changed
from tools import errors as tool_errors

log = logging.getLogger("consilium")

STATUS: dict[type[Exception], int] = {
    knowledge_errors.Gone: 410, knowledge_errors.NotFound: 404, knowledge_errors.Refused: 422, knowledge_errors.InvalidFacts: 422,
    knowledge_errors.MixedPatients: 409, NotSignable: 409, Changed: 409, InvalidChange: 422, knowledge_errors.NoGeometry: 422, knowledge_errors.StorageFailed: 507,
    knowledge_errors.ServiceDown: 503, knowledge_errors.KnowledgeError: 422,
    agent_errors.QuestionRefused: 422, agent_errors.Busy: 409, agent_errors.Unknown: 404, agent_errors.PlannerDown: 503,
    agent_errors.AgentError: 500, tool_errors.TryAgain: 422, tool_errors.NotApplicable: 422, tool_errors.NeedsApproval: 403,
    tool_errors.ToolError: 500,
}  # fmt: skip


class ProblemBody(BaseModel):
    """A problem object (RFC 9457), with a hint where a person can act."""

    type: str
    title: str
    status: int
    detail: str
    hint: str | None = None


DOCUMENTED: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/problem+json": {"schema": ProblemBody.model_json_schema()}}}
    for status, text in {
        400: "The request can't be read", 401: "A key is needed", 403: "A person has to confirm", 404: "It isn't there",
        405: "Not this method", 406: "It can't be given in any of the accepted types", 409: "It contradicts what is there", 410: "It was deleted", 413: "Too large", 415: "Compressed bodies aren't taken",
        422: "It doesn't fit; detail and hint say why", 500: "Something broke; the detail names the run", 503: "A service is down", 507: "The archive can't be written (full, read-only)",
    }.items()
}  # fmt: skip
"""What every route may answer besides its own."""


class Problem(Exception):
    """A problem that serving itself finds."""

    def __init__(self, status: int, title: str, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.status, self.title, self.detail, self.hint = status, title, detail, hint


class NotTaken(Exception):
    """Another system can't be reached, refuses us, or didn't take what was sent; the text says which, and names no patient."""


def problem(error: Exception) -> dict[str, Any]:
    """`error` as a problem object. What isn't known gets an id to find it by in the log, and no detail."""
    if isinstance(error, Problem):
        return _body(error.status, error.title, error.detail, error.hint)
    for kind, status in STATUS.items():
        if isinstance(error, kind):
            return _body(status, kind.__name__, str(error), getattr(error, "hint", ""))
    run = uuid.uuid4().hex[:12]
    log.error("run %s failed: %s", run, type(error).__name__, exc_info=_place_only(error))
    return _body(500, "InternalError", f"something broke; the log names it as run {run}", "report the run's id")


def _place_only(error: Exception) -> tuple[Any, Any, Any]:
    """Where it broke without what it says: messages may quote patient data."""
    return type(error), type(error)("(message withheld)") if _plain(type(error)) else Exception("withheld"), error.__traceback__


def _plain(kind: type[Exception]) -> bool:
    return kind.__init__ in (Exception.__init__, ValueError.__init__, RuntimeError.__init__, TypeError.__init__)


def _body(status: int, title: str, detail: str, hint: str) -> dict[str, Any]:
    body = {"type": f"urn:consilium:problem:{title}", "title": title, "status": status, "detail": detail}
    return {**body, "hint": hint} if hint else body


def answered(body: dict[str, Any]) -> JSONResponse:
    """The response for a problem object."""
    headers = {"WWW-Authenticate": "Bearer"} if body["status"] == 401 else None
    return JSONResponse(body, body["status"], headers, media_type="application/problem+json")


_ISSUES = {400: "invalid", 401: "login", 403: "forbidden", 404: "not-found", 405: "not-supported", 406: "not-supported", 409: "conflict",
           410: "deleted", 412: "conflict", 413: "too-long", 415: "not-supported", 422: "processing", 429: "throttled", 503: "transient", 507: "no-store"}  # fmt: skip
"""FHIR R4's issue types (code system issue-type) by status."""


def outcome(body: dict[str, Any]) -> dict[str, Any]:
    """A problem as an OperationOutcome."""
    text = ". ".join(t for t in (body["detail"], body.get("hint", "")) if t)
    severity = "fatal" if body["status"] >= 500 else "error"
    issue = {
        "severity": severity,
        "code": _ISSUES.get(body["status"], "exception"),
        "details": {"text": body["title"]},
        "diagnostics": text,
    }
    return {"resourceType": "OperationOutcome", "issue": [issue]}


def told(request: Request, body: dict[str, Any]) -> JSONResponse:
    """The response for a problem object, in the form that the route's standard has."""
    if request.url.path.startswith("/fhir/") or request.url.path == "/fhir":
        headers = {"WWW-Authenticate": "Bearer"} if body["status"] == 401 else None
        return JSONResponse(outcome(body), body["status"], headers, media_type="application/fhir+json")
    return answered(body)


def _methods(request: Request) -> list[str]:
    """Every method that some route of this path takes: each route knows its own alone."""
    found: set[str] = set()
    for route in request.app.routes:
        match, _ = route.matches({**request.scope, "root_path": request.scope.get("root_path", "")})
        if match is not Match.NONE:
            found |= set(getattr(route, "methods", None) or ())
    return sorted(found)


def install(app: FastAPI) -> None:
    """Have every error leave as a problem, or as its route's standard has it."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        return told(request, problem(error))

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        where = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        return told(request, _body(422, "InvalidRequest", where, "see /openapi.json"))

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        response = told(request, _body(error.status_code, "HTTP", str(error.detail), ""))
        response.headers.update(error.headers or {})
        if error.status_code == 405:
            response.headers["Allow"] = ", ".join(_methods(request))
        return response

    kinds: list[type[Exception]] = [Problem, *STATUS, Exception]
    for kind in kinds:
        app.add_exception_handler(kind, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
