"""Questions to begin with: those that the case can answer, in the reader's language."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from agent.language import SPOKEN

MOST = 6


@cache
def _questions() -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "suggested.yaml").read_text(encoding="utf-8"))
    return loaded


def suggestions(inventory: dict[str, Any] | None, language: str) -> list[str]:
    """Up to six questions in `language` (English where it isn't spoken here) that the case holds something for."""
    if inventory is None:
        return []
    spoken = language if language in SPOKEN else "en"
    return [q[spoken] for q in _questions() if _fits(q["needs"], inventory)][:MOST]


def _fits(needs: dict[str, Any], inventory: dict[str, Any]) -> bool:
    studies, records = inventory["studies"], " ".join(inventory["records"]).lower()
    images = [q for s in studies for q in s["series"] if len(q["shape"]) == 3]
    if "modality" in needs and not any(
        set(s["modality"]) & set(needs["modality"]) and any(p in s["body_part"].upper() for p in needs["body_part"])
        for s in studies
    ):
        return False
    if (
        "studies" in needs
        and max((sum(s["body_part"] == t["body_part"] for t in studies) for s in studies), default=0) < needs["studies"]
    ):
        return False
    if "record" in needs and not any(word.lower() in records for word in needs["record"]):
        return False
    if needs.get("records") and not records:
        return False
    return bool((not needs.get("report") or inventory["reports"]) and (not needs.get("images") or images))
