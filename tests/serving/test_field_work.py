"""The field's work over HTTP: drafts, checks, follow-ups, teaching; what is signed, deleted, or not there."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from knowledge import sample
from serving.access.keys import KeyRing
from serving.app import create_app
from serving.settings import Settings


@pytest.fixture
def client(data_with_sample: Path, tmp_path: Path) -> Iterator[TestClient]:
    data = tmp_path / "data"
    shutil.copytree(data_with_sample, data)
    with TestClient(create_app(Settings(data=data)), raise_server_exceptions=False) as made:
        made.headers["Authorization"] = f"Bearer {KeyRing(data / 'access').local()}"
        yield made


def made_by(client: TestClient, tool: str, **arguments: object) -> str:
    ran = client.post(f"/v1/tools/{tool}", json={"patient_id": sample.PATIENT_ID, "arguments": arguments}).json()
    assert ran["status"] == "ok", ran
    return ran["made"]["id"]


def test_a_draft_is_edited_signed_exported_and_joins_the_reports(client: TestClient) -> None:
    name = made_by(client, "draft_report")
    assert name in [d["id"] for d in client.get("/v1/drafts", params={"patient_id": sample.PATIENT_ID}).json()]
    draft = client.get(f"/v1/drafts/{name}").json()
    assert draft["status"] == "draft" and "not signed" in draft["banner"] and draft["version"] == 1
    opened = client.get(next(e["href"] for e in draft["evidence"] if e["kind"] == "measurement"))
    assert opened.status_code == 200 and opened.json()["opened"]["png"]
    refused = client.post(f"/v1/drafts/{name}/sign", json={"name": "Dr A. Reader", "version": 1})
    assert refused.status_code == 409 and "still open" in refused.json()["detail"] and refused.json()["hint"]
    words = [{"part": s["part"], "text": s["text"], "evidence": s["evidence"]} for s in draft["sentences"] if s["by"] != "open"]
    lesion = next(w for w in words if "right half" in w["text"])
    lesion["text"] = lesion["text"].replace("right", "left")
    edited = client.put(f"/v1/drafts/{name}", json={"version": 1, "sentences": words}).json()
    (changed,) = [s for s in edited["sentences"] if s["by"] == "reader"]
    assert changed["problems"], "the reader's side isn't the evidence's, and the reader is told"
    assert client.put(f"/v1/drafts/{name}", json={"version": 1, "sentences": words}).status_code == 409
    unknown = client.put(
        f"/v1/drafts/{name}", json={"version": 2, "sentences": [{"part": "FINDINGS", "text": "x", "evidence": ["E99"]}]}
    )
    assert unknown.status_code == 404
    signed = client.post(f"/v1/drafts/{name}/sign", json={"name": "Dr A. Reader", "version": 2}).json()
    assert signed["draft"]["status"] == "signed" and signed["draft"]["signature"]["name"] == "Dr A. Reader"
    assert "Signed by Dr A. Reader" in client.get(f"/v1/reports/{signed['report_id']}").json()["text"]
    assert client.delete(f"/v1/drafts/{name}").status_code == 409
    for form, media in (
        ("text", "text/plain"),
        ("pdf", "application/pdf"),
        ("docx", "application/vnd"),
        ("fhir", "application/fhir+json"),
    ):
        got = client.get(f"/v1/drafts/{name}/export", params={"form": form})
        assert (
            got.status_code == 200
            and got.headers["content-type"].startswith(media)
            and "signed-" in got.headers["content-disposition"]
        )
    assert client.get(f"/v1/drafts/{name}/export", params={"form": "sr"}).status_code == 422, "the sample isn't DICOM"
    assert client.get(f"/v1/drafts/{name}", params={"version": 1}).json()["status"] == "draft"


def test_what_derives_from_a_study_goes_with_it(client: TestClient) -> None:
    name, check = made_by(client, "draft_report"), made_by(client, "check_report", text="FINDINGS: No mass.")
    study = client.get("/v1/studies", params={"patient_id": sample.PATIENT_ID}).json()[0]["id"]
    assert client.delete(f"/v1/studies/{study}").status_code == 204
    assert client.get(f"/v1/drafts/{name}").status_code == 404 and client.get(f"/v1/checks/{check}").status_code == 404


def test_an_unsigned_draft_can_be_thrown_away(client: TestClient) -> None:
    name = made_by(client, "draft_report", template="tumour_board")
    assert client.delete(f"/v1/drafts/{name}").status_code == 204
    assert client.get(f"/v1/drafts/{name}").status_code == 404


def test_a_checked_report_opens_at_its_points(client: TestClient) -> None:
    text = "FINDINGS: No mass.\nIMPRESSION: Normal. 35-year-old."
    name = made_by(client, "check_report", text=text)
    shown = client.get(f"/v1/checks/{name}").json()
    assert shown["text"] == text and {"contradiction", "patient"} <= {i["kind"] for i in shown["issues"]}
    first = shown["issues"][0]
    evidence = next(e for e in shown["evidence"] if e["id"] == first["evidence"][0])
    assert client.get(evidence["href"]).json()["opened"]["span"] == text[first["start"] : first["end"]]
    assert client.get("/v1/checks/k_none").status_code == 404


def test_overdue_follow_ups_of_the_archive(client: TestClient) -> None:
    text = b"DATE: 2025-01-10\nIMPRESSION: Liver lesion. MRI of the liver in 3 months is recommended."
    client.post("/v1/studies", files={"files": ("mr.txt", text)}, data={"patient_id": "OTHER"}).raise_for_status()
    page = client.get("/v1/follow-ups", params={"as_of": "2025-12-01"}).json()
    assert [(f["patient_id"], f["due"], f["status"]) for f in page["follow_ups"]] == [("OTHER", "2025-04-11", "overdue")]
    assert page["total"] == 1 and page["next"] is None
    assert client.get("/v1/follow-ups", params={"as_of": "2025-02-01"}).json()["total"] == 0
    assert client.get("/v1/patients/OTHER/follow-ups", params={"as_of": "2025-02-01"}).json()[0]["status"] == "due"


def test_teaching_items_hide_their_answers(client: TestClient) -> None:
    items = client.get("/v1/quiz/items").json()
    assert len(items) >= 20 and all(set(i) == {"key", "level", "topic", "ask", "picture"} for i in items)
    shown = client.get(next(i["picture"] for i in items if i["picture"]))
    assert shown.status_code == 200 and shown.headers["content-type"].startswith("image/")
    assert client.get("/v1/quiz/items/nothing/picture").status_code == 404
    ran = client.post("/v1/tools/education_quiz", json={"arguments": {"topic": "thyroid", "learner": "Robin"}}).json()
    client.post("/v1/tools/education_quiz", json={"arguments": {"session": ran["made"]["id"], "answer": "TR4"}})
    assert client.get("/v1/quiz/progress", params={"learner": "Robin"}).json()["scores"]["tirads"] < 0.6


def test_templates_are_listed(client: TestClient) -> None:
    names = {t["name"] for t in client.get("/v1/report-templates").json()}
    assert {"brain_tumour_mri", "chest_ct_nodule", "liver", "breast_us", "prostate_mri", "tumour_board"} <= names
