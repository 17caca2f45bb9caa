"""What a question means by how it is worded, where no cue decides: a linear classifier of letters, in five languages.

Made by `python -m agent.training.phrases` from the wordings of agent/training/phrasings.yaml.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).parent / "phrases.npz"
FEATURES = 2**15
NONE, ELSEWHERE = "none", "elsewhere"
"""The intents of what isn't done here, and of what is like none of the known wordings."""


@dataclass(frozen=True)
class Likeness:
    """The question that a wording is most like: its intent, its plain English wording, how like it is (above 0: on its side of the
    line), and how far ahead of the next."""

    intent: str
    plain: str
    score: float
    margin: float


def features(texts: Sequence[str]) -> Any:
    """Letters of each text in runs of one to four, hashed: sparse [text, FEATURES], rows of length 1."""
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.preprocessing import normalize

    plain = [re.sub(r"[\s?？.。!！]+$", "", t.strip().lower()) for t in texts]
    found = HashingVectorizer(analyzer="char_wb", ngram_range=(1, 4), n_features=FEATURES).transform(plain)
    found.data = np.sign(found.data) * np.sqrt(np.abs(found.data))
    return normalize(found)


@cache
def _made() -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    with np.load(FILE) as made:
        return made["weights"] * made["scale"], made["bias"], made["intents"].tolist(), made["plain"].tolist()


def likeness(text: str) -> Likeness:
    """The known question that `text` is most like."""
    weights, bias, intents, plain = _made()
    scores = np.asarray(features([text]) @ weights + bias)[0]
    second, first = np.argsort(scores)[-2:]
    return Likeness(intents[first], plain[first], float(scores[first]), float(scores[first] - scores[second]))
