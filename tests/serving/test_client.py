"""The Python client on a real server: what it gives is what the API's schema says."""

import inspect
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from knowledge.evidence import ImageRef
from serving.access.keys import KeyRing
from serving.app import create_app
from serving.client import AsyncConsilium, Consilium, Refused, _Call, _Calls, table
from serving.settings import Settings
from tests.serving.browser import free_port, running
from tools.phantoms import NODULE_HU, chest_ct, written_to

PATIENT = "SAMPLE-GLIOMA"


@pytest.fixture(scope="module")
def place(data_with_sample: Path) -> Iterator[tuple[str, str]]:
    port, key = free_port(), KeyRing(data_with_sample / "access").local()
    with running(create_app(Settings(data=data_with_sample, port=port)), port):
        yield f"http://127.0.0.1:{port}", key


def test_a_study_as_arrays_masks_and_a_table(place: tuple[str, str]) -> None:
    with Consilium(*place) as house:
        assert PATIENT in house.patients()
        answer = house.ask("How big is the tumour?", PATIENT)
        rows = table(answer)
        assert {r["unit"] for r in rows} >= {"mL", "mm"} and all(r["model"] and r["series_uid"] for r in rows)
        volume = next(r for r in rows if r["title"] == "Volume")
        where = next(e.source for e in answer.evidence if e.title == "Volume")
        assert isinstance(where, ImageRef)
        [study] = house.studies(PATIENT)
        image = house.volume(study, where)
        [mask] = [m for n, m in house.masks(study, where).items() if "glioma" in n and "inner" not in n and "outer" not in n]
        assert image.array.shape == mask.array.shape and np.allclose(image.affine, mask.affine)
        assert (mask.array > 0).sum() * np.prod(mask.spacing_mm) / 1000 == pytest.approx(volume["value"], rel=0.02)
        assert house.opened(answer.evidence[0])["opened"]
        assert house.messages(answer.conversation_id).messages[0].answer == answer


def test_uploading_running_a_tool_and_holding_a_conversation(place: tuple[str, str], tmp_path: Path) -> None:
    with Consilium(*place) as house:
        done = house.upload([written_to(tmp_path / "chest", chest_ct())])
        assert done.studies[0].patient_id == "PHANTOM" and not done.rejected
        [study] = house.studies("PHANTOM")
        assert house.study(study.id).series[0].modality == "CT"
        assert float(np.median(house.volume(study, study.series[1]).array)) in (0.0, 1.0)
        assert house.volume(study, study.series[0]).array.max() > NODULE_HU
        ran = house.run("list_studies", "PHANTOM")
        assert ran.status == "ok" and "CT" in ran.text
        held = house.conversation("PHANTOM", tools=["list_studies"])
        assert {s.tool for s in house.ask("How large is the liver?", conversation=held).plan} <= {"list_studies"}
        assert "list_studies" in {t["name"] for t in house.tools()}


def test_events_come_in_order(place: tuple[str, str]) -> None:
    with Consilium(*place) as house:
        names = [e.name for e in house.stream("Which studies are there?", PATIENT)]
    assert names[0] == "plan" and names[-1] == "answer" and "tool.finished" in names


def test_what_is_refused_says_what_to_do(place: tuple[str, str]) -> None:
    with Consilium(*place) as house, pytest.raises(Refused, match="no tool") as caught:
        house.run("no_such_tool")
    assert caught.value.status == 404 and caught.value.hint
    with Consilium(place[0], "ck_wrong") as house, pytest.raises(Refused) as caught:
        house.patients()
    assert caught.value.status == 401
    with Consilium(*place) as house, pytest.raises(Refused) as caught:
        list(house.stream("What?", conversation="c_none"))
    assert caught.value.status == 404


async def test_the_same_without_waiting(place: tuple[str, str], tmp_path: Path) -> None:
    async with AsyncConsilium(*place) as house:
        assert (await house.upload([written_to(tmp_path / "chest", chest_ct("PHANTOM2"))])).studies
        [study] = await house.studies("PHANTOM2")
        assert (await house.volume(study, study.series[0])).array.shape == (96, 96, 40)
        assert await house.masks(study, study.series[0]) == {}
        answer = await house.ask("Which studies are there?", "PHANTOM2")
        assert answer.statements and (await house.messages(answer.conversation_id)).id == answer.conversation_id
        events = [e async for e in house.stream("Which studies are there?", "PHANTOM2")]
        assert events[-1].name == "answer" and (await house.run("list_studies", "PHANTOM2")).status == "ok"


def test_both_clients_can_do_the_same_and_the_schema_has_it() -> None:
    def able(kind: type) -> dict[str, list[str]]:
        return {
            n: list(inspect.signature(f).parameters)
            for n, f in inspect.getmembers(kind, inspect.isfunction)
            if not n.startswith("_")
        }

    assert able(Consilium) == able(AsyncConsilium)
    paths = create_app(Settings(no_auth=True)).openapi()["paths"]
    for name, make in inspect.getmembers(_Calls, inspect.isfunction):
        if name == "opened":
            continue
        call = make(*["X"] * len(inspect.signature(make).parameters))
        assert isinstance(call, _Call)
        fitting = [p for p in paths if call.method.lower() in paths[p] and len(p.split("/")) == len(call.path.split("/"))
                   and all(a == b or a.startswith("{") for a, b in zip(p.split("/"), call.path.split("/"), strict=True))]  # fmt: skip
        assert fitting, call.path
