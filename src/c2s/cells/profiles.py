"""Expression profiles in the units that everything here compares: log10(1 + 1e4 · count / total)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from c2s.cells.checks import check_expression, matrix_kind
from c2s.cells.preprocess import log10_normalized
from c2s.cells.readers import csr_blocks, expression
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, listing, warn

if TYPE_CHECKING:
    from anndata import AnnData

_FEWEST_SHARED = 0.5  # below this share of the smaller gene list, the user hears of it


@dataclass(frozen=True)
class Profiles:
    """Expression of cells over a vocabulary.

    Attributes
    ----------
    matrix : csr_matrix of float32, shape (n_cells, n_genes)
        log10(1 + 1e4 · count / total).
    vocabulary
        Genes of the columns.
    cell_ids : object array, shape (n_cells,)
        Names; they decide ties.
    kind
        What the values were: "counts", "abundances" or "logged".
    """

    matrix: sp.csr_matrix
    vocabulary: GeneVocabulary
    cell_ids: np.ndarray
    kind: str

    def __len__(self) -> int:
        return len(self.cell_ids)

    def take(self, rows: np.ndarray) -> Profiles:
        """Return some of the cells."""
        return Profiles(self.matrix[rows], self.vocabulary, self.cell_ids[rows], self.kind)

    def among(self, genes: GeneVocabulary, what: str) -> Profiles:
        """Return the same cells over other genes: those they lack are 0."""
        matrix = align_columns(what, self.matrix, self.vocabulary, genes)
        return Profiles(matrix, genes, self.cell_ids, self.kind)


def profiles(adata: AnnData, what: str, layer: str | None = None) -> Profiles:
    """Read expression from an AnnData; counts are normalised over all its genes, logged values taken as they are.

    Parameters
    ----------
    adata
        Cells × genes; sparse, dense or backed.
    what
        Names the cells in messages.
    layer
        As in `c2s.pp.normalize`.

    Raises
    ------
    InputError
        There are no cells, names repeat, or a value is negative, NaN or infinite.
    """
    if adata.n_obs == 0:
        raise InputError(f"{what}: found no cells")
    if not adata.obs_names.is_unique:
        raise InputError(
            f"{what}: cell names occur more than once; call adata.obs_names_make_unique() first"
        )
    stored, var = expression(adata, layer)
    vocabulary = GeneVocabulary.from_var(var)
    matrix = sp.vstack([block for _, block in csr_blocks(stored)], format="csr")
    check_expression(matrix, cell_ids=adata.obs_names, gene_names=vocabulary.names, source=what)
    kind = matrix_kind(matrix)
    values = sp.csr_matrix(matrix, dtype=np.float32)
    if kind != "logged":
        values = log10_normalized(matrix)
    values.eliminate_zeros()
    return Profiles(values, vocabulary, adata.obs_names.to_numpy(dtype=object), kind)


def align_columns(
    name: str, expression: sp.csr_matrix, vocabulary: GeneVocabulary, known: GeneVocabulary
) -> sp.csr_matrix:
    """Return the expression with the columns of another vocabulary: missing genes are 0, unknown ones are dropped.

    Parameters
    ----------
    name
        Of what takes the cells, for messages.
    expression : csr_matrix, shape (n_cells, n_genes)
    vocabulary, known
        Genes of the columns, and genes that are wanted.

    Returns
    -------
    csr_matrix, shape (n_cells, len(known))

    Raises
    ------
    InputError
        The two have no gene in common, or the matrix is not as wide as `vocabulary`.
    """
    if expression.shape[1] != len(vocabulary):
        raise InputError(
            f"{name}: found {expression.shape[1]:,} columns and {len(vocabulary):,} gene names, expected as many"
        )
    if vocabulary == known:
        return sp.csr_matrix(expression)
    columns = vocabulary.align(known)
    shared = np.flatnonzero(columns >= 0)
    if len(shared) == 0:
        raise InputError(
            f"{name}: none of the {len(vocabulary):,} genes of the cells ({listing(vocabulary.words, 3)}) is known "
            f"here ({listing(known.words, 3)}); are they symbols of the same species?"
        )
    if len(shared) < _FEWEST_SHARED * min(len(vocabulary), len(known)):
        warn(
            f"{name}: only {len(shared):,} of the {len(vocabulary):,} genes of the cells are among the "
            f"{len(known):,} that are known here"
        )
    chooser = sp.csr_matrix(
        (np.ones(len(shared), dtype=expression.dtype), (shared, columns[shared])),
        shape=(len(vocabulary), len(known)),
    )
    return sp.csr_matrix(expression @ chooser)
