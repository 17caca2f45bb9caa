"""The agent's own speed: beside its tools, late in a conversation, with tools side by side, with a hundred conversations at once."""

import argparse
import asyncio
import json
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from knowledge import sample

QUESTIONS = ["What is the creatinine?", "What is her KPS?", "MGMT status?", "Which studies are there?", "What are her platelets?",
             "What did the last report say about the left ventricle?", "Is her kidney function good enough for gadolinium?",
             "What do guidelines recommend after surgery for her?"]  # fmt: skip
AT_ONCE = 100


def union(steps: list[tuple[float, float]]) -> float:
    """Seconds in which at least one tool ran."""
    total, end = 0.0, 0.0
    for low, high in sorted(steps):
        total += max(0.0, high - max(low, end))
        end = max(end, high)
    return total


async def asked(assistant: Any, conversation: str, question: str) -> tuple[float, float, float]:
    """Seconds of the whole answer, of the time in which tools ran, and of the tools one after the other."""
    start, spans, alone = time.perf_counter(), [], 0.0
    async for event in assistant.stream(conversation, question):
        if event.name == "tool.finished":
            now = time.perf_counter() - start
            spans.append((now - event.data["seconds"], now))
            alone += event.data["seconds"]
    return time.perf_counter() - start, union(spans), alone


async def alone(data: Path) -> dict[str, float]:
    """Agent time in fresh conversations and at turn 60 of one, and what overlap saves."""
    from serving.house import build
    from serving.settings import Settings

    house = build(Settings(data=data))
    sample.load(house.archive)
    house.warm()
    async with house.assistant as assistant:
        for question in QUESTIONS:
            await asked(assistant, assistant.open(patient_id=sample.PATIENT_ID).id, question)
        own = []
        for _ in range(10):
            for question in QUESTIONS:
                whole, tools, _ = await asked(assistant, assistant.open(patient_id=sample.PATIENT_ID).id, question)
                own.append(1000 * (whole - tools))
        turns = []
        for _ in range(3):
            conversation = assistant.open(patient_id=sample.PATIENT_ID).id
            turns.append(
                [1000 * (w - t) for w, t, _ in [await asked(assistant, conversation, QUESTIONS[n % 5]) for n in range(62)]]
            )
        both = "Segment and measure the tumour, compute its radiomics, and what type is it most likely?"
        await asked(assistant, assistant.open(patient_id=sample.PATIENT_ID).id, both)
        _, together, apart = await asked(assistant, assistant.open(patient_id=sample.PATIENT_ID).id, both)
    first = statistics.median(t for run in turns for t in run[:3])
    late = statistics.median(t for run in turns for t in run[57:])
    return {"agent_own_p50_ms": statistics.median(own), "agent_own_p95_ms": sorted(own)[int(0.95 * len(own))], "turn_1_ms": first, "turn_60_ms": late,
            "turn_60_to_1": late / first, "tools_side_by_side_s": together, "tools_one_after_the_other_s": apart, "overlap_ratio": together / apart}  # fmt: skip


@contextmanager
def served(data: Path) -> Iterator[tuple[str, int]]:
    """A server process on `data`: its URL and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = subprocess.Popen([sys.executable, "-m", "serving", "serve", "--port", str(port), "--data", str(data), "--no-auth"],
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        while True:
            try:
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield url, run.pid
    finally:
        run.terminate()
        run.wait(30)


async def told(port: int, conversation: str, question: str) -> tuple[float, bool]:
    """Milliseconds to the first event of a streamed answer, and whether the answer came. On a bare socket: httpx takes some 13 ms of a core a request."""
    body = json.dumps({"text": question}).encode()
    head = f"POST /v1/conversations/{conversation}/messages HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nContent-Type: application/json\r\n"
    start, first, answered = time.perf_counter(), 0.0, False
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    async for line in reader:
        if line.startswith(b"event:"):
            first = first or 1000 * (time.perf_counter() - start)
            answered = answered or b"answer" in line
    writer.close()
    return first, answered


async def crowd(url: str, pid: int) -> dict[str, float]:
    """A hundred conversations streamed at once, three questions each on cheap tools."""
    port = int(url.rsplit(":", 1)[1])
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        made = [
            (await client.post("/v1/conversations", json={"patient_id": sample.PATIENT_ID})).json()["id"] for _ in range(AT_ONCE)
        ]
    for question in QUESTIONS[:4]:
        await told(port, made[0], question)
    before = memory_mb(pid)
    firsts: list[float] = []

    async def talk(conversation: str, number: int) -> None:
        for turn in range(3):
            first, answered = await told(port, conversation, QUESTIONS[(number + turn) % 4])
            assert answered
            firsts.append(first)

    start = time.perf_counter()
    await asyncio.gather(*(talk(c, n) for n, c in enumerate(made)))
    seconds = time.perf_counter() - start
    return {"at_once": AT_ONCE, "first_event_p50_ms": statistics.median(firsts), "first_event_p95_ms": sorted(firsts)[int(0.95 * len(firsts))],
            "answers_per_s": 3 * AT_ONCE / seconds, "server_mb_before": before, "server_mb_after": memory_mb(pid)}  # fmt: skip


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return float(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def figures() -> dict[str, float]:
    """All of it."""
    with TemporaryDirectory() as folder:
        found = asyncio.run(alone(Path(folder)))
        with served(Path(folder)) as (url, pid):
            found |= asyncio.run(crowd(url, pid))
    return {k: round(v, 3) for k, v in found.items()}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(json.dumps(figures(), indent=1))


if __name__ == "__main__":
    main()
