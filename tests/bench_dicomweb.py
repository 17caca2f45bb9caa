"""DICOMweb in `make bench`: instances stored a second with one and four clients, memory of a large study, searches over 10,000 studies."""

import io
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pydicom
from pydicom.uid import generate_uid

from tests.bench import served
from tests.bench_intake import STUDIES, crowd, ct_slices
from tests.serving.test_dicomweb import body

EACH = 200
"""Instances that each client stores, in bodies of 10."""
WARM_S = 20
"""What a server loads in the background after its start isn't measured."""


def copies(file: Path, count: int) -> list[bytes]:
    """The instance again and again in a study of its own, with UIDs of its own."""
    one = pydicom.dcmread(file)
    one.StudyInstanceUID, one.SeriesInstanceUID = generate_uid(), generate_uid()
    made = []
    for k in range(count):
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        one.InstanceNumber, one.ImagePositionPatient = k + 1, [0, 0, float(k)]
        one.save_as(buffer := io.BytesIO())
        made.append(buffer.getvalue())
    return made


def at_once(works: Sequence[Callable[[], object]]) -> float:
    """Seconds until all of `works`, begun together in threads, are done."""
    threads = [threading.Thread(target=work) for work in works]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def stored(url: str, clients: int, file: Path) -> float:
    """Instances a second, from the first byte to the last reply: kept and found by a search then."""
    bodies = [[body(files[k : k + 10]) for k in range(0, EACH, 10)] for files in (copies(file, EACH) for _ in range(clients))]
    failed: list[int] = []

    def send(mine: list[tuple[bytes, dict[str, str]]]) -> None:
        with httpx.Client(base_url=url, timeout=120) as client:
            for data, headers in mine:
                status = client.post("/dicom-web/studies", content=data, headers=headers).status_code
                if status != 200:
                    failed.append(status)

    seconds = at_once([partial(send, mine) for mine in bodies])
    assert not failed, failed
    return clients * EACH / seconds


def searched(url: str) -> dict[str, float]:
    """95th percentiles, milliseconds."""
    found = {}
    calls: dict[str, Callable[[int], str]] = {
        "page": lambda n: f"/dicom-web/studies?limit=50&offset={n * 50 % STUDIES}",
        "name": lambda n: f"/dicom-web/studies?PatientName=name0{n % 2500:04d}*",
        "fuzzy": lambda n: f"/dicom-web/studies?PatientName=name0{n % 2500:04d}&fuzzymatching=true",
        "filter": lambda n: f"/dicom-web/studies?limit=50&ModalitiesInStudy=CT&StudyDate=20{10 + n % 15}0101-20{11 + n % 15}1231",
        "series": lambda n: f"/dicom-web/studies/1.2.{n * 37 % STUDIES}/series",
    }
    with httpx.Client(base_url=url) as client:
        for name, path in calls.items():
            seconds = []
            for n in range(220):
                start = time.perf_counter()
                reply = client.get(path(n))
                seconds.append(time.perf_counter() - start)
                assert reply.status_code == 200 and (reply.json() or name == "filter"), path(n)
            found[f"qido_{name}_10000_studies_p95_ms"] = 1000 * float(np.percentile(seconds[20:], 95))
    return found


def figures() -> dict[str, float]:
    """All of it."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "ct").mkdir()
        (slice_,) = ct_slices(folder / "ct", 1, PatientID="BENCH", PatientName="Bench^CT")
        found = {}
        with served(folder / "empty", 8530) as (url, _):
            time.sleep(WARM_S)
            found["stow_instances_s_1_client"] = stored(url, 1, slice_)
            found["stow_instances_s_4_clients"] = stored(url, 4, slice_)
        crowd(folder / "crowd" / "archive")
        with served(folder / "crowd", 8531) as (url, _):
            time.sleep(WARM_S)
            found |= searched(url)
    return found


if __name__ == "__main__":
    print(figures(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
