"""`c2s embed`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from c2s.cli.files import check_out, resumed, say, work_on_file, write_h5ad
from c2s.cli.options import (
    AsJson,
    BatchSize,
    ChunkSize,
    Debug,
    Device,
    DeviceMap,
    Dtype,
    Genes,
    Input,
    Layer,
    ModelName,
    Organism,
    Out,
    Profile,
    Prompts,
    Quantize,
    Seed,
    TopK,
    genes_option,
    open_model,
)
from c2s.common.errors import UsageError, counted

if TYPE_CHECKING:
    from c2s.encoders.c2s_model import EmbeddedTokens


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
    tokens: Annotated[
        str | None,
        typer.Option(
            "--tokens",
            help="Mean over all tokens of the prompt (prompt, the default) or those of the cell's genes (cell).",
            show_default=False,
        ),
    ] = None,
    genes: Genes = None,
    layer: Layer = None,
    top_k: TopK = None,
    device: Device = None,
    dtype: Dtype = None,
    device_map: DeviceMap = None,
    quantize: Quantize = None,
    batch_size: BatchSize = None,
    chunk_size: ChunkSize = None,
    seed: Seed = 0,
    organism: Organism = None,
    profile: Profile = None,
    prompts: Prompts = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Embed every cell with a model, or place it with an encoder; writes a copy of the data as .h5ad with obsm.

    With a model an .h5ad file may be of any size: a run that is broken off goes on where it stopped.
    """
    from c2s.analysis.embed import Embedding
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
            ("--tokens", tokens),
            ("--device-map", device_map),
            ("--quantize", quantize),
            ("--chunk-size", chunk_size),
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
        say(
            as_json,
            facts,
            f"{counted(adata.n_obs, 'cell')} × {width} in obsm[{key!r}] of {out}, by {name}",
        )
        return
    work_key = key or "X_c2s"
    done = work_on_file(
        source,
        out,
        lambda rows: Embedding(
            rows, open_model(model, device, dtype, device_map, quantize, profile, prompts), key_added=work_key,
            tokens=cast("EmbeddedTokens", tokens or "prompt"), genes=genes_option(genes), top_k=top_k,
            organism=organism, batch_size=batch_size, seed=seed,
        ),
        layer=layer,
        chunk_size=chunk_size,
    )  # fmt: skip
    width = done.widths[work_key]
    say(
        as_json,
        {"cells": len(done.obs), "dimensions": width, "out": str(out)},
        f"{counted(len(done.obs), 'cell')}{resumed(done)} × {width} in obsm[{work_key!r}] of {out}",
    )
