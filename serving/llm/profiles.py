"""Profiles of served models, and the vLLM command that each one means."""

import json
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OVERHEAD = 0.1
"""Share of a card that vLLM, CUDA and activations take beside weights and cache: a rule of thumb for `fits`, vLLM measures it itself."""


class ProfileError(Exception):
    """A profile that isn't there or isn't whole. `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Profile(BaseModel):
    """How one model is served. Sizes: `memory_gb` in GB (10⁹ bytes) as on the card's label, `context` in tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    name: str
    purpose: str = Field(alias="for")
    model: str
    architecture: str
    medical: bool = False
    billions: float = Field(gt=0)
    bits: float = Field(16, gt=0, le=32)
    cards: int = Field(ge=0)
    memory_gb: float = Field(0, ge=0)
    nodes: int = Field(1, ge=1)
    tensor_parallel: int = Field(1, ge=1)
    pipeline_parallel: int = Field(1, ge=1)
    context: int = Field(ge=512)
    dtype: str = "auto"
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    gpu_memory: float = Field(0.9, gt=0, lt=1)
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    images: int = Field(0, ge=0)
    lora_rank: int | None = Field(None, ge=1)
    prefix_caching: bool = True
    eager: bool = False
    most_at_once: int | None = Field(None, ge=1)
    chooses: bool = False
    """The model is too weak to write: the agent has it choose evidence (CONSILIUM_LLM_CHOOSES)."""
    turns: int | None = Field(None, ge=0)
    """Earlier questions of a conversation that the model reads (CONSILIUM_LLM_TURNS); None: all."""
    extra: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _whole(self) -> "Profile":
        if self.cards and self.tensor_parallel * self.pipeline_parallel != self.cards:
            raise ValueError(f"{self.tensor_parallel} × {self.pipeline_parallel} parallel parts on {self.cards} cards")
        if self.cards and not self.memory_gb:
            raise ValueError("memory_gb is needed where there are cards")
        return self

    @property
    def weights_gb(self) -> float:
        """GB of weights, all cards together."""
        return self.billions * (32 if self.dtype == "float32" else self.bits) / 8

    @property
    def spare_gb(self) -> float:
        """GB that a card has for the cache of what is read and written, beside its share of the weights."""
        return self.memory_gb * (self.gpu_memory - OVERHEAD) - self.weights_gb / max(1, self.cards)

    @property
    def folder(self) -> Path | None:
        """The model's folder, where it is one: a path, or one of this project's own models."""
        for path in (Path(self.model).expanduser(), ROOT / self.model):
            if path.is_dir():
                return path.resolve()
        return None

    def arguments(self, host: str, port: int, loras: dict[str, Path] | None = None, served: str | None = None) -> list[str]:
        """The arguments of vLLM's OpenAI server."""
        found = ["--model", str(self.folder or self.model), "--served-model-name", served or self.name, "--host", host, "--port", str(port),
                 "--dtype", self.dtype, "--max-model-len", str(self.context)]  # fmt: skip
        if self.cards:
            found += ["--gpu-memory-utilization", f"{self.gpu_memory:g}"]
        if self.tensor_parallel > 1:
            found += ["--tensor-parallel-size", str(self.tensor_parallel)]
        if self.pipeline_parallel > 1:
            found += ["--pipeline-parallel-size", str(self.pipeline_parallel)]
        if self.nodes > 1:
            found += ["--distributed-executor-backend", "ray"]
        for flag, value in (("--quantization", self.quantization), ("--kv-cache-dtype", self.kv_cache_dtype),
                            ("--reasoning-parser", self.reasoning_parser), ("--max-num-seqs", self.most_at_once)):  # fmt: skip
            found += [flag, str(value)] if value else []
        if self.tool_parser:
            found += ["--enable-auto-tool-choice", "--tool-call-parser", self.tool_parser, "--tool-strict-level", "parameter"]
        if self.images:
            found += ["--limit-mm-per-prompt", json.dumps({"image": self.images})]
        found += [
            "--enable-prefix-caching" if self.prefix_caching else "--no-enable-prefix-caching",
            "--enable-prompt-tokens-details",
        ]
        if self.eager:
            found += ["--enforce-eager"]
        if loras:
            found += [
                "--enable-lora",
                "--max-lora-rank",
                str(self.lora_rank or 16),
                "--lora-modules",
                *(f"{n}={p.resolve()}" for n, p in loras.items()),
            ]
        return [
            *found,
            "--structured-outputs-config",
            json.dumps({"backend": "xgrammar", "disable_any_whitespace": True}),
            *self.extra,
        ]

    def engine(self) -> dict[str, Any]:
        """The same as keyword arguments of vLLM's engine, for Ray Serve's `engine_kwargs`."""
        told: dict[str, Any] = {"dtype": self.dtype, "max_model_len": self.context, "tensor_parallel_size": self.tensor_parallel,
                                "pipeline_parallel_size": self.pipeline_parallel, "enable_prefix_caching": self.prefix_caching}  # fmt: skip
        told |= {"gpu_memory_utilization": self.gpu_memory} if self.cards else {}
        told |= {
            k: v
            for k, v in (
                ("quantization", self.quantization),
                ("kv_cache_dtype", self.kv_cache_dtype),
                ("max_num_seqs", self.most_at_once),
            )
            if v
        }
        told |= {"reasoning_parser": self.reasoning_parser} if self.reasoning_parser else {}
        told |= (
            {"enable_auto_tool_choice": True, "tool_call_parser": self.tool_parser, "tool_strict_level": "parameter"}
            if self.tool_parser
            else {}
        )
        return told | ({"limit_mm_per_prompt": {"image": self.images}} if self.images else {})

    def environment(self) -> dict[str, str]:
        """Variables that vLLM is started with: nothing is downloaded, nothing is reported."""
        own = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        return own if self.cards else {**own, "VLLM_CPU_KVCACHE_SPACE": "1"}

    def command(self, host: str = "127.0.0.1", port: int = 8000) -> str:
        """What one would type, for docs and deploy/."""
        told = " ".join(f"{k}={v}" for k, v in self.environment().items())
        return f"{told} python -m vllm.entrypoints.openai.api_server {shlex.join(self.arguments(host, port))}"


class NotServed(BaseModel):
    """A system that vLLM can't serve, why, and which profiles take its place."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architectures: list[str]
    why: str
    instead: list[str]


@cache
def in_the_box() -> tuple[dict[str, Profile], dict[str, NotServed]]:
    """The profiles of this project, and the systems that have none."""
    loaded = yaml.safe_load((HERE / "profiles.yaml").read_text(encoding="utf-8"))
    return _profiles(loaded, "profiles.yaml"), {n: NotServed.model_validate(x) for n, x in loaded["not_served"].items()}


def profiles(own: Path | None = None) -> dict[str, Profile]:
    """Profiles by name, those of the file `own` over those in the box. Raises ProfileError."""
    found = dict(in_the_box()[0])
    if own is not None and own.exists():
        try:
            found.update(_profiles(yaml.safe_load(own.read_text(encoding="utf-8")) or {}, str(own)))
        except yaml.YAMLError as error:
            raise ProfileError(f"{own} is no YAML", "see serving/llm/profiles.yaml for its form") from error
    return found


def profile_of(name: str, own: Path | None = None, **changed: Any) -> Profile:
    """One profile, with what is `changed` (None: as it is). Raises ProfileError."""
    known = profiles(own)
    if name not in known:
        raise ProfileError(f"there is no profile {name!r}", f"there are {', '.join(known)}")
    told = {**known[name].model_dump(by_alias=True), **{k: v for k, v in changed.items() if v is not None}}
    try:
        return Profile.model_validate(told)
    except ValidationError as error:
        raise ProfileError(
            f"{name} doesn't fit: {error.errors()[0]['msg']}", "change the profile, or leave the option out"
        ) from error


def _profiles(loaded: dict[str, Any], where: str) -> dict[str, Profile]:
    try:
        return {n: Profile.model_validate({"name": n, **x}) for n, x in (loaded.get("profiles") or {}).items()}
    except ValidationError as error:
        told = error.errors()[0]
        raise ProfileError(
            f"{where}: {'.'.join(map(str, told['loc']))}: {told['msg']}", "see serving/llm/profiles.yaml for its form"
        ) from error
