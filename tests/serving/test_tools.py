"""Tools switched off, kept to roles, held to a conversation; what a tool said stays open when the tool is gone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from knowledge.evidence import Kind
from serving.access.keys import KeyRing
from serving.app import create_app
from serving.settings import Settings
from tests.serving.browser import free_port, running
from tools import registry
from tools.base import Card, Needs
from tools.kinds import Http, Mcp
from tools.kit import ImageTool, Picture, finding

PATIENT = "SAMPLE-GLIOMA"


def tools_of(client: TestClient, **headers: str) -> set[str]:
    return {t["name"] for t in client.get("/v1/tools", headers=headers).json()}


def asked(client: TestClient, text: str, only: list[str] | None = None, **headers: str) -> dict[str, Any]:
    opened = client.post("/v1/conversations", json={"patient_id": PATIENT}, headers=headers).json()["id"]
    if only is not None:
        assert client.put(f"/v1/conversations/{opened}/tools", json={"only": only}, headers=headers).json() == {
            "only": sorted(only)
        }
    reply = client.post(f"/v1/conversations/{opened}/messages", json={"text": text}, headers=headers)
    assert reply.status_code == 200
    return dict(reply.json())


def called(answer: dict[str, Any]) -> set[str]:
    return {s["tool"] for s in answer["plan"]}


def test_a_tool_that_is_switched_off_is_nowhere(data_with_sample: Path) -> None:
    with TestClient(create_app(Settings(data=data_with_sample, no_auth=True, tools_off=["measure"]))) as client:
        assert "measure" not in tools_of(client) and "segment" in tools_of(client)
        assert client.get("/v1/tools/measure").status_code == 404
        assert client.post("/v1/tools/measure", json={"patient_id": PATIENT, "arguments": {}}).status_code == 404
        assert "measure" not in called(asked(client, "How big is the tumour?"))


def test_a_tool_that_only_a_role_may_use(data_with_sample: Path) -> None:
    with TestClient(
        create_app(Settings(data=data_with_sample, tools_for={"segment": ["radiologist"], "measure": ["radiologist"]}))
    ) as client:
        keys = client.app.state.house.keys  # type: ignore[attr-defined]
        ours = {"authorization": f"Bearer {keys.create('reading room', 'radiologist')}"}
        theirs = {"authorization": f"Bearer {keys.create('ward')}"}
        assert "segment" in tools_of(client, **ours) and "segment" not in tools_of(client, **theirs)
        assert client.post("/v1/tools/segment", json={"patient_id": PATIENT}, headers=theirs).status_code == 404
        assert "measure" in called(asked(client, "How big is the tumour?", **ours))
        assert not {"measure", "segment"} & called(asked(client, "How big is the tumour?", **theirs))
        chat = {
            "model": "consilium",
            "messages": [{"role": "user", "content": "How big is the tumour?"}],
            "metadata": {"patient_id": PATIENT},
        }
        told = client.post("/v1/chat/completions", json=chat, headers=theirs)
        assert told.status_code == 200 and "mm" not in told.json()["choices"][0]["message"]["content"].split("Sources")[0]


async def test_roles_hold_for_assistants_too(data_with_sample: Path) -> None:
    port, keys = free_port(), KeyRing(data_with_sample / "access")
    ours, theirs = keys.create("assistant of the reading room", "radiologist"), keys.create("assistant of the ward")
    with running(create_app(Settings(data=data_with_sample, port=port, tools_for={"segment": ["radiologist"]})), port):
        for key, may in ((ours, True), (theirs, False), (ours, True)):
            async with (
                httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}) as http,
                Client(streamable_http_client(f"http://127.0.0.1:{port}/mcp", http_client=http)) as client,
            ):
                listed = {t.name for t in (await client.list_tools()).tools}
                assert ("segment" in listed) is may and "list_studies" in listed


def test_a_conversation_held_to_some_tools(data_with_sample: Path) -> None:
    with TestClient(create_app(Settings(data=data_with_sample, no_auth=True))) as client:
        answer = asked(client, "How big is the tumour?", only=["list_studies", "retrieve_reports"])
        assert called(answer) <= {"list_studies", "retrieve_reports"}
        without = asked(client, "What is her creatinine?", only=["list_studies"])
        assert (
            without["abstained"]
            and without["lead"] == "This wants a tool that may not be used in this conversation: patient_record."
        )
        shown = client.get(f"/v1/conversations/{answer['conversation_id']}").json()
        assert shown["tools"] == ["list_studies", "retrieve_reports"]
        where = f"/v1/conversations/{answer['conversation_id']}"
        assert client.put(f"{where}/tools", json={"only": ["no_such_tool"]}).status_code == 404
        assert client.put(f"{where}/tools", json={"only": None}).json() == {"only": None}
        again = client.post(f"{where}/messages", json={"text": "How big is the tumour?"}).json()
        assert "measure" in called(again)
        assert client.put("/v1/conversations/c_none/tools", json={"only": []}).status_code == 404
        assert client.delete(where).status_code == 204


class Remarked(ImageTool):
    """Says one thing."""

    name: str = "remark_on_flair"
    description: str = "Remarks on the FLAIR of a head, for a test of the house."
    asks = ["Remark on the FLAIR of this head", "Give your remark on the FLAIR", "What is the remark?"]
    needs = Needs(modality=["MR"], sequences=["FLAIR"])
    gives = [Kind.FINDING]
    card = Card(intended_use="For a test of the house.", accuracy="None was measured.", limits="Not for patients.")

    def look(self, picture: Picture, arguments: Any) -> list[Any]:
        return [finding("Remark", f"The FLAIR {picture.series.handle} was remarked on.", picture)]


@pytest.fixture
def remarked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    found = registry.tool_types()
    monkeypatch.setattr(registry, "tool_types", lambda: {**found, "remark_on_flair": Remarked})
    yield


def test_what_a_tool_said_opens_after_the_tool_is_gone(
    data_with_sample: Path, remarked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TestClient(create_app(Settings(data=data_with_sample, no_auth=True))) as client:
        answer = asked(client, "Remark on the FLAIR of this head")
        assert "remark_on_flair" in called(answer) and "was remarked on" in answer["text"]
        [evidence] = [e for e in answer["evidence"] if e["title"] == "Remark"]
        monkeypatch.undo()
        assert "remark_on_flair" not in tools_of(client)
        where = f"/v1/conversations/{answer['conversation_id']}"
        assert client.get(where).json()["messages"][0]["answer"]["evidence"]
        kept = client.get(evidence["href"])
        assert kept.status_code == 200 and kept.json()["source"]["model"] == "remark_on_flair"
        again = client.post(f"{where}/messages", json={"text": "Remark on the FLAIR of this head"})
        assert again.status_code == 200


def test_servers_and_services_that_packages_name_join(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    from serving.house import joined_of

    lab = Mcp([sys.executable, str(Path(__file__).with_name("mcp_lab.py"))])
    gone = Http.__new__(Http)
    object.__setattr__(
        gone, "service", __import__("tools.openapi", fromlist=["Service"]).Service(spec=str(tmp_path / "none.yaml"))
    )
    offers = registry.Installed(tools={}, offers={"lab": lab, "gone": gone}, left_out=[])
    monkeypatch.setattr(registry, "installed", lambda: offers)
    names = {str(t.model_fields["name"].default) for t in joined_of(Settings(data=tmp_path))}
    assert names and all(n.startswith("lab_") for n in names)


def test_a_tool_in_a_process_of_its_own_by_one_setting(data_with_sample: Path) -> None:
    settings = Settings.model_validate(
        {"data": data_with_sample, "no_auth": True, "tool_processes": {"list_studies": {"seconds": 120}}}
    )
    with TestClient(create_app(settings)) as client:
        alone = client.post("/v1/tools/list_studies", json={"patient_id": PATIENT}).json()
    with TestClient(create_app(Settings(data=data_with_sample, no_auth=True))) as client:
        here = client.post("/v1/tools/list_studies", json={"patient_id": PATIENT}).json()
    assert alone["status"] == "ok" and alone["text"] == here["text"] and alone["seconds"] > 1
