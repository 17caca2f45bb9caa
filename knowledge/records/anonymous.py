"""Texts without a patient's identity: names, numbers and contacts out, dates moved."""

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

MOST_SHIFT = 365
"""Days by which dates are moved at most."""
_CONTACTS = [
    (re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+"), "[CONTACT]"),
    (re.compile(r"https?://\S+"), "[CONTACT]"),
    (
        re.compile(r"\b(?:Dr|Prof|Mr|Mrs|Ms|Herr|Frau|Sr|Sra|Dra|Mme|M)\.?\s+(?:Dr\.\s*)?[A-ZÄÖÜ][\w'-]+(?:\s+[A-ZÄÖÜ][\w'-]+)?"),
        "[NAME]",
    ),
    (re.compile(r"(?<![\w.])\+?\d[\d /-]{7,}\d(?![\w.])"), "[NUMBER]"),
    (re.compile(r"(?<![\w.])\d{6,}(?![\w.])"), "[NUMBER]"),
]
_ISO = re.compile(r"(?<!\d)(\d{4})-(\d{2})-(\d{2})(?!\d)")
_DAY_FIRST = re.compile(r"(?<!\d)(\d{1,2})([./])(\d{1,2})\2(\d{4})(?!\d)")


class Scrub:
    """Takes a patient's identity out of texts."""

    def __init__(self, words: Sequence[str], secret: bytes) -> None:
        """`words`: names and identifiers of the patient; dates move by days that follow from these and the secret, always the same."""
        parts = {p for w in words for p in [w, *re.split(r"[\s^,;]+", w)] if len(p) > 2}
        self.words = sorted(parts, key=len, reverse=True)
        self._found = re.compile("|".join(rf"(?<!\w){re.escape(w)}(?!\w)" for w in self.words), re.I) if self.words else None
        told = hashlib.sha256(secret + "|".join(sorted(words)).encode()).digest()
        self.days = -1 - int.from_bytes(told[:4], "big") % MOST_SHIFT

    def text(self, text: str) -> str:
        """The text without identity, its dates moved."""
        text = _DAY_FIRST.sub(lambda m: self._moved(m.group(4), m.group(3), m.group(1), f"%d{m.group(2)}%m{m.group(2)}%Y"), text)
        dates: list[str] = []

        def keep(match: re.Match[str]) -> str:
            dates.append(self._moved(match.group(1), match.group(2), match.group(3), "%Y-%m-%d"))
            return f"\x00{len(dates) - 1}\x00"

        text = _ISO.sub(keep, text)
        for pattern, instead in _CONTACTS:
            text = pattern.sub(instead, text)
        if self._found is not None:
            text = self._found.sub("[PATIENT]", text)
        return re.sub(r"\x00(\d+)\x00", lambda m: dates[int(m.group(1))], text)

    def _moved(self, year: str, month: str, day: str, form: str) -> str:
        try:
            return (date(int(year), int(month), int(day)) + timedelta(days=self.days)).strftime(form)
        except ValueError:
            return "[DATE]"

    def all(self, value: Any) -> Any:
        """Every text inside a value."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {k: self.all(v) for k, v in value.items()}
        return [self.all(v) for v in value] if isinstance(value, list | tuple) else value

    def left(self, row: Any) -> bool:
        """True where a word of the identity is still there."""
        return bool(self._found and self._found.search(json.dumps(row, ensure_ascii=False)))
