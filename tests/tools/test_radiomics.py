"""pyradiomics' own baseline tables, through the function that the tool runs; and the tool's bins."""

import csv
import re

import numpy as np
import pytest
import SimpleITK as sitk

from tests.conftest import shared
from tools.base import Bench
from tools.errors import NotApplicable
from tools.radiomics import CLASSES, features, settings_of
from tools.registry import tool_types

FOLDER = ("data", "radiomics_nrrd_pyradiomics")
CASES = ("brain1", "breast1")
TOLERANCE = 0.03
"""pyradiomics' own tests allow this share of difference."""


def read(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image, mask = (sitk.ReadImage(str(shared(*FOLDER, f"{name}_{kind}.nrrd"))) for kind in ("image", "label"))
    arrays = [sitk.GetArrayFromImage(i).transpose(2, 1, 0) for i in (image, mask)]
    return arrays[0].astype(np.float64), arrays[1].astype(np.uint8), np.diag([*image.GetSpacing(), 1.0])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", CLASSES)
def test_the_baseline_tables_are_reproduced(kind: str, name: str) -> None:
    with shared(*FOLDER, "baseline", f"baseline_{kind}.csv").open() as file:
        rows = {r["featureName"]: r[name] for r in csv.DictReader(file)}
    settings = rows["diagnostics_Configuration_Settings"]
    width = float(re.search(r"'binWidth': ([\d.]+)", settings).group(1))  # type: ignore[union-attr]
    shift = float(re.search(r"'voxelArrayShift': ([\d.]+)", settings).group(1))  # type: ignore[union-attr]
    found, version = features(*read(name), {"binWidth": width, "voxelArrayShift": shift}, [kind])
    assert version == "3.0.1"
    known = {k.rpartition("_")[2]: float(v) for k, v in rows.items() if k.startswith("original_")}
    compared = set(known) & set(found[kind])
    assert len(compared) >= 0.9 * len(found[kind]), sorted(set(found[kind]) - set(known))
    for feature in compared:
        assert found[kind][feature] == pytest.approx(known[feature], rel=TOLERANCE, abs=1e-9), feature


def test_settings_are_told_with_the_values(bench: Bench) -> None:
    tool = tool_types()["radiomics"].bound(bench)
    (fact,) = tool.reply({"classes": ["firstorder"], "target": "tumour core"}).facts
    assert fact.value["settings"] == settings_of("MR") == {"binCount": 32}
    assert fact.value["features"]["Minimum"] <= fact.value["features"]["Median"] <= fact.value["features"]["Maximum"]
    assert fact.source.mask
    with pytest.raises(NotApplicable, match="no feature classes"):
        tool.reply({"classes": ["beauty"]})


def test_shape_features_agree_with_what_measure_says(bench: Bench) -> None:
    """Two roads to one volume and one diameter: the mesh of pyradiomics and our own outline."""
    shape = tool_types()["radiomics"].bound(bench).reply({"classes": ["shape"]}).facts[0].value["features"]
    sizes = {f.title: f.value for f in tool_types()["measure"].bound(bench).reply({}).facts}
    assert shape["VoxelVolume"] / 1000 == pytest.approx(sizes["Volume"], abs=0.06)
    assert shape["Maximum3DDiameter"] == pytest.approx(sizes["Longest diameter in space"], abs=1)
    assert shape["Maximum2DDiameterSlice"] == pytest.approx(sizes["Longest axial diameter"], abs=1)
