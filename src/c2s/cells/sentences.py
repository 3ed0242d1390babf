"""From an AnnData to ranked cells and to the inverse model: what `c2s.pp` offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from c2s.cells.checks import check_expression, matrix_kind
from c2s.cells.inverse import FIT_RANKS, RankExpressionModel, fit_line
from c2s.cells.panels import select_genes
from c2s.cells.preprocess import log10_normalized
from c2s.cells.ranked import RankedCells, Ties, rank_matrix, share_per_cell
from c2s.cells.readers import csr_blocks, expression
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, listing, warn
from c2s.common.seeds import generator

if TYPE_CHECKING:
    from anndata import AnnData


def cell_sentences(
    adata: AnnData,
    *,
    top_k: int | None = 200,
    genes: Sequence[str] | str | None = None,
    layer: str | None = None,
    ties: Ties = "seeded",
    seed: int = 0,
    thin: float | np.ndarray = 1.0,
    vocabulary: GeneVocabulary | None = None,
    gene_names: Mapping[str, str] | str | None = None,
) -> RankedCells:
    """Rank the genes of every cell by expression (SPEC §2). The object given is not changed.

    Counts and normalised values give the same order, so either will do; scaled data (with negative values)
    are refused.

    Parameters
    ----------
    adata
        Cells × genes, in memory or backed.
    top_k
        How many genes to keep of each cell, at most; None keeps every expressed gene. The paper uses 100 to
        2048 depending on the task.
    genes
        Which genes may be ranked: a list of names, the name of a boolean column of `var` such as
        "highly_variable", or a rule: "no_mt", "no_ribo", "no_mt_ribo" (drop mitochondrial and/or ribosomal
        protein genes). None ranks all.
    layer
        What to rank: None for `X`, "raw" for `.raw`, or the name of a layer.
    ties
        Order of genes with equal value: "seeded", by a hash of (seed, cell id, gene), independent of the
        order of cells; or "alphabetical".
    seed
        Draws the ties, and the thinning. Another seed gives another equally good sentence of the same cell.
    thin
        Keep each counted molecule with this probability before ranking (binomial thinning; whole counts
        only), for all cells or one value a cell. 1 keeps all.
    vocabulary
        Words of the columns, where they are not to be made from `var` (see `GeneVocabulary`).
    gene_names
        Symbols for Ensembl ids: a column of `var`, or a table from id to symbol. By default
        `var["feature_name"]`, `var["gene_symbols"]`, … are used.

    Returns
    -------
    RankedCells
        With `values` as they were ranked. A cell that expresses nothing has an empty sentence; a warning
        names the first.

    Raises
    ------
    InputError
        The matrix holds NaN, infinite or negative values; cell names repeat; a gene name has white space;
        no cell expresses any of the genes.

    Examples
    --------
    >>> import c2s
    >>> cells = c2s.pp.cell_sentences(c2s.datasets.pancreas(), top_k=3)
    >>> cells.to_text()[0].as_py()
    'REG1A CTRB2 PRSS2'
    """
    matrix, var = expression(adata, layer)
    vocabulary = vocabulary or GeneVocabulary.from_var(var, gene_names)
    cell_ids = unique_cell_ids(adata.obs_names)
    selected = select_genes(var, vocabulary, genes)
    thin = share_per_cell(thin, len(cell_ids))
    parts = []
    for rows, block in csr_blocks(matrix):
        check_expression(
            block, cell_ids=adata.obs_names[rows], gene_names=vocabulary.names, source="the matrix"
        )
        parts.append(
            rank_matrix(
                block,
                vocabulary,
                cell_ids[rows],
                top_k=top_k,
                selected=selected,
                ties=ties,
                seed=seed,
                keep=thin[rows],
            )
        )
    cells = _concatenate(parts, vocabulary)
    report_empty(cells.lengths == 0, cell_ids)
    return cells


def fit_inverse(
    adata: AnnData,
    *,
    layer: str | None = None,
    n_cells: int = 1024,
    held_out: float = 0.2,
    max_rank: int = FIT_RANKS,
    target_sum: float = 1e4,
    seed: int = 0,
    gene_names: Mapping[str, str] | str | None = None,
) -> RankExpressionModel:
    """Fit the line from rank to expression on a random part of the cells (SPEC §3).

    Parameters
    ----------
    adata
        Raw counts, which are normalised to `log10(1 + target_sum · count / total)`, or values that are
        already logged, which are taken as they are.
    layer
        As in `cell_sentences`.
    n_cells
        Fit at most this many random cells (the released code takes 1024).
    held_out
        Share of the cells that is kept from the fit, to measure R², Pearson and Spearman on; at most 4,096
        of them are used.
    max_rank
        Leave entries at this rank and beyond out of the fit; the released code takes 999.
    target_sum
        Library size that counts are scaled to.
    seed
        Draws the cells and the ties.
    gene_names
        As in `cell_sentences`.

    Returns
    -------
    RankExpressionModel

    Raises
    ------
    InputError
        There are fewer than two cells, or the matrix cannot be ranked.
    """
    if adata.n_obs < 2:
        raise InputError(f"{adata.n_obs} cell is too few to fit a line and measure it on another")
    order = generator(seed, "fit_inverse").permutation(adata.n_obs)
    n_held = min(max(1, round(held_out * adata.n_obs)), 4096, adata.n_obs - 1)
    held, fit = order[:n_held], order[n_held : n_held + n_cells]
    matrix, var = expression(adata, layer)
    vocabulary = GeneVocabulary.from_var(var, gene_names)
    ids = unique_cell_ids(adata.obs_names)
    # All rows are read and judged together: of abundances, few cells may look like logged values.
    rows = np.sort(np.concatenate([fit, held]))
    block = sp.csr_matrix(matrix[rows])
    block.sum_duplicates()
    check_expression(
        block, cell_ids=adata.obs_names[rows], gene_names=vocabulary.names, source="the matrix"
    )
    counted = matrix_kind(block) != "logged"
    values = log10_normalized(block, target_sum) if counted else block
    cells = rank_matrix(values, vocabulary, ids[rows], seed=seed)
    return fit_line(
        cells.take(np.isin(rows, fit)),
        cells.take(np.isin(rows, held)),
        max_rank=max_rank,
        target_sum=target_sum if counted else None,
    )


def unique_cell_ids(names: pd.Index) -> np.ndarray:
    """Return the names of cells, which decide their ties; object array, shape (n_cells,).

    Raises
    ------
    InputError
        Names repeat.
    """
    if not names.is_unique:
        twice = list(dict.fromkeys(names[names.duplicated()]))
        raise InputError(
            f"{len(twice):,} cell names occur more than once ({listing(twice, 3)}), and a cell's name decides "
            "its ties; call adata.obs_names_make_unique() first"
        )
    return names.to_numpy(dtype=object)


def report_empty(empty: np.ndarray, cell_ids: Sequence[str] | np.ndarray | pd.Index) -> None:
    """Warn of cells whose sentence is empty; refuse a data set in which all are.

    Parameters
    ----------
    empty : bool array, shape (n_cells,)
    cell_ids
        Names of the cells.

    Raises
    ------
    InputError
        There is no cell with a gene.
    """
    rows = np.flatnonzero(empty)
    if len(rows) == len(empty):
        raise InputError("no cell expresses any of the genes; is this the right layer?")
    if len(rows):
        warn(
            f"{len(rows):,} of {len(empty):,} cells express none of the genes and have an empty sentence "
            f"(first: {cell_ids[rows[0]]!r}); drop them with sc.pp.filter_cells(adata, min_genes=1)"
        )


def _concatenate(parts: list[RankedCells], vocabulary: GeneVocabulary) -> RankedCells:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        raise InputError("there are no cells")
    lengths = np.concatenate([p.lengths for p in parts])
    return RankedCells(
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([p.genes for p in parts]),
        vocabulary,
        np.concatenate([p.values for p in parts if p.values is not None]),
        np.concatenate([p.cell_ids for p in parts if p.cell_ids is not None]),
    )
