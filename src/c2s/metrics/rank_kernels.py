"""Compiled parts of rank correlations: one row of two matrices after the other, rows in parallel.

Few genes are compared pair by pair, without a branch, so that the compiler vectorises it. More genes are sorted: each
value becomes an unsigned integer of the same order whose last bits make room for its column (`pack`); NumPy sorts
these with vector instructions; and what the last bits of a value would have decided is put right afterwards
(`_ordered`). Then pairs in the wrong order are counted, in pairs of 16-bit ranks or, for many genes, bit by bit.
All ways count the same integers, so they give the same bits.
"""

# Numba infers the types of the kernels' arguments; they are described in the docstrings.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

# Up to this many genes, comparing all pairs of values is quicker than sorting.
PAIRS_GENES = 64
# Up to this many genes, comparing all pairs of ranks is quicker than going through their bits.
# (Not above 32,767: ranks and counts are 16-bit integers.)
SHORT_GENES = 1024

_SIGN = np.uint64(1 << 63)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


# Sums of small integers are exact in any order, so the compiler may reorder them.
@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _count_pairs(x, y):
    """Return concordant less discordant pairs, pairs not tied in x, and pairs not tied in y."""
    score, apart_x, apart_y = 0.0, 0.0, 0.0
    for i in range(1, len(x)):
        a, b = x[i], y[i]
        for j in range(i):
            dx = (1.0 if x[j] > a else 0.0) - (1.0 if x[j] < a else 0.0)
            dy = (1.0 if y[j] > b else 0.0) - (1.0 if y[j] < b else 0.0)
            score += dx * dy
            apart_x += dx * dx
            apart_y += dy * dy
    return score, apart_x, apart_y


@njit(cache=True, nogil=True, parallel=True)
def pack(x, bits, keys):
    """Write unsigned integers that sort like the values, their last `bits` bits the column.

    Parameters
    ----------
    x : float64 array, shape (n_rows, n_genes), C order, without NaN and without -0.0
    bits
        Enough to hold a column.
    keys : uint64 array, shape (n_rows, n_genes)
    """
    raw = x.view(np.uint64)
    room = _ALL << np.uint64(bits)
    for row in prange(x.shape[0]):
        for i in range(x.shape[1]):
            key = raw[row, i]
            key ^= _ALL if key & _SIGN else _SIGN
            keys[row, i] = (key & room) | np.uint64(i)


@njit(cache=True, nogil=True)
def _ordered(values, keys, bits, order):
    """Write the columns by rising value to `order`, from sorted packed keys."""
    column = ~(_ALL << np.uint64(bits))
    for i in range(len(keys)):
        here = np.int64(keys[i] & column)
        value = values[here]
        j = i  # values that only their last bits tell apart: rare, so one comparison a gene
        while j > 0 and values[order[j - 1]] > value:
            order[j] = order[j - 1]
            j -= 1
        order[j] = here


@njit(cache=True, nogil=True)
def _dense_ranks(values, order, rank):
    """Write the rank of each column to `rank`, tied ones the same; return the number of tied pairs."""
    tied = run = level = 0
    rank[order[0]] = 0
    for i in range(1, len(order)):
        if values[order[i]] != values[order[i - 1]]:
            level += 1
            run = 0
        else:
            run += 1
            tied += run
        rank[order[i]] = level
    return tied


@njit(cache=True, nogil=True)
def _inversions_by_pairs(ranks):
    """Return how many pairs of at most 32,767 ranks (int16) stand in falling order."""
    found = 0
    for i in range(1, len(ranks)):
        rank = ranks[i]
        above = np.int16(0)
        for j in range(i):
            above = np.int16(above + np.int16(ranks[j] > rank))
        found += above
    return found


@njit(cache=True, nogil=True)
def _inversions_by_bits(places):
    """Return how many pairs of a permutation stand in falling order; leaves it sorted or not.

    From the highest bit down, numbers that agree in the bits above stand together, in their first order: those with the
    bit that stand before those without it are in the wrong order.
    """
    n = len(places)
    other = np.empty_like(places)
    found = 0
    bit = 0
    while (1 << (bit + 1)) < n:
        bit += 1
    while bit >= 0:
        half = 1 << bit
        for low in range(0, n, 2 * half):
            zeros, ones = low, low + half
            for i in range(low, min(low + 2 * half, n)):
                place = places[i]
                if place & half:
                    other[ones] = place
                    ones += 1
                else:
                    other[zeros] = place
                    zeros += 1
                    found += ones - low - half
        places, other = other, places
        bit -= 1
    return found


@njit(cache=True, nogil=True)
def _count_sorted(x, y, keys_x, keys_y, bits, short):
    """Return what `_count_pairs` returns, from sorted packed keys."""
    n = len(x)
    order = np.empty(n, np.int64)
    rank_x, rank_y = np.empty(n, np.int64), np.empty(n, np.int64)
    _ordered(x, keys_x, bits, order)
    tied_x = _dense_ranks(x, order, rank_x)
    _ordered(y, keys_y, bits, order)
    tied_y = _dense_ranks(y, order, rank_y)

    # By x, and by y where x is tied: columns by rising y go to the next free place of their x.
    free = np.zeros(n + 1, np.int64)
    for i in range(n):
        free[rank_x[i] + 1] += 1
    for i in range(n):
        free[i + 1] += free[i]
    by_x = np.empty(n, np.int64)
    for i in range(n):
        level = rank_x[order[i]]
        by_x[free[level]] = order[i]
        free[level] += 1
    tied_both = run = 0
    for i in range(1, n):
        a, b = by_x[i - 1], by_x[i]
        run = run + 1 if rank_x[a] == rank_x[b] and rank_y[a] == rank_y[b] else 0
        tied_both += run

    if short:
        ranks = np.empty(n, np.int16)
        for i in range(n):
            ranks[i] = rank_y[by_x[i]]
        discordant = _inversions_by_pairs(ranks)
    else:
        # Tied ranks get places of their own, in the order in which they stand: no pair of them is in the wrong order.
        free[:] = 0
        for i in range(n):
            free[rank_y[i] + 1] += 1
        for i in range(n):
            free[i + 1] += free[i]
        places = np.empty(n, np.int64)
        for i in range(n):
            level = rank_y[by_x[i]]
            places[i] = free[level]
            free[level] += 1
        discordant = _inversions_by_bits(places)
    pairs = n * (n - 1) // 2
    score = pairs - tied_x - tied_y + tied_both - 2 * discordant
    return float(score), float(pairs - tied_x), float(pairs - tied_y)


@njit(cache=True, nogil=True)
def _tau_b(score, apart_x, apart_y):
    if apart_x == 0 or apart_y == 0:
        return np.nan
    return min(1.0, max(-1.0, score / math.sqrt(apart_x) / math.sqrt(apart_y)))


@njit(cache=True, nogil=True, parallel=True)
def tau_b_by_pairs(x, y, result):
    """Write tau-b of each row to `result`; NaN where one side has no two values that differ.

    Parameters
    ----------
    x, y : float64 arrays, shape (n_rows, n_genes), C order, without NaN
    result : float64 array, shape (n_rows,)
    """
    for row in prange(x.shape[0]):
        result[row] = _tau_b(*_count_pairs(x[row], y[row]))


@njit(cache=True, nogil=True, parallel=True)
def tau_b_by_sorting(x, y, keys_x, keys_y, bits, short, result):
    """Write what `tau_b_by_pairs` writes, for many genes.

    Parameters
    ----------
    x, y : float64 arrays, shape (n_rows, n_genes), C order, without NaN and without -0.0
        At least one gene.
    keys_x, keys_y : uint64 arrays of the same shape
        Of `pack`, each row sorted.
    bits
        Those that `pack` was given.
    short
        Whether to count in 16 bits; for at most 32,767 genes.
    result : float64 array, shape (n_rows,)
    """
    for row in prange(x.shape[0]):
        counts = _count_sorted(x[row], y[row], keys_x[row], keys_y[row], bits, short)
        result[row] = _tau_b(*counts)


@njit(cache=True, nogil=True, parallel=True)
def average_ranks(x, keys, bits, result):
    """Write the rank of each value within its row to `result`, from 1; tied values share the mean.

    Parameters
    ----------
    x : float64 array, shape (n_rows, n_genes), C order, without NaN and without -0.0
    keys : uint64 array of the same shape
        Of `pack`, each row sorted.
    bits
        Those that `pack` was given.
    result : float64 array, shape (n_rows, n_genes)
    """
    n = x.shape[1]
    for row in prange(x.shape[0]):
        order = np.empty(n, np.int64)
        _ordered(x[row], keys[row], bits, order)
        start = 0
        for end in range(1, n + 1):
            if end == n or x[row, order[end]] != x[row, order[start]]:
                for i in range(start, end):
                    result[row, order[i]] = (start + end + 1) / 2
                start = end
