"""The evaluation's questions: tests/data/asked.txt and the cases they are asked about, in the form of ../shared/questions."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

DATA = Path(__file__).parent / "data"
LETTERS = {"L": "list_studies", "X": "explain_image_metadata", "S": "segment", "D": "detect", "C": "classify", "M": "measure", "O": "compare_studies",
           "R": "radiomics", "K": "look", "T": "retrieve_reports", "P": "patient_record", "G": "search_guidelines", "A": "apply_guideline",
           "W": "draft_report", "V": "check_report", "Z": "find_similar_cases", "Q": "education_quiz"}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One question with what is expected of its answer. `must` and `must_not` are regular expressions over the answer's text."""

    id: str
    case: str
    language: str
    kind: str
    question: str
    expected: frozenset[str]
    optional: frozenset[str]
    abstain: bool
    must: tuple[str, ...]
    must_not: tuple[str, ...]
    history: tuple[tuple[str, str], ...]
    split: str
    """`seen`: misses were looked at while the planner was made; `held`: only the score was; `fresh`: written after it and opened after one
    run, as `held` was then; `last`: written at the end and never looked into."""


@cache
def cases() -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = yaml.safe_load((DATA / "asked_cases.yaml").read_text(encoding="utf-8"))
    return loaded


def lines(name: str = "asked.txt") -> list[Line]:
    found = []
    for row in (DATA / name).read_text(encoding="utf-8").splitlines():
        if not row.strip() or row.startswith("#"):
            continue
        cells = [c.strip() for c in row.replace("\\|", "\0").split("|")]
        cells = [c.replace("\0", "|") for c in [*cells, *[""] * 10]]
        case, language, kind, question, expected, optional, abstain, must, must_not, history = cells[:10]
        earlier = [tuple(t.split(" > ", 1)) for t in history.split(" ;; ") if " > " in t]
        found.append(Line(
            id=f"{name.split('.')[0]}-{len(found) + 1:03d}", case=case, language=language, kind=kind, question=question,
            expected=frozenset(LETTERS[x] for x in expected), optional=frozenset(LETTERS[x] for x in optional), abstain=abstain == "A",
            must=tuple(m for m in must.split(";;") if m), must_not=tuple(m for m in must_not.split(";;") if m),
            history=tuple((u, a) for u, a in earlier),
            split="fresh" if "fresh" in name else "last" if "last" in name else "held" if int(hashlib.sha256(f"{case}{question}".encode()).hexdigest(), 16) % 2 else "seen",
        ))  # fmt: skip
    return found


def described(line: Line) -> dict[str, Any]:
    """The line in the form of ../shared/questions."""
    case = {k: v for k, v in cases()[line.case].items() if k != "sample"}
    history = [{"role": r, "text": t} for pair in line.history for r, t in zip(("user", "assistant"), pair, strict=True)]
    return {"id": line.id, "kind": line.kind, "question": line.question, "case": {"patient": {}, "studies": [], "reports": [], "records": [], **case},
            "history": history, "expected_tools": sorted(line.expected), "optional_tools": sorted(line.optional), "abstain": line.abstain}  # fmt: skip
