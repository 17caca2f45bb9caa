"""Run in a process of its own by test_durability.py: uploads that are killed at each step, or meet a full or locked disk."""

import errno
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import event

from agent.testing import dicom_series
from knowledge.errors import StorageFailed
from knowledge.studies.archive import Archive
from knowledge.studies.stream import Stream
from knowledge.studies.unpack import Incoming

FILES = [
    Incoming(f"{n}.dcm", f)
    for n, f in enumerate(dicom_series(np.ones((64, 64, 3), np.uint16), np.diag([1.0, 1, 2, 1]), study_uid="1.2.3"))
]
FILES.append(Incoming("r.txt", b"EXAM: MR brain\nDATE: 2026-01-02\nFINDINGS: A mass."))
FIRST = [
    Incoming(f"{n}.dcm", f)
    for n, f in enumerate(dicom_series(np.ones((8, 8, 2), np.uint16), np.eye(4), study_uid="1.9", patient_id="BEFORE"))
]


def forked(work: Callable[[], None]) -> tuple[int, int]:
    """`work` done in a child: (exit status, signal that ended it)."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:  # noqa: BLE001  whatever it is, it must not run on as the parent
            print(f"child: {type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
    _, status = os.waitpid(child, 0)
    return (os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1), (os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0)


def checked(root: Path, acknowledged: bool) -> None:
    """Open the archive as a restart does: what was acknowledged is there, the rest is whole or absent, and nothing lies about."""
    archive = Archive(root)
    before = archive.studies("BEFORE")
    assert before and archive.volume(before[0].series[0].id).array.shape == (8, 8, 2), "what was there before is there"
    there = archive.studies("PHANTOM")
    assert there or not acknowledged, "an acknowledged study is gone"
    if there:
        assert archive.volume(there[0].series[0].id).array.shape == (64, 64, 3), "a study is half there"
    objects = {p.name for p in archive.objects.root.rglob("*") if p.is_file()}
    named = {o.path.name for s in archive.studies() for o in archive.originals(s.id)}
    reports = 1 if there else 0
    assert named <= objects and len(objects - named) == reports, "an original is missing, or one lies about that nothing names"
    assert not list(archive.objects.parts.iterdir()), "temporary files lie about"
    done = archive.add(FILES)
    assert not done.rejected and not done.conflicts and archive.volume(done.studies[0].series[0].id).array.shape == (64, 64, 3)


def acknowledged(root: Path) -> int:
    """How often the process said that something is stored, before it was killed."""
    return len((root.parent / "acknowledged").read_bytes()) if (root.parent / "acknowledged").exists() else 0


def streamed(archive: Archive) -> None:
    """Instances sent one by one, each acknowledged, and laid out."""
    stream = Stream(archive, "AE TEST")
    for file in FILES[:3]:
        assert file.data is not None
        stream.take(file.data)
        with (archive.root.parent / "acknowledged").open("ab") as file_:
            file_.write(b".")
    archive.settle()


def checked_stream(root: Path) -> None:
    """As `checked`, of instances that came one by one: every acknowledged one is there, and readable."""
    archive = Archive(root)
    there = archive.studies("PHANTOM")
    found = sum(s.instances for study in there for s in study.series)
    assert found >= acknowledged(root), "an acknowledged instance is gone"
    if there:
        assert archive.volume(there[0].series[0].id).array.shape == (64, 64, found)
    objects = {p.name for p in archive.objects.root.rglob("*") if p.is_file()}
    assert objects == {o.path.name for s in archive.studies() for o in archive.originals(s.id)}, "originals and rows differ"
    assert not list(archive.objects.parts.iterdir()), "temporary files lie about"
    imports = [e for e in archive.audit() if e.action == "import" and e.actor == "AE TEST"]
    assert sum(e.detail["files"] for e in imports) == found, "the audit counts other files"


def uploaded(archive: Archive) -> None:
    archive.add(FILES)
    (archive.root.parent / "acknowledged").write_bytes(b".")


def killed_at(step: int, root: Path, work: Callable[[Archive], None]) -> None:
    """`work` in which the process is killed at the `step`-th touch of the archive's files or its database."""
    archive = Archive(root)
    count = 0

    def tick(*_: Any) -> None:
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def audited(name: str, arguments: tuple[Any, ...]) -> None:
        if name in ("open", "os.rename", "os.mkdir", "os.remove") and str(root) in str(arguments[0]):
            tick()

    synced = os.fsync
    os.fsync = lambda handle: (tick(), synced(handle), tick())[1]  # type: ignore[assignment]
    event.listen(archive.engine, "before_cursor_execute", tick)
    event.listen(archive.engine, "commit", tick)
    sys.addaudithook(audited)
    work(archive)
    (root.parent / "through").touch()
    archive.engine.dispose()


def fresh(base: Path, name: str) -> Path:
    root = base / name / "archive"
    forked(lambda: (Archive(root).add(FIRST), None)[1])
    return root


def kills(base: Path, work: Callable[[Archive], None], check: Callable[[Path], None]) -> int:
    """Kill at step 1, 2, 3 … until `work` runs through. How many kills there were."""
    for step in range(1, 500):
        root = fresh(base, f"{work.__name__}{step}")
        status, by = forked(lambda step=step, root=root: killed_at(step, root, work))  # type: ignore[misc]
        assert by in (0, signal.SIGKILL) and (by or status == 0), f"step {step}: status {status}"
        status, by = forked(lambda root=root: check(root))  # type: ignore[misc]
        assert (status, by) == (0, 0), f"{work.__name__} after a kill at step {step}"
        if (root.parent / "through").exists():
            return step - 1
    raise AssertionError("it never ran through")


def refused(root: Path, before: Callable[[Archive], None], after: Callable[[], None]) -> None:
    """An upload on a disk that won't take it: an error that says so, and the archive as it was."""

    def work() -> None:
        archive = Archive(root)
        before(archive)
        try:
            archive.add(FILES)
        except StorageFailed as error:
            assert "written" in str(error) and error.hint
            os._exit(7)
        raise AssertionError("the upload was acknowledged")

    status, _ = forked(work)
    after()
    assert status == 7, f"exit status {status}"
    assert forked(lambda: checked(root, acknowledged=False)) == (0, 0)


def too_large(limit: int) -> Callable[[Archive], None]:
    """Files may grow to `limit` bytes: what a full disk or a quota does to a write (EFBIG for ENOSPC)."""

    def act(_: Archive) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return act


def full_disk(archive: Archive) -> None:
    """Every new original meets ENOSPC half-way."""
    real, written = os.write, 0

    def write(handle: int, data: Any) -> int:
        nonlocal written
        written += 1
        if written == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, data)

    os.write = write  # type: ignore[assignment]


def locked(archive: Archive) -> None:
    """No write permission on the originals' folder, for a user who isn't root."""
    folder = archive.objects.root
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    else:
        folder.chmod(0o500)


def main(base: Path) -> None:
    steps = {
        "upload": kills(base, uploaded, lambda root: checked(root, bool(acknowledged(root)))),
        "stream": kills(base, streamed, checked_stream),
    }
    for name, act in {"full": full_disk, "small": too_large(4096), "smaller": too_large(100), "locked": locked}.items():
        root = fresh(base, name)
        refused(root, act, lambda root=root: (root / "objects").chmod(0o700))  # type: ignore[misc]
    print(json.dumps({"kills": steps}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
