"""What the values of an expression matrix are, and whether any of them is unusable.

One pass over the stored values answers everything (`scan`). It works in blocks, so that a matrix
on disk (anndata's backed sparse matrices, h5py and zarr arrays) never has to fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from c2s.common.errors import InputError

MatrixKind = Literal["counts", "abundances", "logged"]

#: Non-integers with a maximum from here on are unlogged abundances: log10(1 + x) and ln(1 + x)
#: of any real count stay below it (SPEC §1).
ABUNDANCE_FLOOR = 30.0

#: Stored values that are held in memory at a time.
BLOCK = 1 << 22


@dataclass(frozen=True)
class Entries:
    """A run of stored values with their places; the places are worked out only when asked for."""

    values: np.ndarray
    """The values, shape (n,)."""
    start: int
    """Position of the first of them among all stored values."""
    _layout: _Layout

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the row and the column of every value, two int64 arrays of shape (n,)."""
        layout, stop = self._layout, self.start + len(self.values)
        if layout.indptr is None:
            return np.divmod(np.arange(self.start, stop, dtype=np.int64), layout.shape[1])
        first = int(np.searchsorted(layout.indptr, self.start, side="right")) - 1
        last = int(np.searchsorted(layout.indptr, stop, side="left"))
        lengths = np.diff(np.clip(layout.indptr[first : last + 1], self.start, stop))
        major = np.repeat(np.arange(first, last, dtype=np.int64), lengths)
        minor = np.asarray(layout.indices[self.start : stop], dtype=np.int64)
        return (major, minor) if layout.by_row else (minor, major)


@dataclass(frozen=True)
class _Layout:
    """Where stored values lie; `indptr` is None for a dense matrix."""

    shape: tuple[int, int]
    indptr: np.ndarray | None = None
    indices: Any = None
    by_row: bool = True


def _compressed(matrix: Any) -> tuple[Any, _Layout] | None:
    """Return the values and the layout of a CSR or CSC matrix, in memory or not; None if dense."""
    shape = (int(matrix.shape[0]), int(matrix.shape[1]))
    if sp.issparse(matrix):
        if matrix.format not in ("csr", "csc"):
            matrix = matrix.tocsr()
        data, indices, indptr = matrix.data, matrix.indices, matrix.indptr
    elif hasattr(matrix, "group"):  # anndata's CSRDataset and CSCDataset over h5py or zarr
        data, indices = matrix.group["data"], matrix.group["indices"]
        indptr = np.asarray(matrix.group["indptr"][:])
    else:
        return None
    return data, _Layout(shape, np.asarray(indptr, dtype=np.int64), indices, matrix.format == "csr")


def entries(matrix: Any, size: int = BLOCK) -> Iterator[Entries]:
    """Iterate over the stored values of a matrix in the order in which they are stored.

    Parameters
    ----------
    matrix
        Cells × genes: scipy sparse, dense, or backed (anndata's sparse datasets, h5py or zarr
        arrays).
    size
        Values per step, about; memory is a small multiple of it.
    """
    found = _compressed(matrix)
    if found is not None:
        data, layout = found
        # Not data.shape: scipy lets the value array be longer than what is used of it.
        stored = int(layout.indptr[-1]) if layout.indptr is not None else 0
        for start in range(0, stored, size):
            yield Entries(np.asarray(data[start : min(start + size, stored)]), start, layout)
        return
    layout = _Layout((int(matrix.shape[0]), int(matrix.shape[1])))
    rows = max(1, size // max(1, layout.shape[1]))
    for row in range(0, layout.shape[0], rows):
        block = np.asarray(matrix[row : row + rows])
        yield Entries(block.reshape(-1), row * layout.shape[1], layout)


class Place(NamedTuple):
    """One value and where it stands."""

    row: int
    column: int
    value: float


@dataclass(frozen=True)
class Scan:
    """What one pass over the stored values found."""

    n_nonzero: int
    """Stored values that are not zero (those that are not finite included)."""
    n_not_finite: int
    """Values that are NaN or infinite."""
    first_not_finite: Place | None
    """The first of them: the lowest row, then the lowest column."""
    n_negative: int
    """Values below zero, minus infinity included."""
    first_negative: Place | None
    """The first of them."""
    maximum: float
    """The largest finite value, 0 for an empty matrix."""
    integral: bool
    """Whether all finite values are integers."""

    @property
    def kind(self) -> MatrixKind:
        """Counts, abundances or logged, by the rule of SPEC §1."""
        if self.integral:
            return "counts"
        return "abundances" if self.maximum >= ABUNDANCE_FLOOR else "logged"


def scan(matrix: Any) -> Scan:
    """Look at every stored value of a matrix once.

    Parameters
    ----------
    matrix
        Cells × genes, of any format that `entries` reads.

    Raises
    ------
    InputError
        The matrix does not hold real numbers.
    """
    if np.dtype(matrix.dtype).kind not in "buif":
        raise InputError(
            f"the expression matrix holds values of type {matrix.dtype}; real numbers are expected"
        )
    n_nonzero = n_not_finite = n_negative = 0
    first_not_finite: Place | None = None
    first_negative: Place | None = None
    maximum, integral = 0.0, True
    is_float = np.dtype(matrix.dtype).kind == "f"
    for chunk in entries(matrix):
        values = chunk.values
        n_nonzero += int(np.count_nonzero(values))
        negative = values < 0
        if negative.any():
            n_negative += int(np.count_nonzero(negative))
            first_negative = _earlier(first_negative, chunk, negative)
        if is_float:
            finite = np.isfinite(values)
            if not finite.all():
                n_not_finite += int(np.count_nonzero(~finite))
                first_not_finite = _earlier(first_not_finite, chunk, ~finite)
                values = values[finite]
            integral = integral and bool((values == np.rint(values)).all())
        if values.size:
            maximum = max(maximum, float(values.max()))
    return Scan(
        n_nonzero, n_not_finite, first_not_finite, n_negative, first_negative, maximum, integral
    )


def _earlier(best: Place | None, chunk: Entries, marked: np.ndarray) -> Place:
    """Return the first of `best` and the marked places of a chunk, by row and then by column."""
    rows, columns = (places[marked] for places in chunk.places())
    first = np.lexsort((columns, rows))[0]
    place = Place(int(rows[first]), int(columns[first]), float(chunk.values[marked][first]))
    return place if best is None else min(best, place)


def matrix_kind(matrix: Any) -> MatrixKind:
    """Say what the values of a matrix are (SPEC §1).

    Parameters
    ----------
    matrix
        Cells × genes: scipy sparse, dense or backed. Values that are not finite are passed over;
        use `check_expression` to refuse them.

    Returns
    -------
    MatrixKind
        ``"counts"``: all values are integers, whatever their maximum and their dtype (a matrix of
        zeros too). ``"abundances"``: other values with a maximum of 30 or more, such as TPM or
        expected counts. ``"logged"``: the rest.
    """
    if np.dtype(matrix.dtype).kind in "bui":
        return "counts"
    return scan(matrix).kind


def check_expression(
    matrix: Any,
    *,
    cell_ids: Sequence[str] | pd.Index,
    gene_names: Sequence[str] | pd.Index,
    source: str,
) -> None:
    """Refuse a matrix with values that no expression profile can have.

    Parameters
    ----------
    matrix
        Cells × genes: scipy sparse, dense or backed.
    cell_ids, gene_names
        Names of the rows and of the columns, for the message.
    source
        What the matrix is, for the message, such as ``"pbmc.h5ad, X"``.

    Raises
    ------
    InputError
        A value is NaN or infinite, or negative; the first cell and gene are named.
    """
    if np.dtype(matrix.dtype).kind in "bu":
        return  # nothing can be wrong with them, and a pass over a large matrix costs time
    found = scan(matrix)
    if found.first_not_finite is not None:
        row, column, value = found.first_not_finite
        raise InputError(
            f"{source}: cell {cell_ids[row]}, gene {gene_names[column]} is {value:.4g}"
            f" ({found.n_not_finite:,} of the values are NaN or infinite); expression must be"
            " finite, so fill these values or drop their cells or genes"
        )
    if found.first_negative is not None:
        row, column, value = found.first_negative
        raise InputError(
            f"{source}: cell {cell_ids[row]}, gene {gene_names[column]} is {value:.4g}"
            f" ({found.n_negative:,} values are negative); the data look scaled, e.g. by"
            " sc.pp.scale; choose the layer that holds counts, or layer='raw' for adata.raw"
        )
