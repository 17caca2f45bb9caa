"""Run in a process of its own by test_fuzz.py: mutated files of every format, taken in as uploads. Prints what it saw as JSON."""

import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from knowledge.errors import KnowledgeError
from knowledge.studies import workers
from knowledge.studies.archive import Archive
from knowledge.studies.deidentify.ocr import lines_in
from knowledge.studies.unpack import Incoming, from_bytes

MEMORY = 6 * 2**30
LARGEST_SEED = 400_000
BATCH = 50


def seeds(folders: list[Path]) -> list[tuple[str, bytes]]:
    """Files to mutate, the small ones of each folder."""
    found = [p for f in folders for p in sorted(f.rglob("*")) if p.is_file() and p.stat().st_size <= LARGEST_SEED]
    return [(p.name, p.read_bytes()) for p in found if p.suffix not in (".md", ".MD")]


INTERESTING = [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff", b"\x80\0", b"SQ\0\0\xff\xff\xff\xff", b"\xfe\xff\0\xe0\xff\xff\xff\xff",
               b"\xe0\x7f\x10\0OW\0\0\xf0\xff\xff\xff", b"..\\..\\x", b"../../x", b"1e308", b"-1", b"nan", b"99999999999"]  # fmt: skip


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A few changes: bytes, runs, lengths, cuts, repeats."""
    made = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 6])):
        if not made:
            return b""
        head = min(len(made), 4096) if chance.random() < 0.7 else len(made)
        at = chance.randrange(head)
        kind = chance.randrange(7)
        if kind == 0:
            made[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            made[at] = chance.randrange(256)
        elif kind == 2:
            piece = chance.choice(INTERESTING)
            made[at : at + len(piece)] = piece
        elif kind == 3:
            made[at:at] = chance.choice(INTERESTING)
        elif kind == 4:
            del made[at : at + chance.choice([1, 2, 2, 4, 8, 8, 100, 100, 1000, len(made)])]
        elif kind == 5:
            made[at:at] = made[at : at + chance.choice([4, 16, 300])]
        else:
            made[at : at + 4] = chance.randrange(2**32).to_bytes(4, chance.choice(["little", "big"]))
    return bytes(made)


def stray_writes(root: Path) -> list[str]:
    """Paths opened for writing outside the archive and the temporary folder; grows as they happen."""
    allowed = (str(root), tempfile.gettempdir(), "/dev/", "/proc/")
    found: list[str] = []

    def audited(name: str, arguments: tuple[Any, ...]) -> None:
        if name == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            if not os.path.abspath(arguments[0]).startswith(allowed):
                found.append(arguments[0])
        elif name in ("os.rename", "os.symlink", "os.link") and not os.path.abspath(str(arguments[1])).startswith(allowed):
            found.append(str(arguments))

    sys.addaudithook(audited)
    return found


def loaded(_: int) -> int:
    """In a worker: the reader of scanned pages at work on an empty one."""
    return len(lines_in(np.full((64, 64), 255, np.uint8)))


def main(root: Path, count: int, seed: int, folders: list[Path]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.fsync = lambda handle: None  # type: ignore[assignment]  # durability has its own test
    archive, chance = Archive(root), random.Random(seed)
    strays = stray_writes(root)
    list(workers.each(loaded, range(4)))  # a worker loads its libraries once; that isn't a hang
    took: list[tuple[float, str]] = []
    taken = refused = 0
    read_one = archive.read_one

    def timed(reader: Any, file: Incoming) -> Any:
        start = time.perf_counter()
        try:
            return read_one(reader, file)
        finally:
            took.append((time.perf_counter() - start, file.name))

    archive.read_one = timed  # type: ignore[method-assign]
    originals = seeds(folders)

    def files(number: int) -> Iterator[Incoming]:
        for n in range(number):
            name, data = chance.choice(originals)
            yield from from_bytes(f"{n}/{name}", mutated(data, chance))

    for _ in range(count // BATCH):
        start = time.perf_counter()
        done = archive.add(files(BATCH))
        taken, refused = taken + len(done.studies) + len(done.records), refused + len(done.rejected)
        assert all(r.reason for r in done.rejected)
        took.append(((time.perf_counter() - start) / BATCH, "a batch, each file"))
    decoded = undecodable = 0
    for study in archive.studies()[:400]:
        for series in study.series[:2]:
            start, told = time.perf_counter(), "decoded"
            try:
                archive.volume(series.id)
                decoded += 1
            except KnowledgeError as error:
                undecodable, told = undecodable + 1, str(error)
            took.append((time.perf_counter() - start, f"volume of {series.description!r} in {study.id}: {told}"))
    # Not ru_maxrss: a child starts with that of the process which forked it.
    peak = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) / 1024  # noqa: SIM115
    print(json.dumps({"files": count, "taken": taken, "refused": refused, "decoded": decoded, "undecodable": undecodable,
                      "slowest": [(round(s, 2), what) for s, what in sorted(took, reverse=True)[:3]], "peak_mb": round(peak), "strays": strays[:5],
                      "objects": len(list(archive.objects.root.glob("*/*")))}))  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), [Path(p) for p in sys.argv[4:]])
