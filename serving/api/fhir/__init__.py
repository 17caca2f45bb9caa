"""FHIR R4 (`/fhir`): read and search, create and update, Bundles, `$export`; OperationOutcome on each error."""

import json
from collections.abc import Iterable
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse

from knowledge.errors import NotFound
from serving.access.grants import Grant
from serving.api.deps import Granted, HouseDep, SubscriptionsDep
from serving.api.fhir.bulk import DEFAULT, exports_of
from serving.api.fhir.capability import statement
from serving.api.fhir.common import MEDIA, ROOT, answer, base_of, check_accept
from serving.api.fhir.search import KINDS, searched, span, understood
from serving.api.fhir.shelf import Shelf
from serving.api.fhir.writing import Entry, Writer, checked
from serving.errors import Problem
from serving.house import House

OUTCOME = {"description": "What was wrong", "content": {MEDIA: {"schema": {"type": "object"}}}}
RESOURCE: dict[str, Any] = {"content": {MEDIA: {"schema": {"type": "object"}}}}
router = APIRouter(prefix="/fhir", tags=["fhir"], responses=dict.fromkeys((400, 401, 403, 404, 405, 406, 409, 412, 413, 415, 422, 429, 500), OUTCOME),
                   default_response_class=Response, dependencies=[Depends(check_accept)])  # fmt: skip
MOST_BYTES = 64 * 2**20
Kind = Annotated[str, Path(pattern="^[A-Z][A-Za-z]{2,60}$", description="A resource type.")]
Own = Annotated[str, Path(pattern=r"^[A-Za-z0-9\-.]{1,64}$", description="A logical id.")]


def shelf_of(house: House, request: Request, grant: Grant) -> Shelf:
    """The resources that this caller may see."""
    return Shelf(house, base_of(request), grant, request.app.state.outbox.confirmed)


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise NotFound(f"{kind} isn't given here", "see /fhir/metadata")
    return kind


async def body_of(request: Request) -> Any:
    """The request's JSON. Raises 415 and 400."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (MEDIA, "application/json"):
        raise Problem(415, "MediaType", "resources are taken as JSON", f"send {MEDIA}")
    data = await request.body()
    if len(data) > MOST_BYTES:
        raise Problem(413, "TooLarge", "a request holds up to 64 MiB", "split it")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Problem(400, "BadJson", "it isn't valid JSON", "") from error


@router.get("/metadata", operation_id="fhir_metadata", summary="CapabilityStatement", responses={200: RESOURCE})
async def metadata(house: HouseDep, request: Request) -> Response:
    shelf = Shelf(house, base_of(request))
    root = shelf.base.removesuffix("/fhir")
    return answer(statement(shelf, {"authorize": f"{root}/auth/authorize", "token": f"{root}/auth/token"}, house.started))


@router.post("", operation_id="fhir_bundle", summary="A Bundle: transaction or batch", responses={200: RESOURCE})
@router.post("/", include_in_schema=False)
async def bundle(house: HouseDep, grant: Granted, request: Request) -> Response:
    """A transaction is about one patient and is taken whole or not at all. Each entry needs its own scope."""
    body = await body_of(request)
    writer = Writer(shelf_of(house, request, grant), grant.name)
    return answer(await run_in_threadpool(writer.bundle, body))


# Bulk data


def _exporter(grant: Grant) -> str:
    """Whose an export is: a client that was let in for two patients has two."""
    return f"{grant.name} for {grant.patient}" if grant.patient else grant.name


@router.get("/$export", operation_id="fhir_export", summary="Export everything as NDJSON", status_code=202, responses={202: {"description": "Being made; Content-Location tells where its state is"}})  # fmt: skip
@router.get("/Patient/$export", operation_id="fhir_export_patients", summary="Export all patients as NDJSON", status_code=202, responses={202: {"description": "Being made; Content-Location tells where its state is"}})  # fmt: skip
def export(house: HouseDep, grant: Granted, request: Request) -> Response:
    """`_type`, `_since`, `_outputFormat`; asked for with Prefer: respond-async."""
    if "respond-async" not in request.headers.get("prefer", ""):
        raise Problem(400, "OnlyAsync", "an export is made in the background", "send Prefer: respond-async")
    query = request.query_params
    if query.get("_outputFormat", "ndjson") not in ("ndjson", "application/ndjson", "application/fhir+ndjson"):
        raise Problem(400, "BadParameter", "exports are NDJSON", "_outputFormat=application/fhir+ndjson")
    kinds = tuple(k for k in query.get("_type", "").split(",") if k) or DEFAULT
    if unknown := [k for k in kinds if k not in KINDS]:
        raise Problem(400, "BadParameter", f"{unknown[0][:40]} isn't given here", "see /fhir/metadata")
    for kind in kinds:
        grant.may("read", kind)
    since = query.get("_since")
    if since:
        span(since)
    job = exports_of(house.settings.data / "exports").start(
        shelf_of(house, request, grant), kinds, since, str(request.url), grant.name
    )
    base = base_of(request)
    return Response(None, 202, {"Content-Location": f"{base}/export/{job}"})


@router.get("/export/{job}", operation_id="fhir_export_state", summary="How an export stands", responses={200: {"content": {"application/json": {}}}, 202: {"description": "Being made"}})  # fmt: skip
def export_state(house: HouseDep, grant: Granted, job: str) -> Response:
    manifest = exports_of(house.settings.data / "exports").manifest(job, _exporter(grant))
    if manifest is None:
        return Response(None, 202, {"X-Progress": "being made", "Retry-After": "2"})
    return Response(json.dumps(manifest), 200, media_type="application/json")


@router.delete("/export/{job}", operation_id="fhir_export_delete", summary="Delete an export", status_code=202, responses={202: {"description": "Deleted"}})  # fmt: skip
def export_delete(house: HouseDep, grant: Granted, job: str) -> Response:
    exports_of(house.settings.data / "exports").drop(job, _exporter(grant))
    return Response(None, 202)


@router.get("/export/{job}/{name}", operation_id="fhir_export_file", summary="A file of an export", responses={200: {"content": {"application/fhir+ndjson": {}}}})  # fmt: skip
def export_file(house: HouseDep, grant: Granted, job: str, name: str) -> FileResponse:
    return FileResponse(
        exports_of(house.settings.data / "exports").file(job, name, _exporter(grant)), media_type="application/fhir+ndjson"
    )


# Subscriptions


@router.post(
    "/Subscription", operation_id="fhir_subscribe", summary="Subscribe to a topic", status_code=201, responses={201: RESOURCE}
)
async def subscribe(subscriptions: SubscriptionsDep, grant: Granted, request: Request) -> Response:
    """R4 backport: `criteria` is a topic, the channel a rest-hook to a host that the settings name. A handshake is sent first."""
    grant.may("write", "Subscription")
    body = await body_of(request)
    if not isinstance(body, dict) or body.get("resourceType") != "Subscription" or grant.patient is not None:
        raise Problem(400, "BadResource", "the body is no Subscription", "see /fhir/metadata for the topics")
    made = await run_in_threadpool(subscriptions.create, body, grant.name)
    return answer(made, 201, {"Location": f"{ROOT}/Subscription/{made['id']}"})


@router.get("/Subscription", operation_id="fhir_subscriptions", summary="Every subscription", responses={200: RESOURCE})
def subscriptions_(subscriptions: SubscriptionsDep, grant: Granted) -> Response:
    grant.may("read", "Subscription")
    found = [] if grant.patient is not None else subscriptions.all()
    return answer({"resourceType": "Bundle", "type": "searchset", "total": len(found),
                   **({"entry": [{"resource": r, "search": {"mode": "match"}} for r in found]} if found else {})})  # fmt: skip


@router.get("/Subscription/{own}", operation_id="fhir_subscription", summary="One subscription", responses={200: RESOURCE})
def subscription(subscriptions: SubscriptionsDep, grant: Granted, own: Own) -> Response:
    grant.may("read", "Subscription")
    return answer(subscriptions.get(own))


@router.delete("/Subscription/{own}", operation_id="fhir_unsubscribe", summary="End a subscription", status_code=204, responses={204: {"description": "Ended"}})  # fmt: skip
def unsubscribe(subscriptions: SubscriptionsDep, grant: Granted, own: Own) -> Response:
    grant.may("write", "Subscription")
    subscriptions.delete(own, grant.name)
    return Response(None, 204)


# Resources


def _search(house: House, grant: Grant, request: Request, kind: str, query: Iterable[tuple[str, str]]) -> Response:
    grant.may("read", _known(kind))
    strict = "handling=strict" in request.headers.get("prefer", "")
    return answer(searched(shelf_of(house, request, grant), understood(kind, query, strict)))


@router.get("/{kind}", operation_id="fhir_search", summary="Search a resource type", responses={200: RESOURCE})
def search(house: HouseDep, grant: Granted, request: Request, kind: Kind) -> Response:
    """Parameters as /fhir/metadata lists them, with prefixes, modifiers, chains, `_include`, `_revinclude`, `_sort`, `_count`."""
    return _search(house, grant, request, kind, request.query_params.multi_items())


@router.post(
    "/{kind}/_search", operation_id="fhir_search_by_form", summary="Search with parameters in the body", responses={200: RESOURCE}
)
async def search_by_form(house: HouseDep, grant: Granted, request: Request, kind: Kind) -> Response:
    """For parameters that shouldn't stand in a URL."""
    if "application/x-www-form-urlencoded" not in request.headers.get("content-type", "application/x-www-form-urlencoded"):
        raise Problem(415, "MediaType", "parameters are sent as a form", "application/x-www-form-urlencoded")
    data = (await request.body()).decode("utf-8", "replace")
    query = [*request.query_params.multi_items(), *parse_qsl(data)]
    return await run_in_threadpool(_search, house, grant, request, kind, query)


@router.get("/{kind}/{own}", operation_id="fhir_read", summary="Read a resource", responses={200: RESOURCE, 304: {"description": "As you have it"}})  # fmt: skip
def read(house: HouseDep, grant: Granted, request: Request, kind: Kind, own: Own) -> Response:
    """With its version as ETag where it has one; `If-None-Match` is answered."""
    grant.may("read", _known(kind))
    made = answer(shelf_of(house, request, grant).get(kind, own))
    if made.headers.get("etag") and request.headers.get("if-none-match") == made.headers["etag"]:
        return Response(None, 304, {"ETag": made.headers["etag"]})
    return made


@router.get("/{kind}/{own}/_history/{version}", operation_id="fhir_vread", summary="Read a version: the newest is kept", responses={200: RESOURCE})  # fmt: skip
def vread(house: HouseDep, grant: Granted, request: Request, kind: Kind, own: Own, version: str) -> Response:
    grant.may("read", _known(kind))
    resource = shelf_of(house, request, grant).get(kind, own)
    if version != (resource.get("meta") or {}).get("versionId"):
        raise NotFound("only the newest version is kept", f"read {kind}/{own}")
    return answer(resource)


@router.post(
    "/{kind}", operation_id="fhir_create", summary="Create a resource", status_code=201, responses={200: RESOURCE, 201: RESOURCE}
)
async def create(house: HouseDep, grant: Granted, request: Request, kind: Kind) -> Response:
    """`If-None-Exist` makes it conditional. The same content sent twice is one resource."""
    return await _write(house, grant, request, kind, "")


@router.put("/{kind}/{own}", operation_id="fhir_update", summary="Update a resource, or create it with this id", responses={200: RESOURCE, 201: RESOURCE})  # fmt: skip
async def update(house: HouseDep, grant: Granted, request: Request, kind: Kind, own: Own) -> Response:
    """`If-Match` refuses to write over what was changed meanwhile."""
    return await _write(house, grant, request, kind, own)


async def _write(house: House, grant: Grant, request: Request, kind: str, own: str) -> Response:
    grant.may("write", _known(kind))
    body = await body_of(request)
    if not isinstance(body, dict) or body.get("resourceType") != kind:
        raise Problem(400, "BadResource", f"the body is no {kind}", "its resourceType and the url go together")
    entry = checked(Entry("PUT" if own else "POST", kind, body, "", own, request.headers.get("if-none-exist", ""),
                          request.headers.get("if-match", "")))  # fmt: skip
    shelf = shelf_of(house, request, grant)
    await run_in_threadpool(Writer(shelf, grant.name).write, [entry])
    resource = await run_in_threadpool(shelf.get, kind, entry.own)
    version = (resource.get("meta") or {}).get("versionId")
    place = f"{shelf.base}/{kind}/{entry.own}" + (f"/_history/{version}" if version else "")
    return answer(resource, entry.status, {"Location": place})
