"""Cells of an `AnnData` in memory, such as the packaged data."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp

from c2s.cells.vocabulary import GeneVocabulary
from c2s.corpus.sources.base import CellSource, GeneNames
from c2s.corpus.sources.matrices import csr_block, csr_of_dense, in_order
from c2s.corpus.sources.obs import labels


class AnnDataSource(CellSource):
    """Cells of an `AnnData` in memory.

    Parameters
    ----------
    path
        What it is called in messages.
    adata
        The cells; not changed.
    layer, gene_names
        As in `open_source`.
    """

    def __init__(
        self,
        path: str,
        adata: Any,
        *,
        layer: str | None = None,
        gene_names: GeneNames = None,
    ) -> None:
        from c2s.cells.readers import expression

        matrix, self._var = expression(adata, layer)
        self.path, self.n_cells = path, int(adata.n_obs)
        self._obs, self._gene_names = adata.obs, gene_names
        self._dense = not sp.issparse(matrix)
        self._matrix = matrix if self._dense else matrix.tocsr()

    @cached_property
    def vocabulary(self) -> GeneVocabulary:
        """The genes, one per column of the matrix."""
        return GeneVocabulary.from_var(self._var, self._gene_names)

    def stored(self) -> np.ndarray | None:
        """Return how many values are stored before each row; None for a dense matrix."""
        return None if self._dense else self._matrix.indptr.astype(np.int64)

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Return rows as CSR; they share memory with the `AnnData`, so do not write into them."""
        self._check_rows(start, stop)
        n_genes = self._matrix.shape[1]
        if self._dense:
            return csr_of_dense(self.path, np.asarray(self._matrix[start:stop]))
        indptr = self._matrix.indptr[start : stop + 1]
        inside = slice(int(indptr[0]), int(indptr[-1]))
        data, indices = self._matrix.data[inside], self._matrix.indices[inside]
        # Summing what is stored twice would write into the shared arrays.
        if not in_order(indices, (indptr - indptr[0]).astype(np.int64), n_genes):
            data, indices = data.copy(), indices.copy()
        return csr_block(self.path, data, indices, np.diff(indptr), n_genes)

    def columns(self) -> list[str]:
        """Return the names of the columns of `obs`."""
        return [str(c) for c in self._obs.columns]

    def column(self, name: str) -> pa.DictionaryArray:
        """Return a column of `obs` as text."""
        self._check_column(name)
        codes, levels = pd.factorize(self._obs[name])
        return labels(codes, np.asarray(levels))  # an Index would give Python's numbers

    def names(self, start: int, stop: int) -> pa.Array:
        """Return the names of the cells of some rows."""
        self._check_rows(start, stop)
        return pa.array([str(n) for n in self._obs.index[start:stop]], pa.large_string())

    def close(self) -> None:
        """Do nothing: no file is open."""
