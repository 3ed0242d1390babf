"""`c2s train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from c2s.cli.files import say
from c2s.cli.options import (
    AsJson,
    Debug,
    Device,
    Out,
)


def train(
    recipe: Annotated[
        Path,
        typer.Argument(help="YAML recipe; the documentation has an example.", show_default=False),
    ],
    out: Out,
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="Instead of the recipe's.", min=0, show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and stop.")
    ] = False,
    device: Device = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a model from random weights on labelled cells."""
    from c2s.cli.stages import Stages
    from c2s.studies.train import TrainRecipe, plan, run_training

    resolved = TrainRecipe.read(recipe)
    if seed is not None:
        resolved = resolved.model_copy(update={"seed": seed})
    if dry_run:
        facts = plan(resolved)
        say(as_json, facts, "\n".join(f"{k}: {v}" for k, v in facts.items()))
        return
    with Stages() as stages:
        facts = run_training(resolved, out, device=device, on_stage=stages)
    say(as_json, facts, f"model in {out / 'model'}; validation loss {facts['validation_loss']}")
