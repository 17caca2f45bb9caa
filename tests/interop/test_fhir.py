"""Resources of a real case against R4's StructureDefinitions, as Medplum holds them."""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from serving.app import create_app
from serving.settings import Settings
from tests.serving.test_dicomweb import series, stored
from tests.serving.test_fhir import PATIENT, transaction

pytestmark = pytest.mark.interop


async def test_every_resource_is_valid(clients: Path, data_with_sample: Path, tmp_path: Path) -> None:
    """The sample case with an answer, a draft, a signed report; a DICOM study; what an EHR sent."""
    with TestClient(create_app(Settings(data=data_with_sample, no_auth=True))) as client:
        assert stored(client, series("P1", PatientBirthDate="19600101")).status_code == 200
        assert client.post("/fhir", json=transaction()).status_code == 200
        opened = client.post("/v1/conversations", json={"patient_id": PATIENT}).json()["id"]
        assert client.post(f"/v1/conversations/{opened}/messages", json={"text": "How big is the tumour?"}).status_code == 200
        for _ in range(2):
            made = client.post("/v1/tools/draft_report", json={"patient_id": PATIENT, "arguments": {}}).json()
            assert made["status"] == "ok", made
        draft = client.get(f"/v1/drafts?patient_id={PATIENT}").json()[0]
        shown = client.get(f"/v1/drafts/{draft['id']}").json()
        sentences = [{k: s[k] for k in ("part", "text", "evidence")} for s in shown["sentences"] if s["by"] != "open"]
        edited = client.put(f"/v1/drafts/{draft['id']}", json={"version": shown["version"], "sentences": sentences}).json()
        signed = client.post(f"/v1/drafts/{draft['id']}/sign", json={"name": "Dr Test Reader", "version": edited["version"]})
        assert signed.status_code == 200, signed.text
        resources = [client.get("/fhir/metadata").json()]
        for kind in [r["type"] for r in resources[0]["rest"][0]["resource"]]:
            found = client.get(f"/fhir/{kind}?_count=500").json()
            resources += [found, *(e["resource"] for e in found.get("entry", []))]
        study = next(r for r in resources if r["resourceType"] == "ImagingStudy" and r["meta"].get("tag"))
        resources.append(client.get(f"/fhir/ImagingStudy/{study['id']}").json())
        resources.append(client.get("/fhir/Nothing").json())
        resources.append(client.get(f"/v1/conversations/{opened}/export?format=fhir").json())
        resources.append(client.get(f"/v1/drafts/{draft['id']}/export?form=fhir").json())
    file = tmp_path / "resources.ndjson"
    file.write_text("\n".join(json.dumps(r) for r in resources))
    script = Path(__file__).with_name("validate_fhir.mjs")
    modules = clients / "npm" / "node_modules"
    command = (str(modules / ".bin" / "node"), str(script), str(modules), str(file))
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["wrong"] == [], "\n".join(told["wrong"][:40])
    kinds = {
        "Patient",
        "ImagingStudy",
        "DiagnosticReport",
        "Observation",
        "DocumentReference",
        "Provenance",
        "AuditEvent",
        "Bundle",
        "Device",
        "Endpoint",
    }
    assert kinds <= set(told["seen"]), told["seen"]
