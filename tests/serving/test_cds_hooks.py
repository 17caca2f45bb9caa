"""CDS Hooks: what a chart that opens and an order in the making are told, from what is stored; and who may ask."""

import json
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from fastapi.testclient import TestClient

from knowledge.evidence import Fact, ImageRef, Kind
from knowledge.studies.intake import Hints
from knowledge.studies.unpack import from_bytes
from serving.access.grants import Grant
from serving.access.keys import KeyRing
from serving.app import create_app
from serving.cards import Cards
from serving.settings import Settings
from tests.serving.test_dicomweb import series, stored
from tests.serving.test_smart import key_pair
from tools.concepts import LONG_AXIS

TODAY = datetime.now(UTC).date()


def day(back: int) -> str:
    return (TODAY - timedelta(days=back)).isoformat()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(data=tmp_path / "data", no_auth=True)), raise_server_exceptions=False) as made:
        yield made


def letter(client: TestClient, text: str, back: int) -> None:
    archive = client.app.state.house.archive  # type: ignore[attr-defined]
    archive.add(
        from_bytes(f"{uuid.uuid4()}.txt", f"DATE: {day(back)}\n{text}".encode()), Hints(patient_id="P1", study_date=day(back))
    )


def asked(client: TestClient, service: str = "patient-view", status: int = 200, prefetch: Any = None, **context: Any) -> Any:
    body = {
        "hook": service,
        "hookInstance": str(uuid.uuid4()),
        "context": {"patientId": "P1", "userId": "Practitioner/1", **context},
    }
    reply = client.post(f"/cds-services/{service}", json=body | ({"prefetch": prefetch} if prefetch else {}))
    assert reply.status_code == status, reply.text
    return reply.json()["cards"] if status == 200 else reply.json()


def ordered(client: TestClient, *texts: str) -> list[dict[str, Any]]:
    resources = [
        {"resourceType": "ServiceRequest", "id": str(n), "status": "draft", "intent": "order", "code": {"text": t}}
        for n, t in enumerate(texts)
    ]
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": r} for r in resources]}
    found: list[dict[str, Any]] = asked(client, "order-select", selections=["ServiceRequest/0"], draftOrders=bundle)
    return found


def record(client: TestClient, creatinine: float) -> None:
    rows = [{"resourceType": "Patient", "id": "P1", "birthDate": "1950-01-01", "gender": "male"},
            {"resourceType": "Observation", "status": "final", "code": {"text": "Creatinine", "coding": [{"system": "http://loinc.org", "code": "14682-9"}]},
             "subject": {"reference": "Patient/P1"}, "valueQuantity": {"value": creatinine, "unit": "umol/L"}, "effectiveDateTime": day(3)}]  # fmt: skip
    bundle = json.dumps({"resourceType": "Bundle", "type": "collection", "entry": [{"resource": r} for r in rows]}).encode()
    client.app.state.house.archive.add(from_bytes("b.json", bundle), Hints(patient_id="P1"))  # type: ignore[attr-defined]


def test_discovery(client: TestClient) -> None:
    services = client.get("/cds-services").json()["services"]
    assert [s["hook"] for s in services] == ["patient-view", "order-select"] and all(s["prefetch"]["patient"] for s in services)


def test_overdue_and_critical(client: TestClient) -> None:
    letter(client, "IMPRESSION: A nodule in the right upper lobe. CT of the chest in 3 months is recommended.", 400)
    letter(client, "FINDINGS: There is uncal herniation on the right.\nIMPRESSION: Uncal herniation.", 1)
    cards = asked(client)
    assert cards[0]["indicator"] == "critical" and "uncal herniation" in cards[0]["summary"].lower()
    overdue = next(c for c in cards if "recommended by" in c["summary"])
    assert (
        overdue["indicator"] == "warning"
        and overdue["summary"].startswith("CT of the chest")
        and "in 3 months" in overdue["detail"]
    )
    for card in cards:
        assert (
            len(card["summary"]) < 140 and card["source"]["label"] and "#patient=P1" in card["links"][0]["url"] and card["uuid"]
        )
        assert "Research use only" in card["detail"]
    assert stored(client, series("P1", date=day(20).replace("-", ""), Modality="CT", BodyPartExamined="CHEST")).status_code == 200
    assert not [c for c in asked(client) if "recommended by" in c["summary"]]  # it was done


def growth(client: TestClient, before: float, after: float) -> None:
    house = client.app.state.house  # type: ignore[attr-defined]
    for back, size in ((200, before), (20, after)):
        assert stored(client, series("P1", date=day(back).replace("-", ""), BodyPartExamined="BRAIN")).status_code == 200
        study = next(s for s in house.archive.studies("P1") if s.date == day(back))
        source = ImageRef(
            study_id=study.id, series_uid=study.series[0].series_uid, mask=f"/m/{study.id}", model="made up", model_version="1"
        )
        fact = Fact(
            kind=Kind.MEASUREMENT,
            title="Longest axial diameter",
            statement=f"It is {size} mm.",
            value=size,
            unit="mm",
            code=LONG_AXIS,
            source=source,
        )
        house.memory.number(f"t_{back}", [fact], "P1")


def test_growth_that_nobody_told_of(client: TestClient) -> None:
    growth(client, 20.0, 26.0)
    [card] = asked(client)
    assert "20 to 26 mm (+30 %)" in card["summary"] and card["source"]["url"].startswith("https://doi.org/")
    letter(client, "IMPRESSION: The lesion has grown.", 10)
    assert asked(client) == []


def test_growth_below_the_threshold(client: TestClient) -> None:
    growth(client, 20.0, 24.0)  # +20 %, but 4 mm
    assert asked(client) == []


@pytest.mark.parametrize(("creatinine", "order", "indicator", "words"), [
    (400, "CT abdomen with contrast", "warning", "prophylaxis indicated"), (70, "CT abdomen with contrast", "info", "no prophylaxis"),
    (400, "MRI brain with gadolinium", "warning", "eGFR"),
])  # fmt: skip
def test_contrast_and_kidney(client: TestClient, creatinine: float, order: str, indicator: str, words: str) -> None:
    record(client, creatinine)
    [card] = ordered(client, order)
    assert card["indicator"] == indicator and words in card["summary"] and "mL/min" in card["summary"]


def test_contrast_without_a_value(client: TestClient) -> None:
    letter(client, "FINDINGS: None.", 5)
    [card] = ordered(client, "CT abdomen with contrast")
    assert card["indicator"] in ("warning", "info") and "idney function" in card["summary"]
    assert ordered(client, "CT abdomen without contrast") == [] == ordered(client, "Haemoglobin")


def test_duplicate_and_rather(client: TestClient) -> None:
    letter(client, "IMPRESSION: Brain lesion. MRI of the brain in 3 months is recommended.", 60)
    assert stored(client, series("P1", date=day(5).replace("-", ""), Modality="CT", BodyPartExamined="BRAIN")).status_code == 200
    told = [c["summary"] for c in ordered(client, "CT brain", "MRI brain")]  # the first alone is selected
    assert any("was done on" in t for t in told) and any(t.startswith("MR was recommended for the brain, not CT") for t in told)
    assert ordered(client, "CT chest") == []


def test_whose_chart_it_is(client: TestClient) -> None:
    letter(client, "IMPRESSION: CT of the chest in 3 months is recommended.", 400)
    assert asked(client, status=412, patientId="ehr-1")["hint"].startswith("send Patient")
    sent = {"patient": {"resourceType": "Patient", "id": "ehr-1", "identifier": [{"value": "P1"}]}}
    assert asked(client, prefetch=sent, patientId="ehr-1")
    strange = {"patient": {"resourceType": "Patient", "id": "ehr-1", "identifier": [{"value": "P77"}]}}
    assert asked(client, prefetch=strange, patientId="ehr-1") == []


def test_what_is_refused(client: TestClient) -> None:
    body = {"hook": "patient-view", "hookInstance": "1", "context": {"patientId": "P1"}}
    assert client.post("/cds-services/none", json=body).status_code == 404
    assert client.post("/cds-services/order-select", json=body).status_code == 400
    assert client.post("/cds-services/patient-view", json={}).status_code == 422


def test_feedback_is_counted_without_words(client: TestClient) -> None:
    given = {
        "feedback": [
            {
                "card": "c-1",
                "outcome": "overridden",
                "overrideReason": {"userComment": "Mrs Miller declined"},
                "outcomeTimestamp": "x",
            }
        ]
    }
    assert client.post("/cds-services/patient-view/feedback", json=given).status_code == 200
    entry = client.get("/v1/audit?subject=c-1").json()[0]
    assert entry["detail"] == {"service": "patient-view", "outcome": "overridden"} and "Miller" not in json.dumps(entry)


def test_who_may_ask(tmp_path: Path) -> None:
    pem, jwks = key_pair(tmp_path)
    settings = Settings(data=tmp_path / "data", cds_clients={"https://ehr.example": jwks})
    key = KeyRing(settings.data / "access").local()
    body = {"hook": "patient-view", "hookInstance": "1", "context": {"patientId": "P1"}}
    url = "http://testserver/cds-services/patient-view"
    now = int(time.time())

    def signed(algorithm: str = "ES384", secret: str = "", **change: Any) -> str:
        told = {"iss": "https://ehr.example", "aud": url, "exp": now + 200, "iat": now, "jti": uuid.uuid4().hex} | change
        return jwt.encode(told, secret or pem.read_text(), algorithm=algorithm, headers={"kid": "consilium"})

    with TestClient(create_app(settings)) as client:
        assert client.get("/cds-services").status_code == 200  # discovery is open

        def status(token: str) -> int:
            return client.post("/cds-services/patient-view", json=body, headers={"authorization": f"Bearer {token}"}).status_code

        once = signed()
        assert status(once) == status(key) == 412  # let in; the patient isn't known
        token = client.app.state.house.tokens.token(Grant("app", "P9", ("patient/*.rs", "consilium/chat")), 60)  # type: ignore[attr-defined]
        assert status(token) == 403
        wrong = [once, signed(aud="http://testserver/cds-services/order-select"), signed(exp=now - 60), signed(iss="https://evil.example"),
                 signed("HS384", "x" * 64), jwt.encode({"iss": "https://ehr.example"}, "", algorithm="none"), "a.b.c", "ck_wrong"]  # fmt: skip
        assert [status(t) for t in wrong] == [401] * len(wrong)


def test_dates_are_of_today(client: TestClient) -> None:
    letter(client, "IMPRESSION: CT of the chest in 3 months is recommended.", 10)
    house = client.app.state.house  # type: ignore[attr-defined]
    assert Cards(house, "P1", "").patient_view() == []
    assert Cards(house, "P1", "", date.fromisoformat(day(-300))).patient_view()
