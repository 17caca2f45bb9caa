"""Processes that may be killed: what breaks in one stays there, whatever else goes on."""

import ctypes
import os
import threading
import time
from collections.abc import Iterator

import pytest

from knowledge.errors import Refused
from knowledge.processes import Died, Unsendable, Worker
from knowledge.studies import workers


def nothing() -> None:
    """Needs no preparation."""


def crash() -> None:
    ctypes.string_at(0)


def crash_at(number: int) -> int:
    if number == 2:
        crash()
    return number


class Odd(Exception):
    """Can't be made again from what it keeps."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(first)


def odd() -> None:
    raise Odd(1, 2)


def unpackable() -> threading.Lock:
    return threading.Lock()


@pytest.fixture
def busy() -> Iterator[None]:
    """Threads that leave the others little time."""
    over = threading.Event()

    def burn() -> None:
        while not over.is_set():
            sum(range(1000))

    threads = [threading.Thread(target=burn) for _ in range(3)]
    for thread in threads:
        thread.start()
    yield
    over.set()
    for thread in threads:
        thread.join()


@pytest.mark.usefixtures("busy")
def test_each_crash_is_told_and_hurts_no_other_call() -> None:
    for _ in range(25):  # pebble's pool answered nothing any more after some 30
        with pytest.raises(Refused, match="broke the reader"):
            list(workers.each(crash_at, [1, 2, 3], 20.0))
    assert list(workers.each(abs, [-1, -2, -3])) == [1, 2, 3]


def test_errors_and_results_come_back_as_they_can() -> None:
    worker = Worker(nothing)
    first = worker.run(os.getpid, (), 20)
    assert first != os.getpid()
    with pytest.raises(ZeroDivisionError):
        worker.run(divmod, (1, 0), 20)
    with pytest.raises(Unsendable, match="Odd"):
        worker.run(odd, (), 20)
    with pytest.raises(TypeError, match="pickle"):
        worker.run(unpackable, (), 20)
    with pytest.raises(Exception, match="pickle"):
        worker.run(abs, (lambda: 0,), 20)
    assert worker.run(os.getpid, (), 20) == first, "none of these cost the process"
    with pytest.raises(Died) as died:
        worker.run(crash, (), 20)
    assert died.value.code == -11
    with pytest.raises(TimeoutError):
        worker.run(time.sleep, (30,), 0.2)
    assert worker.run(os.getpid, (), 20) != first


def test_whoever_waits_can_end_it() -> None:
    worker = Worker(nothing)
    process = worker.run(os.getpid, (), 20)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worker.run(time.sleep, (30,), 60, stop, 0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def unready() -> None:
    raise OSError


def test_a_process_that_cannot_begin_is_told() -> None:
    with pytest.raises(Died):
        Worker(unready).run(abs, (-1,), 20)
