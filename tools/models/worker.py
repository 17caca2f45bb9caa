"""The process in which networks run: loaded once and kept, watched for progress, and killed where a question is cancelled."""

import logging
import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowledge.processes import Died, Worker
from tools.errors import Cancelled, Failed

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

BEAT_S = 0.05
"""How often a waiting caller looks whether its question was cancelled."""
SECONDS = 600.0
"""What one run may take."""

_turn = threading.Lock()
"""One run at a time: two networks on the same cores take longer than one after the other."""

told: Any = None
"""In the process: windows done and in all, as the waiting caller sees them."""


def _prepare(shared: Any) -> None:
    global told
    told = shared
    logging.disable(logging.CRITICAL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


@cache
def _shared() -> "Synchronized[Any]":
    return multiprocessing.get_context("forkserver").RawArray("l", 2)  # type: ignore[no-any-return]


@cache
def _process() -> Worker:
    return Worker(_prepare, _shared())


def step(done: int, total: int) -> None:
    """In the process: one more window is done."""
    told[0], told[1] = done, total


def run(work: Callable[..., Any], *arguments: Any, progress: Callable[[int, int], None], cancelled: Callable[[], bool]) -> Any:
    """`work(*arguments)` in the process. Raises Cancelled within a second of `cancelled()`, and what `work` raises.

    A run that breaks its process raises Failed; the next run starts a new one.
    """
    while not _turn.acquire(timeout=BEAT_S):
        if cancelled():
            raise Cancelled("the question was cancelled", "ask again")
    try:
        shared: Any = _shared()
        shared[0] = shared[1] = 0
        seen = 0

        def beat() -> None:
            nonlocal seen
            if cancelled():  # the process is killed: a window in the middle of its sums can't be asked to stop
                raise Cancelled("the question was cancelled", "ask again")
            if shared[0] != seen:
                seen = int(shared[0])
                progress(seen, int(shared[1]))

        try:
            return _process().run(work, arguments, SECONDS, beat, BEAT_S)
        except TimeoutError as error:
            raise Failed(f"the model took longer than {SECONDS:g} s", "use a smaller image or another model") from error
        except Died as error:
            raise Failed(
                "the model's process broke (most often: out of memory)", "use a smaller image, or free memory"
            ) from error
        except MemoryError as error:
            raise Failed("the model needs more memory than there is", "use a smaller image, or free memory") from error
    finally:
        _turn.release()


def scratch() -> "tempfile.TemporaryDirectory[str]":
    """A folder in which arrays pass to and from the process: in memory where the machine has such a place."""
    memory = Path("/dev/shm")  # noqa: S108 (a random, private folder is made in it)
    return tempfile.TemporaryDirectory(prefix="consilium-", dir=memory if os.access(memory, os.W_OK) else None)
