"""Matrices in h5ad and zarr, and blocks of their rows as CSR."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp
from numba import njit

from c2s.common.errors import InputError
from c2s.corpus.sources.arrays import DiskArray, open_array
from c2s.corpus.sources.obs import is_group, word

# Bytes of a dense matrix that are read at a time.
_DENSE_BYTES = 1 << 25


def open_matrix(path: str, node: Any) -> DenseMatrix | SparseMatrix:
    """Open the matrix of a node of a file, an array or a group.

    Raises
    ------
    InputError
        It is damaged, of an unknown layout, or does not hold real numbers.
    """
    if not is_group(node):
        return DenseMatrix(path, node)
    attrs = node.attrs
    kind = word(attrs.get("encoding-type", attrs.get("h5sparse_format", "none")))
    shape = attrs.get("shape", attrs.get("h5sparse_shape"))
    if kind.removesuffix("_matrix") not in ("csr", "csc") or shape is None:
        raise InputError(
            f"{path}: the matrix is stored as {kind!r}; a dense, csr or csc matrix is expected"
        )
    return SparseMatrix(
        path,
        (int(shape[0]), int(shape[1])),
        open_array(path, node["data"]),
        open_array(path, node["indices"]),
        np.asarray(node["indptr"][:]).astype(np.int64),
        by_row=kind.startswith("csr"),
    )


class DenseMatrix:
    """A dense matrix on disk.

    Attributes
    ----------
    shape
        Cells and genes.
    """

    def __init__(self, path: str, array: Any) -> None:
        self.path, self.array = path, array
        _scipy_type(path, array.dtype)
        if len(array.shape) != 2:
            raise InputError(
                f"{path}: the matrix has {len(array.shape)} dimensions; expected cells × genes"
            )
        self.shape = (int(array.shape[0]), int(array.shape[1]))

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Read rows as CSR, a piece of at most 32 MiB (or one row) at a time."""
        fit = max(1, _DENSE_BYTES // max(1, self.shape[1] * self.array.dtype.itemsize))
        chunks = getattr(self.array, "chunks", None)
        # Pieces end where chunks end, or a chunk would be unpacked for two pieces.
        step = fit - fit % chunks[0] if chunks and chunks[0] <= fit else fit
        bounds = [start, *range(start - start % step + step, stop, step), stop]
        pieces = [
            csr_of_dense(self.path, np.asarray(self.array[low:high]))
            for low, high in pairwise(bounds)
        ]
        return pieces[0] if len(pieces) == 1 else sp.vstack(pieces, format="csr")


class SparseMatrix:
    """A sparse matrix on disk, compressed by row (CSR) or by column (CSC).

    Parameters
    ----------
    path
        The file, for messages.
    shape
        Cells and genes.
    data, indices
        The stored values, and the column (CSR) or row (CSC) of each.
    indptr : int64 array, shape (n_cells + 1,) or (n_genes + 1,)
        How many values are stored before each row or column.
    by_row
        Whether it is CSR.

    Raises
    ------
    InputError
        The arrays do not fit each other, or hold no real numbers.
    """

    def __init__(
        self,
        path: str,
        shape: tuple[int, int],
        data: DiskArray,
        indices: DiskArray,
        indptr: np.ndarray,
        *,
        by_row: bool,
    ) -> None:
        self.path, self.shape, self.by_row = path, shape, by_row
        self.data, self.indices, self.indptr = data, indices, indptr
        _scipy_type(path, data.dtype)
        n_major = shape[0] if by_row else shape[1]
        # scipy lets the arrays be longer than what is used of them.
        if (
            indptr.shape != (n_major + 1,)
            or indptr[0] != 0
            or (np.diff(indptr) < 0).any()
            or indptr[-1] > min(len(data), len(indices))
        ):
            raise InputError(
                f"{path}: the index of the matrix (indptr) does not fit its {len(data):,} values; the file"
                " is damaged, so copy or download it again"
            )

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Read rows of a CSR matrix."""
        low, high = int(self.indptr[start]), int(self.indptr[stop])
        return csr_block(
            self.path,
            self.data.read(low, high),
            self.indices.read(low, high),
            np.diff(self.indptr[start : stop + 1]),
            self.shape[1],
        )


def csr_block(
    path: str, data: np.ndarray, indices: np.ndarray, lengths: np.ndarray, n_genes: int
) -> sp.csr_matrix:
    """Make a block of rows of arrays from a file, which may hold anything.

    Parameters
    ----------
    path
        The file, for messages.
    data, indices : arrays, shape (n_stored,)
        Values and their columns.
    lengths : integer array, shape (n_rows,)
        Stored values of each row.
    n_genes
        Columns of the matrix.

    Raises
    ------
    InputError
        A column is none of the matrix, so the file is damaged: nothing behind this checks bounds.
    """
    indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    ordered = in_order(indices, indptr, n_genes)
    if not ordered and len(indices) and (indices.min() < 0 or indices.max() >= n_genes):
        wrong = indices[(indices < 0) | (indices >= n_genes)][0]
        raise InputError(
            f"{path}: a value stands in column {wrong:,} of a matrix of {n_genes:,} genes; the file is"
            " damaged, so copy or download it again"
        )
    indptr = indptr.astype(np.int32 if indptr[-1] < 2**31 else np.int64)
    # Set one by one, because the constructor copies arrays that are small views of large ones.
    block = sp.csr_matrix((len(lengths), n_genes), dtype=_scipy_type(path, data.dtype))
    block.data = data.astype(block.dtype, copy=False)
    block.indices = indices.astype(np.int32, copy=False)
    block.indptr = indptr
    if not ordered:
        block.sum_duplicates()
    return block


def csr_of_dense(path: str, block: np.ndarray) -> sp.csr_matrix:
    """Make a block of rows of a dense array.

    Parameters
    ----------
    path
        The file, for messages.
    block : array, shape (n_rows, n_genes)

    Raises
    ------
    InputError
        It does not hold real numbers.
    """
    matrix = sp.csr_matrix(block.astype(_scipy_type(path, block.dtype), copy=False))
    matrix.indices = matrix.indices.astype(np.int32, copy=False)
    return matrix


def _scipy_type(path: str, dtype: np.dtype) -> np.dtype:
    """Return the type that scipy holds values of a type in.

    Raises
    ------
    InputError
        These are no real numbers.
    """
    if dtype.kind not in "buif":
        raise InputError(
            f"{path}: the matrix holds values of type {dtype}; real numbers are expected"
        )
    return np.dtype(np.float32) if dtype == np.float16 else dtype.newbyteorder("=")


@njit(cache=True)
def in_order(indices: np.ndarray, indptr: np.ndarray, n_columns: int) -> bool:
    """Whether in every row the columns rise, so none stands there twice, and are those of the matrix.

    Parameters
    ----------
    indices : integer array, shape (n_stored,)
        Columns.
    indptr : integer array, shape (n_rows + 1,)
        Where rows begin among them.
    n_columns
        Columns of the matrix.
    """
    for row in range(len(indptr) - 1):
        columns = indices[indptr[row] : indptr[row + 1]]
        if not len(columns):
            continue
        falling = 0  # counted, not left at the first, and of a slice: the compiler vectorises that
        for j in range(1, len(columns)):
            falling += columns[j] <= columns[j - 1]
        if falling or columns[0] < 0 or columns[-1] >= n_columns:
            return False
    return True
