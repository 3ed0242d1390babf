"""`c2s calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from c2s.cli.files import say
from c2s.cli.options import (
    AsJson,
    BatchSize,
    Debug,
    Device,
    Genes,
    Input,
    Layer,
    ModelName,
    Organism,
    Profile,
    Prompts,
    Seed,
    TopK,
    genes_option,
    open_model,
)
from c2s.common.errors import UsageError, counted


def calibrate(
    source: Input,
    truth: Annotated[
        str, typer.Option("--truth", help="Column of obs with the true labels.")
    ] = "cell_type",
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="Folder for a calibrated copy; by default the model's own c2s.json is changed.",
            show_default=False,
        ),
    ] = None,
    model: ModelName = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            help="A candidate; give it once for each. By default those trained on.",
            show_default=False,
        ),
    ] = None,
    organism: Organism = None,
    profile: Profile = None,
    prompts: Prompts = None,
    views: Annotated[
        int, typer.Option("--views", help="As many as annotate will be asked for.", min=1)
    ] = 1,
    genes: Genes = None,
    layer: Layer = None,
    top_k: TopK = None,
    device: Device = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Fit how sure annotation may be, on labelled cells that the model was not trained on; the model keeps it."""
    from c2s.analysis.calibrate import calibrate as run
    from c2s.cells.readers import read
    from c2s.models.directory import C2S_JSON

    asked = open_model(model, device, None, profile=profile, prompts=prompts)
    if out is None and not (Path(asked.source) / C2S_JSON).is_file():
        raise UsageError(
            f"{asked.source}: is no folder whose c2s.json can keep the temperature; give --out for a calibrated copy"
        )
    found = run(
        read(source), asked, truth, labels or None, organism=organism, views=views, top_k=top_k,
        genes=genes_option(genes), layer=layer, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    if out is None:
        asked.save_card()
    else:
        asked.save(out)
    place = str(out) if out is not None else asked.source
    text = (
        f"temperature {found['temperature']:.3g}, from {counted(int(found['n_cells']), 'cell')}: expected calibration"
        f" error {found['ece_before']:.3f} before, {found['ece_after']:.3f} after\nkept in {place}"
    )
    say(as_json, {**found, "out": place}, text)
