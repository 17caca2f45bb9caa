"""Pages of the documentation that are made from the code: tools with their cards, REST operations, settings, commands, and the house's picture."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import grimp
import mkdocs_gen_files

ROOMS = ("knowledge", "tools", "agent", "serving")
SAYS = {"knowledge": "what is known: studies, records, guidelines, evidence", "tools": "what is done with it: models, measures, reports",
        "agent": "who answers: planner, grounding, memory", "serving": "who is served: page, REST, FHIR, DICOM, MCP, command line"}  # fmt: skip


def page(path: str, text: str) -> None:
    with mkdocs_gen_files.open(path, "w") as file:
        file.write(text)


def tools() -> str:
    from tools.registry import IN_THE_BOX

    parts = ["# Tools\n\nWritten from the tools' own statements. Research use only; not a medical device.\n"]
    for tool in IN_THE_BOX:
        told = tool.described()
        card, needs = told["card"], told["needs"]
        parts.append(f"## {told['name']}\n\n{told['description']}\n")
        parts.append("\n".join(f"* **{n}:** {card[k]}" for n, k in (("For", "intended_use"), ("How well", "accuracy"), ("Limits", "limits"), ("Licence", "licence"), ("Version", "version"))))  # fmt: skip
        wants = "; ".join(f"{k.replace('_', ' ')} {', '.join(v)}" for k, v in needs.items() if v and not isinstance(v, bool))
        parts.append(
            f"* **Needs:** {'a case' if needs['case'] else 'no case'}{'; ' + wants if wants else ''}\n* **Gives:** {', '.join(told['gives'])}"
        )
        parts.append(f"* **Takes:** some {told['cost']['seconds']:g} s and {told['cost']['memory_mb']} MB; {told['effect']}\n")
        parts.append("Asked, for example: " + " · ".join(f"*{q}*" for q in told["asks"]) + "\n")
        rows = [(n, p.get("description", "")) for n, p in told["parameters"].get("properties", {}).items()]
        if rows:
            parts.append("| argument | |\n|---|---|\n" + "\n".join(f"| `{n}` | {d.replace('|', '/')} |" for n, d in rows) + "\n")
    return "\n".join(parts)


def rest() -> str:
    from serving.app import create_app
    from serving.settings import Settings

    spec = create_app(Settings(no_auth=True)).openapi()
    parts = ["# REST\n\nWritten from the schema that a running server gives at `/openapi.json`.\n", "| | | |\n|---|---|---|"]
    for path, item in sorted(spec["paths"].items()):
        for method, operation in item.items():
            parts.append(f"| {method.upper()} | `{path}` | {operation.get('summary', '')} |")
    return "\n".join(parts) + "\n"


def settings() -> str:
    from serving.settings import Settings

    rows = [
        "# Settings\n\nIn `consilium.toml`, or as `CONSILIUM_…` in the environment. Written from `serving/settings.py`.\n",
        "| | default | |\n|---|---|---|",
    ]
    for name, told in Settings.model_fields.items():
        default = "" if told.default_factory or told.is_required() else json.dumps(told.default, default=str)
        rows.append(f"| `{name}` | {f'`{default}`' if default else ''} | {str(told.description).replace('|', '/')} |")
    return "\n".join(rows) + "\n"


def commands() -> str:
    import typer

    from serving.cli import app

    def walk(command: Any, name: str) -> list[str]:
        found = [f"## {name}\n\n{(command.help or '').strip()}\n"] if not hasattr(command, "commands") else []
        rows = [
            f"| `{' '.join(p.opts) or p.name}` | {str(getattr(p, 'help', '') or '').replace('|', '/')} |"
            for p in command.params
            if p.name != "help"
        ]
        if found and rows:
            found.append("| | |\n|---|---|\n" + "\n".join(rows) + "\n")
        return found + [line for n, c in getattr(command, "commands", {}).items() for line in walk(c, f"{name} {n}")]

    return "# The command line\n\nWritten from the commands themselves.\n\n" + "\n".join(
        walk(typer.main.get_command(app), "consilium")
    )


def house() -> str:
    """The rooms as the code has them: who imports whom, counted."""
    graph = grimp.build_graph(*ROOMS, cache_dir=None)
    room = {m: m.split(".")[0] for m in graph.modules}
    sizes, edges = Counter(room.values()), Counter[tuple[str, str]]()
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            if room[module] != room[other]:
                edges[room[module], room[other]] += 1
    width, gap, boxes, arrows = 190, 50, [], []
    for n, name in enumerate(ROOMS):
        x = 10 + n * (width + gap)
        boxes.append(f'<g><rect x="{x}" y="90" width="{width}" height="76" rx="8" fill="none" stroke="currentColor"/><text x="{x + width / 2}" y="118" text-anchor="middle" '
                     f'font-weight="600" fill="currentColor">{name}</text><text x="{x + width / 2}" y="142" text-anchor="middle" font-size="12" fill="currentColor">{sizes[name]} modules</text></g>')  # fmt: skip
    for (one, other), count in sorted(edges.items()):
        a, b = ROOMS.index(one), ROOMS.index(other)
        start, end = 10 + a * (width + gap) + width / 2, 10 + b * (width + gap) + width / 2
        high = 88 - 22 * (a - b)
        arrows.append(f'<path d="M {start} 90 Q {(start + end) / 2} {high - 20} {end} 90" fill="none" stroke="currentColor" marker-end="url(#tip)" opacity="0.7"/>'
                      f'<text x="{(start + end) / 2}" y="{(90 + high - 20) / 2 + 2}" text-anchor="middle" font-size="12" fill="currentColor">{count}</text>')  # fmt: skip
    picture = (f'<svg viewBox="0 0 {20 + 4 * width + 3 * gap} 180" role="img" aria-label="Rooms and imports">'
               '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="currentColor"/></marker></defs>'
               f'{"".join(arrows)}{"".join(boxes)}</svg>')  # fmt: skip
    rows = "\n".join(
        f"| **{n}** | {SAYS[n]} | {', '.join(f'{b} ({c})' for (a, b), c in sorted(edges.items()) if a == n) or 'nothing'} |"
        for n in ROOMS
    )
    widest = Counter(m for m in graph.modules for _ in graph.find_modules_that_directly_import(m)).most_common(12)
    leaned = "\n".join(f"| `{m}` | {c} |" for m, c in widest)
    return (f"# The house\n\nDrawn from the imports of the code when this page was built. A room imports only what stands left of it (import-linter holds it); "
            f"the numbers count imports.\n\n{picture}\n\n| room | | imports |\n|---|---|---|\n{rows}\n\n## What the others lean on\n\n| module | imported by |\n|---|---|\n{leaned}\n")  # fmt: skip


def notebook(name: str) -> str:
    """A notebook's cells as a page."""
    cells = json.loads((Path(__file__).parent / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    shown = ["".join(c["source"]) if c["cell_type"] == "markdown" else f"```python\n{''.join(c['source'])}\n```" for c in cells]
    return "\n\n".join(shown) + "\n"


page("notebooks/researchers.md", notebook("researchers"))
page("reference/tools.md", tools())
page("reference/rest.md", rest())
page("reference/settings.md", settings())
page("reference/cli.md", commands())
page(
    "reference/kit.md",
    "# What tools are made of\n\n::: tools.kit\n\n::: tools.kinds\n\n::: tools.phantoms\n\n::: tools.base.CaseTool\n\n::: tools.base.Bench\n",
)
page("reference/client.md", "# The Python client\n\n::: serving.client\n")
page("house.md", house())
