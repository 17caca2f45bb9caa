"""Makes agent/planner/phrases.npz: `python -m agent.training.phrases`. Two minutes on one core; prints its score on frames that it never saw."""

import random

import numpy as np

from agent.planner.cues import POLITE
from agent.planner.phrases import FILE, features
from agent.training.questions import TRAINED, Asked, Meant, asked, canonical, meanings, wordings

SEED, HELD_SEED = 3, 9
EACH, WORN = 4, 2
"""Wordings of a frame, and how many of them are worn too (slips, words around)."""
HELD = 600


def learned() -> tuple[list[str], list[Meant]]:
    """Texts and what they mean, of all frames that aren't held out."""
    chance = random.Random(SEED)
    texts: list[str] = []
    means: list[Meant] = []
    for meant in meanings():
        for language in TRAINED:
            for plain, worn in wordings(meant, language, chance, EACH, WORN):
                texts += [POLITE.sub("", t) for t in (plain, *worn)]
                means += [meant] * (1 + len(worn))
    return texts, means


def held() -> list[Asked]:
    """Wordings of frames that are held out, by the shares in which languages are asked."""
    chance = random.Random(HELD_SEED)
    found: list[Asked] = []
    intents = sorted({m.intent for m in meanings()})
    while len(found) < HELD:
        intent = chance.choice(intents)
        if (one := asked(chance.choice([m for m in meanings() if m.intent == intent]), chance, held=True)) is not None:
            found.append(one)
    return found


def main() -> None:
    """Fits it, writes it, scores it."""
    from sklearn.svm import LinearSVC

    texts, means = learned()
    names = sorted(set(means), key=lambda m: (m.intent, m.topic))
    place = {m: n for n, m in enumerate(names)}
    model = LinearSVC(C=1.0, random_state=SEED).fit(features(texts), [place[m] for m in means])
    scale = np.abs(model.coef_).max(1) / 127
    weights = np.round(model.coef_ / scale[:, None]).astype(np.int8).T
    np.savez_compressed(FILE, weights=weights, scale=scale.astype(np.float32), bias=model.intercept_.astype(np.float32),
                        intents=np.array([m.intent for m in names]), plain=np.array([canonical(m) for m in names]))  # fmt: skip
    unseen = held()
    scores = features([POLITE.sub("", q.text) for q in unseen]) @ (weights * scale) + model.intercept_
    told = [names[i] for i in np.asarray(scores).argmax(1)]
    right = sum(t == q.meant[0] for t, q in zip(told, unseen, strict=True))
    print(
        f"{len(texts)} wordings of {len(names)} questions; {right} of {HELD} unseen wordings right; {FILE.stat().st_size / 1e6:.2f} MB"
    )


if __name__ == "__main__":
    main()
