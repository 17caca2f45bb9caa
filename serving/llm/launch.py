"""Start vLLM by a profile, wait until it answers, say what is wrong when it doesn't, and take it along when we end."""

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from serving.llm.profiles import ROOT, Profile, ProfileError

START_S = 1800.0
"""Seconds to wait for the first answer: large weights take many minutes from a slow disk."""
STOP_S = 20.0
TROUBLES = [
    (r"max_model_len \(\d+\) is greater than the derived", "the profile's context is longer than the model was made for", "lower --context"),
    (r"unrecognized arguments?: .*|invalid choice: .*", "this vLLM doesn't know an argument of the profile ({0})", "take the vLLM version that docs/serving.md names, or change the profile"),
    (r"address already in use|Errno 98", "the port is taken", "name another with --port"),
    (r"out of memory|No available memory for the cache blocks|Free memory on device|KV cache is needed, which is larger than|larger than the maximum number of tokens that can be stored",
     "the card's memory doesn't hold the model and its cache", "lower --context or --gpu-memory of what else runs there, quantise, or spread it: --tensor-parallel"),
    (r"(?:is not a local folder|does not appear to have a file named|Repo id must be|couldn't connect to|offline mode is enabled|LocalEntryNotFound|Cannot find an appropriate cached snapshot|valid Hugging Face repository ID|Invalid repository ID)",
     "the model isn't on this machine", "copy its folder here and name it with --model FOLDER; nothing is downloaded at run time"),
    (r"Model architectures? .{0,120}(?:not supported|failed to be inspected)", "this vLLM doesn't serve that model's architecture", "see `consilium llm profiles` for those it serves"),
    (r"No module named '?vllm", "vLLM isn't in that Python", "install it in an environment of its own (docs/serving.md) and name its python with --vllm"),
    (r"No CUDA|no NVIDIA driver|Found no NVIDIA|CUDA driver version|Device string must not be empty|Failed to infer device type", "no GPU is found", "take a box- profile on a machine without one"),
    (r"ray\.exceptions|Could not connect to Ray|No available node types|ray.*not installed", "Ray doesn't hold enough machines", "start Ray on each of them first: `ray start --head`, then `ray start --address=…`"),
]  # fmt: skip
"""What vLLM writes when it can't start, what that means, what to do."""


class LaunchFailed(ProfileError):
    """vLLM didn't start."""


def python_of(named: str | None = None) -> str:
    """The Python that has vLLM: the one named, $CONSILIUM_VLLM, the checkout's .venv-vllm, or this one. Raises ProfileError."""
    for told in (named, os.environ.get("CONSILIUM_VLLM")):
        if told:
            if not (shutil.which(told) or Path(told).is_file()):
                raise ProfileError(
                    f"there is no Python at {told}", "name the python of the environment that vLLM is installed in"
                )
            return told
    beside = ROOT / ".venv-vllm" / "bin" / "python"
    return str(beside) if beside.exists() else sys.executable


def cards() -> list[float]:
    """Memory of each NVIDIA card in GB (10⁹ bytes), as nvidia-smi tells it; none where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    told = subprocess.run(
        [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"], capture_output=True, text=True, check=False
    )
    return [float(m) * 2**20 / 1e9 for m in re.findall(r"^\s*(\d+)", told.stdout, re.M)] if told.returncode == 0 else []


def objections(profile: Profile, host: str, port: int, found: Sequence[float] | None = None) -> list[tuple[str, str]]:
    """What is wrong before anything is started, each with what to do: port, model, cards, memory."""
    wrong = []
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            wrong.append((f"port {port} on {host} can't be taken ({error.strerror})", "name another with --port"))
    if profile.folder is None and not _cached(profile.model):
        wrong.append(
            (
                f"the model {profile.model} isn't on this machine",
                "copy its folder here and name it with --model FOLDER; nothing is downloaded at run time",
            )
        )
    have = list(cards() if found is None else found)
    here = profile.cards // profile.nodes
    if len(have) < here:
        wrong.append(
            (
                f"the profile is for {here} card{'s' if here > 1 else ''} a machine; {len(have)} found",
                "take a profile that fits, or a box- profile without any",
            )
        )
    elif here and min(have[:here]) < 0.9 * profile.memory_gb:
        wrong.append((f"a card has {min(have[:here]):.0f} GB; the profile is for {profile.memory_gb:.0f}",
                      "take a smaller model, quantise it, or spread it over more cards (--tensor-parallel)"))  # fmt: skip
    return wrong


def _cached(model: str) -> bool:
    """True where the Hugging Face cache of this machine has the model."""
    home = Path(
        os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface") / "hub"
    )
    return (home / f"models--{model.replace('/', '--')}" / "snapshots").is_dir()


def diagnosed(log: str) -> tuple[str, str]:
    """What a log of a vLLM that ended says is wrong, and what to do."""
    for pattern, what, hint in TROUBLES:
        if match := re.search(pattern, log, re.I):
            return what.format(match.group(0)[:120]), hint
    return "vLLM ended before it answered", "read its log"


class Served:
    """A vLLM server in a process group of its own, stopped with us: it leaves engines behind when only its first process ends."""

    def __init__(self, profile: Profile, host: str = "127.0.0.1", port: int = 8000, python: str | None = None, loras: dict[str, Path] | None = None,
                 log: Path | None = None, served: str | None = None, environment: dict[str, str] | None = None) -> None:  # fmt: skip
        self.profile, self.host, self.port = profile, host, port
        self.command = [
            python_of(python),
            "-m",
            "vllm.entrypoints.openai.api_server",
            *profile.arguments(host, port, loras, served),
        ]
        self.environment = {**profile.environment(), **(environment or {})}
        self.log = log or Path(tempfile.mkstemp(prefix="consilium-vllm-", suffix=".log")[1])
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The base URL for `--llm-url`."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/v1"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start the processes; they get SIGTERM when we are killed."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, env={**os.environ, **self.environment}, stdout=log, stderr=subprocess.STDOUT,
                                            start_new_session=True, preexec_fn=_end_with_parent)  # fmt: skip

    def wait(self, seconds: float = START_S, told: Callable[[str], None] = lambda line: None) -> None:
        """Until it answers. Raises LaunchFailed with what is wrong."""
        assert self.process is not None
        begun, shown = time.monotonic(), 0.0
        while True:
            if self.process.poll() is not None:
                self.stop()
                what, hint = diagnosed(self.tail(60))
                raise LaunchFailed(what, f"{hint}. The end of its log ({self.log}):\n{self.tail(6)}")
            try:
                if httpx.get(self.url.removesuffix("/v1") + "/health", timeout=5, trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            waited = time.monotonic() - begun
            if waited > seconds:
                self.stop()
                raise LaunchFailed(f"vLLM didn't answer within {seconds:.0f} s", f"read its log: {self.log}")
            if waited - shown > 15:
                shown = waited
                told(f"… {waited:.0f} s: {(self.tail(1) or 'starting')[:160]}")
            time.sleep(0.5)

    def tail(self, lines: int) -> str:
        """The last lines of its log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """End all its processes: ask, then kill."""
        if self.process is None:
            return
        for sign, seconds in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, 5.0)):
            try:
                os.killpg(self.process.pid, sign)
            except ProcessLookupError:
                break
            end = time.monotonic() + seconds
            while time.monotonic() < end and _group_lives(self.process):
                time.sleep(0.1)
        self.process.wait()


def _group_lives(process: "subprocess.Popen[bytes]") -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _end_with_parent() -> None:
    """In the child: SIGTERM when the parent ends, however (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
