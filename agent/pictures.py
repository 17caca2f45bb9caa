"""Pictures that come in a message, and key slices of image evidence for a planner that sees."""

import base64
import binascii
import re
from collections.abc import Sequence

from agent.errors import QuestionRefused
from knowledge.case import Case
from knowledge.evidence import Evidence, ImageRef
from knowledge.studies import render
from knowledge.studies.unpack import Incoming

MOST = 4
"""Pictures in one request: vLLM refuses more than it was started for."""
MOST_SENT = 4
"""Pictures in one message."""


def pictures_of(urls: Sequence[str]) -> list[Incoming]:
    """The files behind a message's data URLs (PNG, JPEG). Raises QuestionRefused."""
    if len(urls) > MOST_SENT:
        raise QuestionRefused(f"{len(urls)} images came; {MOST_SENT} are taken", "import them as a study")
    found = []
    for number, url in enumerate(urls):
        match = re.fullmatch(r"data:image/(png|jpeg);base64,(.+)", url, re.DOTALL)
        if match is None:
            raise QuestionRefused("an image isn't a PNG or JPEG data URL", "send data:image/png;base64,…")
        try:
            data = base64.b64decode(match.group(2), validate=True)
        except (binascii.Error, ValueError) as error:
            raise QuestionRefused("an image's base64 is broken", "encode it again") from error
        found.append(Incoming(f"chat-image-{number + 1}.{match.group(1)}", data))
    return found


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
