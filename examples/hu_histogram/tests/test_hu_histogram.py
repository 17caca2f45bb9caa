"""The histogram of the made-up nodule: its truth is known."""

from pathlib import Path

import pytest
from consilium_hu_histogram import HuHistogram

from knowledge.case import open_case
from knowledge.studies.archive import Archive
from knowledge.studies.unpack import Incoming
from tools.kit import Bench, NotApplicable
from tools.phantoms import NODULE_HU, NOISE_HU, chest_ct


def asked(tmp_path: Path, **arguments: str) -> list[float]:
    archive = Archive(tmp_path)
    archive.add([Incoming(f"{n}.dcm", f) for n, f in enumerate(chest_ct())])
    return [f.value for f in HuHistogram.bound(Bench(None, open_case(archive, "PHANTOM"))).reply(arguments).facts]


def test_percentiles_of_a_nodule_whose_truth_is_known(tmp_path: Path) -> None:
    low, middle, high = asked(tmp_path, target="nodule")
    assert abs(middle - NODULE_HU) < 2
    assert abs((high - low) - 2 * 1.645 * NOISE_HU) < 0.2 * 2 * 1.645 * NOISE_HU


def test_what_nobody_outlined(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="nodule"):
        asked(tmp_path, target="unicorn")
