"""`c2s study`: published protocols on local files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from c2s.cli.options import AsJson, Debug, Device, Layer

app = typer.Typer(
    help="Studies: published protocols as recipes, run on local files.", no_args_is_help=True
)

Name = Annotated[
    str, typer.Argument(help="A recipe (YAML), or the name of a packaged one.", show_default=False)
]


@app.command()
def run(
    study: Name,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder for the results.", show_default=False),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="Cells with raw counts and labels, instead of the recipe's.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Measure this model directory or hub id; nothing is trained then.",
            show_default=False,
        ),
    ] = None,
    layer: Layer = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="Instead of the recipe's.", min=0, show_default=False),
    ] = None,
    device: Device = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all that can be checked, and stop.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run a study and leave a folder with summary.md, results.csv and what they come from."""
    from c2s.cli.stages import Stages
    from c2s.common.errors import UsageError
    from c2s.studies.recipe import find_study, with_changes
    from c2s.studies.run import plan_study, run_study

    name, recipe = find_study(study)
    changes = {"data": data, "model": model, "layer": layer, "seed": seed}
    recipe = with_changes(recipe, changes)
    if dry_run:
        facts = plan_study(name, recipe, device=device)
        print(json.dumps(facts) if as_json else _plan_text(facts))
        return
    if out is None:
        raise UsageError("--out is missing: name a folder for the results, or give --dry-run")
    with Stages() as stages:
        run_study(name, recipe, out, device=device, on_stage=stages)
    if as_json:
        print((out / "results.json").read_text("utf-8"), end="")
    else:
        print((out / "summary.md").read_text("utf-8"))
        print(f"Results: {out.resolve()}")


def _plan_text(facts: dict[str, Any]) -> str:
    cells = facts["cells"]
    lines = [f"{facts['study']} ({facts['kind']}) on {cells['name']}, {cells['genes']:,} genes"]
    for part, numbers in cells["parts"].items():
        lines.append(f"{part}: " + ", ".join(f"{n:,} {what}" for what, n in numbers.items()))
    model = facts["model"] or {"source": "none"}
    lines.append(
        "model: " + ", ".join(f"{v}" if k == "source" else f"{k} {v}" for k, v in model.items())
    )
    return "\n".join([*lines, *facts["notes"]])


@app.command("list")
def list_studies(as_json: AsJson = False, debug: Debug = False) -> None:
    """List the packaged studies."""
    from rich.console import Console
    from rich.table import Table

    from c2s.studies.recipe import packaged_studies

    found = packaged_studies()
    if as_json:
        rows = [
            {"name": name, "kind": r.kind, "title": r.title, "data": r.data}
            for name, r in found.items()
        ]
        print(json.dumps(rows))
        return
    table = Table()
    for column in ("name", "kind", "what", "cells"):
        table.add_column(column, no_wrap=column == "name")
    for name, recipe in found.items():
        table.add_row(name, recipe.kind, recipe.title, recipe.data or "to be given with --data")
    Console().print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of a packaged study.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="Write it there; by default to the terminal.", show_default=False
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Show the recipe of a packaged study, to be changed and run."""
    from c2s.common.errors import UsageError
    from c2s.common.files import atomic_file
    from c2s.studies.recipe import packaged_text

    text = packaged_text(name)
    if out is None:
        print(text, end="")
        return
    if out.exists():
        raise UsageError(
            f"--out {out}: exists already, and a recipe that was changed would be lost"
        )
    with atomic_file(out) as path:
        path.write_text(text, "utf-8")
    print(f"{out}: change it, then run it with c2s study run {out}")
