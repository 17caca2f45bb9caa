"""A tool in a process of its own: with its own environment's Python if need be, limits of memory and time, and a stop that always works.

The child is `python -m tools.apart`: it reads one request as JSON, opens the same data folder, runs the tool, writes progress and the reply
as lines of JSON. What breaks in it breaks there.
"""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tools.base import Bench, CaseTool, Reply
from tools.errors import Cancelled, Failed, NotApplicable, ToolError, TryAgain

log = logging.getLogger("consilium.tools.apart")
LOOK_S = 0.1
"""Seconds between two looks at whether it was stopped, and at its memory."""
MOST_REPLY = 64 * 2**20


class Process(BaseModel):
    """Where and within which limits a tool runs by itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    python: Path | None = Field(
        None, description="Python of another environment that has Consilium and the tool; left out: the server's."
    )
    seconds: float = Field(300, gt=0, description="It is stopped after this time.")
    memory_mb: int = Field(4000, gt=0, description="It is stopped above this resident memory.")


@cache
def apart(
    tool: type[CaseTool], process: Process, archive: Path, database_url: str | None, data: Path, models: Path
) -> type[CaseTool]:
    """The same tool, run in a process of its own on the same archive, data folder and models."""

    class Apart(tool):  # type: ignore[misc,valid-type]
        """Run by `run_apart`."""

        def answer(self, arguments: BaseModel) -> Reply:
            case = self.bench.case
            request = {
                "tool": self.name, "arguments": arguments.model_dump(mode="json", exclude_unset=True), "archive": str(archive),
                "database_url": database_url, "data": str(data), "models": str(models), "patient": case.patient.id if case else None,
                "studies": list(case.study_ids) if case and case.study_ids else None,
                "known": [e.model_dump(mode="json") for e in self.bench.known()], "today": self.bench.today().isoformat(),
            }  # fmt: skip
            return run_apart(request, process, self.bench)

    Apart.__name__ = tool.__name__
    return Apart


def run_apart(request: dict[str, Any], process: Process, bench: Bench) -> Reply:
    """Run one request in a child. Raises what the tool raised, Cancelled where it was stopped, Failed where it broke or went past its limits."""
    command = [
        str(process.python or sys.executable),
        "-P",
        "-m",
        "tools.apart",
    ]  # -P: what lies in the working folder isn't imported
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    told: list[dict[str, Any]] = []
    reader = threading.Thread(target=_heard, args=(child, told, bench.progress), daemon=True)
    reader.start()
    assert child.stdin is not None
    with suppress(BrokenPipeError):
        child.stdin.write(json.dumps(request).encode())
        child.stdin.close()
    until, name = time.monotonic() + process.seconds, request["tool"]
    try:
        while child.poll() is None:
            if bench.cancelled():
                raise Cancelled("it was stopped", "ask again")
            if time.monotonic() > until:
                raise Failed(
                    f"{name} took longer than its {process.seconds:g} s", "narrow the question, or raise tool_processes' limit"
                )
            if _resident_mb(child.pid) > process.memory_mb:
                raise Failed(
                    f"{name} needed more than its {process.memory_mb} MB", "narrow the question, or raise tool_processes' limit"
                )
            time.sleep(LOOK_S)
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        reader.join(timeout=5)
    last = told[-1] if told else {}
    if "reply" in last:
        return Reply.model_validate(last["reply"])
    kinds: dict[str, type[ToolError]] = {k.__name__: k for k in (TryAgain, NotApplicable, Failed, Cancelled)}
    if "error" in last:
        raise kinds.get(last["error"], Failed)(last["message"], last["hint"])
    log.warning("the process of %s ended with %s", name, child.returncode)
    raise Failed(
        f"{name} broke (its process ended with {child.returncode})", "see the server's log; report it to the tool's makers"
    )


def _heard(child: "subprocess.Popen[bytes]", told: list[dict[str, Any]], progress: Callable[[int, int], None]) -> None:
    assert child.stdout is not None
    for line in iter(lambda: child.stdout.readline(MOST_REPLY), b""):  # type: ignore[union-attr]
        with suppress(ValueError):
            message = json.loads(line)
            if "done" in message:
                progress(int(message["done"]), int(message["total"]))
            else:
                told.append(message)


def _resident_mb(pid: int) -> float:
    with suppress(OSError, ValueError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(x for x in lines if x.startswith("VmRSS")).split()[1]) / 1024
    return 0.0


def main() -> None:
    """The child's side."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a tool prints is no message

    def tell(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    request = json.load(sys.stdin)
    try:
        reply = _ran(request, lambda done, total: tell({"done": done, "total": total}))
        tell({"reply": reply.model_dump(mode="json")})
    except ToolError as error:
        tell({"error": type(error).__name__, "message": str(error), "hint": error.hint})
    except Exception as error:  # noqa: BLE001 (its text may hold patient data: the kind alone is told)
        tell(
            {
                "error": "Failed",
                "message": f"{request['tool']} broke ({type(error).__name__})",
                "hint": "report it to the tool's makers",
            }
        )


def _ran(request: dict[str, Any], progress: Callable[[int, int], None]) -> Reply:
    from datetime import date

    from knowledge.case import open_case
    from knowledge.evidence import Evidence
    from knowledge.studies.archive import Archive
    from tools.base import Resources
    from tools.registry import tool_types

    if request["tool"] not in tool_types():
        raise Failed(f"there is no tool {request['tool']} in its process's environment", "install it there")
    resources = Resources.plain(Path(request["data"]) / "guidelines", Path(request["models"]))
    archive = Archive(Path(request["archive"]), request["database_url"])
    case = open_case(archive, request["patient"], request["studies"]) if request["patient"] or request["studies"] else None
    known = [Evidence.model_validate(e) for e in request["known"]]
    bench = Bench(resources, case, progress, evidence=lambda name: next((e for e in known if e.id == name), None), known=lambda: known,
                  today=lambda: date.fromisoformat(request["today"]))  # fmt: skip
    tool = tool_types()[request["tool"]].bound(bench)
    reply: Reply = tool.answer(tool.args_schema.model_validate(request["arguments"]))
    return reply


if __name__ == "__main__":
    main()
