"""OHIF, unchanged, in Chromium: it lists the studies, opens one, shows its slices, a segmentation and a signed report of ours."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from knowledge.reporting.drafts import Signature, now
from knowledge.studies import nifti
from knowledge.studies.archive import Archive
from knowledge.studies.unpack import Incoming
from serving.app import create_app
from serving.settings import Settings
from tests.serving.browser import CHROMIUM, FLAGS, free_port, running
from tests.serving.drafts import draft_on
from tests.serving.test_dicomweb import series
from tools.export.drawn import drawing_of
from tools.export.report import as_sr
from tools.export.seg import as_seg
from tools.models.catalogue import Catalogue

pytestmark = pytest.mark.interop
SAID = "A lesion of 21 mm in the left frontal lobe."
HEADERS = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


def config(root: str) -> str:
    """OHIF's own configuration file, which each site writes."""
    source = {
        "friendlyName": "Consilium", "name": "consilium", "wadoUriRoot": root, "qidoRoot": root, "wadoRoot": root,
        "qidoSupportsIncludeField": True, "imageRendering": "wadors", "thumbnailRendering": "wadors", "enableStudyLazyLoad": True,
        "supportsFuzzyMatching": True, "supportsWildcard": True, "staticWado": False, "singlepart": "bulkdata,video",
        "bulkDataURI": {"enabled": True}, "omitQuotationForMultipartRequest": True,
    }  # fmt: skip
    whole = {
        "routerBasename": "/", "extensions": [], "modes": [], "showStudyList": True, "defaultDataSourceName": "dicomweb", "showWarningMessageForCrossOrigin": False,
        "investigationalUseDialog": {"option": "never"},
        "dataSources": [{"namespace": "@ohif/extension-default.dataSourcesModule.dicomweb", "sourceName": "dicomweb", "configuration": source}],
    }  # fmt: skip
    return f"window.config = {json.dumps(whole)};"


def viewer(dist: Path, root: str) -> Starlette:
    """The built viewer as a site serves it."""

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name == "app-config.js":
            return Response(config(root), media_type="text/javascript", headers=HEADERS)
        path = (dist / name).resolve()
        return FileResponse(
            path if path.is_file() and path.is_relative_to(dist.resolve()) else dist / "index.html", headers=HEADERS
        )

    return Starlette(routes=[Route("/{name:path}", file)])


def filled(archive: Archive) -> str:
    """A study of an MR series with a segmentation of ours; its Study Instance UID."""
    values = [
        Incoming(f"{n}.dcm", f)
        for n, f in enumerate(
            series("P1", "Viewer^Test", FrameOfReferenceUID="1.2.826.0.1.3680043.8.498.9", PositionReferenceIndicator="")
        )
    ]
    study = archive.add(values).studies[0]
    volume, bundle = archive.volume(study.series[0].id), Catalogue().of("segmentation")[0]
    labels = np.zeros(volume.array.shape, np.uint8)
    labels[3:8, 2:6, 1:4] = bundle.card.regions[0].labels[0]
    folder = archive.derived(study.series[0].id)
    folder.mkdir(parents=True)
    mask = folder / f"{bundle.name}-{bundle.version}-FLAIR.nii.gz"
    mask.write_bytes(nifti.to_bytes(volume.like(labels)))
    assert not archive.add(
        [Incoming("seg.dcm", as_seg(drawing_of(archive, Catalogue(), archive.study(study.id), study.series[0], mask)))]
    ).rejected
    assert study.study_instance_uid
    draft = draft_on(archive, study, SAID, signature=Signature(name="Rita Reader", at=now(), sha256="0" * 64))
    report = as_sr(draft, archive.patient("P1"), archive.study(study.id))
    assert not archive.add([Incoming("sr.dcm", report)]).rejected
    return study.study_instance_uid


async def pixels_of(canvas: Any) -> np.ndarray:
    """What a canvas shows, [row, column, RGB]; one black pixel while the viewer puts another in its place."""
    from PIL import Image
    from playwright.async_api import Error

    try:
        return np.asarray(Image.open(io.BytesIO(await canvas.screenshot())).convert("RGB")).astype(int)
    except Error as error:
        if "not attached" not in str(error):
            raise
        return np.zeros((1, 1, 3), int)


async def test_ohif_lists_opens_and_shows(clients: Path, tmp_path: Path) -> None:
    from playwright.async_api import async_playwright, expect

    ours, theirs = free_port(), free_port()
    origin = f"http://127.0.0.1:{theirs}"
    study = filled(Archive(tmp_path / "data" / "archive"))
    app = create_app(Settings(data=tmp_path / "data", no_auth=True, allowed_origins=[origin]))
    host = viewer(clients / "ohif" / "package" / "dist", f"http://127.0.0.1:{ours}/dicom-web")
    failed: list[str] = []
    with running(app, ours), running(host, theirs):
        async with async_playwright() as driver:
            browser = await driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = await (await browser.new_context(viewport={"width": 1400, "height": 900})).new_page()
            page.on(
                "response", lambda r: failed.append(f"{r.status} {r.url}") if "/dicom-web/" in r.url and r.status >= 400 else None
            )
            await page.goto(origin)
            await expect(page.get_by_text("Viewer, Test").first).to_be_visible(timeout=90_000)
            await page.screenshot(path=tmp_path / "ohif-list.png")
            await page.goto(f"{origin}/viewer?StudyInstanceUIDs={study}")
            shown = page.locator("canvas").first
            await expect(shown).to_be_visible(timeout=90_000)
            for _ in range(60):
                picture = (await pixels_of(shown)).mean(-1)
                if picture.std() > 20:
                    break
                await asyncio.sleep(1)
            await page.screenshot(path=tmp_path / "ohif-view.png")
            assert picture.std() > 20, "no slice is shown"
            await expect(page.get_by_text("SEG").first).to_be_visible(timeout=30_000)
            await page.get_by_text("Skip all").click()
            await page.get_by_text("SEG FLAIR").first.dblclick()
            await page.get_by_role("button", name="Yes").click()
            for _ in range(60):
                outlined = int((np.ptp(await pixels_of(shown), axis=-1) > 60).sum())
                if outlined > 5000:
                    break
                await asyncio.sleep(1)
            await page.screenshot(path=tmp_path / "ohif-seg.png")
            assert outlined > 5000, "the segmentation isn't shown"
            await page.get_by_text("SR", exact=True).first.dblclick()
            await expect(page.get_by_text(SAID).first).to_be_visible(timeout=30_000)
            await page.screenshot(path=tmp_path / "ohif-sr.png")
            await browser.close()
    assert not failed, failed
