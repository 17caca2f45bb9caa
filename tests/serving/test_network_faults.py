"""Hostile and broken senders on every door: refused, the server alive, nothing half-stored."""

import io
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, MRImageStorage

from serving.app import create_app
from serving.settings import Settings
from tests.serving.browser import free_port, running
from tests.serving.test_dicomweb import body, series
from tests.serving.test_dimse import associated, sent


@pytest.fixture
def doors(tmp_path: Path) -> Iterator[tuple[Any, int, int]]:
    """The app, its HTTP port and its DIMSE port."""
    http, dimse = free_port(), free_port()
    app = create_app(Settings(data=tmp_path / "data", no_auth=True, dimse_port=dimse, dimse_peers={"TEST": "127.0.0.1:9"}))
    with running(app, http):
        yield app, http, dimse


def nested(depth: int) -> bytes:
    """An instance with sequences `depth` deep behind its pixels, as bytes: pydicom itself can't write them."""
    tag, item = struct.pack("<HH", 0x7FE1, 0x1010), struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    opened = (tag + b"SQ\0\0\xff\xff\xff\xff" + item) * depth
    closed = (struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)) * depth
    return series("DEEP")[0] + opened + closed


def deflated_bomb() -> bytes:
    """Some hundred KB that become 200 MB."""
    one = pydicom.dcmread(io.BytesIO(series("BOMB")[0]))
    one.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    one.save_as(buffer := io.BytesIO())
    whole = buffer.getvalue()
    start = 144 + struct.unpack("<I", whole[140:144])[0]  # preamble, DICM, (0002,0000) and what it says follows
    plain = zlib.decompressobj(-15).decompress(whole[start:])
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = struct.pack("<HH2sHI", 0x7FE1, 0x1010, b"OB", 0, 200 * 2**20)
    packed = packer.compress(plain + zeros)
    for _ in range(200):
        packed += packer.compress(bytes(2**20))
    return whole[:start] + packed + packer.flush()


def count(app: Any) -> int:
    return sum(
        s.instances for p in app.state.house.archive.patient_ids() for st in app.state.house.archive.studies(p) for s in st.series
    )


def alive(http: int, dimse: int) -> None:
    assert sent(dimse, series("P1")) == [0x0000] * 5
    with socket.create_connection(("127.0.0.1", http), 10) as raw:
        raw.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"200" in raw.recv(100)


def test_deep_sequences_and_bombs(doors: tuple[Any, int, int]) -> None:
    _, http, dimse = doors
    import httpx

    with httpx.Client(base_url=f"http://127.0.0.1:{http}", timeout=120) as web:
        for file in (nested(50), nested(5000), deflated_bomb()):
            data, headers = body([file])
            reply = web.post("/dicom-web/studies", content=data, headers=headers)
            assert reply.status_code in (200, 400, 409), reply.text[:300]
            upload = web.post("/v1/studies", files=[("files", ("x.dcm", file))])
            assert upload.status_code in (201, 422)
        deep = json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": []}).replace("[]", "[" * 5000 + "]" * 5000)
        assert web.post("/fhir", content=deep, headers={"content-type": "application/fhir+json"}).status_code in (400, 422)
    alive(http, dimse)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the client's thread, aborted while it sends
def test_associations_that_are_aborted_half_way(doors: tuple[Any, int, int]) -> None:
    app, http, dimse = doors
    files = series("HALF")
    link = associated(dimse, MRImageStorage)
    assert link.send_c_store(pydicom.dcmread(io.BytesIO(files[0]))).Status == 0x0000
    link.abort()
    assert count(app) == 1  # what was answered with success is there
    link = associated(dimse, MRImageStorage)
    thread = threading.Thread(target=lambda: _quietly(link, files[1]), daemon=True)
    thread.start()
    link.abort()
    thread.join(2)
    with socket.create_connection(("127.0.0.1", dimse)) as raw:  # half a PDU, then gone
        raw.sendall(b"\x01\x00\x00\x00\x10\x00" + b"x" * 100)
    with socket.create_connection(("127.0.0.1", dimse)) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
    time.sleep(0.5)
    assert count(app) in (1, 2)
    folder = app.state.house.settings.data / "archive" / "objects" / ".part"
    assert not [p for p in folder.iterdir() if p.suffix != ".journal"]
    alive(http, dimse)


def _quietly(link: Any, file: bytes) -> None:
    with suppress(Exception):  # the association was aborted under it
        link.send_c_store(pydicom.dcmread(io.BytesIO(file)))


@pytest.mark.parametrize("path", ["/dicom-web/studies", "/v1/studies", "/fhir", "/mcp", "/auth/token", "/v1/chat/completions"])
def test_chunked_bodies_that_are_cut_off(doors: tuple[Any, int, int], path: str) -> None:
    app, http, dimse = doors
    data, headers = body(series("CUT"))
    kinds = {
        "/dicom-web/studies": headers["content-type"],
        "/v1/studies": "multipart/form-data; boundary=b0",
        "/auth/token": "application/x-www-form-urlencoded",
    }
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\nContent-Type: {kinds.get(path, 'application/json')}\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", http)) as raw:
        raw.sendall(head.encode() + f"{len(data):x}\r\n".encode() + data[: len(data) // 2])
    with socket.create_connection(("127.0.0.1", http)) as raw:  # a length that no body follows
        raw.sendall(head.replace("Transfer-Encoding: chunked", "Content-Length: 100000").encode())
    time.sleep(0.3)
    assert app.state.house.archive.patient_ids() == []
    alive(http, dimse)


def test_zip_of_a_request_body(doors: tuple[Any, int, int]) -> None:
    _, http, dimse = doors
    import gzip

    import httpx

    for path in ("/fhir", "/v1/studies", "/dicom-web/studies", "/mcp"):
        reply = httpx.post(
            f"http://127.0.0.1:{http}{path}", content=gzip.compress(b"0" * 2**20), headers={"content-encoding": "gzip"}
        )
        assert reply.status_code == 415, path
    alive(http, dimse)
