"""What the page reads: frames as numbers, masks, how a series is shown; suggestions, branches, search, exports; the page's own words."""

import io
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from fastapi.testclient import TestClient

from agent.suggest import _questions
from agent.testing import dicom_series
from knowledge import sample
from knowledge.studies import frames
from knowledge.studies.archive import Archive
from knowledge.studies.unpack import Incoming
from knowledge.studies.volume import Volume
from serving.access.keys import KeyRing
from serving.app import WEB, create_app
from serving.settings import Settings
from tests.conftest import shared


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(data=tmp_path / "data", no_auth=True)), raise_server_exceptions=False) as made:
        yield made


@pytest.fixture
def sample_client(data_with_sample: Path) -> Iterator[TestClient]:
    key = {"Authorization": f"Bearer {KeyRing(data_with_sample / 'access').local()}"}
    with TestClient(create_app(Settings(data=data_with_sample)), headers=key, raise_server_exceptions=False) as made:
        yield made


def test_frames_are_the_stored_values_with_their_scale(client: TestClient) -> None:
    values = np.random.default_rng(1).integers(0, 3000, (12, 10, 7)).astype(np.uint16)
    slices = dicom_series(values, np.diag([1.5, 2.0, 3.0, 1]), patient_id="P")
    study = client.post("/v1/studies", files=[("files", (f"{n}.dcm", f)) for n, f in enumerate(slices)]).json()["studies"][0]
    base = f"/v1/studies/{study['id']}/series/{study['series'][0]['id']}"
    shown = client.get(f"{base}/display").json()
    assert (shown["columns"], shown["rows"], shown["frames"], shown["colour"]) == (12, 10, 7, False)
    assert shown["pixel_mm"] == [1.5, 2.0] and shown["slice_mm"] == 3.0 and shown["masks"] == [] and len(shown["sides"]) == 4
    body = client.get(f"{base}/frames.bin?first=2&count=3").content
    told = np.frombuffer(body, "<i2").reshape(3, 10, 12) * shown["slope"] + shown["intercept"]
    whole = np.frombuffer(client.get(f"{base}/frames.bin?first=0&count=64").content, "<i2").reshape(7, 10, 12)
    assert (told == whole[2:5] * shown["slope"] + shown["intercept"]).all()
    assert sorted(np.unique(whole)) == sorted(np.unique(values.astype(int)))
    assert (
        client.get(f"{base}/frames.bin?first=7").status_code == 404
        and client.get(f"{base}/frames.bin?count=65").status_code == 422
    )
    assert client.get(f"{base}/masks/no.nii.gz/frames.bin").status_code == 404
    assert client.get(f"{base}/volume.nii.gz?at_most=8").status_code == 422  # below what is useful


def test_slices_that_lie_in_their_files_are_read_one_by_one_and_are_those_of_the_whole_volume(tmp_path: Path) -> None:
    values = np.random.default_rng(2).integers(-1000, 2000, (12, 10, 7)).astype(np.int16)
    archive = Archive(tmp_path / "archive")
    series = (
        archive.add([Incoming(f"{n}.dcm", f) for n, f in enumerate(_windowed(dicom_series(values, np.eye(4))))])
        .studies[0]
        .series[0]
    )
    place, whole = archive.in_place(series.id), archive.volume(series.id)
    assert place is not None and (place.part(slice(2, 5)).array == whole.array[:, :, 2:5]).all()
    assert vars(frames.shown(place.like)) == vars(frames.shown(whole)) and place.like.sop_instance_uids == whole.sop_instance_uids
    scaled = archive.add([Incoming(f"{n}.dcm", f) for n, f in enumerate(_windowed(dicom_series(values, np.eye(4)), slope="0.5"))])
    assert archive.in_place(scaled.studies[-1].series[0].id) is None  # the range of its values isn't known before all are read


def _windowed(files: list[bytes], slope: str = "1") -> list[bytes]:
    made = []
    for file in files:
        instance = pydicom.dcmread(io.BytesIO(file))
        instance.WindowCenter, instance.WindowWidth, instance.RescaleSlope, instance.RescaleIntercept = 40, 400, slope, -24
        instance.BitsStored, instance.HighBit = 12, 11
        instance.save_as(buffer := io.BytesIO())
        made.append(buffer.getvalue())
    return made


def test_the_page_asks_for_all_its_modules_at_once() -> None:
    preloaded = set(re.findall(r'rel="modulepreload" href="/web/([^"]+)"', (WEB / "index.html").read_text(encoding="utf-8")))
    parts = {str(f.relative_to(WEB)) for folder in ("lib", "parts", "words") for f in (WEB / folder).glob("*.js")}
    assert preloaded == parts | {"vendor/ui.js"}


def test_values_that_need_more_than_sixteen_bits_keep_their_order_and_nearly_their_size() -> None:
    values = np.linspace(-5.0, 1e6, 8 * 8 * 4).reshape(8, 8, 4).astype(np.float32)
    stack = Volume(values, np.eye(4))
    scale = frames.scale_of(stack)
    told = (
        np.frombuffer(frames.values_of(stack, scale), "<i2").reshape(4, 8, 8).transpose(2, 1, 0) * scale.slope + scale.intercept
    )
    assert np.abs(told - values).max() <= scale.slope and frames.scale_of(
        Volume(np.round(values % 1000), np.eye(4))
    ) == frames.Scale(1.0, 0.0)


def test_colours_come_as_three_bytes_and_thinning_keeps_the_place() -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (6, 5, 2, 3)).astype(np.uint8)
    stack = Volume(rgb.mean(-1), None, rgb=rgb)
    assert (
        np.frombuffer(frames.values_of(stack.part(slice(1, 2)), frames.scale_of(stack)), np.uint8).reshape(5, 6, 3)
        == rgb[:, :, 1].transpose(1, 0, 2)
    ).all()
    assert frames.shown(stack).colour and frames.shown(stack).pixel_mm is None
    volume = Volume(np.arange(90 * 80 * 20, dtype=np.float32).reshape(90, 80, 20), np.diag([0.5, 0.5, 2.0, 1]))
    thin = frames.thinned(volume, 40)
    assert max(thin.array.shape) <= 40 and thin.affine is not None
    at = thin.affine @ [10, 10, 5, 1]
    assert thin.array[10, 10, 5] == volume.array[tuple(np.rint(np.linalg.inv(volume.affine) @ at).astype(int)[:3])]  # type: ignore[arg-type]


def test_suggestions_fit_the_case_and_can_be_answered_in_each_language(sample_client: TestClient) -> None:
    for language in ("en", "de", "es", "fr", "zh"):
        opened = sample_client.post("/v1/conversations", json={"patient_id": sample.PATIENT_ID}).json()["id"]
        offered = sample_client.get(f"/v1/conversations/{opened}/suggestions?language={language}").json()
        assert 4 <= len(offered) <= 6 and len(set(offered)) == len(offered)
        for question in offered:
            answer = sample_client.post(f"/v1/conversations/{opened}/messages", json={"text": question}).json()
            assert not answer["abstained"] and answer["statements"], (question, answer["text"])
            assert answer["language"] == language, question
    nobody = sample_client.post("/v1/conversations", json={}).json()["id"]
    assert sample_client.get(f"/v1/conversations/{nobody}/suggestions").json() == []
    assert all(set(q) == {"needs", "en", "de", "es", "fr", "zh"} for q in _questions())


def test_a_branch_has_its_own_messages_and_evidence(sample_client: TestClient) -> None:
    opened = sample_client.post("/v1/conversations", json={"patient_id": sample.PATIENT_ID}).json()["id"]
    first = sample_client.post(f"/v1/conversations/{opened}/messages", json={"text": "What is her creatinine?"}).json()
    second = sample_client.post(f"/v1/conversations/{opened}/messages", json={"text": "How big is the tumour?"}).json()
    made = sample_client.post(f"/v1/conversations/{opened}/branch", json={"before": second["id"]})
    assert made.status_code == 201
    shown = sample_client.get(f"/v1/conversations/{made.json()['id']}").json()
    assert [m["question"] for m in shown["messages"]] == ["What is her creatinine?"]
    copied = shown["messages"][0]["answer"]
    assert copied["text"] == first["text"] and copied["id"] != first["id"] and copied["conversation_id"] == made.json()["id"]
    assert all(made.json()["id"] in e["href"] and sample_client.get(e["href"]).status_code == 200 for e in copied["evidence"])
    follow = sample_client.post(f"/v1/conversations/{made.json()['id']}/messages", json={"text": "and the haemoglobin?"}).json()
    assert "aemoglobin" in follow["text"]  # what was said before the branch is known
    assert sample_client.delete(f"/v1/conversations/{opened}").status_code == 204
    assert sample_client.get(copied["evidence"][0]["href"]).status_code == 200
    assert sample_client.post(f"/v1/conversations/{made.json()['id']}/branch", json={"before": second["id"]}).status_code == 404


def test_conversations_are_searched_and_taken_along(sample_client: TestClient) -> None:
    opened = sample_client.post("/v1/conversations", json={"patient_id": sample.PATIENT_ID}).json()["id"]
    sample_client.post(
        f"/v1/conversations/{opened}/messages", json={"text": "How big is the tumour? Testfrage 肿瘤"}
    ).raise_for_status()
    listed = sample_client.get(
        "/v1/conversations", params={"patient_id": sample.PATIENT_ID, "asked": True, "q": "testfrage big"}
    ).json()
    assert [c["id"] for c in listed] == [opened] and listed[0]["title"].startswith("How big") and listed[0]["asked"] == 1
    assert sample_client.get("/v1/conversations", params={"q": "50%_nothing"}).json() == []
    pdf = sample_client.get(f"/v1/conversations/{opened}/export?format=pdf")
    assert pdf.content.startswith(b"%PDF") and pdf.headers["content-type"] == "application/pdf"
    from io import BytesIO

    from pypdf import PdfReader

    text = " ".join(p.extract_text() for p in PdfReader(BytesIO(pdf.content)).pages)
    assert "27.9 mL" in text and "Research use only" in text
    bundle = sample_client.get(f"/v1/conversations/{opened}/export?format=fhir").json()
    first = bundle["entry"][0]["resource"]
    assert bundle["type"] == "document" and (first["resourceType"], first["status"]) == ("Composition", "preliminary")
    measured = {
        e["resource"]["code"]["text"]: e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] == "Observation"
    }
    assert (
        measured["Volume"]["valueQuantity"]["value"] == pytest.approx(27.9)
        and measured["Volume"]["valueQuantity"]["unit"] == "mL"
    )
    links = {r["reference"] for s in first["section"] for r in s.get("entry", [])} | {first["author"][0]["reference"]}
    assert links <= {e["fullUrl"] for e in bundle["entry"]} and "<p>" in first["section"][0]["text"]["div"]


def test_a_file_of_an_openai_client_opens_its_case(client: TestClient) -> None:
    import base64

    from openai import OpenAI

    chat = OpenAI(base_url="http://testserver/v1", api_key="none", http_client=client)
    report = b"PATIENT: P\nCT chest 2026-11-01\n\nFINDINGS:\nNo nodule in the lungs.\n\nIMPRESSION:\nNormal chest.\n"
    slices = dicom_series(np.ones((8, 8, 2), np.uint16), np.eye(4), patient_id="FILES")
    made = chat.files.create(file=("ct.dcm", slices[0]), purpose="user_data")
    assert made.id.startswith("file-") and made.bytes == len(slices[0])
    content = [{"type": "text", "text": "Which images are there?"}, {"type": "file", "file": {"file_id": made.id}}]
    reply = chat.chat.completions.create(model="consilium", messages=[{"role": "user", "content": content}])  # type: ignore[list-item,misc]
    assert "S1" in reply.choices[0].message.content  # type: ignore[operator]
    link = reply.choices[0].message.annotations[0].url_citation  # type: ignore[index]
    assert re.fullmatch(r"http://testserver/#evidence=c_\w+\.E\d+", link.url) and link.title.startswith("[E")
    inline = [
        content[0],
        {
            "type": "file",
            "file": {"filename": "b.dcm", "file_data": "data:application/dicom;base64," + base64.b64encode(slices[1]).decode()},
        },
    ]
    again = chat.chat.completions.create(model="consilium", messages=[{"role": "user", "content": inline}])  # type: ignore[list-item,misc]
    assert "S1" in again.choices[0].message.content  # type: ignore[operator]
    bad = client.post("/v1/files", files={"file": ("x.bin", bytes(range(256)))}, data={"purpose": "user_data"})
    assert bad.status_code == 422 and report


def test_a_chat_without_a_case_that_shows_a_picture_is_about_it(client: TestClient) -> None:
    """As Open WebUI sends it: no metadata, and the whole chat with its pictures again each time."""
    import base64

    from openai import OpenAI

    chat = OpenAI(base_url="http://testserver/v1", api_key="none", http_client=client)
    picture = base64.b64encode(shared("data", "mri2d_brain_tumor_cheng", "pituitary", "1246.jpg").read_bytes()).decode()
    shown = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{picture}"}}
    messages: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": "What tumour type is this most likely?"}, shown]}
    ]
    first = chat.chat.completions.create(model="consilium", messages=messages)
    assert "pituitary is most likely" in str(first.choices[0].message.content)
    messages += [
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "Which images are there?"},
    ]
    again = chat.chat.completions.create(model="consilium", messages=messages)
    told = str(again.choices[0].message.content)
    assert "S1" in told and "S2" not in told, "the picture came in twice"
    broken = client.post(
        "/v1/chat/completions",
        json={"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://elsewhere/x.png"}}]}]},
    )
    assert broken.status_code == 422 and "data URL" in broken.json()["error"]["message"]


def test_every_word_is_there_in_every_language() -> None:
    """The catalogues have the same names, and the page asks for no other; read by node, as a browser reads them."""
    script = """
      const read = async (l) => (await import(`file://${process.argv[1]}/words/${l}.js`)).default;
      const flat = (o, p = '') => Object.entries(o).flatMap(([k, v]) => (v && typeof v === 'object' && !Array.isArray(v) ? flat(v, `${p}${k}.`) : [`${p}${k}`]));
      const all = {}; for (const l of ['en', 'de', 'es', 'fr', 'zh']) all[l] = flat(await read(l)).sort();
      console.log(JSON.stringify(all));"""
    run = subprocess.run(
        ["node", "--no-warnings", "--experimental-default-type=module", "--input-type=module", "-e", script, str(WEB)],
        capture_output=True,
        text=True,
        check=True,
    )
    names = json.loads(run.stdout)
    for language in ("de", "es", "fr", "zh"):
        assert names[language] == names["en"], set(names[language]) ^ set(names["en"])
    from tools.registry import tool_types

    assert {n.removeprefix("tools.") for n in names["en"] if n.startswith("tools.")} >= set(tool_types())
    used = {
        u
        for f in WEB.rglob("*.js")
        if "vendor" not in f.parts
        for u in re.findall(r"\bt\('([\w.]+)'", f.read_text(encoding="utf-8"))
    }
    assert used <= set(names["en"]), used - set(names["en"])
    icons = set(re.findall(r'symbol id="([\w-]+)"', (WEB / "vendor" / "icons.svg").read_text(encoding="utf-8")))
    asked = {
        u
        for f in WEB.rglob("*.js")
        if "vendor" not in f.parts
        for u in re.findall(r"""(?:icon=|Icon\} name=)"([\w-]+)\"""", f.read_text(encoding="utf-8"))
    }
    assert asked <= icons, asked - icons


def test_the_page_is_small_and_strict(client: TestClient) -> None:
    """Compressed page code without the viewer library, the policy, and no address of another host in what is ours."""
    import gzip

    own = [
        f for f in WEB.rglob("*") if f.is_file() and f.name != "niivue.umd.js" and f.suffix in (".js", ".css", ".html", ".svg")
    ]
    size = sum(len(gzip.compress(f.read_bytes())) for f in own)
    assert size < 1_500_000, size
    assert not [
        f for f in own if "vendor" not in f.parts and re.search(r"https?://(?!www\.w3\.org)", f.read_text(encoding="utf-8"))
    ]
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=", client.get("/").text)
