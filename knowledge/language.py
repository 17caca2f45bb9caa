"""Which language words are in, and clinical terms of other languages put into English."""

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from lingua import LanguageDetector

LIKELY = 0.4
"""Enough where a word of that language's clinical terms is there too."""
SURE = 0.7
"""Below this confidence a Latin-script question counts as English: short clinical English looks like anything."""
LANGUAGES = ("en", "de", "es", "fr", "zh")


@cache
def _small_words() -> dict[str, frozenset[str]]:
    loaded = yaml.safe_load((Path(__file__).parent / "small_words.yaml").read_text(encoding="utf-8"))
    return {name: frozenset(words) for name, words in loaded.items()}


@cache
def _detector() -> "LanguageDetector":
    from lingua import Language, LanguageDetectorBuilder

    known = [Language.ENGLISH, Language.GERMAN, Language.SPANISH, Language.FRENCH]
    return LanguageDetectorBuilder.from_languages(*known).build()


@cache
def language_of(text: str, before: str = "en") -> str:
    """ISO 639-1 code (en, de, es, fr, zh); `before`, the language so far, where the text is too short to tell."""
    if re.search(r"[\u4e00-\u9fff]", text):
        return "zh"
    words = set(re.findall(r"[^\W\d_]+", text.lower()))
    known = sorted(((len(words & mine), name) for name, mine in _small_words().items()), reverse=True)
    if known[0][0] > known[1][0]:
        return known[0][1]
    if len(words) <= 2:
        hits = {name: sum(any(w == t or (t.endswith("*") and w.startswith(t[:-1])) for t in _terms(name)) for w in words)
                for name in ("de", "es", "fr")}  # fmt: skip
        best_name = max(hits, key=lambda n: hits[n])
        return best_name if hits[best_name] and list(hits.values()).count(hits[best_name]) == 1 else before
    ranked = _detector().compute_language_confidence_values(text)
    best = ranked[0]
    name = {"ENGLISH": "en", "GERMAN": "de", "SPANISH": "es", "FRENCH": "fr"}[best.language.name]
    if best.value < SURE and not (name != "en" and best.value > LIKELY and words & _terms(name)):
        return before
    return name


@cache
def _terms(language: str) -> frozenset[str]:
    """The glossary's single words of a language that aren't English too."""
    loaded = yaml.safe_load((Path(__file__).parent / "glossary.yaml").read_text(encoding="utf-8"))[language]
    return frozenset(t.lower() for t, english in loaded.items() if " " not in t and t.lower() not in str(english).lower())


@cache
def _glossary(language: str) -> list[tuple[re.Pattern[str], str]]:
    terms = yaml.safe_load((Path(__file__).parent / "glossary.yaml").read_text(encoding="utf-8")).get(language, {})
    compiled = []
    for term in sorted(terms, key=len, reverse=True):
        pattern = re.escape(term).replace(r"\*", r"\w*")
        compiled.append((re.compile(pattern if language == "zh" else rf"\b{pattern}(?!\w)", re.I), f" {terms[term]} "))
    return compiled


def glossed(text: str, language: str) -> str:
    """`text` with the terms that the glossary knows put into English."""
    if language == "en":
        return text
    for pattern, english in _glossary(language):
        text = pattern.sub(english, text)
    return " ".join(text.replace("?", " ? ").split()).replace(" -year", "-year")


@cache
def english_terms() -> tuple[str, ...]:
    """The English side of the glossary."""
    loaded = yaml.safe_load((Path(__file__).parent / "glossary.yaml").read_text(encoding="utf-8"))
    return tuple(sorted({str(english) for terms in loaded.values() for english in terms.values()}))
