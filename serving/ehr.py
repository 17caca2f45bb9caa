"""Reading from an EHR's FHIR server: a patient's resources come into the case, cached and dated. Only servers that the settings name are asked."""

import base64
import json
import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
import jwt

from knowledge.errors import KnowledgeError, Refused
from knowledge.reporting.drafts import Draft
from knowledge.studies.intake import Hints
from knowledge.studies.resources import logical_id
from knowledge.studies.unpack import from_bytes
from serving.access.clients import EhrServer
from serving.api.fhir.shelf import Shelf
from serving.errors import Problem
from serving.house import House
from tools.export import fhir

log = logging.getLogger("consilium.ehr")
SECONDS = 10.0
"""For one request."""
FRESH_S = 900
"""Seconds for which a patient's resources aren't asked for again."""
MOST_PAGES = 20
KINDS = {"Condition": "", "Observation": "&category=laboratory,vital-signs,social-history,survey,exam", "MedicationRequest": "", "AllergyIntolerance": "",
         "Procedure": "", "DiagnosticReport": "", "DocumentReference": "", "FamilyMemberHistory": ""}  # fmt: skip
"""What is asked for, with the parameters beside the patient."""
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class Unreachable(Problem):
    """The EHR can't be reached, or doesn't answer as FHIR has it."""

    def __init__(self, what: str) -> None:
        super().__init__(503, "EhrDown", f"the EHR's server {what}", "see whether it runs, and the settings of ehr_servers")


def _client() -> httpx.Client:
    return httpx.Client(
        timeout=SECONDS, follow_redirects=False, headers={"Accept": "application/fhir+json, application/json"}, trust_env=False
    )


def _json(reply: httpx.Response) -> dict[str, Any]:
    if reply.status_code >= 400:
        raise Unreachable(f"answered {reply.status_code}")
    try:
        told = reply.json()
    except ValueError as error:
        raise Unreachable("answered no JSON") from error
    if not isinstance(told, dict):
        raise Unreachable("answered no JSON object")
    return told


def endpoints(base: str) -> dict[str, str]:
    """The EHR's authorisation and token endpoints. Raises Unreachable."""
    with _reaching(), _client() as client:
        told = _json(client.get(f"{base.rstrip('/')}/.well-known/smart-configuration"))
    found = {k: str(told[k]) for k in ("authorization_endpoint", "token_endpoint") if told.get(k)}
    if "token_endpoint" not in found or any(urlsplit(u).scheme not in ("http", "https") for u in found.values()):
        raise Unreachable("names no SMART endpoints")
    return found


def _assertion(server: EhrServer, audience: str) -> dict[str, str]:
    if server.key is None:
        return {}
    now = int(time.time())
    told = {
        "iss": server.client_id,
        "sub": server.client_id,
        "aud": audience,
        "exp": now + 240,
        "iat": now,
        "jti": uuid.uuid4().hex,
    }
    signed = jwt.encode(told, server.key.read_text(), algorithm=server.algorithm, headers={"kid": server.kid})
    return {"client_assertion_type": JWT_BEARER, "client_assertion": signed}


def launched(house: House, base: str, code: str, verifier: str, redirect_uri: str) -> tuple[str, str]:
    """Exchange a launch's code; the patient (as the archive knows them, with their resources brought in) and the user. Raises Problems."""
    server = house.settings.ehr_servers[base]
    place = endpoints(base)["token_endpoint"]
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "code_verifier": verifier,
        **_assertion(server, place),
    }
    if server.key is None:
        form["client_id"] = server.client_id
    with _reaching(), _client() as client:
        told = _json(client.post(place, data=form))
        if not told.get("access_token") or not told.get("patient"):
            raise Problem(403, "NoPatient", "the EHR gave no patient with the launch", "launch from a patient's chart")
        client.headers["Authorization"] = f"Bearer {told['access_token']}"
        patient = _bring(house, client, base, str(told["patient"]))
    return patient, str(told.get("fhirUser") or told.get("user") or "")[:200]


def refresh(house: House, patient_id: str) -> str | None:
    """Bring a patient's resources in from the EHRs that may be read as a backend service, unless they are fresh; what went wrong, or None."""
    trouble = None
    for base, server in house.settings.ehr_servers.items():
        if not server.backend or house.tokens.look("fetched", _mark(base, patient_id)) is not None:
            continue
        try:
            with _as_service(base, server, server.backend_scopes) as client:
                ids = _patients(client, base, patient_id)
                if len(ids) == 1:
                    _bring(house, client, base, ids[0], patient_id)
            house.tokens.mark("fetched", _mark(base, patient_id), FRESH_S)
        except (Problem, KnowledgeError, OSError, jwt.PyJWTError, KeyError, TypeError) as error:
            log.warning("an EHR couldn't be read: %s", type(error).__name__)
            trouble = f"The record at {urlsplit(base).hostname} couldn't be read now; what was read before is used."
    return trouble


def _mark(base: str, patient_id: str) -> str:
    return f"{base} {patient_id}"


@contextmanager
def _as_service(base: str, server: EhrServer, scopes: str) -> Iterator[httpx.Client]:
    """A client with a token for us as a backend service. Raises Unreachable, also for what fails on the wire within."""
    place = endpoints(base)["token_endpoint"]
    with _reaching(), _client() as client:
        form = {"grant_type": "client_credentials", "scope": scopes, **_assertion(server, place)}
        client.headers["Authorization"] = f"Bearer {_json(client.post(place, data=form)).get('access_token')}"
        yield client


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise Unreachable("can't be reached") from error


def _patients(client: httpx.Client, base: str, identifier: str) -> list[str]:
    """The EHR's ids of the patients with this identifier."""
    found = _json(client.get(f"{base.rstrip('/')}/Patient", params={"identifier": identifier}))
    resources = [e.get("resource") or {} for e in found.get("entry") or [] if isinstance(e, dict)]
    return [str(r["id"]) for r in resources if r.get("resourceType") == "Patient" and r.get("id")]


def _bring(house: House, client: httpx.Client, base: str, own: str, patient_id: str | None = None) -> str:
    """Read a patient (the EHR's id) and their resources into the archive; the archive's id of the patient. Raises Unreachable, Refused."""
    root = base.rstrip("/") + "/"
    if logical_id(own) != own:
        raise Unreachable("named a patient by an id that FHIR doesn't have")
    patient = _json(client.get(urljoin(root, f"Patient/{own}")))
    if patient.get("resourceType") != "Patient" or str(patient.get("id")) != own:
        raise Unreachable("gave another resource than the patient")
    resources: list[dict[str, Any]] = []
    for kind, more in KINDS.items():
        resources += _all_pages(client, root, f"{kind}?patient={own}{more}&_count=200", kind)
    resources = [r for r in resources if _is_of(r, own)]
    values = [str(i.get("value")) for i in patient.get("identifier") or [] if isinstance(i, dict) and i.get("value")]
    owner = patient_id or _known(house, values)
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": r} for r in [patient, *resources]]}
    data = json.dumps(bundle, sort_keys=True).encode()
    done = house.archive.add(
        from_bytes(f"{urlsplit(base).hostname}.json", data), Hints(patient_id=owner), f"EHR {urlsplit(base).hostname}"
    )
    if done.rejected:
        raise Refused(f"the EHR's resources can't be taken: {done.rejected[0].reason}", "see the EHR's data")
    return next(iter(done.patient_ids))


def _known(house: House, values: list[str]) -> str | None:
    known = set(house.archive.patient_ids())
    return next((v for v in values if v in known), None)


def _is_of(resource: dict[str, Any], own: str) -> bool:
    """Only what says that it is this patient's: a server that gives more gets nothing in."""
    for name in ("subject", "patient"):
        told = resource.get(name)
        if isinstance(told, dict) and str(told.get("reference", "")).split("/")[-1] == own:
            return True
    return False


def _all_pages(client: httpx.Client, root: str, query: str, kind: str) -> list[dict[str, Any]]:
    url = urljoin(root, query)
    found: list[dict[str, Any]] = []
    for _ in range(MOST_PAGES):
        reply = client.get(url)
        if reply.status_code in (400, 401, 403, 404):  # the server or our scopes don't have this type
            return found
        page = _json(reply)
        found += [
            r for e in page.get("entry") or [] if isinstance(r := e.get("resource"), dict) and r.get("resourceType") == kind
        ]
        url = next((str(x.get("url")) for x in page.get("link") or [] if x.get("relation") == "next"), "")
        if not url or not url.startswith(root):  # never to another server
            break
    for one in found:
        _attach(client, root, one)
    return found


def _attach(client: httpx.Client, root: str, resource: dict[str, Any]) -> None:
    """Plain texts that stand in a Binary are put in place."""
    attachments = [c.get("attachment") for c in resource.get("content") or [] if isinstance(c, dict)] + list(
        resource.get("presentedForm") or []
    )
    for one in attachments:
        if not isinstance(one, dict) or one.get("data") or not str(one.get("contentType", "")).startswith("text/plain"):
            continue
        url = urljoin(root, str(one.get("url") or ""))
        if url.startswith(root) and url != root:
            reply = client.get(url, headers={"Accept": "text/plain, application/fhir+json"})
            if reply.status_code == 200 and len(reply.content) < 2**21:
                binary = "json" in reply.headers.get("content-type", "")
                one["data"] = str(reply.json().get("data", "")) if binary else base64.b64encode(reply.content).decode()


def write_report(house: House, base: str, draft: Draft, confirmed_by: str) -> None:
    """Put a signed report into an EHR: DiagnosticReport, its Observations and its Provenance in one transaction, once. Raises Problems."""
    server = house.settings.ehr_servers.get(base)
    if server is None or not server.writes or draft.signature is None:
        raise Problem(403, "NotWritten", "nothing is written to this EHR", "set writes in ehr_servers, and sign the report")
    shelf = Shelf(house, "")
    report = shelf.report(draft)
    parts = [shelf.get("Observation", r["reference"].partition("/")[2]) for r in report.get("result") or []]
    scopes = "system/DiagnosticReport.cu system/Observation.cu system/Provenance.cu system/Patient.rs"
    with _as_service(base, server, scopes) as client:
        ids = _patients(client, base, draft.patient_id)
        if len(ids) != 1:
            hint = "see the patient's identifiers there"
            raise Problem(404, "UnknownPatient", f"the EHR knows {len(ids)} patients by this identifier", hint)
        bundle = _written(report, parts, f"Patient/{ids[0]}", draft, confirmed_by)
        _json(client.post(base.rstrip("/"), json=bundle, headers={"Content-Type": "application/fhir+json"}))


def _written(
    report: dict[str, Any], parts: list[dict[str, Any]], subject: str, draft: Draft, confirmed_by: str
) -> dict[str, Any]:
    """A transaction of conditional creates: the same report sent twice is there once."""
    assert draft.signature is not None
    urls = {f"{r['resourceType']}/{r['id']}": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, r['id'])}" for r in [report, *parts]}
    provenance = fhir.provenance(f"DiagnosticReport/{report['id']}", draft.signature.at, fhir.models_of(draft.facts), draft.software, [],
                                 person=draft.signature.name, confirmed=[confirmed_by])  # fmt: skip
    entries = []
    for one in [*parts, report, provenance]:
        own = {"system": "urn:consilium", "value": one["id"]}
        made = {k: v for k, v in one.items() if k not in ("id", "meta", "imagingStudy")}
        made = json.loads(json.dumps(made), object_hook=lambda o: _local(o, urls))
        for node in [made, *made.get("contained", [])]:
            for name in ("subject", "patient"):
                if name in node:
                    node[name] = {"reference": subject}
        if one["resourceType"] != "Provenance":
            made["identifier"] = [own]
        condition = {} if one["resourceType"] == "Provenance" else {"ifNoneExist": f"identifier={own['system']}|{own['value']}"}
        entries.append({"fullUrl": urls.get(f"{one['resourceType']}/{one['id']}", f"urn:uuid:{uuid.uuid4()}"), "resource": made,
                        "request": {"method": "POST", "url": one["resourceType"], **condition}})  # fmt: skip
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


def _local(node: dict[str, Any], urls: dict[str, str]) -> dict[str, Any]:
    """References within the transaction by its own names; those to what the EHR doesn't have by their identifier or words."""
    reference = node.get("reference")
    if isinstance(reference, str) and not reference.startswith("#"):
        if reference in urls:
            return {**node, "reference": urls[reference]}
        return {k: v for k, v in node.items() if k != "reference"} or {"display": "Consilium (research use only)"}
    return node
