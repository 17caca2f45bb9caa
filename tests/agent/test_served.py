"""A served language model's server that fails or can do less: what the agent does, and what the user sees."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.answer import PlannerRef
from agent.assistant import Assistant
from agent.errors import PlannerDown
from agent.memory import Memory
from agent.planner.able import Able
from agent.planner.builtin import NAME, BuiltinPlanner
from agent.planner.offered import EVIDENCE, MOST_ITEMS, offered
from agent.planner.remote import remote_planner
from agent.testing import scripted_server, tool_call
from knowledge import sample
from knowledge.case import open_case
from knowledge.studies.archive import Archive
from tools.base import Resources
from tools.registry import tool_types

QUESTION = "What is the creatinine?"
LLM, BUILTIN = PlannerRef(kind="llm", model="scripted"), PlannerRef(kind="builtin", model=NAME)
TOLD = {"content": json.dumps({"statements": [{"text": "The record gives Creatinine: 71 µmol/L (2026-10-02).", "evidence": ["E1"]}],
                               "missing": [], "abstained": False, "lead": ""})}  # fmt: skip
Make = Callable[..., Assistant]


@pytest.fixture
def make(resources: Resources, sample_archive: Archive, tmp_path: Path) -> Make:
    def made(url: str, able: Able | None = None, fallback: bool = True, seconds: float = 3, **more: Any) -> Assistant:
        planner = remote_planner(url, "scripted", None, seconds, able, retries=0)
        second = (BuiltinPlanner.of(resources.embedder), BUILTIN) if fallback else None
        return Assistant(
            sample_archive, resources, Memory(tmp_path / "m.db"), planner, LLM, tmp_path / "c.db", fallback=second, **more
        )

    return made


FAULTS: dict[str, tuple[list[dict[str, Any]], str, str]] = {
    "out of memory": ([{"_status": 500, "_error": "CUDA out of memory. Tried to allocate 2 GiB"}], "ran out of memory", "ran out of memory"),
    "slow": ([{"_slow": 5, "content": ""}], "no reply in time", "no reply in time"),
    "garbage": ([{"_raw": "<html>a proxy's page</html>"}], "no reply of the OpenAI API", "could not be used"),
    "garbage that is JSON": ([{"_raw": '{"hello": [1]}'}], "no reply of the OpenAI API", "could not be used"),
    "cut in the middle": ([{"_cut": True, "content": "x" * 400}], "broke off", "did not answer"),
    "a schema refused": ([{"_status": 400, "_error": "Invalid grammar: unsupported schema"}], "refused the answer's schema", "refused the request"),
    "a context too short": ([{"_status": 400, "_error": "This model's maximum context length is 2048 tokens"}], "longer than", "longer than"),
    "another model": ([{"_status": 404, "_error": "The model `scripted` does not exist."}], "doesn't serve that model", "refused the request"),
    "overloaded": ([{"_status": 503, "_error": "busy"}], "failed inside (HTTP 503)", "did not answer"),
    "gone": ([], "failed inside", "did not answer"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
async def test_each_fault_is_named_and_the_built_in_planner_answers(make: Make, fault: str) -> None:
    replies, error, lead = FAULTS[fault]
    with scripted_server([dict(r) for r in replies]) as (url, requests):
        async with make(url, seconds=2) as assistant:
            answer = await assistant.ask(assistant.open(patient_id=sample.PATIENT_ID).id, QUESTION)
    assert "71" in answer.text and lead in answer.lead and answer.provenance.planner == BUILTIN
    assert not any(r.get("stream") for r in requests)
    with scripted_server([dict(r) for r in replies]) as (url, _):
        async with make(url, fallback=False, seconds=2) as assistant:
            with pytest.raises(PlannerDown, match=error.replace("(", r"\(").replace(")", r"\)")) as told:
                await assistant.ask(assistant.open(patient_id=sample.PATIENT_ID).id, QUESTION)
    assert told.value.hint and sample.PATIENT_ID not in f"{told.value}{told.value.hint}" and QUESTION not in str(told.value)


async def test_a_fault_after_the_tools_ran_keeps_what_they_found(make: Make) -> None:
    replies = [tool_call("patient_record", {"topics": ["creatinine"]}), {"_status": 500, "_error": "CUDA out of memory"}]
    with scripted_server(replies) as (url, _):
        async with make(url) as assistant:
            answer = await assistant.ask(assistant.open(patient_id=sample.PATIENT_ID).id, QUESTION)
    assert [s.tool for s in answer.plan] == ["patient_record"] and "71" in answer.text and "ran out of memory" in answer.lead


async def test_without_a_tool_parser_plans_are_asked_for_under_a_schema(make: Make) -> None:
    """vLLM refuses `tool_choice: auto` without a parser. The agent learns that from the refusal, and asks otherwise from then on."""
    refused = {"_status": 400, "_error": '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'}
    call = {
        "calls": [{"tool": "patient_record", "arguments": {"topics": ["creatinine"]}}, {"tool": "no_such_tool", "arguments": {}}]
    }
    replies = [refused, {"content": json.dumps(call)}, {"content": '```json\n{"calls": []}\n```'}, TOLD]
    with scripted_server(replies) as (url, requests):
        async with make(url, fallback=False) as assistant:
            answer = await assistant.ask(assistant.open(patient_id=sample.PATIENT_ID).id, QUESTION)
    assert not replies and [s.tool for s in answer.plan] == ["patient_record"] and answer.statements[0].evidence == ["E1"]
    plan, second, written = requests[1:]
    assert "tools" not in plan and "tool_choice" not in plan and "patient_record" in plan["messages"][0]["content"]
    schema = plan["response_format"]["json_schema"]["schema"]["properties"]["calls"]["items"]["anyOf"]
    assert {o["properties"]["tool"]["const"] for o in schema} >= {"segment", "patient_record"}
    assert {m["role"] for m in second["messages"]} <= {"system", "user", "assistant"} and "tools" not in written
    assert "E1" in second["messages"][-1]["content"]


async def test_without_schemas_the_schema_is_told_in_words(make: Make) -> None:
    replies = [tool_call("patient_record", {"topics": ["creatinine"]}), {"content": ""}, TOLD]
    with scripted_server(replies) as (url, requests):
        async with make(url, Able(schema=False), fallback=False) as assistant:
            answer = await assistant.ask(assistant.open(patient_id=sample.PATIENT_ID).id, QUESTION)
    assert (
        answer.statements and "response_format" not in requests[2] and '"enum": ["E1"' in requests[2]["messages"][-1]["content"]
    )


async def test_a_weak_model_chooses_evidence_that_is_told_in_its_own_sentences(make: Make) -> None:
    replies = [
        tool_call("patient_record", {"topics": ["creatinine"]}),
        {"content": ""},
        {"content": '{"abstained": false, "evidence": ["E1", "E1"]}'},
    ]
    with scripted_server(replies) as (url, requests):
        async with make(url, fallback=False, chooses=True) as assistant:
            answer = await assistant.ask(assistant.open(patient_id=sample.PATIENT_ID).id, QUESTION)
    assert [s.evidence for s in answer.statements] == [["E1"]] and answer.statements[0].text == answer.evidence[0].statement
    asked = requests[2]
    assert asked["response_format"]["json_schema"]["schema"]["properties"]["evidence"]["items"]["enum"][0] == "E1"
    assert asked["tools"] == requests[0]["tools"] and asked["tool_choice"] == "none", "the prompt's front is the plan's"


async def test_a_model_that_reads_no_earlier_questions_gets_the_one_at_hand_and_what_its_own_calls_found(make: Make) -> None:
    chosen = [{"content": ""}, {"content": '{"abstained": false, "evidence": ["E1"]}'}]
    replies = [tool_call("patient_record", {"topics": ["creatinine"]}), *chosen, tool_call("list_studies", {}), tool_call("apply_guideline", {"guideline": "no_such_rule", "evidence": {"size_mm": "E1"}}), {"content": ""},
               {"content": '{"abstained": false, "evidence": ["E1"]}'}]  # fmt: skip
    with scripted_server(replies) as (url, requests):
        async with make(url, fallback=False, chooses=True, reads=0) as assistant:
            conversation = assistant.open(patient_id=sample.PATIENT_ID).id
            await assistant.ask(conversation, QUESTION)
            answer = await assistant.ask(conversation, "Which images are there?")
    first, _, _, second, _, third, written = requests
    assert second["messages"][:2] == first["messages"][:2] and second["messages"][2:] == [
        {"role": "user", "content": "Which images are there?"}
    ]
    assert written["response_format"]["json_schema"]["schema"]["properties"]["evidence"]["items"]["enum"] == ["E1"], (
        "counted from one"
    )
    assert "71" not in json.dumps(written["messages"]) and '"id": "E1"' in written["messages"][-1]["content"]
    assert [s.evidence for s in answer.statements] == [["E3"]] and answer.statements[0].text.startswith("Study S1")
    assert [s.arguments.get("evidence") for s in answer.plan] == [None, {"size_mm": "E3"}]
    told = next(m for m in third["messages"] if m["role"] == "assistant" and "no_such_rule" in json.dumps(m))
    assert json.loads(told["tool_calls"][0]["function"]["arguments"])["evidence"] == {"size_mm": "E1"}, "it reads what it wrote"


async def test_a_reply_without_end_is_bounded_and_cut_ones_are_not_used(make: Make) -> None:
    """Cut by its bound, or a call that the server's parser couldn't read and left in the text."""
    lost = '<tool_call>{"name": "patient_record", "arguments": {"unit": "</tool_call>"}}</tool_call>'
    with scripted_server([{"content": '{"na', "_finish": "length"}, {"content": lost}]) as (url, requests):
        async with make(url) as assistant:
            answer = await assistant.ask(assistant.open(patient_id=sample.PATIENT_ID).id, QUESTION)
    assert all(0 < (r.get("max_tokens") or r["max_completion_tokens"]) <= 4096 for r in requests)
    assert "could not be used" in answer.lead and "71" in answer.text


def test_what_is_offered_is_bounded_and_names_only_what_the_case_has(sample_archive: Archive) -> None:
    inventory = open_case(sample_archive, sample.PATIENT_ID, None).inventory()
    tools = offered(list(tool_types().values()), inventory)
    assert json.dumps(tools) == json.dumps(offered(list(tool_types().values()), inventory)), "the same case gives the same bytes"
    by_name = {t["function"]["name"]: t["function"]["parameters"]["properties"] for t in tools}
    assert by_name["segment"]["study"]["enum"] == ["S1"] and by_name["radiomics"]["series"]["enum"] == [
        "S1.1",
        "S1.2",
        "S1.3",
        "S1.4",
    ]
    assert by_name["list_studies"]["study"]["enum"] == ["S1", "S1.1", "S1.2", "S1.3", "S1.4"] and by_name["retrieve_reports"][
        "report"
    ]["enum"] == ["R1"]
    assert by_name["apply_guideline"]["evidence"]["additionalProperties"]["pattern"] == EVIDENCE
    assert "gbm_mgmt_stupp" in by_name["apply_guideline"]["guideline"]["enum"]

    def walk(schema: dict[str, Any], path: str) -> None:
        assert ("$ref" not in schema and "title" not in schema) or path.endswith(".title"), path
        if schema.get("type") == "string" and not {"enum", "const", "pattern"} & set(schema):
            assert schema["maxLength"] <= 20_000, path
        if schema.get("type") == "array":
            assert schema["maxItems"] <= MOST_ITEMS, path
            walk(schema["items"], f"{path}[]")
        for name, one in schema.get("properties", {}).items():
            walk(one, f"{path}.{name}")
        for one in schema.get("anyOf", []):
            walk(one, path)

    for tool in tools:
        assert tool["function"]["strict"]
        walk(tool["function"]["parameters"], tool["function"]["name"])
