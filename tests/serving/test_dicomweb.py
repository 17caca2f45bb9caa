"""DICOMweb as PS3.18 has it: each status of the tables, searching, retrieving as stored or decompressed, storing."""

import io
from collections.abc import Iterator
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from fastapi.testclient import TestClient
from pydicom.uid import JPEGLSLossless, RLELossless

from agent.testing import dicom_series
from knowledge.errors import Refused
from knowledge.studies import nifti
from knowledge.studies.matching import check, matches, path_of
from knowledge.studies.volume import Volume
from serving.app import create_app
from serving.settings import Settings

ROOT = "/dicom-web"
JSON = {"accept": "application/dicom+json"}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(data=tmp_path / "data", no_auth=True)), raise_server_exceptions=False) as made:
        yield made


def series(patient: str = "P1", name: str = "Müller^Anna", date: str = "20240531", **tags: Any) -> list[bytes]:
    """Five slices with a worklist's attributes."""
    values = np.random.default_rng(len(patient)).integers(0, 2000, (12, 10, 5)).astype(np.uint16)
    made = []
    for file in dicom_series(values, np.diag([1, 1, 2, 1.0]), patient_id=patient, name="x", date=date):
        instance = pydicom.dcmread(io.BytesIO(file))
        instance.SpecificCharacterSet, instance.PatientName, instance.StudyTime, instance.SeriesNumber = (
            "ISO_IR 192",
            name,
            "093012.5",
            3,
        )
        instance.AccessionNumber, instance.ReferringPhysicianName, instance.StudyID = f"A-{patient}", "Who^Dr", "77"
        for keyword, value in tags.items():
            setattr(instance, keyword, value)
        instance.save_as(buffer := io.BytesIO())
        made.append(buffer.getvalue())
    return made


def body(files: list[bytes], boundary: str = "b0") -> tuple[bytes, dict[str, str]]:
    parts = b"".join(b"--%s\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % (boundary.encode(), f) for f in files)
    kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
    return parts + b"--%s--\r\n" % boundary.encode(), {"content-type": kind, **JSON}


def stored(client: TestClient, files: list[bytes], study: str = "") -> Any:
    data, headers = body(files)
    return client.post(f"{ROOT}/studies{study and '/' + study}", content=data, headers=headers)


def parts(reply: Any) -> list[tuple[str, bytes]]:
    assert reply.status_code == 200, reply.text[:500]
    whole = BytesParser().parsebytes(b"Content-Type: " + reply.headers["content-type"].encode() + b"\r\n\r\n" + reply.content)
    return [(str(p["Content-Type"]), p.get_payload(decode=True)) for p in whole.get_payload()]  # type: ignore[union-attr, misc]


def uids(file: bytes) -> tuple[str, str, str]:
    one = pydicom.dcmread(io.BytesIO(file), stop_before_pixels=True)
    return one.StudyInstanceUID, one.SeriesInstanceUID, one.SOPInstanceUID


def link(file: bytes) -> str:
    study, one, sop = uids(file)
    return f"{ROOT}/studies/{study}/series/{one}/instances/{sop}"


def test_what_is_stored_is_told_instance_by_instance(client: TestClient) -> None:
    files = series()
    done = stored(client, files)
    assert done.status_code == 200 and done.headers["content-type"].startswith("application/dicom+json")
    told = done.json()["00081199"]["Value"]
    assert {i["00081155"]["Value"][0] for i in told} == {uids(f)[2] for f in files}
    assert told[0]["00081190"]["Value"][0].endswith("/instances/" + told[0]["00081155"]["Value"][0])
    assert stored(client, files[:1]).status_code == 200  # the same instance twice
    some = stored(client, [files[0], files[1][:600]])
    assert some.status_code == 202 and len(some.json()["00081199"]["Value"]) == 1
    (failed,) = some.json()["00081198"]["Value"]
    assert failed["00081155"]["Value"] == [uids(files[1])[2]] and failed["00081197"]["Value"]
    other = stored(client, series("P2"), study=uids(files[0])[0])
    assert other.status_code == 409 and len(other.json()["00081198"]["Value"]) == 5
    none = stored(client, [b"no DICOM at all, but long enough to be looked at as if it were" * 5])
    assert none.status_code == 400 and none.json()["0008119A"]["Value"]


def test_bodies_that_cannot_be_stored(client: TestClient) -> None:
    data, headers = body(series())
    post = f"{ROOT}/studies"
    assert client.post(post, content=data, headers={"content-type": "application/dicom"}).status_code == 415
    assert (
        client.post(post, content=data, headers={"content-type": 'multipart/related; type="application/dicom"'}).status_code
        == 400
    )
    assert client.post(post, content=b"", headers=headers).status_code == 400
    assert client.post(post, content=data[: len(data) // 2], headers=headers).status_code == 400
    assert client.post(f"{ROOT}/studies/1.2.x", content=data, headers=headers).status_code == 400
    report = b"--b0\r\nContent-Type: application/dicom\r\n\r\nCT chest 2026-11-01\n\nFINDINGS:\nNothing.\n\r\n--b0--\r\n"
    assert client.post(post, content=report, headers=headers).status_code == 400
    assert client.get(post).json() == [] and client.get("/v1/patients").json() == []


def test_a_data_set_without_preamble_becomes_a_whole_file(client: TestClient) -> None:
    file = series()[0]
    bare = pydicom.dcmread(io.BytesIO(file))
    pydicom.dcmwrite(buffer := io.BytesIO(), bare.copy(), implicit_vr=False, little_endian=True, enforce_file_format=False)
    without = buffer.getvalue()
    without = without[132:] if without[128:132] == b"DICM" else without
    assert stored(client, [without]).status_code == 200
    ((_, back),) = parts(
        client.get(link(file), headers={"accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'})
    )
    assert back[128:132] == b"DICM" and pydicom.dcmread(io.BytesIO(back)).PixelData == bare.PixelData


def test_searching(client: TestClient) -> None:
    stored(client, series("P1") + series("P2", "Schmidt^Jörg", "20230101") + series("P3", "Smith^Ann", "20220101", Modality="CT"))

    def found(query: str, level: str = "studies") -> list[str]:
        reply = client.get(f"{ROOT}/{level}?{query}", headers=JSON)
        assert reply.status_code == 200, reply.text
        return [s["00100020"]["Value"][0] for s in reply.json()]

    assert found("") == ["P1", "P2", "P3"]  # newest first
    assert found("PatientID=P2") == found("00100020=P2") == ["P2"]
    assert found("PatientName=m*") == found("PatientName=muller%5Eanna") == ["P1"]
    assert found("PatientName=ann&fuzzymatching=true") == ["P1", "P3"] and found("PatientName=ann") == []
    assert found("StudyDate=20230101-20231231") == ["P2"] and found("StudyDate=-20230101") == ["P2", "P3"]
    assert found("StudyDate=20240101-") == ["P1"] and found("StudyTime=0930") == ["P1", "P2", "P3"]
    assert found("ModalitiesInStudy=CT") == ["P3"] and found("AccessionNumber=A-P?") == ["P1", "P2", "P3"]
    assert found("limit=1") == ["P1"] and found("limit=1&offset=1") == ["P2"] and found("offset=9") == []
    assert found("Modality=CT", "series") == ["P3"] and len(found("PatientID=P1", "instances")) == 5
    assert found("StudyInstanceUID=1.2.3") == []
    more = client.get(f"{ROOT}/studies?limit=2", headers=JSON)
    assert more.headers["warning"].startswith("299")
    (one,) = client.get(
        f"{ROOT}/studies?PatientID=P1&includefield=00100010,SliceThickness&includefield=Rows", headers=JSON
    ).json()
    assert one["00201206"]["Value"] == [1] and one["00201208"]["Value"] == [5] and one["00080061"]["Value"] == ["MR"]
    assert (
        one["00100010"]["Value"] == [{"Alphabetic": "Müller^Anna"}]
        and one["00180050"]["Value"] == [2]
        and one["00280010"]["Value"] == [10]
    )
    study = one["0020000D"]["Value"][0]
    (row,) = client.get(f"{ROOT}/studies/{study}/series", headers=JSON).json()
    assert (
        row["00200011"]["Value"] == [3]
        and row["00201209"]["Value"] == [5]
        and row["00081190"]["Value"][0].endswith(row["0020000E"]["Value"][0])
    )
    instances = client.get(f"{ROOT}/studies/{study}/series/{row['0020000E']['Value'][0]}/instances", headers=JSON).json()
    assert {i["00200013"]["Value"][0] for i in instances} == {1, 2, 3, 4, 5} and instances[0]["00280011"]["Value"] == [12]


def test_questions_that_cannot_be_answered(client: TestClient) -> None:
    stored(client, series())
    for query in ("limit=-1", "limit=abc", "offset=1.5", "Nonsense=1", "StudyDate=yesterday", "StudyInstanceUID=a", "fuzzymatching=perhaps",
                  "includefield=Nonsense", "0008=1"):  # fmt: skip
        assert client.get(f"{ROOT}/studies?{query}", headers=JSON).status_code == 400, query
    passed = client.get(f"{ROOT}/studies?PatientAge=033Y", headers=JSON)
    assert passed.status_code == 200 and len(passed.json()) == 1 and "00101010" in passed.headers["warning"]
    assert client.get(f"{ROOT}/studies", headers={"accept": "text/html"}).status_code == 406
    assert client.get(f"{ROOT}/studies/1.2.3/metadata", headers=JSON).status_code == 404
    assert client.get(f"{ROOT}/studies/1.2.x/metadata", headers=JSON).status_code == 400
    assert client.get(f"{ROOT}/studies/{'1.' * 40}/series", headers=JSON).status_code == 400


def test_instances_come_back_bit_for_bit(client: TestClient) -> None:
    files = series()
    stored(client, files)
    study, one, _ = uids(files[0])
    for accept in (
        'multipart/related; type="application/dicom"',
        "multipart/related; type=application/dicom; transfer-syntax=*",
        "*/*",
        "",
    ):
        reply = client.get(f"{ROOT}/studies/{study}/series/{one}", headers={"accept": accept})
        assert {p for _, p in parts(reply)} == set(files), accept
    alone = client.get(link(files[0]), headers={"accept": "application/dicom"})
    assert alone.content == files[0] and alone.headers["content-type"] == "application/dicom"
    assert client.get(link(files[0]), headers={"accept": "image/png"}).status_code == 406
    syntax = 'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.90'
    assert client.get(link(files[0]), headers={"accept": syntax}).status_code == 406
    (told,) = client.get(f"{link(files[0])}/metadata", headers=JSON).json()
    assert told["00100010"]["Value"] == [{"Alphabetic": "Müller^Anna"}]
    where = told["7FE00010"]["BulkDataURI"].replace("http://testserver", "")
    ((_, pixels),) = parts(client.get(where, headers={"accept": 'multipart/related; type="application/octet-stream"'}))
    assert pixels == pydicom.dcmread(io.BytesIO(files[0])).PixelData
    assert client.get(f"{link(files[0])}/bulkdata/00091001").status_code == 404
    assert len(client.get(f"{ROOT}/studies/{study}/metadata", headers=JSON).json()) == 5


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_frames_come_as_stored_or_decompressed(client: TestClient, syntax: Any) -> None:
    file = series()[0]
    packed = pydicom.dcmread(io.BytesIO(file))
    native = packed.PixelData
    packed.compress(syntax, generate_instance_uid=False)
    packed.save_as(buffer := io.BytesIO())
    assert stored(client, [buffer.getvalue()]).status_code == 200
    frames = f"{link(file)}/frames/1"
    ((kind, data),) = parts(
        client.get(frames, headers={"accept": "multipart/related; type=application/octet-stream; transfer-syntax=*"})
    )
    assert str(syntax) in kind and data != native
    ((kind, data),) = parts(client.get(frames, headers={"accept": 'multipart/related; type="application/octet-stream"'}))
    assert data == native and "1.2.840.10008.1.2.1" in kind
    ((_, whole),) = parts(client.get(link(file), headers={"accept": 'multipart/related; type="application/dicom"'}))
    assert pydicom.dcmread(io.BytesIO(whole)).PixelData == native
    ((_, whole),) = parts(
        client.get(link(file), headers={"accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'})
    )
    assert whole == buffer.getvalue()
    for number, status in (("0", 400), ("99", 404), ("abc", 400), ("1,99", 404)):
        assert client.get(f"{link(file)}/frames/{number}").status_code == status, number
    assert client.get(frames, headers={"accept": 'multipart/related; type="image/jp2"'}).status_code == 406


def test_pictures_of_instances_series_and_studies(client: TestClient) -> None:
    from PIL import Image

    files = series()
    stored(client, files)
    study, one, _ = uids(files[0])
    png = client.get(f"{link(files[0])}/rendered?window=1000,2000,linear&viewport=60,50", headers={"accept": "image/png"})
    assert png.headers["content-type"] == "image/png" and Image.open(io.BytesIO(png.content)).size == (60, 50)
    assert client.get(f"{link(files[0])}/frames/1/rendered").headers["content-type"] == "image/jpeg"
    for path in (
        f"{ROOT}/studies/{study}/thumbnail",
        f"{ROOT}/studies/{study}/series/{one}/thumbnail",
        f"{link(files[0])}/thumbnail",
    ):
        assert client.get(path).status_code == 200, path
    dark, bright = (
        np.asarray(
            Image.open(
                io.BytesIO(client.get(f"{link(files[0])}/rendered?window={w},100", headers={"accept": "image/png"}).content)
            )
        ).mean()
        for w in (3000, -500)
    )
    assert dark < 5 and bright > 250
    for query in ("window=abc", "window=40,0", "viewport=0,5", "viewport=99999,5"):
        assert client.get(f"{link(files[0])}/rendered?{query}").status_code == 400, query
    assert client.get(f"{link(files[0])}/rendered", headers={"accept": "text/plain"}).status_code == 406


def test_what_was_deleted_is_gone_until_it_comes_again(client: TestClient) -> None:
    files = series()
    stored(client, files)
    (study,) = client.get("/v1/studies").json()
    assert client.delete(f"/v1/studies/{study['id']}").status_code == 204
    assert client.get(link(files[0])).status_code == 410 and client.get(f"{ROOT}/studies/{uids(files[0])[0]}").status_code == 410
    assert client.get(f"{ROOT}/studies", headers=JSON).json() == []
    stored(client, files[:1])
    assert client.get(link(files[0])).status_code == 200 and client.get(link(files[1])).status_code == 404


def test_a_key_is_needed(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(data=tmp_path / "data"))) as closed:
        for path in (
            "/studies",
            "/series",
            "/instances",
            "/studies/1.2/metadata",
            "/studies/1.2/series/1.3/instances/1.4/frames/1",
        ):
            assert closed.get(ROOT + path).status_code == 401
        assert closed.post(f"{ROOT}/studies", content=b"").status_code == 401


def test_matching_within_sequences_and_values_that_are_none() -> None:
    tags = {"00400275": {"vr": "SQ", "Value": [{"00400009": {"vr": "SH", "Value": ["STEP-7"]}}]}}
    step = path_of("RequestAttributesSequence.ScheduledProcedureStepID")
    assert matches(tags, {step: "STEP-*"}) and not matches(tags, {step: "OTHER"})
    for name, value in (("StudyDate", "2024"), ("StudyTime", "noon"), ("StudyInstanceUID", "x"), ("PatientID", "p" * 5000)):
        with pytest.raises(Refused):
            check({path_of(name): value})
    for name in ("Nope", "0008", "00080020.Nope"):
        with pytest.raises(Refused):
            path_of(name)


def test_a_mask_is_given_as_seg_and_kept_once_somebody_confirmed(client: TestClient) -> None:
    """Whatever made the mask: here one is painted, under the name of the glioma model's."""
    import highdicom as hd

    files = series(FrameOfReferenceUID="1.2.826.0.1.3680043.8.498.9", PositionReferenceIndicator="")
    stored(client, files)
    (study,) = client.get("/v1/studies").json()
    one = study["series"][0]
    house = client.app.state.house  # type: ignore[attr-defined]
    (bundle,) = [b for b in house.resources.catalogue.of("segmentation") if b.name == "brain_mri_glioma"]
    volume = house.archive.volume(one["id"])
    labels = np.zeros(volume.array.shape, np.uint8)
    labels[3:8, 2:6, 1:4], labels[4:6, 3:5, 2] = 2, 1
    folder = house.archive.derived(one["id"])
    folder.mkdir(parents=True)
    name = f"{bundle.name}-{bundle.version}-FLAIR.nii.gz"
    (folder / name).write_bytes(nifti.to_bytes(volume.like(labels)))
    masks = f"/v1/studies/{study['id']}/series/{one['id']}/masks/{name}"
    reply = client.get(f"{masks}/seg.dcm")
    assert reply.status_code == 200 and reply.headers["content-type"] == "application/dicom", reply.text
    seg = hd.seg.segread(io.BytesIO(reply.content))
    order = [uid for uid, _ in house.archive.frames(one["id"])]
    told = {seg.get_segment_description(n).segment_label: n for n in seg.segment_numbers}
    for region in bundle.card.regions:
        wanted = np.isin(labels, region.labels)
        assert (region.name in told) == bool(wanted.any())
        if wanted.any():
            found = seg.get_pixels_by_source_instance(
                order, segment_numbers=[told[region.name]], assert_missing_frames_are_empty=True
            )
            assert (found[..., 0].transpose(2, 1, 0) == wanted).all(), region.name
    assert seg.StudyInstanceUID == uids(files[0])[0] and seg.FrameOfReferenceUID
    assert client.post(f"{masks}/store", json={}).status_code == 422  # nobody confirmed it
    assert len(client.get(f"{ROOT}/series", headers=JSON).json()) == 1
    for _ in range(2):
        assert client.post(f"{masks}/store", json={"confirmed_by": "Dr Who"}).status_code == 201
    kept = client.get(f"{ROOT}/series?Modality=SEG", headers=JSON).json()
    assert len(kept) == 1 and client.get("/v1/studies").json()[0]["modalities"] == ["MR", "SEG"]
    assert any(e.detail.get("confirmed_by") == "Dr Who" for e in house.archive.audit())


def test_masks_of_what_is_no_dicom_stay_nifti(client: TestClient) -> None:
    volume = Volume(np.arange(12 * 12 * 12, dtype=np.float32).reshape(12, 12, 12), np.eye(4))
    study = client.post(
        "/v1/studies", files=[("files", ("flair.nii.gz", nifti.to_bytes(volume)))], data={"patient_id": "P"}
    ).json()["studies"][0]
    folder = client.app.state.house.archive.derived(study["series"][0]["id"])  # type: ignore[attr-defined]
    folder.mkdir(parents=True)
    bundle = next(b for b in client.app.state.house.resources.catalogue.of("segmentation"))  # type: ignore[attr-defined]
    name = f"{bundle.name}-{bundle.version}-FLAIR.nii.gz"
    (folder / name).write_bytes(nifti.to_bytes(volume.like((volume.array > 5).astype(np.uint8))))
    reply = client.get(f"/v1/studies/{study['id']}/series/{study['series'][0]['id']}/masks/{name}/seg.dcm")
    assert reply.status_code == 422 and "DICOM" in reply.json()["detail"]
