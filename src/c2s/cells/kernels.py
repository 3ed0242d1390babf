"""Compiled ranking straight from CSR rows: genes in descending order, seeded ties, top K.

Why it is fast. A cell has a few thousand expressed genes, most of them with a count of 1 or 2, and
a sentence wants the first few hundred. So a few passes over the counts, a byte each, find the
lowest count that can still be in the top K, and only genes at or above it are hashed and ordered.
Count, hash and column of a gene are packed into one 64-bit number, and the order of these numbers
is the order of the sentence. Each is put where a uniform hash says it belongs within its count (a
flash sort), which leaves little to move. Values that are not small integers take a comparison sort
instead.

The loops are short and separate on purpose: the compiler vectorises those that go straight through
one array, and those that jump about in memory have no branch that depends on the data. Unsigned
subscripts spare the test for counting from the end.

Ties. Genes of equal value are ordered by a 64-bit hash of (cell key, gene key), so the order of a
cell does not depend on other cells, on the order of columns, on chunks or on threads.
"""

# Numba infers the types of the kernels' arguments; the public ones are described in the docstrings.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit, prange

# Values from the last level on share that level and are told apart by comparison.
_LEVELS = 256
_LAST = _LEVELS - 1

# A packed gene: 8 bits of level (the highest level is the lowest number), the upper 32 bits of the
# tie hash, 24 bits of column. Matrices with more columns are ranked by comparison.
_COLUMN_BITS = 24
_MAX_COLUMNS = 1 << _COLUMN_BITS


@njit(inline="always")
def _mix(x: np.uint64) -> np.uint64:
    """Splitmix64 finaliser, as `c2s.common.seeds.mix64`."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


@njit(inline="always")
def _tie_key(cell_key: np.uint64, gene_key: np.uint64) -> np.uint64:
    return _mix(cell_key ^ gene_key)


@njit(inline="always")
def _before(value_a, key_a, gene_a, value_b, key_b, gene_b) -> bool:
    """Whether gene a stands before gene b: higher value, then lower tie key, then lower column."""
    if value_a != value_b:
        return value_a > value_b
    if key_a != key_b:
        return key_a < key_b
    return gene_a < gene_b


@njit
def _insertion_sort(values, keys, genes, low: int, high: int) -> None:
    for i in range(low + 1, high):
        value, key, gene = values[i], keys[i], genes[i]
        j = i
        while j > low and _before(value, key, gene, values[j - 1], keys[j - 1], genes[j - 1]):
            values[j], keys[j], genes[j] = values[j - 1], keys[j - 1], genes[j - 1]
            j -= 1
        values[j], keys[j], genes[j] = value, key, gene


@njit
def _partial_quicksort(values, keys, genes, n: int, keep: int) -> None:
    """Order the first `keep` of `n` entries as a full sort would; the rest stays in any order."""
    stack = np.empty(128, np.int64)
    stack[0], stack[1] = 0, n
    top = 2
    while top:
        top -= 2
        low, high = stack[top], stack[top + 1]
        while high - low > 16:
            middle = (low + high) >> 1
            value, key, gene = values[middle], keys[middle], genes[middle]
            i, j = low, high - 1
            while i <= j:
                while _before(values[i], keys[i], genes[i], value, key, gene):
                    i += 1
                while _before(value, key, gene, values[j], keys[j], genes[j]):
                    j -= 1
                if i <= j:
                    values[i], values[j] = values[j], values[i]
                    keys[i], keys[j] = keys[j], keys[i]
                    genes[i], genes[j] = genes[j], genes[i]
                    i += 1
                    j -= 1
            # Go on with the smaller part and remember the larger, so the stack stays logarithmic.
            left_high, right_low = j + 1, i
            if right_low >= keep:
                high = left_high
            elif left_high - low < high - right_low:
                stack[top], stack[top + 1] = right_low, high
                top += 2
                high = left_high
            else:
                stack[top], stack[top + 1] = low, left_high
                top += 2
                low = right_low
        _insertion_sort(values, keys, genes, low, high)


@njit
def _levels(values, columns, selected, use_selected, levels) -> bool:
    """Write min(value, 255) of a row to `levels`; return whether its values are counts.

    Genes that are not selected get level 0. Values past the last level need not be whole, because
    they are compared anyhow.
    """
    number = values.dtype.type
    last, zero = number(_LAST), number(0)
    unfit = 0
    for i in range(len(values)):
        value = values[i]
        value = value if value < last else last
        level = np.int32(value)
        unfit |= (value != number(level)) | (value < zero)
        levels[i] = level
    if use_selected:
        for i in range(len(values)):
            levels[i] *= selected[columns[i]]
    return unfit == 0


@njit
def _count_from(level, levels) -> int:
    """Return how many levels are at least `level`."""
    n = 0
    for i in range(len(levels)):
        n += levels[i] >= level
    return n


@njit
def _lowest_level(levels, limit) -> int:
    """Return the highest level that at least `limit` genes reach, 1 where there is none."""
    low, high = 1, 2
    while high < _LEVELS and _count_from(high, levels) >= limit:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) >> 1
        if _count_from(middle, levels) >= limit:
            low = middle
        else:
            high = middle
    return low


@njit
def _keep(
    levels, row_columns, lowest, cell_key, gene_keys, kept, columns, kept_levels, keys
) -> np.int64:
    """Collect columns, levels and hashes of genes at levels `lowest` to 254; return how many."""
    first, span = np.uint8(lowest), np.uint8(_LAST - lowest)
    end = np.uint64(0)
    for i in range(len(levels)):
        kept[end] = i
        # Below the first, the difference wraps round to a large number.
        end += np.uint64(np.uint8(levels[i] - first) < span)
    m = np.int64(end)
    for i in range(m):
        columns[i] = row_columns[kept[i]]
        kept_levels[i] = levels[kept[i]]
    for i in range(m):
        keys[i] = gene_keys[np.uint32(columns[i])]
    for i in range(m):
        keys[i] = _tie_key(cell_key, keys[i]) >> np.uint64(32)
    return m


@njit
def _tally(m, levels, tallies, tally) -> None:
    """Count the `m` kept genes by level.

    Most levels are the same, and an increment has to wait for the one before it at the same
    address: four tallies take turns.
    """
    one = np.uint32(1)
    for level in range(_LEVELS):
        for turn in range(4):
            tallies[turn, level] = 0
    whole = m - m % 4
    for i in range(0, whole, 4):
        tallies[0, levels[i]] += one
        tallies[1, levels[i + 1]] += one
        tallies[2, levels[i + 2]] += one
        tallies[3, levels[i + 3]] += one
    for i in range(whole, m):
        tallies[0, levels[i]] += one
    for level in range(_LEVELS):
        pair = tallies[0, level] + tallies[1, level]
        tally[level] = pair + tallies[2, level] + tallies[3, level]


@njit
def _pack(m, lowest, columns, levels, keys, tally, first, slots, ends) -> None:
    """Pack the `m` kept genes into `keys` and find their slots.

    A gene with the uniform 32-bit hash h, in a level of t genes, belongs at about h·t/2³² of the
    level: that is its slot. `ends` receives, one place on, how many genes share each slot.
    """
    position = np.uint64(0)
    for level in range(_LAST - 1, lowest - 1, -1):
        first[level] = position
        position += tally[level]
    for i in range(m + 1):
        ends[i] = 0
    for i in range(m):
        kept = levels[i]
        slot = first[kept] + ((keys[i] * tally[kept]) >> np.uint64(32))
        slots[i] = slot
        ends[slot + np.uint64(1)] += np.uint32(1)
    for i in range(m):
        keys[i] = (
            (np.uint64(_LAST - 1 - levels[i]) << np.uint64(56))
            | (keys[i] << np.uint64(_COLUMN_BITS))
            | np.uint64(columns[i])
        )


@njit
def _order_packed(m, packed, slots, ends, ordered) -> None:
    """Write the first `m` packed genes to `ordered`, ascending; m is at least 1.

    After the scatter nearly every number is at most one place from its own. One pass that carries
    the larger of two neighbours along settles most of that without a branch; the rest is inserted.
    """
    total = np.uint32(0)
    for i in range(m):
        total += ends[i]
        ends[i] = total
    for i in range(m):
        to = ends[slots[i]]
        ends[slots[i]] = to + np.uint32(1)
        ordered[to] = packed[i]
    carried = ordered[0]
    for i in range(1, m):
        other = ordered[i]
        ordered[i - 1] = min(carried, other)
        carried = max(carried, other)
    ordered[m - 1] = carried
    for i in range(1, m):
        entry = ordered[i]
        j = i
        while j > 0 and ordered[j - 1] > entry:
            ordered[j] = ordered[j - 1]
            j -= 1
        ordered[j] = entry


@njit
def _settle_equal_hashes(ordered, m, cell_key, gene_keys) -> None:
    """Order genes by their whole tie keys where level and packed half of the hash are equal."""
    column_bits = np.uint64(_COLUMN_BITS)
    clashes = 0
    for i in range(1, m):
        clashes += (ordered[i] ^ ordered[i - 1]) >> column_bits == 0
    if clashes == 0:
        return
    mask = np.uint64(_MAX_COLUMNS - 1)
    for i in range(1, m):
        entry = ordered[i]
        key = _tie_key(cell_key, gene_keys[entry & mask])
        j = i
        while (
            j > 0
            and ordered[j - 1] >> column_bits == entry >> column_bits
            and _tie_key(cell_key, gene_keys[ordered[j - 1] & mask]) > key
        ):
            ordered[j] = ordered[j - 1]
            j -= 1
        ordered[j] = entry


@njit
def _rank_values(
    row_values, row_columns, cell_key, gene_keys, selected, use_selected, limit, above,
    values, keys, columns, out, out_genes, out_values,
) -> int:  # fmt: skip
    """Rank the values of a row that exceed `above` by comparison; return how many were written."""
    m = 0
    for i in range(len(row_values)):
        value, gene = row_values[i], row_columns[i]
        if value > above and (not use_selected or selected[gene]):
            values[m], keys[m], columns[m] = value, _tie_key(cell_key, gene_keys[gene]), gene
            m += 1
    written = min(m, limit)
    _partial_quicksort(values, keys, columns, m, written)
    for i in range(written):
        out_genes[out + i] = columns[i]
        out_values[out + i] = values[i]
    return written


@njit
def _write_packed(ordered, n, out, out_genes, out_values) -> None:
    start = np.uint64(out)
    for i in range(n):
        out_genes[start + np.uint64(i)] = np.int32(ordered[i] & np.uint64(_MAX_COLUMNS - 1))
    for i in range(n):
        out_values[start + np.uint64(i)] = np.int32(_LAST - 1) - np.int32(
            ordered[i] >> np.uint64(56)
        )


@njit
def _rank_block(
    data, indices, indptr, cell_keys, gene_keys, selected, use_selected, limits, out_indptr,
    out_genes, out_values, first, last, longest,
) -> None:  # fmt: skip
    """Rank the rows `first` to `last` − 1, none of which has more than `longest` entries.

    The working memory is made here, once for all rows, and handed on array by array: each array
    that a function takes out of a tuple costs it a reference count, thousands of times a second.
    """
    row_levels = np.empty(longest, np.uint8)
    tallies = np.empty((4, _LEVELS), np.uint32)
    tally = np.empty(_LEVELS, np.uint64)
    level_starts = np.empty(_LEVELS, np.uint64)
    # Of the genes that are ordered: where in the row they are, their columns, levels and values,
    # their tie keys (later the packed genes) and slots; the ends of the slots; the result.
    kept = np.empty(longest, np.uint32)
    kept_columns = np.empty(longest, np.int32)
    kept_levels = np.empty(longest, np.uint8)
    kept_values = np.empty(longest, data.dtype)
    keys = np.empty(longest, np.uint64)
    slots = np.empty(longest, np.uint32)
    ends = np.empty(longest + 1, np.uint32)
    ordered = np.empty(longest, np.uint64)
    for c in range(first, last):
        start, end, out, limit = indptr[c], indptr[c + 1], out_indptr[c], limits[c]
        if limit == 0:
            continue
        values, columns, levels = data[start:end], indices[start:end], row_levels[: end - start]
        counts = gene_keys.shape[0] <= _MAX_COLUMNS and _levels(
            values, columns, selected, use_selected, levels
        )
        high = _count_from(_LAST, levels) if counts else 0
        # With many values past the last level there is little to gain from levels.
        counts = counts and 4 * high <= _count_from(1, levels)
        if high > 0 or not counts:
            written = _rank_values(
                values, columns, cell_keys[c], gene_keys, selected, use_selected, limit,
                _LAST - 1 if counts else 0, kept_values, keys, kept_columns,
                out, out_genes, out_values,
            )  # fmt: skip
            limit -= written
            out += written
        if limit == 0 or not counts:
            continue
        lowest = _lowest_level(levels, high + limit)
        m = _keep(
            levels, columns, lowest, cell_keys[c], gene_keys, kept, kept_columns, kept_levels, keys
        )
        _tally(m, kept_levels, tallies, tally)
        _pack(m, lowest, kept_columns, kept_levels, keys, tally, level_starts, slots, ends)
        _order_packed(m, keys, slots, ends, ordered)
        _settle_equal_hashes(ordered, m, cell_keys[c], gene_keys)
        _write_packed(ordered, limit, out, out_genes, out_values)


@njit(parallel=True, cache=True, nogil=True)
def rank_rows(
    data, indices, indptr, cell_keys, gene_keys, selected, use_selected, limits, out_indptr,
    out_genes, out_values,
) -> None:  # fmt: skip
    """Rank each CSR row into its place in the output.

    Parameters
    ----------
    data, indices, indptr
        The CSR arrays; values are finite and non-negative.
    cell_keys : uint64, (n_cells,) ; gene_keys : uint64, (n_genes,)
        Hash keys for ties.
    selected : bool, (n_genes,)
        Genes that may be ranked; read only if `use_selected`.
    limits : int64, (n_cells,)
        How many genes of each row fit into the output, min(K, number of expressed selected genes).
    out_indptr : int64, (n_cells + 1,) ; out_genes : int32 ; out_values : as `data`
        The ragged output; every row is filled to its limit.
    """
    n_cells = indptr.shape[0] - 1
    longest = 1
    for c in range(n_cells):
        longest = max(longest, indptr[c + 1] - indptr[c])
    blocks = (n_cells + 63) // 64
    for block in prange(blocks):
        # prange counts unsigned; signed here, or everything below is compiled twice.
        first = np.int64(block) * 64
        _rank_block(
            data, indices, indptr, cell_keys, gene_keys, selected, use_selected, limits, out_indptr,
            out_genes, out_values, first, min(n_cells, first + 64), longest,
        )  # fmt: skip


@njit
def _expressed(values, columns, selected, use_selected, limit) -> int:
    """Return min(limit, positive selected values) of a row, looking no further than needed."""
    n = 0
    for piece in range(0, len(values), 256):
        some = values[piece : piece + 256]
        for i in range(len(some)):
            n += some[i] > 0
        if use_selected:
            for i in range(len(some)):
                n -= (some[i] > 0) & (not selected[columns[piece + i]])
        if n >= limit:
            return limit
    return n


@njit(parallel=True, cache=True, nogil=True)
def count_expressed(data, indices, indptr, selected, use_selected, limit, out) -> None:
    """Write min(limit, positive selected values) of each CSR row to `out` (int64, (n_cells,))."""
    for c in prange(indptr.shape[0] - 1):
        start, end = indptr[c], indptr[c + 1]
        out[c] = _expressed(data[start:end], indices[start:end], selected, use_selected, limit)


@njit(parallel=True, cache=True, nogil=True)
def thin_rows(data, indices, indptr, cell_keys, gene_keys, keep, out) -> None:
    """Keep each of the counted molecules with its cell's probability: out ~ Binomial(data, keep).

    Exact: one uniform 64-bit draw a molecule, from a hash of (cell, gene, molecule).

    Parameters
    ----------
    data, indices, indptr
        CSR arrays of whole counts.
    keep : float64, (n_cells,)
        Probability in [0, 1] with which a molecule of the cell stays.
    out : as `data`
        The thinned counts; zeros stay stored.
    """
    for c in prange(indptr.shape[0] - 1):
        if keep[c] >= 1.0:
            out[indptr[c] : indptr[c + 1]] = data[indptr[c] : indptr[c + 1]]
            continue
        below = np.uint64(keep[c] * 18446744073709551615.0)
        for e in range(indptr[c], indptr[c + 1]):
            state = _tie_key(cell_keys[c] + np.uint64(0x9E3779B97F4A7C15), gene_keys[indices[e]])
            kept = 0
            for _ in range(np.int64(data[e])):
                state += np.uint64(0x9E3779B97F4A7C15)
                kept += _mix(state) < below
            out[e] = kept
