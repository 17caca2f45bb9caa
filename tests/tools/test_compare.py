"""Comparing studies: known change, known interval; what can't be compared is named."""

import numpy as np
import pytest

from agent.testing import dicom_series
from knowledge.case import open_case
from knowledge.studies.archive import Archive
from knowledge.studies.intake import Hints
from knowledge.studies.unpack import Incoming
from tests.answers import build
from tools.base import Bench, Reply, Resources
from tools.compare import CompareStudies
from tools.errors import NotApplicable


@pytest.fixture(scope="module")
def compared(resources: Resources, tmp_path_factory: pytest.TempPathFactory) -> Reply:
    """The sample's brain on two dates, its voxels 5 % larger on the second."""
    archive = Archive(tmp_path_factory.mktemp("two"))
    person = build(archive, "brain2")
    return CompareStudies.bound(Bench(resources, open_case(archive, person))).reply({})


def test_a_known_change_is_found_with_its_doubt_and_its_days(compared: Reply) -> None:
    facts = {f.title: f for f in compared.facts}
    assert facts["Interval S1 to S2"].value == 94  # 2024-01-15 to 2024-04-18
    volume, diameter = facts["Change in volume S1 to S2"], facts["Change in diameter S1 to S2"]
    assert volume.value == pytest.approx(100 * (1.05**3 - 1), abs=6)
    assert diameter.value == pytest.approx(5, abs=4)
    low, high = volume.interval or [0, 0]
    assert low < volume.value < high and "2024-01-15" in volume.statement and "2024-04-18" in volume.statement
    within = low < 0 < high
    assert ("within the doubt" in volume.statement) is within
    assert ("Volume doubling time S1 to S2" in facts) is not within, "no rate is given for a change that may be none"


def series(date: str, part: str) -> list[Incoming]:
    array = np.zeros((16, 16, 4), np.int16) + np.arange(16, dtype=np.int16)[:, None, None]
    made = dicom_series(array, np.diag([-1.0, -1.0, 1.0, 1.0]), patient_id="P", date=date, body_part=part)
    return [Incoming(f"{date}-{n}.dcm", f) for n, f in enumerate(made)]


def test_what_cannot_be_compared_is_named(resources: Resources, archive: Archive) -> None:
    archive.add([*series("20240101", "BRAIN"), *series("20240501", "KNEE")], Hints())
    tool = CompareStudies.bound(Bench(resources, open_case(archive, "P")))
    with pytest.raises(NotApplicable, match="different body parts"):
        tool.reply({"studies": ["S1", "S2"]})
    with pytest.raises(NotApplicable, match="no two dated studies"):
        tool.reply({})
    with pytest.raises(NotApplicable, match="no two dated studies"):
        tool.reply({"studies": ["S1", "S1"]})


def test_a_study_without_a_date_is_not_put_in_order(resources: Resources, archive: Archive) -> None:
    archive.add([*series("20240101", "BRAIN"), *series("", "BRAIN")], Hints())
    with pytest.raises(NotApplicable, match="no whole date"):
        CompareStudies.bound(Bench(resources, open_case(archive, "P"))).reply({"studies": ["S1", "S2"]})
