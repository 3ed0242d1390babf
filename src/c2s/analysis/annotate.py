"""Cell type annotation: one of the labels, with a probability (SPEC §4.1 task 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from c2s.analysis.cells import (
    cells_for_model,
    claim,
    condition_texts,
    record,
    target,
)
from c2s.common.errors import InputError, UsageError
from c2s.common.progress import progress_bar
from c2s.decoding.engine import TransformersEngine
from c2s.decoding.prompts import label_prompts
from c2s.models.directory import Model
from c2s.tasks.single_cell import CELL_TYPE

if TYPE_CHECKING:
    from anndata import AnnData


def annotate(
    adata: AnnData,
    model: Model,
    labels: Sequence[str] | None = None,
    *,
    key_added: str = "c2s_cell_type",
    confidence_key: str = "c2s_confidence",
    probabilities_key: str | None = None,
    organism: str | None = None,
    views: int = 1,
    top_k: int | None = None,
    genes: Sequence[str] | str | None = None,
    layer: str | None = None,
    gene_names: Mapping[str, str] | str | None = None,
    batch_size: int | None = None,
    strict: bool = False,
    seed: int = 0,
    copy: bool = False,
) -> AnnData | None:
    """Name the type of every cell, from a list of labels, with a probability.

    The probability of a label is exact: the model's probability of writing it (and then ending) behind the
    cell, divided by the sum over all labels. Nothing outside the list is ever answered.

    Parameters
    ----------
    adata
        Counts or normalised expression. `X` is not changed.
    model
        Trained on annotation.
    labels
        Candidates; by default all that the model was trained on. One it never saw is named in a warning.
    key_added, confidence_key
        Columns of `obs` that get the label and its probability. A cell without any known gene gets neither.
    probabilities_key
        Where given, `obsm` gets a table of the probabilities of all labels under this name.
    organism
        By default `obs["organism"]`, or the only one that the model knows.
    views
        Average the probabilities over this many wordings of the prompt, each with its own draw of ties.
        More views cost as many times the work and are a little more accurate.
    top_k, genes, layer, gene_names
        Which genes are shown to the model; see `c2s.pp.cell_sentences`.
    batch_size
        Cells in a batch; by default what fits the machine.
    strict
        Refuse labels that the model never saw.
    seed
        Draws ties, and wordings beyond the first view.
    copy
        Return a changed copy instead of writing into `adata`.

    Returns
    -------
    AnnData or None
        The copy, if `copy`.

    Raises
    ------
    InputError
        The matrix cannot be ranked, or shares no gene with the model.
    UsageError
        The model was not trained on annotation, or the keys hold something else.

    Examples
    --------
    >>> model = c2s.load_model("demo/model")  # doctest: +SKIP
    >>> c2s.tl.annotate(adata, model)  # doctest: +SKIP
    >>> adata.obs["c2s_cell_type"].value_counts()  # doctest: +SKIP
    """
    if CELL_TYPE.id not in model.card.tasks:
        raise UsageError(
            f"the model was not trained on annotation; its tasks: {', '.join(model.card.tasks) or 'none'}"
        )
    if views < 1:
        raise UsageError(f"views={views} is not possible; it is at least 1")
    adata = target(adata, copy)
    for slot, key in (("obs", key_added), ("obs", confidence_key), ("obsm", probabilities_key)):
        if key is not None:
            claim(adata, "annotate", slot, key)
    labels = _candidates(model, labels, strict)
    probabilities = label_probabilities(
        adata, model, labels, organism=organism, views=views, top_k=top_k, genes=genes, layer=layer,
        gene_names=gene_names, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    known = ~np.isnan(probabilities[:, 0])
    best = np.where(known, np.nan_to_num(probabilities).argmax(1), -1)
    adata.obs[key_added] = pd.Categorical.from_codes(best, categories=pd.Index(labels))
    adata.obs[confidence_key] = np.where(known, np.nan_to_num(probabilities).max(1), np.nan)
    keys = [key_added, confidence_key]
    if probabilities_key is not None:
        adata.obsm[probabilities_key] = pd.DataFrame(
            probabilities, index=adata.obs_names, columns=labels
        )
        keys.append(probabilities_key)
    top_k = model.card.top_k if top_k is None else top_k
    parameters = {"labels": labels, "views": views, "top_k": top_k, "layer": layer, "seed": seed}
    record(adata, "annotate", model.source, parameters, keys)
    return adata if copy else None


def label_probabilities(
    adata: AnnData,
    model: Model,
    labels: Sequence[str],
    *,
    organism: str | None = None,
    views: int = 1,
    top_k: int | None = None,
    genes: Sequence[str] | str | None = None,
    layer: str | None = None,
    gene_names: Mapping[str, str] | str | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Return the probability of each label for each cell; NaN for a cell without any known gene.

    Parameters are those of `annotate`.

    Returns
    -------
    float64 array, shape (n_cells, n_labels)
        Rows sum to 1.
    """
    engine = TransformersEngine(model, batch_size)
    texts = condition_texts(adata, model, CELL_TYPE, {"organism": organism})
    response = model.prompts.wording(CELL_TYPE.id).response
    answers = [
        [
            *model.tokenizer.encode(response.fill({"cell_type": label})).tolist(),
            model.tokenizer.eos_id,
        ]
        for label in labels
    ]
    total = np.zeros((adata.n_obs, len(labels)))
    with progress_bar("Annotating", adata.n_obs * views) as progress:
        for view in range(views):
            cells = cells_for_model(
                adata,
                model,
                top_k=top_k,
                genes=genes,
                layer=layer,
                seed=seed + view,
                gene_names=gene_names,
            )
            rows = np.flatnonzero(cells.lengths > 0)
            prompts = label_prompts(model, CELL_TYPE, cells, texts, rows, view, seed)
            scores = engine.score(prompts, answers, progress)
            scores = np.exp(scores - scores.max(1, keepdims=True))
            total[rows] += scores / scores.sum(1, keepdims=True)
            total[cells.lengths == 0] = np.nan
    return total / views


def _candidates(model: Model, labels: Sequence[str] | None, strict: bool) -> list[str]:
    if labels is None:
        labels = model.known(CELL_TYPE.target)
        if not labels:
            raise UsageError("the model remembers no labels; give labels=[…]")
    if isinstance(labels, str):
        raise UsageError("labels must be a list of texts")
    checked = [
        model.check_condition(CELL_TYPE.target, str(label), strict=strict) for label in labels
    ]
    if len(set(checked)) != len(checked) or not checked:
        raise InputError("labels must be a list of different texts, at least one")
    return checked
