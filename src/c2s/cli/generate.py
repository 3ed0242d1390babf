"""`c2s generate`."""

from __future__ import annotations

import json
import sys
from collections.abc import Container
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from c2s.cli.files import check_out, say, write_h5ad
from c2s.cli.options import (
    AsJson,
    BatchSize,
    Debug,
    Device,
    DeviceMap,
    Dtype,
    EngineOption,
    ModelName,
    OptionalOut,
    Profile,
    Prompts,
    Quantize,
    Seed,
    TopK,
    gene_list,
    gene_names,
    open_model,
)
from c2s.common.errors import UsageError, counted


def generate(
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            help='A request, as "generate 7 human cells from kidney tissue"; what is not understood is sent as it is.',
            show_default=False,
        ),
    ] = None,
    cell_type: Annotated[
        list[str] | None,
        typer.Option(
            "--cell-type", help="A cell type; may be given several times.", show_default=False
        ),
    ] = None,
    tissue: Annotated[
        str | None,
        typer.Option("--tissue", help="Where the cells come from.", show_default=False),
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            "--condition",
            help="Another condition of the model, as name=text; may be given several times.",
            show_default=False,
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "-n", "--n", help="Cells of each type; by default 1.", min=1, show_default=False
        ),
    ] = None,
    per_sample: Annotated[
        int | None,
        typer.Option(
            "--per-sample",
            help="Cells that are written together, as those of one sample.",
            min=1,
            show_default=False,
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
    temperature_end: Annotated[
        float | None,
        typer.Option(
            "--temperature-end",
            help="Of the last gene, with equal steps from --temperature; by default the same.",
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
            help="File with one gene a line, or an .h5ad: only these genes may be written.",
            show_default=False,
        ),
    ] = None,
    forbid: Annotated[
        str | None,
        typer.Option(
            "--forbid", help="Genes that are not written: A,B or a file.", show_default=False
        ),
    ] = None,
    require: Annotated[
        str | None,
        typer.Option(
            "--require", help="Genes that every cell has: A,B or a file.", show_default=False
        ),
    ] = None,
    profile: Profile = None,
    prompts: Prompts = None,
    device: Device = None,
    dtype: Dtype = None,
    device_map: DeviceMap = None,
    quantize: Quantize = None,
    batch_size: BatchSize = None,
    engine: EngineOption = "transformers",
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse what the model never saw.")
    ] = False,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Generate cells: sentences on the terminal, or an .h5ad with expression and sentences."""
    from c2s.analysis.generate import default_sampling
    from c2s.analysis.generate import generate as run
    from c2s.analysis.requests import parse_generation_request

    if prompt is not None and (cell_type or tissue or condition):
        raise UsageError(
            "give either --prompt or conditions (--cell-type, --tissue, --condition), not both"
        )
    if out is not None:
        check_out(out, ".h5ad")
    loaded = open_model(model, device, dtype, device_map, quantize, profile, prompts, engine)
    request = None
    if prompt is not None:
        request = parse_generation_request(prompt, loaded).beside(n, organism, top_k)
        if not request.unknown:
            print(f"understood as: {request}", file=sys.stderr)
    start = default_sampling(loaded, temperature=temperature).temperature
    adata = run(
        loaded, cell_type, n, tissue=tissue, organism=organism, prompt=prompt, per_sample=per_sample, top_k=top_k,
        genes=gene_names(genes) if genes is not None else None, forbid=gene_list(forbid), require=gene_list(require),
        temperature=start if temperature_end is None else (cast(float, start), temperature_end), top_p=top_p,
        batch_size=batch_size, strict=strict, seed=seed, engine=engine,
        **_conditions(condition or [], signature(run).parameters),
    )  # fmt: skip
    if out is not None:
        write_h5ad(adata, out)
        say(
            as_json,
            {"cells": adata.n_obs, "out": str(out)},
            f"{counted(adata.n_obs, 'cell')} in {out}",
        )
        return
    shown = [c for c in ("sample", "cell_type", "tissue") if c in adata.obs]
    as_it_is = request is not None and bool(request.unknown)
    shown = shown or ["organism" if "organism" in adata.obs and not as_it_is else "prompt"]
    cells = adata.obs[[*shown, "cell_sentence"]].astype(str)
    if as_json:
        print(json.dumps(cells.to_dict("records")))
    else:
        for row in cells.itertuples(index=False):
            print("\t".join(row))


def _conditions(given: list[str], arguments: Container[str]) -> dict[str, Any]:
    """Return `--condition name=text` options by name; what is an argument has an option of its own."""
    conditions = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals or not text or name in arguments:
            raise UsageError(f"--condition {item!r}: give name=text, a condition of the model")
        conditions[name] = text
    return conditions
