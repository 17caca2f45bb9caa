"""A real Chromium on a real server: pages that note every error and every request that leaves the machine."""

import os
import shutil
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from serving.access.keys import KeyRing
from serving.app import create_app
from serving.settings import Settings

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # fmt: skip
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="chromium isn't installed (Debian package chromium)"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(app: Any, port: int) -> Iterator[None]:
    """An app on `port`, in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield
    server.should_exit = True
    thread.join(15)


@contextmanager
def served(data: Path, **settings: Any) -> Iterator[str]:
    """The chat link of a server on `data`, in a thread."""
    port = free_port()
    with running(create_app(Settings(data=data, **settings)), port):
        yield f"http://127.0.0.1:{port}/#key={KeyRing(data / 'access').local()}"


@asynccontextmanager
async def browsing(
    link: str, patient: str | None = "SAMPLE-GLIOMA", allowed: tuple[str, ...] = (), **context: Any
) -> AsyncIterator[Any]:
    """A page on `link` with its case open. At the end: no error on the page but `allowed` ones, and no request to another host."""
    from playwright.async_api import async_playwright, expect

    assert CHROMIUM, "CI has to install chromium"
    outside: list[str] = []
    errors: list[str] = []
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        options = {
            "viewport": {"width": 1500, "height": 900},
            "locale": "en-GB",
            "permissions": ["clipboard-read", "clipboard-write"],
        }
        page = await (await browser.new_context(**(options | context))).new_page()
        page.on(
            "request",
            lambda r: outside.append(r.url) if "127.0.0.1" not in r.url and not r.url.startswith(("blob:", "data:")) else None,
        )
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        await page.goto(link)
        if patient is not None:
            await expect(page.locator("#patient")).to_have_value(patient)
        assert "key=" not in page.url
        yield page
        await browser.close()
    assert not outside, outside
    assert not (wrong := [e for e in errors if not any(a in e for a in allowed)]), wrong


async def ask(page: Any, question: str, seconds: float = 90) -> Any:
    """Ask, wait for the answer, and give its turn."""
    from playwright.async_api import expect

    before = await page.locator(".turn").count()
    await page.fill("#question", question)
    await page.keyboard.press("Enter")
    turn = page.locator(".turn").nth(before)
    await expect(turn.locator(".answer")).to_be_visible(timeout=1000 * seconds)
    return turn
