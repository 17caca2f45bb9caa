"""`consilium similar`: the index by which similar cases are found."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The index of this archive's own cases (find_similar_cases).", no_args_is_help=True)


@app.command("index")
def similar_index(data: Annotated[Path | None, typer.Option(help="The data folder.")] = None) -> None:
    """Put every study that an installed network knows into the index; studies that are there already are left."""
    from knowledge.case import open_case
    from serving.house import build
    from serving.settings import Settings
    from tools.base import Bench
    from tools.errors import ToolError
    from tools.similar import indexed

    settings = Settings() if data is None else Settings(data=data)
    if not settings.similar_cases:
        typer.echo(
            "similar_cases is off: set CONSILIUM_SIMILAR_CASES=true and name roles in CONSILIUM_SIMILAR_FOR, then index", err=True
        )
        raise typer.Exit(2)
    house = build(settings)
    index = house.resources.cases
    assert index is not None
    done, without = 0, 0
    for patient in house.archive.patient_ids():
        bench = Bench(house.resources, open_case(house.archive, patient))
        for study in bench.required_case.studies:
            try:
                indexed(bench, index, study)
                done += 1
            except ToolError:
                without += 1
    house.archive.note("local", "index similar cases", "", {"studies": done})
    typer.echo(f"{done} studies are in the index; {without} are of kinds that no network here knows")
    house.close()
