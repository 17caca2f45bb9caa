"""The page in headless Chromium with software rendering: first paint, first slice of a 300-slice CT, frames a second while scrolling."""

import asyncio
import gzip
import statistics
import tempfile
from pathlib import Path
from typing import Any

from serving.app import WEB
from tests.bench_intake import SLICES, ct_slices
from tests.serving.browser import browsing, served

SCROLL = """async () => {
  const { go, panes } = await import('/web/lib/viewer.js');
  const canvas = document.getElementById('canvas');
  const last = panes.value[0].shown.frames - 1;
  let drawn = 0; let asked = 0; let shown = canvas.dataset.frame; let n = 0; const began = performance.now();
  await new Promise((done) => { const tick = () => {
    if (canvas.dataset.frame !== shown) { shown = canvas.dataset.frame; drawn += 1; }
    if (performance.now() - began > 4000) { done(); return; }
    n = (n + 1) % last; asked += 1; go(0, n); requestAnimationFrame(tick); }; requestAnimationFrame(tick); });
  return [drawn, asked, (performance.now() - began) / 1000];
}"""
"""Goes one slice on with each frame of the browser for four seconds; how many slices were seen on the canvas, asked for, in how long."""

DRAWN = """new MutationObserver((_, watch) => {
  if (document.querySelector('#canvas')?.dataset.frame) { window.drawnAt = performance.now(); watch.disconnect(); }
}).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ['data-frame'] });"""
"""Notes when the first slice stands on the canvas."""


CHOSEN = """async (patient) => {
  const box = document.getElementById('patient');
  const canvas = document.getElementById('canvas');
  const before = canvas.getAttribute('aria-label');
  box.value = patient;
  const began = performance.now();
  box.dispatchEvent(new Event('change', { bubbles: true }));
  return new Promise((done) => { const tick = () => {
    const where = document.getElementById('where').textContent.split(' / ')[0];
    if (canvas.getAttribute('aria-label') !== before && Number(canvas.dataset.frame) + 1 === Number(where)) done(performance.now() - began);
    else requestAnimationFrame(tick); }; requestAnimationFrame(tick); });
}"""
"""Chooses another patient, whose images neither page nor server has seen; milliseconds until the first slice stands on the canvas."""


async def _looked(link: str) -> dict[str, Any]:
    paints, slices, again = [], [], []
    async with browsing("about:blank", patient=None) as page:  # the browser runs; the server has seen no series
        await page.add_init_script(DRAWN)
        for number in range(5):
            await (page.reload() if number else page.goto(link))
            await page.locator("#canvas[data-frame]:not([data-frame=''])").wait_for()
            paints.append(await page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
            slices.append(await page.evaluate("window.drawnAt"))
        first, _, _ = await page.evaluate(SCROLL)
        for _ in range(3):
            drawn, _, seconds = await page.evaluate(SCROLL)
            again.append(drawn / seconds)
        shown = await page.locator("#patient").input_value()
        chosen = await page.evaluate(CHOSEN, "other" if shown == "one" else "one")
    return {"first_paint_ms": statistics.median(paints), "page_to_first_slice_ms": statistics.median(slices), "first_page_to_slice_ms": slices[0],
            "unknown_series_to_slice_ms": chosen,             "scroll_new_fps": first / 4, "scroll_fps": statistics.median(again)}  # fmt: skip


def figures() -> dict[str, Any]:
    """Milliseconds, frames a second, bytes."""
    with tempfile.TemporaryDirectory() as folder:
        from knowledge.studies.archive import Archive
        from knowledge.studies.unpack import from_paths

        data = Path(folder) / "data"
        for name in ("one", "other"):
            (Path(folder) / name).mkdir()
            Archive(data / "archive").add(from_paths(ct_slices(Path(folder) / name, PatientID=name, SeriesDescription=name)))
        with served(data) as link:
            looked = asyncio.run(_looked(link))
    own = [
        f for f in WEB.rglob("*") if f.is_file() and f.name != "niivue.umd.js" and f.suffix in (".js", ".css", ".html", ".svg")
    ]
    size = sum(len(gzip.compress(f.read_bytes())) for f in own)
    library = len(gzip.compress((WEB / "vendor" / "niivue.umd.js").read_bytes()))
    return {
        f"page_{k}": v
        for k, v in {**looked, "ct_slices": SLICES, "code_kb": size / 1024, "viewer_library_kb": library / 1024}.items()
    }


if __name__ == "__main__":
    print(figures())
