"""What people ask, put together from phrasings.yaml: thousands of wordings of some ninety questions, in five languages, with slips."""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

LANGUAGES = {"en": 0.6, "de": 0.11, "es": 0.1, "fr": 0.1, "zh": 0.09}
"""Share of each language where wordings are asked."""
TRAINED = {"en": 0.46, "de": 0.13, "es": 0.13, "fr": 0.13, "zh": 0.15}
"""Share of each language where they are learned: those with fewer frames and less help from MiniLM's English vectors get more."""
HELD_OUT = 6
"""Of so many frames one is never trained on: what the model scores on these is on phrasings that it never saw."""
_SLOT = re.compile(r"\{(\w+)\}|\[([^\[\]]*)\]")


@dataclass(frozen=True)
class Meant:
    """A question by what it means: its intent, and what it is about where the intent has topics."""

    intent: str
    topic: str = ""


@dataclass(frozen=True)
class Asked:
    """One wording of one question, or of two at once."""

    text: str
    language: str
    meant: tuple[Meant, ...]


@cache
def material() -> dict[str, Any]:
    """The phrasings."""
    loaded: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "phrasings.yaml").read_text(encoding="utf-8"))
    return loaded


@cache
def meanings() -> list[Meant]:
    """Every question that the phrasings can put into words."""
    found = []
    for name, intent in material()["intents"].items():
        topics = sorted({t for words in intent.get("topics", {}).values() for t in words.values()})
        found += [Meant(name, t) for t in topics]
        if not topics or any("{topic}" not in f for f in intent["en"]):
            found.append(Meant(name))
    return found


def canonical(meant: Meant) -> str:
    """The plain English wording of a question: the first frame that fits, first words."""
    intent = material()["intents"][meant.intent]
    frame = next(f for f in intent["en"] if ("{topic}" in f) == bool(meant.topic))
    words = {v: k for k, v in reversed(intent.get("topics", {}).get("en", {}).items())}
    return _filled(frame, "en", meant, words.get(meant.topic, meant.topic), None)


def held_out(number: int) -> bool:
    """True for frames that are never trained on, by their place in the list of their intent and language."""
    return number % HELD_OUT == 3


def asked(meant: Meant, chance: random.Random, held: bool = False, language: str | None = None) -> Asked | None:
    """A wording of `meant`, from frames that are held out or from the others; None where the language has none."""
    shares = LANGUAGES if held else TRAINED
    language = language or chance.choices(list(shares), list(shares.values()))[0]
    frames, words = _frames(meant, language, held)
    if not frames:
        return None
    text = _filled(chance.choice(frames), language, meant, chance.choice(words) if words else "", chance)
    return Asked(worn(text, language, chance), language, (meant,))


def _frames(meant: Meant, language: str, held: bool) -> tuple[list[str], list[str]]:
    """Frames of a question, held out or not, and the language's words for its topic; no frames where it has no such word."""
    intent = material()["intents"][meant.intent]
    words = [w for w, t in intent.get("topics", {}).get(language, {}).items() if t == meant.topic]
    if meant.topic and not words:
        return [], []
    listed = enumerate(intent.get(language, []))
    return [f for n, f in listed if held_out(n) == held and ("{topic}" in f) == bool(meant.topic)], words


def unseen(many: int, seed: int) -> list[Asked]:
    """Wordings from frames that were never trained on, by the shares in which languages are asked."""
    chance, found = random.Random(seed), list[Asked]()
    intents = [i for i, x in material()["intents"].items() if "only" not in x]
    while len(found) < many:
        intent = chance.choice(intents)
        meant = chance.choice([m for m in meanings() if m.intent == intent])
        if (one := asked(meant, chance, held=True)) is not None:
            found.append(one)
    return found


def wordings(meant: Meant, language: str, chance: random.Random, each: int, tired: int) -> Iterator[tuple[str, list[str]]]:
    """`each` wordings of every frame that isn't held out, the last `tired` of them with a worn copy."""
    frames, words = _frames(meant, language, False)
    for frame in frames:
        for k in range(each):
            text = _filled(frame, language, meant, chance.choice(words) if words else "", chance)
            yield text, [worn(text, language, chance)] if k >= each - tired else []


def two_at_once(first: Asked, second: Asked, chance: random.Random) -> Asked:
    """Both questions in one."""
    joints = {"en": [" and ", "; also, ", ". ", ", and then ", "? "], "de": [" und ", "; außerdem: ", ". "], "es": [" y ", ". "],
              "fr": [" et ", ". "], "zh": ["，", "？", "，还有"]}  # fmt: skip
    return Asked(
        first.text.rstrip(" ?.!？") + chance.choice(joints[first.language]) + second.text,
        first.language,
        (*first.meant, *second.meant),
    )


def _filled(frame: str, language: str, meant: Meant, topic: str, chance: random.Random | None) -> str:
    words = material()["words"][language]

    def put(match: re.Match[str]) -> str:
        if match.group(1) == "topic":
            return topic
        choices = words[match.group(1)] if match.group(1) else match.group(2).split("|")
        return str(choices[0] if chance is None else chance.choice(choices))

    while _SLOT.search(frame):
        frame = _SLOT.sub(put, frame)
    return re.sub(r"\b(the|any) (the|a|any)\b", r"\2", re.sub(r"\s+", " ", frame)).strip()


def filled(frame: str, language: str, chance: random.Random) -> str:
    """A frame that is about nothing, with its choices made."""
    return _filled(frame, language, Meant(""), "", chance)


def worn(text: str, language: str, chance: random.Random) -> str:
    """As people write: with words around it, slips, another case, another mark at the end."""
    around = material()["around"][language]
    text = f"{chance.choice(around['before'])}{text}{chance.choice(around['after'])}".strip()
    if language != "zh":
        for _ in range(chance.choices([0, 1, 2], [0.72, 0.2, 0.08])[0]):
            text = _slip(text, chance)
        if chance.random() < 0.07:
            words = text.split()
            text = " ".join(w for w in words if w.lower() not in ("the", "a", "der", "die", "das", "el", "la", "le"))
        style = chance.random()
        text = text.upper() if style < 0.02 else text.lower() if style < 0.3 else text[:1].upper() + text[1:]
    return text + chance.choice(["？", "。", ""] if language == "zh" else ["?", "?", "", ".", "??", " ?"])


def _slip(text: str, chance: random.Random) -> str:
    """One slip of the keys in a longer word."""
    spots = [m.start() + k for m in re.finditer(r"[^\W\d_]{5,}", text) for k in range(1, len(m.group()) - 1)]
    if not spots:
        return text
    k = chance.choice(spots)
    kind = chance.random()
    if kind < 0.4:
        return text[:k] + text[k + 1] + text[k] + text[k + 2 :]
    if kind < 0.7:
        return text[:k] + text[k + 1 :]
    return text[:k] + text[k] + text[k:] if kind < 0.9 else text[:k] + chance.choice("aeiountrs") + text[k + 1 :]
