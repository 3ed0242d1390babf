"""`c2s annotate`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from c2s.cli.files import check_out, say, write_h5ad
from c2s.cli.options import (
    AsJson,
    BatchSize,
    Debug,
    Device,
    Dtype,
    EngineOption,
    Genes,
    Input,
    Layer,
    ModelName,
    Out,
    Seed,
    TopK,
    genes_option,
    open_model,
)
from c2s.common.errors import UsageError


def annotate(
    source: Input,
    out: Out,
    model: ModelName = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            help="A candidate; give it once for each. By default those trained on.",
            show_default=False,
        ),
    ] = None,
    views: Annotated[
        int, typer.Option("--views", help="Average over so many wordings and draws of ties.", min=1)
    ] = 1,
    key: Annotated[
        str, typer.Option("--key", help="Column of obs for the label.")
    ] = "c2s_cell_type",
    confidence_key: Annotated[
        str, typer.Option("--confidence-key", help="Column of obs for its probability.")
    ] = "c2s_confidence",
    top_n: Annotated[
        int | None,
        typer.Option(
            "--top-n",
            help="Also a table of so many labels a cell, in obsm.",
            min=1,
            show_default=False,
        ),
    ] = None,
    entropy_key: Annotated[
        str | None,
        typer.Option(
            "--entropy-key",
            help="Also a column of obs for the entropy in nats.",
            show_default=False,
        ),
    ] = None,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            "--min-confidence",
            help="A cell whose best label is less probable is called unknown.",
            min=0,
            max=1,
            show_default=False,
        ),
    ] = None,
    unknown: Annotated[
        str, typer.Option("--unknown", help="What such a cell is called.")
    ] = "unknown",
    truth: Annotated[
        str | None,
        typer.Option(
            "--truth", help="Column of obs with known labels to compare with.", show_default=False
        ),
    ] = None,
    genes: Genes = None,
    layer: Layer = None,
    top_k: TopK = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
    engine: EngineOption = "transformers",
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse labels that the model never saw.")
    ] = False,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Name the type of every cell, with a probability; writes a copy of the data as .h5ad."""
    from c2s.analysis.annotate import annotate as run
    from c2s.cells.readers import read

    check_out(out, ".h5ad")
    adata = read(source)
    if truth is not None and truth not in adata.obs:
        raise UsageError(
            f"{source}: obs has no column {truth!r}; it has: {', '.join(map(str, adata.obs.columns)) or 'none'}"
        )
    run(
        adata, open_model(model, device, dtype, engine), labels or None, key_added=key,
        confidence_key=confidence_key, top_n=top_n, entropy_key=entropy_key,
        min_confidence=min_confidence, unknown=unknown, views=views,
        genes=genes_option(genes), layer=layer, top_k=top_k, batch_size=batch_size, strict=strict, seed=seed,
        engine=engine,
    )  # fmt: skip
    write_h5ad(adata, out)
    counts = {str(k): int(v) for k, v in adata.obs[key].value_counts().items() if v}
    facts: dict[str, Any] = {"cells": adata.n_obs, "labels": counts, "out": str(out)}
    text = f"{adata.n_obs:,} cells in {out}: " + ", ".join(f"{k} {v:,}" for k, v in counts.items())
    if truth is not None:
        known = adata.obs[truth].notna()
        same = adata.obs[key].astype(object)[known] == adata.obs[truth].astype(object)[known]
        facts["accuracy"] = float(same.mean())
        text += f"\nagrees with obs[{truth!r}] for {facts['accuracy']:.1%} of the cells"
    say(as_json, facts, text)
