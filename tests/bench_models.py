"""The imaging models' part of `make bench`: time and memory beside plain eager fp32, loading, cancelling, a CT of a thousand slices."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RUNS = 3

_GLIOMA = """
import json, sys, time
import numpy as np, torch
from monai.data import MetaTensor
from knowledge import sample
from knowledge.studies import nifti
from tools.models.bundle import brought_back
from tools.models.catalogue import Catalogue
torch.set_num_threads(2)
kind, runs = sys.argv[1], int(sys.argv[2])
volumes = [nifti.volume_of((sample.FOLDER / f"{n}.nii.gz").read_bytes()) for n in ("flair", "t1", "t1c", "t2")]
bundle = Catalogue().bundles["brain_mri_glioma"]
affine = np.asarray(volumes[0].affine)
image = MetaTensor(torch.from_numpy(np.stack([v.array for v in volumes]).astype(np.float32)), affine=torch.from_numpy(affine))
if kind != "ours":
    bundle.config["precision"] = "float32"
if kind == "eager":
    chain = bundle.config["preprocessing_array"]["transforms"]
    bundle.config["preprocessing_array"]["transforms"] = [t for t in chain if "Crop" not in t["_target_"]]
bundle.network
def work():
    scores = bundle.scores(image, mirror=True)
    return [brought_back(bundle.labels(scores, t).numpy(), np.asarray(scores.affine), affine, volumes[0].array.shape) for t in (0.5, 0.6, 0.4)]
def memory(field):
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith(field))) / 1024
found = work()
before = memory("VmRSS:")
open("/proc/self/clear_refs", "w").write("5")  # forget the peak of loading: the work's own peak is wanted
seconds = []
for _ in range(runs):
    start = time.perf_counter(); work(); seconds.append(time.perf_counter() - start)
np.save(sys.argv[3], found[0] > 0)
print(json.dumps([sorted(seconds)[len(seconds) // 2], memory("VmHWM:"), memory("VmHWM:") - before]))
"""


def glioma(kind: str, mask: Path) -> tuple[float, float, float]:
    """Median seconds, peak MB and MB added by the work, for whole outline, its inner and outer line; `kind`: ours, cropped or eager."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", _GLIOMA, kind, str(RUNS), str(mask)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, env=env)
    seconds, peak, added = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak, added


def dice(first: Path, second: Path) -> float:
    a, b = np.load(first), np.load(second)
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def paths() -> dict[str, float]:
    """The 240 x 240 x 155 x 4 volume: eager fp32 on all of it, eager fp32 on the brain alone, and the way that is used."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        masks = {kind: Path(folder) / f"{kind}.npy" for kind in ("eager", "cropped", "ours")}
        for kind, mask in masks.items():
            seconds, peak, added = glioma(kind, mask)
            found |= {f"segment_{kind}_s": seconds, f"segment_{kind}_peak_mb": peak, f"segment_{kind}_added_mb": added}
        found["segment_dice_to_cropped_fp32"] = dice(masks["ours"], masks["cropped"])
        found["segment_dice_to_eager_fp32"] = dice(masks["ours"], masks["eager"])
    found["segment_times_as_fast_as_eager"] = found["segment_eager_s"] / found["segment_ours_s"]
    found["segment_times_as_fast_as_cropped_fp32"] = found["segment_cropped_s"] / found["segment_ours_s"]
    return found


def _resources(folder: Path) -> Any:
    from knowledge.guidelines.minilm import MiniLM
    from knowledge.guidelines.search import GuidelineIndex
    from knowledge.records.search import RecordSearch
    from tools.base import Resources
    from tools.models.catalogue import Catalogue

    embedder = MiniLM()
    return Resources(Catalogue(), GuidelineIndex(folder / "chroma", embedder), embedder, RecordSearch(embedder))


def running() -> dict[str, float]:
    """The tools' own path: the first study (loading), a second one, and one whose question is cancelled."""
    from knowledge import sample
    from knowledge.case import open_case
    from knowledge.studies.archive import Archive
    from knowledge.studies.intake import Hints
    from knowledge.studies.unpack import Incoming
    from tools.base import Bench
    from tools.errors import Cancelled
    from tools.models.masks import segmentation

    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        resources = _resources(Path(folder))
        archive = Archive(Path(folder) / "archive")
        for patient in ("first", "second", "cancelled"):
            files = [Incoming(f"{n}.nii.gz", (sample.FOLDER / f"{n}.nii.gz").read_bytes()) for n in ("flair", "t1", "t1c", "t2")]
            archive.add(files, Hints(patient_id=patient, modality="MR", body_part="BRAIN", study_date="2024-01-01"))
            case = open_case(archive, patient)
            for series in case.studies[0].series:
                case.volume(series)  # decoding isn't what is timed
            if patient == "cancelled":
                break
            start = time.perf_counter()
            segmentation(Bench(resources, case))
            found[f"segment_{patient}_study_s"] = time.perf_counter() - start
        stop, asked = threading.Event(), [0.0]

        def progress(done: int, total: int) -> None:
            if not stop.is_set():
                asked[0] = time.perf_counter()
                stop.set()

        try:
            segmentation(Bench(resources, case, progress, stop.is_set))
        except Cancelled:
            found["segment_cancelled_after_s"] = time.perf_counter() - asked[0]
    return found


def thousand() -> dict[str, float]:
    """A CT of 512 x 512 x 1,000 through `segment`: seconds, and the peak of this process and of the model's."""
    from knowledge.case import open_case
    from knowledge.studies.archive import Archive
    from knowledge.studies.unpack import Incoming
    from tests.bench_intake import ct_slices
    from tools.base import Bench
    from tools.models.masks import segmentation

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "slices").mkdir()
        archive = Archive(root / "archive")
        archive.add([Incoming(p.name, opener=partial(p.open, "rb")) for p in ct_slices(root / "slices", 1000)])
        (patient,) = archive.patient_ids()
        case = open_case(archive, patient)
        start = time.perf_counter()
        done = segmentation(Bench(_resources(root), case))
        seconds = time.perf_counter() - start
        about = json.loads(next(case.derived(done.series).glob("*.json")).read_text())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"ct_1000_slices_s": seconds, "ct_1000_slices_server_peak_mb": peak, "ct_1000_slices_model_peak_mb": about["peak_mb"]}


def figures() -> dict[str, float]:
    """All of them; what measures its own memory runs in a process of its own."""
    found = paths()
    for part in ("running", "thousand"):
        env = {**os.environ, "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench_models", part], cwd=ROOT, check=True, capture_output=True, text=True, env=env
        )
        found |= json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    print(json.dumps({"paths": paths, "running": running, "thousand": thousand}[sys.argv[1]]()))
