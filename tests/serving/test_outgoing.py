"""What leaves: nothing without a difference and a person's confirmation; sent for real to a PACS, a HIS and an EHR; failures kept and told."""

import asyncio
import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pydicom
import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from pydicom.uid import EnhancedSRStorage
from pynetdicom import AE, StoragePresentationContexts, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made from the dictionary at import
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from knowledge.studies.intake import Hints
from knowledge.studies.unpack import from_bytes
from serving import outgoing
from serving.access.clients import EhrServer, SmartClient, Webhook
from serving.access.keys import KeyRing
from serving.app import create_app
from serving.settings import Settings
from tests.serving.browser import free_port, running
from tests.serving.drafts import draft_on
from tests.serving.test_dicomweb import series, stored, uids
from tests.serving.test_mllp import told
from tests.serving.test_smart import key_pair

SIGNER = "Dr Rita Reader"


def waited(done: Callable[[], Any], seconds: float = 20) -> Any:
    """What `done` gives once it gives something."""
    end = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < end, "it didn't happen"
        time.sleep(0.05)
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "FIRST_WAIT_S", 0.05)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[TestClient, dict[str, Any]]]:
    """A server with P1's study, and settings that name a PACS, a HIS, and hosts of subscribers."""
    ports = {n: free_port() for n in ("dimse", "pacs", "his")}
    settings = Settings(
        data=tmp_path / "data", no_auth=True, dimse_port=ports["dimse"], dimse_peers={"PACS": f"127.0.0.1:{ports['pacs']}"},
        mllp_send_to={"HIS": f"127.0.0.1:{ports['his']}"}, subscription_hosts=["127.0.0.1"], commit_by=["PACS"],
    )  # fmt: skip
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        assert stored(client, series("P1", PatientBirthDate="19600102", BodyPartExamined="BRAIN")).status_code == 200
        yield client, ports


def drafted(client: TestClient, text: str = "A lesion of 21 mm.", study: int = -1) -> str:
    """A draft on P1's newest study, or another."""
    house = client.app.state.house  # type: ignore[attr-defined]
    return str(house.resources.drafts.add(draft_on(house.archive, house.archive.studies("P1")[study], text)).id)


def signed(client: TestClient, text: str = "A lesion of 21 mm.", study: int = -1) -> str:
    name = drafted(client, text, study)
    reply = client.post(f"/v1/drafts/{name}/sign", json={"name": SIGNER, "version": 1})
    assert reply.status_code == 200, reply.text
    return name


def proposed(client: TestClient, name: str, receiver: str) -> Any:
    reply = client.post("/v1/outgoing", json={"kind": "report", "draft_id": name, "receiver": receiver})
    assert reply.status_code == 201, reply.text
    return reply.json()


def confirmed(client: TestClient, one: Any, status: int = 200, **change: Any) -> Any:
    reply = client.post(f"/v1/outgoing/{one['id']}/confirm", json={"confirmed_by": SIGNER, "sha256": one["sha256"], **change})
    assert reply.status_code == status, reply.text
    return reply.json()


def state(client: TestClient, one: Any, wanted: str) -> Any:
    return waited(lambda: (found := client.get(f"/v1/outgoing/{one['id']}").json())["status"] == wanted and found)


class Pacs:
    """A PACS: keeps what is sent, commits to it, and has the studies that it is given."""

    def __init__(self, port: int, ours: int, files: list[bytes] | None = None) -> None:
        self.got: list[pydicom.Dataset] = []
        self.asked: list[pydicom.Dataset] = []
        self.has = [pydicom.dcmread(__import__("io").BytesIO(f)) for f in files or []]
        self.status = 0x0000
        entity = AE(ae_title="PACS")
        entity.supported_contexts = StoragePresentationContexts
        for context in entity.supported_contexts:
            context.scu_role = context.scp_role = True
        for model in (
            StorageCommitmentPushModel,
            StudyRootQueryRetrieveInformationModelFind,
            StudyRootQueryRetrieveInformationModelGet,
        ):
            entity.add_supported_context(model)
        handlers = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_ACTION, self._commit),
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_C_GET, self._get),
        ]
        self.server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        self.ours = ours

    def _store(self, event: Any) -> int:
        data = event.dataset
        data.file_meta = event.file_meta
        self.got.append(data)
        return self.status

    def _commit(self, event: Any) -> Any:
        self.asked.append(event.action_information)
        return 0x0000, None

    def _find(self, event: Any) -> Iterator[Any]:
        seen = set()
        for one in self.has:
            if one.PatientID == event.identifier.PatientID and one.StudyInstanceUID not in seen:
                seen.add(one.StudyInstanceUID)
                told = pydicom.Dataset()
                told.PatientID, told.StudyInstanceUID, told.StudyDate, told.QueryRetrieveLevel = (
                    one.PatientID,
                    one.StudyInstanceUID,
                    one.StudyDate,
                    "STUDY",
                )
                yield 0xFF00, told

    def _get(self, event: Any) -> Iterator[Any]:
        mine = [d for d in self.has if d.StudyInstanceUID == event.identifier.StudyInstanceUID]
        yield len(mine)
        for one in mine:
            yield 0xFF00, one


# Reports


def test_nothing_leaves_without_a_look_and_a_name(place: tuple[TestClient, dict[str, Any]]) -> None:
    client, ports = place
    pacs = Pacs(ports["pacs"], ports["dimse"])
    try:
        draft = drafted(client)
        assert (
            client.post("/v1/outgoing", json={"kind": "report", "draft_id": draft, "receiver": "pacs:PACS"}).status_code == 409
        )  # nobody signed it
        client.post(f"/v1/drafts/{draft}/sign", json={"name": SIGNER, "version": 1})
        one = proposed(client, draft, "pacs:PACS")
        assert any(line.startswith("+ ") and "21 mm" in line for line in one["difference"])
        time.sleep(0.3)
        assert pacs.got == [] and client.get("/v1/outgoing?status=proposed").json()[0]["id"] == one["id"]
        confirmed(client, one, 409, sha256="0" * 64)
        confirmed(client, one, 422, confirmed_by="")
        confirmed(client, one)
        state(client, one, "sent")
        [report] = pacs.got
        assert report.SOPClassUID == EnhancedSRStorage and report.PatientID == "P1" and report.VerificationFlag == "VERIFIED"
        confirmed(client, one, 409)
        made = client.get(f"/fhir/Provenance?target=DiagnosticReport/{draft.replace('_', '-')}").json()["entry"][0]["resource"]
        assert {a["type"]["coding"][0]["code"]: a["who"]["display"] for a in made["agent"]}["verifier"] == SIGNER
        entries = {e["action"]: e for e in client.get(f"/v1/audit?subject={one['id']}").json()}
        assert entries["confirm sending"]["detail"]["confirmed_by"] == SIGNER and "sent" in entries
        [asked] = waited(lambda: pacs.asked)  # storage commitment of what was sent
        assert asked.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == report.SOPInstanceUID
        second = proposed(client, signed(client, "A lesion of 23 mm."), "pacs:PACS")
        changes = [line for line in second["difference"] if line[:1] in "+-"]
        assert any("23 mm" in c and c.startswith("+") for c in changes) and any(
            "21 mm" in c and c.startswith("-") for c in changes
        )
        declined = client.post(f"/v1/outgoing/{second['id']}/decline").json()
        assert declined["status"] == "declined"
        confirmed(client, second, 409)
    finally:
        pacs.server.shutdown()


def test_difference_is_to_what_was_sent_of_the_same_study(place: tuple[TestClient, dict[str, Any]]) -> None:
    client, ports = place
    assert (
        stored(client, series("P1", date="20250101", BodyPartExamined="BRAIN", StudyInstanceUID="1.2.3.4.6")).status_code == 200
    )
    pacs = Pacs(ports["pacs"], ports["dimse"])
    try:
        first = proposed(client, signed(client, "The older one.", 0), "pacs:PACS")
        confirmed(client, first)
        state(client, first, "sent")
        assert not [
            x for x in proposed(client, signed(client, "The newer one.", 1), "pacs:PACS")["difference"] if x.startswith("- ")
        ]
        again = proposed(client, signed(client, "The older one, changed.", 0), "pacs:PACS")
        assert [x for x in again["difference"] if x.startswith("- ")] == ["- The older one."]
    finally:
        pacs.server.shutdown()


def test_report_as_hl7(place: tuple[TestClient, dict[str, Any]], tmp_path: Path) -> None:
    client, ports = place
    other = Settings(data=tmp_path / "his", no_auth=True, mllp_port=ports["his"], mllp_allowed=["127.0.0.1"])
    one = proposed(client, signed(client), "hl7:HIS")
    with TestClient(create_app(other)) as his:  # a server of ours as the HIS: it acknowledges what it kept
        confirmed(client, one)
        state(client, one, "sent")
        [report] = his.app.state.house.archive.reports("P1")  # type: ignore[attr-defined]
        assert "A lesion of 21 mm." in report.text and "One lesion | ^ & ~." in report.text
        assert his.app.state.house.archive.patient("P1").birth_date == "1960-01-02"  # type: ignore[attr-defined]
        assert told(ports["his"], "MSH|^~\\&|A|B|C|D|1||ORU^R01|1|P|2.5.1\r") is not None


def test_report_in_an_ehr(tmp_path: Path) -> None:
    pem, jwks = key_pair(tmp_path)
    port = free_port()
    base = f"http://127.0.0.1:{port}/fhir"
    theirs = Settings(data=tmp_path / "ehr", smart_clients={"consilium": SmartClient(jwks=jwks, scopes=["system/*.cruds"])})
    mine = Settings(
        data=tmp_path / "data", no_auth=True, ehr_servers={base: EhrServer(client_id="consilium", key=pem, writes=True)}
    )
    key = KeyRing(theirs.data / "access").local()
    ehr = create_app(theirs)
    with running(ehr, port), TestClient(create_app(mine)) as client:
        import httpx

        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {key}"}) as there:
            assert (
                there.put(
                    "/fhir/Patient/e-1",
                    json={"resourceType": "Patient", "id": "e-1", "identifier": [{"system": "urn:h", "value": "P1"}]},
                ).status_code
                == 201
            )
            assert stored(client, series("P1", BodyPartExamined="BRAIN")).status_code == 200
            name = signed(client)
            for _ in range(2):  # twice sent is once there
                one = proposed(client, name, f"ehr:{base}")
                confirmed(client, one)
                state(client, one, "sent")
            reports = there.get(
                "/fhir/DiagnosticReport?patient=e-1&_include=DiagnosticReport:result&_revinclude=Provenance:target"
            ).json()
            kinds = [e["resource"]["resourceType"] for e in reports["entry"]]
            assert kinds.count("DiagnosticReport") == 1 and kinds.count("Observation") == 1 and "Provenance" in kinds
            made = next(e["resource"] for e in reports["entry"] if e["resource"]["resourceType"] == "DiagnosticReport")
            assert made["status"] == "final" and made["presentedForm"][0]["contentType"] == "application/pdf"
            provenance = next(e["resource"] for e in reports["entry"] if e["resource"]["resourceType"] == "Provenance")
            who = {a["type"]["coding"][0]["code"]: a["who"].get("display") for a in provenance["agent"]}
            assert who["attester"] == who["verifier"] == SIGNER and "made up 1" in who["performer"]


def test_failures_are_kept_and_told(place: tuple[TestClient, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    client, ports = place
    monkeypatch.setattr(outgoing, "ATTEMPTS", 2)
    one = proposed(client, signed(client), "pacs:PACS")
    confirmed(client, one)
    dead = state(client, one, "dead")  # nobody listens
    assert dead["attempts"] == 2 and "cannot be reached" in dead["error"]
    assert [o["id"] for o in client.get("/v1/outgoing?status=dead").json()] == [one["id"]]
    pacs = Pacs(ports["pacs"], ports["dimse"])
    try:
        pacs.status = 0xA700
        assert client.post(f"/v1/outgoing/{one['id']}/again").status_code == 200
        assert "0xA700" in state(client, one, "dead")["error"]
        pacs.status = 0x0000
        client.post(f"/v1/outgoing/{one['id']}/again")
        state(client, one, "sent")
    finally:
        pacs.server.shutdown()


def test_what_cannot_be_proposed(place: tuple[TestClient, dict[str, Any]]) -> None:
    client, _ = place
    for body, status in (({"kind": "report", "draft_id": "d_none", "receiver": "pacs:PACS"}, 404), ({"kind": "report", "draft_id": "d", "receiver": "pacs:X"}, 422),
                         ({"kind": "mask", "receiver": "hl7:HIS", "study_id": "a", "series_id": "b", "name": "c"}, 422), ({"kind": "mask", "receiver": "pacs:PACS"}, 422),
                         ({"kind": "mask", "receiver": "pacs:PACS", "study_id": "a", "series_id": "b", "name": "../x"}, 422)):  # fmt: skip
        assert client.post("/v1/outgoing", json=body).status_code == status, body
    assert client.get("/v1/receivers").json() == {"pacs:PACS": ["report", "mask"], "hl7:HIS": ["report"]}
    with pytest.raises(ValidationError, match="dimse_peers"):
        Settings(route_results_to=["NOBODY"])


def test_results_are_routed_once_signed(tmp_path: Path) -> None:
    port = free_port()
    settings = Settings(
        data=tmp_path / "data", no_auth=True, dimse_peers={"PACS": f"127.0.0.1:{port}"}, route_results_to=["PACS"]
    )
    pacs = Pacs(port, 0)
    try:
        with TestClient(create_app(settings)) as client:
            assert stored(client, series("P1", BodyPartExamined="BRAIN")).status_code == 200
            drafted(client, "Not signed.")
            signed(client)
            waited(lambda: pacs.got)
            [one] = client.get("/v1/outgoing").json()
            assert one["confirmed_by"] == SIGNER
    finally:
        pacs.server.shutdown()


# The PACS asked


def test_earlier_studies_are_fetched(tmp_path: Path) -> None:
    port = free_port()
    old = series("P1", date="20230101", BodyPartExamined="BRAIN", StudyInstanceUID="1.2.3.4.5")
    settings = Settings(data=tmp_path / "data", no_auth=True, dimse_peers={"PACS": f"127.0.0.1:{port}"}, priors_from=["PACS"])
    pacs = Pacs(port, 0, [*old, *series("P2", date="20220101")])
    try:
        with TestClient(create_app(settings)) as client:
            assert stored(client, series("P1", BodyPartExamined="BRAIN")).status_code == 200
            archive = client.app.state.house.archive  # type: ignore[attr-defined]
            waited(
                lambda: (
                    {s.date for s in archive.studies("P1")} == {"2023-01-01", "2024-05-31"}
                    and archive.studies("P1")[-1].series[0].instances == 5
                )
            )
            assert archive.patient_ids() == ["P1"]  # nobody else's came
            waited(lambda: any(e.action == "fetch priors" for e in archive.audit()))
    finally:
        pacs.server.shutdown()


def test_storage_commitment_is_answered(place: tuple[TestClient, dict[str, Any]]) -> None:
    _, ports = place
    heard: list[Any] = []
    entity = AE(ae_title="PACS")
    entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)

    def reported(event: Any) -> Any:
        heard.append((event.event_type, event.event_information))
        return 0x0000, None

    server = entity.start_server(("127.0.0.1", ports["pacs"]), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, reported)])
    try:
        asker = AE(ae_title="PACS")
        asker.add_requested_context(StorageCommitmentPushModel)
        link = asker.associate("127.0.0.1", ports["dimse"], ae_title="CONSILIUM")
        _, _, sop = uids(series("P1")[0])
        asked = pydicom.Dataset()
        asked.TransactionUID = "1.2.3"
        items = []
        for uid in (sop, "1.2.3.9"):
            item = pydicom.Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", uid
            items.append(item)
        asked.ReferencedSOPSequence = items
        status, _ = link.send_n_action(asked, 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1")
        link.release()
        assert status.Status == 0x0000
        kind, told_ = waited(lambda: heard)[0]
        assert kind == 2 and told_.TransactionUID == "1.2.3"
        failed = {i.ReferencedSOPInstanceUID: i.FailureReason for i in told_.FailedSOPSequence}
        assert failed["1.2.3.9"] == 0x0112
    finally:
        server.shutdown()


# Telling others


class Ear:
    """Hears what is posted; answers `status`."""

    def __init__(self) -> None:
        ear = self
        self.heard: list[tuple[dict[str, str], bytes]] = []
        self.status = 200

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                ear.heard.append((dict(self.headers.items()), body))
                self.send_response(ear.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self) -> "Ear":
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_webhooks_are_signed_and_retried(tmp_path: Path) -> None:
    secret = "s" * 32
    with Ear() as ear:
        settings = Settings(data=tmp_path / "data", no_auth=True, webhooks=[Webhook(url=ear.url, secret=secret)])
        with TestClient(create_app(settings)) as client:
            assert stored(client, series("P1", PatientName="Miller^Ann")).status_code == 200
            ear.status = 503
            signed(client)
            waited(lambda: len(ear.heard) >= 2)
            ear.status = 200
            waited(lambda: client.get("/v1/outgoing?status=sent").json())
            headers, body = ear.heard[-1]
            given = {k.lower(): v for k, v in headers.items()}
            digest = hmac.new(
                secret.encode(), f"{given['webhook-id']}.{given['webhook-timestamp']}.".encode() + body, hashlib.sha256
            ).digest()
            assert given["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
            event = json.loads(body)
            assert event["type"] == "report.ready" and client.get(f"/fhir/{event['focus']}").json()["status"] == "final"
            assert b"Miller" not in body and b"lesion" not in body
            archive = client.app.state.house.archive  # type: ignore[attr-defined]
            archive.add(from_bytes("r.txt", b"DATE: 2026-01-01\nIMPRESSION: Uncal herniation."), Hints(patient_id="P1"))
            waited(lambda: any(json.loads(b)["type"] == "finding.critical" for _, b in ear.heard))
            archive.add(from_bytes("q.txt", b"DATE: 2026-01-01\nIMPRESSION: No herniation of the brain."), Hints(patient_id="P1"))
            time.sleep(0.3)
            assert sum(json.loads(b)["type"] == "finding.critical" for _, b in ear.heard) == 1


def test_fhir_subscription(place: tuple[TestClient, dict[str, Any]]) -> None:
    client, _ = place
    with Ear() as ear:
        wanted = {"resourceType": "Subscription", "status": "requested", "reason": "worklist", "criteria": "urn:consilium:topic:report.ready",
                  "channel": {"type": "rest-hook", "endpoint": ear.url, "payload": "application/fhir+json", "header": ["Authorization: Bearer theirs"]}}  # fmt: skip
        made = client.post("/fhir/Subscription", json=wanted)
        assert made.status_code == 201 and made.json()["status"] == "active" and "theirs" not in made.text
        handshake = json.loads(ear.heard[0][1])
        assert handshake["type"] == "history" and ear.heard[0][0]["Authorization"] == "Bearer theirs"
        name = signed(client)
        waited(lambda: len(ear.heard) > 1)
        parts = {p["name"]: p for p in json.loads(ear.heard[1][1])["entry"][0]["resource"]["parameter"]}
        assert (
            parts["type"]["valueCode"] == "event-notification" and parts["events-since-subscription-start"]["valueString"] == "1"
        )
        focus = next(p for p in parts["notification-event"]["part"] if p["name"] == "focus")["valueReference"]["reference"]
        assert focus == f"DiagnosticReport/{name.replace('_', '-')}"
        own = made.json()["id"]
        assert client.get("/fhir/Subscription").json()["total"] == 1
        assert (
            client.delete(f"/fhir/Subscription/{own}").status_code == 204
            and client.get(f"/fhir/Subscription/{own}").status_code == 404
        )
        for change, status in (({"criteria": "Observation?x"}, 422), ({"channel": {**wanted["channel"], "endpoint": "http://evil.example/"}}, 403),  # type: ignore[dict-item]
                               ({"channel": {**wanted["channel"], "type": "email"}}, 422), ({"channel": 7}, 422)):  # type: ignore[dict-item]  # fmt: skip
            refused = client.post("/fhir/Subscription", json={**wanted, **change})
            assert refused.status_code == status and refused.json()["resourceType"] == "OperationOutcome", refused.text
    deaf = client.post("/fhir/Subscription", json=wanted)
    assert deaf.status_code == 201 and deaf.json()["status"] == "error"  # nobody answered the handshake


async def test_the_queue_outlives_the_process(tmp_path: Path) -> None:
    port = free_port()
    settings = Settings(data=tmp_path / "data", no_auth=True, dimse_peers={"PACS": f"127.0.0.1:{port}"})
    with TestClient(create_app(settings)) as client:
        assert stored(client, series("P1", BodyPartExamined="BRAIN")).status_code == 200
        one = proposed(client, signed(client), "pacs:PACS")
        confirmed(client, one)
        await asyncio.to_thread(waited, lambda: client.get(f"/v1/outgoing/{one['id']}").json()["attempts"])
    pacs = Pacs(port, 0)
    try:
        with TestClient(create_app(settings)) as client:
            await asyncio.to_thread(state, client, one, "sent")
            assert len(pacs.got) == 1
    finally:
        pacs.server.shutdown()
