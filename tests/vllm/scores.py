"""How a served model plans, beside the built-in planner: `python -m tests.vllm.scores --serve box-planner --out served.json`.

Two kinds of questions. *Unseen wordings*: of the phrasings that were kept from training (agent/training/questions.py), on the sample case; right is
the set of tools that the built-in planner calls first for the plain wording. *Our own sets* (tests/data/asked*.txt, written before and apart from
the phrasings): right is a first round with one of the expected tools (or what these need first) and no tool that the label doesn't allow.
"""

import argparse
import asyncio
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

from agent.errors import PlannerDown
from agent.guard import case_told
from agent.planner.able import Able
from agent.planner.builtin import BuiltinPlanner
from agent.planner.rehearsal import inventory_of
from agent.planner.remote import remote_planner
from agent.prompts import prompt
from agent.training.questions import Asked, Meant, asked, canonical, material, meanings
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
    chance, found = random.Random(SEED), []
    intents = [i for i, x in material()["intents"].items() if "only" not in x]
    while len(found) < many:
        intent = chance.choice(intents)
        meant = chance.choice([m for m in meanings() if m.intent == intent])
        if (one := asked(meant, chance, held=True)) is not None:
            found.append(one)
    return found


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


def on_the_sample(url: str, name: str, wordings: int = 300) -> dict[str, Any]:
    """`scores` on the sample case, with some of what went wrong."""
    from knowledge import sample
    from knowledge.case import open_case
    from knowledge.studies.archive import Archive

    with TemporaryDirectory() as folder:
        archive = Archive(Path(folder))
        sample.load(archive)
        found = asyncio.run(scores(url, name, open_case(archive, sample.PATIENT_ID).inventory(), wordings))
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
