"""The histogram of the made-up nodule: its truth is known."""

from pathlib import Path

import pytest
from consilium_hu_histogram import HuHistogram

from tools.kit import NotApplicable
from tools.phantoms import NODULE_HU, NOISE_HU, bench_with, chest_ct


def asked(tmp_path: Path, **arguments: str) -> list[float]:
    return [f.value for f in HuHistogram.bound(bench_with(chest_ct(), tmp_path)).reply(arguments).facts]


def test_percentiles_of_a_nodule_whose_truth_is_known(tmp_path: Path) -> None:
    low, middle, high = asked(tmp_path, target="nodule")
    assert abs(middle - NODULE_HU) < 5
    assert 2.5 * NOISE_HU < high - low < 4.5 * NOISE_HU  # 3.3 standard deviations lie between them


def test_what_nobody_outlined(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="nodule"):
        asked(tmp_path, target="unicorn")
