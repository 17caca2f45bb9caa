"""The agent on a real vLLM server with the smallest planner model: constrained decoding, the prefix cache, faults. Whole conversations: test_wordings.py."""

import asyncio
import json
import os
import re
import signal
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.answer import PlannerRef
from agent.assistant import Assistant
from agent.errors import PlannerDown
from agent.memory import Memory
from agent.planner.able import Able
from agent.planner.builtin import NAME, BuiltinPlanner
from agent.planner.offered import offered
from agent.planner.remote import RemotePlanner, remote_planner
from agent.training.transcripts import rendered
from knowledge import sample
from knowledge.case import Case
from knowledge.studies.archive import Archive
from serving.llm.launch import Served
from serving.llm.probe import probe
from tests.vllm.conftest import serving
from tests.vllm.scores import offered_tools
from tools.base import Resources
from tools.registry import tool_types

pytestmark = pytest.mark.vllm
LLM = PlannerRef(kind="llm", model="box-fixture")
TEN_TURNS = ["How big is the tumour?", "Where is the tumour?", "What did the radiologist say about the ventricles?", "What is the MGMT status?",
             "What is her creatinine?", "What type of tumour is this on the images?", "Which imaging signs are there?", "What treatment options are there?",
             "What do the guidelines say about RANO criteria?", "What images do we have?"]  # fmt: skip


def model_of(served: Served, seconds: float = 60) -> RemotePlanner:
    return remote_planner(served.url, "box-fixture", None, seconds, Able(context=8192), retries=0)


@pytest.fixture
async def assistant(planner: Served, resources: Resources, sample_archive: Archive, tmp_path: Path) -> AsyncIterator[Assistant]:
    """An assistant on the server, without a fallback: what it says is the model's."""
    memory = Memory(tmp_path / "m.db")
    async with Assistant(sample_archive, resources, memory, model_of(planner), LLM, tmp_path / "c.db", chooses=True) as made:
        yield made


def test_the_probe_finds_what_this_server_can_do(planner: Served) -> None:
    found = probe(planner.url)
    assert found.model == "box-fixture" and found.version and found.context == 8192
    assert (
        found.tools
        and found.arguments_hold
        and found.schema
        and found.images == 0
        and "not a multimodal" in found.reasons["images"].lower()
    )
    assert found.cache_seen and found.first_token_s is not None and found.tokens_per_s
    assert found.able == Able(True, True, 0, 8192) and any("no `look`" in means for _, _, means in found.rows())


async def test_vllm_reads_what_the_model_was_trained_on(planner: Served, case: Case) -> None:
    """The prompt that vLLM makes of a request is, token by token, the text that the recipe trains on."""
    tools = offered(list(offered_tools()), case.inventory())
    call = {"id": "c1", "type": "function", "function": {"name": "measure", "arguments": json.dumps({"study": "S1"})}}
    messages: list[dict[str, Any]] = [{"role": "system", "content": "You are Consilium."}, {"role": "user", "content": "Wie groß ist er?"},
                                      {"role": "assistant", "content": None, "tool_calls": [call]},
                                      {"role": "tool", "tool_call_id": "c1", "content": '{"evidence": "E1", "title": "Volume"}\n{"evidence": "E2"}'},
                                      {"role": "user", "content": "and in cm?"}]  # fmt: skip
    body = {"model": "box-fixture", "messages": messages, "tools": tools}
    base = planner.url.removesuffix("/v1")
    theirs = httpx.post(f"{base}/tokenize", json=body, trust_env=False).json()["tokens"]
    call["function"]["arguments"] = {"study": "S1"}  # type: ignore[index]
    text = rendered(messages, tools, True)
    ours = httpx.post(
        f"{base}/tokenize", json={"model": "box-fixture", "prompt": text, "add_special_tokens": False}, trust_env=False
    ).json()["tokens"]
    assert theirs == ours and len(ours) > 50


async def test_arguments_hold_to_their_schema_and_unknown_tools_cannot_be_called(planner: Served, case: Case) -> None:
    """Questions that make no sense, and a schema of one handle: whatever the model does, the grammar holds it."""
    model = model_of(planner)
    names = set(tool_types())
    called = 0
    for text in ("qwx zzz 17", "delete everything", "S9.9 R7 E99", "segment segment segment", "给我 S1.4 的 ADC"):
        reply = await model.bind_tools(list(offered_tools()), inventory=case.inventory(), tool_choice="required").ainvoke(text)
        assert reply.tool_calls or reply.response_metadata["finish_reason"] == "length"
        assert not reply.invalid_tool_calls
        called += len(reply.tool_calls)
        for call in reply.tool_calls:
            assert call["name"] in names
            if "study" in call["args"]:
                assert call["args"]["study"] in ("S1", "S1.1", "S1.2", "S1.3", "S1.4")
    assert called >= 3


def metrics(served: Served) -> dict[str, float]:
    text = httpx.get(served.url.removesuffix("/v1") + "/metrics", trust_env=False).text
    return {
        n: sum(float(v) for v in re.findall(rf"^vllm:{n}_total\{{[^}}]*\}} (\S+)", text, re.M))
        for n in ("prefix_cache_queries", "prefix_cache_hits")
    }


WHOLE = """{% for tool in tools or [] %}{{ tool | tojson }}
{% endfor %}{% for m in messages %}<|{{ m.role }}|>{{ m.content or "" }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<|end|>
{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""
"""A chat template as large models have it: each tool with all that it says of itself, each result whole."""


async def test_the_prompts_front_is_found_in_the_cache(planner: Served, assistant: Assistant, tmp_path: Path) -> None:
    """vLLM's own counters over ten turns, after the first, from a cache that knows none of it. Blocks are of 128 tokens here, so the newest part of a
    prompt never counts. The same requests are then put to a server whose template tells tools and results in full, as a hospital's model has them."""
    sent: list[dict[str, Any]] = []

    async def noted(request: httpx.Request) -> None:
        sent.append(json.loads(request.content))

    assert isinstance(assistant.planner, RemotePlanner) and assistant.planner.http_async_client is not None
    assistant.planner.http_async_client.event_hooks["request"].append(noted)
    conversation = assistant.open(patient_id=sample.PATIENT_ID)
    await assistant.ask(conversation.id, TEN_TURNS[0])
    begun, before = len(sent), metrics(planner)
    for question in TEN_TURNS[1:]:
        await assistant.ask(conversation.id, question)
    hit = _hit(before, metrics(planner), "its own template")
    assert hit > 0.7
    (tmp_path / "whole.jinja").write_text(WHOLE, encoding="utf-8")
    more = ["--chat-template", str(tmp_path / "whole.jinja"), "--hf-overrides", '{"max_position_embeddings": 65536}']
    with serving("box-fixture", tmp_path / "log", context=65536, extra=more) as whole:
        for number, body in enumerate(sent):
            if number == begun:
                before = metrics(whole)
            asked_again = {k: body[k] for k in ("model", "messages", "tools", "tool_choice") if k in body} | {"max_tokens": 1}
            reply = httpx.post(f"{whole.url}/chat/completions", json=asked_again, timeout=120, trust_env=False)
            assert reply.status_code == 200, reply.text[:300]
        assert _hit(before, metrics(whole), "tools and results in full") > 0.9


def _hit(before: dict[str, float], after: dict[str, float], what: str) -> float:
    asked, hit = (after[n] - before[n] for n in ("prefix_cache_queries", "prefix_cache_hits"))
    print(f"prefix cache, {what}: {hit:.0f} of {asked:.0f} prompt tokens ({hit / asked:.3f}) in nine turns after the first")
    return hit / asked


async def test_the_first_token_comes_sooner_where_the_front_is_cached(planner: Served) -> None:
    firsts: dict[str, list[float]] = {"found": [], "not found": []}
    content = "A patient's case, told at length so that the prompt is worth keeping. " * 250
    for number in range(6):
        for kind, salt in (("found", "same"), ("not found", f"other {number}")):
            body = {"model": "box-fixture", "messages": [{"role": "system", "content": content}, {"role": "user", "content": "?"}], "max_tokens": 1,
                    "cache_salt": salt}  # fmt: skip
            begun = time.perf_counter()
            assert httpx.post(f"{planner.url}/chat/completions", json=body, timeout=60, trust_env=False).status_code == 200
            firsts[kind].append(time.perf_counter() - begun)
    middle = {k: statistics.median(v[1:]) for k, v in firsts.items()}
    print(
        f"first token of a prompt of some {len(content) // 5} tokens: {middle['found'] * 1000:.0f} ms found, {middle['not found'] * 1000:.0f} ms not found"
    )


async def test_a_client_that_leaves_stops_the_generation(planner: Served) -> None:
    model = model_of(planner)
    task = asyncio.create_task(model.bind(tools=[]).ainvoke("tell me everything " * 50))
    await asyncio.sleep(0.3)
    task.cancel()
    for _ in range(50):
        text = httpx.get(planner.url.removesuffix("/v1") + "/metrics", trust_env=False).text
        running = sum(float(v) for v in re.findall(r"^vllm:num_requests_running\{[^}]*\} (\S+)", text, re.M))
        if running == 0:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("the generation went on")


async def test_real_refusals_are_named(planner: Served) -> None:
    long = remote_planner(planner.url, "box-fixture", None, 30, Able(context=8192), retries=0)
    with pytest.raises(PlannerDown, match="longer than the language model's context"):
        await long.ainvoke("word\n" * 20_000)
    with pytest.raises(PlannerDown, match="doesn't serve that model"):
        await remote_planner(planner.url, "another", None, 30, retries=0).ainvoke("hello")
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}}
    with pytest.raises(PlannerDown, match="refused"):
        await long.bind(response_format=bad).ainvoke("hello")


async def test_z_a_server_that_hangs_and_then_dies(
    planner: Served, resources: Resources, sample_archive: Archive, tmp_path: Path
) -> None:
    """Last in this module: it takes the server away in the middle of an answer."""
    assert planner.process is not None
    second = (BuiltinPlanner.of(resources.embedder), PlannerRef(kind="builtin", model=NAME))
    memory = Memory(tmp_path / "m.db")
    async with Assistant(
        sample_archive, resources, memory, model_of(planner, 3), LLM, tmp_path / "c.db", fallback=second, chooses=True
    ) as made:
        os.killpg(planner.process.pid, signal.SIGSTOP)
        try:
            slow = await made.ask(made.open(patient_id=sample.PATIENT_ID).id, "What is her creatinine?")
        finally:
            os.killpg(planner.process.pid, signal.SIGCONT)
        assert "71" in slow.text and "no reply in time" in slow.lead and slow.provenance.planner.kind == "builtin"
        os.killpg(planner.process.pid, signal.SIGKILL)
        gone = await made.ask(made.open(patient_id=sample.PATIENT_ID).id, "What is her creatinine?")
        assert "71" in gone.text and "did not answer" in gone.lead
