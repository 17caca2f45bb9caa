"""The chat page in a real browser: ask, read, open evidence, see the outline on the slice; no call leaves the machine."""

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from knowledge import sample
from serving.access.keys import KeyRing
from serving.app import create_app
from serving.settings import Settings

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


COLOURED = """() => { const c = document.getElementById('canvas'); const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
    let n = 0; for (let i = 0; i < d.length; i += 4) if (Math.max(d[i], d[i + 1], d[i + 2]) - Math.min(d[i], d[i + 1], d[i + 2]) > 90) n++; return n; }"""
"""Pixels of the canvas that aren't grey."""


@contextmanager
def served(data: Path) -> Iterator[str]:
    """The chat link of a server on `data`, in a thread."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(create_app(Settings(data=data)), port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}/#key={KeyRing(data / 'access').local()}"
    server.should_exit = True
    thread.join(15)


@pytest.fixture
def link(data_with_sample: Path) -> Iterator[str]:
    with served(data_with_sample) as url:
        yield url


@pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="chromium isn't installed (Debian package chromium)")
async def test_the_page_answers_and_opens_its_evidence(link: str, tmp_path: Path) -> None:
    from playwright.async_api import async_playwright, expect

    assert CHROMIUM, "CI has to install chromium"
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = await browser.new_page(viewport={"width": 1500, "height": 900})
        outside, errors = [], []
        page.on(
            "request",
            lambda r: outside.append(r.url) if "127.0.0.1" not in r.url and not r.url.startswith(("blob:", "data:")) else None,
        )
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        await page.goto(link)
        await expect(page.locator("#patient")).to_have_value(sample.PATIENT_ID)
        assert "key=" not in page.url
        await expect(page.locator("#case-note")).to_contain_text("made up")
        await page.fill("#question", "How big is the tumour, in mL and mm?")
        await page.keyboard.press("Enter")
        volume = page.locator(".chip", has_text="27.9 mL").first
        await expect(volume).to_be_visible(timeout=60_000)
        await volume.click()
        await expect(page.locator("#drawer h3")).to_contain_text("Volume")
        await expect(page.locator("#where")).to_have_text("111 / 155")
        amber = await page.evaluate(
            """() => { const c = document.getElementById('canvas'); const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
            let n = 0; for (let i = 0; i < d.length; i += 4) if (d[i] > 220 && d[i + 1] > 120 && d[i + 1] < 215 && d[i + 2] < 110) n++; return n; }"""
        )
        assert amber > 200, "the outline is drawn over the slice"
        for question, words, title in (("What tumour type is most likely?", "glioma is most likely", "Tumour type"),
                                       ("How many lesions are there?", "Lesion 1 on study", "Lesion 1"),
                                       ("What is the texture of the lesion?", "ngtdm features", "Radiomics")):  # fmt: skip
            await page.fill("#question", question)
            await page.keyboard.press("Enter")
            await expect(page.get_by_text(words).last).to_be_visible(timeout=60_000)
            found = page.locator(".chip").last
            await expect(found).to_be_visible()
            await found.click()
            await expect(page.locator("#drawer h3")).to_contain_text(title)
            await expect(page.locator("#where")).to_contain_text("/ 155")
            assert await page.evaluate(COLOURED) > 100, f"the evidence of {question!r} is drawn over its slice"
            await page.screenshot(path=tmp_path / f"{title.split()[0].lower()}.png")
        await page.fill("#question", "What did the last report say about the left ventricle?")
        await page.keyboard.press("Enter")
        quote = page.locator(".chip", has_text="report").last
        await expect(quote).to_be_visible(timeout=30_000)
        await quote.click()
        await expect(page.locator("#drawer mark")).to_have_text("The left lateral ventricle is of normal width.")
        await page.fill("#question", "Which first-line treatment do guidelines recommend?")
        await page.keyboard.press("Enter")
        rule = page.locator(".statement", has_text="By Glioblastoma").last.locator(".chip").first
        await expect(rule).to_be_visible(timeout=30_000)
        await rule.click()
        await expect(page.locator("#drawer table")).to_contain_text("methylated")
        await page.screenshot(path=tmp_path / "rule.png")
        await page.locator("#drawer .origin", has_text="MGMT").click()  # an input opens where it comes from
        await expect(page.locator("#drawer h3")).to_contain_text("MGMT promoter methylation")
        await page.locator(".chip", has_text="guideline").last.click()
        await expect(page.locator("#drawer mark strong")).to_be_visible()
        await page.screenshot(path=tmp_path / "guideline.png")
        await page.fill("#question", "Has it grown since the last scan?")
        await page.keyboard.press("Enter")
        await expect(page.locator(".missing").last).to_contain_text("earlier examination", timeout=30_000)
        await page.screenshot(path=tmp_path / "page.png")
        await browser.close()
    assert not outside and not errors, (outside, errors)


@pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="chromium isn't installed (Debian package chromium)")
async def test_a_write_waits_for_its_button_and_an_emergency_stands_first(
    data_with_sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from playwright.async_api import async_playwright, expect

    from knowledge.studies.archive import Archive
    from knowledge.studies.intake import Hints
    from knowledge.studies.unpack import Incoming
    from tests.others import WriteNote
    from tools import registry

    assert CHROMIUM, "CI has to install chromium"
    WriteNote.written.clear()
    types = {**registry.tool_types(), "write_note": WriteNote}
    for place in ("tools.registry.tool_types", "agent.assistant.tool_types"):
        monkeypatch.setattr(place, lambda: types)
    data = tmp_path / "data"
    shutil.copytree(data_with_sample, data)
    text = "MRI brain 2026-11-20\n\nFINDINGS:\nThere is uncal herniation on the right.\n"
    Archive(data / "archive").add(
        [Incoming("new.txt", text.encode())], Hints(patient_id=sample.PATIENT_ID, study_date="2026-11-20")
    )
    with served(data) as url:
        async with async_playwright() as driver:
            browser = await driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = await browser.new_page(viewport={"width": 1500, "height": 900})
            errors: list[str] = []
            page.on("pageerror", lambda e: errors.append(str(e)))
            await page.goto(url)
            await expect(page.locator("#patient")).to_have_value(sample.PATIENT_ID)
            await page.fill("#question", "Add a note to the record")
            await page.keyboard.press("Enter")
            await expect(page.locator(".statement.urgent")).to_contain_text("uncal herniation", timeout=30_000)
            card = page.locator(".confirm")
            await expect(card).to_contain_text("write_note")
            assert not WriteNote.written
            await page.screenshot(path=tmp_path / "confirm.png")
            await card.get_by_role("button", name="Do it").click()
            await expect(page.get_by_text("A note was written").first).to_be_visible(timeout=30_000)
            assert len(WriteNote.written) == 1
            await browser.close()
    assert not errors
