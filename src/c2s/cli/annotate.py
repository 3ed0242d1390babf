"""`c2s annotate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from c2s.cli.files import resumed, say, work_on_file
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
    Out,
    Quantize,
    Seed,
    TopK,
    genes_option,
    open_model,
)
from c2s.common.errors import UsageError

if TYPE_CHECKING:
    from c2s.analysis.cells import Rows


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
    device_map: DeviceMap = None,
    quantize: Quantize = None,
    batch_size: BatchSize = None,
    chunk_size: ChunkSize = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse labels that the model never saw.")
    ] = False,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Name the type of every cell, with a probability; writes a copy of the data as .h5ad.

    An .h5ad file may be of any size: a run that is broken off goes on where it stopped.
    """
    from c2s.analysis.annotate import Annotation

    def make(rows: Rows) -> Annotation:
        if truth is not None and truth not in rows.obs:
            columns = ", ".join(map(str, rows.obs.columns)) or "none"
            raise UsageError(f"{source}: obs has no column {truth!r}; it has: {columns}")
        return Annotation(
            rows, open_model(model, device, dtype, device_map, quantize), labels or None, key_added=key,
            confidence_key=confidence_key, top_n=top_n, entropy_key=entropy_key, min_confidence=min_confidence,
            unknown=unknown, views=views, genes=genes_option(genes), top_k=top_k, batch_size=batch_size,
            strict=strict, seed=seed,
        )  # fmt: skip

    done = work_on_file(source, out, make, layer=layer, chunk_size=chunk_size)
    obs = done.obs
    counts = {str(k): int(v) for k, v in obs[key].value_counts().items() if v}
    facts: dict[str, Any] = {"cells": len(obs), "labels": counts, "out": str(out)}
    text = f"{len(obs):,} cells{resumed(done)} in {out}: "
    text += ", ".join(f"{k} {v:,}" for k, v in counts.items())
    if truth is not None:
        known = obs[truth].notna()
        same = obs[key].astype(object)[known] == obs[truth].astype(object)[known]
        facts["accuracy"] = float(same.mean())
        text += f"\nagrees with obs[{truth!r}] for {facts['accuracy']:.1%} of the cells"
    say(as_json, facts, text)
