"""`consilium tools`: list, show, make and check tools."""

import json
import keyword
import re
import shutil
import tempfile
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from agent.checking import Row
    from tools.base import CaseTool

app = typer.Typer(no_args_is_help=True, help="The tools.")
TEMPLATES = Path(__file__).parent / "scaffold"
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout and nothing else.")]
WRONG_USAGE = 2


class Kind(StrEnum):
    """What a tool is made of."""

    PYTHON = "python"
    BUNDLE = "bundle"
    TORCHSCRIPT = "torchscript"
    ONNX = "onnx"
    NNUNET = "nnunet"
    MCP = "mcp"
    HTTP = "http"


def _fail(message: str, hint: str = "") -> None:
    typer.echo(f"consilium: {message}" + (f"\n  {hint}" if hint else ""), err=True)
    raise typer.Exit(WRONG_USAGE)


@app.command("list")
def tools_list(as_json: Json = False) -> None:
    """Every tool, and what installed packages offer that can't be used."""
    from tools.registry import installed, tool_types

    rows = [t.described() for t in tool_types().values()]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        typer.echo(f"{row['name']:<24} {row['description']}")
    for name, offer in installed().offers.items():
        typer.echo(f"{name:<24} joins when the server starts ({type(offer).__name__})")
    for one in installed().left_out:
        typer.echo(f"{one.name:<24} left out, of {one.package}: {one.reason}", err=True)


@app.command("show")
def tools_show(name: str) -> None:
    """One tool's schema and card."""
    from tools.registry import tool_types

    if name not in tool_types():
        _fail(f"there is no tool {name!r}", f"the tools are {', '.join(tool_types())}")
    typer.echo(json.dumps(tool_types()[name].described(), indent=2))


@app.command("new")
def tools_new(
    name: Annotated[str, typer.Argument(help="Name of the tool: lower-case letters, digits, underscores.")],
    kind: Annotated[Kind, typer.Option(help="What it is made of.")] = Kind.PYTHON,
    source: Annotated[Path | None, typer.Option("--from", help="The bundle, results folder, network file or OpenAPI description; it is copied.")] = None,
    url: Annotated[str | None, typer.Option(help="Where an HTTP service answers.")] = None,
    modality: Annotated[str, typer.Option(help="Modality that it looks at.")] = "CT",
    out: Annotated[Path, typer.Option(help="Folder in which the package's own is made.")] = Path(),
) -> None:  # fmt: skip
    """Write a small package: one tool, its statement, a test, and the entry point that makes it known."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{2,40}", name) or keyword.iskeyword(name):
        _fail(f"{name!r} can't be a tool's name", "use lower-case letters, digits and underscores")
    target = out / name
    if target.exists():
        _fail(f"{target} is there already", "choose another name, or --out another folder")
    if kind in (Kind.BUNDLE, Kind.TORCHSCRIPT, Kind.ONNX, Kind.NNUNET) and (source is None or not source.exists()):
        _fail(f"a tool of kind {kind} needs --from with its model", "name the folder or file; it is copied into the package")
    made = scaffold(name, kind, source, url, modality)
    for path, content in made.items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_text(content, encoding="utf-8")
    package = target / f"consilium_{name}"
    if source is not None and kind is Kind.HTTP:
        shutil.copyfile(source, package / "openapi.yaml")
    elif source is not None and source.is_dir():
        shutil.copytree(source, package / "model", ignore=shutil.ignore_patterns("__pycache__", "docs", "*.zip"))
    elif source is not None:
        (package / "model").mkdir()
        shutil.copyfile(source, package / "model" / source.name)
    typer.echo(f"{target} is made. Next:\n  pip install -e {target}\n  consilium tools check {name}")


def scaffold(name: str, kind: Kind, source: Path | None = None, url: str | None = None, modality: str = "CT") -> dict[str, str]:
    """The package's files by path."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    model = kind in (Kind.BUNDLE, Kind.TORCHSCRIPT, Kind.ONNX, Kind.NNUNET)
    card = kind in (Kind.TORCHSCRIPT, Kind.ONNX, Kind.NNUNET)
    title = name.replace("_", " ")
    entry = "".join(w.capitalize() for w in name.split("_")) if kind is Kind.PYTHON else "OFFER"
    lies = "model" if source is None or source.is_dir() else f"model/{source.name}"
    told = {"name": name, "dashed": name.replace("_", "-"), "title": title[0].upper() + title[1:], "kind": str(kind), "entry": entry, "url": url,
            "modality": modality.upper(), "source": lies, "card": card}  # fmt: skip
    written = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True)  # noqa: S701 (no HTML)
    package = f"consilium_{name}"
    files = {"pyproject.toml": "pyproject.toml.j2", "README.md": "README.md.j2", f"tests/test_{name}.py": "test.py.j2",
             f"{package}/__init__.py": "model.py.j2" if model else f"{kind}.py.j2"}  # fmt: skip
    if card:
        files[f"{package}/card.yaml"] = "card.yaml.j2"
    if kind is Kind.MCP:
        files[f"{package}/server.py"] = "server.py.j2"
    if kind is Kind.HTTP and source is None:
        files[f"{package}/openapi.yaml"] = "openapi.yaml.j2"
    return {path: written.get_template(template).render(told) for path, template in files.items()}


@app.command("check")
def tools_check(
    name: Annotated[str, typer.Argument(help="A tool, or what a package calls its server or service.")], as_json: Json = False
) -> None:
    """Is a tool sound? One table: what was checked, how it went, and how to mend what isn't as it should be."""
    found = {tool: list(checked(kind)) for tool, kind in _named(name).items()}
    if as_json:
        typer.echo(json.dumps({t: [r.model_dump() for r in rows] for t, rows in found.items()}))
    else:
        for tool, rows in found.items():
            typer.echo(f"{tool}\n" + "\n".join(_line(r) for r in rows))
            counted = {k: sum(r.result == k for r in rows) for k in ("pass", "fail", "skipped")}
            typer.echo(", ".join(f"{n} {k}" for k, n in counted.items()) + "\n")
    raise typer.Exit(int(any(r.result == "fail" for rows in found.values() for r in rows)))


def _line(row: "Row") -> str:
    mark = {"pass": "pass", "fail": "FAIL", "skipped": "-"}[row.result]
    return f"  {row.check:<28} {mark:<5} {row.seen}" + (f"\n{'':37}mend: {row.mend}" if row.mend else "")


def _named(name: str) -> "dict[str, type[CaseTool] | None]":
    """The tool of that name, or those of the server or service; None for one that doesn't answer."""
    from tools.registry import installed, tool_types

    if name in tool_types():
        return {name: tool_types()[name]}
    if name in installed().offers:
        from serving.house import joined_of
        from serving.settings import Settings

        joined = {t.described()["name"]: t for t in joined_of(Settings(data=Path(tempfile.gettempdir())))}
        return {n: t for n, t in joined.items() if n.startswith(f"{name}_")} or {name: None}
    why = next((o for o in installed().left_out if o.name == name), None)
    _fail(f"{name} of {why.package} is left out: {why.reason}" if why else f"there is no tool {name!r}",
          "mend the package" if why else f"is its package installed? The tools are {', '.join(tool_types())}")  # fmt: skip
    return {}


def checked(tool: "type[CaseTool] | None") -> "Iterator[Row]":
    """The rows of a tool's checks, as they are done."""
    from agent.checking import Checker, Row
    from tools.base import Resources

    if tool is None:
        yield Row(check="statement", result="fail", seen="its server or service can't be asked for its tools", mend="see whether it starts; the log says why")  # fmt: skip
        return
    with tempfile.TemporaryDirectory() as folder:
        yield from Checker(tool, Resources.plain(Path(folder) / "guidelines"), Path(folder)).rows()


@app.command("phantom")
def tools_phantom(out: Annotated[Path, typer.Argument(help="Folder for the files.")]) -> None:
    """Write a made-up chest CT (DICOM) with a nodule and its outline, to try tools on."""
    from tools.phantoms import chest_ct, written_to

    files = chest_ct()
    written_to(out, files)
    typer.echo(f"{len(files)} files in {out}: a chest CT of the made-up patient PHANTOM, and the outline of its nodule")
