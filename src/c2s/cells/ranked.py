"""`RankedCells`: cells held as gene columns in rank order, and how they are made from a matrix.

Everything else is a view of it: text, token ids, reconstructed expression (DESIGN, "The one idea").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import scipy.sparse as sp

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError
from c2s.common.seeds import cell_keys as make_cell_keys

if TYPE_CHECKING:
    import pyarrow as pa

#: How genes of equal value are ordered. "seeded": by a hash of (seed, cell id, gene), as good as random and
#: repeatable; "alphabetical": by the gene's word.
Ties = Literal["seeded", "alphabetical"]


@dataclass(frozen=True, eq=False)
class RankedCells:
    """Cells as gene columns in descending order of expression: a ragged array like CSR.

    Attributes
    ----------
    indptr : int64 array, shape (n_cells + 1,)
        Cell `i` is `genes[indptr[i]:indptr[i + 1]]`.
    genes : int32 array, shape (n_ranked,)
        Columns of the vocabulary, the highest expressed gene of a cell first.
    vocabulary
        Names the columns.
    values : float array, shape (n_ranked,), or None
        The values that were ranked (counts or normalised expression), aligned with `genes`.
    cell_ids : array of str, shape (n_cells,), or None
        The cells' names.

    Examples
    --------
    >>> import c2s
    >>> cells = c2s.pp.cell_sentences(c2s.datasets.pancreas(), top_k=5)
    >>> len(cells), cells.words(0)[:3]
    (1937, ['REG1A', 'CTRB2', 'PRSS2'])
    """

    indptr: np.ndarray
    genes: np.ndarray
    vocabulary: GeneVocabulary
    values: np.ndarray | None = None
    cell_ids: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __repr__(self) -> str:
        return f"RankedCells({len(self):,} cells, {len(self.genes):,} ranks, {len(self.vocabulary):,} genes)"

    @property
    def lengths(self) -> np.ndarray:
        """Number of ranked genes of each cell. int64, shape (n_cells,)."""
        return np.diff(self.indptr)

    def to_columns(self, i: int) -> np.ndarray:
        """Return the columns of cell `i` in rank order. int32, shape (n_ranked_i,)."""
        return self.genes[self.indptr[i] : self.indptr[i + 1]]

    def words(self, i: int) -> list[str]:
        """Return the words of cell `i` in rank order."""
        return [self.vocabulary.words[g] for g in self.to_columns(i)]

    def sentence(self, i: int) -> str:
        """Return cell `i` as text: its words separated by single spaces (SPEC §2, Eq. 1)."""
        return " ".join(self.words(i))

    def to_text(self) -> pa.Array:
        """Return all cells as text, a pyarrow `large_string` array of shape (n_cells,)."""
        from c2s.cells.text import ranked_to_text

        return ranked_to_text(self)

    def take(self, rows: Sequence[int] | np.ndarray) -> RankedCells:
        """Return the given cells, in the given order; a row may repeat, and −1 is the last one.

        A boolean array of shape (n_cells,) takes the cells where it is true.
        """
        # Through arange, so that masks, negative rows and rows that are not there do as in NumPy.
        rows = np.asarray(rows)
        rows = np.arange(len(self))[rows if rows.size else rows.astype(np.int64)]
        lengths = self.lengths[rows]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        at = np.arange(indptr[-1]) + np.repeat(self.indptr[rows] - indptr[:-1], lengths)
        return RankedCells(
            indptr,
            self.genes[at],
            self.vocabulary,
            None if self.values is None else self.values[at],
            None if self.cell_ids is None else self.cell_ids[rows],
        )

    def head(self, top_k: int) -> RankedCells:
        """Return the same cells with at most the first `top_k` genes each."""
        _check_top_k(top_k)
        lengths = np.minimum(self.lengths, top_k)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        at = np.arange(indptr[-1]) + np.repeat(self.indptr[:-1] - indptr[:-1], lengths)
        values = None if self.values is None else self.values[at]
        return RankedCells(indptr, self.genes[at], self.vocabulary, values, self.cell_ids)

    @classmethod
    def from_columns(
        cls,
        rows: Iterable[Sequence[int] | np.ndarray],
        vocabulary: GeneVocabulary,
        cell_ids: np.ndarray | None = None,
    ) -> RankedCells:
        """Make ranked cells from one sequence of columns per cell."""
        arrays = [np.asarray(row, dtype=np.int32) for row in rows]
        indptr = np.concatenate([[0], np.cumsum([len(a) for a in arrays])]).astype(np.int64)
        genes = np.concatenate(arrays) if arrays else np.empty(0, np.int32)
        return cls(indptr, genes, vocabulary, None, cell_ids)


def rank_matrix(
    matrix: sp.csr_matrix,
    vocabulary: GeneVocabulary,
    cell_ids: Sequence[str] | np.ndarray,
    *,
    top_k: int | np.ndarray | None = None,
    selected: np.ndarray | None = None,
    ties: Ties = "seeded",
    seed: int = 0,
    keep: float | np.ndarray = 1.0,
) -> RankedCells:
    """Rank the genes of each row of a CSR matrix (SPEC §2).

    Scaling a cell or taking logarithms does not change the order, so raw counts are ranked as they are.

    Parameters
    ----------
    matrix
        Non-negative finite values, cells × genes, without duplicate entries.
    vocabulary
        Names the columns; `len(vocabulary) == matrix.shape[1]`.
    cell_ids
        One id a cell; with `seed` it decides the order of ties.
    top_k
        Keep this many genes of each cell; None keeps all that are expressed. An int64 array of shape (n_cells,)
        gives the number for each cell, where 0 leaves a cell empty.
    selected : bool array, shape (n_genes,), optional
        Rank these genes only.
    ties, seed
        See `Ties`. Another seed draws other ties.
    keep
        Binomial thinning of whole counts before ranking: the probability with which each molecule is kept,
        for all cells or one a cell. 1 keeps all.

    Raises
    ------
    InputError
        The vocabulary, the ids or the selection do not fit the matrix.
    UsageError
        `top_k` < 1, `keep` outside (0, 1], or thinning of values that are not whole counts.
    """
    from c2s.cells import kernels

    _check_shapes(matrix, vocabulary, cell_ids, selected)
    most = _most_genes(top_k, matrix.shape)
    data = matrix.data if matrix.data.dtype in _KERNEL_TYPES else matrix.data.astype(np.float64)
    keys = _tie_keys(vocabulary, ties)
    cells = make_cell_keys(cell_ids, seed)
    keep = share_per_cell(keep, len(cells))
    if (keep != 1).any():
        data = _thinned(data, matrix, cells, vocabulary.keys(), keep)
    if ties == "alphabetical":
        cells = np.zeros(len(cells), np.uint64)
    mask = np.ones(1, bool) if selected is None else np.ascontiguousarray(selected, dtype=bool)
    limits = np.empty(matrix.shape[0], np.int64)
    kernels.count_expressed(
        data,
        matrix.indices,
        matrix.indptr,
        mask,
        selected is not None,
        np.int64(most.max(initial=0)),
        limits,
    )
    np.minimum(limits, most, out=limits)
    indptr = np.concatenate([[0], np.cumsum(limits)])
    genes = np.empty(indptr[-1], np.int32)
    values = np.empty(indptr[-1], data.dtype)
    kernels.rank_rows(
        data,
        matrix.indices,
        matrix.indptr,
        cells,
        keys,
        mask,
        selected is not None,
        limits,
        indptr,
        genes,
        values,
    )
    return RankedCells(indptr, genes, vocabulary, values, np.asarray(cell_ids, dtype=object))


# The kernel is compiled for these; other types are widened so that it need not be compiled again.
_KERNEL_TYPES = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int32), np.dtype(np.int64))


def _tie_keys(vocabulary: GeneVocabulary, ties: Ties) -> np.ndarray:
    if ties == "seeded":
        return vocabulary.keys()
    if ties != "alphabetical":
        raise UsageError(f"ties={ties!r} is unknown; use 'seeded' or 'alphabetical'")
    return _alphabetical_keys(vocabulary)


def _alphabetical_keys(vocabulary: GeneVocabulary) -> np.ndarray:
    """Return keys whose hash, with a cell key of zero, grows with the alphabetical position of the word."""
    position = np.empty(len(vocabulary), np.uint64)
    order = np.argsort(np.asarray(vocabulary.words, dtype=object), kind="stable")
    # Spread over 64 bits, so that the kernel's placement by the key's high bits stays even.
    position[order] = np.arange(len(order), dtype=np.uint64) * np.uint64(
        (2**64 - 1) // max(len(order), 1)
    )
    return _unmix64(position)


def _unmix64(x: np.ndarray) -> np.ndarray:
    """Return the inverse of `mix64`: the kernel hashes keys, and this makes the hash come out as `x`."""
    x = x.copy()
    x ^= (x >> np.uint64(31)) ^ (x >> np.uint64(62))
    x *= np.uint64(0x319642B2D24D8EC3)
    x ^= (x >> np.uint64(27)) ^ (x >> np.uint64(54))
    x *= np.uint64(0x96DE1B173F119089)
    x ^= (x >> np.uint64(30)) ^ (x >> np.uint64(60))
    return x


def share_per_cell(keep: float | np.ndarray, n_cells: int) -> np.ndarray:
    """Return the probabilities of binomial thinning, one a cell; shape (n_cells,).

    Raises
    ------
    UsageError
        There is neither one for all cells nor one for each.
    """
    keep = np.asarray(keep, dtype=np.float64)
    if keep.shape not in ((), (1,), (n_cells,)):
        raise UsageError(
            f"thinning got shares of shape {keep.shape} for {n_cells:,} cells; give one share, or"
            " one a cell"
        )
    return np.broadcast_to(keep, n_cells)


def _thinned(
    data: np.ndarray, matrix: sp.csr_matrix, cells: np.ndarray, genes: np.ndarray, keep: np.ndarray
) -> np.ndarray:
    from c2s.cells import kernels

    if not ((keep > 0) & (keep <= 1)).all():
        raise UsageError(
            f"keep={keep.min() if keep.min() <= 0 else keep.max()} is not a probability in (0, 1]"
        )
    if data.dtype.kind == "f" and not (data == np.floor(data)).all():
        raise UsageError(
            "thinning needs whole counts, and the matrix holds other values; rank it with keep=1"
        )
    out = np.empty_like(data)
    kernels.thin_rows(
        data, matrix.indices, matrix.indptr, cells, genes, np.ascontiguousarray(keep, float), out
    )
    return out


def _check_shapes(
    matrix: sp.csr_matrix,
    vocabulary: GeneVocabulary,
    cell_ids: Sequence[str] | np.ndarray,
    selected: np.ndarray | None,
) -> None:
    """Refuse arrays that the kernel, which checks no bounds, would read past their end."""
    n_cells, n_genes = matrix.shape
    if n_genes != len(vocabulary):
        raise InputError(
            f"the matrix has {n_genes:,} columns, the vocabulary {len(vocabulary):,} genes"
        )
    if n_cells != len(cell_ids):
        raise InputError(
            f"the matrix has {n_cells:,} rows, and {len(cell_ids):,} cell ids were given"
        )
    if selected is not None and np.shape(selected) != (n_genes,):
        raise InputError(
            f"the gene selection has shape {np.shape(selected)}; the matrix has {n_genes:,} columns"
        )


def _most_genes(top_k: int | np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
    """Return the most genes to keep of each cell."""
    if isinstance(top_k, np.ndarray):
        if top_k.shape != (shape[0],) or (top_k < 0).any():
            raise UsageError(
                f"top_k has shape {top_k.shape} for {shape[0]:,} cells; give one number ≥ 0 a cell"
            )
        return top_k
    if top_k is not None:
        _check_top_k(top_k)
    return np.full(shape[0], shape[1] if top_k is None else top_k, np.int64)


def _check_top_k(top_k: int) -> None:
    if top_k < 1:
        raise UsageError(
            f"top_k={top_k} is not possible; it is the number of genes to keep, at least 1"
        )
