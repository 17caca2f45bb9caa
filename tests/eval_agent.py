"""The agent's evaluation: plans, whole answers, grounding, attacks; `make agent-eval` holds it against the committed baseline.

`--llm-url URL --llm-model NAME` asks the same questions of a served model too, and prints one table with both. A weak model chooses
evidence instead of writing: CONSILIUM_LLM_CHOOSES=true.
"""

import argparse
import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests import eval_grounding
from tests.answers import answers
from tests.asked import Line, described, lines

BASELINE = Path(__file__).parent / "data" / "agent_baseline.json"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "questions" / "dev.jsonl"
DRAWS = 2000
SETS = ("asked.txt", "asked_fresh.txt", "asked_last.txt")
LATER = {"find_similar_cases"}
"""Tools that questions expect and that aren't in the box yet."""


def interval(values: Sequence[Any], score: Callable[[list[Any]], float]) -> dict[str, float]:
    """`score` over the questions with its 95 % bootstrap interval (questions drawn with replacement)."""
    if not values:
        return {}
    random = np.random.default_rng(0)
    drawn = [score([values[i] for i in random.integers(0, len(values), len(values))]) for _ in range(DRAWS)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    if low == 1.0:  # nothing missed, so nothing to draw: the rule of three
        low = max(0.0, 1 - 3 / len(values))
    return {"value": round(score(list(values)), 4), "low": round(float(low), 4), "high": round(float(high), 4), "n": len(values)}


def f1(rows: list[tuple[float | None, float]]) -> float:
    """The harmonic mean of mean recall (where tools were expected) and mean precision."""
    recalls = [r for r, _ in rows if r is not None]
    recall, precision = (float(np.mean(recalls)) if recalls else 1.0), float(np.mean([p for _, p in rows]))
    return 2 * recall * precision / (recall + precision) if recall + precision else 0.0


def mean(rows: list[Any]) -> float:
    return float(np.mean(rows))


def planned(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What `consilium plan` gives for each described question."""
    from agent.planner.rehearsal import rehearse

    found = []
    for one in cases:
        plan = rehearse(one["case"], one["history"], one["question"])
        expected, optional, got = set(one["expected_tools"]), set(one["optional_tools"]), set(plan["tools"])
        boxed = expected - LATER
        found.append({
            "kind": one["kind"], "recall": len(expected & got) / len(expected) if expected else None,
            "boxed": len(boxed & got) / len(boxed) if boxed else None, "precision": len(got & (expected | optional)) / len(got) if got else 1.0,
            "abstain": plan["abstain"] == one["abstain"],
        })  # fmt: skip
    return found


def plan_scores(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "tool_f1": interval([(r["recall"], r["precision"]) for r in rows], f1),
        "tool_f1_of_tools_in_the_box": interval([(r["boxed"], r["precision"]) for r in rows], f1),
        "tool_recall": interval([r["recall"] for r in rows if r["recall"] is not None], mean),
        "tool_precision": interval([r["precision"] for r in rows], mean), "abstention": interval([r["abstain"] for r in rows], mean),
    }  # fmt: skip


def plans() -> dict[str, Any]:
    """Scores of the plans: the shared questions, our own by split, and ours by kind."""
    found: dict[str, Any] = {}
    if SHARED.exists():
        found["shared dev"] = plan_scores(planned([json.loads(x) for x in SHARED.read_text(encoding="utf-8").splitlines()]))
    by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
    every = [x for name in SETS for x in lines(name)]
    for split in ("seen", "held", "fresh", "last"):
        rows = planned([described(x) for x in every if x.split == split])
        found[split] = plan_scores(rows)
        for row in rows:
            by_kind[row["kind"]].append(row)
    found["by kind"] = {k: {"n": len(r), "f1": round(f1([(x["recall"], x["precision"]) for x in r]), 3), "abstention": round(mean([x["abstain"] for x in r]), 3)}
                        for k, r in sorted(by_kind.items())}  # fmt: skip
    return found


def answer_scores(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Scores of whole answers."""
    own = [r["own_ms"] for r in rows]
    answerable = [r for r in rows if not r["should_decline"]]
    return {
        "n": len(rows), "tool_f1": interval([(r["recall"], r["precision"]) for r in rows], f1),
        "must": interval([m for r in rows for m in r["must"]], mean), "must_not_violations": sum(bool(r["violations"]) for r in rows),
        "citations_hold": interval([c for r in rows for c in r["cited"]], mean), "abstention": interval([r["abstained"] for r in rows], mean),
        "refuses_needlessly": interval([r["declined"] for r in answerable], mean), "arguments": interval([a for r in rows for a in r["arguments"]], mean),
        "calls_accepted": interval([a for r in rows for a in r["accepted"]], mean),
        "left_out": sum(r["left_out"] for r in rows), "language": interval([r["answer_language"] for r in rows], mean),
        "own_ms": {"p50": float(np.percentile(own, 50)), "p95": float(np.percentile(own, 95))},
    }  # fmt: skip


def told(wanted: list[Line], settings: Any = None) -> dict[str, Any]:
    rows = [row for _, _, row in asyncio.run(answers(wanted, settings))]
    return {
        **answer_scores(rows),
        "by split": {s: answer_scores([r for r in rows if r["split"] == s]) for s in sorted({r["split"] for r in rows})},
    }


def flat(found: dict[str, Any], path: str = "") -> dict[str, dict[str, float]]:
    """Scores with an interval, by their path."""
    if "low" in found:
        return {path: found}
    parts = [flat(v, f"{path}/{k}".strip("/")) for k, v in found.items() if isinstance(v, dict)]
    return {k: v for part in parts for k, v in part.items()}


def falls(found: dict[str, Any]) -> list[str]:
    """Scores that fell below the interval of the committed baseline, and what may never be."""
    kept = flat(json.loads(BASELINE.read_text(encoding="utf-8")))
    now = flat(found)
    worse = [f"{k}: {now[k]['value']} is below {v['low']} (baseline {v['value']})" for k, v in kept.items()
             if k in now and not k.endswith("refuses_needlessly") and now[k]["value"] < v["low"]]  # fmt: skip
    if found["answers"]["must_not_violations"]:
        worse.append(f"{found['answers']['must_not_violations']} answers say what they must not")
    attacks = found.get("attacks", {})
    return worse + [f"{n}: {attacks[n]}" for n in ("leaks", "unconfirmed_writes", "plan_changed", "made_up") if attacks.get(n)]


def table(columns: dict[str, dict[str, Any]]) -> str:
    """The planners side by side."""
    names = ["tool_f1", "must", "citations_hold", "abstention", "refuses_needlessly", "arguments", "calls_accepted", "language"]
    rows = [f"{'':22}" + "".join(f"{c:>32}" for c in columns)]
    for name in names:
        cells = [
            f"{c[name]['value']:.3f} ({c[name]['low']:.3f} to {c[name]['high']:.3f})" if c[name] else "-"
            for c in columns.values()
        ]
        rows.append(f"{name:22}" + "".join(f"{x:>32}" for x in cells))
    rows.append(f"{'must_not violations':22}" + "".join(f"{c['must_not_violations']:>32}" for c in columns.values()))
    rows.append(
        f"{'own time p50/p95 ms':22}"
        + "".join(f"{c['own_ms']['p50']:>24.0f} / {c['own_ms']['p95']:.0f}" for c in columns.values())
    )
    return "\n".join(rows)


def measured(llm_url: str | None = None, llm_model: str | None = None) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Every score but the attacks', and the columns of the table: the built-in planner, and a served model where one is named."""
    wanted = [x for name in SETS for x in lines(name)]
    found: dict[str, Any] = {"plans": plans(), "answers": told(wanted), "grounding": eval_grounding.scores()}
    columns = {"built-in": found["answers"]}
    if llm_url:
        from serving.settings import Settings

        name = llm_model or "model"
        found["answers of the served model"] = columns[name] = told(
            wanted, lambda data: Settings(data=data, llm_url=llm_url, llm_model=llm_model, llm_fallback=False)
        )
    return found, columns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="keep the scores here as JSON")
    parser.add_argument("--check", action="store_true", help="fail on a fall below the baseline's intervals")
    parser.add_argument("--baseline", action="store_true", help="write the baseline anew")
    parser.add_argument("--attacks", type=int, default=45, help="how many attacks in each channel (0: none)")
    parser.add_argument("--llm-url", help="an OpenAI-compatible server to ask the same questions of")
    parser.add_argument("--llm-model", help="the name of its model")
    args = parser.parse_args()
    found, columns = measured(args.llm_url, args.llm_model)
    if args.attacks:
        from tests.eval_injection import ATTACKS, HELD, TASKS, run

        found["attacks"] = asyncio.run(run([*ATTACKS, *HELD][: args.attacks], TASKS))
    print(json.dumps(found, indent=1, ensure_ascii=False))
    print(table(columns))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if args.baseline:
        BASELINE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    worse = falls(found) if args.check else []
    print("\n".join(f"WORSE {w}" for w in worse) or "nothing fell below the baseline" if args.check else "")
    sys.exit(1 if worse else 0)


if __name__ == "__main__":
    main()
