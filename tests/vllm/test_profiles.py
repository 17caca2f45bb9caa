"""The profiles against vLLM itself: its own parser reads each command, its registry has each architecture and lacks those that have no profile."""

import json
import subprocess

import pytest

from serving.llm.launch import LaunchFailed
from serving.llm.profiles import in_the_box
from tests.vllm.conftest import PYTHON, serving

pytestmark = pytest.mark.vllm

READS = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.model_executor.models.registry import ModelRegistry
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
told = json.load(sys.stdin)
found = {"architectures": sorted(ModelRegistry.get_supported_archs()), "read": {}}
for name, arguments in told.items():
    read = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
    found["read"][name] = [read.model, read.max_model_len, read.tensor_parallel_size, read.pipeline_parallel_size]
    if read.tool_call_parser:
        ToolParserManager.get_tool_parser(read.tool_call_parser)
    if read.reasoning_parser:
        ReasoningParserManager.get_reasoning_parser(read.reasoning_parser)
print(json.dumps(found))
"""


def test_vllm_reads_every_command_and_knows_every_architecture() -> None:
    known, others = in_the_box()
    told = {n: p.arguments("127.0.0.1", 8000) for n, p in known.items()}
    run = subprocess.run([PYTHON, "-c", READS], input=json.dumps(told), capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
    for name, profile in known.items():
        assert found["read"][name][1:] == [profile.context, profile.tensor_parallel, profile.pipeline_parallel]
        assert profile.architecture in found["architectures"], name
    for name, other in others.items():
        assert not set(other.architectures) & set(found["architectures"]), name


def test_a_model_that_is_not_there_and_a_context_too_long_are_explained(tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(LaunchFailed) as told, serving("box-fixture", empty / "log", model=str(empty)):
        pass
    assert "isn't on this machine" in str(told.value), told.value.hint
