"""Have the answer written from evidence, hold each statement against what it cites, and take out what isn't carried."""

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.runtime import Runtime

from agent import grounding
from agent.answer import Draft, LeftOut, Statement, choice_schema, draft_schema
from agent.asking import Unusable, ask, renamed
from agent.guard import as_data
from agent.prompts import prompt
from agent.turn import State, Turn
from knowledge.evidence import Evidence

NO_SUCH_EVIDENCE = "it cites evidence that isn't there"


async def compose(state: State, runtime: Runtime[Turn]) -> dict[str, Any]:
    """Have the planner write statements that cite evidence ids; ids are an enum of those that exist. What fails is sent back once."""
    turn = runtime.context
    request = _request(state, turn)
    messages = state["messages"]
    draft, made_up = await _drafted(turn, [*messages, request], _offered(state, turn))
    bad = _unsound(draft, turn) + [(s, [NO_SUCH_EVIDENCE]) for s in made_up]
    if bad:
        listed = as_data([{"statement": s.text, "evidence": s.evidence, "problems": why} for s, why in bad])
        again = HumanMessage(prompt("rewrite").replace("{problems}", listed), additional_kwargs={"step": "compose"})
        draft, made_up = await _drafted(
            turn, [*messages, request, AIMessage(draft.model_dump_json()), again], _offered(state, turn)
        )
    left = [LeftOut(text=s.text, reason=NO_SUCH_EVIDENCE).model_dump() for s in made_up]
    return {"draft": draft.model_dump(mode="json"), "left_out": left}


async def check(state: State, runtime: Runtime[Turn]) -> dict[str, Any]:
    """Take out what is still not carried, and remember the answer's text in the conversation."""
    draft = Draft.model_validate(state["draft"])
    bad = {s.text: "; ".join(why) for s, why in _unsound(draft, runtime.context)}
    kept = draft.model_copy(update={"statements": [s for s in draft.statements if s.text not in bad]})
    if bad and not kept.statements:
        kept = kept.model_copy(update={"abstained": True})
    said = " ".join(f"{s.text} [{', '.join(s.evidence)}]" for s in kept.statements) or kept.lead or "(no answer)"
    return {"draft": kept.model_dump(mode="json"), "messages": [AIMessage(said)],
            "left_out": [*state.get("left_out", []), *(LeftOut(text=t, reason=r).model_dump() for t, r in bad.items())]}  # fmt: skip


def request_of(evidence: Sequence[Evidence], missing: list[dict[str, Any]], chooses: bool) -> str:
    """What a model is asked to write from, or to choose from."""
    rows = [{"id": e.id, **e.model_dump(include={"kind", "title", "statement", "value", "unit", "interval"})} for e in evidence]
    text = prompt("choose" if chooses else "compose").replace("{evidence}", as_data(rows) or "(none)")
    return text.replace("{missing}", as_data(missing) or "(nothing)")


def _request(state: State, turn: Turn) -> HumanMessage:
    text = request_of([turn.evidence[i] for i in _offered(state, turn)], state.get("missing", []), _chooses(turn))
    step = {"step": "compose"}
    if turn.pictures is None or turn.model is turn.fallback:
        return HumanMessage(text, additional_kwargs=step)
    cited = {i for s in state.get("steps", []) for i in s["evidence"]}
    slices = turn.pictures([e for e in turn.evidence.values() if e.id in cited])
    content: list[Any] = [{"type": "text", "text": text}, *({"type": "image_url", "image_url": {"url": u}} for u in slices)]
    return HumanMessage(content if slices else text, additional_kwargs=step)


def _offered(state: State, turn: Turn) -> list[str]:
    """Ids of the evidence that can be cited: all of it, or what this question's own calls found."""
    if not turn.forgets:
        return list(turn.evidence)
    own = {i for row in [*state.get("steps", []), *state.get("conflicts", [])] for i in row["evidence"]}
    return [i for i in turn.evidence if i in own]


def _chooses(turn: Turn) -> bool:
    """True for a model that is too weak to write: it chooses evidence, which is told in its own sentences."""
    return turn.chooses and turn.model is not turn.fallback


async def _drafted(turn: Turn, messages: list[AnyMessage], citable: list[str]) -> tuple[Draft, list[Statement]]:
    """The planner's draft, and its statements that cite what isn't there."""

    def read(reply: AIMessage) -> tuple[Draft, list[Statement]]:
        try:
            written = reply.content if isinstance(reply.content, str) else ""
            data = json.loads(renamed(written, {name: i for i, name in turn.names.items()}))
            if "statements" not in data and isinstance(data.get("evidence"), list):
                data["statements"] = [_own_sentence(i, turn) for i in dict.fromkeys(data.pop("evidence"))]
            known, said = set(turn.evidence), data.get("statements", [])
            sound = [s for s in said if s.get("evidence") and set(s["evidence"]) <= known]
            made_up = [
                Statement(text=str(s.get("text")), evidence=list(s.get("evidence") or ["?"])) for s in said if s not in sound
            ]
            return Draft.model_validate({**data, "statements": sound}), made_up
        except (ValueError, TypeError, AttributeError) as error:
            raise Unusable from error

    tools = turn.make_tools(lambda done, total: None, lambda: False)

    def bound(model: BaseChatModel) -> Any:
        schema = (choice_schema if _chooses(turn) else draft_schema)([turn.names.get(i, i) for i in citable])
        wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
        # The tools stay in front, so that the prompt begins as the plan's did and is found in the server's cache.
        return model.bind_tools(tools, inventory=turn.inventory, tool_choice="none").bind(response_format=wanted)

    try:
        return await ask(turn, bound, messages, read)
    except Unusable:
        return Draft(abstained=True), []


def _own_sentence(number: str, turn: Turn) -> dict[str, Any]:
    return {"text": turn.evidence[number].statement if number in turn.evidence else "?", "evidence": [number]}


def _unsound(draft: Draft, turn: Turn) -> list[tuple[Statement, list[str]]]:
    for statement in draft.statements:
        key = (statement.text, tuple(statement.evidence))
        if key not in turn.checked:
            turn.checked[key] = grounding.problems(statement.text, [turn.evidence[i] for i in statement.evidence])
    checked = [(s, turn.checked[s.text, tuple(s.evidence)]) for s in draft.statements]
    return [(s, why) for s, why in checked if why]
