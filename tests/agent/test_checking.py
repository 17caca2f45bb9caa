"""`consilium tools check` finds what is wrong with a tool, and says how to mend it."""

import random
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agent.checking import Checker, Row
from knowledge.evidence import Fact, Kind
from tools.base import Resources
from tools.errors import Cancelled
from tools.kit import Card, Cost, ImageArguments, ImageTool, Needs, Picture, finding, measurement
from tools.registry import tool_types


class Sound(ImageTool):
    """Mean value of an outlined region."""

    name: str = "mean_of_region"
    description: str = "Mean Hounsfield units inside an outlined region of a chest CT."
    asks: ClassVar[list[str]] = ["Mean Hounsfield units of the nodule", "Average HU in the region", "What is the mean HU?"]
    needs: ClassVar[Needs] = Needs(modality=["CT"], body_part=["CHEST"])
    gives: ClassVar[list[Kind]] = [Kind.MEASUREMENT]
    card: ClassVar[Card] = Card(
        intended_use="For tests of the checks.", accuracy="Right by definition.", limits="Not for patients at all."
    )

    def look(self, picture: Picture, arguments: ImageArguments) -> list[Fact]:
        region = picture.outline(arguments.target)
        return [measurement("Mean", float(picture.volume.array[region.mask.array > 0].mean()), "HU", picture, region)]


def checked(tool: type, resources: Resources, folder: Path, *only: str) -> dict[str, Row]:
    return {r.check: r for r in Checker(tool, resources, folder).rows(only)}


def test_a_sound_tool_passes_every_check(resources: Resources, tmp_path: Path) -> None:
    rows = checked(Sound, resources, tmp_path)
    assert len(rows) == 17 and not [r for r in rows.values() if r.result == "fail"], rows
    assert rows["wrong modality"].result == rows["wrong body part"].result == rows["planner finds it"].result == "pass"


def made(**changed: Any) -> type:
    return type("Made", (Sound,), {"__module__": __name__, "__annotations__": {}, **changed})


def looks(work: Any) -> dict[str, Any]:
    return {"look": work}


def _no_unit(self: Any, picture: Picture, arguments: Any) -> list[Fact]:
    return [measurement("Mean", 1.0, "", picture)]


def _another_number(self: Any, picture: Picture, arguments: Any) -> list[Fact]:
    return [measurement("Mean", 1.5, "HU", picture).model_copy(update={"value": 2.5})]


def _random(self: Any, picture: Picture, arguments: Any) -> list[Fact]:
    return [measurement("Mean", random.random(), "HU", picture)]


def _calls(self: Any, picture: Picture, arguments: Any) -> list[Fact]:
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", 9), timeout=1).close()
    return [measurement("Mean", 1.0, "HU", picture)]


def _endless(self: Any, picture: Picture, arguments: Any) -> list[Fact]:
    time.sleep(2.5)
    return [measurement("Mean", 1.0, "HU", picture)]


def _looks_up(self: Any, picture: Picture, arguments: Any) -> list[Fact]:
    for _ in range(50):
        if self.bench.cancelled():
            raise Cancelled("it was stopped", "ask again")
        time.sleep(0.05)
    return [measurement("Mean", 1.0, "HU", picture)]


def _repeats_tags(self: Any, picture: Picture, arguments: Any) -> list[Fact]:
    return [finding("Series", f"The series is {picture.series.description}.", picture)]


def _reads_others(self: Any, picture: Picture, arguments: Any) -> list[Fact]:
    everyone = [s.patient_id for s in picture.case.archive.studies()]
    return [finding("Patients", f"There are {len(everyone)} studies, of {', '.join(everyone)}.", picture)]


def _nothing(self: Any, picture: Picture, arguments: Any) -> list[Fact]:
    return []


@pytest.mark.parametrize(
    ("changed", "check", "seen"),
    [
        ({"asks": ["Mean?"]}, "statement", "1 questions"),
        ({"card": Card(intended_use="x", accuracy="y", limits="z")}, "statement", "next to nothing"),
        ({"contract": "0"}, "statement", "contract 0"),
        ({"example": {"no_such": 1}}, "schema and example", "doesn't fit"),
        (looks(_nothing), "answer", "no facts"),
        ({"gives": [Kind.REPORT]}, "answer", "doesn't name"),
        (looks(_no_unit), "units and sources", "a number and a unit"),
        (looks(_another_number), "units and sources", "doesn't say so"),
        ({"_unfit": lambda self, study, series: ""}, "wrong modality", "answers all the same"),
        (looks(_random), "deterministic", "other facts"),
        ({**looks(_endless), "cost": Cost(seconds=0.2)}, "time and memory", "states 0.2 s"),
        (looks(_calls), "network", "127.0.0.1"),
        (looks(_endless), "stops", "goes on"),
        (looks(_repeats_tags), "hostile text", "as its own"),
        (looks(_reads_others), "other patients", "another patient"),
        (
            {"asks": tool_types()["segment"].asks},
            "planner leaves others alone",
            "differently",
        ),
    ],
)
def test_what_is_wrong_is_found(resources: Resources, tmp_path: Path, changed: dict[str, Any], check: str, seen: str) -> None:
    unfit = {"look": lambda self, picture, arguments: [measurement("Mean", 1.0, "HU", picture)]} if "_unfit" in changed else {}
    row = checked(made(**unfit, **changed), resources, tmp_path, check)[check]
    assert row.result == "fail" and seen in row.seen and row.mend, row


def test_a_tool_that_looks_whether_it_was_stopped_stops(resources: Resources, tmp_path: Path) -> None:
    assert checked(made(**looks(_looks_up)), resources, tmp_path, "stops")["stops"].seen == "stopped"


@pytest.mark.parametrize("name", ["list_studies", "retrieve_reports", "apply_guideline", "segment"])
def test_tools_of_the_box_state_themselves(resources: Resources, tmp_path: Path, name: str) -> None:
    assert checked(tool_types()[name], resources, tmp_path, "statement")["statement"].result == "pass"


def test_a_model_reads_the_cards_of_tools_that_others_made() -> None:
    from agent.planner.offered import offered

    told = {f["function"]["name"]: f["function"]["description"] for f in offered([Sound, tool_types()["segment"]], None)}
    assert (
        "How well: Right by definition." in told["mean_of_region"]
        and "Limits: Not for patients at all." in told["mean_of_region"]
    )
    assert told["segment"] == tool_types()["segment"].described()["description"]
