"""Feedback of users as training data in TRL's formats, without identity, with where each row comes from.

`sft.jsonl`: prompt and completion of answers that were rated up, and of corrections: the plan's calls and the answer. `preference.jsonl`: the
corrected answer (chosen) against the one that was rated down (rejected). `rated.jsonl`: every rated answer with its label, unpaired. Texts lose
names, numbers and contacts, dates are shifted by a number of days of the patient's own; a row in which a word of the patient's identity is
left is not written. What remains are clinical facts of real people: the files stay where the data may be, and a person looks through them.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent import grounding
from agent.acting import row_of
from agent.answer import Answer, Statement
from agent.assistant import SOFTWARE
from agent.composing import request_of
from agent.guard import as_data, case_told
from agent.memory import Memory, Message, Rating
from agent.planner.offered import offered
from agent.prompts import identity, prompt
from knowledge.case import Case
from knowledge.evidence import Evidence
from knowledge.records.anonymous import Scrub
from tools.registry import tool_types

_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+(?=\S)")


@dataclass
class Exported:
    """How many rows of each kind were written, and why others were not."""

    sft: int = 0
    preference: int = 0
    rated: int = 0
    left_out: dict[str, int] = field(default_factory=dict)

    def without(self, why: str) -> None:
        """Count a row that isn't written."""
        self.left_out[why] = self.left_out.get(why, 0) + 1


def export(memory: Memory, case_of: Callable[[str], Case | None], secret: bytes, out: Path, chooses: bool = False) -> Exported:
    """Write the files into `out`. `case_of`: a conversation's case, None where it is gone; `chooses`: for a model that only chooses evidence."""
    out.mkdir(parents=True, exist_ok=True)
    done, origins = Exported(), []
    names = ("sft", "preference", "rated")
    files = {n: (out / f"{n}.jsonl").open("w", encoding="utf-8") for n in names}
    try:
        for rating, message in _rated(memory):
            case = case_of(message.answer.conversation_id)
            if case is None:
                done.without("the conversation's case is gone, so its identity can't be taken out")
                continue
            scrub = Scrub([case.patient.id, *case.archive.identifying(case.patient.id)], secret)
            for kind, row in _rows(rating, message, case, chooses, done):
                clean = scrub.all(row)
                if scrub.left(clean):
                    done.without("a word of the patient's identity was left")
                    continue
                files[kind].write(json.dumps(clean, ensure_ascii=False) + "\n")
                setattr(done, kind, getattr(done, kind) + 1)
                origins.append(_origin(kind, getattr(done, kind) - 1, rating, message, secret))
    finally:
        for file in files.values():
            file.close()
    about = {"software": SOFTWARE, "prompts": identity(), "form": "TRL: conversational prompt-completion, preference, unpaired preference",
             "model_writes": "a choice of evidence" if chooses else "statements", "left_out": done.left_out, "rows": origins}  # fmt: skip
    (out / "provenance.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return done


def _rated(memory: Memory) -> Iterator[tuple[Rating, Message]]:
    for rating in memory.ratings():
        message = memory.message(rating.message_id)
        if message is not None:
            yield rating, message


def _origin(kind: str, number: int, rating: Rating, message: Message, secret: bytes) -> dict[str, Any]:
    """Where a row comes from; the message is named by a keyed hash, which its house alone can follow back."""
    made = message.answer.provenance
    return {"file": f"{kind}.jsonl", "row": number, "message": hashlib.sha256(secret + message.id.encode()).hexdigest()[:16], "rating": rating.rating,
            "corrected": bool(rating.correction), "planner": made.planner.model_dump(), "prompts": made.prompts, "corpus": made.corpus, "tools": made.tools}  # fmt: skip


def _rows(rating: Rating, message: Message, case: Case, chooses: bool, done: Exported) -> Iterator[tuple[str, dict[str, Any]]]:
    inventory = case.inventory()
    tools = offered(list(tool_types().values()), inventory)
    before = _before(message, inventory)
    after = [*before, *_called(message.answer)]
    request = {
        "role": "user",
        "content": request_of(message.answer.evidence, [m.model_dump() for m in message.answer.missing], chooses),
    }
    told = _completion(message.answer.statements, chooses)
    yield "rated", {"prompt": [*after, request], "completion": told, "label": rating.rating == "up", "tools": tools}
    if rating.rating == "up":
        if message.answer.plan:
            yield "sft", {"prompt": before, "completion": _called(message.answer)[:1], "tools": tools}
        yield "sft", {"prompt": [*after, request], "completion": told, "tools": tools}
    elif rating.correction:
        better = corrected(rating.correction, message.answer.evidence)
        if not better:
            done.without("no sentence of the correction is carried by evidence of the answer")
            return
        chosen = _completion(better, chooses)
        if chosen == told:
            done.without("the correction says what the answer said")
            return
        yield "sft", {"prompt": [*after, request], "completion": chosen, "tools": tools}
        yield "preference", {"prompt": [*after, request], "chosen": chosen, "rejected": told, "tools": tools}
    else:
        done.without("rated down without a correction: only in rated.jsonl")


def corrected(correction: str, evidence: Sequence[Evidence]) -> list[Statement]:
    """The sentences of a correction that an evidence of the answer carries, each with the first that does: a model learns no fact without its source."""
    found = []
    for sentence in (s.strip() for s in _SENTENCE.split(correction)):
        named = re.findall(r"\[(E\d+)\]", sentence)
        text = re.sub(r"\s*\[E\d+\]", "", sentence).strip()
        among = [e for e in evidence if not named or e.id in named]
        # Words alone carry nothing: the sentence has to share a number or most of its words with the evidence.
        carrier = next((e for e in among if text and _speaks_of(text, e) and not grounding.problems(text, [e])), None)
        if carrier is not None:
            found.append(Statement(text=text, evidence=[carrier.id]))
    return found


def _speaks_of(text: str, evidence: Evidence) -> bool:
    mine, theirs = (set(re.findall(r"\d+(?:\.\d+)?|\w{4,}", t.lower())) for t in (text, f"{evidence.title} {evidence.statement}"))
    return bool(mine) and len(mine & theirs) >= max(1, len(mine) // 2)


def _before(message: Message, inventory: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": prompt("system")},
        {"role": "user", "content": case_told(inventory)},
        {"role": "user", "content": message.question},
    ]


def _called(answer: Answer) -> list[dict[str, Any]]:
    """The plan as one round of calls with their results."""
    known = {e.id: e for e in answer.evidence}
    calls = [
        {"id": f"call_{n}", "type": "function", "function": {"name": s.tool, "arguments": s.arguments}}
        for n, s in enumerate(answer.plan)
    ]
    found: list[dict[str, Any]] = [{"role": "assistant", "content": "", "tool_calls": calls}] if calls else []
    for number, step in enumerate(answer.plan):
        rows = [row_of(known[i]) for i in step.evidence if i in known]
        found.append(
            {
                "role": "tool",
                "tool_call_id": f"call_{number}",
                "name": step.tool,
                "content": as_data(rows or [{"text": step.message or ""}]),
            }
        )
    return found


def _completion(statements: Sequence[Statement], chooses: bool) -> list[dict[str, Any]]:
    if chooses:
        ids = list(dict.fromkeys(i for s in statements for i in s.evidence))[:12]
        told: dict[str, Any] = {"abstained": not ids, "evidence": ids}
    else:
        told = {"statements": [s.model_dump() for s in statements], "missing": [], "abstained": not statements, "lead": ""}
    # As a server writes under a schema: without white space.
    return [{"role": "assistant", "content": json.dumps(told, ensure_ascii=False, separators=(",", ":"))}]
