"""`c2s annotate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from c2s.cli.agreement import agreement
from c2s.cli.files import check_out, resumed, say, text_lines, work_on_file, write_h5ad
from c2s.cli.options import (
    AsJson,
    BatchSize,
    ChunkSize,
    Debug,
    Device,
    DeviceMap,
    Dtype,
    EngineOption,
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
    import pandas as pd

    from c2s.analysis.annotate import Annotation
    from c2s.analysis.cells import Rows


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
    pathways_key: Annotated[
        str | None,
        typer.Option(
            "--pathways-key",
            help="Column of obs for the pathways that the model names before its answer, where it learned to; by "
            "default c2s_pathways.",
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
        int | None,
        typer.Option(
            "--cells-per-sample",
            help="Cells of a sample, at most; by default 5.",
            min=1,
            show_default=False,
        ),
    ] = None,
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
    engine: EngineOption = "transformers",
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse labels that the model never saw.")
    ] = False,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Name the type of every cell, or the tissue of samples, with a probability; writes a copy as .h5ad.

    For the types of single cells an .h5ad file may be of any size: a run that is broken off goes on where it stopped.
    """
    from c2s.analysis.annotate import as_candidate

    check_out(out, ".h5ad")
    if labels and labels_file is not None:
        raise UsageError("give either --label or --labels, not both")
    wanted = labels or None if labels_file is None else text_lines(labels_file)
    shared: dict[str, Any] = {
        "genes": genes_option(genes), "top_k": top_k, "batch_size": batch_size, "strict": strict, "seed": seed,
        "organism": organism,
    }  # fmt: skip
    before, column = "", key or f"c2s_{what.removesuffix('s')}"
    sure = confidence_key or ("c2s_confidence" if what == "cell_type" else f"{column}_confidence")
    if what == "cell_type":
        for option, value in (("--group-by", group_by), ("--cells-per-sample", cells_per_sample)):
            if value:
                raise UsageError(f"{option} goes with --what tissue or sample_cell_types")
        terms = _ontology(ontology, label_terms, bool(labels_below or back_off))
        made: list[Annotation] = []

        def make(rows: Rows) -> Annotation:
            from c2s.analysis.annotate import PATHWAYS_KEY, Annotation

            _check_truth(source, rows.obs, truth)
            made.append(
                Annotation(
                    rows, open_model(model, device, dtype, device_map, quantize, profile, prompts, engine),
                    wanted, key_added=column, confidence_key=sure, top_n=top_n,
                    pathways_key=pathways_key or PATHWAYS_KEY,
                    entropy_key=entropy_key, min_confidence=min_confidence, unknown=unknown, views=views,
                    ontology=terms, labels_below=labels_below, every_term=every_term, back_off=back_off,
                    engine=engine, **shared,
                )
            )  # fmt: skip
            if pathways_key is not None and made[-1].pathways_key is None:
                raise UsageError(
                    "--pathways-key: the model names no pathways before its answer; leave it out"
                )
            return made[-1]

        done = work_on_file(source, out, make, layer=layer, chunk_size=chunk_size)
        obs, candidates, before = done.obs, made[-1].labels, resumed(done)
        asked = made[-1].model
    else:
        alone = {
            "--views": views > 1, "--top-n": top_n, "--entropy-key": entropy_key, "--back-off": back_off,
            "--min-confidence": min_confidence is not None, "--unknown": unknown != "unknown",
            "--labels-below": labels_below,
            "--every-term": every_term, "--ontology": ontology, "--label-terms": label_terms,
            "--chunk-size": chunk_size, "--engine": engine != "transformers",
            "--pathways-key": pathways_key,
        }  # fmt: skip
        if given := [option for option, value in alone.items() if value]:
            raise UsageError(f"{given[0]} goes with --what cell_type, not with {what}")
        from c2s.analysis.samples import annotate_samples
        from c2s.cells.readers import read

        adata = read(source)
        _check_truth(source, adata.obs, truth)
        asked = open_model(model, device, dtype, device_map, quantize, profile, prompts)
        annotate_samples(
            adata, asked, what, wanted, groupby=group_by or None, key_added=column, confidence_key=sure,
            cells_per_sample=cells_per_sample or 5, layer=layer, **shared,
        )  # fmt: skip
        write_h5ad(adata, out)
        obs, candidates = adata.obs, adata.uns["c2s"]["annotate_samples"]["parameters"]["labels"]
    condition = "tissue" if what == "tissue" else "cell_type"
    _report(
        obs, column, sure, truth, candidates, lambda text: as_candidate(asked, text, candidates, condition),
        out, before, as_json,
    )  # fmt: skip


def _check_truth(source: Path, obs: pd.DataFrame, truth: str | None) -> None:
    if truth is not None and truth not in obs:
        columns = ", ".join(map(str, obs.columns)) or "none"
        raise UsageError(f"{source}: obs has no column {truth!r}; it has: {columns}")


def _report(
    obs: pd.DataFrame,
    key: str,
    confidence_key: str,
    truth: str | None,
    labels: Sequence[str],
    spelled: Callable[[str], str],
    out: Path,
    before: str,
    as_json: bool,
) -> None:
    """Say how many cells got each answer, and how well the answers agree with the truth where there is one."""
    counts = {str(k): int(v) for k, v in obs[key].value_counts().items() if v}
    facts: dict[str, Any] = {"cells": len(obs), "labels": counts, "out": str(out)}
    text = f"{counted(len(obs), 'cell')}{before} in {out}: "
    text += ", ".join(f"{k} {v:,}" for k, v in counts.items())
    if truth is not None:
        found, said = agreement(obs[truth], obs[key], obs[confidence_key], labels, spelled)
        facts |= found
        text += f"\n{said}"
    say(as_json, facts, text)


def _ontology(path: Path | None, labels: Path | None, needed: bool) -> Any:
    """Return the ontology that the options name, the package's where one is needed and none is named."""
    from c2s.knowledge.ontology import read_ontology

    if path is None and labels is None and not needed:
        return None
    return read_ontology(path, labels)
