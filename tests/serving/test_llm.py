"""`consilium llm`: profiles, what stands in the way of one, what a log says, probing servers that can do less."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from agent.planner.able import Able
from agent.testing import scripted_server
from serving.cli import app
from serving.house import able_of
from serving.llm import launch
from serving.llm.launch import LaunchFailed, Served, diagnosed, objections
from serving.llm.probe import NoServer, probe, quick
from serving.llm.profiles import Profile, ProfileError, in_the_box, profile_of, profiles
from serving.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
RUN = CliRunner()


def test_every_profile_fits_its_cards_and_those_without_a_place_name_others() -> None:
    known, others = in_the_box()
    for one in known.values():
        assert not one.cards or one.spare_gb > 1, f"{one.name}: {one.spare_gb:.1f} GB are left for the cache"
        assert "--structured-outputs-config" in one.arguments("127.0.0.1", 8000)
        assert one.environment()["HF_HUB_OFFLINE"] == "1"
    assert {"LLaVA-Med", "VisualGLM", "RadFM"} <= set(others) and all(set(o.instead) <= set(known) for o in others.values())
    assert {p.nodes for p in known.values()} == {1, 2} and any(p.medical and p.images for p in known.values())


def test_the_docs_table_is_that_of_the_profiles() -> None:
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    for one in in_the_box()[0].values():
        where = f"{one.cards} × {one.memory_gb:.0f} GB" if one.cards else "CPU"
        assert f"| `{one.name}` | {one.model.removeprefix('serving/llm/models/')} | {where} | {one.context:,} |" in text, one.name
    for name, other in in_the_box()[1].items():
        assert f"| {name} | {other.why} | {', '.join(f'`{i}`' for i in other.instead)} |" in text, name


def test_a_hospitals_own_profiles_stand_over_those_in_the_box(tmp_path: Path) -> None:
    own = tmp_path / "llm_profiles.yaml"
    own.write_text("profiles:\n  ours:\n    for: us\n    model: /models/ours\n    architecture: Qwen3ForCausalLM\n    billions: 8\n    cards: 2\n    memory_gb: 24\n"
                   "    tensor_parallel: 2\n    context: 8192\n    tool_parser: hermes\n", encoding="utf-8")  # fmt: skip
    assert profiles(own)["ours"].cards == 2 and "--tensor-parallel-size" in profile_of("ours", own).arguments("127.0.0.1", 1)
    own.write_text(
        "profiles:\n  ours: {for: us, model: x, architecture: y, billions: 8, cards: 2, memory_gb: 24, context: 8192}\n",
        encoding="utf-8",
    )
    with pytest.raises(ProfileError, match="parallel parts on 2 cards"):
        profiles(own)
    with pytest.raises(ProfileError, match="there is no profile"):
        profile_of("nothing")
    with pytest.raises(ValidationError):
        Profile.model_validate(
            {"name": "x", "for": "y", "model": "z", "architecture": "a", "billions": 1, "cards": 0, "context": 8192, "typo": 1}
        )


def test_what_stands_in_the_way_is_said_before_anything_is_started() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        wrong = objections(profile_of("qwen3-vl-32b"), "127.0.0.1", port, [24.0])
    assert [w.split(" ")[0] for w, _ in wrong] == ["port", "the", "a"] and all(h for _, h in wrong)
    assert "24 GB; the profile is for 80" in wrong[2][0]
    assert "8 cards a machine; 0 found" in objections(profile_of("qwen3-vl-235b"), "127.0.0.1", 0, [])[-1][0]
    assert objections(profile_of("box-fixture"), "127.0.0.1", 0, []) == []


@pytest.mark.parametrize(
    ("log", "what"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB", "memory"),
        ("ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`", "memory"),
        ("OSError: [Errno 98] Address already in use", "port"),
        ("OSError: /nowhere does not appear to have a file named config.json", "model isn't on this machine"),
        ("ValueError: Model architectures ['LlavaMistralForCausalLM'] are not supported for now.", "architecture"),
        ("ModuleNotFoundError: No module named 'vllm'", "vLLM isn't in that Python"),
        ("api_server.py: error: unrecognized arguments: --no-such-flag", "doesn't know an argument"),
        ("something else", "ended before it answered"),
    ],
)
def test_a_log_is_read(log: str, what: str) -> None:
    assert what in diagnosed(f"INFO starting\n{log}\n")[0] and diagnosed(log)[1]


def test_a_server_that_ends_at_once_is_explained_with_the_end_of_its_log(tmp_path: Path) -> None:
    served = Served(profile_of("box-planner"), port=1, python=sys.executable, log=tmp_path / "log")
    with pytest.raises(LaunchFailed, match="vLLM isn't in that Python") as told, served:
        served.wait(60)
    assert "No module named" in told.value.hint


STANDS_IN = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
time.sleep(600)
"""


def test_all_its_processes_end_with_it_and_with_a_killed_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served(profile_of("box-planner"), python=sys.executable, log=tmp_path / "log")
    served.command = [sys.executable, "-c", STANDS_IN]
    served.start()
    assert served.process is not None
    group = served.process.pid
    time.sleep(1)
    served.stop()
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
    parent = subprocess.Popen(
        [sys.executable, "-c", "import sys, time; from serving.llm.launch import Served; from serving.llm.profiles import profile_of\n"
         "s = Served(profile_of('box-planner'), python=sys.executable); s.command = [sys.executable, '-c', 'import time; time.sleep(600)']; s.start()\n"
         "print(s.process.pid, flush=True); time.sleep(600)"], cwd=ROOT, stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split(")")[1][:3]:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the child outlived its parent")
    assert launch.STOP_S > 0


def test_the_command_line_shows_and_refuses() -> None:
    shown = RUN.invoke(app, ["llm", "serve", "qwen3-8b", "--show", "--port", "9000", "--context", "8192"])
    assert shown.exit_code == 0 and "--max-model-len 8192" in shown.output and "--port 9000" in shown.output
    assert RUN.invoke(app, ["llm", "serve", "nothing"]).exit_code == 2
    refused = RUN.invoke(app, ["llm", "serve", "qwen3-vl-235b-two-nodes"])
    assert refused.exit_code == 4 and "isn't on this machine" in refused.output
    assert RUN.invoke(app, ["llm", "serve", "qwen3-8b", "--show", "--lora", "ours=/nowhere"]).exit_code == 2
    listed = RUN.invoke(app, ["llm", "profiles", "--json"])
    assert set(json.loads(listed.output)) == set(in_the_box()[0])
    assert "RadFM" in RUN.invoke(app, ["llm", "profiles"]).output


def test_a_server_is_tried_and_the_agent_asks_as_it_can_be_asked(tmp_path: Path) -> None:
    """The scripted server lists no models, so that it counts as none; what a real one tells is in tests/vllm."""
    with scripted_server([]) as (url, _):
        with pytest.raises(NoServer):
            probe(url)
        with pytest.raises(NoServer):
            quick(url, "scripted")
        settings = Settings(data=tmp_path, llm_url=url, llm_model="scripted")
        assert able_of(settings) == Able()
        assert able_of(settings.model_copy(update={"llm_vision": True})).images == 4
    assert RUN.invoke(app, ["llm", "probe", "http://127.0.0.1:9/v1"]).exit_code == 4
    assert RUN.invoke(app, ["llm", "probe"]).exit_code == 2
