"""`consilium guidelines`: add, list, search, show what the corpus holds."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

REFUSED, SERVICE_DOWN = 3, 4
app = typer.Typer(no_args_is_help=True, help="The guideline corpus.")
Data = Annotated[Path | None, typer.Option("--data", help="Data folder; left out: the user's data folder.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout and nothing else.")]
SUFFIXES = (".pdf", ".html", ".htm", ".md", ".markdown", ".txt", ".docx", ".yaml", ".yml")


def _house(data: Path | None) -> Any:
    from serving.house import build
    from serving.settings import Settings

    return build(Settings(data=data) if data else Settings())


def _files(paths: list[Path]) -> list[tuple[str, Path]]:
    found: list[tuple[str, Path]] = []
    for path in paths:
        if path.is_dir():
            found += [(str(p.relative_to(path)), p) for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES]
        else:
            found.append((path.name, path))
    return found


@app.command("add")
def add(
    paths: Annotated[list[Path], typer.Argument(help="PDF, HTML, Markdown, text or DOCX; a rule as .yaml; or folders of them.", exists=True)],
    data: Data = None,
    document: Annotated[str | None, typer.Option(help="Title, where the file doesn't say it.")] = None,
    organisation: Annotated[str | None, typer.Option(help="Who issued it.")] = None,
    version: Annotated[str | None, typer.Option(help="Its version.")] = None,
    date: Annotated[str | None, typer.Option(help="Its date (2024-05-31 or 2024).")] = None,
    disease: Annotated[list[str] | None, typer.Option(help="Disease or organ; may be given again.")] = None,
    modality: Annotated[list[str] | None, typer.Option(help="DICOM modality; may be given again.")] = None,
    body: Annotated[str | None, typer.Option(help="Body of guidelines it belongs to; left out: by its disease.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Add a hospital's own guidelines and rules. A newer version supersedes the older one; a broken file is named, the rest goes in."""
    from rich.progress import Progress, TaskID

    from knowledge.guidelines.adding import About, Added

    house = _house(data)
    about = About(document=document, organisation=organisation, version=version, date=date, disease=disease or [], modality=modality or [],
                  body=body)  # fmt: skip
    with Progress(transient=True, disable=as_json) as bars:
        tasks: dict[tuple[str, str], TaskID] = {}

        def told(file: str, stage: str, done: int, total: int) -> None:
            if (file, stage) not in tasks:
                tasks[file, stage] = bars.add_task(f"{stage} {file}", total=total)
            bars.update(tasks[file, stage], completed=done, total=total)

        files = ((name, path.read_bytes()) for name, path in _files(paths))
        done: Added = house.add_guidelines(files, about, told, lambda: False)
    if as_json:
        typer.echo(done.model_dump_json())
    else:
        for row in done.documents:
            pages = f", {row.pages} pages" if row.pages else ""
            typer.echo(f"{row.status} {row.id}  {row.document} | {row.organisation} | {row.version} | {row.date or 'undated'} | "
                       f"{row.passages} passages{pages} | body {row.body}")  # fmt: skip
            for warning in row.warnings:
                typer.echo(f"  {warning}", err=True)
        for rule in done.rules:
            typer.echo(f"rule {rule}: its worked cases pass")
        for refused in done.rejected:
            typer.echo(f"refused {refused.file}: {refused.reason}", err=True)
    if not done.documents and not done.rules:
        typer.echo("consilium: nothing could be taken in", err=True)
        raise typer.Exit(REFUSED)


@app.command("list")
def list_(data: Data = None, as_json: Json = False) -> None:
    """Documents of the corpus, superseded versions too."""
    rows = _house(data).resources.guidelines.documents()
    if as_json:
        typer.echo(json.dumps([d.model_dump() for d in rows]))
        return
    for row in rows:
        old = " | superseded" if row.status == "superseded" else ""
        typer.echo(f"{row.document} | {row.organisation} | {row.version} | {row.passages} passages | {row.checked}{old}")


@app.command("search")
def search(
    query: str, limit: int = 5, data: Data = None,
    disease: Annotated[str | None, typer.Option(help="Only documents on this disease or organ.")] = None,
    version: Annotated[str | None, typer.Option(help="Only this version, superseded ones too.")] = None,
    modality: Annotated[str | None, typer.Option(help="Only documents for this modality.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Search the corpus."""
    from knowledge.errors import ServiceDown

    try:
        hits = _house(data).resources.guidelines.search(query, limit, disease, version=version, modality=modality)
    except ServiceDown as error:
        typer.echo(f"consilium: {error}\n  {error.hint}", err=True)
        raise typer.Exit(SERVICE_DOWN) from error
    if as_json:
        typer.echo(json.dumps([h.model_dump(mode="json") for h in hits]))
        return
    for hit in hits:
        passage = hit.passage
        page = f", page {passage.page}" if passage.page else ""
        typer.echo(f"{hit.score:.3f} {passage.document} ({passage.version}, {passage.date or 'undated'}) § {passage.section}{page} "
                   f"({hit.why})\n    {passage.text}")  # fmt: skip
    if not hits:
        typer.echo("nothing in the corpus speaks of it")


@app.command("docs")
def docs(out: Annotated[Path, typer.Option(help="File to write.")] = Path("docs/knowledge.md")) -> None:
    """Write the page that lists documents, versions and rules in the box."""
    from serving.knowledge_page import written

    out.write_text(written(), encoding="utf-8")
    typer.echo(str(out))
