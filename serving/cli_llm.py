"""`consilium llm …`: profiles of language models, serving one with vLLM, trying what a server can do."""

import json
import shlex
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from serving.llm.profiles import Profile

WRONG_USAGE, REFUSED, SERVICE_DOWN = 2, 3, 4

app = typer.Typer(no_args_is_help=True, help="The language model's server.")

Data = Annotated[Path | None, typer.Option("--data", help="Data folder; left out: the user's data folder.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout and nothing else.")]


def _fail(code: int, message: str, hint: str = "") -> None:
    typer.echo(f"consilium: {message}" + (f"\n  {hint}" if hint else ""), err=True)
    raise typer.Exit(code)


def _own(data: Path | None) -> Path:
    """The file of a hospital's own profiles."""
    from serving.settings import Settings

    settings = Settings() if data is None else Settings(data=data)
    return settings.llm_profiles or settings.data / "llm_profiles.yaml"


@app.command("profiles")
def profiles_(data: Data = None, as_json: Json = False) -> None:
    """What `llm serve` can start, and which systems vLLM has no place for."""
    from serving.llm.profiles import ProfileError, in_the_box, profiles

    try:
        known = profiles(_own(data))
    except ProfileError as error:
        _fail(WRONG_USAGE, str(error), error.hint)
        return
    if as_json:
        typer.echo(json.dumps({n: p.model_dump(by_alias=True) for n, p in known.items()}))
        return
    for name, one in known.items():
        where = f"{one.cards} × {one.memory_gb:.0f} GB" if one.cards else "CPU"
        typer.echo(f"{name:26} {where:12} {one.context:>7} tokens  {one.purpose}")
    typer.echo("\nNot served by vLLM:")
    for name, other in in_the_box()[1].items():
        typer.echo(f"{name}: {other.why}. Instead: {', '.join(other.instead)}")


@app.command("serve")
def serve(
    profile: Annotated[str, typer.Argument(help="A profile: see `consilium llm profiles`.")],
    host: Annotated[str, typer.Option(help="Address that vLLM listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port that vLLM listens on.")] = 8000,
    model: Annotated[str | None, typer.Option(help="The model's folder (or name), where it isn't the profile's.")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of prompt and reply together.")] = None,
    tensor_parallel: Annotated[int | None, typer.Option(help="Cards that share each layer.")] = None,
    pipeline_parallel: Annotated[int | None, typer.Option(help="Parts that the layers are dealt to.")] = None,
    quantization: Annotated[str | None, typer.Option(help="vLLM's name of a quantisation (fp8, awq, …).")] = None,
    gpu_memory: Annotated[float | None, typer.Option(help="Share of each card that vLLM may take.")] = None,
    lora: Annotated[list[str] | None, typer.Option(help="An adapter, NAME=FOLDER; repeatable. Ask for it by its name as --llm-model.")] = None,
    vllm: Annotated[str | None, typer.Option(help="The Python that has vLLM; left out: $CONSILIUM_VLLM, .venv-vllm, this one.")] = None,
    wait_s: Annotated[float, typer.Option(help="Seconds to wait for its first answer.")] = 1800,
    show: Annotated[bool, typer.Option("--show", help="Show the command and start nothing.")] = False,
    data: Data = None,
) -> None:  # fmt: skip
    """Serve a language model with vLLM, until this is stopped. Nothing is downloaded."""
    from serving.llm.launch import Served, objections
    from serving.llm.profiles import ProfileError, profile_of

    try:
        parallel = (tensor_parallel or 1) * (pipeline_parallel or 1) if tensor_parallel or pipeline_parallel else None
        chosen = profile_of(profile, _own(data), model=model, context=context, tensor_parallel=tensor_parallel, quantization=quantization,
                            pipeline_parallel=pipeline_parallel or (1 if tensor_parallel else None), gpu_memory=gpu_memory, cards=parallel)  # fmt: skip
        served = Served(chosen, host, port, vllm, _loras(lora or [], chosen))
    except ProfileError as error:
        _fail(WRONG_USAGE, str(error), error.hint)
        return
    typer.echo(" ".join([*(f"{k}={v}" for k, v in served.environment.items()), shlex.join(served.command)]))
    if show:
        return
    if wrong := objections(chosen, host, port):
        _fail(SERVICE_DOWN, "; ".join(w for w, _ in wrong), "\n  ".join(h for _, h in wrong))
    typer.echo(f"its log: {served.log}", err=True)
    ended = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(sign, lambda *_: _stop(ended))
    with served:
        try:
            served.wait(wait_s, lambda line: typer.echo(line, err=True))
        except ProfileError as error:
            _fail(SERVICE_DOWN, str(error), error.hint)
        except KeyboardInterrupt:
            return
        how = "CONSILIUM_LLM_CHOOSES=true " if chosen.chooses else ""
        how += f"CONSILIUM_LLM_TURNS={chosen.turns} " if chosen.turns is not None else ""
        typer.echo(
            f"Serving {chosen.name} at {served.url}. Then: {how}consilium serve --llm-url {served.url} --llm-model {chosen.name}"
        )
        try:
            while not ended.wait(1):
                if served.process is not None and served.process.poll() is not None:
                    _fail(SERVICE_DOWN, "vLLM ended", f"the end of its log ({served.log}):\n{served.tail(6)}")
        except KeyboardInterrupt:
            return


def _stop(ended: threading.Event) -> None:
    if ended.is_set():
        return
    ended.set()
    raise KeyboardInterrupt


def _loras(told: list[str], profile: "Profile") -> dict[str, Path]:
    from serving.llm.profiles import ProfileError

    found = {}
    for one in told:
        name, _, folder = one.partition("=")
        if not (name and (Path(folder) / "adapter_config.json").exists()):
            raise ProfileError(f"--lora {one!r} names no adapter", "NAME=FOLDER, a folder in PEFT's format (adapter_config.json)")
        found[name] = Path(folder)
    return found


@app.command("probe")
def probe_(
    url: Annotated[str | None, typer.Argument(help="OpenAI-compatible server, ending in /v1.")] = None,
    llm_url: Annotated[str | None, typer.Option("--llm-url", help="The same, as an option.")] = None,
    model: Annotated[str | None, typer.Option("--llm-model", help="Model that it serves; left out: its first.")] = None,
    as_json: Json = False,
) -> None:
    """Try what the language model's server can do. CONSILIUM_LLM_KEY: its key, where it wants one."""
    from serving.llm.probe import NoServer, probe
    from serving.settings import Settings

    where = url or llm_url
    if where is None:
        _fail(WRONG_USAGE, "a server is needed", "consilium llm probe http://127.0.0.1:8000/v1")
    key = Settings().llm_key
    try:
        found = probe(str(where), model, key.get_secret_value() if key else None)
    except NoServer as error:
        _fail(SERVICE_DOWN, f"no OpenAI-compatible server answers at {where} ({error})", "start one: consilium llm serve PROFILE")
        return
    if as_json:
        typer.echo(json.dumps(found.told()))
        return
    _table(found.rows())


def _table(rows: list[tuple[str, str, str]]) -> None:
    wide: list[Any] = [max(len(r[n]) for r in rows) for n in (0, 1)]
    for name, value, means in rows:
        typer.echo(f"{name:{wide[0]}}  {value:{min(wide[1], 60)}}  {means}".rstrip())
