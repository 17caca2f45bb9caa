"""Debian's dcmtk and Orthanc against our DIMSE node, in both directions."""

import asyncio
import io
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pydicom
import pytest
from fastapi.testclient import TestClient

from serving.app import create_app
from serving.priors import Priors
from serving.settings import Settings
from tests.serving.browser import free_port
from tests.serving.test_dicomweb import series, stored, uids
from tests.serving.test_outgoing import signed, waited

pytestmark = pytest.mark.interop


@dataclass
class Site:
    """Our node, and where the others listen."""

    client: TestClient
    port: int
    storescp: int
    orthanc: int
    files: list[bytes]
    folder: Path


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    for program in ("storescu", "Orthanc"):
        if shutil.which(program) is None:
            pytest.fail(f"{program} isn't installed: make interop-test")
    port, storescp, orthanc = free_port(), free_port(), free_port()
    peers = {"DCMTK": f"127.0.0.1:{storescp}", "ORTHANC": f"127.0.0.1:{orthanc}"}
    files = series("P1")
    folder = tmp_path / "sent"
    folder.mkdir()
    for number, file in enumerate(files):
        (folder / f"{number}.dcm").write_bytes(file)
    with TestClient(create_app(Settings(data=tmp_path / "data", no_auth=True, dimse_port=port, dimse_peers=peers))) as client:
        yield Site(client, port, storescp, orthanc, files, folder)


async def run(*command: str) -> str:
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command[0]}: {done.stdout[-1500:]}{done.stderr[-1500:]}"
    return done.stdout + done.stderr


def same(folder: Path, files: list[bytes]) -> bool:
    """Whether the folder holds these instances, pixel for pixel."""
    came = {d.SOPInstanceUID: d for d in (pydicom.dcmread(p, force=True) for p in folder.iterdir() if p.is_file())}
    return set(came) == {uids(f)[2] for f in files} and all(came[d.SOPInstanceUID].PixelData == d.PixelData for d in _read(files))


def _read(files: list[bytes]) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(io.BytesIO(f)) for f in files]


async def test_dcmtk(site: Site, tmp_path: Path) -> None:
    node = ["-aet", "DCMTK", "-aec", "CONSILIUM", "127.0.0.1", str(site.port)]
    await run("echoscu", *node)
    await run("storescu", *node, *map(str, sorted(site.folder.iterdir())))
    study, one, _ = uids(site.files[0])
    told = await run(
        "findscu",
        "-S",
        *node,
        "-k",
        "QueryRetrieveLevel=STUDY",
        "-k",
        "PatientID=P1",
        "-k",
        "StudyInstanceUID",
        "-k",
        "PatientName",
    )
    assert study in told
    got = tmp_path / "got"
    got.mkdir()
    level = ["-k", "QueryRetrieveLevel=SERIES", "-k", f"StudyInstanceUID={study}", "-k", f"SeriesInstanceUID={one}"]
    await run("getscu", "-S", "-od", str(got), *node, *level)
    assert same(got, site.files)
    moved = tmp_path / "moved"
    moved.mkdir()
    listening = subprocess.Popen(["storescp", "-aet", "DCMTK", "-od", str(moved), str(site.storescp)])
    try:
        await asyncio.sleep(1)
        await run("movescu", "-S", "-aem", "DCMTK", *node, *level)
    finally:
        listening.terminate()
        listening.wait()
    assert same(moved, site.files)
    refused = await asyncio.to_thread(subprocess.run, ["echoscu", "-aet", "STRANGER", *node[2:]], capture_output=True)
    assert refused.returncode != 0


@asynccontextmanager
async def orthanc_at(site: Site, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A running Orthanc that knows us; its HTTP API."""
    http = free_port()
    config = folder / "orthanc.json"
    config.write_text(json.dumps({
        "Name": "test", "StorageDirectory": str(folder / "orthanc"), "IndexDirectory": str(folder / "orthanc"), "HttpPort": http,
        "DicomPort": site.orthanc, "DicomAet": "ORTHANC", "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "Plugins": [],
        "DicomModalities": {"consilium": ["CONSILIUM", "127.0.0.1", site.port]},
    }))  # fmt: skip
    running = subprocess.Popen(["Orthanc", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{http}", timeout=60, trust_env=False) as orthanc:
            for _ in range(100):
                try:
                    await orthanc.get("/system")
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.2)
            yield orthanc
    finally:
        running.terminate()
        running.wait()


async def test_orthanc_sends_to_us_searches_here_and_fetches(site: Site, tmp_path: Path) -> None:
    async with orthanc_at(site, tmp_path) as orthanc:
        for file in site.files:
            assert (await orthanc.post("/instances", content=file)).status_code == 200
        assert (await orthanc.post("/modalities/consilium/echo")).status_code == 200
        (study,) = (await orthanc.get("/studies")).json()
        sent = (await orthanc.post("/modalities/consilium/store", content=study)).json()
        assert sent["FailedInstancesCount"] == 0 and sent["InstancesCount"] == 5
        assert site.client.get("/v1/patients").json() == ["P1"]
        assert (await orthanc.delete(f"/studies/{study}")).status_code == 200
        asked = (await orthanc.post("/modalities/consilium/query", json={"Level": "Study", "Query": {"PatientID": "P1"}})).json()[
            "ID"
        ]
        assert (await orthanc.get(f"/queries/{asked}/answers")).json() == ["0"]
        assert (await orthanc.post(f"/queries/{asked}/retrieve", content="ORTHANC")).status_code == 200
        for _ in range(50):
            instances = (await orthanc.get("/instances")).json()
            if len(instances) == 5:
                break
            await asyncio.sleep(0.2)
        back = tmp_path / "back"
        back.mkdir()
        for name in instances:
            (back / name).write_bytes((await orthanc.get(f"/instances/{name}/file")).content)
        assert same(back, site.files)


async def test_orthanc_gives_priors_gets_our_report_and_commits(site: Site, tmp_path: Path) -> None:
    """C-FIND and C-GET from it, C-STORE and storage commitment to it."""
    old = series("P1", date="20230101", BodyPartExamined="BRAIN", StudyInstanceUID="1.2.3.4.5")
    settings = {"priors_from": ["ORTHANC"], "route_results_to": ["ORTHANC"], "commit_by": ["ORTHANC"]}
    async with orthanc_at(site, tmp_path) as orthanc:
        for file in old:
            assert (await orthanc.post("/instances", content=file)).status_code == 200
        site.client.app.state.house.settings.__dict__.update(settings)  # type: ignore[attr-defined]
        house = site.client.app.state.house  # type: ignore[attr-defined]
        Priors(house)
        assert stored(site.client, site.files).status_code == 200
        await asyncio.to_thread(waited, lambda: {s.date for s in house.archive.studies("P1")} >= {"2023-01-01"})
        [prior] = [s for s in house.archive.studies("P1") if s.date == "2023-01-01"]
        await asyncio.to_thread(waited, lambda: house.archive.study(prior.id).series[0].instances == 5)
        before = len((await orthanc.get("/instances")).json())
        name = await asyncio.to_thread(signed, site.client)
        await asyncio.to_thread(waited, lambda: site.client.get("/v1/outgoing?status=sent").json())
        instances = (await orthanc.get("/instances")).json()
        assert len(instances) == before + 1
        tags = [(await orthanc.get(f"/instances/{i}/simplified-tags")).json() for i in instances]
        assert any(t["Modality"] == "SR" and t["PatientID"] == "P1" for t in tags), name
        await asyncio.to_thread(waited, lambda: [e for e in house.archive.audit() if e.action == "storage commitment"])
        [entry] = [e for e in house.archive.audit() if e.action == "storage commitment"]
        assert entry.detail == {"kept": 1, "missing": 0}
