"""Processes for work that may crash, hang or swallow memory: kept between calls, killed without harm to anything else.

`concurrent.futures` can't kill one call, and one crash there ends all the others. pebble's pool, used before, took a crash that it
saw before the worker's receipt for the end of all workers and answered nothing from then on: one crash in 35 beside busy threads.
"""

import multiprocessing
import pickle
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

START_S = 120.0
"""What a process may take until it begins a call: a new one imports its libraries first."""
CALLS = 2000
"""Then a process is replaced, so that what leaks in foreign code doesn't add up."""

_starting = threading.Lock()


class Died(Exception):
    """The process ended in the middle of a call, or couldn't start; `code` is its exit code, negative for a signal."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"the process ended with {code}")
        self.code = code


class Unsendable(Exception):
    """Stands for an error, or a result, that can't be sent between processes; says its type."""


class Worker:
    """One process that does one call at a time; started at the first one, and anew after it was killed or died.

    `prepare(*given)` runs in it first. Not for two threads at once.
    """

    def __init__(self, prepare: Callable[..., None], *given: Any) -> None:
        self._prepare, self._given = prepare, given
        self._process: Any = None
        self._pipe: Connection | None = None
        self._calls = 0

    def run(self, work: Callable[..., Any], arguments: tuple[Any, ...], seconds: float, beat: Callable[[], None] | None = None,
            every: float = 0.05) -> Any:  # fmt: skip
        """`work(*arguments)` in the process; `beat` is called here every so many seconds while it runs, and may raise to end it.

        Raises what `work` raises, TimeoutError after `seconds`, Died, and what `beat` raises; after the last three the process is gone.
        """
        task = pickle.dumps((work, arguments))
        try:
            pipe = self._ready()
            pipe.send_bytes(task)
            self._await(pipe, START_S, beat, every)
            pipe.recv_bytes()
            self._await(pipe, seconds, beat, every)
            fine, outcome = pickle.loads(pipe.recv_bytes())  # noqa: S301 (from our own process)
        except (EOFError, OSError) as error:  # TimeoutError is one of these
            code = self._end()
            raise error if isinstance(error, TimeoutError) else Died(code) from error
        except BaseException:
            self._end()
            raise
        self._calls += 1
        if self._calls >= CALLS:
            self._end()
        if fine:
            return outcome
        raise outcome

    def _ready(self) -> Connection:
        if self._pipe is None:
            context = multiprocessing.get_context("forkserver")
            self._pipe, other = context.Pipe()
            self._process = context.Process(target=_serve, args=(other, self._prepare, self._given), daemon=True)
            with _starting:
                self._process.start()
            other.close()
            self._calls = 0
        return self._pipe

    def _await(self, pipe: Connection, seconds: float, beat: Callable[[], None] | None, every: float) -> None:
        """Returns when something can be read, or the process has closed its end."""
        end = time.monotonic() + seconds
        while not wait([pipe, self._process.sentinel], min(every, seconds) if beat else max(0.0, end - time.monotonic())):
            if beat:
                beat()
            if time.monotonic() >= end:
                raise TimeoutError(f"longer than {seconds:g} s")

    def _end(self) -> int | None:
        """Kills the process, if one is there; its exit code where it had ended by itself."""
        process, pipe = self._process, self._pipe
        self._process = self._pipe = None
        if pipe is not None:
            pipe.close()
        if process is None or process.pid is None:
            return None
        process.join(0.2)
        code: int | None = process.exitcode
        process.kill()
        process.join()
        return code


def _serve(pipe: Connection, prepare: Callable[..., None], given: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare(*given)
    while True:
        try:
            task = pipe.recv_bytes()
        except EOFError:  # the house has ended, or wants this process no more
            return
        try:
            work, arguments = pickle.loads(task)  # noqa: S301 (from our own house)
        except Exception as error:  # noqa: BLE001 (the caller gets it, whatever it is)
            work, arguments = _fail, (error,)
        pipe.send_bytes(b"begun")
        pipe.send_bytes(_outcome(work, arguments))


def _fail(error: Exception) -> None:
    raise error


def _outcome(work: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes:
    """(True, result) or (False, error), packed so that it can be unpacked."""
    try:
        return pickle.dumps((True, work(*arguments)))
    except Exception as error:  # noqa: BLE001 (the caller gets it, whatever it is)
        try:
            packed = pickle.dumps((False, error))
            pickle.loads(packed)  # noqa: S301 (packed a line above: some errors can't be made again)
            return packed
        except Exception:  # noqa: BLE001 (whatever an error's own packing raises)
            return pickle.dumps((False, Unsendable(type(error).__name__)))
