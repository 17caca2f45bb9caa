"""Processes for foreign code (codecs, PDF, Office, C++ image readers): each call can be killed, and its memory is bounded."""

import logging
import multiprocessing
import os
import resource
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import TimeoutError as Late
from functools import cache
from typing import Any

from pebble import ProcessExpired, ProcessPool

from knowledge.errors import Refused

SECONDS = 30.0
"""What one call may take; then its process is killed."""
MEMORY = 6 * 2**30
"""Address space of one worker, in bytes."""

_lock = threading.Lock()


def _prepare() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)  # what a library says of a file may quote it
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


@cache
def _pool() -> ProcessPool:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["knowledge.studies.pixels"])
    return ProcessPool(max_workers=os.cpu_count() or 1, max_tasks=2000, initializer=_prepare, context=context)


def each(work: Callable[[Any], Any], arguments: Sequence[Any], seconds: float = SECONDS) -> Iterator[Any]:
    """`work` done on every argument, side by side, results in order. Raises Refused where one fails, hangs or kills its process."""
    with _lock:
        futures = [_pool().schedule(work, args=(a,), timeout=seconds) for a in arguments]
    try:
        for future in futures:
            yield _result(future)
    finally:
        for future in futures:
            future.cancel()


def run(work: Callable[[Any], Any], argument: Any, seconds: float = SECONDS) -> Any:
    """`work` done on one argument; see `each`."""
    with _lock:
        future = _pool().schedule(work, args=(argument,), timeout=seconds)
    return _result(future)


def _result(future: Any) -> Any:
    try:
        return future.result()
    except Late as error:
        raise Refused("reading it took too long", "send it uncompressed, or in another format") from error
    except ProcessExpired as error:
        raise Refused("reading it broke the reader's process", "send it uncompressed, or in another format") from error
    except MemoryError as error:
        raise Refused("reading it needs more memory than is allowed", "send a smaller file") from error
    except Exception as error:
        raise Refused(f"it can't be read ({type(error).__name__})", "send the original file again") from error
