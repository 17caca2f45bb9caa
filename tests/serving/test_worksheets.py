"""Worksheets over HTTP: look, change, conflict, refuse; tables for research; evidence that opens side by side."""

import io
from collections.abc import Iterator
from pathlib import Path

import pyarrow.csv as csv
import pyarrow.parquet as parquet
import pytest
from fastapi.testclient import TestClient

from serving.app import create_app
from serving.settings import Settings
from tools.followed import course_of_three


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(data=tmp_path_factory.mktemp("data"), no_auth=True))) as client:
        for number, files in enumerate(course_of_three()):
            done = client.post("/v1/studies", files=[("files", (f"{number}-{n}.dcm", f)) for n, f in enumerate(files)])
            assert done.status_code in (200, 201), done.text
        yield client


@pytest.fixture(scope="module")
def answer(client: TestClient) -> dict:
    made = client.post("/v1/conversations", json={"patient_id": "COURSE"}).json()["id"]
    return client.post(f"/v1/conversations/{made}/messages", json={"text": "Show me the course"}).json()


@pytest.fixture
def sheet(client: TestClient) -> dict:
    made = client.post(
        "/v1/tools/apply_guideline", json={"patient_id": "COURSE", "arguments": {"guideline": "recist_1_1"}}
    ).json()
    assert made["status"] == "ok", made
    newest = client.get("/v1/worksheets", params={"patient_id": "COURSE"}).json()[0]["id"]
    return client.get(f"/v1/worksheets/{newest}").json()


def test_the_course_is_told_with_category_curve_and_worksheet(answer: dict) -> None:
    said = " ".join(s["text"] for s in answer["statements"])
    assert "PD" in said and "nadir on S2" in said and "L5 (lung) is new on S3" in said
    assert not answer["left_out"], "every sentence is carried by its evidence"
    assert next(s["made"]["kind"] for s in answer["plan"] if s.get("made")) == "worksheet"
    curve = next(e for e in answer["evidence"] if e["title"] == "Course of the sum of targets")
    assert [p["note"] for p in curve["course"]["lines"][0]["points"]] == ["Baseline", "PR", "PD"]


def test_evidence_opens_with_the_same_place_on_the_other_studies(client: TestClient, answer: dict) -> None:
    change = next(e for e in answer["evidence"] if e["title"].startswith("Change in diameter S2 to S3"))
    opened = client.get(change["href"]).json()["opened"]
    assert [o["title"].split(" · ")[0] for o in opened["beside"]] == ["S1", "S2"]
    for one in [opened, *opened["beside"]]:
        assert client.get(one["png"]).headers["content-type"] == "image/png"


def test_other_targets_and_the_category_follows(client: TestClient, sheet: dict) -> None:
    kept = sheet["worksheet"]
    assert [p["category"] for p in kept["points"]] == [None, "PR", "PD"]
    one = client.patch(
        f"/v1/worksheets/{kept['id']}",
        json={"version": kept["version"], "roles": {"L5": "ignored", "L1": "non_target", "L3": "non_target"}},
    ).json()
    again = one["worksheet"]
    assert again["version"] == kept["version"] + 1
    assert again["points"][2]["category"] != "PD" or again["points"][2]["total"] < kept["points"][2]["total"]
    assert again["points"][2]["total"] == pytest.approx(
        sum(x["sizes"][2]["short_mm" if x["node"] else "long_mm"] for x in again["lesions"] if x["role"] == "target"), abs=0.1
    )
    assert client.get(f"/v1/worksheets/{kept['id']}", params={"version": kept["version"]}).json()["worksheet"] == kept, (
        "every version is kept"
    )


def test_a_change_from_an_old_version_is_refused(client: TestClient, sheet: dict) -> None:
    name, version = sheet["worksheet"]["id"], sheet["worksheet"]["version"]
    assert (
        client.patch(
            f"/v1/worksheets/{name}", json={"version": version, "answers": {"S3": {"non_target_response": "pd"}}}
        ).status_code
        == 200
    )
    conflict = client.patch(f"/v1/worksheets/{name}", json={"version": version, "roles": {"L1": "ignored"}})
    assert conflict.status_code == 409 and "load it again" in conflict.json()["hint"]


@pytest.mark.parametrize("change", [{"roles": {"L9": "target"}}, {"baseline": "S9"}, {"measure": "volume"}, {"answers": {"S9": {}}},
                                    {"answers": {"S3": {"shoe_size": 43}}}, {"answers": {"S3": {"non_target_response": "maybe"}}}])  # fmt: skip
def test_what_is_not_there_is_refused_with_what_to_do(client: TestClient, sheet: dict, change: dict) -> None:
    answered = client.patch(
        f"/v1/worksheets/{sheet['worksheet']['id']}", json={"version": sheet["worksheet"]["version"], **change}
    )
    assert answered.status_code == 422 and answered.json()["hint"]


def test_a_choice_beyond_the_rules_is_computed_and_named(client: TestClient, sheet: dict) -> None:
    changed = client.patch(
        f"/v1/worksheets/{sheet['worksheet']['id']}", json={"version": sheet["worksheet"]["version"], "roles": {"L5": "target"}}
    ).json()["worksheet"]
    assert any("L5" in n and "isn't measurable" in n for n in changed["notes"])


def test_other_criteria_and_another_baseline_choose_targets_anew(client: TestClient, sheet: dict) -> None:
    kept = sheet["worksheet"]
    rano = client.patch(
        f"/v1/worksheets/{kept['id']}", json={"version": kept["version"], "criteria": "rano_2_0", "measure": "volume"}
    ).json()
    assert rano["unit"] == "mL" and sum(x["role"] == "target" for x in rano["worksheet"]["lesions"]) == 2
    later = client.patch(
        f"/v1/worksheets/{kept['id']}", json={"version": kept["version"] + 1, "criteria": "recist_1_1", "baseline": "S2"}
    ).json()["worksheet"]
    assert (
        later["baseline"] == "S2" and later["points"][0]["text"] == "Before baseline." and later["points"][2]["category"] == "PD"
    )


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_tables_for_research_hold_numbers_and_no_identity(client: TestClient, sheet: dict, answer: dict, form: str) -> None:
    for path in (f"/v1/worksheets/{sheet['worksheet']['id']}/export", "/v1/patients/COURSE/measurements"):
        data = client.get(path, params={"form": form}).content
        table = csv.read_csv(io.BytesIO(data)) if form == "csv" else parquet.read_table(io.BytesIO(data))
        assert table.num_rows > 10 and 182 in table["day"].to_pylist()
        assert b"COURSE" not in data and b"2026-0" not in data


def test_a_lesion_map_leaves_as_dicom_and_is_a_series_of_the_study(client: TestClient, answer: dict) -> None:
    study = next(s for s in client.get("/v1/studies", params={"patient_id": "COURSE"}).json() if s["handle"] == "S3")
    image = next(s for s in study["series"] if s["modality"] == "CT")
    base = f"/v1/studies/{study['id']}/series/{image['id']}/masks"
    name = next(m for m in client.get(base).json() if m.startswith("lesions-"))
    for form in ("seg", "sr", "rtstruct", "ko"):
        assert client.get(f"{base}/{name}/dicom", params={"form": form}).content[128:132] == b"DICM"
    assert client.get(f"{base}/{name}/dicom", params={"form": "sc"}).headers["content-type"] == "application/zip"
    done = client.post(f"{base}/{name}/store", json={"confirmed_by": "A. Reader", "forms": ["seg", "rtstruct"]})
    assert done.status_code == 201, done.text
    after = client.get(f"/v1/studies/{study['id']}").json()
    assert {"SEG", "RTSTRUCT"} <= {s["modality"] for s in after["series"]}


def test_a_deleted_study_takes_its_worksheets_along(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(data=tmp_path, no_auth=True))) as client:
        for number, files in enumerate(course_of_three("GONE")[:2]):
            client.post("/v1/studies", files=[("files", (f"{number}-{n}.dcm", f)) for n, f in enumerate(files)])
        client.post("/v1/tools/apply_guideline", json={"patient_id": "GONE", "arguments": {"guideline": "recist_1_1"}})
        assert client.get("/v1/worksheets", params={"patient_id": "GONE"}).json()
        client.delete(f"/v1/studies/{client.get('/v1/studies', params={'patient_id': 'GONE'}).json()[0]['id']}")
        assert client.get("/v1/worksheets", params={"patient_id": "GONE"}).json() == []
