"""How a served model plans, beside the built-in planner: `python -m tests.vllm.scores --serve box-planner --out served.json`.

Three kinds of questions. *Unseen wordings*: of the phrasings that were kept from training (agent/training/questions.py), on the sample case; right is
the set of tools that the built-in planner calls first for the plain wording. *Our own sets* (tests/data/asked*.txt, written before and apart from
the phrasings): right is a first round with one of the expected tools (or what these need first) and no tool that the label doesn't allow.
*Whole conversations* of ten questions in unseen wordings, with tools, evidence and statements: right is an answer that tells what the built-in planner's
answer to the plain wording begins with, and no more beside that answer than of it.
"""

import argparse
import asyncio
import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from pydantic import ValidationError

from agent.answer import Answer, PlannerRef
from agent.assistant import Assistant
from agent.errors import PlannerDown
from agent.guard import case_told
from agent.memory import Memory
from agent.planner.able import Able
from agent.planner.builtin import BuiltinPlanner
from agent.planner.rehearsal import inventory_of
from agent.planner.remote import remote_planner
from agent.prompts import prompt
from agent.training import questions as phrased
from agent.training.questions import Asked, Meant, asked, canonical, material, meanings
from agent.training.transcripts import remembering
from knowledge.guidelines.minilm import MiniLM
from tests.asked import Line, described, lines
from tests.eval import wilson
from tools.base import CaseTool
from tools.look import Look
from tools.registry import tool_types

SEED = 9
FIRST = {"measure": "segment", "radiomics": "segment"}
"""What a tool needs before it: a first round with it is on the way."""


@dataclass(frozen=True)
class Planned:
    """What a planner called first, and whether each call's arguments fit its tool."""

    tools: frozenset[str]
    calls: int
    valid: int


@cache
def offered_tools() -> tuple[type[CaseTool], ...]:
    return tuple(t for t in tool_types().values() if t is not Look)


def conversation(inventory: dict[str, Any], question: str, history: Sequence[tuple[str, str]] = ()) -> list[BaseMessage]:
    """What a planner reads before the first round."""
    earlier = [m for q, a in history for m in (HumanMessage(q), AIMessage(a))]
    return [
        SystemMessage(prompt("system")),
        *earlier,
        HumanMessage(case_told(inventory), additional_kwargs={"step": "case"}),
        HumanMessage(question),
    ]


async def plan(
    model: BaseChatModel, inventory: dict[str, Any], question: str, history: Sequence[tuple[str, str]] = ()
) -> Planned:
    """The first round."""
    bound = model.bind_tools(list(offered_tools()), inventory=inventory)
    try:
        reply = await bound.ainvoke(conversation(inventory, question, history))
    except PlannerDown:
        return Planned(frozenset(), 1, 0)
    calls = reply.tool_calls if isinstance(reply, AIMessage) else []
    return Planned(frozenset(c["name"] for c in calls), len(calls), sum(_fits(c["name"], c["args"]) for c in calls))


def _fits(name: str, arguments: dict[str, Any]) -> bool:
    if name not in tool_types():
        return False
    try:
        tool_types()[name].model_fields["args_schema"].default.model_validate(arguments)
    except ValidationError:
        return False
    return True


def unseen(many: int) -> list[Asked]:
    """Wordings from frames that were never trained on."""
    return phrased.unseen(many, SEED)


async def of_wordings(model: BaseChatModel, inventory: dict[str, Any], questions: Sequence[Asked]) -> dict[str, Any]:
    """Share of the questions whose first tools are those of the plain wording, by the built-in planner."""
    teacher, wanted = BuiltinPlanner.of(MiniLM()), dict[Meant, frozenset[str]]()
    right, calls, valid, wrong = 0, 0, 0, []
    for one in questions:
        meant = one.meant[0]
        if meant not in wanted:
            wanted[meant] = (await plan(teacher, inventory, canonical(meant) + "?")).tools
        done = await plan(model, inventory, one.text)
        calls, valid = calls + done.calls, valid + done.valid
        if done.tools == wanted[meant]:
            right += 1
        else:
            wrong.append(
                f"{one.text} -> {', '.join(sorted(done.tools)) or 'none'} (wanted {', '.join(sorted(wanted[meant])) or 'none'})"
            )
    return {**_share(right, len(questions)), "calls": calls, "valid": valid, "wrong": wrong}


async def of_sets(model: BaseChatModel, chosen: Sequence[Line]) -> dict[str, Any]:
    """Share of our own questions whose first round the labels allow."""
    right, calls, valid, wrong = 0, 0, 0, []
    for line in chosen:
        inventory = inventory_of(described(line)["case"])
        done = await plan(model, inventory, line.question, line.history)
        calls, valid = calls + done.calls, valid + done.valid
        way = line.expected | {FIRST[t] for t in line.expected if t in FIRST}
        good = not done.tools if not line.expected else bool(done.tools & way) and done.tools <= way | line.optional
        right += good
        if not good:
            wrong.append(f"{line.id} {line.question} -> {', '.join(sorted(done.tools)) or 'none'}")
    return {**_share(right, len(chosen)), "calls": calls, "valid": valid, "wrong": wrong}


@dataclass(frozen=True)
class Answered:
    """How one question of a conversation was answered beside the built-in planner's answer to its plain wording."""

    question: str
    wanted: frozenset[str]
    """What the built-in planner's answer stands on, by title and sentence; its tools where it stands on nothing."""
    first: str
    """What that answer begins with."""
    told: frozenset[str]
    calls: int
    valid: int

    @property
    def right(self) -> bool:
        """It tells what the other begins with, and no more that the other doesn't tell than it does; or it tells nothing either."""
        if not self.wanted:
            return not self.told
        return self.first in self.told and 2 * len(self.told & self.wanted) >= len(self.told)


def conversations(many: int, turns: int = 10, seed: int = SEED) -> list[list[Asked]]:
    """Conversations of different questions each, in wordings from frames that were never trained on."""
    chance = random.Random(seed)
    here = [m for m in meanings() if "only" not in material()["intents"][m.intent]]
    found: list[list[Asked]] = []
    while len(found) < many:
        intents = chance.sample(sorted({m.intent for m in here}), turns)
        one = [asked(chance.choice([m for m in here if m.intent == i]), chance, held=True) for i in intents]
        if all(one):
            found.append([a for a in one if a is not None])
    return found


async def of_conversations(
    served: Assistant, builtin: Assistant, patient_id: str, asked_ones: Sequence[Sequence[Asked]]
) -> dict[str, Any]:
    """Share of the questions in whole conversations whose answer tells what the built-in planner tells of the plain wording, and of valid calls."""
    known: dict[Meant, tuple[frozenset[str], str]] = {}
    every: list[Answered] = []
    for questions in asked_ones:
        theirs = served.open(patient_id=patient_id)
        for one in questions:
            meant = one.meant[0]
            if meant not in known:
                plain = await builtin.ask(builtin.open(patient_id=patient_id).id, canonical(meant) + "?")
                known[meant] = (frozenset(_stands_on(plain)), next(iter(_stands_on(plain)), ""))
            answer = await served.ask(theirs.id, one.text)
            every.append(
                Answered(
                    one.text,
                    *known[meant],
                    frozenset(_stands_on(answer)),
                    len(answer.plan),
                    sum(s.status in ("ok", "not_applicable") for s in answer.plan),
                )
            )
    whole = [
        all(a.right for a in every[n : n + len(q)])
        for n, q in zip(itertools.accumulate([0, *map(len, asked_ones[:-1])]), asked_ones, strict=True)
    ]
    wrong = [
        f"{a.question} -> {'; '.join(sorted(a.told))[:160] or 'nothing'} (wanted {a.first[:80] or 'nothing'})"
        for a in every
        if not a.right
    ]
    return {**_share(sum(a.right for a in every), len(every)), "conversations": len(whole), "without a wrong answer": sum(whole),
            "calls": sum(a.calls for a in every), "valid": sum(a.valid for a in every), "wrong": wrong}  # fmt: skip


def _stands_on(answer: Answer) -> list[str]:
    of = {e.id: f"{e.title}: {e.statement}" for e in answer.evidence}
    return list(dict.fromkeys(of[i] for s in answer.statements for i in s.evidence)) or [s.tool for s in answer.plan]


def _share(right: int, n: int) -> dict[str, Any]:
    low, high = wilson(right, n)
    return {"right": right, "n": n, "value": round(right / n, 4), "low": round(low, 4), "high": round(high, 4)}


async def scores(url: str, name: str, inventory: dict[str, Any], wordings: int = 300) -> dict[str, Any]:
    """Both planners on both kinds of questions."""
    every = [line for file in ("asked.txt", "asked_fresh.txt", "asked_last.txt") for line in lines(file)]
    sample = [line for line in every if line.case == "glioma"]
    questions, found = unseen(wordings), {}
    for who, model in (
        ("served", remote_planner(url, name, None, 60, Able(context=8192))),
        ("builtin", BuiltinPlanner.of(MiniLM())),
    ):
        found[who] = {"unseen wordings, sample case": await of_wordings(model, inventory, questions),
                      "our own questions, sample case": await of_sets(model, sample),
                      "our own questions, all cases": await of_sets(model, every)}  # fmt: skip
    return found


def table(found: dict[str, Any]) -> str:
    """Both columns side by side."""
    rows = [f"{'':34} {'n':>4}  {'served':24} {'built-in':24}"]
    for name, one in found["served"].items():
        other = found["builtin"][name]
        rows.append(
            f"{name:34} {one['n']:>4}  "
            + " ".join(f"{x['value']:.3f} ({x['low']:.3f} to {x['high']:.3f})  " for x in (one, other))
        )
    rows.append(f"{'calls that fit their tool':34} {'':>4}  " + " ".join(
        f"{sum(x['valid'] for x in found[w].values())} of {sum(x['calls'] for x in found[w].values())}".ljust(24) for w in ("served", "builtin")))  # fmt: skip
    return "\n".join(rows)


async def both(url: str, name: str, wordings: int) -> dict[str, Any]:
    """`scores`, and whole conversations, on the sample case. The profile says how the model is asked."""
    from knowledge import sample
    from knowledge.case import open_case
    from knowledge.guidelines.search import GuidelineIndex
    from knowledge.records.search import RecordSearch
    from knowledge.studies.archive import Archive
    from serving.llm.profiles import ProfileError, profile_of
    from tools.base import Resources
    from tools.models.catalogue import IN_THE_BOX, Catalogue

    try:
        how = {"chooses": profile_of(name).chooses, "reads": profile_of(name).turns}
    except ProfileError:
        how = {}
    with TemporaryDirectory() as place:
        folder, embedder = Path(place), MiniLM()
        archive = Archive(folder / "archive")
        sample.load(archive)
        found = await scores(url, name, open_case(archive, sample.PATIENT_ID).inventory(), wordings)
        resources = Resources(
            Catalogue((IN_THE_BOX,)), GuidelineIndex(folder / "guidelines", embedder), embedder, RecordSearch(embedder)
        )
        chats = conversations(max(2, wordings // 30))
        model = remote_planner(url, name, None, 60, Able(context=8192))
        ref, own = PlannerRef(kind="llm", model=name), PlannerRef(kind="builtin", model="builtin")
        with remembering():
            async with (
                Assistant(archive, resources, Memory(folder / "s.db"), model, ref, folder / "sc.db", **how) as served,
                Assistant(
                    archive, resources, Memory(folder / "b.db"), BuiltinPlanner.of(embedder), own, folder / "bc.db"
                ) as builtin,
            ):
                for who, assistant in (("served", served), ("builtin", builtin)):
                    found[who]["whole conversations, sample case"] = await of_conversations(
                        assistant, builtin, sample.PATIENT_ID, chats
                    )
    return found


def on_the_sample(url: str, name: str, wordings: int = 300) -> dict[str, Any]:
    """Both planners beside each other, with some of what went wrong."""
    found = asyncio.run(both(url, name, wordings))
    for one in [*found["served"].values(), *found["builtin"].values()]:
        one["wrong"] = one["wrong"][:40]
    return found


def main() -> None:
    """Print and keep the scores."""
    from tests.vllm.conftest import serving

    reader = argparse.ArgumentParser(description=__doc__)
    whom = reader.add_mutually_exclusive_group(required=True)
    whom.add_argument("--serve", help="start a real vLLM with this profile")
    whom.add_argument("--llm-url", help="ask this server")
    reader.add_argument("--llm-model", help="its model")
    reader.add_argument("--wordings", type=int, default=300)
    reader.add_argument("--out", type=Path)
    given = reader.parse_args()
    if given.serve:
        with serving(given.serve) as served:
            found = on_the_sample(served.url, given.serve, given.wordings)
    else:
        found = on_the_sample(given.llm_url, given.llm_model, given.wordings)
    print(table(found))
    if given.out:
        given.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
