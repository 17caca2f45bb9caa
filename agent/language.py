"""Which language a question is in, and the few sentences that the agent itself says in it."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from lingua import LanguageDetector

SURE = 0.5
"""Below this confidence a Latin-script question counts as English: short clinical English looks like anything."""
LANGUAGES = ("en", "de", "es", "fr", "zh")


@cache
def _small_words() -> dict[str, frozenset[str]]:
    """Words that a short question can hardly do without: they tell its language before its letters do."""
    return {name: frozenset(phrases(name)["small_words"]) for name in LANGUAGES if name != "zh"}


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
    ranked = _detector().compute_language_confidence_values(text)
    best = ranked[0]
    if best.value < SURE:
        return before
    return {"ENGLISH": "en", "GERMAN": "de", "SPANISH": "es", "FRENCH": "fr"}[best.language.name]


@cache
def phrases(language: str) -> dict[str, Any]:
    """The sentences of a language; English where there is no catalogue for it."""
    folder = Path(__file__).parent / "phrases"
    path = folder / f"{language}.yaml"
    loaded: dict[str, Any] = yaml.safe_load((path if path.exists() else folder / "en.yaml").read_text(encoding="utf-8"))
    return loaded


def nothing_line(language: str) -> str:
    """What an answer says that found no evidence."""
    return str(phrases(language)["nothing"])


def missing_line(language: str, names: Sequence[str]) -> str:
    """What is missing, in one line."""
    return f"{phrases(language)['missing']}: {'; '.join(names)}."
