"""`c2s generate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from c2s.cli.files import check_out, say, text_lines, write_h5ad
from c2s.cli.options import (
    AsJson,
    BatchSize,
    Debug,
    Device,
    Dtype,
    EngineOption,
    ModelName,
    OptionalOut,
    Seed,
    TopK,
    open_model,
)
from c2s.common.errors import UsageError


def generate(
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", help='A request, as "generate 7 human beta cells".', show_default=False
        ),
    ] = None,
    cell_type: Annotated[
        list[str] | None,
        typer.Option(
            "--cell-type", help="A cell type; may be given several times.", show_default=False
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "-n", "--n", help="Cells of each type; by default 1.", min=1, show_default=False
        ),
    ] = None,
    organism: Annotated[
        str | None, typer.Option("--organism", help="As 'Homo sapiens'.", show_default=False)
    ] = None,
    out: OptionalOut = None,
    model: ModelName = None,
    top_k: TopK = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            help="Of sampling; by default the model's.",
            min=0.0,
            show_default=False,
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            "--top-p",
            help="Sample from the most probable tokens that reach this; by default the model's.",
            show_default=False,
        ),
    ] = None,
    genes: Annotated[
        Path | None,
        typer.Option(
            "--genes",
            help="File with one gene a line: only these may be written.",
            show_default=False,
        ),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    engine: EngineOption = "transformers",
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a type that the model never saw.")
    ] = False,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Generate cells: sentences on the terminal, or an .h5ad with expression and sentences."""
    from c2s.analysis.generate import generate as run
    from c2s.analysis.requests import parse_generation_request

    if prompt is not None and cell_type:
        raise UsageError("give either --prompt or --cell-type, not both")
    if out is not None:
        check_out(out, ".h5ad")
    loaded = open_model(model, device, dtype, engine)
    wanted: list[str] | None = cell_type
    if prompt is not None:
        request = parse_generation_request(prompt, loaded)
        print(f"understood as: {request}", file=sys.stderr)
        if organism is not None and request.organism not in (None, organism):
            raise UsageError(
                f"the request says {request.organism}, --organism says {organism}; give one"
            )
        if n is not None and request.n not in (None, n):
            raise UsageError(f"the request says {request.n} cells, --n says {n}; give one")
        n, organism = n or request.n, request.organism or organism
        wanted = [request.cell_type] if request.cell_type else None
    panel = text_lines(genes) if genes is not None else None
    adata = run(
        loaded, wanted, n or 1, organism=organism, top_k=top_k, genes=panel, temperature=temperature, top_p=top_p,
        batch_size=batch_size, strict=strict, seed=seed, engine=engine,
    )  # fmt: skip
    if out is not None:
        write_h5ad(adata, out)
        say(as_json, {"cells": adata.n_obs, "out": str(out)}, f"{adata.n_obs:,} cells in {out}")
        return
    cells = list(zip(adata.obs["cell_type"].astype(str), adata.obs["cell_sentence"], strict=True))
    if as_json:
        print(json.dumps([{"cell_type": t, "cell_sentence": s} for t, s in cells]))
    else:
        for t, s in cells:
            print(f"{t}\t{s}")
