"""DIMSE with pynetdicom's own service class user: store, search, fetch, send on; who isn't on the list is turned away."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made from the dictionary at import
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from serving.app import create_app
from serving.settings import Settings
from tests.serving.browser import free_port
from tests.serving.test_dicomweb import series, uids


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[TestClient, int, int]]:
    """A server, its DIMSE port, and the port on which the entity TEST may listen."""
    port, theirs = free_port(), free_port()
    settings = Settings(data=tmp_path / "data", no_auth=True, dimse_port=port, dimse_peers={"TEST": f"127.0.0.1:{theirs}"})
    with TestClient(create_app(settings)) as client:
        yield client, port, theirs


def associated(port: int, *classes: Any, title: str = "TEST", **more: Any) -> Any:
    ae = AE(ae_title=title)
    for one in classes:
        ae.add_requested_context(one)
    return ae.associate("127.0.0.1", port, ae_title="CONSILIUM", **more)


def sent(port: int, files: list[bytes]) -> list[int]:
    link = associated(port, MRImageStorage)
    assert link.is_established
    statuses = [link.send_c_store(pydicom.dcmread(io.BytesIO(f))).Status for f in files]
    link.release()
    return statuses


def query(level: str, **keys: Any) -> Dataset:
    made = Dataset()
    made.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(made, keyword, value)
    return made


def found(port: int, identifier: Dataset) -> list[Dataset]:
    link = associated(port, StudyRootQueryRetrieveInformationModelFind)
    replies = list(link.send_c_find(identifier, StudyRootQueryRetrieveInformationModelFind))
    link.release()
    assert replies[-1][0].Status == 0x0000, hex(replies[-1][0].Status)
    return [identifier for status, identifier in replies if identifier is not None and status.Status == 0xFF00]


def test_what_is_stored_is_committed_and_found(node: tuple[TestClient, int, int]) -> None:
    client, port, _ = node
    files = series("P1") + series("P2", "Schmidt^Jörg", "20230101")
    assert sent(port, files) == [0x0000] * 10
    assert sorted(client.get("/v1/patients").json()) == ["P1", "P2"]
    wanted = {"PatientName": "", "StudyInstanceUID": "", "NumberOfStudyRelatedInstances": "", "ModalitiesInStudy": ""}
    (one,) = found(port, query("STUDY", PatientID="P2", **wanted))
    assert str(one.PatientName) == "Schmidt^Jörg" and one.NumberOfStudyRelatedInstances == 5 and one.ModalitiesInStudy == "MR"
    assert one.QueryRetrieveLevel == "STUDY" and one.RetrieveAETitle == "CONSILIUM"
    assert len(found(port, query("STUDY", PatientName="*", StudyDate="20230101-20241231"))) == 2
    assert found(port, query("STUDY", PatientID="NOBODY")) == []
    assert len(found(port, query("STUDY", PatientAge="033Y"))) == 2  # nothing is kept to match it by: it is passed over
    (row,) = found(
        port, query("SERIES", StudyInstanceUID=one.StudyInstanceUID, SeriesInstanceUID="", Modality="", StationName="")
    )
    assert row.Modality == "MR" and not row.StationName
    assert (
        len(
            found(
                port,
                query("IMAGE", StudyInstanceUID=one.StudyInstanceUID, SeriesInstanceUID=row.SeriesInstanceUID, SOPInstanceUID=""),
            )
        )
        == 5
    )
    assert {e.actor for e in client.app.state.house.archive.audit() if e.action == "import"} == {"AE TEST"}  # type: ignore[attr-defined]


def test_what_is_broken_is_refused_and_the_node_lives_on(node: tuple[TestClient, int, int]) -> None:
    client, port, _ = node
    file = pydicom.dcmread(io.BytesIO(series()[0]))
    file.PixelData = file.PixelData[:40]
    link = associated(port, MRImageStorage, StudyRootQueryRetrieveInformationModelFind)
    assert link.send_c_store(file).Status == 0xC000
    (status, _), *_ = link.send_c_find(query("NOWHERE"), StudyRootQueryRetrieveInformationModelFind)
    assert status.Status == 0xA900
    (status, _), *_ = link.send_c_find(query("STUDY", StudyDate="yesterday"), StudyRootQueryRetrieveInformationModelFind)
    assert status.Status in (0xA900, 0xC311)
    link.abort()
    assert client.get("/v1/patients").json() == [] and sent(port, series()) == [0x0000] * 5


def test_instances_are_fetched_as_they_were_sent(node: tuple[TestClient, int, int]) -> None:
    _, port, _ = node
    files = series()
    sent(port, files)
    came: list[Dataset] = []

    def keep(event: Any) -> int:
        came.append(event.dataset)
        return 0x0000

    link = associated(port, StudyRootQueryRetrieveInformationModelGet, MRImageStorage, ext_neg=[build_role(MRImageStorage, scp_role=True)],
                      evt_handlers=[(evt.EVT_C_STORE, keep)])  # fmt: skip
    study, one, _ = uids(files[0])
    last = list(
        link.send_c_get(query("SERIES", StudyInstanceUID=study, SeriesInstanceUID=one), StudyRootQueryRetrieveInformationModelGet)
    )[-1]
    assert last[0].Status == 0x0000 and last[0].NumberOfCompletedSuboperations == 5
    (status, _), *_ = link.send_c_get(query("STUDY", StudyInstanceUID="1.2.3"), StudyRootQueryRetrieveInformationModelGet)
    assert status.Status != 0x0000 or not status.get("NumberOfCompletedSuboperations")
    link.release()
    sent_ones = {uids(f)[2]: pydicom.dcmread(io.BytesIO(f)) for f in files}
    assert {d.SOPInstanceUID for d in came} == set(sent_ones) and all(
        d.PixelData == sent_ones[d.SOPInstanceUID].PixelData for d in came
    )


def test_instances_are_sent_on_to_entities_of_the_list_alone(node: tuple[TestClient, int, int]) -> None:
    _, port, theirs = node
    files = series()
    sent(port, files)
    came: list[str] = []

    def keep(event: Any) -> int:
        came.append(event.dataset.SOPInstanceUID)
        return 0x0000

    receiver = AE(ae_title="TEST")
    receiver.add_supported_context(MRImageStorage)
    listening = receiver.start_server(("127.0.0.1", theirs), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    link = associated(port, StudyRootQueryRetrieveInformationModelMove)
    identifier = query("STUDY", StudyInstanceUID=uids(files[0])[0])
    last = list(link.send_c_move(identifier, "TEST", StudyRootQueryRetrieveInformationModelMove))[-1]
    assert last[0].Status == 0x0000 and len(came) == 5
    (status, _), *_ = link.send_c_move(identifier, "STRANGER", StudyRootQueryRetrieveInformationModelMove)
    assert status.Status == 0xA801 and len(came) == 5
    link.release()
    listening.shutdown()


def test_strangers_are_turned_away(node: tuple[TestClient, int, int]) -> None:
    _, port, _ = node
    known = associated(port, Verification)
    assert known.is_established and known.send_c_echo().Status == 0x0000
    known.release()
    assert associated(port, Verification, title="STRANGER").is_rejected


def test_settings_that_cannot_be_meant(tmp_path: Path) -> None:
    for peers in ({}, {"PACS": "nowhere"}, {"A NAME THAT IS TOO LONG": "h:104"}):
        with pytest.raises(ValidationError):
            Settings(data=tmp_path, dimse_port=11112, dimse_peers=peers)


def test_a_server_with_many_open_files_is_reached(node: tuple[TestClient, int, int]) -> None:
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        link = associated(node[1], Verification)
        assert link.is_established
        assert link.send_c_echo().Status == 0x0000
        link.release()
    finally:
        for fd in held:
            os.close(fd)
