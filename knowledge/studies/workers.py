"""Processes for foreign code (codecs, PDF, Office, C++ image readers): each call can be killed, and its memory is bounded."""

import logging
import multiprocessing
import os
import queue
import resource
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from knowledge.errors import Refused
from knowledge.processes import Died, Unsendable, Worker

SECONDS = 30.0
"""What one call may take; then its process is killed."""
MEMORY = 6 * 2**30
"""Address space of one worker, in bytes."""


def _prepare() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)  # what a library says of a file may quote it
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


@cache
def _idle() -> "queue.LifoQueue[Worker]":
    """Workers that nobody uses now; the one used last comes first, so that few processes start where few are needed."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["knowledge.studies.pixels"])
    idle: queue.LifoQueue[Worker] = queue.LifoQueue()
    for _ in range(os.cpu_count() or 1):
        idle.put(Worker(_prepare))
    return idle


@cache
def _callers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, "workers")


def each(work: Callable[[Any], Any], arguments: Sequence[Any], seconds: float = SECONDS) -> Iterator[Any]:
    """`work` done on every argument, side by side, results in order. Raises Refused where one fails, hangs or kills its process."""
    return _callers().map(lambda argument: run(work, argument, seconds), arguments)


def run(work: Callable[[Any], Any], argument: Any, seconds: float = SECONDS) -> Any:
    """`work` done on one argument; see `each`."""
    worker = _idle().get()
    try:
        return worker.run(work, (argument,), seconds)
    except TimeoutError as error:
        raise Refused("reading it took too long", "send it uncompressed, or in another format") from error
    except Died as error:
        raise Refused("reading it broke the reader's process", "send it uncompressed, or in another format") from error
    except MemoryError as error:
        raise Refused("reading it needs more memory than is allowed", "send a smaller file") from error
    except Exception as error:
        kind = str(error) if isinstance(error, Unsendable) else type(error).__name__
        raise Refused(f"it can't be read ({kind})", "send the original file again") from error
    finally:
        _idle().put(worker)
