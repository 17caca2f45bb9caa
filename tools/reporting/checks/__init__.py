"""Checks of a report, one file a subject; each yields issues with the characters that they are about."""

from collections.abc import Callable, Iterator

from tools.reporting.checks import advice, against, inside
from tools.reporting.checks.model import Context, Issue

CHECKS: tuple[Callable[[Context], Iterator[Issue]], ...] = (
    inside.sides, inside.sizes, inside.units, inside.counts, inside.contradictions, inside.sections,
    against.patient, against.dates, against.images, against.priors, against.records,
    advice.critical, advice.unclear, advice.against_rules,
)  # fmt: skip
"""Every check, in the order of a report's issues of the same severity."""


def issues(context: Context) -> list[Issue]:
    """All issues of a report, the gravest first; one span is named once for each kind."""
    found: dict[tuple[str, int], Issue] = {}
    for check in CHECKS:
        for issue in check(context):
            found.setdefault((issue.kind, issue.start), issue)
    rank = {"critical": 0, "major": 1, "minor": 2}
    return sorted(found.values(), key=lambda i: (rank[i.severity], i.start))
