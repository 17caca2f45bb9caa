"""The page in a real browser: questions asked as a person would, evidence opened, files dropped, everything by keyboard."""

import asyncio
import io
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from PIL import Image

from agent.testing import dicom_series
from knowledge import sample
from knowledge.studies.archive import Archive
from knowledge.studies.intake import Hints
from knowledge.studies.unpack import Incoming
from serving.access.keys import KeyRing
from tests.questions import QUESTIONS
from tests.serving.browser import ask, browsing, free_port, needs_chromium, served

pytestmark = needs_chromium
COLOURED = """() => { const c = document.getElementById('canvas'); const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
    let n = 0; for (let i = 0; i < d.length; i += 4) if (Math.max(d[i], d[i + 1], d[i + 2]) - Math.min(d[i], d[i + 1], d[i + 2]) > 90) n++; return n; }"""
"""Pixels of the canvas that aren't grey."""


async def outlined(page: Any) -> None:
    """Wait until the outline is drawn over the slice (the page's policy forbids waiting inside it)."""
    for _ in range(100):
        if await page.evaluate(COLOURED) > 200:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("no outline is drawn over the slice")


@pytest.fixture(scope="module")
def link(data_with_sample: Path) -> Iterator[str]:
    with served(data_with_sample) as url:
        yield url


@pytest.fixture
def data(data_with_sample: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(data_with_sample, tmp_path / "data", ignore=shutil.ignore_patterns("conversations*", "checkpoints*"))
    return tmp_path / "data"


async def test_the_ten_questions_and_what_stands_behind_their_answers(link: str, tmp_path: Path) -> None:
    """Each is typed and answered; the kinds of evidence are opened: mask, ruler, span, value, rule, passage."""
    from playwright.async_api import expect

    async with browsing(link) as page:
        await expect(page.locator("#case-note")).to_contain_text("made up")
        await expect(page.locator(".starters .button").first).to_be_visible()
        await page.screenshot(path=tmp_path / "empty.png")
        for asked in QUESTIONS:
            for text in (*asked.before, asked.text):
                await ask(page, text)
        base, key = link.split("/#")
        own = {"Authorization": f"Bearer {key.removeprefix('key=')}"}
        newest = httpx.get(f"{base}/v1/conversations", params={"asked": True}, headers=own).json()[0]["id"]
        told = {
            m["question"]: m["answer"] for m in httpx.get(f"{base}/v1/conversations/{newest}", headers=own).json()["messages"]
        }
        for asked in QUESTIONS:
            asked.check(told[asked.text])
        turn = await ask(page, "How big is the tumour, in mL and mm?")
        volume = turn.locator(".statement .chip", has_text=re.compile(r"27\.9.mL")).first
        await volume.click()
        await expect(page.locator("#drawer h3")).to_contain_text("Volume")
        await expect(page.locator("#where")).to_have_text("111 / 155")
        await expect(page.locator("#canvas")).to_have_attribute("data-frame", "110")
        await outlined(page)
        await page.screenshot(path=tmp_path / "page.png")
        turn = await ask(page, "What tumour type is most likely?")
        await turn.locator(".statement .chip.kind-finding").first.click()
        await expect(page.locator("#drawer .bars li").first).to_contain_text("%")
        turn = await ask(page, "What did the last report say about the left ventricle?")
        await turn.locator(".statement .chip.kind-report").first.click()
        await expect(page.locator("#drawer mark")).to_have_text("The left lateral ventricle is of normal width.")
        turn = await ask(page, "Which first-line treatment do guidelines recommend?")
        await turn.locator(".statement", has_text="By Glioblastoma").locator(".chip.kind-rule").first.click()
        await expect(page.locator("#drawer table")).to_contain_text("methylated")
        await page.screenshot(path=tmp_path / "rule.png")
        await page.locator("#drawer .origin", has_text="MGMT").click()  # an input opens where it comes from
        await expect(page.locator("#drawer h3")).to_contain_text("MGMT promoter methylation")
        await turn.locator(".statement .chip.kind-guideline").last.click()
        await expect(page.locator("#drawer mark strong")).to_be_visible()
        await page.screenshot(path=tmp_path / "guideline.png")
        turn = await ask(page, "Has it grown since the last scan?")
        await expect(turn.locator(".missing")).to_contain_text("earlier examination")
        await page.screenshot(path=tmp_path / "missing.png")


async def test_a_new_user_gets_to_a_mask_in_three_clicks(link: str) -> None:
    """A question that fits, its chip: two; nothing was told to the user."""
    from playwright.async_api import expect

    async with browsing(link) as page:
        await page.locator(".starters .button", has_text="How big").click()
        await page.locator(".answer .statement .chip.kind-measurement").first.click(timeout=90_000)
        await expect(page.locator("#drawer h3")).to_be_visible()
        await outlined(page)


async def test_an_ultrasound_film_is_played_and_a_photo_shown(data: Path, tmp_path: Path) -> None:
    """Colour frames of a real film (pydicom's example) run at the header's rate; a photo is a stack of one, without a film."""
    from playwright.async_api import expect
    from pydicom import examples

    film = io.BytesIO()
    made = pydicom.dcmread(examples.get_path("ybr_color"))
    made.PatientID = "FILM"
    made.save_as(film)
    photo = io.BytesIO()
    Image.fromarray(np.full((60, 80, 3), (200, 40, 40), np.uint8)).save(photo, "PNG")
    archive = Archive(data / "archive")
    archive.add([Incoming("us.dcm", film.getvalue())])
    archive.add([Incoming("skin.png", photo.getvalue())], Hints(patient_id="PHOTO"))
    with served(data) as url:
        async with browsing(url) as page:
            await page.select_option("#patient", "FILM")
            canvas = page.locator("#canvas")
            await expect(canvas).to_have_attribute("data-frame", "15")
            await page.get_by_role("button", name="Play the film").click()
            await expect(canvas).to_have_attribute("data-frame", re.compile(r"^2\d$"))
            await expect(canvas).to_have_attribute("data-frame", re.compile(r"^\d$"))  # from the start again
            await page.screenshot(path=tmp_path / "film.png")
            await canvas.focus()
            await page.keyboard.press(" ")
            await expect(page.get_by_role("button", name="Play the film")).to_be_visible()
            stopped = await canvas.get_attribute("data-frame")
            await asyncio.sleep(0.5)
            assert await canvas.get_attribute("data-frame") == stopped
            await page.select_option("#patient", "PHOTO")
            await expect(page.locator("#where")).to_have_text("1 / 1")
            await expect(page.get_by_role("button", name="Play the film")).to_have_count(0)
            assert await page.evaluate(COLOURED) > 1000
            await page.screenshot(path=tmp_path / "photo.png")


async def test_planes_and_solid_comparing_windows_and_the_place_that_was_clicked(link: str, tmp_path: Path) -> None:
    from playwright.async_api import expect

    async with browsing(link) as page:
        await expect(page.locator("#canvas")).to_have_attribute("data-frame", "77")
        await page.focus("#canvas")
        for key, frame in (("ArrowDown", "78"), ("PageDown", "88"), ("End", "154"), ("Home", "0")):
            await page.keyboard.press(key)
            await expect(page.locator("#canvas")).to_have_attribute("data-frame", frame)
        await page.locator(".slider").fill("90")
        await expect(page.locator("#where")).to_have_text("91 / 155")
        box = await page.locator("#canvas").bounding_box()
        await page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        await page.mouse.wheel(0, 100)
        await expect(page.locator("#where")).to_have_text("92 / 155")
        window = page.locator(".corner.bottom.left span").first
        before = await window.inner_text()
        await page.mouse.down(button="right")
        await page.mouse.move(box["x"] + box["width"] / 2 + 90, box["y"] + box["height"] / 2 + 40, steps=4)
        await page.mouse.up(button="right")
        assert await window.inner_text() != before
        await page.get_by_role("button", name="Compare two").click()
        await expect(page.locator("#canvas-2")).to_have_attribute("data-frame", re.compile(r"\d+"))
        await page.locator("#canvas").focus()
        twin = int(await page.locator("#canvas-2").get_attribute("data-frame") or 0)
        await page.keyboard.press("ArrowDown")
        await expect(page.locator("#canvas-2")).to_have_attribute("data-frame", str(twin + 1))  # linked, the same spacing
        await page.screenshot(path=tmp_path / "compare.png")
        await page.get_by_role("button", name="Planes").click()
        await expect(page.locator(".solid")).to_have_attribute("data-state", "there", timeout=60_000)
        lit = "() => { const c = document.getElementById('solid'); const g = c.getContext('webgl2'); return c.width > 100 && g !== null; }"
        assert await page.evaluate(lit)
        await page.get_by_role("button", name="3D").click()
        await page.wait_for_timeout(500)
        await page.screenshot(path=tmp_path / "solid.png")
        await page.get_by_role("button", name="One image").click()
        await page.locator("#canvas").click(position={"x": 300, "y": 220})
        await page.get_by_role("button", name="Ask about this").click()
        await expect(page.locator("#question")).to_be_focused()
        asked: list[dict[str, Any]] = []
        page.on("request", lambda r: asked.append(r.post_data_json) if r.url.endswith("/messages") else None)
        await ask(page, "What is this?")
        assert asked[0]["at"]["series"] == "S1.4" and len(asked[0]["at"]["point"]) == 3


async def test_by_keyboard_alone(link: str) -> None:
    """Ask, walk through the sentences, open what one stands on, change the slice, go elsewhere, all without a mouse."""
    from playwright.async_api import expect

    async with browsing(link) as page:
        await expect(page.locator("#canvas")).to_have_attribute("data-frame", "77")
        await page.keyboard.press("/")
        await expect(page.locator("#question")).to_be_focused()
        await page.keyboard.type("How big is the tumour?")
        await page.keyboard.press("Enter")
        await expect(page.locator(".answer")).to_be_visible(timeout=90_000)
        await page.keyboard.press("Escape")
        await page.keyboard.press("j")
        await expect(page.locator(".statement").nth(0)).to_be_focused()
        await page.keyboard.press("j")
        await page.keyboard.press("k")
        await page.keyboard.press("e")
        await expect(page.locator("#drawer h3")).to_be_visible()
        await page.wait_for_timeout(300)
        at = await page.locator("#where").inner_text()
        await page.keyboard.press("]")
        assert await page.locator("#where").inner_text() != at
        await page.keyboard.press("Control+k")
        await page.keyboard.type("3D")
        await page.keyboard.press("Enter")
        await expect(page.locator("#solid")).to_be_visible()
        await page.keyboard.press("Control+k")
        await page.keyboard.type("one image")
        await page.keyboard.press("Enter")
        await page.keyboard.press("?")
        await expect(page.locator("dialog.help")).to_be_visible()
        await page.keyboard.press("Escape")
        reached = set()
        await page.evaluate("document.activeElement.blur()")
        for _ in range(60):  # Tab comes to every part of the page
            await page.keyboard.press("Tab")
            reached.add(
                await page.evaluate(
                    "document.activeElement.closest('.bar, .case, .toolbar, .stage, .edge, .chat-head, .log, .ask')?.className.split(' ').find((c) => c !== 'pane')"
                )
            )
        assert {"bar", "case", "toolbar", "stage", "edge", "chat-head", "log"} <= reached, reached


@pytest.mark.parametrize("theme", ["dark", "light"])
async def test_axe_finds_nothing_serious(link: str, theme: str, tmp_path: Path) -> None:
    """axe-core on the page with an answer, opened evidence and a missing item: nothing serious or critical in either theme."""
    import axe_playwright_python

    script = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    async with browsing(link, bypass_csp=True) as page:
        if theme == "light":
            await page.click("#theme")
        turn = await ask(page, "Which first-line treatment do guidelines recommend?")
        await turn.locator(".statement .chip.kind-rule").first.click()
        await page.locator("#drawer table").wait_for()
        await ask(page, "Has it grown since the last scan?")
        await page.evaluate(script)
        found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        bad = [
            (v["id"], v["impact"], [n["target"] for n in v["nodes"]][:3])
            for v in found["violations"]
            if v["impact"] in ("serious", "critical")
        ]
        await page.screenshot(path=tmp_path / f"{theme}.png")
    assert not bad, bad


async def test_what_a_hostile_report_holds_stays_text(data: Path, tmp_path: Path) -> None:
    """HTML and script in a report, in its title's line and in a file's name are shown as they were written; none runs, none is fetched."""
    from playwright.async_api import expect

    evil = '<img src=x onerror="window.hit=1"><script>window.hit=1</script><b>bold</b>'
    text = (
        f"MRI brain {evil}\n\nFINDINGS:\nThe left lateral ventricle {evil} is of normal width.\n\nIMPRESSION:\nStable. {evil}\n"
    )
    with served(data) as url:
        base, key = url.split("/#")[0], {"Authorization": f"Bearer {KeyRing(data / 'access').local()}"}
        fields = {"patient_id": sample.PATIENT_ID, "study_date": "2026-11-20"}
        httpx.post(
            f"{base}/v1/studies", headers=key, files={"files": ("<img src=x onerror=hit()>.txt", text.encode())}, data=fields
        ).raise_for_status()
        async with browsing(url) as page:
            turn = await ask(page, "What did the last report say about the left lateral ventricle?")
            await turn.locator(".statement .chip.kind-report").first.click()
            await expect(page.locator("#drawer mark").first).to_be_visible()
            await expect(page.locator("#drawer pre")).to_contain_text("<script>window.hit=1</script>")
            await page.screenshot(path=tmp_path / "hostile.png")
            assert await page.evaluate("window.hit === undefined")
            assert await page.locator("#drawer b, .log b, #timeline b, .log script, #drawer img, .log img").count() == 0
            assert await page.evaluate("[...document.scripts].every((s) => s.src.startsWith(location.origin + '/web/'))")


class Cutting:
    """Stands between the browser and the server, and cuts the first connection that tells of a tool; what went through is kept."""

    def __init__(self, port: int) -> None:
        self.port, self.target, self.cuts, self.told = free_port(), port, 0, bytearray()

    async def __aenter__(self) -> "Cutting":
        self._server = await asyncio.start_server(self._join, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", self.target)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, back: bool) -> None:
            try:
                while data := await source.read(65536):
                    if back and b"event: " in data:
                        self.told += data
                    sink.write(data)
                    await sink.drain()
                    if back and not self.cuts and b"tool.started" in data:
                        self.cuts += 1
                        writer.transport.abort()
                        ours.transport.abort()
                        return
            except OSError:
                pass
            finally:
                sink.close()

        await asyncio.gather(pump(reader, ours, False), pump(theirs, writer, True))


async def test_a_lost_connection_is_taken_up_without_a_lost_or_doubled_event(link: str) -> None:
    from playwright.async_api import expect

    port = int(link.split(":")[2].split("/")[0])
    async with Cutting(port) as proxy, browsing(link.replace(f":{port}/", f":{proxy.port}/"), allowed=("ERR_",)) as page:
        turn = await ask(page, "What did the last report say about the left ventricle?")
        assert proxy.cuts == 1
        ids = [int(i) for i in re.findall(rb"^id: (\d+)", proxy.told.replace(b"\r", b""), re.M)]
        assert ids == list(range(1, len(ids) + 1)), ids  # none twice, none missing, over both connections
        await expect(page.locator(".turn")).to_have_count(1)
        await expect(turn.locator(".statement", has_text="normal width")).to_have_count(1)


async def test_a_slow_tool_is_stopped(link: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tool's progress is on the page; Stop ends it within seconds, and the page says so."""
    from playwright.async_api import expect

    from tools.base import CaseTool, Reply

    real, left = CaseTool.reply, threading.Event()

    def slow(self: CaseTool, arguments: dict[str, Any]) -> Reply:
        if self.name != "retrieve_reports":
            return real(self, arguments)
        for done in range(600):
            self.bench.progress(done, 600)
            if self.bench.cancelled():
                left.set()
                break
            time.sleep(0.1)
        return real(self, arguments)

    monkeypatch.setattr(CaseTool, "reply", slow)
    async with browsing(link) as page:
        await page.fill("#question", "What did the last report say about the left ventricle?")
        await page.keyboard.press("Enter")
        await expect(page.locator(".plan progress[max='600']")).to_be_visible(timeout=30_000)
        await page.screenshot(path=tmp_path / "working.png")
        await page.locator("#stop").click()
        await expect(page.locator(".turn .problem")).to_contain_text("stopped", timeout=10_000)
        await expect(page.locator("#send")).to_be_visible()
    assert left.wait(10), "the tool was told to end"


async def test_files_are_taken_and_refused_by_name(data: Path, tmp_path: Path) -> None:
    """A report and something that is none, together; a folder dropped anywhere; a NIfTI that doesn't say whose it is."""
    from playwright.async_api import expect

    with served(data) as url:
        async with browsing(url, allowed=("status of 422",)) as page:
            report = {
                "name": "ct.txt",
                "mimeType": "text/plain",
                "buffer": b"CT chest 2026-11-01\n\nFINDINGS:\nNo nodule.\n\nIMPRESSION:\nNormal chest.\n",
            }
            junk = {"name": "notes.xyz", "mimeType": "application/octet-stream", "buffer": bytes(range(256)) * 8}
            await page.set_input_files("#files", [report, junk])
            await expect(page.locator("#uploads")).to_contain_text("notes.xyz: refused", timeout=30_000)
            await expect(page.locator("#uploads .taken")).to_contain_text("ct.txt")
            await page.screenshot(path=tmp_path / "uploads.png")
            folder = tmp_path / "exam" / "series"
            folder.mkdir(parents=True)
            (folder / "note.txt").write_text(
                "Pathology 2026-11-03\n\nDIAGNOSIS:\nGlioblastoma, IDH-wildtype.\n", encoding="utf-8"
            )
            await page.set_input_files("#folder", folder.parent)
            await expect(page.locator("#uploads")).to_contain_text("exam/series/note.txt", timeout=30_000)
            transfer = await page.evaluate_handle(
                "() => { const t = new DataTransfer(); t.items.add(new File(['MRI brain 2026-11-02\\n\\nIMPRESSION:\\nNo change.\\n'], 'mr.txt')); return t; }"
            )
            await page.dispatch_event("body", "drop", {"dataTransfer": transfer})
            await expect(page.locator("#uploads")).to_contain_text("mr.txt", timeout=30_000)
            await page.set_input_files("#files", [junk])
            await expect(page.locator("#uploads .upload.failed").first).to_contain_text("Nothing was taken in", timeout=30_000)


async def test_a_reload_goes_on_with_the_conversation(link: str) -> None:
    from playwright.async_api import expect

    async with browsing(link) as page:
        await ask(page, "What is her creatinine?")
        await page.reload()
        await expect(page.locator(".statement .words", has_text="Creatinine").first).to_be_visible(timeout=30_000)
        await ask(page, "and the haemoglobin?")
        await expect(page.locator(".turn")).to_have_count(2)


HEBREW = "מחקר מעקב של המוח עם חומר ניגוד (ביקורת)"
LONG = "Follow-up MRI of the brain with and without contrast, perfusion and spectroscopy"


def crowded(patient: str) -> list[Incoming]:
    """A patient as they come: a study of 200 series with names of every length, 120 more studies, names that run from right to left."""
    small = np.random.default_rng(3).integers(0, 900, (16, 16, 3)).astype(np.uint16)
    files = []
    for k in range(200):
        name = HEBREW if k == 198 else LONG[:64] if k == 199 else f"ax {k} " + "x" * (k % 40)
        files += [
            Incoming(f"{k}-{n}.dcm", f)
            for n, f in enumerate(named(dicom_series(small, np.eye(4), patient), name, "1.2.826.0.1.3680043.8.498.7"))
        ]
    for k in range(120):
        day = f"{2000 + k % 24}{1 + k % 12:02d}{1 + k % 28:02d}"
        files += [
            Incoming(f"s{k}-{n}.dcm", f) for n, f in enumerate(dicom_series(small, np.eye(4), patient, f"control {k}", date=day))
        ]
    report = f"{LONG} 2026-11-01\n\nFINDINGS:\n{'The mass measures 41 mm and is unchanged. ' * 40}\nGlioblastoma, IDH-mutant.\n\nIMPRESSION:\n{HEBREW}. IDH-wildtype.\n"
    return [*files, Incoming(f"{LONG}.txt", report.encode())]


def named(files: list[bytes], description: str, study: str) -> list[bytes]:
    """The instances with this series description, in Unicode, all in one study."""
    made = []
    for file in files:
        instance = pydicom.dcmread(io.BytesIO(file))
        instance.SpecificCharacterSet, instance.SeriesDescription, instance.StudyInstanceUID = "ISO_IR 192", description, study
        instance.StudyDescription = LONG[:64]
        instance.save_as(buffer := io.BytesIO())
        made.append(buffer.getvalue())
    return made


async def test_two_hundred_series_and_names_of_every_length_and_direction(data: Path, tmp_path: Path) -> None:
    """Nothing runs out of its place on a phone, a laptop and a reading station; what is long is cut or wrapped, all of it can be reached."""
    from playwright.async_api import expect

    patient = "PATIENT-" + "0123456789" * 5
    Archive(data / "archive").add(crowded(patient), Hints(patient_id=patient))
    with served(data) as url:
        async with browsing(url) as page:
            await page.select_option("#patient", patient)
            await expect(page.locator("#timeline .entry")).to_have_count(40)
            await expect(page.locator("#series option")).to_have_count(200)
            await page.select_option(
                "#series", label=next(o for o in await page.locator("#series option").all_inner_texts() if HEBREW[:8] in o)
            )
            await expect(page.locator("#canvas")).to_have_attribute("aria-label", re.compile(HEBREW[:8]))
            await page.locator(".link", has_text="122").click()
            await expect(page.locator("#timeline .entry")).to_have_count(122)
            await page.locator("input.find").fill("control 77")
            await expect(page.locator("#timeline .entry")).to_have_count(1)
            await page.locator("input.find").fill("")
            await ask(page, "What do the reports and the record say about the IDH status?")
            for width, height in ((390, 844), (1280, 720), (3840, 2160)):
                await page.set_viewport_size({"width": width, "height": height})
                for name in ("case", "view", "chat") if width < 700 else ("all",):
                    if name != "all":
                        await page.locator(".tabs .button").nth(("case", "view", "chat").index(name)).click()
                    await page.screenshot(path=tmp_path / f"crowded-{width}-{name}.png")
                    assert await page.evaluate(OUTSIDE) == [], (width, name)


OUTSIDE = """() => {
  const wide = document.documentElement.clientWidth;
  const bad = document.documentElement.scrollWidth > wide ? ['the page itself'] : [];
  for (const e of document.querySelectorAll('main button, main select, main summary, main p, main .statement, main .corner span')) {
    const b = e.getBoundingClientRect();
    const pane = e.closest('.pane')?.getBoundingClientRect();
    if (b.width && pane && (b.right > pane.right + 1 || b.left < pane.left - 1)) bad.push(`${e.tagName}.${e.className}: ${e.textContent.slice(0, 40)}`);
  }
  return bad;
}"""
"""Controls and texts that stick out of their pane."""


async def test_history_branches_corrections_and_files_to_take_along(data: Path, tmp_path: Path) -> None:
    from playwright.async_api import expect

    with served(data) as url:
        base, key = url.split("/#")[0], {"Authorization": f"Bearer {KeyRing(data / 'access').local()}"}
        async with browsing(url) as page:
            await ask(page, "What is her creatinine?")
            turn = await ask(page, "What is the MGMT status?")
            await turn.get_by_role("button", name="Something is wrong").click()
            await turn.locator(".correction textarea").fill("MGMT promoter methylated, 2026-09-30.")
            await turn.get_by_role("button", name="Send the correction").click()
            await expect(turn).to_contain_text("Kept for review")
            await turn.get_by_role("button", name="Copy with citations").click()
            copied = await page.evaluate("navigator.clipboard.readText()")
            assert re.search(r"\[E\d+\]", copied) and "Research use only" in copied
            for form, begins in (("Markdown", b"# Consilium"), ("PDF", b"%PDF"), ("FHIR", b"{")):
                await page.locator(".chat-head .menu.end summary").click()
                async with page.expect_download() as waiting:
                    await page.locator(".chat-head .menu.end").get_by_role("button", name=form).click()
                body = Path(await (await waiting.value).path()).read_bytes()
                assert body.startswith(begins)
                await page.keyboard.press("Escape")
            bundle = json.loads(body)
            assert (
                bundle["entry"][0]["resource"]["resourceType"] == "Composition"
                and len(bundle["entry"][0]["resource"]["section"]) == 2
            )
            await turn.locator(".asked").hover()
            await turn.get_by_role("button", name="Change the question").click()
            await page.fill("#question", "What is her Karnofsky performance status?")
            await page.keyboard.press("Enter")
            await expect(page.locator(".turn").last).to_contain_text("90", timeout=60_000)
            await expect(page.locator(".turn")).to_have_count(2)
            await expect(page.locator(".turn").first).to_contain_text("reatinine")
            await page.locator(".turn").first.locator(".statement .chip").first.click()  # the branch has its own evidence
            await expect(page.locator("#drawer h3")).to_contain_text("reatinine")
            await page.locator(".chat-head summary", has_text="History").click()
            told = httpx.get(f"{base}/v1/conversations", params={"asked": True}, headers=key).json()
            assert [c["asked"] for c in told] == [2, 2] and {c["title"] for c in told} == {"What is her creatinine?"}
            await page.get_by_placeholder("Search conversations").fill("MGMT")
            await expect(page.locator(".history li")).to_have_count(1)
            await page.screenshot(path=tmp_path / "history.png")
            await page.locator(".history .entry").first.click()
            await expect(page.locator(".turn").last).to_contain_text("MGMT")


async def test_the_page_speaks_the_readers_language(link: str, tmp_path: Path) -> None:
    from playwright.async_api import expect

    async with browsing(link, locale="de-DE") as page:
        await expect(page.locator(".bar .notice")).to_contain_text("Nur für Forschung")
        await expect(page.locator(".starters .button").first).to_contain_text("Bildern")
        await page.locator(".starters .button", has_text="Wie groß").click()
        await expect(page.locator(".answer")).to_contain_text("Volumen", timeout=90_000)
        await page.select_option(".bar select", "zh")
        await expect(page.locator(".bar .notice")).to_contain_text("仅供研究使用")
        assert await page.evaluate("document.documentElement.lang") == "zh"
        await page.set_viewport_size({"width": 390, "height": 844})
        await page.locator(".tabs button").nth(0).click()
        await expect(page.locator("#timeline")).to_be_visible()
        await expect(page.locator("#log")).to_be_hidden()
        await page.screenshot(path=tmp_path / "phone.png")


async def test_the_server_goes_and_comes_back(data: Path) -> None:
    """What is on the screen stays, the page says what happened, and it goes on when the server is there again."""
    from playwright.async_api import expect

    with served(data) as url:
        async with browsing(url, allowed=("ERR_CONNECTION_REFUSED", "ERR_", "Failed to load")) as page:
            await ask(page, "What is her creatinine?")
            await page.route("**/v1/**", lambda route: route.abort("connectionrefused"))
            await page.fill("#question", "What is the MGMT status?")
            await page.keyboard.press("Enter")
            await expect(page.locator(".turn").last.locator(".problem")).to_contain_text("does not answer")
            await expect(page.locator(".turn").first).to_contain_text("71")
            await page.unroute("**/v1/**")
            await page.locator(".turn").last.get_by_role("button", name="Ask again").last.click()
            await expect(page.locator(".turn").last.locator(".answer")).to_contain_text("MGMT", timeout=60_000)
            await expect(page.locator(".chat > .problem")).to_have_count(0)


async def test_a_write_waits_for_its_button_and_an_emergency_stands_first(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from playwright.async_api import expect

    from knowledge.studies.archive import Archive
    from knowledge.studies.intake import Hints
    from knowledge.studies.unpack import Incoming
    from tests.others import WriteNote
    from tools import registry

    WriteNote.written.clear()
    types = {**registry.tool_types(), "write_note": WriteNote}
    for place in ("tools.registry.tool_types",):
        monkeypatch.setattr(place, lambda: types)
    text = "MRI brain 2026-11-20\n\nFINDINGS:\nThere is uncal herniation on the right.\n"
    Archive(data / "archive").add(
        [Incoming("new.txt", text.encode())], Hints(patient_id=sample.PATIENT_ID, study_date="2026-11-20")
    )
    with served(data) as url:
        async with browsing(url) as page:
            turn = await ask(page, "Add a note to the record")
            await expect(turn.locator(".statement.urgent")).to_contain_text("uncal herniation")
            card = page.locator(".confirm")
            await expect(card).to_contain_text("write_note")
            assert not WriteNote.written
            await page.screenshot(path=tmp_path / "confirm.png")
            await card.get_by_role("button", name="Do it").click()
            await expect(page.locator(".statement", has_text="A note was written").first).to_be_visible(timeout=30_000)
            assert len(WriteNote.written) == 1
