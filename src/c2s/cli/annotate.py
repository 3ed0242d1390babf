"""`c2s annotate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from c2s.cli.agreement import agreement
from c2s.cli.files import check_out, say, text_lines, write_h5ad
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


def annotate(
    source: Input,
    out: Out,
    model: ModelName = None,
    what: Annotated[
        Literal["cell_type", "tissue", "sample_cell_types"],
        typer.Option(
            "--what",
            help="The type of each cell; or, of samples of several cells read at once, their tissue or the types of "
            "their cells.",
        ),
    ] = "cell_type",
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            help="A candidate; give it once for each. By default those trained on.",
            show_default=False,
        ),
    ] = None,
    labels_file: Annotated[
        Path | None,
        typer.Option(
            "--labels", help="File with one candidate a line, instead.", show_default=False
        ),
    ] = None,
    organism: Organism = None,
    profile: Profile = None,
    prompts: Prompts = None,
    views: Annotated[
        int, typer.Option("--views", help="Average over so many wordings and draws of ties.", min=1)
    ] = 1,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            help="Column of obs for the label; by default c2s_cell_type, c2s_tissue or c2s_sample_cell_type.",
            show_default=False,
        ),
    ] = None,
    confidence_key: Annotated[
        str | None,
        typer.Option(
            "--confidence-key",
            help="Column of obs for its probability; by default c2s_confidence, for samples KEY_confidence.",
            show_default=False,
        ),
    ] = None,
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
    labels_below: Annotated[
        str | None,
        typer.Option(
            "--labels-below",
            help="A term of the Cell Ontology, as lymphocyte or CL:0000542: the labels below it are the candidates.",
            show_default=False,
        ),
    ] = None,
    every_term: Annotated[
        bool,
        typer.Option(
            "--every-term",
            help="All terms below it, not only labels that the model was trained on.",
        ),
    ] = False,
    back_off: Annotated[
        bool,
        typer.Option(
            "--back-off",
            help="With --min-confidence: a term higher up that is probable enough, rather than unknown.",
        ),
    ] = False,
    ontology: Annotated[
        Path | None,
        typer.Option(
            "--ontology",
            help="An .obo or .json file; else the Cell Ontology of the extra 'ontology', where one is needed.",
            show_default=False,
        ),
    ] = None,
    label_terms: Annotated[
        Path | None,
        typer.Option(
            "--label-terms",
            help="File that says which terms your labels are: label, tab, term; one a line.",
            show_default=False,
        ),
    ] = None,
    group_by: Annotated[
        list[str] | None,
        typer.Option(
            "--group-by",
            help="Column of obs in which cells of a sample agree; may be given several times. By default they "
            "follow each other.",
            show_default=False,
        ),
    ] = None,
    cells_per_sample: Annotated[
        int, typer.Option("--cells-per-sample", help="Cells of a sample, at most.", min=1)
    ] = 5,
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
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse labels that the model never saw.")
    ] = False,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Name the type of every cell, or the tissue of samples, with a probability; writes a copy as .h5ad."""
    from c2s.analysis.annotate import annotate as annotate_cells
    from c2s.analysis.samples import annotate_samples
    from c2s.cells.readers import read

    check_out(out, ".h5ad")
    if labels and labels_file is not None:
        raise UsageError("give either --label or --labels, not both")
    alone = {
        "--views": views > 1, "--top-n": top_n, "--entropy-key": entropy_key, "--back-off": back_off,
        "--min-confidence": min_confidence is not None, "--labels-below": labels_below,
        "--every-term": every_term, "--ontology": ontology, "--label-terms": label_terms,
    }  # fmt: skip
    if what != "cell_type" and (given := [option for option, value in alone.items() if value]):
        raise UsageError(f"{given[0]} goes with --what cell_type, not with {what}")
    adata = read(source)
    if truth is not None and truth not in adata.obs:
        raise UsageError(
            f"{source}: obs has no column {truth!r}; it has: {', '.join(map(str, adata.obs.columns)) or 'none'}"
        )
    wanted = labels or None if labels_file is None else text_lines(labels_file)
    asked = open_model(model, device, dtype, profile, prompts)
    shared: dict[str, Any] = {
        "genes": genes_option(genes), "layer": layer, "top_k": top_k, "batch_size": batch_size,
        "strict": strict, "seed": seed, "organism": organism,
    }  # fmt: skip
    if what == "cell_type":
        key, confidence_key = key or "c2s_cell_type", confidence_key or "c2s_confidence"
        terms = _ontology(ontology, label_terms, bool(labels_below or back_off))
        annotate_cells(
            adata, asked, wanted, key_added=key, confidence_key=confidence_key, top_n=top_n,
            entropy_key=entropy_key, min_confidence=min_confidence, unknown=unknown, views=views,
            ontology=terms, labels_below=labels_below, every_term=every_term, back_off=back_off, **shared,
        )  # fmt: skip
    else:
        key = key or f"c2s_{what.removesuffix('s')}"
        confidence_key = confidence_key or f"{key}_confidence"
        annotate_samples(
            adata, asked, what, wanted, groupby=group_by or None, key_added=key,
            confidence_key=confidence_key, cells_per_sample=cells_per_sample, **shared,
        )  # fmt: skip
    write_h5ad(adata, out)
    counts = {str(k): int(v) for k, v in adata.obs[key].value_counts().items() if v}
    facts: dict[str, Any] = {"cells": adata.n_obs, "labels": counts, "out": str(out)}
    text = f"{adata.n_obs:,} cells in {out}: " + ", ".join(f"{k} {v:,}" for k, v in counts.items())
    if truth is not None:
        verb = "annotate" if what == "cell_type" else "annotate_samples"
        candidates = adata.uns["c2s"][verb]["parameters"]["labels"]
        found, said = agreement(
            adata.obs[truth], adata.obs[key], adata.obs[confidence_key], candidates
        )
        facts |= found
        text += f"\n{said}"
    say(as_json, facts, text)


def _ontology(path: Path | None, labels: Path | None, needed: bool) -> Any:
    """Return the ontology that the options name, the package's where one is needed and none is named."""
    from c2s.knowledge.ontology import read_ontology

    if path is None and labels is None and not needed:
        return None
    return read_ontology(path, labels)
