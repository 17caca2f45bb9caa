"""Rank an organ's entities by what is known of a case: a sum of weights that anyone can add up again, never a probability."""

import math
from collections.abc import Mapping

from knowledge.entities.library import Entity, entities, features
from knowledge.evidence import Frozen

START = {"common": 1.0, "uncommon": 0.0, "rare": -1.0}
"""Points that an entity starts with, by how often it is met."""
ABSENT = 0.5
"""Share of its weight that a typical finding takes away where it was looked for and isn't there."""
CLASSIFIER_MOST = 2.0
"""Most points that an image classifier can give or take; it gives none to an entity that nothing else speaks for."""
LACKING = -2.0
"""Points for an entity whose place or cause isn't known to be there."""
LEAD = 2.0
"""Points by which the first has to lead the second to be called the one that fits best."""


class Argument(Frozen):
    """One observation that counts for or against an entity. `points` is what it adds."""

    feature: str
    label: str
    present: bool
    points: float
    source: str
    checked: bool


class Ranked(Frozen):
    """An entity with its points and the arguments behind them, the weightiest first."""

    entity: Entity
    points: float
    arguments: list[Argument]
    classifier_points: float = 0.0
    lacks: str | None = None
    """The observation that it needs and that isn't known to be there."""

    @property
    def pro(self) -> list[Argument]:
        """What speaks for it."""
        return [a for a in self.arguments if a.points > 0]

    @property
    def con(self) -> list[Argument]:
        """What speaks against it."""
        return [a for a in self.arguments if a.points < 0]


class Differential(Frozen):
    """The ranking, how sure it is, and what would tell the first ones apart."""

    organ: str
    ranked: list[Ranked]
    certainty: str
    """`clear`, `open` or `none` (nothing but commonness, or the classifier alone)."""
    apart: list[tuple[str, str, str]]
    """Observations that aren't known and would count most between the first two: (feature, entity it would favour, the other)."""


def rank(organ: str, observed: Mapping[str, bool], probabilities: Mapping[str, float] | None = None) -> Differential:
    """The entities of `organ`, best first.

    `observed`: feature -> whether it is there (looked for and absent: False; not known: left out).
    `probabilities`: a classifier's calibrated classes, over those that its training knew.
    """
    ranked = sorted(
        (_scored(e, observed, probabilities or {}) for e in entities(organ).values()), key=lambda r: (-r.points, r.entity.label)
    )
    first, second = ranked[0], ranked[1]
    told = [f for f in observed if features(organ)[f].kind != "patient"]
    if not told or not first.arguments:
        certainty = "none"
    else:
        certainty = "clear" if first.points - second.points >= LEAD - 1e-6 else "open"
    return Differential(organ=organ, ranked=ranked, certainty=certainty, apart=_apart(first.entity, second.entity, observed))


def _scored(entity: Entity, observed: Mapping[str, bool], probabilities: Mapping[str, float]) -> Ranked:
    arguments = []
    for feature, link in entity.links.items():
        if feature not in observed:
            continue
        there = observed[feature]
        if not there and any(observed.get(o) and feature in features(entity.organ)[o].excludes for o in entity.links):
            continue  # what excludes it has counted already
        points = float(link.weight) if there else -ABSENT * link.weight if link.weight >= 2 else 0.0
        if points:
            arguments.append(Argument(feature=feature, label=features(entity.organ)[feature].label, present=there, points=points, source=link.source,
                                      checked=link.checked))  # fmt: skip
    supported = any(a.points > 0 for a in arguments)
    by_classes = _by_classifier(entity, probabilities) if supported else min(0.0, _by_classifier(entity, probabilities))
    lacks = LACKING if entity.needs and not observed.get(entity.needs) else 0.0
    arguments.sort(key=lambda a: -abs(a.points))
    points = START[entity.common] + sum(a.points for a in arguments) + by_classes + lacks
    return Ranked(
        entity=entity,
        points=round(points, 2),
        arguments=arguments,
        classifier_points=round(by_classes, 2),
        lacks=entity.needs if lacks else None,
    )


def _by_classifier(entity: Entity, probabilities: Mapping[str, float]) -> float:
    """Log2 of how much likelier than even the classifier holds the entity's class, bounded; none for what it doesn't know."""
    if entity.classifier is None or entity.classifier not in probabilities:
        return 0.0
    ratio = max(probabilities[entity.classifier], 1e-3) * len(probabilities)
    return max(-CLASSIFIER_MOST, min(CLASSIFIER_MOST, math.log2(ratio)))


def _apart(first: Entity, second: Entity, observed: Mapping[str, bool]) -> list[tuple[str, str, str]]:
    found = []
    for feature, one in features(first.organ).items():
        if feature in observed or one.kind == "patient":
            continue
        mine, theirs = (e.links[feature].weight if feature in e.links else 0 for e in (first, second))
        if abs(mine - theirs) >= 2 and max(mine, theirs) >= 1:
            found.append(
                (abs(mine - theirs), feature, *((first.label, second.label) if mine > theirs else (second.label, first.label)))
            )
    found.sort(key=lambda f: -f[0])
    return [(f, a, b) for _, f, a, b in found[:4]]
