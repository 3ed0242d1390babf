"""A TileDB-SOMA experiment as a source of cells, laid out as CELLxGENE Census does (extra `soma`).

An experiment has a table `obs` and, per measurement, a table `var` and sparse matrices `X`. Rows here are
in the order of `soma_joinid`, whatever gaps those ids have, and so are genes. No row is read but those
that are asked for: TileDB finds them by its own index.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError, listing, missing_extra
from c2s.corpus.sources.base import CellSource, GeneNames, reading, vocabulary_of
from c2s.corpus.sources.matrices import csr_block
from c2s.corpus.sources.obs import labels

_ID = "soma_joinid"
# Columns that hold names, the best first; Census has no barcodes but ids of observations.
_CELL_NAMES = ("obs_id", "observation_joinid")
_GENE_NAMES = ("var_id", "feature_id")
# TileDB's buffer per column; its own default of a gigabyte is for reading all at once.
_BUFFER = 1 << 25


class SomaSource(CellSource):
    """Cells of a TileDB-SOMA experiment.

    Parameters
    ----------
    path
        The folder of the experiment.
    layer
        The name of a matrix in the measurement's `X`.
    gene_names
        Where symbols of gene ids are found, as in `GeneVocabulary.from_var`.
    measurement
        The name of the measurement.

    Raises
    ------
    UsageError
        The package tiledbsoma, the measurement or the matrix is missing.
    InputError
        The folder holds no experiment, or one of another layout.
    """

    def __init__(
        self,
        path: str,
        *,
        layer: str = "raw",
        gene_names: GeneNames = None,
        measurement: str = "RNA",
    ) -> None:
        self.path, self._gene_names = path, gene_names
        self._experiment = _open(path)
        try:
            with reading(path):
                self._obs, self._var, self._matrix = _parts(
                    path, self._experiment, measurement, layer
                )
                self._cells, self._genes = _ids(path, self._obs), _ids(path, self._var)
        except BaseException:
            self.close()
            raise
        self.n_cells = len(self._cells)

    @cached_property
    def vocabulary(self) -> GeneVocabulary:
        """The genes, in the order of their `soma_joinid`."""
        with reading(self.path):
            known = [str(c) for c in self._var.schema.names]
            return vocabulary_of(self.path, known, self._read_var, self._gene_names)

    def _read_var(self, columns: list[str]) -> pd.DataFrame:
        name = next((c for c in _GENE_NAMES if c in self._var.schema.names), _ID)
        wanted = list(dict.fromkeys([_ID, name, *columns]))
        frame = self._var.read(column_names=wanted).concat().to_pandas().sort_values(_ID)
        return frame.set_index(pd.Index(frame[name].astype(str), dtype=object))

    def stored(self) -> np.ndarray | None:
        """Return None: an experiment does not say how many values its cells have."""
        return None

    def values_per_row(self) -> float:
        """Return how many values a cell has on average."""
        return float(self._matrix.nnz) / max(self.n_cells, 1)

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Read rows as CSR."""
        self._check_rows(start, stop)
        found: list[tuple[np.ndarray, ...]] = []
        ids = self._cells[start:stop]
        with reading(self.path):
            if len(ids):
                tables = self._matrix.read((_range(ids),), result_order="row-major").tables()
                found = [self._entries(table, ids) for table in tables]
            # No values at all must have a type too.
            dtype = self._matrix.schema.field("soma_data").type.to_pandas_dtype()
            none = (np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, dtype))
            rows, columns, data = (np.concatenate(part) for part in zip(none, *found, strict=True))
        lengths = np.bincount(rows, minlength=len(ids))
        return csr_block(self.path, data, columns, lengths, len(self._genes))

    def _entries(self, table: pa.Table, ids: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return rows among `ids`, columns and values of a table of places and values."""
        places = []
        for dimension, known in (("soma_dim_0", ids), ("soma_dim_1", self._genes)):
            wanted = table[dimension].to_numpy()
            place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
            if (known[place] != wanted).any():
                raise InputError(
                    f"{self.path}: the matrix has values at {_ID}"
                    f" {wanted[known[place] != wanted][0]:,}, which is in"
                    f" {'obs' if known is ids else 'var'} not; the experiment is damaged"
                )
            places.append(place.astype(np.int32))
        return places[0], places[1], table["soma_data"].to_numpy()

    def columns(self) -> list[str]:
        """Return the names of the columns of `obs`, ids not among them."""
        with reading(self.path):
            return [str(c) for c in self._obs.schema.names if c not in (_ID, "obs_id")]

    def column(self, name: str) -> pa.DictionaryArray:
        """Read a column of `obs` as text."""
        self._check_column(name)
        with reading(self.path):
            table = self._obs.read(column_names=[_ID, name]).concat()
            values = table[name].unify_dictionaries().combine_chunks()
            if not pa.types.is_dictionary(values.type):
                values = values.dictionary_encode()
            codes = values.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
            levels = values.dictionary.to_numpy(zero_copy_only=False)
            return labels(codes[np.argsort(table[_ID].to_numpy())], levels)

    def names(self, start: int, stop: int) -> pa.Array:
        """Read the names of the cells of some rows: `obs_id`, else `observation_joinid`, else the id."""
        self._check_rows(start, stop)
        ids = self._cells[start:stop]
        with reading(self.path):
            name = next((c for c in _CELL_NAMES if c in self._obs.schema.names), None)
            if name is None or not len(ids):
                return pa.array(ids.astype(str).tolist(), pa.large_string())
            table = self._obs.read((_range(ids),), column_names=[_ID, name]).concat()
            return table.sort_by(_ID)[name].combine_chunks().cast(pa.large_string())

    def close(self) -> None:
        """Close the experiment."""
        self._experiment.close()


def _open(path: str) -> Any:
    try:
        import tiledbsoma
    except ImportError as error:
        raise missing_extra("tiledbsoma", "soma") from error
    config: dict[str, str | float] = {"soma.init_buffer_bytes": str(_BUFFER)}
    with reading(path):
        context = tiledbsoma.SOMATileDBContext(tiledb_config=config)
        opened = tiledbsoma.open(path, context=context)
    if isinstance(opened, tiledbsoma.Experiment):
        return opened
    inside = sorted(opened.keys()) if hasattr(opened, "keys") else []
    opened.close()
    raise InputError(
        f"{path}: it is a SOMA {type(opened).__name__}, and the folder of an Experiment is expected"
        + (f", perhaps one of those inside: {listing(inside)}" if inside else "")
    )


def _parts(path: str, experiment: Any, measurement: str, layer: str) -> tuple[Any, Any, Any]:
    """Return `obs`, `var` and the matrix."""
    measurements = sorted(experiment.ms.keys())
    if measurement not in measurements:
        raise UsageError(
            f"{path}: the experiment has no measurement {measurement!r}; it has:"
            f" {listing(measurements) or 'none'}"
        )
    chosen = experiment.ms[measurement]
    layers = sorted(chosen.X.keys()) if "X" in chosen else []
    if layer not in layers:
        raise UsageError(
            f"{path}: the measurement {measurement!r} has no matrix {layer!r} in X; it has:"
            f" {listing(layers) or 'none'}"
        )
    matrix = chosen.X[layer]
    if matrix.soma_type != "SOMASparseNDArray":
        raise InputError(
            f"{path}: X[{layer!r}] is a {matrix.soma_type}; a SOMASparseNDArray is expected, as"
            " tiledbsoma.io.from_anndata writes it of a sparse matrix"
        )
    return experiment.obs, chosen.var, matrix


def _ids(path: str, table: Any) -> np.ndarray:
    """Return the ids of a table's rows, ascending. int64."""
    if tuple(table.index_column_names) != (_ID,):
        raise InputError(
            f"{path}: a table is indexed by {listing(table.index_column_names)}; {_ID} is expected"
        )
    return np.sort(table.read(column_names=[_ID]).concat()[_ID].to_numpy())


def _range(ids: np.ndarray) -> slice | np.ndarray:
    """Return ascending ids as a slice where they have no gaps: TileDB finds those faster."""
    first, last = int(ids[0]), int(ids[-1])
    return slice(first, last) if last - first + 1 == len(ids) else ids
