"""What the worker process does for a course: align two images; and how an alignment is kept."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import numpy as np

from knowledge.studies.store import write_whole
from tools.course.registration import Image, Quality, Registration, register
from tools.models import worker


def align(files: Sequence[str], affines: Sequence[np.ndarray], hounsfield: Sequence[bool], same_kind: bool) -> Registration:
    """The images in `files` (.npy; the later study first) brought together."""
    images = [Image(np.load(f, mmap_mode="r"), a, h) for f, a, h in zip(files, affines, hounsfield, strict=True)]
    return register(images[0], images[1], same_kind, step=worker.step)


def keep(path: Path, made: Registration) -> None:
    """Write an alignment, whole or not at all."""
    buffer = BytesIO()
    field = np.zeros(0, np.float32) if made.field is None else made.field.astype(np.float32)
    np.savez_compressed(
        buffer,
        matrix=made.matrix,
        field=field,
        grid=made.grid,
        quality=np.frombuffer(json.dumps(asdict(made.quality)).encode(), np.uint8),
    )
    write_whole(path, buffer.getvalue())


def kept(path: Path) -> Registration:
    """An alignment that was kept."""
    with np.load(path, allow_pickle=False) as data:
        field = data["field"]
        return Registration(
            data["matrix"], field if field.size else None, data["grid"], Quality(**json.loads(data["quality"].tobytes()))
        )


def digest(labels: np.ndarray) -> str:
    """What tells one label map from another."""
    return hashlib.sha256(np.ascontiguousarray(labels).tobytes()).hexdigest()[:12]
