"""The planner model of twelve million parameters on a real vLLM: the right tool on wordings that it never saw."""

import json
from pathlib import Path

import pytest

from agent.planner.able import Able
from agent.planner.remote import remote_planner
from knowledge.case import Case
from tests.vllm.conftest import serving
from tests.vllm.scores import of_wordings, unseen

pytestmark = pytest.mark.vllm


async def test_the_right_tool_on_wordings_that_it_never_saw(case: Case, tmp_path: Path) -> None:
    """120 wordings here; `make vllm-scores` asks more, and the built-in planner beside it. Every call has to be valid; the share is a floor."""
    with serving("box-planner", tmp_path / "log") as served:
        model = remote_planner(served.url, "box-planner", None, 60, Able(context=8192), retries=0)
        found = await of_wordings(model, case.inventory(), unseen(120))
    print(json.dumps({k: v for k, v in found.items() if k != "wrong"}), *found["wrong"], sep="\n")
    assert found["calls"] > 90 and found["valid"] == found["calls"]
    assert found["value"] >= 0.6
