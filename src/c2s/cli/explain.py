"""`c2s explain`."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from c2s.cli.files import check_out, say
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
from c2s.common.errors import UsageError, counted

if TYPE_CHECKING:
    import pandas as pd

    from c2s.analysis.deletion import DeletionTest


def explain(
    source: Input,
    out: Out,
    model: ModelName = None,
    label: Annotated[
        str | None,
        typer.Option(
            "--label",
            help="Explain this label; by default the most probable one.",
            show_default=False,
        ),
    ] = None,
    label_key: Annotated[
        str | None,
        typer.Option(
            "--label-key",
            help="Column of obs with the label to explain of each cell.",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--candidate",
            help="A candidate; give it once for each. By default those trained on.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str, typer.Option("--method", help="leave_one_out, gradient or integrated_gradient.")
    ] = "leave_one_out",
    n_cells: Annotated[
        int | None,
        typer.Option(
            "--cells", help="Explain so many cells, drawn at random.", min=1, show_default=False
        ),
    ] = None,
    top_n: Annotated[
        int, typer.Option("--top-n", help="Genes of each label that are printed.", min=1)
    ] = 10,
    n_genes: Annotated[
        int | None,
        typer.Option(
            "--deletion-test",
            help="Also take so many named genes out of each cell, beside others of the same ranks.",
            min=1,
            show_default=False,
        ),
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
    """Say which genes carried each cell's label; writes a table (.csv or .parquet) and prints the top genes."""
    from c2s.analysis.deletion import deletion_test
    from c2s.analysis.explain import explain as run
    from c2s.analysis.explain import top_genes
    from c2s.cells.readers import read

    check_out(out, ".csv", ".parquet")
    if label is not None and label_key is not None:
        raise UsageError("--label is one label for all cells; give either it or --label-key")
    adata = read(source)
    asked: str | list[str] | None = label
    if label_key is not None:
        if label_key not in adata.obs:
            raise UsageError(
                f"{source}: obs has no column {label_key!r}; it has: "
                f"{', '.join(map(str, adata.obs.columns)) or 'none'}"
            )
        asked = adata.obs[label_key].astype(str).tolist()
    opened = open_model(model, device, dtype, profile=profile, prompts=prompts)
    shared: dict[str, Any] = {
        "labels": labels or None, "organism": organism, "layer": layer, "top_k": top_k,
        "batch_size": batch_size, "seed": seed,
    }  # fmt: skip
    table = run(
        adata, opened, asked, method=method, n_cells=n_cells, genes=genes_option(genes), **shared  # type: ignore[arg-type]
    )  # fmt: skip
    _write(table, out)
    test = None if n_genes is None else deletion_test(adata, opened, table, n_genes=n_genes, **shared)  # fmt: skip
    _report(table, top_genes(table, top_n), test, out, as_json)


def _write(table: pd.DataFrame, path: Path) -> None:
    """Write a table beside its place and rename it; what stood there stays until then."""
    from c2s.common.files import atomic_file

    with atomic_file(path) as temporary:
        if path.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False)


def _report(
    table: pd.DataFrame, top: pd.DataFrame, test: DeletionTest | None, out: Path, as_json: bool
) -> None:
    """Print the genes of each label, and what taking them out did."""
    n_cells, method = int(table["cell"].nunique()), str(table["method"].iloc[0])
    facts: dict[str, Any] = {"cells": n_cells, "method": method, "out": str(out)}
    lines = [f"{counted(n_cells, 'cell')}, {len(table):,} genes of cells in {out} ({method}, nats)"]
    of_label = table.groupby("label")["cell"].nunique()
    facts["labels"] = {}
    for label, n_explained in of_label.items():
        part = top[top["label"] == label]
        pairs = list(zip(part["gene"], part["value"], strict=True))
        facts["labels"][str(label)] = {
            "cells": int(n_explained),
            "genes": {str(gene): float(value) for gene, value in pairs},
        }
        genes = ", ".join(f"{gene} {value:+.3g}" for gene, value in pairs)
        said = genes or "no gene carried it"
        lines.append(f"{label} ({counted(int(n_explained), 'cell')}): {said}")
    if test is not None:
        line = {str(k): v for k, v in test.summary.loc["probability"].to_dict().items()}
        known = {name: None if isnan(value) else value for name, value in line.items()}
        facts["deletion_test"] = {"genes": test.n_genes, **known}
        interval = "" if isnan(line["low"]) else f" ({line['low']:.3f} to {line['high']:.3f})"
        lines.append(
            f"probability of the label {line['all_genes']:.3f}; without its top {counted(test.n_genes, 'gene')} "
            f"{line['without_named']:.3f}, without others of the same ranks {line['without_random']:.3f}: "
            f"difference {line['difference']:.3f}{interval}"
        )
    say(as_json, facts, "\n".join(lines))
