"""`c2s train`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from c2s.cli.files import say
from c2s.cli.options import (
    AsJson,
    Debug,
    Device,
    Out,
)


def _show(name: str | None) -> None:
    """Print a recipe and stop."""
    if name is not None:
        from c2s.training.shipped import recipe_text

        typer.echo(recipe_text(name), nl=False)
        raise typer.Exit


def _list(wanted: bool) -> None:
    """Print the names that recipes may use, and stop."""
    if not wanted:
        return
    from c2s.training.rewards.registry import REWARDS
    from c2s.training.shipped import grpo_settings, hyperparameters, recipe_names

    typer.echo(f"recipes: {', '.join(recipe_names())}")
    typer.echo(f"optimisation.preset: {', '.join(hyperparameters())}")
    typer.echo(f"policy.preset: {', '.join(grpo_settings())}")
    typer.echo("rewards:")
    for name, reward in REWARDS.items():
        typer.echo(f"  {name:<16} {(reward.__doc__ or '').splitlines()[0]}")
    raise typer.Exit


def train(
    recipe: Annotated[
        Path,
        typer.Argument(
            help="YAML recipe, or the name of one that comes with the package: cell-type, cell-generation, "
            "align-generation, pretrain.",
            show_default=False,
        ),
    ],
    out: Out,
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="Instead of the recipe's.", min=0, show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and stop.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")
    ] = False,
    launch: Annotated[
        str | None,
        typer.Option(
            "--launch",
            help="On several processes: ddp-gpus, fsdp2-gpus, ddp-cpu-2, fsdp2-cpu-2, or a file of accelerate.",
            show_default=False,
        ),
    ] = None,
    device: Device = None,
    show: Annotated[
        str | None,
        typer.Option(
            "--show",
            help="Print a recipe that comes with the package, to copy it, and stop.",
            is_eager=True,
            callback=_show,
            show_default=False,
            metavar="NAME",
        ),
    ] = None,
    names: Annotated[
        bool,
        typer.Option(
            "--list",
            help="Print the names of recipes, presets and rewards, and stop.",
            is_eager=True,
            callback=_list,
        ),
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a model: pre-training, fine-tuning, alignment with rewards, or a small one from labelled cells."""
    from c2s.common.config import read_yaml
    from c2s.common.errors import UsageError
    from c2s.training.recipe import is_training_recipe
    from c2s.training.shipped import shipped_recipe

    changes: dict[str, Any] = {} if seed is None else {"seed": seed}
    # A name has no folder and no suffix, a file has one or the other, or is there.
    named = not recipe.exists() and recipe.name == str(recipe) and not recipe.suffix
    content = shipped_recipe(str(recipe)) if named else read_yaml(recipe)
    if launch is not None and is_training_recipe(content) and not dry_run:
        _launch(launch, recipe, out, seed, resume, device, as_json, debug)
    elif is_training_recipe(content):
        _train(recipe, {**content, **changes}, out, dry_run, resume, seed, device, as_json)
    else:
        if (
            isinstance(content, dict)
            and content.keys() & {"base", "optimisation"}
            and "tasks" not in content
        ):
            raise UsageError(f"{recipe}: the field 'stage' is missing: pretrain, sft or grpo")
        if launch is not None:
            raise UsageError("--launch is for recipes with a stage; this one runs on one process")
        _train_small(recipe, {**content, **changes}, out, dry_run, resume, device, as_json)


def _launch(
    name: str, recipe: Path, out: Path, seed: int | None, resume: bool, device: str | None, as_json: bool, debug: bool
) -> None:  # fmt: skip
    """Run the same command on several processes."""
    from c2s.common.errors import Stopped
    from c2s.training.launch import launch

    command = _command(recipe, out, seed, device)
    for flag, given in (("--resume", resume), ("--json", as_json), ("--debug", debug)):
        command += [flag] if given else []
    code = launch(name, command)
    if code == Stopped.exit_code:
        raise Stopped(_go_on(out, [*_command(recipe, out, seed, device), "--launch", name]))
    if code:
        raise typer.Exit(code)


def _command(recipe: Path, out: Path, seed: int | None, device: str | None) -> list[str]:
    """Return the command that runs a recipe, as it was given."""
    command = ["train", str(recipe), "--out", str(out)]
    command += [] if seed is None else ["--seed", str(seed)]
    return command + ([] if device is None else ["--device", device])


def _go_on(out: Path, command: list[str]) -> str:
    """Return what is said when a run is stopped: how to go on, where there is something to go on with."""
    begun = (out / "recipe.yaml").is_file()
    return f"stopped; go on with: c2s {shlex.join(command)} --resume" if begun else "stopped"


def _train(
    path: Path, content: dict[str, Any], out: Path, dry_run: bool, resume: bool, seed: int | None,
    device: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Run a recipe with a stage."""
    from c2s.cli.stages import Stages
    from c2s.common.errors import UsageError, nearest
    from c2s.training.recipe import TrainingRecipe

    known = ("pretrain", "sft", "grpo")
    if content["stage"] not in known:
        close = nearest(str(content["stage"]), known, 1)
        raise UsageError(
            f"{path}: stage = {content['stage']!r}: expected pretrain, sft or grpo"
            + (f"; did you mean {close[0]!r}?" if close else "")
        )
    if content["stage"] == "grpo":
        _align(path, content, out, dry_run, resume, seed, device, as_json)
        return
    # What is wrong with the recipe is said before the heavy libraries are loaded.
    recipe = TrainingRecipe.parse(content, str(path))
    from c2s.training.folder import check_out
    from c2s.training.processes import is_first
    from c2s.training.run import run_recipe

    if dry_run:
        from c2s.cli.training_plan import plan_table
        from c2s.training.plan import plan

        check_out(recipe, out, resume)
        with Stages() as stages:
            facts = plan(recipe, path.resolve().parent, device=device, on_stage=stages)
        say(as_json, facts, plan_table(facts))
        return
    with _stopping_well(out, _command(path, out, seed, device)), Stages() as stages:
        facts = run_recipe(
            recipe, path.resolve().parent, out, resume=resume, device=device, on_stage=stages
        )
    if is_first():
        say(as_json, facts, f"model in {out / 'model'}; validation {facts['validation']}")


def _align(
    path: Path, content: dict[str, Any], out: Path, dry_run: bool, resume: bool, seed: int | None,
    device: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Run a recipe of alignment."""
    from c2s.cli.stages import Stages
    from c2s.common.errors import warn
    from c2s.training.grpo.recipe import AlignmentRecipe

    recipe, folder = AlignmentRecipe.parse(content, str(path)), path.resolve().parent
    from c2s.report.alignment import alignment_report
    from c2s.training.folder import check_out
    from c2s.training.grpo.run import plan_alignment, run_alignment
    from c2s.training.processes import is_first

    if dry_run:
        check_out(recipe, out, resume)
        with Stages() as stages:
            facts = plan_alignment(recipe, folder, on_stage=stages)
        say(as_json, facts, "\n".join(f"{k}: {v}" for k, v in facts.items()))
        return
    with _stopping_well(out, _command(path, out, seed, device)), Stages() as stages:
        facts = run_alignment(recipe, folder, out, resume=resume, device=device, on_stage=stages)
    if is_first():
        report = alignment_report(out)
        for sign in facts.get("signs", []):
            warn(sign)
        lines = [f"model in {out / 'model'}; report in {report}", *_changes(facts)]
        say(as_json, facts, "\n".join(lines))


def _changes(facts: dict[str, Any]) -> list[str]:
    """Return a line for each measure of an alignment, before and after."""
    from c2s.report.wording import number

    before, after = facts["before"], facts["after"]
    width = max(map(len, after), default=0)
    return [
        f"{name:<{width}}  {number(before.get(name))} → {number(after[name])}" for name in after
    ]


@contextmanager
def _stopping_well(out: Path, command: list[str]) -> Iterator[None]:
    """Say how a run that is stopped goes on."""
    from c2s.common.errors import Stopped
    from c2s.training.processes import world_size

    try:
        yield
    except KeyboardInterrupt:
        # Of several processes, whoever started them says how.
        alone = world_size() == 1
        raise Stopped(_go_on(out, command) if alone else "stopped") from None


def _train_small(
    path: Path, content: dict[str, Any], out: Path, dry_run: bool, resume: bool, device: str | None, as_json: bool
) -> None:  # fmt: skip
    """Run a recipe for labelled cells in memory, from random weights."""
    from c2s.cli.stages import Stages
    from c2s.common.errors import UsageError
    from c2s.studies.train import TrainRecipe, plan, run_training

    recipe = TrainRecipe.parse(content, str(path))
    if resume:
        raise UsageError(
            "--resume is for recipes with a stage; this one takes minutes and starts anew"
        )
    if dry_run:
        facts = plan(recipe)
        say(as_json, facts, "\n".join(f"{k}: {v}" for k, v in facts.items()))
        return
    with Stages() as stages:
        facts = run_training(recipe, out, device=device, on_stage=stages)
    say(as_json, facts, f"model in {out / 'model'}; validation loss {facts['validation_loss']}")
