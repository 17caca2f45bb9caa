"""SMART: an app with PKCE, a backend service with a signed assertion, a launch of our page from an EHR; each held to what it was let in for.

The EHR of these tests is another server of ours: its /fhir and its tokens are the real ones.
"""

import base64
import hashlib
import html
import json
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi.testclient import TestClient

from serving.access.clients import EhrServer, SmartClient
from serving.access.grants import Grant, allows
from serving.access.keys import KeyRing
from serving.app import create_app
from serving.settings import Settings
from tests.serving.browser import browsing, free_port, needs_chromium, running
from tests.serving.test_dicomweb import series, stored
from tests.serving.test_fhir import transaction

APP = "http://127.0.0.1:9/back"
VERIFIER = "v" * 64
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()


def key_pair(folder: Path) -> tuple[Path, Path]:
    """A private key (PEM) and the public one as jwks."""
    key = ec.generate_private_key(ec.SECP384R1())
    pem, jwks = folder / "key.pem", folder / "jwks.json"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    jwks.write_text(json.dumps({"keys": [{**public, "kid": "consilium", "alg": "ES384"}]}))
    return pem, jwks


@dataclass
class Place:
    """A server with two patients (P1 with a study, and MRN 7/1), a registered app and a registered service."""

    client: TestClient
    key: str
    pem: Path

    @property
    def auth(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def asked(self, **change: Any) -> dict[str, str]:
        return {"response_type": "code", "client_id": "growth", "redirect_uri": APP, "scope": "launch/patient patient/*.rs", "state": "s1",
                "aud": "http://testserver/fhir", "code_challenge": CHALLENGE, "code_challenge_method": "S256"} | change  # fmt: skip

    def code(self, **change: Any) -> str:
        form = {**self.asked(), "key": self.key, "patient": "P1", "decision": "allow", **change}
        reply = self.client.post("/auth/authorize", data=form, follow_redirects=False)
        assert reply.status_code == 303, reply.text
        told = parse_qs(urlsplit(reply.headers["location"]).query)
        assert told["state"] == ["s1"]
        return told.get("code", told.get("error", [""]))[0]

    def token(self, **change: Any) -> Any:
        form = {
            "grant_type": "authorization_code",
            "code": self.code(),
            "redirect_uri": APP,
            "client_id": "growth",
            "code_verifier": VERIFIER,
            **change,
        }
        return self.client.post("/auth/token", data=form)

    def assertion(self, **change: Any) -> str:
        now = int(time.time())
        told = {
            "iss": "warehouse",
            "sub": "warehouse",
            "aud": "http://testserver/auth/token",
            "exp": now + 240,
            "jti": uuid.uuid4().hex,
        } | change
        return jwt.encode(
            {k: v for k, v in told.items() if v is not None},
            self.pem.read_text(),
            algorithm="ES384",
            headers={"kid": "consilium"},
        )

    def service(self, assertion: str, scope: str = "system/*.rs") -> Any:
        form = {"grant_type": "client_credentials", "scope": scope, "client_assertion": assertion,
                "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}  # fmt: skip
        return self.client.post("/auth/token", data=form)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    pem, jwks = key_pair(tmp_path)
    clients = {"growth": SmartClient(redirect_uris=[APP], scopes=["launch", "launch/patient", "patient/*.rs", "consilium/chat"]),
               "warehouse": SmartClient(jwks=jwks, scopes=["system/*.rs"])}  # fmt: skip
    settings = Settings(data=tmp_path / "data", smart_clients=clients)
    key = KeyRing(settings.data / "access").local()
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        client.headers["authorization"] = f"Bearer {key}"
        assert stored(client, series("P1")).status_code == 200
        assert client.post("/fhir", json=transaction()).status_code == 200
        del client.headers["authorization"]
        yield Place(client, key, pem)


def test_configuration(place: Place) -> None:
    told = place.client.get("/fhir/.well-known/smart-configuration").json()
    assert told["code_challenge_methods_supported"] == ["S256"] and "launch-ehr" in told["capabilities"]
    services = place.client.get("/fhir/metadata").json()["rest"][0]["security"]["service"]
    assert services[0]["coding"][0]["code"] == "SMART-on-FHIR"


def test_an_app_gets_one_patient(place: Place) -> None:
    page = place.client.get("/auth/authorize", params=place.asked())
    assert (
        page.status_code == 200
        and "growth" in page.text
        and "form-action 'self' http://127.0.0.1:9" in page.headers["content-security-policy"]
    )
    told = place.token().json()
    assert told["patient"] == "P1" and told["token_type"] == "Bearer" and told["expires_in"] <= 3600
    auth = {"authorization": f"Bearer {told['access_token']}"}
    get = place.client.get
    assert get("/fhir/Patient/P1", headers=auth).status_code == 200
    everyone = get("/fhir/Patient", headers=auth).json()
    assert [e["resource"]["id"] for e in everyone["entry"]] == ["P1"]
    assert get("/fhir/Observation", headers=auth).json()["total"] == 0  # that of the other patient isn't seen
    other = get("/fhir/Patient", headers=place.auth).json()["entry"]
    strange = next(e["resource"]["id"] for e in other if e["resource"]["id"] != "P1")
    assert get(f"/fhir/Patient/{strange}", headers=auth).status_code == 404
    assert get(f"/fhir/Observation?patient={strange}", headers=auth).json()["total"] == 0
    assert get("/fhir/AuditEvent", headers=auth).json()["total"] == 0
    refused = place.client.post("/fhir", json=transaction(), headers=auth)
    assert refused.status_code == 403 and refused.json()["resourceType"] == "OperationOutcome"
    for path in ("/v1/studies", "/dicom-web/studies", "/v1/audit", "/v1/models"):
        assert get(path, headers=auth).status_code == 403, path
    assert place.client.post("/auth/revoke", headers=auth).status_code == 204
    assert get("/fhir/Patient/P1", headers=auth).status_code == 401


def test_a_token_reads_and_writes_its_types_alone(place: Place) -> None:
    grants = {n: Grant(n, None, (f"system/{n}",)) for n in ("Observation.rs", "Observation.cu")}
    tokens = {n: place.client.app.state.house.tokens.token(g, 60) for n, g in grants.items()}  # type: ignore[attr-defined]
    reads, writes = ({"authorization": f"Bearer {t}"} for t in tokens.values())
    found = place.client.get("/fhir/Observation?_include=Observation:subject", headers=reads).json()
    assert [e["resource"]["resourceType"] for e in found["entry"]] == ["Observation"]  # the patient isn't brought along
    assert place.client.get("/fhir/Observation?subject:Patient.gender=male", headers=reads).json()["total"] == 0
    assert place.client.get("/fhir/Patient", headers=reads).status_code == 403
    assert place.client.post("/fhir", json=transaction(7.0), headers=writes).status_code == 403  # it brings a Patient
    batch = {
        "resourceType": "Bundle",
        "type": "batch",
        "entry": [{"request": {"method": "GET", "url": u}} for u in ("Patient", "Observation")],
    }
    told = place.client.post("/fhir", json=batch, headers=reads).json()
    assert [e["response"]["status"] for e in told["entry"]] == ["403", "200 OK"]


def test_a_code_is_good_once_and_for_its_app(place: Place) -> None:
    code = place.code()
    for form, error in (({"code_verifier": "x" * 64}, "invalid_grant"), ({"redirect_uri": "http://127.0.0.1:9/x"}, "invalid_grant"),
                        ({"client_id": "warehouse"}, "invalid_grant"), ({"code": "nothing"}, "invalid_grant"), ({"grant_type": "password"}, "unsupported_grant_type")):  # fmt: skip
        told = place.token(**form)
        assert told.status_code == 400 and told.json()["error"] == error, form
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": APP,
        "client_id": "growth",
        "code_verifier": VERIFIER,
    }
    assert place.client.post("/auth/token", data=form).status_code == 200
    assert place.client.post("/auth/token", data=form).json()["error"] == "invalid_grant"


@pytest.mark.parametrize(("change", "error"), [
    ({"response_type": "token"}, "unsupported_response_type"), ({"aud": "https://other/fhir"}, "invalid_request"),
    ({"code_challenge_method": "plain"}, "invalid_request"), ({"code_challenge": ""}, "invalid_request"), ({"scope": "system/*.rs"}, "invalid_scope"),
    ({"scope": "patient/*.cruds"}, "invalid_scope"), ({"launch": "nothing"}, "invalid_request"), ({"decision": "deny"}, "access_denied"),
])  # fmt: skip
def test_what_an_app_cannot_have(place: Place, change: dict[str, str], error: str) -> None:
    assert place.code(**change) == error


def test_an_app_that_is_not_registered(place: Place) -> None:
    for change in ({"client_id": "<script>"}, {"redirect_uri": "https://evil.example/"}):
        page = place.client.get("/auth/authorize", params=place.asked(**change), follow_redirects=False)
        assert page.status_code == 400 and "location" not in page.headers and "<script>" not in page.text
    wrong = place.client.post("/auth/authorize", data={**place.asked(), "key": "ck_wrong", "patient": "P1", "decision": "allow"})
    assert wrong.status_code == 403 and "known" in wrong.text
    nobody = place.client.post("/auth/authorize", data={**place.asked(), "key": place.key, "patient": "P9", "decision": "allow"})
    assert nobody.status_code == 404


def test_an_ehr_launches_an_app(place: Place) -> None:
    made = place.client.post("/auth/launch", json={"patient_id": "P1"}, headers=place.auth).json()
    code = place.code(launch=made["launch"], patient="", scope="launch patient/*.rs")
    assert place.token(code=code).json()["patient"] == "P1"
    assert place.code(launch=made["launch"], scope="launch patient/*.rs") == "invalid_request"  # once


def test_a_backend_service(place: Place) -> None:
    told = place.service(place.assertion()).json()
    assert told["expires_in"] <= 300 and told["scope"] == "system/*.rs"
    auth = {"authorization": f"Bearer {told['access_token']}"}
    assert place.client.get("/fhir/Patient", headers=auth).json()["total"] == 2
    assert place.client.get("/fhir/$export", headers={**auth, "Prefer": "respond-async"}).status_code == 202
    assert place.client.post("/fhir", json=transaction(), headers=auth).status_code == 403
    again = place.assertion()
    assert place.service(again).status_code == 200
    replayed = place.service(again)
    assert replayed.status_code == 401 and "used before" in replayed.json()["error_description"]


def test_assertions_that_are_not_taken(place: Place) -> None:
    now = int(time.time())
    hmac = jwt.encode(
        {"iss": "warehouse", "sub": "warehouse", "jti": "1", "exp": now + 60},
        "x" * 64,
        algorithm="HS384",
        headers={"kid": "consilium"},
    )
    none = jwt.encode(
        {"iss": "warehouse", "sub": "warehouse", "jti": "1", "exp": now + 60}, "", algorithm="none", headers={"kid": "consilium"}
    )
    for assertion in (hmac, none, "nonsense", place.assertion(exp=now - 60), place.assertion(exp=now + 3600), place.assertion(aud="https://other"),
                      place.assertion(iss="growth"), place.assertion(sub="growth", iss="growth"), place.assertion(jti=None)):  # fmt: skip
        told = place.service(assertion)
        assert told.status_code == 401 and told.json()["error"] == "invalid_client", told.text
    assert place.service(place.assertion(), "system/*.cruds").json()["error"] == "invalid_scope"


def test_scopes() -> None:
    assert allows(("patient/*.rs",), "read", "Observation") and not allows(("patient/*.rs",), "write", "Observation")
    assert allows(("system/Observation.cu",), "write", "Observation") and not allows(
        ("system/Observation.cu",), "write", "Condition"
    )
    assert allows(("user/*.*",), "write", "Patient") and allows(("user/Patient.read",), "read", "Patient")
    assert not allows(("patient/Observation.rs?category=laboratory", "openid"), "read", "Observation")


# Launched by an EHR


@dataclass
class Pair:
    """An EHR, and the server that it launches."""

    ehr: str
    ehr_key: str
    ours: str
    our_key: str
    our_app: Any


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pem, jwks = key_pair(tmp_path)
    ports = free_port(), free_port()
    ehr, ours = (f"http://127.0.0.1:{p}" for p in ports)
    client = SmartClient(
        redirect_uris=[f"{ours}/launch/callback"],
        jwks=jwks,
        scopes=["launch", "openid", "fhirUser", "patient/*.rs", "system/*.rs"],
    )
    theirs = Settings(data=tmp_path / "ehr", smart_clients={"consilium": client})
    mine = Settings(data=tmp_path / "ours", ehr_servers={f"{ehr}/fhir": EhrServer(client_id="consilium", key=pem, backend=True)})
    app = create_app(mine)
    with running(create_app(theirs), ports[0]), running(app, ports[1]):
        key = KeyRing(theirs.data / "access").local()
        with httpx.Client(headers={"authorization": f"Bearer {key}"}) as session:
            for number in ("A", "B"):
                bundle = transaction(1.2, identifier=[{"system": "urn:hospital", "value": number}])
                bundle["entry"][0]["request"].pop("ifNoneExist")
                assert session.post(f"{ehr}/fhir", json=bundle).status_code == 200
        yield Pair(ehr, key, ours, KeyRing(mine.data / "access").local(), app)


def launched(pair: Pair, patient: str) -> str:
    """The link that the page opens with."""
    with httpx.Client() as session:
        auth = {"authorization": f"Bearer {pair.ehr_key}"}
        launch = session.post(f"{pair.ehr}/auth/launch", json={"patient_id": patient}, headers=auth).json()["launch"]
        begun = session.get(f"{pair.ours}/launch", params={"iss": f"{pair.ehr}/fhir", "launch": launch})
        assert begun.status_code == 303, begun.text
        page = session.get(begun.headers["location"])
        form = {k: html.unescape(v) for k, v in re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', page.text)}
        back = session.post(f"{pair.ehr}/auth/authorize", data={**form, "key": pair.ehr_key, "decision": "allow"})
        assert back.headers["location"].startswith(f"{pair.ours}/launch/callback?code="), back.text
        done = session.get(back.headers["location"])
        assert done.status_code == 303, done.text
        again = session.get(back.headers["location"])
        assert again.status_code == 400  # a state is good once
        return f"{pair.ours}{done.headers['location']}"


def test_launch_opens_one_patient_and_no_other(pair: Pair) -> None:
    link = launched(pair, "A")
    told = parse_qs(urlsplit(link).fragment)
    assert told["patient"] == ["A"]
    house = pair.our_app.state.house
    assert [i.name for i in house.archive.items("A")] == ["Creatinine"]  # the record came with the launch
    with httpx.Client(headers={"authorization": f"Bearer {told['key'][0]}"}, base_url=pair.ours) as session:
        assert session.get("/v1/patients").json() == ["A"]
        assert session.get("/v1/session").json() == {"patient_id": "A", "may": []}
        assert session.get("/v1/worksheets?patient_id=A").json() == []
        opened = session.post("/v1/conversations", json={"patient_id": "A"})
        assert opened.status_code == 201 and opened.json()["notes"] == []
        answer = session.post(
            f"/v1/conversations/{opened.json()['id']}/messages", json={"text": "What is her creatinine?"}, timeout=60
        ).json()
        assert "1.2" in answer["text"]
        pinned = session.put(f"/v1/conversations/{opened.json()['id']}/tools", json={"only": ["patient_record"]})
        assert pinned.status_code == 200, pinned.text
        launched(pair, "B")
        house.archive.patient("B")
        other = house.assistant.open("B").id
        for method, path, body in (
            ("POST", "/v1/conversations", {"patient_id": "B"}), ("GET", "/v1/patients/B/timeline", None), ("GET", f"/v1/conversations/{other}", None),
            ("POST", f"/v1/conversations/{other}/messages", {"text": "?"}), ("POST", "/v1/tools/patient_record", {"patient_id": "B", "arguments": {}}),
            ("GET", "/v1/drafts?patient_id=B", None), ("GET", "/v1/worksheets?patient_id=B", None), ("GET", "/v1/patients/B/measurements", None),
            ("PUT", f"/v1/conversations/{other}/tools", {"only": []}), ("DELETE", f"/v1/conversations/{other}", None), ("GET", "/v1/conversations?patient_id=B", None),
        ):  # fmt: skip
            assert session.request(method, path, json=body).status_code == 404, path
        own = opened.json()["id"]
        for path, body, kind in (  # another patient smuggled in beside one's own, or under another name of JSON
            ("/v1/conversations?patient_id=A", {"patient_id": "B"}, "application/x+json"), (f"/v1/conversations/{other}/messages?conversation_id={own}", {"text": "?"}, "application/json"),
            (f"/v1/conversations/{other}/branch", {"before": "x", "conversation_id": own}, "application/json"), ("/v1/tools/patient_record?patient_id=A", {"patient_id": "B", "arguments": {}}, ""),
            ("/v1/conversations", {"study_ids": [house.archive.studies("B")[0].id] if house.archive.studies("B") else ["x"], "patient_id": "A"}, "application/json"),
        ):  # fmt: skip
            sent = session.post(path, content=json.dumps(body), headers={"content-type": kind} if kind else {})
            assert sent.status_code in (404, 422), (path, sent.text)
            assert "B" not in sent.text
        for method, path in (("GET", "/v1/audit"), ("GET", "/v1/follow-ups"), ("GET", "/v1/conversations"),  ("POST", "/v1/chat/completions"),
                             ("POST", "/v1/conversations")):  # fmt: skip
            body = {"model": "consilium", "messages": []} if "chat" in path else {}
            assert session.request(method, path, json=body).status_code in (401, 403, 422), path
        assert session.get("/fhir/Patient").json()["total"] == 1


def test_ehr_is_read_when_a_conversation_starts(pair: Pair) -> None:
    house = pair.our_app.state.house
    with httpx.Client(headers={"authorization": f"Bearer {pair.our_key}"}, base_url=pair.ours, timeout=30) as session:
        stored(session, series("A"))  # type: ignore[arg-type]
        assert house.archive.items("A") == []
        opened = session.post("/v1/conversations", json={"patient_id": "A"}).json()
        assert opened["notes"] == [] and [i.value for i in house.archive.items("A")] == [1.2]
        before = house.archive.audit()[0].number
        session.post("/v1/conversations", json={"patient_id": "A"})
        assert house.archive.audit()[0].number == before  # fresh: not read again


def test_ehr_that_is_down(tmp_path: Path) -> None:
    pem, _ = key_pair(tmp_path)
    settings = Settings(
        data=tmp_path / "d",
        no_auth=True,
        ehr_servers={"http://127.0.0.1:9/fhir": EhrServer(client_id="x", key=pem, backend=True)},
    )
    with TestClient(create_app(settings)) as client:
        assert stored(client, series("P1")).status_code == 200
        opened = client.post("/v1/conversations", json={"patient_id": "P1"})
        assert opened.status_code == 201 and "couldn't be read now" in opened.json()["notes"][0]
        assert client.get("/launch?iss=http://127.0.0.1:9/fhir&launch=1", follow_redirects=False).status_code == 503
        assert client.get("/launch?iss=http://evil.example/fhir&launch=1", follow_redirects=False).status_code == 403


@needs_chromium
async def test_page_opens_on_the_launched_patient(pair: Pair, tmp_path: Path) -> None:
    async with browsing(launched(pair, "A"), patient=None, allowed=("404",)) as page:
        from playwright.async_api import expect

        await expect(page.locator("#question")).to_be_visible(timeout=20_000)
        assert "key=" not in page.url
        options = page.locator("select option", has_text="A")
        assert (
            "B" not in [t.strip() for t in await page.locator("select option").all_inner_texts()] and await options.count() >= 0
        )
        await expect(page.locator("#read-only")).to_contain_text("need a key")
        await expect(page.locator("#pick")).to_have_count(0)
        await expect(page.locator(".starters button").last).to_have_text("What is in the record?")
        await page.screenshot(path=tmp_path / "launched.png")
        await page.fill("#question", "What is the creatinine?")
        await page.keyboard.press("Enter")
        await expect(page.locator("article")).to_contain_text("1.2 mg/dL", timeout=30_000)
