"""`c2s scaling`."""

from __future__ import annotations

from typing import Annotated

import typer

from c2s.cli.files import say
from c2s.cli.options import AsJson, Debug, Device, Out


def scaling(
    recipe: Annotated[
        str,
        typer.Argument(
            help="YAML recipe, or pancreas-scaling, which comes with the package.",
            show_default=False,
        ),
    ],
    out: Out,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the trainings, and stop.")
    ] = False,
    device: Device = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a family of sizes on shares of the data, measure them and fit power laws; goes on where it was stopped."""
    from c2s.cli.stages import Stages
    from c2s.studies.scaling import plan, run_scaling
    from c2s.studies.scaling_recipe import find_scaling
    from c2s.studies.scaling_results import results_table

    found, folder = find_scaling(recipe)
    if dry_run:
        trainings = list(plan(found, folder))
        say(as_json, {"trainings": trainings}, "\n".join(trainings))
        return
    with Stages() as stages:
        summary = run_scaling(found, folder, out, device=device, on_stage=stages)
    lines = [*results_table(summary), f"Results: {out.resolve()}"]
    say(as_json, summary, "\n".join(lines))
