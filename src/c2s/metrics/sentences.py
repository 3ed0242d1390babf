"""What cell sentences say: overlap of genes, and whether their words are right in form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from c2s.common.errors import InputError, UsageError

Sentence = Sequence[str] | Sequence[int] | np.ndarray
"""One cell's genes, in order: words, or columns of the vocabulary (below 0: not a gene)."""


def overlap(
    generated: Sentence | Sequence[Sentence],
    true: Sentence | Sequence[Sentence],
    *,
    k: int | None = None,
) -> float | np.ndarray:
    """Return ``100 |generated and true| / |true|`` on unique genes, in percent.

    The formula is not specified by the paper. Order does not count. Compare sentences cut to the
    same number of genes, by `k` if need be: a longer generated sentence finds more.

    Parameters
    ----------
    generated, true
        One cell (list of words, or array of columns), or a sequence of cells or 2-D array of
        columns, paired by position. Columns below 0 (words that are not genes) count on neither
        side.
    k
        Compare only the first `k` words of each sentence.

    Returns
    -------
    float, or float64 array of shape (n_cells,)
        0 to 100, higher is better; NaN where the true cell has no gene.

    Raises
    ------
    InputError
        Different numbers of cells, or text where a list of words is expected.
    UsageError
        `k` is below 1.

    References
    ----------
    SPEC §4.4.

    Examples
    --------
    >>> overlap(["INS", "IAPP", "INS"], ["INS", "GCG", "TTR", "IAPP"])
    50.0
    """
    if k is not None and k < 1:
        raise UsageError(f"k: found {k}, expected at least 1")
    one_cell = _is_one_cell(true)
    if len(generated) and len(true) and _is_one_cell(generated) != one_cell:
        raise InputError("overlap: found one cell on one side and a list of cells on the other")
    if one_cell:
        return _overlap(generated, true, k)
    if len(generated) != len(true):
        raise InputError(
            f"overlap: found {len(generated)} generated and {len(true)} true cells, expected pairs"
        )
    return np.array([_overlap(g, t, k) for g, t in zip(generated, true, strict=True)])


def multi_cell_overlap(
    generated: Sequence[Sentence], true: Sequence[Sentence], *, k: int | None = None
) -> float:
    """Return the mean `overlap` of the cells of one multi-cell answer, paired by position.

    Cells that the answer lacks count 0; cells beyond the true number are not looked at.

    Parameters
    ----------
    generated, true : sequence of cells
    k
        As in `overlap`.

    Returns
    -------
    float
        0 to 100, higher is better; NaN when a true cell has no gene.

    Raises
    ------
    InputError
        There is no true cell, or as `overlap`.

    References
    ----------
    SPEC §4.4.

    Examples
    --------
    >>> multi_cell_overlap([["INS"]], [["INS", "IAPP"], ["GCG", "TTR"]])
    25.0
    """
    if len(true) == 0:
        raise InputError("multi_cell_overlap: found no true cells, expected at least one")
    paired = min(len(generated), len(true))
    values = [_overlap(generated[i], true[i], k) for i in range(paired)]
    return float(np.sum(values) / len(true))


def valid_fraction(columns: np.ndarray, indptr: np.ndarray) -> float:
    """Return the share of all words that are genes of the vocabulary.

    Parameters
    ----------
    columns : int array, shape (n_words,)
        Vocabulary column of each word, below 0 for a word that is not a gene.
    indptr : int array, shape (n_cells + 1,)
        Cell i holds the words ``indptr[i]:indptr[i + 1]``.

    Returns
    -------
    float
        0 to 1, higher is better; NaN when there are no words.

    Raises
    ------
    InputError
        `indptr` does not fit `columns`, or there are no cells.

    References
    ----------
    SPEC §3.

    Examples
    --------
    >>> valid_fraction(np.array([4, -1, 2, 2]), np.array([0, 2, 4]))
    0.75
    """
    columns, _ = _ragged(columns, indptr)
    return float(np.mean(columns >= 0)) if len(columns) else float("nan")


def unique_fraction(columns: np.ndarray, indptr: np.ndarray) -> float:
    """Return the share of valid words that name a gene for the first time in their cell.

    Parameters
    ----------
    columns, indptr
        As in `valid_fraction`.

    Returns
    -------
    float
        0 to 1, higher is better; 1 when no cell names a gene twice; NaN without valid words.

    Raises
    ------
    InputError
        As `valid_fraction`.

    References
    ----------
    SPEC §3.

    Examples
    --------
    >>> round(unique_fraction(np.array([4, -1, 2, 2]), np.array([0, 2, 4])), 6)
    0.666667
    """
    columns, indptr = _ragged(columns, indptr)
    valid = columns >= 0
    if not valid.any():
        return float("nan")
    cell = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))[valid]
    genes = columns[valid]
    return len(np.unique(cell * (genes.max() + 1) + genes)) / len(genes)


def exact_k_fraction(columns: np.ndarray, indptr: np.ndarray, k: int) -> float:
    """Return the share of cells that have exactly `k` words, valid or not.

    Parameters
    ----------
    columns, indptr
        As in `valid_fraction`.
    k
        Number of genes that was asked for.

    Returns
    -------
    float
        0 to 1, higher is better.

    Raises
    ------
    InputError
        As `valid_fraction`.

    References
    ----------
    SPEC §2.

    Examples
    --------
    >>> exact_k_fraction(np.array([4, 1, 2]), np.array([0, 2, 3]), k=2)
    0.5
    """
    _, indptr = _ragged(columns, indptr)
    return float(np.mean(np.diff(indptr) == k))


def _is_one_cell(cells: Any) -> bool:
    if isinstance(cells, str):
        raise InputError(f"overlap: found the text {cells[:40]!r}, expected a list of words")
    if isinstance(cells, np.ndarray) and cells.ndim != 1:
        return False
    return len(cells) == 0 or isinstance(cells[0], str | int | np.integer)


def _overlap(generated: Iterable[Any], true: Iterable[Any], k: int | None) -> float:
    wanted = _genes(true, k)
    if not wanted:
        return float("nan")
    return 100 * len(_genes(generated, k) & wanted) / len(wanted)


def _genes(sentence: Iterable[Any], k: int | None) -> set[Any]:
    """Return the genes among the first `k` words; words that are not genes are dropped."""
    if isinstance(sentence, str):
        raise InputError(f"overlap: found the text {sentence[:40]!r}, expected a list of words")
    words = sentence.tolist() if isinstance(sentence, np.ndarray) else list(sentence)
    genes = set(words[:k])
    return {g for g in genes if isinstance(g, str) or g >= 0}


def _ragged(columns: np.ndarray, indptr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    columns, indptr = np.asarray(columns, dtype=np.int64), np.asarray(indptr, dtype=np.int64)
    if indptr.ndim != 1 or len(indptr) < 2:
        raise InputError("indptr: found no cells, expected at least one")
    if (
        columns.ndim != 1
        or indptr[0] != 0
        or indptr[-1] != len(columns)
        or (np.diff(indptr) < 0).any()
    ):
        raise InputError(
            f"indptr: runs from {indptr[0]} to {indptr[-1]}, expected to rise from 0 to the number "
            f"of words ({len(columns)})"
        )
    return columns, indptr
