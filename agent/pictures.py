"""Key slices of image evidence, for a planner that sees."""

import base64
from collections.abc import Sequence

from knowledge.case import Case
from knowledge.evidence import Evidence, ImageRef
from knowledge.studies import render

MOST = 4
"""Pictures in one request: vLLM refuses more than it was started for."""


def key_slices(case: Case, found: Sequence[Evidence], most: int = MOST) -> list[str]:
    """The slices that `found` points at, each once, as PNG data URLs, in the order of the evidence."""
    spots = list(
        dict.fromkeys(
            (e.source.series_uid, e.source.frame) for e in found if isinstance(e.source, ImageRef) and e.source.frame is not None
        )
    )
    series = {q.series_uid: q for s in case.studies for q in s.series if q.is_image}
    urls = []
    for uid, frame in [s for s in spots if s[0] in series][: min(most, MOST)]:
        shown = case.volume(series[uid]).display()
        if frame is not None and frame < shown.array.shape[2]:
            picture = render.png(shown, frame, None, None)
            urls.append(f"data:image/png;base64,{base64.b64encode(picture).decode()}")
    return urls
