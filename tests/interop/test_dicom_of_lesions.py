"""What other programs say of our DICOM objects: dciodvfy (dicom3tools), dcmqi's readers of SEG and SR, pydicom's of all."""

import json
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.interop.conftest import ROOT
from tests.tools.test_course import bench_of
from tools.base import Resources
from tools.course.following import follow
from tools.export.drawn import Drawing, drawing_of
from tools.export.objects import OBJECTS, Form, made
from tools.followed import course_of_three

pytestmark = pytest.mark.interop
BIN = ROOT / ".interop" / "venv" / "bin"


@pytest.fixture(scope="module")
def drawing(resources: Resources, tmp_path_factory: pytest.TempPathFactory) -> tuple[Drawing, Path]:
    folder = tmp_path_factory.mktemp("lesions")
    files = course_of_three()
    bench = bench_of(resources, folder, files)
    course = follow(bench, bench.required_case.studies)
    found = course.founds[-1]
    path = bench.required_case.derived(found.image) / course.maps[-1].rsplit("/", 1)[1]
    images = folder / "images"
    images.mkdir()
    for number, data in enumerate(files[-1][:-1]):
        (images / f"{number:03d}.dcm").write_bytes(data)
    return drawing_of(bench.required_case.archive, resources.catalogue, found.study, found.image, path), images


@pytest.mark.parametrize("form", OBJECTS)
def test_dciodvfy_finds_no_error(drawing: tuple[Drawing, Path], tmp_path: Path, form: Form) -> None:
    assert shutil.which("dciodvfy"), "make interop-test installs dicom3tools"
    for number, data in enumerate(made(drawing[0], form)):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(data)
        said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False).stderr
        assert not [line for line in said.splitlines() if line.startswith("Error")], said


def test_dcmqi_reads_the_same_voxels(drawing: tuple[Drawing, Path], tmp_path: Path) -> None:
    (tmp_path / "seg.dcm").write_bytes(made(drawing[0], "seg")[0])
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run([BIN / "segimage2itkimage", "--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", out, "--outputType", "nii", "--prefix", "s"],
                   check=True, capture_output=True)  # fmt: skip
    told = json.loads((out / "s-meta.json").read_text())
    described = [one for group in told["segmentAttributes"] for one in group]
    assert {d["SegmentLabel"]: (d["TrackingIdentifier"], d["TrackingUniqueIdentifier"]) for d in described} == {
        p.name: p.tracking for p in drawing[0].parts
    }
    voxels = {p.number: int(drawing[0].inside(p).sum()) for p in drawing[0].parts}
    seen = {
        int(f.name.split("-")[1].split(".")[0]): int((np.asarray(nib.load(f).dataobj) > 0).sum()) for f in out.glob("s-*.nii.gz")
    }
    assert seen == voxels


def test_dcmqi_reads_the_same_measurements(drawing: tuple[Drawing, Path], tmp_path: Path) -> None:
    (tmp_path / "sr.dcm").write_bytes(made(drawing[0], "sr")[0])
    subprocess.run(
        [BIN / "tid1500reader", "--inputDICOM", tmp_path / "sr.dcm", "--outputMetadata", tmp_path / "sr.json"],
        check=True,
        capture_output=True,
    )
    told = json.loads((tmp_path / "sr.json").read_text())
    read = {
        m["TrackingUniqueIdentifier"]: {i["quantity"]["CodeMeaning"]: float(i["value"]) for i in m["measurementItems"]}
        for m in told["Measurements"]
    }
    for part in drawing[0].parts:
        sizes = drawing[0].sizes(part)
        assert read[part.tracking[1]]["Volume"] == pytest.approx(sizes.volume_ml, abs=1e-4)
        assert read[part.tracking[1]]["Long Axis"] == pytest.approx(sizes.plane.long_mm, abs=1e-3)
        assert read[part.tracking[1]]["Short Axis"] == pytest.approx(sizes.plane.short_mm, abs=1e-3)
