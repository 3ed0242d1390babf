"""What all verbs share: from an AnnData to cells in the model's own genes, and where results go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from c2s.cells.ranked import RankedCells
from c2s.cells.readers import expression
from c2s.cells.sentences import cell_sentences
from c2s.cells.vocabulary import ENSEMBL_ID, GeneVocabulary
from c2s.common.errors import InputError, UsageError, listing, warn
from c2s.decoding.prompts import as_known, only_known
from c2s.models.directory import Model
from c2s.tasks.base import Task

if TYPE_CHECKING:
    from anndata import AnnData


def opened_for(
    adata: AnnData,
    model: Model,
    *,
    layer: str | None = None,
    gene_names: Mapping[str, str] | str | None = None,
) -> Model:
    """Return the model; a released checkpoint, which takes any gene symbol, with the genes of the data.

    Warns where most genes have no symbol, which such a checkpoint cannot read.
    """
    if not model.any_gene:
        return model
    _, var = expression(adata, layer)
    vocabulary = GeneVocabulary.from_var(var, gene_names)
    ids = [word for word in vocabulary.words if ENSEMBL_ID.match(word)]
    if 2 * len(ids) > len(vocabulary):
        warn(
            f"{len(ids):,} of {len(vocabulary):,} genes of the data have no symbol ({listing(ids, 2)}), and the model "
            "reads symbols; give them with gene_names"
        )
    return model.with_genes(vocabulary)


def cells_for_model(
    adata: AnnData,
    model: Model,
    *,
    top_k: int | None = None,
    genes: Sequence[str] | str | None = None,
    layer: str | None = None,
    seed: int = 0,
    thin: float = 1.0,
    gene_names: Mapping[str, str] | str | None = None,
) -> RankedCells:
    """Rank cells among the genes that the model knows, in the model's own gene columns.

    Parameters
    ----------
    adata, genes, layer, seed, thin, gene_names
        As in `c2s.pp.cell_sentences`.
    model
        Its vocabulary is what may be ranked.
    top_k
        Genes a cell; by default as many as the model was trained on.

    Raises
    ------
    InputError
        The data have none of the model's genes.
    """
    _, var = expression(adata, layer)
    vocabulary = GeneVocabulary.from_var(var, gene_names)
    to_model = vocabulary.align(model.vocabulary)
    shared = np.flatnonzero(to_model >= 0)
    if len(shared) == 0:
        raise InputError(
            f"none of the {len(vocabulary):,} genes of the data ({listing(vocabulary.words, 3)}) is known to the "
            f"model ({listing(model.vocabulary.words, 3)}); are they symbols of the same species?"
        )
    top_k = model.card.top_k if top_k is None else top_k
    if len(shared) < min(top_k, len(model.vocabulary)):
        warn(
            f"only {len(shared):,} of the model's {len(model.vocabulary):,} genes are in the data, fewer than the "
            f"{top_k:,} a cell that it was trained on; expect worse answers"
        )
    panel = [vocabulary.words[i] for i in shared]
    if genes is not None:
        from c2s.cells.panels import select_genes

        chosen = select_genes(var, vocabulary, genes)
        panel = [w for w, i in zip(panel, shared, strict=True) if chosen is None or chosen[i]]
        if not panel:
            raise InputError(f"none of the genes chosen by genes={genes!r} is known to the model")
    # Named by their words, so that the panel chooses columns by word alone: with repeated gene names a
    # word may also be the name of another column.
    by_word = GeneVocabulary.from_words(vocabulary.words)
    cells = cell_sentences(
        adata, top_k=top_k, genes=panel, layer=layer, seed=seed, thin=thin, vocabulary=by_word
    )
    return RankedCells(
        cells.indptr,
        to_model[cells.genes].astype(np.int32),
        model.vocabulary,
        cells.values,
        cells.cell_ids,
    )


def condition_texts(
    adata: AnnData, model: Model, task: Task, given: Mapping[str, str | None]
) -> dict[str, np.ndarray]:
    """Return the text of each condition for every cell, as object arrays of shape (n_cells,).

    An argument comes first, then a column of `obs` of that name, then the only value the model knows.

    Raises
    ------
    UsageError
        A condition is none of these.
    """
    texts = {}
    for condition in task.conditions:
        value = given.get(condition)
        if value is not None:
            texts[condition] = np.full(adata.n_obs, as_known(model, condition, value), dtype=object)
        elif condition in adata.obs and condition != task.target:
            column = adata.obs[condition].astype(str)
            spelled = {v: as_known(model, condition, v) for v in column.unique()}
            texts[condition] = np.array([spelled[v] for v in column], dtype=object)
        elif (only := only_known(model, condition)) is not None:
            texts[condition] = np.full(adata.n_obs, only, dtype=object)
        else:
            raise UsageError(
                f"the model's prompt names the {condition}; give {condition}=… or a column obs[{condition!r}] "
                f"(known: {listing(model.known(condition)) or 'none'})"
            )
    return texts


def target(adata: AnnData, copy: bool) -> AnnData:
    """Return the object that results go into."""
    return adata.copy() if copy else adata


def claim(adata: AnnData, verb: str, slot: str, key: str) -> None:
    """Refuse a key that holds something this package did not write there.

    Raises
    ------
    UsageError
        `adata.<slot>[key]` exists and was not written by the same verb.
    """
    if key in getattr(adata, slot) and key not in _written(adata, verb):
        raise UsageError(
            f"{slot}[{key!r}] exists already and was not written by c2s; give another key"
        )


def record(
    adata: AnnData, verb: str, source: str, parameters: Mapping[str, Any], keys: Sequence[str]
) -> None:
    """Write to `uns["c2s"]` what was done: parameters, what did it, versions, and the keys that were written.

    `source` is where the model comes from, or the name of an encoder.
    """
    from c2s.models.directory import library_versions

    entry = {
        "parameters": {k: v for k, v in parameters.items() if v is not None},
        "model": source,
        "versions": library_versions(),
        "keys": sorted({*_written(adata, verb), *keys}),
    }
    # A new dictionary: the old one may be shared with another object.
    adata.uns["c2s"] = {**adata.uns.get("c2s", {}), verb: entry}


def _written(adata: AnnData, verb: str) -> list[str]:
    return [str(k) for k in adata.uns.get("c2s", {}).get(verb, {}).get("keys", [])]
