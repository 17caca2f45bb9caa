"""The page's work: a draft edited and signed, a report checked, a teaching question with its picture, follow-ups beside the timeline."""

import shutil
from pathlib import Path

import httpx
import pytest

from knowledge import sample
from knowledge.studies.archive import Archive
from serving.access.keys import KeyRing
from serving.app import create_app
from serving.settings import Settings
from tests.interop.test_ohif import filled
from tests.serving.browser import ask, browsing, free_port, needs_chromium, running, served

REPORT = "DATE: 2025-01-10\nFINDINGS: Solid nodule of the right upper lobe, 7 mm.\nIMPRESSION: Solid nodule, 7 mm. CT of the chest in 6 to 12 months is recommended."


@pytest.fixture
def data(data_with_sample: Path, tmp_path: Path) -> Path:
    """A copy, since signing adds a report to the archive."""
    shutil.copytree(data_with_sample, tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.slow
@needs_chromium
async def test_drafts_checks_teaching_and_follow_ups(data: Path, tmp_path: Path) -> None:
    from playwright.async_api import expect

    his = free_port()
    receiver = create_app(Settings(data=tmp_path / "his", no_auth=True, mllp_port=his, mllp_allowed=["127.0.0.1"]))
    with running(receiver, free_port()), served(data, mllp_send_to={"HIS": f"127.0.0.1:{his}"}) as link:
        key = {"Authorization": f"Bearer {KeyRing(data / 'access').local()}"}
        base = link.split("/#")[0]
        files = {"files": ("ct.txt", REPORT.encode())}
        httpx.post(f"{base}/v1/studies", headers=key, files=files, data={"patient_id": sample.PATIENT_ID}).raise_for_status()
        async with browsing(link, allowed=("409", "422"), viewport={"width": 1500, "height": 1000}) as page:
            overdue = page.locator("#followups .overdue")
            await expect(overdue).to_contain_text("overdue")
            await expect(overdue).to_contain_text("2026-01-10")

            await page.fill("#question", "Write a draft report for this MRI")
            await page.keyboard.press("Enter")
            await page.locator(".made", has_text="Open the draft").click(timeout=90_000)
            draft = page.locator("#drawer .draft")
            await expect(draft.locator(".unsigned")).to_contain_text("DRAFT")
            await expect(draft.locator(".line.open")).to_have_count(1)
            await page.screenshot(path=tmp_path / "draft.png")
            await draft.get_by_placeholder("Your name").fill("Dr A. Reader")
            await draft.get_by_role("button", name="Sign", exact=True).click()
            await expect(draft.locator(".bad").last).to_contain_text("still open")
            await draft.locator(".line.open textarea").fill(
                "Right frontal mass of 99 mm, suspicious for a diffuse glioma. Tissue diagnosis."
            )
            first = draft.locator(".line.evidence textarea").filter(has_text="").nth(4)
            await first.fill("Brain: lesion outlined in the left half, 44.6 x 39.6 mm in the axial plane, volume 27.9 mL.")
            await draft.get_by_role("button", name="Save").click()
            await expect(draft.locator(".bad").first).to_contain_text("doesn’t carry this")  # the side isn't the evidence's
            await page.screenshot(path=tmp_path / "draft-edited.png")
            await draft.get_by_placeholder("Your name").fill("Dr A. Reader")
            await draft.get_by_role("button", name="Sign", exact=True).click()
            await expect(draft.locator(".signed")).to_contain_text("Signed by Dr A. Reader")
            async with page.expect_download() as waiting:
                await draft.get_by_role("button", name="PDF", exact=True).click()
            assert (await waiting.value).suggested_filename == "signed-brain_tumour_mri.pdf"
            await page.screenshot(path=tmp_path / "signed.png")
            await draft.get_by_role("button", name="HL7 HIS").click()
            await expect(draft.locator(".difference ins").filter(has_text="99 mm")).to_be_visible()
            confirm = draft.get_by_role("button", name="Confirm and send")
            await expect(confirm).to_be_disabled()
            await draft.get_by_label("Who confirms").fill("Dr A. Reader")
            await draft.locator(".sending").scroll_into_view_if_needed()
            await page.screenshot(path=tmp_path / "sending.png")
            await confirm.click()
            await expect(draft.locator(".sending")).to_contain_text("was sent", timeout=20_000)
            assert "99 mm" in receiver.state.house.archive.reports(sample.PATIENT_ID)[0].text

            await page.fill(
                "#question",
                'Check my report against the images: "FINDINGS: No mass. IMPRESSION: Normal brain of a 35-year-old man."',
            )
            await page.keyboard.press("Enter")
            await page.locator(".made", has_text="Open the checked report").click(timeout=90_000)
            await expect(page.locator("#drawer mark.critical").first).to_be_visible()
            await expect(page.locator("#drawer .issues")).to_contain_text("denies a lesion")
            await page.screenshot(path=tmp_path / "check.png")

            await page.fill("#question", "Quiz me on ring enhancement as a student")
            await page.keyboard.press("Enter")
            picture = page.locator("img.teaching").last
            await expect(picture).to_be_visible(timeout=60_000)
            assert await picture.evaluate("i => i.decode().then(() => i.naturalWidth)") == 384
            await page.fill("#question", "ring enhancement with necrosis: glioblastoma, metastasis or abscess")
            await page.keyboard.press("Enter")
            await expect(page.locator(".statement .words, .lead", has_text="Your answer has").last).to_be_visible(timeout=60_000)
            await page.screenshot(path=tmp_path / "quiz.png")

            await page.fill("#question", "What is the differential diagnosis?")
            await page.keyboard.press("Enter")
            await expect(page.locator(".statement .words", has_text="Glioblastoma, IDH-wildtype (malignant").last).to_be_visible(
                timeout=90_000
            )
            await expect(page.locator(".how .unsure").last).to_be_visible()
            await page.screenshot(path=tmp_path / "differential.png")


@needs_chromium
async def test_a_mask_is_kept_as_seg(tmp_path: Path) -> None:
    from playwright.async_api import expect

    filled(Archive(tmp_path / "data" / "archive"))
    with served(tmp_path / "data") as link:
        async with browsing(link, patient="P1") as page:
            await page.locator('summary[title="Outlines over the image"]').first.click()
            await page.locator(".menu .sheet button").first.click()
            sending = page.locator("#drawer .sending")
            await sending.get_by_role("button", name="this archive (DICOM)").click()
            await sending.get_by_label("Who confirms").fill("Dr A. Reader")
            await page.screenshot(path=tmp_path / "mask.png")
            await sending.get_by_role("button", name="Confirm and send").click()
            await expect(sending).to_contain_text("was sent", timeout=20_000)
    acts = [e for e in Archive(tmp_path / "data" / "archive").audit() if e.action == "store result"]
    assert acts[0].detail["confirmed_by"] == "Dr A. Reader"


@pytest.mark.slow
@needs_chromium
async def test_a_conversation_is_held_to_some_tools(data: Path, tmp_path: Path) -> None:
    from playwright.async_api import expect

    with served(data) as link:
        async with browsing(link) as page:
            await page.locator("summary", has_text="Tools").click()
            menu = page.locator(".sheet.tools")
            await expect(menu.locator("li")).to_have_count(20)
            await menu.locator("li").nth(2).locator("summary").click()
            await expect(menu.locator("li").nth(2)).to_contain_text("A reader has to check each outline")
            for name in ("Measure", "Outline", "Detect"):
                await menu.get_by_label(name, exact=True).uncheck()
                await expect(menu.get_by_label(name, exact=True)).not_to_be_checked()
            await page.screenshot(path=tmp_path / "tools.png")
            await page.locator("summary", has_text="Tools").click()
            turn = await ask(page, "How big is the tumour?")
            await expect(turn.locator(".answer")).not_to_contain_text("mL")
            await page.locator("summary", has_text="Tools").click()
            await menu.get_by_role("button", name="All tools").click()
            await expect(menu.get_by_label("Measure", exact=True)).to_be_checked()
            await page.locator("summary", has_text="Tools").click()
            turn = await ask(page, "And how big is the tumour now?")
            await expect(turn.locator(".answer")).to_contain_text("mL")
