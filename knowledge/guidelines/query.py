"""A query as it is searched: in English, abbreviations and lay words written out, slips of the pen beside what was probably meant."""

import json
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import yaml

from knowledge.guidelines import corpus
from knowledge.guidelines.minilm import package_dir
from knowledge.guidelines.shelves import text_of
from knowledge.language import glossed, language_of


@cache
def _synonyms() -> list[tuple[re.Pattern[str], str]]:
    loaded = yaml.safe_load((Path(__file__).parent / "synonyms.yaml").read_text(encoding="utf-8"))
    return [(re.compile(rf"\b(?:{pattern})(?!\w)", re.I), word) for pattern, word in loaded.items()]


@cache
def _vocabulary() -> dict[int, list[str]]:
    """Words of the corpus in the box and of the synonyms, by length: what a misspelt word may have meant."""
    texts = [text_of(p).whole for p in corpus.passages()] + [w for _, w in _synonyms()]
    words = Counter(w for t in texts for w in re.findall(r"[a-z]{4,}", t.lower()))
    found: dict[int, list[str]] = {}
    for word in words:
        found.setdefault(len(word), []).append(word)
    return found


@cache
def _plain_words() -> frozenset[str]:
    """Whole words that MiniLM's tokenizer knows: none of them is a misspelling of a clinical word."""
    tokens = json.loads((package_dir() / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    return frozenset(w for w in tokens if len(w) >= 4 and w.isalpha())


def spelled(text: str, known: Callable[[str], bool] = lambda word: False) -> list[tuple[str, str]]:
    """Words that neither English nor the guidelines have, each with the one word of the corpus that it is a slip of the pen away from."""
    from rapidfuzz.distance import DamerauLevenshtein

    found = []
    for word in dict.fromkeys(re.findall(r"\b[a-z]{5,}\b", text)):
        if word in _plain_words() or known(word):
            continue
        limit = 1 if len(word) < 12 else 2
        near = [w for n in range(len(word) - limit, len(word) + limit + 1) for w in _vocabulary().get(n, ())]
        best = min(
            ((DamerauLevenshtein.distance(word, w, score_cutoff=limit), w) for w in near if w[0] == word[0]), default=(9, word)
        )
        if 0 < best[0] <= limit:
            found.append((word, best[1]))
    return found


def expanded(query: str, known: Callable[[str], bool] = lambda word: False) -> tuple[str, list[str]]:
    """The query in English and lower case with other words for the same thing added, and what was added.

    What was asked stays: a word that looks misspelt is searched beside its correction, since it may be a name that isn't known here.
    """
    text = glossed(query, language_of(query)).lower().replace("tumor", "tumour")
    mended = spelled(text, known)
    text = " ".join([text, *(right for _, right in mended)])
    added = [word for pattern, word in _synonyms() if pattern.search(text) and word.lower() not in text]
    return " ".join([text, *added]), [*(f"{right} for {wrong}" for wrong, right in mended), *added]


_SENTENCE = re.compile(r"[^.!?。；;\n]*(?:[.!?。；;](?!\s|$)[^.!?。；;\n]*)*(?:[.!?。；;]|\n|$)")


def best_sentence(text: str, query: str) -> tuple[int, int]:
    """Characters [start, end) of the sentence that shares most words with the query; the whole text where none shares any."""
    asked = set(re.findall(r"[^\W_]{3,}", query.lower()))
    best, found = 0.0, (0, len(text))
    for match in _SENTENCE.finditer(text):
        words = set(re.findall(r"[^\W_]{3,}", match.group().lower()))
        if not words:
            continue
        shared = len({w[:6] for w in words} & {w[:6] for w in asked})
        score = shared / (len(words) ** 0.3)
        if score > best:
            start = match.start() + len(match.group()) - len(match.group().lstrip())
            best, found = score, (start, match.start() + len(match.group().rstrip()))
    return found
