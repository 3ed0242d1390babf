"""`c2s embed`."""

from __future__ import annotations

from typing import Annotated

import typer

from c2s.cli.files import check_out, say, write_h5ad
from c2s.cli.options import (
    AsJson,
    BatchSize,
    Debug,
    Device,
    Dtype,
    Genes,
    Input,
    Layer,
    ModelName,
    Organism,
    Out,
    Profile,
    Prompts,
    Seed,
    TopK,
    genes_option,
    open_model,
)
from c2s.common.errors import UsageError


def embed(
    source: Input,
    out: Out,
    model: ModelName = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            help="Instead of a model: pca, pca:FILE.npz, scvi:FOLDER, scgpt:FOLDER, geneformer:FOLDER.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", help="Name in obsm; by default X_c2s, X_pca, …", show_default=False),
    ] = None,
    genes: Genes = None,
    layer: Layer = None,
    top_k: TopK = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    organism: Organism = None,
    profile: Profile = None,
    prompts: Prompts = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Embed every cell with a model, or place it with an encoder; writes a copy of the data as .h5ad with obsm."""
    from c2s.analysis.embed import embed as run
    from c2s.analysis.encode import encode
    from c2s.cells.readers import read

    check_out(out, ".h5ad")
    if encoder is not None:
        for option, value in (
            ("--model", model),
            ("--genes", genes),
            ("--top-k", top_k),
            ("--dtype", dtype),
            ("--organism", organism),
            ("--profile", profile),
            ("--prompts", prompts),
        ):
            if value is not None:
                raise UsageError(f"{option} belongs to a model; give either it or --encoder")
        key = key or f"X_{encoder.partition(':')[0]}"
        adata = read(source)
        encode(
            adata,
            encoder,
            key_added=key,
            layer=layer,
            device=device,
            batch_size=batch_size,
            seed=seed,
        )
        write_h5ad(adata, out)
        name, width = adata.uns["c2s"]["encode"]["model"], adata.obsm[key].shape[1]
        facts = {"cells": adata.n_obs, "dimensions": width, "encoder": name, "out": str(out)}
        say(as_json, facts, f"{adata.n_obs:,} cells × {width} in obsm[{key!r}] of {out}, by {name}")
        return
    key = key or "X_c2s"
    adata = read(source)
    run(
        adata, open_model(model, device, dtype, profile, prompts), key_added=key, organism=organism,
        genes=genes_option(genes), layer=layer, top_k=top_k, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    write_h5ad(adata, out)
    width = adata.obsm[key].shape[1]
    say(
        as_json,
        {"cells": adata.n_obs, "dimensions": width, "out": str(out)},
        f"{adata.n_obs:,} cells × {width} in obsm[{key!r}] of {out}",
    )
