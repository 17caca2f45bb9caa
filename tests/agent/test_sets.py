"""The evaluation's sets are what they are said to be, and what can be scored in seconds holds its baseline in every run."""

import json
import re

import pytest

from agent.guard import as_data, reads_like_an_order
from tests import eval_agent, eval_grounding
from tests.answers import wanted_arguments
from tests.asked import cases, lines
from tests.eval_injection import ATTACKS, CHANNELS, HELD

EVERY = [x for name in eval_agent.SETS for x in lines(name)]


def test_the_sets_are_as_large_as_they_are_said_to_be() -> None:
    assert len(EVERY) >= 300 and {x.language for x in EVERY} == {"en", "de", "es", "fr", "zh"}
    assert len({(x.case, x.question, x.history) for x in EVERY}) == len(EVERY)
    assert {x.case for x in EVERY} <= set(cases()) and {x.split for x in EVERY} == {"seen", "held", "fresh", "last"}
    for line in EVERY:
        for pattern in (*line.must, *line.must_not):
            re.compile(pattern)
    assert set(wanted_arguments()) <= {x.question for x in EVERY}
    statements = eval_grounding.statements()
    assert len(statements) >= 200 and len({(e.statement, t) for e, t, _, _ in statements}) == len(statements)
    assert len(ATTACKS) * len(CHANNELS) >= 150 and not set(ATTACKS) & set(HELD)


@pytest.mark.parametrize("part", ["grounding", "plans"])
def test_scores_hold_their_baseline(part: str) -> None:
    kept = eval_agent.flat(json.loads(eval_agent.BASELINE.read_text(encoding="utf-8"))[part])
    now = eval_agent.flat(eval_agent.plans() if part == "plans" else eval_grounding.scores())
    worse = {k: (now[k]["value"], v["low"]) for k, v in kept.items() if k in now and now[k]["value"] < v["low"]}
    assert kept and not worse


def test_clinical_text_does_not_read_like_an_order() -> None:
    """False alarms of the guard on what patients' documents and guidelines say."""
    told = [str(r["text"]) for c in cases().values() for r in c.get("reports", []) if r.get("text")]
    sentences = [s for t in told for s in t.splitlines() if s] + [e.statement for e, _, _, _ in eval_grounding.statements()]
    assert len(sentences) > 100
    assert not [s for s in sentences if reads_like_an_order(s)]
    assert "note" not in as_data([{"evidence": "E1", "statement": "There is no restricted diffusion."}])
