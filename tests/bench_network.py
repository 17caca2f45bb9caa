"""The hospital's network in `make bench`: C-STORE beside Orthanc's where it is installed, CDS Hooks, FHIR, memory for a study of 2,000 instances."""

import io
import json
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pydicom
from pydicom.uid import CTImageStorage

from tests.bench import served
from tests.bench_dicomweb import WARM_S, copies
from tests.bench_intake import ct_slices
from tests.serving.browser import free_port
from tests.serving.test_dicomweb import body

EACH = 200
LARGE = 2000
REPORT = "DATE: {day}\nFINDINGS: Solid nodule of the right upper lobe, 7 mm.\nIMPRESSION: Solid nodule, 7 mm. CT of the chest in 6 to 12 months is recommended."


def cstored(folder: Path, port: int, title: str, clients: int, file: Path, found: Callable[[], int] | None = None) -> float:
    """Instances a second over `clients` associations of dcmtk's storescu, all answered with success, until `found` counts them all."""
    sent = []
    for _ in range(clients):
        sent.append(folder / uuid.uuid4().hex)
        sent[-1].mkdir()
        for n, data in enumerate(copies(file, EACH)):
            one = pydicom.dcmread(io.BytesIO(data))
            one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = CTImageStorage
            one.save_as(sent[-1] / f"{n}.dcm")
    wanted = found() + clients * EACH if found else 0
    command = ["storescu", "-aet", "BENCH", "-aec", title, "127.0.0.1", str(port), "+sd"]
    start = time.perf_counter()
    running = [subprocess.Popen([*command, str(one)]) for one in sent]
    assert [r.wait() for r in running] == [0] * clients
    assert found is None or found() == wanted, "not everything that was stored is found"
    seconds = time.perf_counter() - start
    for one in sent:
        shutil.rmtree(one)
    return clients * EACH / seconds


def indexed(url: str) -> int:
    """Instances that are found by QIDO."""
    told = httpx.get(
        f"{url}/dicom-web/studies", params={"includefield": "NumberOfStudyRelatedInstances"}, timeout=60, trust_env=False
    )
    return sum(s["00201208"]["Value"][0] for s in told.json()) if told.status_code == 200 else 0


@contextmanager
def orthanc(folder: Path) -> Iterator[int]:
    """Debian's Orthanc on a DICOM port."""
    port, http = free_port(), free_port()
    config = folder / "orthanc.json"
    config.write_text(json.dumps({"StorageDirectory": str(folder / "o"), "IndexDirectory": str(folder / "o"), "HttpPort": http, "DicomPort": port,
                                  "DicomAet": "ORTHANC", "DicomCheckCalledAet": False, "Plugins": [], "AuthenticationEnabled": False}))  # fmt: skip
    running = subprocess.Popen(["Orthanc", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                httpx.get(f"http://127.0.0.1:{http}/system", trust_env=False)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield port
    finally:
        running.terminate()
        running.wait()


def hooks(url: str) -> dict[str, float]:
    """95th percentiles of CDS Hooks and FHIR searches for a patient with twenty reports and a study."""

    def p95(call: object) -> float:
        seconds = []
        for _ in range(110):
            start = time.perf_counter()
            reply = call()  # type: ignore[operator]
            seconds.append(time.perf_counter() - start)
            assert reply.status_code == 200, reply.text
        return 1000 * float(np.percentile(seconds[10:], 95))

    with httpx.Client(base_url=url, timeout=60) as client:
        for n in range(20):
            files = {"files": (f"r{n}.txt", REPORT.format(day=f"20{10 + n // 2}-0{n % 9 + 1}-15").encode())}
            client.post("/v1/studies", files=files, data={"patient_id": "CDS"}).raise_for_status()
        order = {
            "resourceType": "Bundle",
            "entry": [{"resource": {"resourceType": "ServiceRequest", "id": "1", "code": {"text": "CT chest with contrast"}}}],
        }
        found = {}
        for hook, context in (("patient-view", {}), ("order-select", {"draftOrders": order, "selections": ["ServiceRequest/1"]})):
            asked = {"hook": hook, "hookInstance": str(uuid.uuid4()), "context": {"patientId": "CDS", **context}}
            found[f"cds_{hook.replace('-', '_')}_p95_ms"] = p95(lambda h=hook, a=asked: client.post(f"/cds-services/{h}", json=a))
        found["fhir_documents_of_patient_p95_ms"] = p95(lambda: client.get("/fhir/DocumentReference?patient=CDS&_count=50"))
    return found


def resident(url: str) -> int:
    """The server's largest resident memory, MiB."""
    port = url.rsplit(":", 1)[1]
    told = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    (pid, *_) = [line.split()[0] for line in told.splitlines() if f"--port {port}" in line and "serving" in line]
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) >> 10


def large(url: str, file: Path) -> dict[str, float]:
    """Memory that a study of LARGE instances needs beyond that of one of EACH, stored in one body and fetched back whole."""
    found = {}
    with httpx.Client(base_url=url, timeout=600) as client:
        for name, count in (("few", EACH), ("many", LARGE)):
            files = copies(file, count)
            study = pydicom.dcmread(io.BytesIO(files[0]), stop_before_pixels=True).StudyInstanceUID
            data, headers = body(files)
            del files
            client.post("/dicom-web/studies", content=data, headers=headers).raise_for_status()
            size = 0
            with client.stream(
                "GET",
                f"/dicom-web/studies/{study}",
                headers={"accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'},
            ) as reply:
                reply.raise_for_status()
                for chunk in reply.iter_raw():
                    size += len(chunk)
            assert size > 0.9 * len(data)
            found[f"study_{name}_resident_mb"] = float(resident(url))
    return {**found, "study_2000_more_memory_mb": found["study_many_resident_mb"] - found["study_few_resident_mb"]}


def figures() -> dict[str, float]:
    """All of it."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "ct").mkdir()
        (slice_,) = ct_slices(folder / "ct", 1, PatientID="BENCH", PatientName="Bench^CT")
        port = free_port()
        os.environ |= {"CONSILIUM_DIMSE_PORT": str(port), "CONSILIUM_DIMSE_PEERS": '{"BENCH": "127.0.0.1:9"}'}
        try:
            with served(folder / "ours", 8540) as (url, _):
                time.sleep(WARM_S)
                if shutil.which("storescu") is None:
                    raise SystemExit("C-STORE is measured with dcmtk's storescu: install dcmtk")
                found["cstore_instances_s_1_client"] = cstored(folder, port, "CONSILIUM", 1, slice_, partial(indexed, url))
                found["cstore_instances_s_4_clients"] = cstored(folder, port, "CONSILIUM", 4, slice_, partial(indexed, url))
                found |= hooks(url)
        finally:
            os.environ.pop("CONSILIUM_DIMSE_PORT")
            os.environ.pop("CONSILIUM_DIMSE_PEERS")
        with served(folder / "large", 8541) as (url, _):
            found |= large(url, slice_)
        if shutil.which("Orthanc"):
            with orthanc(folder) as theirs:
                found["orthanc_cstore_instances_s_1_client"] = cstored(folder, theirs, "ORTHANC", 1, slice_)
                found["orthanc_cstore_instances_s_4_clients"] = cstored(folder, theirs, "ORTHANC", 4, slice_)
    return found


if __name__ == "__main__":
    print(json.dumps(figures(), indent=1))
