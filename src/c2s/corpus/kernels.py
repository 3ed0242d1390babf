"""Compiled looks at a block of cells: what is wrong with its values, and what quality control asks."""

# Numba infers the types of the kernels' arguments; the public ones are described in the docstrings.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from c2s.cells.kernels import _mix

#: What `look_at_rows` finds wrong with a row.
FINE, NOT_FINITE, NEGATIVE, OUT_OF_RANGE = 0, 1, 2, 3


# Short loops that go straight through one row each, because the compiler vectorises those.


@njit
def _ascending(columns) -> bool:
    falling = 0
    for i in range(1, len(columns)):
        falling += columns[i] <= columns[i - 1]
    return falling == 0


@njit
def _outside(columns, n_genes) -> bool:
    found = 0
    for i in range(len(columns)):
        found += (columns[i] < 0) | (columns[i] >= n_genes)
    return found > 0


@njit
def _impossible(values) -> bool:
    """Whether a value is negative or not finite."""
    found = 0
    for i in range(len(values)):
        found += not (values[i] >= 0 and values[i] < np.inf)
    return found > 0


@njit
def _first_problem(values) -> int:
    for value in values:
        if not np.isfinite(np.float64(value)):
            return NOT_FINITE
        if value < 0:
            return NEGATIVE
    return FINE


@njit
def _n_positive(values) -> int:
    n = 0
    for i in range(len(values)):
        n += values[i] > 0
    return n


@njit
def _fingerprint(values, columns, keys) -> np.uint64:
    total = np.uint64(0)
    for i in range(len(values)):
        value = np.float64(values[i])
        # Scaled by a power of two, small whole numbers and fractions alike become distinct integers.
        amount = np.uint64(value * 1048576.0) * np.uint64(0x9E3779B97F4A7C15)
        total += _mix(keys[np.uint32(columns[i])] ^ amount) * np.uint64(value > 0)
    return total


@njit
def _share(values, columns, chosen) -> float:
    """Return the share of the chosen genes in the sum of a row, in percent.

    Four sums take turns, because an addition has to wait for the one before it; their order is part of the result.
    """
    a = b = c = d = 0.0
    e = f = g = h = 0.0
    whole = len(values) - len(values) % 4
    for i in range(0, whole, 4):
        p, q = np.float64(values[i]), np.float64(values[i + 1])
        r, s = np.float64(values[i + 2]), np.float64(values[i + 3])
        a, b, c, d = a + p, b + q, c + r, d + s
        e += p * chosen[np.uint32(columns[i])]
        f += q * chosen[np.uint32(columns[i + 1])]
        g += r * chosen[np.uint32(columns[i + 2])]
        h += s * chosen[np.uint32(columns[i + 3])]
    for i in range(whole, len(values)):
        a += np.float64(values[i])
        e += np.float64(values[i]) * chosen[np.uint32(columns[i])]
    total = (a + b) + (c + d)
    return 100.0 * ((e + f) + (g + h)) / total if total > 0 else 0.0


@njit(cache=True, nogil=True)
def look_at_rows(
    data, indices, indptr, n_genes, keys, mitochondrial, wrong, expressed, share, content
) -> bool:
    """Look at every stored value of some rows; return whether all rows list their columns in ascending order.

    Parameters
    ----------
    data, indices, indptr
        The CSR arrays.
    n_genes : int
        Columns there may be.
    keys : uint64, (n_genes,)
        Hashes of the gene words.
    mitochondrial : bool, (n_genes,), or (0,)
        Genes whose share of the counts is asked for; empty for none, which is faster.
    wrong : uint8, (n_cells,)
        Receives what is wrong with each row; `FINE` for nothing.
    expressed : int64, (n_cells,)
        Receives the number of values above zero.
    share : float64, (n_cells,)
        Receives the mitochondrial share of each row's sum, in percent.
    content : uint64, (n_cells,)
        Receives a fingerprint of each row: the sum of the hashes of its (gene, value) pairs that are not zero. It
        does not depend on the order of columns or on the type of the values.
    """
    ascending = True
    for row in range(indptr.shape[0] - 1):
        values = data[indptr[row] : indptr[row + 1]]
        columns = indices[indptr[row] : indptr[row + 1]]
        ascending &= _ascending(columns)
        wrong[row] = FINE
        if _outside(columns, n_genes):
            wrong[row] = OUT_OF_RANGE
            continue  # nothing below checks bounds
        if _impossible(values):
            wrong[row] = _first_problem(values)
        expressed[row] = _n_positive(values)
        share[row] = _share(values, columns, mitochondrial) if len(mitochondrial) else 0.0
        content[row] = _fingerprint(values, columns, keys)
    return ascending


@njit(cache=True, nogil=True)
def count_cells_per_gene(data, indices, indptr, kept, out) -> None:
    """Add to `out` (int64, (n_genes,)) in how many of the kept rows (bool, (n_cells,)) each gene is above zero."""
    for c in range(indptr.shape[0] - 1):
        if kept[c]:
            for e in range(indptr[c], indptr[c + 1]):
                out[indices[e]] += data[e] > 0
