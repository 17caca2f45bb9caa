"""Studies over HTTP and by command: many files, what is asked and corrected, lists in pages, exports, the audit, uploads that lie."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from agent.testing import dicom_series
from knowledge.studies import nifti
from knowledge.studies.volume import Volume
from serving.app import create_app
from serving.settings import Settings
from tests.serving.test_cli import run


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    settings = Settings(data=tmp_path / "data", no_auth=True, max_upload_mb=8)
    with TestClient(create_app(settings), raise_server_exceptions=False) as made:
        yield made


def volume_file(level: int = 500) -> bytes:
    array = np.random.default_rng(level).normal(level, 90, (8, 8, 4)).astype(np.float32)
    return nifti.to_bytes(Volume(array, np.eye(4)))


def test_more_files_than_a_form_parser_takes_by_itself(client: TestClient) -> None:
    slices = dicom_series(np.ones((8, 8, 40), np.uint16), np.diag([1.0, 1, 2, 1]), patient_id="MANY")
    files = [("files", (f"{n}.dcm", f)) for n, f in enumerate(slices)]
    files += [("files", (f"{n}.txt", b"FINDINGS: none.")) for n in range(1200)]
    done = client.post("/v1/studies", files=files).json()
    assert done["studies"][0]["series"][0]["shape"] == [8, 8, 40] and done["studies"][0]["series"][0]["reasons"]


def test_what_files_do_not_say_is_asked_and_corrected(client: TestClient) -> None:
    dicom = dicom_series(np.ones((8, 8, 1), np.uint16), np.eye(4), patient_id="P7", date="20200101")[0]
    named = client.post("/v1/studies", files={"files": ("a", dicom)}).json()["studies"][0]["id"]
    (ask,) = client.post("/v1/studies", files={"files": ("x.nii.gz", volume_file())}).json()["asks"]
    assert ask["missing"] == ["patient_id", "study_date", "modality"] and "PATCH" in ask["hint"]
    said = {"patient_id": "P7", "study_date": "2026-02-03", "modality": "MR"}
    mended = client.patch(f"/v1/studies/{ask['study_id']}", json=said).json()
    assert (mended["patient_id"], mended["date"], mended["modalities"]) == ("P7", "2026-02-03", ["MR"])
    assert client.patch(f"/v1/studies/{named}", json={"patient_id": "OTHER"}).status_code == 422
    assert client.patch(f"/v1/studies/{named}", json={"modality": "CT"}).status_code == 422
    assert client.patch(f"/v1/studies/{ask['study_id']}", json={"study_date": "2026-02-33"}).status_code == 422
    later = client.get("/v1/studies?patient_id=P7&modality=MR&since=2026-02-01").json()
    assert [s["id"] for s in later] == [ask["study_id"]]
    first = client.get("/v1/studies?limit=1")
    assert [s["date"] for s in first.json()] == ["2026-02-03"] and first.headers["x-next-offset"] == "1"
    last = client.get("/v1/studies?limit=1&offset=1")
    assert [s["id"] for s in last.json()] == [named] and "x-next-offset" not in last.headers


def test_an_export_is_de_identified_and_audited(client: TestClient) -> None:
    slices = dicom_series(np.ones((8, 8, 2), np.uint16), np.eye(4), patient_id="EXPO", name="Muster^Erika")
    study = client.post("/v1/studies", files=[("files", (f"{n}.dcm", f)) for n, f in enumerate(slices)]).json()["studies"][0][
        "id"
    ]
    for profile, telling in (("basic", False), ("none", True)):
        reply = client.get(f"/v1/studies/{study}/export.zip?profile={profile}")
        with zipfile.ZipFile(io.BytesIO(reply.content)) as packed:
            held = [packed.read(n) for n in packed.namelist()]
        assert len(held) == 2 and all((b"Muster" in h and b"EXPO" in h) == telling for h in held)
    assert client.get(f"/v1/studies/{study}/export.zip?option=faces").status_code == 422
    assert client.get("/v1/studies/none/export.zip").status_code == 404
    assert client.delete(f"/v1/studies/{study}").status_code == 204
    acts = client.get(f"/v1/audit?subject={study}").json()
    assert [a["action"] for a in acts] == ["delete", "export", "export"] and "EXPO" not in str(acts)


def test_an_upload_without_a_length_is_counted_as_it_comes(client: TestClient, tmp_path: Path) -> None:
    def body() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
        for _ in range(200):
            yield b"0" * 65536

    reply = client.post("/v1/studies", content=body(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert reply.status_code == 413 and reply.headers["content-type"] == "application/problem+json"
    for kind in ("text/plain", "multipart/form-data", "multipart/form-data; boundary=x"):
        broken = client.post("/v1/studies", content=b"--x\r\nnonsense", headers={"content-type": kind})
        assert broken.status_code == 422 and broken.json()["hint"]
    assert not [p for p in (tmp_path / "data" / "archive" / "objects").rglob("*") if p.is_file()]


def test_a_disk_that_takes_nothing_is_a_507(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    def full(handle: int, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    dicom = dicom_series(np.ones((8, 8, 1), np.uint16), np.eye(4))[0]
    reply = client.post("/v1/studies", files={"files": ("a", dicom)})
    assert reply.status_code == 507 and "No space left" in reply.json()["detail"] and "nothing of it" in reply.json()["hint"]
    monkeypatch.undo()
    assert client.get("/v1/studies").json() == []


@pytest.mark.slow
def test_export_audit_and_reidentify_by_command(tmp_path: Path) -> None:
    data = ["--data", str(tmp_path / "data")]
    (tmp_path / "a.dcm").write_bytes(dicom_series(np.ones((8, 8, 1), np.uint16), np.eye(4), patient_id="CLI-1")[0])
    done = run("import", str(tmp_path / "a.dcm"), *data)
    study = done.stdout.split()[1]
    out = run("export", study, "--out", str(tmp_path / "x.zip"), "--profile", "research", *data)
    assert out.returncode == 0 and "1 files" in out.stdout, out.stderr
    import pydicom

    with zipfile.ZipFile(tmp_path / "x.zip") as packed:
        pseudonym = pydicom.dcmread(io.BytesIO(packed.read(packed.namelist()[0]))).PatientID
    assert run("reidentify", pseudonym, *data).stdout.strip() == "CLI-1"
    assert run("reidentify", "ANON-NOBODY", *data).returncode == 3
    shown = run("audit", "show", *data).stdout
    assert [line.split()[3] for line in shown.splitlines()] == ["reidentify", "export", "import"] and "CLI-1" not in shown
    assert run("audit", "verify", *data).returncode == 0
    assert run("export", study, "--out", str(tmp_path / "x.zip"), *data).returncode == 2, (
        "a file that is there isn't written over"
    )
    assert run("export", "none", "--out", str(tmp_path / "y.zip"), *data).returncode == 3
