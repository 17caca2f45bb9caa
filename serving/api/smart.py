"""SMART App Launch 2.2, both sides of it: others' apps and services get tokens for `/fhir` here; and an EHR launches our page on its patient."""

import base64
import hashlib
import html
import secrets
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import jwt
from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

from knowledge.errors import NotFound
from serving import ehr
from serving.access.assertions import ALGORITHMS, Assertions
from serving.access.bounds import CHAT
from serving.access.clients import SmartClient
from serving.access.grants import Grant, is_resource_scope, within
from serving.api.deps import Caller, Granted, HouseDep, root_of
from serving.errors import Problem
from serving.house import House

router = APIRouter(tags=["smart"])
CODE_S, APP_S, SERVICE_S, LAUNCH_S, SESSION_S = 60, 3600, 300, 300, 8 * 3600
"""Seconds that a code, an app's token, a backend service's token (at most 300, Bulk Data Access 2.0), a launch, and a launched page hold."""
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
OTHER_SCOPES = ("launch", "launch/patient", "openid", "fhirUser", CHAT)
CAPABILITIES = ["launch-ehr", "launch-standalone", "client-public", "client-confidential-asymmetric", "context-ehr-patient",
                "context-standalone-patient", "permission-patient", "permission-user", "permission-v1", "permission-v2"]  # fmt: skip


_PAGES: dict[int | str, dict[str, Any]] = {
    **{s: {"description": "A page that says why", "content": {"text/html": {}}} for s in (400, 403, 404)},
    303: {"description": "Back to the app"},
}
_OAUTH: dict[int | str, dict[str, Any]] = {
    s: {"description": "An OAuth 2.0 error", "content": {"application/json": {"schema": {"type": "object"}}}} for s in (400, 401)
}


@router.get(
    "/fhir/.well-known/smart-configuration", operation_id="smart_configuration", summary="SMART's endpoints and what they can do"
)
def configuration(house: HouseDep, request: Request) -> JSONResponse:
    root = root_of(request)
    return JSONResponse({
        "authorization_endpoint": f"{root}/auth/authorize", "token_endpoint": f"{root}/auth/token",
        "token_endpoint_auth_methods_supported": ["private_key_jwt"], "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
        "grant_types_supported": ["authorization_code", "client_credentials"], "response_types_supported": ["code"],
        "code_challenge_methods_supported": ["S256"], "scopes_supported": [*OTHER_SCOPES, "patient/*.rs", "user/*.cruds", "system/*.cruds"],
        "capabilities": CAPABILITIES,
    }, headers={"Cache-Control": "max-age=300"})  # fmt: skip


# Apps of others: authorise, then a token


class LaunchRequest(BaseModel):
    """The patient whom an app is to be launched on."""

    model_config = ConfigDict(extra="forbid")
    patient_id: str = Field(min_length=1, max_length=128)


@router.post(
    "/auth/launch", status_code=201, operation_id="smart_launch", summary="A launch on a patient, for an EHR that starts an app"
)
def launch_context(house: HouseDep, who: Caller, wanted: LaunchRequest) -> dict[str, Any]:
    """The app hands `launch` back when it asks to be authorised; it holds for five minutes and once."""
    house.archive.patient(wanted.patient_id)
    return {"launch": house.tokens.give("launch", {"patient": wanted.patient_id, "by": who}, LAUNCH_S), "expires_in": LAUNCH_S}


@router.get(
    "/auth/authorize",
    operation_id="smart_authorize",
    summary="Ask a person to let an app in",
    response_class=HTMLResponse,
    responses=_PAGES,
)
async def authorize(house: HouseDep, request: Request) -> Response:
    """A page that names the app and what it asks for; the person shows a key and agrees or declines."""
    asked = dict(request.query_params)
    refused = _refused(house, request, asked)
    if refused is not None:
        return refused
    return _consent(asked, "")


@router.post(
    "/auth/authorize",
    operation_id="smart_decide",
    summary="What the person decided",
    response_class=HTMLResponse,
    responses=_PAGES,
)
async def decide(house: HouseDep, request: Request) -> Response:
    """Back to the app with a code, or with access_denied."""
    form = dict(parse_qsl((await request.body()).decode("utf-8", "replace"), keep_blank_values=True))
    asked = {k: v for k, v in form.items() if k not in ("key", "patient", "decision")}
    refused = _refused(house, request, asked)
    if refused is not None:
        return refused
    if form.get("decision") != "allow":
        return _back(asked, {"error": "access_denied"})
    name = "anyone on loopback" if house.settings.no_auth else await run_in_threadpool(house.keys.admits, form.get("key", ""))
    if name is None:
        return _consent(asked, "That key isn't known.", 403)
    scopes = _granted(house.settings.smart_clients[asked["client_id"]], asked["scope"])
    patient: str | None = None
    if asked.get("launch"):
        launched = await run_in_threadpool(house.tokens.take, "launch", asked["launch"])
        if launched is None:
            return _back(asked, {"error": "invalid_request", "error_description": "the launch is over"})
        patient = launched["patient"]
    elif "launch/patient" in scopes or any(s.startswith("patient/") for s in scopes):
        try:
            patient = (await run_in_threadpool(house.archive.patient, form.get("patient", ""))).id
        except NotFound:
            return _consent(asked, "There is no such patient.", 404)
    data = {"client": asked["client_id"], "redirect_uri": asked["redirect_uri"], "challenge": asked["code_challenge"], "scopes": scopes,
            "patient": patient, "user": name}  # fmt: skip
    code = await run_in_threadpool(house.tokens.give, "code", data, CODE_S)
    await run_in_threadpool(house.archive.note, name, "let an app in", asked["client_id"], {"scopes": " ".join(scopes)})
    return _back(asked, {"code": code})


def _refused(house: House, request: Request, asked: dict[str, str]) -> Response | None:
    """Why the request can't go on: told on a page where the app can't be trusted with an answer, else to the app."""
    client = house.settings.smart_clients.get(asked.get("client_id", ""))
    if client is None or asked.get("redirect_uri", "") not in client.redirect_uris:
        return _page(
            "<h1>This app isn't registered here</h1><p>Its client_id or redirect_uri isn't in smart_clients of the settings.</p>",
            400,
        )
    error = {}
    if asked.get("response_type") != "code":
        error = {"error": "unsupported_response_type"}
    elif asked.get("aud", "").rstrip("/") != f"{root_of(request)}/fhir":
        error = {"error": "invalid_request", "error_description": "aud isn't this server's /fhir"}
    elif asked.get("code_challenge_method") != "S256" or len(asked.get("code_challenge", "")) != 43:
        error = {"error": "invalid_request", "error_description": "PKCE with S256 is needed"}
    elif not asked.get("state"):
        error = {"error": "invalid_request", "error_description": "state is needed"}
    elif not _granted(client, asked.get("scope", "")):
        error = {"error": "invalid_scope"}
    elif asked.get("launch") and house.tokens.look("launch", asked["launch"]) is None:
        error = {"error": "invalid_request", "error_description": "the launch is over"}
    return _back(asked, error) if error else None


def _granted(client: SmartClient, asked: str) -> list[str]:
    """The asked scopes that this client may have: those in its registration, or within one that is. The first in order, each once."""
    known = [s for s in dict.fromkeys(asked.split()) if s in OTHER_SCOPES or is_resource_scope(s)]
    return [s for s in known if s in client.scopes or any(within(s, c) for c in client.scopes)]


def _back(asked: dict[str, str], told: dict[str, str]) -> Response:
    join = "&" if "?" in asked["redirect_uri"] else "?"
    state = {"state": asked["state"]} if asked.get("state") else {}
    return RedirectResponse(f"{asked['redirect_uri']}{join}{urlencode({**told, **state})}", 303)


def _consent(asked: dict[str, str], trouble: str, status: int = 200) -> Response:
    hidden = "".join(f'<input type="hidden" name="{html.escape(k)}" value="{html.escape(v)}">' for k, v in asked.items())
    patient = "" if asked.get("launch") else '<p><label>Patient (PatientID) <input name="patient" autocomplete="off"></label></p>'
    scopes = "".join(f"<li>{html.escape(s)}</li>" for s in asked.get("scope", "").split())
    words = f"<p role='alert'>{html.escape(trouble)}</p>" if trouble else ""
    made = f"""<h1>Let an app in?</h1>{words}<p><strong>{html.escape(asked["client_id"])}</strong> asks for:</p><ul>{scopes}</ul>
<form method="post" action="/auth/authorize">{hidden}{patient}<p><label>Your key <input type="password" name="key" autocomplete="off"></label></p>
<p><button name="decision" value="allow">Allow</button> <button name="decision" value="deny">Decline</button></p></form>
<p>Research use only; not a medical device.</p>"""
    parts = urlsplit(asked["redirect_uri"])
    return _page(made, status, f"'self' {parts.scheme}://{parts.netloc}")


def _page(body: str, status: int, actions: str = "'none'") -> Response:
    policy = f"default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action {actions}"
    page = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Consilium</title><link rel='stylesheet' href='/web/plain.css'><main>{body}</main></html>"
    return HTMLResponse(page, status, {"Content-Security-Policy": policy, "Cache-Control": "no-store"})


# Tokens


@router.post(
    "/auth/token",
    operation_id="smart_token",
    summary="A token for a code (PKCE), or for a signed assertion (backend services)",
    responses=_OAUTH,
)
async def token(house: HouseDep, request: Request) -> JSONResponse:
    """Errors as OAuth 2.0 has them (RFC 6749 5.2)."""
    if "application/x-www-form-urlencoded" not in request.headers.get("content-type", ""):
        return _oauth("invalid_request", "send a form (application/x-www-form-urlencoded)")
    form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
    kind = form.get("grant_type")
    if kind == "authorization_code":
        return await run_in_threadpool(_by_code, house, request, form)
    if kind == "client_credentials":
        return await run_in_threadpool(_by_assertion, house, request, form)
    return _oauth("unsupported_grant_type", "authorization_code or client_credentials")


def _oauth(error: str, words: str, status: int = 400) -> JSONResponse:
    return JSONResponse({"error": error, "error_description": words}, status, {"Cache-Control": "no-store"})


def _given(house: House, grant: Grant, seconds: int, **more: Any) -> JSONResponse:
    told = {
        "access_token": house.tokens.token(grant, seconds),
        "token_type": "Bearer",
        "expires_in": seconds,
        "scope": " ".join(grant.scopes or ()),
    }
    return JSONResponse({**told, **more}, 200, {"Cache-Control": "no-store", "Pragma": "no-cache"})


def _by_code(house: House, request: Request, form: dict[str, str]) -> JSONResponse:
    data = house.tokens.take("code", form.get("code", ""))
    if data is None:
        return _oauth("invalid_grant", "the code isn't known, is over, or was used")
    verifier = form.get("code_verifier", "")
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    client = house.settings.smart_clients.get(data["client"])
    if (
        not secrets.compare_digest(challenge, data["challenge"])
        or form.get("redirect_uri") != data["redirect_uri"]
        or client is None
    ):
        return _oauth("invalid_grant", "the code was given for another app")
    if client.jwks is not None:
        try:
            _asserted(house, request, form, data["client"])
        except (jwt.PyJWTError, OSError, ValueError, KeyError) as error:
            return _oauth("invalid_client", str(error)[:200], 401)
    elif form.get("client_id") != data["client"]:
        return _oauth("invalid_grant", "the code was given for another app")
    from knowledge.studies.resources import logical_id

    more = {"patient": logical_id(data["patient"]), "need_patient_banner": True} if data["patient"] else {}
    # A token with patient scopes is held to its patient, whatever else it may.
    grant = Grant(f"{data['client']} (SMART)", data["patient"], tuple(data["scopes"]), data["user"])
    return _given(house, grant, APP_S, **more)


def _by_assertion(house: House, request: Request, form: dict[str, str]) -> JSONResponse:
    if form.get("client_assertion_type") != ASSERTION:
        return _oauth("invalid_request", f"client_assertion_type is {ASSERTION}")
    try:
        name = _asserted(house, request, form, None)
    except (jwt.PyJWTError, OSError, ValueError, KeyError) as error:
        return _oauth("invalid_client", str(error)[:200], 401)
    scopes = [s for s in _granted(house.settings.smart_clients[name], form.get("scope", "")) if s.startswith("system/")]
    if not scopes:
        return _oauth("invalid_scope", "ask for system/ scopes that the client is registered with")
    return _given(house, Grant(f"{name} (backend service)", None, tuple(scopes)), SERVICE_S)


def _asserted(house: House, request: Request, form: dict[str, str], expected: str | None) -> str:
    """The client that signed the assertion. Raises what `Assertions.issuer` does."""
    known = {n: c.jwks for n, c in house.settings.smart_clients.items() if c.jwks is not None and expected in (None, n)}
    return Assertions(known, house.tokens).issuer(
        form.get("client_assertion", ""), f"{root_of(request)}/auth/token", subject=True
    )


@router.post("/auth/revoke", status_code=204, operation_id="smart_revoke", summary="Let the caller's own token hold no longer")
def revoke(house: HouseDep, grant: Granted, request: Request) -> None:
    house.tokens.revoke(request.headers["authorization"].partition(" ")[2].strip())


# Launched by an EHR


@router.get(
    "/launch",
    operation_id="launch",
    summary="An EHR launches our page on its patient",
    response_class=RedirectResponse,
    status_code=303,
)
async def launch(
    house: HouseDep, request: Request, iss: Annotated[str, Query(max_length=500)], launch: Annotated[str, Query(max_length=2000)]
) -> Response:
    """Only EHRs of the settings (`ehr_servers`): others are turned away. Goes to the EHR's own sign-in, and comes back to /launch/callback."""
    known = _ehr(house, iss)
    verifier = secrets.token_urlsafe(48)
    state = await run_in_threadpool(house.tokens.give, "state", {"iss": known, "verifier": verifier}, LAUNCH_S)
    place = await run_in_threadpool(ehr.endpoints, known)
    server = house.settings.ehr_servers[known]
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = {"response_type": "code", "client_id": server.client_id, "redirect_uri": f"{root_of(request)}/launch/callback", "scope": server.scopes,
             "state": state, "aud": known, "launch": launch, "code_challenge": challenge, "code_challenge_method": "S256"}  # fmt: skip
    return RedirectResponse(f"{place['authorization_endpoint']}?{urlencode(query)}", 303)


def _ehr(house: House, iss: str) -> str:
    known = next((u for u in house.settings.ehr_servers if u.rstrip("/") == iss.rstrip("/")), None)
    if known is None:
        raise Problem(403, "UnknownEHR", "this EHR isn't in the settings", "add it to ehr_servers")
    return known


@router.get(
    "/launch/callback",
    operation_id="launch_callback",
    summary="Back from the EHR's sign-in",
    response_class=RedirectResponse,
    status_code=303,
)
async def callback(
    house: HouseDep, request: Request, state: Annotated[str, Query(max_length=200)], code: Annotated[str, Query(max_length=4000)] = "",
    error: Annotated[str, Query(max_length=200)] = "",
) -> Response:  # fmt: skip
    """Brings the patient's resources into the case, and opens the page on that patient with a token that is held to them."""
    begun = await run_in_threadpool(house.tokens.take, "state", state)
    if begun is None:
        raise Problem(400, "LaunchOver", "the launch isn't known or is over", "launch again from the EHR")
    if error or not code:
        raise Problem(403, "Declined", "the EHR didn't let us in", "launch again from the EHR")
    patient, user = await run_in_threadpool(
        ehr.launched, house, begun["iss"], code, begun["verifier"], f"{root_of(request)}/launch/callback"
    )
    grant = Grant(f"launched from {urlsplit(begun['iss']).hostname}", patient, (CHAT, "patient/*.rs"), user)
    session = await run_in_threadpool(house.tokens.token, grant, SESSION_S)
    return RedirectResponse(f"/#{urlencode({'key': session, 'patient': patient})}", 303, {"Cache-Control": "no-store"})
