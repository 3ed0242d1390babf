"""`c2s model`: adapters merged, and models of other formats brought in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from c2s.cli.files import say
from c2s.cli.options import AsJson, Debug, Dtype, Out

app = typer.Typer(help="Merge adapters, and import models.", no_args_is_help=True)


@app.command()
def merge(
    adapter: Annotated[
        Path, typer.Argument(help="Model directory with an adapter.", show_default=False)
    ],
    out: Out,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            help="Folder or hub id of its base, where that is not where it was.",
            show_default=False,
        ),
    ] = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Merge an adapter into its base: a model directory that stands by itself."""
    from c2s.models.adapters import merge as merge_adapter

    model = merge_adapter(adapter, base=base, dtype=dtype)
    model.save(out)
    facts = {"model": str(out), "parameters": model.n_parameters}
    say(as_json, facts, f"merged model in {out} ({model.n_parameters:,} parameters)")


@app.command(name="import")
def import_model(
    file: Annotated[Path, typer.Argument(help="GGUF file.", show_default=False)],
    out: Out,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make a Hugging Face folder of a GGUF file, to train further."""
    from c2s.models.gguf import import_gguf

    done = import_gguf(file, out)
    facts = {**done._asdict(), "folder": str(done.folder)}
    say(
        as_json,
        facts,
        f"{done.architecture} with {done.parameters:,} parameters, context {done.context:,}, in {done.folder}",
    )
