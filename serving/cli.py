"""The command line: `python -m serving`, also `consilium`. Heavy packages load inside the commands that need them."""

import asyncio
import json
import sys
import tempfile
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.cli_guidelines import app as guidelines
from serving.cli_llm import app as llm
from serving.cli_similar import app as similar
from serving.cli_tools import app as tools

if TYPE_CHECKING:
    from agent.answer import Answer
    from knowledge.case import Case
    from serving.house import House
    from serving.settings import Settings

WRONG_USAGE, REFUSED, SERVICE_DOWN = 2, 3, 4

app = typer.Typer(name="consilium", no_args_is_help=True, pretty_exceptions_show_locals=False, add_completion=False,
                  help="Consilium: ask about a patient's images, reports and records. Research use only; not a medical device.")  # fmt: skip
models = typer.Typer(no_args_is_help=True, help="The imaging models.")
audit = typer.Typer(no_args_is_help=True, help="What was done to the archive.")
keys = typer.Typer(no_args_is_help=True, help="Keys to the server.")
for name, group in {
    "guidelines": guidelines,
    "tools": tools,
    "models": models,
    "keys": keys,
    "llm": llm,
    "audit": audit,
    "similar": similar,
}.items():
    app.add_typer(group, name=name)

Data = Annotated[Path | None, typer.Option("--data", help="Data folder; left out: the user's data folder.")]
LlmUrl = Annotated[str | None, typer.Option("--llm-url", help="OpenAI-compatible server, ending in /v1.")]
LlmModel = Annotated[str | None, typer.Option("--llm-model", help="Model that it serves.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout and nothing else.")]


def _fail(code: int, message: str, hint: str = "") -> None:
    typer.echo(f"consilium: {message}" + (f"\n  {hint}" if hint else ""), err=True)
    raise typer.Exit(code)


def _settings(**given: Any) -> "Settings":
    from pydantic import ValidationError

    from serving.settings import Settings

    try:
        return Settings(**{k: v for k, v in given.items() if v is not None})
    except ValidationError as error:
        _fail(WRONG_USAGE, "; ".join(str(e["msg"]) for e in error.errors()))
        raise AssertionError("unreachable") from error


def _house(**given: Any) -> "House":
    from serving.house import build

    return build(_settings(**given))


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (8420).")] = None,
    data: Data = None, llm_url: LlmUrl = None, llm_model: LlmModel = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Let everyone in; only on loopback.")] = False,
    sample: Annotated[bool, typer.Option("--sample", help="Load the sample case first.")] = False,
    reload_tools: Annotated[bool, typer.Option("--reload-tools", help="Take tools in as their packages are installed or changed.")] = False,
) -> None:  # fmt: skip
    """Start the server and print the chat link."""
    if reload_tools:
        from tools.registry import watch

        watch()
    settings = _settings(host=host, port=port, data=data, llm_url=llm_url, llm_model=llm_model, no_auth=no_auth or None)
    import uvicorn

    from serving.access.keys import KeyRing
    from serving.app import create_app

    if sample:
        _load_sample(settings)
    secret = "" if settings.no_auth else f"#key={KeyRing(settings.data / 'access').local()}"
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    typer.echo(f"Consilium, research use only; not a medical device.\nChat: http://{shown}:{settings.port}/{secret}")
    uvicorn.run(create_app(settings), host=settings.host, port=settings.port, log_level="warning", access_log=False)


def _load_sample(settings: "Settings") -> None:
    from knowledge import sample
    from serving.house import archive_of

    done = sample.load(archive_of(settings))
    typer.echo(
        f"Sample case loaded: patient {sample.PATIENT_ID}, {len(done.studies)} study, {len(done.records)} records (made up)."
    )


@app.command("import")
def import_(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders.")], data: Data = None,
    patient_id: Annotated[str | None, typer.Option(help="Patient, for files that name none.")] = None,
    study_date: Annotated[str | None, typer.Option(help="Date (2024-05-31), for files that name none.")] = None,
    modality: Annotated[str | None, typer.Option(help="DICOM modality, for files that name none.")] = None,
    body_part: Annotated[str | None, typer.Option(help="Body part, for files that name none.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Take images, reports and records into the archive."""
    from knowledge.studies.intake import Hints
    from serving.house import archive_of

    done = _imported(archive_of(_settings(data=data)), paths, Hints(patient_id, study_date, modality, body_part))
    if as_json:
        typer.echo(done.model_dump_json())
    else:
        for study in done.studies:
            typer.echo(f"study {study.id}  patient {study.patient_id}  {study.date or 'undated'}  {'/'.join(study.modalities)} "
                       f"{study.body_part}  {len(study.series)} series")  # fmt: skip
            for series in study.series:
                for warning in series.warnings:
                    typer.echo(f"  geometry: warning  {series.handle}: {warning}")
        for record in done.records:
            typer.echo(f"{record.kind} {record.id}  {record.title}  {record.items} item(s)")
        for rejected in done.rejected:
            typer.echo(f"refused {rejected.file}: {rejected.reason}", err=True)
        for conflict in done.conflicts:
            typer.echo(f"conflict {conflict.file}: {conflict.reason}", err=True)
        for ask in done.asks:
            typer.echo(f"say of {ask.file}: {', '.join(ask.missing)} (--patient-id, --study-date, --modality)", err=True)
    if not done.studies and not done.records:
        _fail(REFUSED, "nothing could be taken in")


def _imported(archive: Any, paths: list[Path], hints: Any) -> Any:
    from knowledge.errors import NotFound, StorageFailed
    from knowledge.studies.unpack import from_paths

    try:
        return archive.add(from_paths(paths), hints)
    except NotFound as error:
        _fail(WRONG_USAGE, str(error), error.hint)
    except StorageFailed as error:
        _fail(SERVICE_DOWN, str(error), error.hint)


@app.command()
def export(
    study: Annotated[str, typer.Argument(help="The study's id; `training`: users' feedback as training data.")],
    out: Annotated[Path, typer.Option(help="The zip to write; for `training` a folder.")],
    profile: Annotated[str, typer.Option(help="none (originals), basic or research: de-identified by DICOM PS3.15.")] = "none",
    option: Annotated[list[str] | None, typer.Option(help="An option of PS3.15 (faces, uids, full_dates, device …); repeatable.")] = None,
    data: Data = None,
) -> None:  # fmt: skip
    """Write a study as a zip, or (`export training`) users' feedback in TRL's formats, without identity."""
    if study == "training":
        _export_training(out, data)
        return
    from knowledge.errors import KnowledgeError
    from knowledge.studies.export import options_of, write_zip
    from serving.house import archive_of

    if option and profile == "none":
        _fail(WRONG_USAGE, "--option needs a profile", "add --profile basic")
    try:
        options = None if profile == "none" else options_of(profile, option or [])
    except KnowledgeError as error:
        _fail(WRONG_USAGE, str(error), error.hint)
    try:
        with out.open("xb") as file:
            done = write_zip(archive_of(_settings(data=data)), study, file, options)
    except FileExistsError:
        _fail(WRONG_USAGE, f"{out} is there already", "name another file")
    except KnowledgeError as error:
        out.unlink()
        _fail(REFUSED, str(error), error.hint)
    typer.echo(f"{out}: {done.files} files, text blanked in {done.blanked}, face taken off {done.defaced}")
    for one in done.left_out:
        typer.echo(f"left out {one.file}: {one.reason}", err=True)


def _export_training(out: Path, data: Path | None) -> None:
    from agent.training.export import export as export_training
    from knowledge.errors import KnowledgeError
    from serving.access.keys import secret_of
    from serving.house import archive_of, build

    settings = _settings(data=data)
    if out.exists() and any(out.iterdir()):
        _fail(WRONG_USAGE, f"{out} isn't empty", "name another folder")
    house, archive = build(settings), archive_of(settings)

    def case_of(conversation_id: str) -> "Case | None":
        from agent.errors import AgentError
        from knowledge.case import open_case

        try:
            conversation = house.memory.conversation(conversation_id)
            return (
                None if conversation.patient_id is None else open_case(archive, conversation.patient_id, conversation.study_ids)
            )
        except (AgentError, KnowledgeError):
            return None

    done = export_training(house.memory, case_of, secret_of(settings.data / "access"), out, settings.llm_chooses)
    typer.echo(
        f"{out}: {done.sft} to learn from (sft.jsonl), {done.preference} preferences, {done.rated} rated; provenance.json says where each comes from"
    )
    for why, many in done.left_out.items():
        typer.echo(f"left out {many}: {why}", err=True)
    typer.echo("Clinical facts of real people remain in it: look through it, and keep it where the data may be.")


@app.command()
def reidentify(
    pseudonym: Annotated[str, typer.Argument(help="A pseudonym or UID of a de-identified export.")], data: Data = None
) -> None:
    """Say which patient or UID a pseudonym of this archive's vault stands for. The audit keeps that it was asked."""
    from knowledge.errors import NotFound
    from serving.house import archive_of

    archive = archive_of(_settings(data=data))
    try:
        typer.echo(archive.vault.original(pseudonym))
    except NotFound as error:
        _fail(REFUSED, str(error), error.hint)
    archive.note("local", "reidentify", pseudonym, {})


@audit.command("show")
def audit_show(data: Data = None, subject: Annotated[str | None, typer.Option(help="A study's id.")] = None,
               limit: Annotated[int, typer.Option(min=1)] = 50, as_json: Json = False) -> None:  # fmt: skip
    """What was done to the archive, newest first."""
    from serving.house import archive_of

    found = archive_of(_settings(data=data)).audit(limit, subject)
    if as_json:
        typer.echo(json.dumps([e.model_dump() for e in found]))
        return
    for entry in found:
        typer.echo(f"{entry.number}  {entry.at}  {entry.actor}  {entry.action}  {entry.subject}  {json.dumps(entry.detail)}")


@audit.command("verify")
def audit_verify(data: Data = None) -> None:
    """Check that no entry was changed or taken out of the middle."""
    from serving.house import archive_of

    broken = archive_of(_settings(data=data)).audit_broken_at()
    if broken is not None:
        _fail(REFUSED, f"entry {broken} doesn't follow from those before it", "restore the archive's database from a backup")
    typer.echo("the audit is whole")


@app.command()
def ask(
    paths: Annotated[list[Path] | None, typer.Argument(help="Images, reports, records of one patient; or none with --patient.")] = None,
    question: Annotated[str, typer.Option("-q", "--question", help="The question.")] = "",
    as_json: Json = False,
    records: Annotated[Path | None, typer.Option(help="A FHIR bundle.")] = None,
    patient: Annotated[str | None, typer.Option("--patient", help="A patient of the archive in --data.")] = None,
    before: Annotated[list[str] | None, typer.Option("--before", help="An earlier question of the same conversation; repeatable.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the answer as an HTML page with its pictures into this folder.")] = None,
    data: Data = None, llm_url: LlmUrl = None, llm_model: LlmModel = None,
) -> None:  # fmt: skip
    """Ask one question about files, or about a patient of the archive. Progress goes to stderr.

    Where the served language model fails, the built-in planner's answer is printed, which says so, and the exit code is 4 all the same.
    """
    if not question.strip():
        _fail(WRONG_USAGE, "a question is needed", 'add -q "…"')
    if not paths and not records and not patient:
        _fail(WRONG_USAGE, "name files, --records or --patient", "consilium ask PATH… -q …")
    with tempfile.TemporaryDirectory(prefix="consilium-") as temporary:
        house = _house(data=data or Path(temporary), llm_url=llm_url, llm_model=llm_model)
        case = {"patient_id": patient} if patient else _case_of(house, paths or [], records)
        answer = asyncio.run(_asked(house, case, [*(before or []), question]))
        if out is not None:
            from serving.print_out import write_page

            typer.echo(f"written: {write_page(house, question, answer, out)}", err=True)
    typer.echo(answer.model_dump_json() if as_json else answer.text)
    if not as_json:
        for made in [s.made for s in answer.plan if s.made is not None]:
            kept = f"; it opens on the page, and at /v1/{made.kind}s/{made.id}" if data and made.kind != "quiz" else ""
            typer.echo(f"\n{made.kind.capitalize()} {made.id}: {made.title}{kept}")
        typer.echo("\nEvidence:")
        for evidence in answer.evidence:
            typer.echo(f"  [{evidence.id}] {evidence.kind}: {evidence.statement}")
        typer.echo("\nResearch use only; not a medical device.")
    if llm_url and answer.provenance.planner.kind == "builtin":
        _fail(
            SERVICE_DOWN,
            "the language model's server failed; the built-in planner answered",
            "check it with `consilium llm probe`",
        )


def _case_of(house: "House", paths: list[Path], records: Path | None) -> dict[str, Any]:
    """The one patient of the files. `--records` says whose they are: a PACS and an EHR rarely share an identifier."""
    from knowledge.studies.intake import Hints

    parts = [_imported(house.archive, paths, None)] if paths else []
    owners = {o for p in parts for o in p.patient_ids}
    if records is not None and len(owners) <= 1:
        owner = next(iter(owners), None)
        parts.append(_imported(house.archive, [records], Hints(patient_id=owner)))
        owners |= parts[-1].patient_ids
    for rejected in (r for p in parts for r in p.rejected):
        typer.echo(f"refused {rejected.file}: {rejected.reason}", err=True)
    if not owners:
        _fail(REFUSED, "nothing could be taken in")
    if len(owners) > 1:
        _fail(REFUSED, f"the files are of {len(owners)} patients; a case is about one", "ask about each patient by itself")
    return {"patient_id": owners.pop()}


async def _asked(house: "House", case: dict[str, Any], questions: list[str]) -> "Answer":
    from agent.answer import Answer
    from agent.errors import AgentError, PlannerDown
    from knowledge.errors import KnowledgeError

    answer: Answer | None = None
    try:
        async with house.assistant as assistant:
            conversation = assistant.open(**case)
            for question in questions:
                async with aclosing(assistant.stream(conversation.id, question)) as events:
                    async for event in events:
                        if event.name == "tool.started":
                            typer.echo(f"… {event.data['tool']}", err=True)
                        elif event.name == "tool.finished":
                            typer.echo(f"  {event.data['tool']}: {event.data['status']} ({event.data['seconds']} s)", err=True)
                        elif event.name == "answer":
                            answer = Answer.model_validate(event.data)
    except PlannerDown as error:
        _fail(SERVICE_DOWN, str(error), error.hint)
    except (AgentError, KnowledgeError) as error:
        _fail(WRONG_USAGE, str(error), error.hint)
    assert answer is not None
    return answer


@app.command()
def plan(
    case: Annotated[Path, typer.Option("--case", help="A described case: {case, history}.")],
    question: Annotated[str, typer.Option("-q", "--question", help="The question.")],
    as_json: Json = False,
) -> None:  # fmt: skip
    """What the built-in planner would do for a described case, without running a tool."""
    from agent.planner.rehearsal import rehearse

    try:
        described = json.loads(case.read_text(encoding="utf-8"))
        result = rehearse(described.get("case") or {}, described.get("history") or [], question)
    except (OSError, ValueError, AttributeError) as error:
        _fail(WRONG_USAGE, f"the case file can't be read ({type(error).__name__})", "see shared/questions for its form")
    typer.echo(json.dumps(result) if as_json else f"tools: {', '.join(result['tools']) or 'none'}; abstain: {result['abstain']}")


def _bundles(data: Path | None) -> Any:
    from tools.models.catalogue import IN_THE_BOX, Catalogue

    return Catalogue((IN_THE_BOX, _settings(data=data).model_folder)).bundles


@models.command("list")
def models_list(data: Data = None) -> None:
    """Every imaging model, those in the box and those that were added."""
    for bundle in _bundles(data).values():
        card = bundle.card
        typer.echo(
            f"{bundle.name} {bundle.version} ({card.origin}): {card.kind}, {card.task}, {card.modality} {card.body_part}\n    {card.accuracy}"
        )


@models.command("show")
def models_show(name: str, data: Data = None) -> None:
    """One model's metadata, card and sha256."""
    bundles = _bundles(data)
    if name not in bundles:
        _fail(WRONG_USAGE, f"there is no model {name!r}", f"the models are {', '.join(bundles)}")
    typer.echo(json.dumps({**bundles[name].metadata, "sha256": bundles[name].sha256}, indent=2))


@models.command("add")
def models_add(
    source: Annotated[Path, typer.Argument(help="A MONAI bundle, an nnU-Net or TotalSegmentator results folder, a TorchScript or ONNX file.")],
    card: Annotated[Path | None, typer.Option(help="YAML that states what the model doesn't: modality, body_part, classes …")] = None,
    name: Annotated[str | None, typer.Option(help="Its name here; left out: the file's.")] = None,
    modality: Annotated[str | None, typer.Option(help="DICOM modality (MR, CT, US …).")] = None,
    body_part: Annotated[str | None, typer.Option(help="Body part (BRAIN, ABDOMEN …).")] = None,
    classes: Annotated[str | None, typer.Option(help="Its classes in order, by commas; background first.")] = None,
    trust_code: Annotated[bool, typer.Option("--trust-code", help="Take a bundle whose configuration runs code of its own.")] = False,
    data: Data = None,
) -> None:  # fmt: skip
    """Take in a model of one's own; it is run once on made-up values before it may be used."""
    import yaml
    from pydantic import ValidationError

    from tools.errors import ToolError
    from tools.models.add import GivenCard, add

    try:
        stated = (yaml.safe_load(card.read_text(encoding="utf-8")) if card else None) or {}
        options = {
            "name": name,
            "modality": modality,
            "body_part": body_part,
            "classes": classes and [c.strip() for c in classes.split(",")],
        }
        given = GivenCard.model_validate({**stated, **{k: v for k, v in options.items() if v}})
    except (OSError, yaml.YAMLError, TypeError) as error:
        _fail(WRONG_USAGE, f"the card can't be read ({type(error).__name__})", "give YAML as docs/models.md shows it")
    except ValidationError as error:
        _fail(WRONG_USAGE, "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()), "see docs/models.md")
    try:
        bundle = add(source, _settings(data=data).model_folder, given, trust_code)
    except ToolError as error:
        _fail(REFUSED, str(error), error.hint)
    typer.echo(f"{bundle.name} {bundle.version}: {bundle.card.kind}, {bundle.card.task}, {bundle.card.modality} {bundle.card.body_part}\n"
               f"    sha256 {bundle.sha256}\n    {bundle.card.limits}")  # fmt: skip


@models.command("remove")
def models_remove(name: str, data: Data = None) -> None:
    """Take out a model that was added."""
    import shutil

    bundle = _bundles(data).get(name)
    if bundle is None or bundle.card.origin == "in the box":
        _fail(WRONG_USAGE, f"there is no added model {name!r}")
    shutil.rmtree(bundle.folder)


@models.command("docs")
def models_docs(out: Annotated[Path, typer.Option(help="File to write.")] = Path("docs/models.md")) -> None:
    """Write docs/models.md from the cards of the models in the box."""
    from tools.models.pages import page

    out.write_text(page(), encoding="utf-8")


def _ring(data: Path | None) -> Any:
    from serving.access.keys import KeyRing

    return KeyRing(_settings(data=data).data / "access")


@keys.command("create")
def keys_create(
    name: str, data: Data = None, role: Annotated[str | None, typer.Option(help="A role of the settings' tools_for.")] = None
) -> None:
    """Make a key; it is shown this once."""
    try:
        typer.echo(_ring(data).create(name, role))
    except ValueError as error:
        _fail(WRONG_USAGE, str(error))


@keys.command("list")
def keys_list(data: Data = None) -> None:
    """The keys' names."""
    ring = _ring(data)
    for key in ring.keys():  # noqa: SIM118 (a method of the key ring, not of a dict)
        typer.echo(f"{key.name}  {key.created}" + (f"  {key.role}" if key.role else ""))


@keys.command("revoke")
def keys_revoke(name: str, data: Data = None) -> None:
    """Take a key out."""
    if not _ring(data).revoke(name):
        _fail(WRONG_USAGE, f"there is no key named {name!r}")


@app.command()
def doctor(data: Data = None) -> None:
    """Check that this checkout, its packages and its models are whole."""
    from serving.doctor import checks

    bad = 0
    for label, trouble in checks(_settings(data=data)):
        typer.echo(f"{'ok  ' if not trouble else 'BAD '} {label}{': ' + trouble if trouble else ''}")
        bad += bool(trouble)
    raise typer.Exit(1 if bad else 0)


@app.command("mcp")
def mcp_(
    data: Data = None, patient: Annotated[str | None, typer.Option(help="The one patient whose case may be seen.")] = None
) -> None:
    """Serve the tools and `ask` over MCP on standard input and output."""
    import asyncio

    from serving.api.mcp import over_stdio

    asyncio.run(over_stdio(_house(data=data), patient))


@app.command()
def openapi() -> None:
    """The API's schema."""
    from serving.app import create_app

    sys.stdout.write(json.dumps(create_app(_settings()).openapi(), indent=1) + "\n")
