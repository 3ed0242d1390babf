"""Compiled looks at a block of cells: what is wrong with its values, and what quality control asks."""

# Numba infers the types of the kernels' arguments; the public ones are described in the docstrings.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from c2s.cells.kernels import _mix

#: What `look_at_rows` finds wrong with a row.
FINE, NOT_FINITE, NEGATIVE, OUT_OF_RANGE = 0, 1, 2, 3


@njit(cache=True, nogil=True)
def look_at_rows(
    data, indices, indptr, n_genes, keys, mitochondrial, wrong, expressed, share, content
) -> bool:
    """Look at every stored value of some rows once; return whether all rows list their columns in ascending order.

    Parameters
    ----------
    data, indices, indptr
        The CSR arrays.
    n_genes : int
        Columns there may be.
    keys : uint64, (n_genes,)
        Hashes of the gene words.
    mitochondrial : bool, (n_genes,)
        Genes whose share of the counts is asked for.
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
    for c in range(indptr.shape[0] - 1):
        n = 0
        total = 0.0
        mt = 0.0
        print_ = np.uint64(0)
        before = np.int64(-1)
        bad = np.uint8(0)
        for e in range(indptr[c], indptr[c + 1]):
            gene = np.int64(indices[e])
            if gene <= before:
                ascending = False
            before = gene
            if gene < 0 or gene >= n_genes:
                bad = np.uint8(OUT_OF_RANGE)
                break
            value = np.float64(data[e])
            if not np.isfinite(value):
                bad = np.uint8(NOT_FINITE)
            elif value < 0:
                bad = np.uint8(NEGATIVE)
            elif value > 0:
                n += 1
                total += value
                if mitochondrial[gene]:
                    mt += value
                # Scaled by a power of two, small whole numbers and fractions alike become distinct integers.
                amount = np.uint64(value * 1048576.0) * np.uint64(0x9E3779B97F4A7C15)
                print_ += _mix(keys[gene] ^ amount)
        wrong[c] = bad
        expressed[c] = n
        share[c] = 100.0 * mt / total if total > 0 else 0.0
        content[c] = print_
    return ascending


@njit(cache=True, nogil=True)
def count_cells_per_gene(data, indices, indptr, kept, out) -> None:
    """Add to `out` (int64, (n_genes,)) in how many of the kept rows (bool, (n_cells,)) each gene is above zero."""
    for c in range(indptr.shape[0] - 1):
        if kept[c]:
            for e in range(indptr[c], indptr[c + 1]):
                out[indices[e]] += data[e] > 0
