"""HL7 v2 over MLLP: what is kept is answered AA; what isn't, AE or AR with the reason; a sender that breaks off leaves nothing."""

import socket
from collections.abc import Iterator
from pathlib import Path

import hl7
import pytest
from fastapi.testclient import TestClient
from hl7.client import MLLPClient

from serving.app import create_app
from serving.mllp import NotAccepted, send
from serving.settings import Settings
from tests.serving.browser import free_port

ORU = (
    "MSH|^~\\&|LAB|HOSP|CONSILIUM|X|20261101120000||ORU^R01^ORU_R01|M1|P|2.5.1\rPID|1||P7^^^HOSP||Doe^Jane||19600102|F\r"
    "OBR|1||A1|24323-8^Panel^LN|||20261101\rOBX|1|NM|2160-0^Creatinine^LN||1.3|mg/dL|||||F|||20261101\r"
)
ORM = (
    "MSH|^~\\&|RIS|HOSP|CONSILIUM|X|20261101||ORM^O01|M2|P|2.3\rPID|1||P7\rORC|NW|O-1\r"
    "OBR|1|O-1||MRBRAIN^MRI brain with contrast^L|||20261103\r"
)
ADT = "MSH|^~\\&|HIS|HOSP|CONSILIUM|X|20261101||ADT^A08|M3|P|2.5\rEVN|A08\rPID|1||P8||Roe^Rick||19550505|M\rPV1|1|I\r"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[TestClient, int]]:
    port = free_port()
    settings = Settings(data=tmp_path / "data", no_auth=True, mllp_port=port, mllp_allowed=["127.0.0.1"])
    with TestClient(create_app(settings)) as client:
        yield client, port


def told(port: int, message: str) -> hl7.Message:
    with MLLPClient("127.0.0.1", port) as sender:
        return hl7.parse(sender.send_message(message).decode().strip("\x0b\x1c\r") + "\r")


def test_results_orders_and_patients(place: tuple[TestClient, int]) -> None:
    client, port = place
    archive = client.app.state.house.archive  # type: ignore[attr-defined]
    for message, control in ((ORU, "M1"), (ORM, "M2"), (ADT, "M3"), (ORU, "M1")):
        ack = told(port, message)
        assert [str(ack.segment("MSA")[n]) for n in (1, 2)] == ["AA", control]
    assert str(told(port, ORU).segment("MSH")[9]) == "ACK^R01^ACK"
    items = {i.name: i for i in archive.items("P7")}
    assert items["Creatinine"].value == 1.3 and items["Order: MRI brain with contrast"].date == "2026-11-03" and len(items) == 2
    assert archive.patient("P8").birth_date == "1955-05-05"
    assert "Jane" not in str(client.get("/v1/audit").json())


@pytest.mark.parametrize(("message", "code", "error"), [
    (ORU.replace("ORU^R01^ORU_R01", "SIU^S12"), "AR", "200"), (ADT.replace("A08", "A40"), "AR", "201"), (ORU.replace("P7^^^HOSP", ""), "AE", "101"),
    (ORU.split("OBX")[0], "AE", "101"), (ORM.replace("MRBRAIN^MRI brain with contrast^L", ""), "AE", "101"), ("PID|1||P7\r", "AR", "100"),
    ("MSH|^~\\&|A\r", "AR", "200"),
])  # fmt: skip
def test_what_is_not_taken(place: tuple[TestClient, int], message: str, code: str, error: str) -> None:
    client, port = place
    ack = told(port, message)
    assert str(ack.segment("MSA")[1]) == code and str(ack.segment("ERR")[3]).startswith(f"{error}^")
    assert client.get("/v1/patients").json() == []


def test_senders_that_break_off(place: tuple[TestClient, int]) -> None:
    client, port = place
    for data in (b"\x0b" + ORU.encode()[:80], b"no start " + ORU.encode() + b"\x1c\r", b"GET / HTTP/1.1\r\n\r\n", b""):
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(data)
            raw.shutdown(socket.SHUT_WR)
            raw.settimeout(10)
            while raw.recv(4096):
                pass
    assert client.get("/v1/patients").json() == []
    assert str(told(port, ORU).segment("MSA")[1]) == "AA"  # alive
    with MLLPClient("127.0.0.1", port) as sender:  # several on one connection
        assert all(b"MSA|AA" in sender.send_message(m) for m in (ORU, ORM, ADT))


def test_hosts_that_are_not_on_the_list(tmp_path: Path) -> None:
    port = free_port()
    settings = Settings(data=tmp_path / "data", no_auth=True, mllp_port=port, mllp_allowed=["10.9.9.9"])
    with TestClient(create_app(settings)) as client:
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.settimeout(10)
            assert raw.recv(10) == b""
        assert client.get("/v1/patients").json() == []


def test_nobody_could_send(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mllp_allowed"):
        Settings(data=tmp_path, mllp_port=2575)


def test_a_receiver_that_refuses(place: tuple[TestClient, int]) -> None:
    _, port = place
    send(f"127.0.0.1:{port}", ORU.encode())
    with pytest.raises(NotAccepted, match="AR"):
        send(f"127.0.0.1:{port}", ORU.replace("ORU^R01", "SIU^S12").encode())
    with pytest.raises(OSError):
        send(f"127.0.0.1:{free_port()}", ORU.encode())
