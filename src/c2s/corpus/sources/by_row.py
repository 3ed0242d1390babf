"""Rewriting a matrix that is stored by gene (CSC), by cell (CSR), once, in plain files of a scratch folder."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
from numba import njit

from c2s.common.errors import C2SError, InputError
from c2s.common.files import atomic_directory
from c2s.corpus.sources.arrays import FileArray
from c2s.corpus.sources.base import reading
from c2s.corpus.sources.matrices import SparseMatrix
from c2s.corpus.sources.paths import digest

# Stored values that are held at a time where a whole matrix is walked through.
_BLOCK = 1 << 20


def stored_by_row(
    matrix: SparseMatrix, layer: str | None, scratch: Path | None, content: str | None
) -> SparseMatrix:
    """Return a CSC matrix as CSR in plain files below `scratch`, made now or by another process.

    Parameters
    ----------
    matrix
        By column.
    layer
        Which matrix of its file it is, as in `open_source`.
    scratch
        The folder; a matrix of the same content is written once.
    content
        `digest` of its file, where it is known.

    Raises
    ------
    InputError
        There is no scratch folder.
    C2SError
        It cannot be written, or the disk is full.
    """
    if scratch is None:
        raise InputError(
            f"{matrix.path}: the matrix is stored by column (CSC), and rows are read here; give a scratch"
            " folder for a copy by row, or write the file again with adata.X = adata.X.tocsr()"
        )
    key = hashlib.sha256(f"{content or digest(matrix.path)}\0{layer}".encode()).hexdigest()[:24]
    folder = Path(scratch) / f"rows-{key}"
    with _locked(folder):
        if not (folder / "matrix").is_dir():
            for leftover in folder.glob(".c2s-*"):  # of a process that was killed
                shutil.rmtree(leftover, ignore_errors=True)
            with atomic_directory(folder / "matrix") as made:
                _write_by_row(matrix, made)
    dtype = matrix.data.dtype.newbyteorder("=")
    with reading(folder):
        return SparseMatrix(
            matrix.path,
            matrix.shape,
            FileArray(folder / "matrix" / "data.bin", dtype),
            FileArray(folder / "matrix" / "indices.bin", np.dtype(np.int32)),
            np.load(folder / "matrix" / "indptr.npy"),
            by_row=True,
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make a folder, and keep other processes out of it; a process that ends lets go."""
    import fcntl

    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open(folder / "lock", "w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise C2SError(
                f"{folder}: cannot be written ({error.strerror}); give another scratch folder"
            ) from error
        yield


def _write_by_row(matrix: SparseMatrix, folder: Path) -> None:
    """Write a CSC matrix as CSR, in memory of a few blocks, whatever its size.

    Rows are gathered in buckets of about a block of values each. A first pass counts the values of
    rows, so a bucket's place in the result is known; a second puts every value into its bucket's
    place, in the order of columns; then each bucket is sorted by row where it lies.
    """
    indptr = np.concatenate([[0], np.cumsum(_values_per_row(matrix))])
    np.save(folder / "indptr.npy", indptr)
    place, value = np.dtype(np.int32), matrix.data.dtype.newbyteorder("=")
    entries = [
        FileArray(folder / name, dtype)
        for name, dtype in (("row.bin", place), ("indices.bin", place), ("data.bin", value))
    ]
    bucket_of_row = indptr[:-1] // _BLOCK
    n_buckets = int(bucket_of_row.max(initial=-1)) + 1
    first_row = np.searchsorted(bucket_of_row, np.arange(n_buckets + 1))
    _fill_buckets(matrix, entries, bucket_of_row, indptr[first_row])
    for low, high in pairwise(first_row.tolist()):
        _sort_bucket(entries, indptr, low, high)
    entries[0].path.unlink()


def _fill_buckets(
    matrix: SparseMatrix, entries: list[FileArray], bucket_of_row: np.ndarray, begin: np.ndarray
) -> None:
    """Put rows, columns and values into three files, each bucket's from where it begins.

    Parameters
    ----------
    matrix
        By column.
    entries
        The files of rows, columns and values; made here.
    bucket_of_row : int64 array, shape (n_rows,)
        The bucket of every row.
    begin : int64 array, shape (n_buckets + 1,)
        How many values are in the buckets before each; the last is the number of all.
    """
    free = begin[:-1].copy()  # the next place in every bucket
    with ExitStack() as stack:
        handles = [stack.enter_context(open(array.path, "wb")) for array in entries]
        for block in _entries_by_column(matrix):
            order, starts = _counting_order(bucket_of_row[block[0]], len(free))
            for handle, values in zip(handles, block, strict=True):
                ordered = values[order]
                for bucket in np.flatnonzero(np.diff(starts)):
                    handle.seek(int(free[bucket]) * values.itemsize)
                    handle.write(ordered[starts[bucket] : starts[bucket + 1]].data)
            free += np.diff(starts)


def _sort_bucket(entries: list[FileArray], indptr: np.ndarray, low: int, high: int) -> None:
    """Sort the values of rows `low` to `high`, which lie together, by row."""
    rows, *others = entries
    start, stop = int(indptr[low]), int(indptr[high])
    order, _ = _counting_order(rows.read(start, stop).astype(np.int64) - low, high - low)
    for array in others:
        values = array.read(start, stop)[order]
        with open(array.path, "r+b") as handle:
            handle.seek(start * array.dtype.itemsize)
            handle.write(values.data)


def _values_per_row(matrix: SparseMatrix) -> np.ndarray:
    """Count the stored values of the rows of a CSC matrix. int64, shape (n_rows,)."""
    counts = np.zeros(matrix.shape[0], np.int64)
    total = int(matrix.indptr[-1])
    for start in range(0, total, _BLOCK):
        with reading(matrix.path):
            rows = matrix.indices.read(start, min(start + _BLOCK, total))
        if rows.min() < 0 or rows.max() >= len(counts):
            raise InputError(
                f"{matrix.path}: a value stands in a row that is none of the {len(counts):,}; the file is"
                " damaged, so copy or download it again"
            )
        counts += np.bincount(rows, minlength=len(counts))
    return counts


def _entries_by_column(
    matrix: SparseMatrix,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield rows, columns and values of a CSC matrix in blocks."""
    total = int(matrix.indptr[-1])
    for start in range(0, total, _BLOCK):
        stop = min(start + _BLOCK, total)
        first = int(np.searchsorted(matrix.indptr, start, side="right")) - 1
        last = int(np.searchsorted(matrix.indptr, stop, side="left"))
        lengths = np.diff(np.clip(matrix.indptr[first : last + 1], start, stop))
        with reading(matrix.path):
            rows = matrix.indices.read(start, stop).astype(np.int32, copy=False)
            values = matrix.data.read(start, stop)
        yield rows, np.repeat(np.arange(first, last, dtype=np.int32), lengths), values


@njit(cache=True)
def _counting_order(keys: np.ndarray, n_keys: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the stable order of small whole numbers, and where each of them begins in it."""
    starts = np.zeros(n_keys + 1, np.int64)
    for key in keys:
        starts[key + 1] += 1
    for key in range(n_keys):
        starts[key + 1] += starts[key]
    place = starts[:-1].copy()
    order = np.empty(len(keys), np.int64)
    for i in range(len(keys)):
        order[place[keys[i]]] = i
        place[keys[i]] += 1
    return order, starts
