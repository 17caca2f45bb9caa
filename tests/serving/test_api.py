"""The HTTP interface: contract shapes, errors as problems, access as a matrix, nobody's name anywhere."""

import gzip
import io
import itertools
import json
import logging
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from agent.testing import dicom_series
from knowledge import sample
from serving.access.keys import KeyRing
from serving.app import create_app
from serving.settings import Settings
from tests.questions import SIZE

CANARY = "Zebulon^Quarkmann"
OPEN_ROUTES = {"/livez", "/readyz", "/metrics", "/fhir/metadata", "/fhir/.well-known/smart-configuration", "/cds-services"}
ASKING = {"/auth/authorize": (400,), "/auth/token": (400,), "/launch": (422,), "/launch/callback": (422,)}
"""Where others begin, who have no key yet: what they send is refused, and nothing of a patient is told."""


@pytest.fixture
def client(app: FastAPI, settings: Settings) -> Iterator[TestClient]:
    key = KeyRing(settings.data / "access").local()
    with TestClient(app, headers={"Authorization": f"Bearer {key}"}, raise_server_exceptions=False) as made:
        yield made


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(data=tmp_path / "data", no_auth=True)), raise_server_exceptions=False) as made:
        yield made


def conversation(client: TestClient) -> str:
    reply = client.post("/v1/conversations", json={"patient_id": sample.PATIENT_ID})
    assert reply.status_code == 201
    return str(reply.json()["id"])


def test_every_route_wants_a_key(client: TestClient, app: FastAPI) -> None:
    routes = [(m, r) for r in _routes(app) for m in r.methods - {"HEAD", "OPTIONS"} if r.include_in_schema]
    assert len(routes) > 25
    for method, route in routes:
        path = re.sub(r"{[^}]+}", "x", route.path)
        for headers in ({"Authorization": ""}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic abc"}):
            reply = client.request(method, path, headers=headers)
            assert reply.status_code in ((200,) if route.path in OPEN_ROUTES else ASKING.get(route.path, (401,))), (method, path)


def _routes(app: FastAPI) -> list[APIRoute]:
    found: list[APIRoute] = []
    stack = list(app.routes)
    while stack:
        route = stack.pop()
        if isinstance(route, APIRoute):
            found.append(route)
        for name in ("routes", "original_router"):
            inner = getattr(route, name, None)
            stack += list(getattr(inner, "routes", inner) or []) if inner is not None else []
    return found


def test_the_key_is_kept_and_made_once(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    secret = ring.local()
    assert ring.local() == secret and ring.admits(secret) == "local"
    assert secret not in (tmp_path / "keys.json").read_text()
    assert (tmp_path / "local.key").stat().st_mode & 0o077 == 0
    other = ring.create("clinic")
    assert ring.revoke("clinic") and ring.admits(other) is None


def test_no_auth_stays_on_loopback() -> None:
    with pytest.raises(ValueError, match="loopback"):
        Settings(host="0.0.0.0", no_auth=True)


def test_an_answer_and_its_evidence_open(client: TestClient) -> None:
    reply = client.post(f"/v1/conversations/{conversation(client)}/messages", json={"text": SIZE})
    answer = reply.json()
    assert reply.status_code == 200 and set(answer) >= {"id", "conversation_id", "text", "statements", "evidence", "plan", "missing",
                                                        "conflicts", "left_out", "abstained", "provenance"}  # fmt: skip
    volume = next(e for e in answer["evidence"] if e["title"] == "Volume")
    opened = client.get(volume["href"]).json()["opened"]
    assert client.get(opened["png"]).content.startswith(b"\x89PNG")
    mask = nib.Nifti1Image.from_bytes(gzip.decompress(client.get(volume["source"]["mask"]).content))
    source = client.get(f"/v1/studies/{opened['study_id']}/series/{opened['series_id']}/volume.nii.gz")
    grid = nib.Nifti1Image.from_bytes(gzip.decompress(source.content))
    assert mask.shape == grid.shape and np.allclose(mask.affine, grid.affine)
    assert float((mask.get_fdata() > 0).sum()) / 1000 == pytest.approx(volume["value"], abs=0.06)


@pytest.mark.parametrize(
    ("question", "key"),
    [
        ("What did the last report say about the left ventricle?", "report"),
        ("What is the creatinine?", "record"),
        ("What do guidelines recommend after surgery?", "passage"),
        ("Is her kidney function good enough for gadolinium?", "rule"),
    ],
)
def test_each_kind_of_evidence_opens(client: TestClient, question: str, key: str) -> None:
    answer = client.post(f"/v1/conversations/{conversation(client)}/messages", json={"text": question}).json()
    opened = [client.get(e["href"]).json()["opened"] for e in answer["evidence"]]
    assert any(o.get(key) for o in opened)


def test_the_stream_ends_with_the_answer_and_numbers_its_events(client: TestClient) -> None:
    path = f"/v1/conversations/{conversation(client)}/messages"
    with client.stream("POST", path, json={"text": SIZE}, headers={"Accept": "text/event-stream"}) as reply:
        lines = [x for x in reply.iter_lines() if x]
    names = [x[7:] for x in lines if x.startswith("event: ")]
    ids = [int(x[4:]) for x in lines if x.startswith("id: ")]
    assert names[-1] == "answer" and ids == list(range(1, len(ids) + 1))
    assert {"plan", "tool.started", "tool.finished", "evidence", "text.delta"} <= set(names)


def test_a_client_that_comes_back_misses_no_event(client: TestClient) -> None:
    path = f"/v1/conversations/{conversation(client)}/messages"
    accept = {"Accept": "text/event-stream"}

    def heard(**headers: str) -> list[tuple[str, str]]:
        with client.stream("POST", path, json={"text": SIZE}, headers={**accept, **headers}) as reply:
            lines = [x for x in reply.iter_lines() if x]
        return [(x, y) for x, y in itertools.pairwise(lines) if x.startswith("id: ") and y.startswith("event: ")]

    whole = heard()
    assert heard(**{"Last-Event-ID": "5"}) == whole[5:]
    messages = client.get(path.removesuffix("/messages")).json()["messages"]
    assert len(messages) == 1


def test_a_stream_that_fails_says_so(client: TestClient) -> None:
    path = f"/v1/conversations/{conversation(client)}/messages"
    with client.stream("POST", path, json={"text": "x" * 20_000}, headers={"Accept": "text/event-stream"}) as reply:
        lines = [x for x in reply.iter_lines() if x.startswith(("event", "data"))]
    assert lines[0] == "event: error" and json.loads(lines[1][6:])["status"] == 422


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/studies/none", None, 404),
        ("GET", "/v1/evidence/none", None, 404),
        ("GET", "/v1/conversations/none", None, 404),
        ("GET", "/v1/tools/none", None, 404),
        ("GET", "/nowhere", None, 404),
        ("POST", "/v1/conversations", {"patient_id": "none"}, 404),
        ("POST", "/v1/conversations", {"unknown": 1}, 422),
        ("POST", "/v1/conversations/none/messages", {"text": "x"}, 404),
        ("POST", "/v1/tools/measure", {"arguments": {"study": "S9"}, "patient_id": sample.PATIENT_ID}, 422),
        ("POST", "/v1/tools/apply_guideline", {"arguments": {"guideline": "none"}}, 422),
        ("GET", "/v1/guidelines/search", None, 422),
    ],
)
def test_errors_are_problems(client: TestClient, method: str, path: str, body: object, status: int) -> None:
    reply = client.request(method, path, json=body)
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail"} <= set(reply.json())


def test_a_question_too_long_is_a_clear_error(client: TestClient) -> None:
    reply = client.post(f"/v1/conversations/{conversation(client)}/messages", json={"text": "x" * 20_000})
    assert reply.status_code == 422 and "8000" in reply.json()["detail"] and reply.json()["hint"]


def test_bad_uploads_are_named(empty: TestClient) -> None:
    reply = empty.post("/v1/studies", files=[("files", ("a.dcm", b"junk"))])
    assert reply.status_code == 422 and "a.dcm" in reply.json()["detail"]
    good = dicom_series(np.ones((8, 8, 1), np.uint16), np.eye(4))[0]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("in/a.dcm", good)
        archive.writestr("../out.dcm", good)
    reply = empty.post("/v1/studies", files=[("files", ("a.zip", packed.getvalue()))])
    assert reply.status_code == 201 and len(reply.json()["studies"]) == 1 and len(reply.json()["rejected"]) == 1
    assert empty.post("/v1/studies", files=[("files", ("a.zip", packed.getvalue()))]).json()["studies"] == reply.json()["studies"]
    study = reply.json()["studies"][0]
    assert empty.delete(f"/v1/studies/{study['id']}").status_code == 204
    assert empty.get(f"/v1/studies/{study['id']}").status_code == 404


def test_two_patients_are_a_conflict(empty: TestClient) -> None:
    ids = []
    for name in ("A", "B"):
        files = dicom_series(np.ones((8, 8, 1), np.uint16), np.eye(4), patient_id=name)
        ids.append(empty.post("/v1/studies", files=[("files", ("a.dcm", files[0]))]).json()["studies"][0]["id"])
    assert empty.post("/v1/conversations", json={"study_ids": ids}).status_code == 409


def test_a_tool_runs_by_itself(client: TestClient) -> None:
    body = {"patient_id": sample.PATIENT_ID, "arguments": {}}
    ran = client.post("/v1/tools/measure", json=body).json()
    assert ran["status"] == "ok" and {e["unit"] for e in ran["evidence"]} == {"mL", "mm", "mm2"}
    assert client.get(ran["evidence"][0]["href"]).status_code == 200
    facts = {"guideline": "gbm_mgmt_stupp", "facts": {"age_years": 58, "kps": 90}}
    ran = client.post("/v1/tools/apply_guideline", json={"arguments": facts}).json()
    assert ran["evidence"][0]["value"]["category"] == "60 Gy/30 + TMZ"
    assert client.post("/v1/tools/segment", json={"arguments": {}}).json()["status"] == "not_applicable"


def test_feedback_export_timeline_and_list(client: TestClient) -> None:
    cid = conversation(client)
    mid = client.post(f"/v1/conversations/{cid}/messages", json={"text": "What is the creatinine?"}).json()["id"]
    assert client.post(f"/v1/conversations/{cid}/messages/{mid}/feedback", json={"rating": "up"}).status_code == 204
    assert "71 µmol/L" in client.get(f"/v1/conversations/{cid}/export?format=md").text
    kinds = {e["kind"] for e in client.get(f"/v1/patients/{sample.PATIENT_ID}/timeline").json()}
    assert kinds == {"study", "report", "record"}
    assert cid in [c["id"] for c in client.get("/v1/conversations").json()]
    assert client.delete(f"/v1/conversations/{cid}").status_code == 204


def test_a_planted_name_shows_up_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    app = create_app(Settings(data=tmp_path / "data", no_auth=True))
    files = dicom_series(np.ones((8, 8, 3), np.uint16), np.eye(4), patient_id="MRN-4711", name=CANARY)
    broken = files[0][:-60]
    with TestClient(app, raise_server_exceptions=False) as client:
        texts = [client.post("/v1/studies", files=[("files", (f"{i}.dcm", f)) for i, f in enumerate(files)]).text]
        texts.append(client.post("/v1/studies", files=[("files", ("x.dcm", broken))]).text)
        cid = client.post("/v1/conversations", json={"patient_id": "MRN-4711"}).json()["id"]
        for text in ("Who is this patient?", "What do you see on this MRI?", "What is the slice thickness?"):
            texts.append(client.post(f"/v1/conversations/{cid}/messages", json={"text": text}).text)
        texts.append(client.get("/metrics").text)
    everything = " ".join(texts) + caplog.text
    assert "Zebulon" not in everything and "Quarkmann" not in everything
    assert "MRN-4711" not in caplog.text + texts[-1] + " ".join(texts[2:5])


def test_the_openai_client_works_unchanged(client: TestClient) -> None:
    from openai import OpenAI

    chat = OpenAI(base_url="http://testserver/v1", api_key=client.headers["authorization"][7:], http_client=client)
    assert [m.id for m in chat.models.list()] == ["consilium"]
    metadata = {"patient_id": sample.PATIENT_ID}
    messages = [{"role": "user", "content": SIZE}]
    whole = chat.chat.completions.create(model="consilium", messages=messages, metadata=metadata)
    assert "mL" in whole.choices[0].message.content
    messages += [{"role": "assistant", "content": "…"}, {"role": "user", "content": "and in cm?"}]
    stream = chat.chat.completions.create(model="consilium", messages=messages, metadata=metadata, stream=True)
    chunks = list(stream)
    assert "cm³" in "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert chunks[-1].usage is not None and chunks[-1].choices == []
    title = chat.chat.completions.create(model="consilium", messages=[{"role": "user", "content": "### Task: make a title"}])
    assert title.choices[0].message.content == "Consilium"


def test_an_openai_error_has_its_own_form(client: TestClient) -> None:
    reply = client.post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": "x"}], "metadata": {"patient_id": "no"}}
    )
    assert reply.status_code == 404 and set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_the_page_is_closed_to_other_hosts(client: TestClient) -> None:
    reply = client.get("/")
    assert reply.status_code == 200 and "not a medical device" in client.get("/web/words/en.js").text.lower()
    policy = reply.headers["content-security-policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy
    for file in Path("serving/web").rglob("*"):
        if file.is_file() and "vendor" not in file.parts:
            assert not re.search(r"https?://(?!www\.w3\.org)", file.read_text()), file


def test_compressed_bodies_are_not_taken(client: TestClient) -> None:
    assert client.post("/v1/conversations", content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"}).status_code == 415


@pytest.fixture
def writing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A tool that writes, offered beside those of the box; what it wrote."""
    from tests.others import WriteNote
    from tools import registry

    WriteNote.written.clear()
    types = {**registry.tool_types(), "write_note": WriteNote}
    for place in ("tools.registry.tool_types",):
        monkeypatch.setattr(place, lambda: types)
    return WriteNote.written


def test_nothing_is_written_before_a_person_lets_it(client: TestClient, writing: list[str]) -> None:
    arguments = {"arguments": {"text": "call the ward"}, "patient_id": sample.PATIENT_ID}
    refused = client.post("/v1/tools/write_note", json=arguments)
    assert refused.json()["status"] == "refused" and "confirmed" in refused.json()["text"] and not writing
    done = client.post("/v1/tools/write_note", json={**arguments, "confirmed": True})
    assert done.json()["status"] == "ok" and writing == ["call the ward"]


def test_an_answer_that_waits_is_confirmed_or_let_go(client: TestClient, writing: list[str]) -> None:
    made = conversation(client)
    waiting = client.post(f"/v1/conversations/{made}/messages", json={"text": "Add a note to the record"}).json()
    assert not writing
    nothing = client.post(f"/v1/conversations/{conversation(client)}/messages/current/confirm", json={"approve": True})
    assert nothing.status_code == 404 and nothing.json()["hint"]
    assert [p["tool"] for p in waiting["confirm"]] == ["write_note"], waiting["text"]
    declined = client.post(f"/v1/conversations/{made}/messages/current/confirm", json={"approve": False}).json()
    assert declined["plan"][0]["status"] == "refused" and not writing


def test_a_clicked_place_reaches_the_tool(client: TestClient) -> None:
    made = conversation(client)
    asked = {"text": "How big is the lesion here?", "at": {"series": "S1.1", "point": [120, 100, 80]}}
    answer = client.post(f"/v1/conversations/{made}/messages", json=asked).json()
    assert any(s["arguments"].get("at") == [120, 100, 80] for s in answer["plan"])
    assert (
        client.post(
            f"/v1/conversations/{made}/messages", json={**asked, "at": {"series": "../x", "point": [1, 2, 3]}}
        ).status_code
        == 422
    )
