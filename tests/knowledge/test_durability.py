"""What was acknowledged is there after a kill at any step; a disk that won't take an upload leaves the archive as it was."""

import io
import json
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from agent.testing import dicom_series
from knowledge.studies.archive import Archive
from knowledge.studies.store import Journal
from knowledge.studies.unpack import Incoming

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_kills_at_every_step_full_disks_and_missing_permission(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.knowledge.faults", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    steps = json.loads(done.stdout)["kills"]
    assert steps["upload"] > 30 and steps["stream"] > 30


def test_an_upload_under_way_is_not_swept_by_another_start(archive: Archive) -> None:
    journal = Journal(archive.objects.parts)
    staged = archive.objects.stage(io.BytesIO(b"an original"))
    archive.objects.put(staged, journal)
    assert Archive(archive.root).objects.there(staged.sha256), "its journal is locked: it lives"
    journal._file.close()  # the process is gone
    assert not Archive(archive.root).objects.there(staged.sha256)


def test_two_uploads_of_the_same_files_at_once_make_one_study(archive: Archive) -> None:
    files = [Incoming(f"{n}.dcm", f) for n, f in enumerate(dicom_series(np.ones((32, 32, 20), np.uint16), np.eye(4)))]
    failed: list[Exception] = []

    def upload(one: Archive) -> None:
        try:
            one.add(files)
        except Exception as error:  # noqa: BLE001  a thread's failure is looked at below
            failed.append(error)

    threads = [threading.Thread(target=upload, args=(a,)) for a in (archive, Archive(archive.root))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    (study,) = archive.studies()
    assert study.source.files == 20 and not list(archive.objects.parts.iterdir())


def test_an_archive_of_the_first_schema_is_brought_up_with_all_that_it_holds(tmp_path: Path) -> None:
    """tests/data/archive_version_1.zip was written by the program before parts, variants and the audit (commit ae0ef00)."""
    with zipfile.ZipFile(ROOT / "tests" / "data" / "archive_version_1.zip") as old:
        old.extractall(tmp_path / "archive")
    for _ in range(2):
        archive = Archive(tmp_path / "archive")
        mr, grid = archive.studies("PHANTOM")
        assert mr.series[0].instances == 4 and mr.series[0].sequence == "FLAIR" and mr.series[0].plane == "axial"
        np.testing.assert_array_equal(archive.volume(mr.series[0].id).array, np.arange(16 * 16 * 4).reshape(16, 16, 4))
        assert archive.volume(grid.series[0].id).array.shape == (8, 8, 6)
        assert archive.reports("PHANTOM")[0].title == "MR brain"


def test_a_database_of_a_later_version_is_not_touched(archive: Archive) -> None:
    import sqlalchemy as sa

    with archive.engine.begin() as connection:
        connection.execute(sa.text("UPDATE schema_version SET version = 99"))
    with pytest.raises(RuntimeError, match="newer program"):
        Archive(archive.root)
