"""`make bench`: medians and ratios, printed as a table and kept as JSON. Nothing here is a test."""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def command(*arguments: str) -> float:
    return timed(lambda: subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True))


@contextmanager
def served(data: Path, port: int) -> Iterator[tuple[str, float]]:
    """A server on `port`: its URL, and the seconds from its start to its first answer on /readyz."""
    import httpx

    start, url = time.perf_counter(), f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "serving", "serve", "--data", str(data), "--port", str(port), "--no-auth"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        while True:
            try:
                httpx.get(f"{url}/readyz", timeout=1)
                break
            except httpx.TransportError:
                time.sleep(0.02)
        yield url, time.perf_counter() - start
    finally:
        server.terminate()
        server.wait()


def ready(data: Path, port: int) -> float:
    """Seconds from the start of the process to its first answer on /readyz."""
    with served(data, port) as (_, seconds):
        return seconds


def streamed(data: Path, port: int) -> dict[str, float]:
    """Over HTTP: milliseconds from the question to its first event, and to the first tool's start."""
    import httpx

    from knowledge import sample

    first, step = [], []
    with served(data, port) as (url, _), httpx.Client(base_url=url, timeout=60) as client:
        for _ in range(8):
            made = client.post("/v1/conversations", json={"patient_id": sample.PATIENT_ID}).json()["id"]
            start, heard, began = time.perf_counter(), 0.0, 0.0
            body, accept = {"text": "What is the creatinine?"}, {"Accept": "text/event-stream"}
            with client.stream("POST", f"/v1/conversations/{made}/messages", json=body, headers=accept) as reply:
                for line in reply.iter_lines():
                    if line.startswith("event:"):
                        heard = heard or time.perf_counter() - start
                    if line == "event: tool.started":
                        began = began or time.perf_counter() - start
            first.append(heard)
            step.append(began)
    return {
        "http_first_question_first_event_ms": 1000 * first[0],
        "http_first_event_ms": 1000 * statistics.median(first),
        "http_first_tool_started_ms": 1000 * statistics.median(step),
    }


async def talks(data: Path) -> dict[str, float]:
    """First event, the agent's own time, and a second question on the same series."""
    from knowledge import sample
    from serving.house import build
    from serving.settings import Settings

    house = build(Settings(data=data))
    sample.load(house.archive)
    house.warm()
    first, step, own, whole = [], [], [], []
    async with house.assistant as assistant:
        for number in range(12):
            conversation = assistant.open(patient_id=sample.PATIENT_ID)
            question = ["How big is the tumour?", "Is her kidney function good enough for gadolinium?"][number % 2]
            start, tools, heard, began = time.perf_counter(), 0.0, None, None
            spans: list[tuple[float, float]] = []
            async with aclosing(assistant.stream(conversation.id, question)) as events:
                async for event in events:
                    heard = heard or time.perf_counter() - start
                    if event.name == "tool.started":
                        began = began or time.perf_counter() - start
                    if event.name == "tool.finished":
                        now = time.perf_counter() - start
                        spans.append((now - event.data["seconds"], now))
            total = time.perf_counter() - start
            end = 0.0
            for low, high in sorted(spans):  # tools run side by side: their time is the union of their spans
                tools += max(0.0, high - max(low, end))
                end = max(end, high)
            first.append(heard or total)
            step.append(began or total)
            own.append(total - tools)
            if question.startswith("How big"):
                whole.append(total)
    return {
        "first_event_ms": 1000 * statistics.median(first[1:]),
        "first_tool_started_ms": 1000 * statistics.median(step[1:]),
        "agent_own_ms": 1000 * statistics.median(own[2:]),
        "size_first_s": whole[0],
        "size_again_s": statistics.median(whole[1:]),
        "size_first_to_again": whole[0] / statistics.median(whole[1:]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    args = parser.parse_args()
    figures: dict[str, float] = {"help_s": statistics.median(command("-m", "serving", "--help") for _ in range(5))}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        figures["ready_first_s"] = ready(data, 8461)
        figures["ready_s"] = statistics.median(ready(data, 8462 + n) for n in range(3))
        figures |= asyncio.run(talks(data))
        figures |= streamed(data, 8470)
    from tests import (
        bench_agent,
        bench_course,
        bench_dicomweb,
        bench_guidelines,
        bench_intake,
        bench_models,
        bench_network,
        bench_page,
    )

    figures |= (
        bench_models.figures()
        | bench_intake.figures()
        | bench_dicomweb.figures()
        | bench_network.figures()
        | bench_guidelines.figures()
        | bench_agent.figures()
        | bench_page.figures()
        | bench_course.figures()
    )
    figures = {k: round(v, 4) for k, v in figures.items()}
    args.out.write_text(json.dumps({"cpus": os.cpu_count(), "figures": figures}, indent=1) + "\n")
    for name, value in figures.items():
        print(f"{name:<40}{value:>12}")


if __name__ == "__main__":
    main()
