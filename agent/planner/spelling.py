"""Slips of the keyboard: words that nobody knows are read as the clinical word they nearly are."""

import re
from collections.abc import Iterable
from functools import lru_cache

from rapidfuzz import process
from rapidfuzz.distance import OSA

SHORTEST = 5
"""Letters below which a word isn't mended: short words have too many neighbours."""
LONG = 8
"""Letters from which two slips are allowed."""


class Speller:
    """Knows the words of a general vocabulary, and mends the others towards the words that matter here."""

    def __init__(self, known: Iterable[str], wanted: Iterable[str]) -> None:
        self._wanted = sorted({w for text in wanted for w in re.findall(r"[a-z]+", text.lower()) if len(w) >= SHORTEST})
        self._known = frozenset(known) | frozenset(self._wanted)
        self._mended = lru_cache(maxsize=4096)(self._nearest)

    def mended(self, text: str) -> str:
        """`text` with unknown words read as their nearest known neighbour of this field, where there is one."""
        return re.sub(r"[A-Za-z]{5,}", lambda m: self._mended(m.group(0)), text)

    def _nearest(self, word: str) -> str:
        lowered = word.lower()
        stem = lowered.removesuffix("s")
        if lowered in self._known or stem in self._known or word.isupper():
            return word
        slips = 2 if len(word) >= LONG else 1
        found = process.extractOne(lowered, self._wanted, scorer=OSA.distance, score_cutoff=slips)
        return str(found[0]) if found else word
