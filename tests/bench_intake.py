"""The intake's part of `make bench`: beside pydicom, SimpleITK and a raw read of the same files, in one run."""

import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
HEADER = ROOT.parent / "shared" / "data" / "ct_mr_body_totalseg" / "example_ct_dicom"
SLICES = 300
STUDIES = 10_000


def median(work: Callable[[], Any], times: int = 5) -> float:
    """Median seconds of `times` runs, after one that doesn't count."""
    work()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def ct_slices(folder: Path, count: int = SLICES, **tags: str) -> list[Path]:
    """A CT of 512 x 512 slices with a scanner's own header where shared/data has one; pixels made: smooth tissue and noise."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    from agent.testing import dicom_series

    if HEADER.exists():
        template = pydicom.dcmread(sorted(HEADER.glob("*.dcm"))[0])
    else:
        template = pydicom.dcmread(io.BytesIO(dicom_series(np.ones((512, 512, 1), np.uint16), np.eye(4))[0]))
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(-1, 1, 512), np.linspace(-1, 1, 512))
    study, series = generate_uid(), generate_uid()
    for keyword, value in tags.items():
        setattr(template, keyword, value)
    made = []
    for k in range(count):
        body = np.where(x**2 / 0.8 + y**2 / 0.5 < 1, 40 + 300 * np.cos(7 * x + k / 30) * np.sin(5 * y), -1000)
        values = np.round(np.clip(body + rng.normal(0, 12, body.shape), -1024, 3000)) + 1024
        template.PixelData = values.astype("<u2").tobytes()
        template.BitsAllocated, template.BitsStored, template.HighBit, template.PixelRepresentation = 16, 12, 11, 0
        template.Rows = template.Columns = 512
        template.RescaleSlope, template.RescaleIntercept, template.InstanceNumber, template.Modality = 1, -1024, k + 1, "CT"
        template.PixelSpacing, template.ImageOrientationPatient, template.ImagePositionPatient = (
            [0.7, 0.7],
            [1, 0, 0, 0, 1, 0],
            [0, 0, float(k)],
        )
        template.StudyInstanceUID, template.SeriesInstanceUID = study, series
        template.SOPInstanceUID = template.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        template.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"{k:04d}.dcm"
        template.save_as(path, enforce_file_format=True)
        made.append(path)
    return made


def zipped(paths: list[Path], into: Path) -> Path:
    with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            archive.write(path, f"{path.parent.name}/{path.name}")
    return into


def by_pydicom(paths: list[Path]) -> None:
    import pydicom

    volume = np.empty((len(paths), 512, 512), np.uint16)
    for k, path in enumerate(paths):
        volume[k] = pydicom.dcmread(path).pixel_array


def by_pydicom_from_zip(path: Path) -> None:
    import pydicom

    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            assert pydicom.dcmread(io.BytesIO(archive.read(member))).pixel_array.size


def by_simpleitk(paths: list[Path]) -> None:
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(p) for p in paths])
    reader.Execute()


def raw(paths: list[Path], offset: int) -> None:
    volume = np.empty((len(paths), 512 * 512 * 2), np.uint8)
    for k, path in enumerate(paths):
        handle = os.open(path, os.O_RDONLY)
        os.preadv(handle, [memoryview(volume[k])], offset)
        os.close(handle)


def ingests(source: Path, times: int = 5) -> list[float]:
    """Seconds from the zip to the acknowledgement: unpacked, hashed, checked, stored, synced, indexed; each time a new archive."""
    from knowledge.studies.archive import Archive
    from knowledge.studies.unpack import from_paths

    found = []
    for _ in range(times + 1):
        with tempfile.TemporaryDirectory() as folder:
            archive = Archive(Path(folder))
            start = time.perf_counter()
            done = archive.add(from_paths([source]))
            found.append(time.perf_counter() - start)
            assert done.studies[0].series[0].shape[2] and not done.rejected
    return found[1:]


def uploads(source: Path, port: int) -> list[float]:
    """The same over HTTP."""
    import httpx

    from tests.bench import served

    found = []
    for n in range(4):
        with tempfile.TemporaryDirectory() as folder, served(Path(folder), port + n) as (url, _), source.open("rb") as file:
            time.sleep(5)  # a server that has just started loads its models in the background
            start = time.perf_counter()
            reply = httpx.post(f"{url}/v1/studies", files={"files": ("ct.zip", file)}, timeout=120)
            found.append(time.perf_counter() - start)
            assert reply.status_code == 201
    return found[1:]


_PEAK = """
import sys, tempfile
from pathlib import Path
from knowledge.studies.archive import Archive
from knowledge.studies.unpack import from_paths
if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        Archive(Path(folder)).add(from_paths([Path(sys.argv[1])]))
    print(int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) / 1024)
"""


def peak_mb(source: Path) -> float:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return float(
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _PEAK, str(source)], check=True, capture_output=True, text=True, env=env
        ).stdout
    )


def compressed(paths: list[Path], folder: Path, kind: str, count: int = 60) -> list[Path]:
    import imagecodecs
    import pydicom
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

    made = []
    for path in paths[:count]:
        one = pydicom.dcmread(path)
        pixels = one.pixel_array
        data = (
            imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", bitspersample=12)
            if kind == "j2k"
            else imagecodecs.jpegls_encode(pixels)
        )
        one.PixelData = encapsulate([data])
        one["PixelData"].VR, one["PixelData"].is_undefined_length = "OB", True
        one.file_meta.TransferSyntaxUID = JPEG2000Lossless if kind == "j2k" else JPEGLSLossless
        made.append(folder / f"{kind}{path.name}")
        one.save_as(made[-1])
    return made


def volumes(paths: list[Path], folder: Path) -> dict[str, float]:
    """Loading: in place beside a raw read and a memory map, decoding beside one core."""
    import pydicom

    from knowledge.studies.archive import Archive
    from knowledge.studies.unpack import from_paths

    archive = Archive(folder / "archive")
    series = archive.add(from_paths(paths)).studies[0].series[0].id
    offset = next(p.stat().st_size for p in paths) - 512 * 512 * 2
    ours, plain = median(lambda: archive.volume(series)), median(lambda: raw(paths, offset))
    flat = folder / "flat.npy"
    np.save(flat, np.zeros((len(paths), 512, 512), np.int16))
    mapped = median(lambda: np.array(np.load(flat, mmap_mode="r")))
    figures = {
        "load_ct_s": ours, "load_raw_preadv_s": plain, "load_share_of_raw": plain / ours, "load_memory_mapped_s": mapped,
        "load_share_of_memory_mapped": mapped / ours, "load_pydicom_s": median(lambda: by_pydicom(paths), 3),
        "load_simpleitk_s": median(lambda: by_simpleitk(paths), 3),
    }  # fmt: skip
    for kind in ("j2k", "jls"):
        files = compressed(paths, folder, kind)
        one = Archive(folder / kind)
        name = one.add(from_paths(files)).studies[0].series[0].id

        def cold(one: Archive = one, name: str = name) -> None:
            one.cache.forget(name)
            one.volume(name)

        seconds = median(cold, 3)
        single = median(lambda files=files: [pydicom.dcmread(p).pixel_array for p in files], 2)  # type: ignore[misc]
        again = median(lambda one=one, name=name: np.array(one.volume(name).array), 3)  # type: ignore[misc]
        figures |= {f"{kind}_slices_per_s": len(files) / seconds, f"{kind}_pydicom_slices_per_s": len(files) / single,
                    f"{kind}_to_pydicom": single / seconds, f"{kind}_again_share_of_memory_mapped": mapped * len(files) / len(paths) / again}  # fmt: skip
    return figures


def crowd(root: Path) -> None:
    """An archive of STUDIES studies of a quarter as many patients, three series each (rows alone: nothing is read of them here)."""
    from sqlalchemy.orm import Session

    from knowledge.studies.archive import Archive
    from knowledge.studies.store import PatientRow, SeriesRow, StudyRow
    from knowledge.studies.tags import keep, put

    archive = Archive(root)
    with Session(archive.engine) as session, session.begin():
        session.add_all(PatientRow(id=f"P{n:05d}", birth_date="1960-01-01", sex="F") for n in range(STUDIES // 4))
        session.flush()
        for n in range(STUDIES):
            modality = ("MR", "CT", "US", "MG")[n % 4]
            session.add(StudyRow(id=f"st_{n:012d}", patient_id=f"P{n // 4:05d}", number=n % 4 + 1, uid=f"1.2.{n}", date=f"20{10 + n % 16}-{n % 12 + 1:02d}-{n % 28 + 1:02d}",
                                 description="", format="DICOM", note="", modalities=f"|{modality}|"))  # fmt: skip
        session.flush()
        for n in range(STUDIES):
            modality = ("MR", "CT", "US", "MG")[n % 4]
            for k in range(3):
                session.add(SeriesRow(id=f"se_{n:09d}{k:03d}", study_id=f"st_{n:012d}", number=k + 1, uid=f"1.2.{n}.{k}", part="", format="DICOM", modality=modality,
                                      description="axial", sequence=None, body_part="BRAIN", header={"Manufacturer": "X" * 200}, frames=[[n, f] for f in range(100)],
                                      layout={"shape": [512, 512, 100], "spacing_mm": [0.7, 0.7, 1.0], "warnings": []}, which={"reasons": ["plane axial"]},
                                      instances=100, settled=True))  # fmt: skip
            study = session.get_one(StudyRow, f"st_{n:012d}")
            told = {**put("PatientName", {"Alphabetic": f"Name{n // 4:05d}^Given"}), **put("StudyDate", (study.date or "").replace("-", "")),
                    **put("AccessionNumber", f"A{n}"), **put("StudyDescription", "control")}  # fmt: skip
            for k in range(3):
                keep(session, study, f"1.2.{n}.{k}", told, {**put("Modality", modality), **put("SeriesNumber", k + 1)})
    archive.engine.dispose()


def listing(port: int) -> dict[str, float]:
    """95th percentiles over HTTP, milliseconds."""
    import httpx

    from tests.bench import served

    with tempfile.TemporaryDirectory() as folder:
        crowd(Path(folder) / "archive")
        with served(Path(folder), port) as (url, _), httpx.Client(base_url=url) as client:
            found = {}
            calls: dict[str, Callable[[int], str]] = {
                "list": lambda n: f"/v1/studies?limit=50&offset={n * 50 % STUDIES}",
                "filter": lambda n: f"/v1/studies?limit=50&modality=CT&since=20{10 + n % 15}-01-01&until=20{11 + n % 15}-12-31",
                "patient": lambda n: f"/v1/studies?patient_id=P{n * 7 % 2500:05d}",
                "timeline": lambda n: f"/v1/patients/P{n * 11 % 2500:05d}/timeline",
            }
            for name, path in calls.items():
                seconds = []
                for n in range(220):
                    start = time.perf_counter()
                    assert client.get(path(n)).status_code == 200
                    seconds.append(time.perf_counter() - start)
                found[f"{name}_10000_studies_p95_ms"] = 1000 * float(np.percentile(seconds[20:], 95))
    return found


def figures() -> dict[str, float]:
    """All of it."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "ct").mkdir()
        paths = ct_slices(folder / "ct")
        packed = zipped(paths, folder / "ct.zip")
        from_zip, loose = median(lambda: by_pydicom_from_zip(packed), 3), median(lambda: by_pydicom(paths), 3)
        ours, http = statistics.median(ingests(packed)), statistics.median(uploads(packed, 8500))
        found = {
            "ingest_300_slices_zip_s": ours, "ingest_300_slices_zip_http_s": http, "ingest_300_slices_loose_s": statistics.median(ingests(folder / "ct")),
            "pydicom_reads_zip_s": from_zip, "pydicom_reads_loose_s": loose, "ingest_zip_to_pydicom_zip": ours / from_zip,
            "ingest_http_to_pydicom_zip": http / from_zip, "ingest_zip_to_pydicom_loose": ours / loose,
            "ingest_peak_mb_300": peak_mb(packed), "zip_mb": packed.stat().st_size / 2**20,
        }  # fmt: skip
        (folder / "more").mkdir()
        found["ingest_peak_mb_1200"] = peak_mb(zipped([*paths, *ct_slices(folder / "more", 900)], folder / "more.zip"))
        found |= volumes(paths, folder)
    return found | listing(8520)


if __name__ == "__main__":
    for name, value in figures().items():
        print(f"{name:45} {value:10.4f}")
