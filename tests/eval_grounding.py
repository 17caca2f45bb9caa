"""Grounding's own precision and recall: true statements that it keeps, corrupted ones that it catches."""

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

from agent import grounding
from knowledge.evidence import Evidence, ImageRef, Kind, PassageRef, RecordRef, ReportSpan, RuleRef

FILE = Path(__file__).parent / "data" / "statements.yaml"
_SOURCES: dict[str, Any] = {
    "measurement": ImageRef(study_id="s", series_uid="u", model="m", model_version="1"),
    "finding": ImageRef(study_id="s", series_uid="u", model="m", model_version="1"),
    "report": ReportSpan(record_id="r", section="FINDINGS", start=0, end=1), "record": RecordRef(resource="Observation/1", path="value"),
    "rule": RuleRef(rule="r", document="d", section="s", inputs={}),
    "guideline": PassageRef(document="d", version="1", date="2024", section="s", passage_id="p"),
}  # fmt: skip


def statements() -> list[tuple[Evidence, str, str, str]]:
    """Evidence, statement, what was changed in it (`none` for a true one), and the half it belongs to (seen or held)."""
    found = []
    for entry in yaml.safe_load(FILE.read_text(encoding="utf-8")):
        kind = Kind(entry["kind"])
        value = entry.get("value")
        unit = entry.get("unit") if kind is Kind.MEASUREMENT or entry.get("unit") else None
        evidence = Evidence(id="E1", href="/x", kind=kind, title="Fact", statement=entry["statement"], value=value, unit=unit,
                            interval=entry.get("interval"), source=_SOURCES[entry["kind"]])  # fmt: skip
        half = "held" if int(hashlib.sha256(entry["statement"].encode()).hexdigest(), 16) % 2 else "seen"
        found += [(evidence, text, "none", half) for text in entry["right"]]
        found += [(evidence, text, change, half) for change, text in entry["wrong"]]
    return found


def _share(right: int, n: int) -> dict[str, float]:
    """A share with its 95 % interval (Wilson)."""
    from tests.eval import wilson

    low, high = wilson(right, n)
    return {"value": round(right / n, 3), "low": round(low, 3), "high": round(high, 3), "n": n}


def scores() -> dict[str, Any]:
    """Caught and kept, in all, by half and by what was changed. Precision: of what was caught, the share that was false."""
    rows = [(change, half, bool(grounding.problems(text, [evidence]))) for evidence, text, change, half in statements()]

    def of(chosen: list[tuple[str, str, bool]]) -> dict[str, Any]:
        false = [caught for change, _, caught in chosen if change != "none"]
        true = [caught for change, _, caught in chosen if change == "none"]
        right, wrongly = sum(false), sum(true)
        return {"false": len(false), "true": len(true), "recall": _share(right, len(false)),
                "precision": _share(right, right + wrongly), "true_kept": _share(len(true) - wrongly, len(true))}  # fmt: skip

    kinds = defaultdict(list)
    for change, _, caught in rows:
        kinds[change].append(caught)
    by_change = {c: f"{sum(found)} of {len(found)}" for c, found in sorted(kinds.items()) if c != "none"}
    return {
        "all": of(rows),
        "seen": of([r for r in rows if r[1] == "seen"]),
        "held": of([r for r in rows if r[1] == "held"]),
        "caught": by_change,
    }


def main() -> None:
    for evidence, text, change, half in statements():
        why = grounding.problems(text, [evidence])
        if half == "seen" and bool(why) != (change != "none"):
            print(change, "|", text, "|", why, "|", evidence.statement[:110])
    print(scores())


if __name__ == "__main__":
    main()
