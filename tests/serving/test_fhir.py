"""FHIR R4: what is given and how it is found, what is taken and when it is refused, export in bulk."""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from knowledge.sample import FOLDER
from serving.app import create_app
from serving.settings import Settings
from tests.serving.test_dicomweb import series, stored

PATIENT = "SAMPLE-GLIOMA"
UCUM = "http://unitsofmeasure.org"


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(data=tmp_path / "data", no_auth=True)), raise_server_exceptions=False) as made:
        yield made


@pytest.fixture(scope="module")
def house(data_with_sample: Path) -> Iterator[TestClient]:
    """The sample case, one answer and one signed draft."""
    with TestClient(create_app(Settings(data=data_with_sample, no_auth=True)), raise_server_exceptions=False) as made:
        opened = made.post("/v1/conversations", json={"patient_id": PATIENT}).json()["id"]
        answer = made.post(f"/v1/conversations/{opened}/messages", json={"text": "How big is the tumour?"})
        assert answer.status_code == 200
        drafted = made.post("/v1/tools/draft_report", json={"patient_id": PATIENT, "arguments": {}}).json()
        assert drafted["status"] == "ok"
        yield made


def get(client: TestClient, path: str, status: int = 200, **headers: str) -> Any:
    reply = client.get(f"/fhir/{path}", headers=headers)
    assert reply.status_code == status, reply.text[:600]
    assert reply.headers["content-type"].startswith("application/fhir+json")
    return reply.json()


def entries(client: TestClient, path: str, mode: str = "match") -> list[dict[str, Any]]:
    return [e["resource"] for e in get(client, path).get("entry", []) if e["search"]["mode"] == mode]


def issue(told: Any) -> Any:
    assert told["resourceType"] == "OperationOutcome"
    return told["issue"][0]


# Given


def test_statement(empty: TestClient) -> None:
    told = get(empty, "metadata")
    listed = {r["type"]: r for r in told["rest"][0]["resource"]}
    assert told["fhirVersion"] == "4.0.1" and {"Patient", "ImagingStudy", "DiagnosticReport", "Observation", "AuditEvent"} <= set(
        listed
    )
    assert "Provenance:target" in listed["Observation"]["searchRevInclude"]
    for kind, one in listed.items():  # what it says can be searched by can be
        for parameter in one.get("searchParam", []):
            value = {"date": "2026", "quantity": "1", "uri": "x"}.get(parameter["type"], "x")
            get(empty, f"{kind}?{parameter['name']}={value}", Prefer="handling=strict")


def test_measurements(house: TestClient) -> None:
    measured = entries(house, f"Observation?patient={PATIENT}&category=imaging&_count=200")
    longest = next(o for o in measured if o["code"]["text"] == "Longest axial diameter")
    assert longest["valueQuantity"]["code"] == "mm" and longest["valueQuantity"]["system"] == UCUM
    assert longest["status"] == "preliminary" and longest["subject"]["reference"] == f"Patient/{PATIENT}"
    assert longest["bodySite"]["coding"][0]["code"] == "12738006"  # SNOMED CT: brain
    study = get(house, longest["derivedFrom"][0]["reference"])
    assert longest["derivedFrom"][1]["identifier"]["value"].removeprefix("urn:oid:") in {s["uid"] for s in study["series"]}
    size = next(o for o in measured if o["code"].get("coding", [{}])[0].get("code") == "21889-1")
    assert [c["code"]["coding"][0]["code"] for c in size["component"]] == ["33728-7", "33729-5"]
    assert size["component"][0]["valueQuantity"]["value"] == longest["valueQuantity"]["value"]
    assert size["focus"][0]["reference"] == "#focus" and size["contained"][0]["patient"]
    assert get(house, f"Observation/{longest['id']}") == longest


def test_side_of_what_was_measured(house: TestClient) -> None:
    measured = entries(house, f"Observation?patient={PATIENT}&category=imaging&_count=200")
    sides = {q["text"] for o in measured for c in o.get("contained", []) for q in c.get("locationQualifier", [])}
    assert sides and sides <= {"left", "right"}


def test_where_it_comes_from(house: TestClient) -> None:
    found = get(house, f"Observation?patient={PATIENT}&category=imaging&_revinclude=Provenance:target&_count=200")
    made = [e["resource"] for e in found["entry"] if e["search"]["mode"] == "include"]
    assert any(p.get("reason", [{}])[0].get("text") == "How big is the tumour?" for p in made)
    assert all(p["agent"][0]["who"]["reference"] == "Device/consilium" and p["entity"] for p in made)
    assert get(house, "Device/consilium")["deviceName"][0]["name"].endswith("(research use only)")


def test_report_until_signed(house: TestClient) -> None:
    drafted = entries(house, f"DiagnosticReport?patient={PATIENT}&_sort=-issued")[0]
    assert drafted["status"] == "preliminary" and drafted["presentedForm"][0]["contentType"] == "application/pdf"
    assert base64.b64decode(drafted["presentedForm"][0]["data"]).startswith(b"%PDF") and drafted["text"]["div"]
    for result in drafted["result"]:
        assert get(house, result["reference"])["status"] == "preliminary"
    assert get(house, drafted["imagingStudy"][0]["reference"])["resourceType"] == "ImagingStudy"
    assert entries(house, f"DiagnosticReport?subject:Patient.identifier={PATIENT}&status=preliminary")
    found = get(house, f"DiagnosticReport?patient={PATIENT}&_include=DiagnosticReport:result&_include=DiagnosticReport:subject")
    kinds = {e["resource"]["resourceType"] for e in found["entry"] if e["search"]["mode"] == "include"}
    assert kinds == {"Observation", "Patient"}


def test_reports_and_records(house: TestClient) -> None:
    [document] = entries(house, f"DocumentReference?patient={PATIENT}")
    assert base64.b64decode(document["content"][0]["attachment"]["data"]).decode() == (FOLDER / "report.txt").read_text()
    sent = {r["resource"]["id"]: r["resource"] for r in json.loads((FOLDER / "bundle.json").read_text())["entry"]}
    creatinine = get(house, "Observation/creatinine")
    assert {k: v for k, v in creatinine.items() if k != "meta"} == sent["creatinine"]
    assert "name" not in get(house, f"Patient/{PATIENT}")  # what nobody needs isn't kept


def test_study_of_a_pacs(empty: TestClient) -> None:
    files = series("P1", PatientBirthDate="19600101")
    assert stored(empty, files).status_code == 200
    [study] = entries(empty, "ImagingStudy?patient=P1&modality=MR&_lastUpdated=ge2026")
    assert study["meta"]["tag"][0]["code"] == "SUBSETTED" and "instance" not in study["series"][0]
    whole = get(empty, f"ImagingStudy/{study['id']}")
    assert len(whole["series"][0]["instance"]) == whole["numberOfInstances"] == 5 and "tag" not in whole["meta"]
    uid = whole["identifier"][0]["value"].removeprefix("urn:oid:")
    assert entries(empty, f"ImagingStudy?identifier=urn:dicom:uid|urn:oid:{uid}") == [study] == entries(empty, f"ImagingStudy?identifier={uid}")  # fmt: skip
    assert entries(empty, "ImagingStudy?patient.birthdate=1960-01-01") == [study]
    assert entries(empty, "ImagingStudy?patient.birthdate=1961") == []
    assert get(empty, whole["endpoint"][0]["reference"])["address"].endswith("/dicom-web")
    [event] = entries(empty, "AuditEvent?subtype=import&action=C")
    assert event["type"]["code"] == "110107" and "P1" not in json.dumps(event)


@pytest.mark.parametrize(("query", "ids"), [
    ("code=http://loinc.org|14682-9", ["creatinine"]), ("code=14682-9,98979-8", ["creatinine", "egfr"]),
    ("value-quantity=gt70|http://unitsofmeasure.org|umol/L", ["creatinine"]), ("value-quantity=lt70||umol/L", []),
    ("date=2026-10-02&category=laboratory&code:text=creatin", ["creatinine", "egfr"]), ("date=lt2000", []), ("code:not=14682-9&_id=creatinine", []),
    ("_id=creatinine&performer:missing=true", []), ("identifier:missing=true&_id=egfr", ["egfr"]),
])  # fmt: skip
def test_searching(house: TestClient, query: str, ids: list[str]) -> None:
    if "performer" in query:  # not known: passed over, and said
        found = get(house, f"Observation?{query}")
        assert issue(found["entry"][-1]["resource"])["diagnostics"] == "not searched by: performer:missing"
        assert issue(get(house, f"Observation?{query}", 400, Prefer="handling=strict"))["code"] == "invalid"
        return
    assert sorted(r["id"] for r in entries(house, f"Observation?{query}&patient={PATIENT}")) == ids


def test_pages(house: TestClient) -> None:
    first = get(house, f"Observation?patient={PATIENT}&category=laboratory&_count=2&_sort=code")
    links = {x["relation"]: x["url"] for x in first["link"]}
    seen = [e["resource"]["id"] for e in first["entry"]]
    while "next" in links:
        page = get(house, links["next"].partition("/fhir/")[2])
        links = {x["relation"]: x["url"] for x in page["link"]}
        seen += [e["resource"]["id"] for e in page["entry"]]
    assert len(seen) == len(set(seen)) == first["total"] and "previous" in links
    assert "entry" not in get(house, f"Observation?patient={PATIENT}&_summary=count")
    form = house.post("/fhir/Observation/_search", data={"patient": PATIENT, "code": "14682-9"}).json()
    assert form["total"] == 1


# Taken

MRN = {"system": "urn:hospital", "value": "MRN 7/1"}


def transaction(value: float = 1.2, **patient: Any) -> dict[str, Any]:
    who = {
        "resourceType": "Patient",
        "identifier": [MRN],
        "birthDate": "1970-01-01",
        "gender": "male",
        "name": [{"family": "Nobody"}],
        **patient,
    }
    measured = {"resourceType": "Observation", "status": "final", "code": {"coding": [{"system": "http://loinc.org", "code": "2160-0"}], "text": "Creatinine"},
                "subject": {"reference": "urn:uuid:1"}, "valueQuantity": {"value": value, "unit": "mg/dL"}, "effectiveDateTime": "2026-11-01",
                "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}]}]}  # fmt: skip
    condition = {"identifier": f"{MRN['system']}|{MRN['value']}"}
    return {"resourceType": "Bundle", "type": "transaction", "entry": [
        {"fullUrl": "urn:uuid:1", "resource": who, "request": {"method": "POST", "url": "Patient", "ifNoneExist": "&".join(f"{k}={v}" for k, v in condition.items())}},
        {"fullUrl": "urn:uuid:2", "resource": measured, "request": {"method": "POST", "url": "Observation"}},
    ]}  # fmt: skip


def sent(client: TestClient, bundle: dict[str, Any], status: int = 200) -> Any:
    reply = client.post("/fhir", json=bundle)
    assert reply.status_code == status, reply.text[:600]
    return reply.json()


def test_transaction_twice(empty: TestClient) -> None:
    first, second = sent(empty, transaction()), sent(empty, transaction())
    assert [e["response"]["status"] for e in first["entry"]] == ["201 Created", "201 Created"]
    assert [e["response"]["status"] for e in second["entry"]] == ["200 OK", "200 OK"]
    assert [e["response"]["location"] for e in first["entry"]] == [e["response"]["location"] for e in second["entry"]]
    [patient] = entries(empty, f"Patient?identifier={MRN['system']}|{MRN['value']}")
    [kept] = entries(empty, f"Observation?patient={patient['id']}")
    assert kept["meta"]["versionId"] == "1" and kept["subject"]["reference"] == f"Patient/{patient['id']}"
    assert patient["identifier"][0] == MRN and "Nobody" not in json.dumps(patient)


def test_change_replaces_what_was_read(empty: TestClient) -> None:
    archive = empty.app.state.house.archive  # type: ignore[attr-defined]
    sent(empty, transaction())
    [kept] = entries(empty, "Observation")
    assert [i.value for i in archive.items(MRN["value"])] == [1.2]
    kept["valueQuantity"]["value"] = 1.4
    put = empty.put(f"/fhir/Observation/{kept['id']}", json=kept, headers={"If-Match": 'W/"1"'})
    assert put.status_code == 200 and put.headers["etag"] == 'W/"2"' and [i.value for i in archive.items(MRN["value"])] == [1.4]
    assert empty.put(f"/fhir/Observation/{kept['id']}", json=kept, headers={"If-Match": 'W/"1"'}).status_code == 412
    same = empty.get(f"/fhir/Observation/{kept['id']}", headers={"If-None-Match": 'W/"2"'})
    assert same.status_code == 304 and not same.content
    kept["status"] = "entered-in-error"
    assert empty.put(f"/fhir/Observation/{kept['id']}", json=kept).status_code == 200 and archive.items(MRN["value"]) == []


def test_create(empty: TestClient) -> None:
    made = empty.put("/fhir/Patient/p7", json={"resourceType": "Patient", "id": "p7", "gender": "female"})
    assert made.status_code == 201 and made.json()["id"] == "p7"
    condition = {"resourceType": "Condition", "subject": {"reference": "Patient/p7"}, "code": {"text": "Meningioma"}, "identifier": [{"system": "urn:c", "value": "1"}]}  # fmt: skip
    post = empty.post("/fhir/Condition", json=condition, headers={"If-None-Exist": "identifier=urn:c|1"})
    assert post.status_code == 201 and post.headers["location"].endswith(f"/fhir/Condition/{post.json()['id']}/_history/1")
    again = empty.post(
        "/fhir/Condition", json={**condition, "code": {"text": "other"}}, headers={"If-None-Exist": "identifier=urn:c|1"}
    )
    assert again.status_code == 200 and again.json()["code"]["text"] == "Meningioma"
    assert [i.name for i in empty.app.state.house.archive.items("p7")] == ["Meningioma"]  # type: ignore[attr-defined]


def test_known_by_another_id(empty: TestClient) -> None:
    assert stored(empty, series("P1")).status_code == 200
    made = empty.put("/fhir/Patient/ehr-55", json={"resourceType": "Patient", "id": "ehr-55", "identifier": [{"value": "P1"}]})
    assert made.status_code == 200 and made.json()["id"] == "P1"
    note = {"resourceType": "Condition", "subject": {"reference": "Patient/ehr-55"}, "code": {"text": "Headache"}}
    assert empty.post("/fhir/Condition", json=note).json()["subject"]["reference"] == "Patient/P1"
    assert [r["code"]["text"] for r in entries(empty, "Condition?patient=ehr-55")] == ["Headache"]


def bad(**change: Any) -> dict[str, Any]:
    made = transaction()
    made["entry"][1]["resource"] |= change.pop("resource", {})
    made["entry"][1]["request"] |= change.pop("request", {})
    return {**made, **change}


@pytest.mark.parametrize(("bundle", "status"), [
    ({"resourceType": "Patient"}, 400), (bad(type="collection"), 400), (bad(request={"method": "DELETE"}), 400), (bad(request={"url": "Condition"}), 400),
    (bad(resource={"status": None}), 422), (bad(resource={"subject": {"reference": "Patient/nobody"}}), 422), (bad(entry=[{"resource": {}}]), 400),
    (bad(resource={"resourceType": "AuditEvent"}, request={"url": "AuditEvent"}), 422), (bad(entry={"a": 1}), 413),
    (bad(resource={"subject": {"reference": "Patient?identifier=x"}}), 412),
])  # fmt: skip
def test_transactions_that_cannot_be_taken(empty: TestClient, bundle: dict[str, Any], status: int) -> None:
    assert issue(sent(empty, bundle, status))["diagnostics"]
    assert get(empty, "Patient")["total"] == get(empty, "Observation")["total"] == 0


def test_another_person(empty: TestClient) -> None:
    sent(empty, transaction())
    told = transaction(birthDate="1999-09-09")
    del told["entry"][0]["request"]["ifNoneExist"]
    assert issue(sent(empty, told, 409))["code"] == "conflict"
    other = {"resourceType": "Bundle", "type": "transaction", "entry": [
        {"fullUrl": "urn:uuid:1", "resource": {"resourceType": "Patient", "identifier": [{"value": "B"}]}, "request": {"method": "POST", "url": "Patient"}},
        {"resource": {"resourceType": "Condition", "subject": {"identifier": {"value": MRN["value"]}}, "code": {"text": "x"}}, "request": {"method": "POST", "url": "Condition"}},
    ]}  # fmt: skip
    assert issue(sent(empty, other, 422))["details"]["text"] == "SeveralPatients"
    assert get(empty, "Condition")["total"] == 0 and get(empty, "Patient")["total"] == 1


def test_batch(empty: TestClient) -> None:
    good = transaction()["entry"][0]
    told = sent(empty, {"resourceType": "Bundle", "type": "batch", "entry": [good, {"request": {"method": "POST", "url": "X"}}, {"request": {"method": "GET", "url": "Patient"}}]})  # fmt: skip
    assert [e["response"]["status"] for e in told["entry"]] == ["201 Created", "400", "200 OK"]
    assert (
        told["entry"][1]["response"]["outcome"]["resourceType"] == "OperationOutcome"
        and told["entry"][2]["resource"]["total"] == 1
    )


def test_what_cannot_be_asked(empty: TestClient) -> None:
    for path, status in (("Nothing", 404), ("Patient/none", 404), ("Patient/a_b", 422), ("Observation?_count=x", 400), ("Observation?date=soon", 400),
                         ("Observation?value-quantity=big", 400), ("Observation?_include=x", 400), ("Patient?_sort=shoe", 400), ("$export", 400),
                         ("export/0", 404)):  # fmt: skip
        assert issue(get(empty, path, status))["severity"] == "error", path
    assert empty.get("/fhir/Patient", headers={"accept": "application/fhir+xml"}).status_code == 406
    assert empty.post("/fhir/Patient", content=b"<x/>", headers={"content-type": "application/fhir+xml"}).status_code == 415
    assert empty.post("/fhir/Patient", content=b"{", headers={"content-type": "application/json"}).status_code == 400
    assert empty.post("/fhir/Patient", content=b"[" * 100_000, headers={"content-type": "application/json"}).status_code == 400
    assert empty.delete("/fhir/Patient/p").status_code == 405


def test_bulk(empty: TestClient) -> None:
    sent(empty, transaction())
    begun = empty.get("/fhir/$export?_type=Patient,Observation,Condition", headers={"Prefer": "respond-async"})
    assert begun.status_code == 202
    place = "/fhir/" + begun.headers["content-location"].partition("/fhir/")[2]
    while (state := empty.get(place)).status_code == 202:
        time.sleep(0.05)
    output = {o["type"]: o for o in state.json()["output"]}
    assert set(output) == {"Patient", "Observation"} and state.json()["requiresAccessToken"]
    lines = empty.get("/fhir/" + output["Observation"]["url"].partition("/fhir/")[2]).text.splitlines()
    assert [json.loads(line)["resourceType"] for line in lines] == ["Observation"]
    assert empty.delete(place).status_code == 202 and empty.get(place).status_code == 404


def test_old_bundles_are_filled_in(tmp_path: Path) -> None:
    from sqlalchemy import text

    settings = Settings(data=tmp_path / "data", no_auth=True)
    with TestClient(create_app(settings)) as client:
        client.post("/v1/studies", files=[("files", ("b.json", (FOLDER / "bundle.json").read_bytes()))])
        with client.app.state.house.archive.engine.begin() as connection:  # type: ignore[attr-defined]
            connection.execute(text("DELETE FROM resources"))
        assert get(client, "Observation")["total"] == 0
    with TestClient(create_app(settings)) as client:
        assert get(client, "Observation")["total"] == 7
