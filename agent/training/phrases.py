"""Makes agent/planner/phrases.npz: `python -m agent.training.phrases`. A quarter of a minute on one core; prints its score on frames that it never saw."""

import random
from pathlib import Path

import numpy as np
import yaml

from agent.planner.cues import POLITE
from agent.planner.phrases import ELSEWHERE, FILE, features
from agent.training.questions import TRAINED, Meant, canonical, filled, meanings, unseen, wordings, worn

SEED, HELD_SEED = 3, 9
EACH, WORN = 4, 2
"""Wordings of a frame, and how many of them are worn too (slips, words around)."""
HELD = 600
OTHERS = 12
"""Wordings of a frame that no known question means, each worn too."""


def learned() -> tuple[list[str], list[Meant]]:
    """Texts and what they mean, of all frames that aren't held out."""
    chance = random.Random(SEED)
    texts: list[str] = []
    means: list[Meant] = []
    for meant in meanings():
        for language in TRAINED:
            for plain, tired in wordings(meant, language, chance, EACH, WORN):
                texts += [POLITE.sub("", t) for t in (plain, *tired)]
                means += [meant] * (1 + len(tired))
    return texts, means


def elsewhere() -> list[str]:
    """Wordings of what no known question means."""
    chance = random.Random(SEED)
    loaded: dict[str, list[str]] = yaml.safe_load((Path(__file__).parent / "elsewhere.yaml").read_text(encoding="utf-8"))
    texts = []
    for language, frames in loaded.items():
        for frame in frames:
            for _ in range(OTHERS):
                text = filled(frame, language, chance)
                texts += [text, POLITE.sub("", worn(text, language, chance))]
    return texts


def main() -> None:
    """Fits it, writes it, scores it."""
    from sklearn.svm import LinearSVC

    texts, means = learned()
    names = sorted(set(means), key=lambda m: (m.intent, m.topic))
    place = {m: n for n, m in enumerate(names)}
    others = elsewhere()
    known = [place[m] for m in means] + [len(names)] * len(others)
    model = LinearSVC(C=1.0, random_state=SEED).fit(features([*texts, *others]), known)
    scale = np.abs(model.coef_).max(1) / 127
    weights = np.round(model.coef_ / scale[:, None]).astype(np.int8).T
    np.savez_compressed(FILE, weights=weights, scale=scale.astype(np.float32), bias=model.intercept_.astype(np.float32),
                        intents=np.array([*(m.intent for m in names), ELSEWHERE]), plain=np.array([*(canonical(m) for m in names), ""]))  # fmt: skip
    asked = unseen(HELD, HELD_SEED)
    scores = features([POLITE.sub("", q.text) for q in asked]) @ (weights * scale) + model.intercept_
    told = [(*names, None)[i] for i in np.asarray(scores).argmax(1)]
    right = sum(t == q.meant[0] for t, q in zip(told, asked, strict=True))
    print(
        f"{len(texts)} wordings, {len(others)} of others, of {len(names)} questions; {right} of {HELD} unseen wordings right; {FILE.stat().st_size / 1e6:.2f} MB"
    )


if __name__ == "__main__":
    main()
