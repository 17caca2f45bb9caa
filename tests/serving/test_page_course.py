"""A three-study patient on the page: "show me the course" brings the curve, the pictures side by side, the category, and a worksheet to change."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from knowledge.studies.archive import Archive
from knowledge.studies.unpack import Incoming
from tests.serving.browser import browsing, needs_chromium, served
from tools.followed import course_of_three


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("data")
    archive = Archive(folder / "archive")
    for number, files in enumerate(course_of_three()):
        archive.add([Incoming(f"{number}-{n}.dcm", f) for n, f in enumerate(files)])
    archive.engine.dispose()
    yield folder


@needs_chromium
@pytest.mark.parametrize("theme", ["dark", "light"])
async def test_show_me_the_course(data: Path, tmp_path: Path, theme: str) -> None:
    import axe_playwright_python
    from playwright.async_api import expect

    with served(data) as link:
        async with browsing(link, "COURSE", viewport={"width": 1600, "height": 1000}, bypass_csp=True) as page:
            if theme == "light":
                await page.click("#theme")
            await page.fill("#question", "Show me the course")
            await page.keyboard.press("Enter")
            answer = page.locator(".answer").last
            await expect(answer.locator(".statement").first).to_contain_text("PD", timeout=120_000)
            await expect(answer).to_contain_text("nadir on S2")
            await page.screenshot(path=tmp_path / f"course-{theme}.png")

            await answer.locator(".statement", has_text="Course of the sum of targets").locator(".chip").click()
            curve = page.locator("#drawer .curve")
            await expect(curve.locator("polyline").first).to_be_visible()
            await expect(curve.locator("tbody tr").first).to_contain_text("PD")
            await expect(page.locator(".stack canvas, canvas.stack, #stage canvas")).to_have_count(2)
            await page.locator("#drawer button", has_text="S1 ·").click()
            await expect(page.locator("#stage, .stage").first).to_contain_text("S1 · 2026-01-05")
            await page.screenshot(path=tmp_path / f"side-by-side-{theme}.png")

            await answer.locator("button.made", has_text="Open the worksheet").click()
            sheet = page.locator("#drawer .worksheet")
            await expect(sheet.locator(".verdict strong")).to_have_text("PD")
            await expect(sheet.locator("table.lesions tbody tr")).to_have_count(5)
            await sheet.get_by_label("L5: Counts as").select_option("ignored")
            await expect(sheet.locator("table.lesions tbody tr").last).to_contain_text("chosen by a reader")
            await sheet.get_by_label("L1: Counts as").select_option("non_target")
            await expect(sheet.locator("tfoot tr").first).not_to_contain_text("112.6")
            async with page.expect_download() as waiting:
                await sheet.get_by_role("button", name="CSV").click()
            assert (await waiting.value).suggested_filename == "worksheet.csv"
            await page.screenshot(path=tmp_path / f"worksheet-{theme}.png")
            await page.evaluate((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
            found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
            grave = [
                (v["id"], [n["target"] for n in v["nodes"]][:3])
                for v in found["violations"]
                if v["impact"] in ("serious", "critical")
            ]
            assert not grave, grave
