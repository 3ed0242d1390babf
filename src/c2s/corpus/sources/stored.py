"""An h5ad file or a zarr folder as a source of cells: h5py and zarr groups are alike in what is used here."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError, listing
from c2s.corpus.sources.base import CellSource, GeneNames, reading, vocabulary_of
from c2s.corpus.sources.by_row import stored_by_row
from c2s.corpus.sources.matrices import DenseMatrix, SparseMatrix, open_matrix
from c2s.corpus.sources.obs import Table


class StoredSource(CellSource):
    """Cells of an h5ad file or a zarr folder.

    Parameters
    ----------
    path
        The file or the folder.
    zarr
        Whether it is a zarr folder.
    layer, gene_names, scratch, content
        As in `open_source`.

    Raises
    ------
    InputError
        The file is damaged, or stored by column and there is no `scratch`.
    UsageError
        There is no such layer.
    C2SError
        The row-wise copy cannot be written.
    """

    def __init__(
        self,
        path: str,
        *,
        zarr: bool,
        layer: str | None = None,
        gene_names: GeneNames = None,
        scratch: Path | None = None,
        content: str | None = None,
    ) -> None:
        self.path, self._gene_names = path, gene_names
        with reading(path):
            self._root = _open_zarr(path) if zarr else _open_hdf5(path)
        try:
            matrix = self._find_parts(layer)
            if isinstance(matrix, SparseMatrix) and not matrix.by_row:
                matrix = stored_by_row(matrix, layer, scratch, content)
        except BaseException:
            self.close()
            raise
        self._rows = matrix

    def _find_parts(self, layer: str | None) -> DenseMatrix | SparseMatrix:
        """Find the tables of cells and genes, and return the matrix, which must fit them."""
        with reading(self.path):
            for table in ("obs", "var"):
                if table not in self._root:
                    raise InputError(
                        f"{self.path}: it holds no {table}, so it is no AnnData file; it holds:"
                        f" {listing(sorted(self._root.keys())) or 'nothing'}"
                    )
            node, var = _find_matrix(self.path, self._root, layer)
            self._obs = Table(self.path, self._root, "obs")
            self._var = Table(self.path, self._root, var)
            matrix = open_matrix(self.path, node)
            self.n_cells, n_genes = len(self._obs), len(self._var)
        if matrix.shape != (self.n_cells, n_genes):
            raise InputError(
                f"{self.path}: the matrix has shape {matrix.shape[0]:,} × {matrix.shape[1]:,}, but there are"
                f" {self.n_cells:,} cells in obs and {n_genes:,} genes in {var}; the file is damaged"
            )
        return matrix

    @cached_property
    def vocabulary(self) -> GeneVocabulary:
        """The genes, one per column of the matrix."""
        with reading(self.path):
            return vocabulary_of(self.path, self._var.columns(), self._read_var, self._gene_names)

    def _read_var(self, columns: list[str]) -> pd.DataFrame:
        names = self._var.names(0, len(self._var)).to_pylist()
        values = {c: self._var.column(c).to_pylist() for c in columns}
        return pd.DataFrame(values, index=pd.Index(names, dtype=object), dtype=object)

    def stored(self) -> np.ndarray | None:
        """Return how many values are stored before each row; None for a dense matrix."""
        return self._rows.indptr if isinstance(self._rows, SparseMatrix) else None

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Read rows as CSR."""
        self._check_rows(start, stop)
        with reading(self.path):
            return self._rows.read(start, stop)

    def columns(self) -> list[str]:
        """Return the names of the columns of `obs`."""
        with reading(self.path):
            return self._obs.columns()

    def column(self, name: str) -> pa.DictionaryArray:
        """Read a column of `obs` as text."""
        self._check_column(name)
        with reading(self.path):
            column = self._obs.column(name)
        if len(column) != self.n_cells:
            raise InputError(
                f"{self.path}: obs has {len(column):,} values in column {name!r} for {self.n_cells:,} cells;"
                " the file is damaged"
            )
        return column

    def names(self, start: int, stop: int) -> pa.Array:
        """Read the names of the cells of some rows."""
        self._check_rows(start, stop)
        with reading(self.path):
            return self._obs.names(start, stop)

    def close(self) -> None:
        """Close the file."""
        getattr(self._root, "store", self._root).close()  # a group of zarr has no `close` itself


def _open_hdf5(path: str) -> Any:
    if not h5py.is_hdf5(path):
        with open(path, "rb") as handle:
            start = handle.read(4)
        raise InputError(
            f"{path}: this is not an HDF5 file ("
            + (f"it begins with {start!r}" if start else "it is empty")
            + "), so it cannot be an h5ad; copy or download it again"
        )
    return h5py.File(path, "r")


def _open_zarr(path: str) -> Any:
    import zarr

    return zarr.open_group(path, mode="r")


def _find_matrix(path: str, root: Any, layer: str | None) -> tuple[Any, str]:
    """Return the node of a matrix, and where the table of its genes is."""
    # Files of anndata before 0.7 have `raw.X` beside `X`.
    raws = {key: var for key, var in (("raw/X", "raw/var"), ("raw.X", "raw.var")) if key in root}
    layers = [str(key) for key in root["layers"]] if "layers" in root else []
    has_x = "X" in root and root["X"].attrs.get("encoding-type") != "null"
    if layer is None and has_x:
        return root["X"], "var"
    if layer == "raw" and raws:
        key, var = next(iter(raws.items()))
        return root[key], var
    if layer in layers:
        return root["layers"][layer], "var"
    there = [*(["X"] if has_x else []), *(["raw"] if raws else []), *layers]
    raise UsageError(
        f"{path}: the file has no {'X' if layer is None else f'layer {layer!r}'}; it has"
        f" {listing(there) or 'no matrix at all'}"
    )
