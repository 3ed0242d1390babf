"""Compiled measuring and writing of the tokens of many examples.

An example is a row of *steps*, those of its prompt before those of its response. A step that is not negative is a text
of the pool. A step `s < 0` is a cell: with `v = -1 - s` it is row `v >> 1`, and if `v & 1` the first gene is left out,
because it stands in the text before.

The arrays that several kernels share:

steps : int64, (n_steps,)
ends : int64, (2 * n_examples,)
    Where the prompt and the response of each example end in `steps`.
n_genes : int64, (n_examples,)
    How many genes are taken of each cell of an example.
indptr, genes
    The cells, as in `RankedCells`.
n_tokens : uint16, (n_vocabulary,)
    Token ids of each gene behind a space.
text_starts, text_lengths : int64, (n_texts,)
    Where the texts are in the pool.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# Most genes have no more tokens, and as many are copied at once.
PADDED = 8

_SPACE = 32
_NOTHING = -1


@njit(cache=True, nogil=True)
def measure(  # type: ignore[no-untyped-def]
    steps, ends, n_genes, indptr, genes, n_tokens, last, text_lengths, text_edges, table, all_spaced,
    lengths, safe,
) -> None:  # fmt: skip
    """Count the tokens of each prompt and response, and see whether all joins in them are safe.

    Parameters
    ----------
    last : uint8, (n_vocabulary,)
        Codes of the last character of each gene (`joins.char_code`).
    text_edges : uint8, (n_texts, 2)
        Codes of the first and the last character of each text.
    table : bool, (129, 129)
        As in `Joins`.
    all_spaced : bool
        Every gene may be followed by a space.
    lengths : int64, (2 * n_examples,)
        Written: the tokens of each prompt and response.
    safe : bool, (n_examples,)
        Written: whether the lengths are right. Otherwise the example is to be tokenised as a whole.
    """
    safe[:] = True
    step = 0
    for side in range(ends.shape[0]):
        example = side // 2
        total = 0
        before = _NOTHING  # code of the last character so far
        while step < ends[side]:
            text = steps[step]
            step += 1
            if text >= 0:
                total += text_lengths[text]
                if before != _NOTHING and not table[before, text_edges[text, 0]]:
                    safe[example] = False
                before = text_edges[text, 1]
                continue
            row, skip = (-1 - text) >> 1, (-1 - text) & 1
            start = indptr[row]
            stop = min(indptr[row + 1], start + n_genes[example])
            if stop <= start:  # the English on both sides of a cell without genes meets
                safe[example] = False
            start += skip
            if stop <= start:
                continue
            if before != _NOTHING and not table[before, _SPACE]:
                safe[example] = False
            for e in range(start, stop):
                total += n_tokens[genes[e]]
            if not all_spaced:
                for e in range(start, stop - 1):
                    if not table[last[genes[e]], _SPACE]:
                        safe[example] = False
            before = last[genes[stop - 1]]
        lengths[side] = total


@njit(cache=True, nogil=True)
def write(  # type: ignore[no-untyped-def]
    order, steps, ends, n_genes, indptr, genes, n_tokens, gene_starts, gene_ids, padded,
    text_starts, text_lengths, pool, eos, safe, offsets, out,
) -> None:  # fmt: skip
    """Write the tokens of examples one after the other, each closed by the end-of-text id.

    Examples that are not safe are left out; their place is filled by the caller, afterwards.

    Parameters
    ----------
    order : int64, (n_written,)
        Examples to write.
    gene_starts, gene_ids
        Token ids of each gene, a ragged array.
    padded : int32, (n_vocabulary, PADDED)
        The first of them. Copying a fixed number and writing the next gene over what is too much is faster than
        copying each gene's own number.
    pool : int32
        Token ids of all texts.
    offsets : int64, (n_written + 1,)
        Where each example goes in `out`.
    out : int32, (offsets[-1],)
    """
    size = out.shape[0]
    for i in range(order.shape[0]):
        example = order[i]
        if not safe[example]:
            continue
        at = offsets[i]
        first = ends[2 * example - 1] if example else 0
        for step in range(first, ends[2 * example + 1]):
            text = steps[step]
            if text >= 0:
                start = text_starts[text]
                for j in range(text_lengths[text]):
                    out[at + j] = pool[start + j]
                at += text_lengths[text]
                continue
            row, skip = (-1 - text) >> 1, (-1 - text) & 1
            start = indptr[row]
            for e in range(start + skip, min(indptr[row + 1], start + n_genes[example])):
                gene = np.uint64(genes[e])
                length = n_tokens[gene]
                if length <= PADDED and at + PADDED <= size:
                    for j in range(PADDED):
                        out[np.uint64(at) + np.uint64(j)] = padded[gene, np.uint64(j)]
                else:
                    for j in range(length):
                        out[at + j] = gene_ids[gene_starts[gene] + j]
                at += length
        out[at] = eos


@njit(cache=True, nogil=True)
def most_genes(rows, row_indptr, wanted, budget, indptr, genes, n_tokens, out) -> None:  # type: ignore[no-untyped-def]
    """Find how many genes of the cells of each sample fit into a budget of tokens.

    Parameters
    ----------
    rows : int64
        The cells of all samples; sample `i` has `rows[row_indptr[i]:row_indptr[i + 1]]`.
    wanted, budget : int64, (n_samples,)
        The most genes, and the most tokens.
    out : int64, (n_samples,)
        Written: the largest number of genes of each cell.
    """
    for i in range(out.shape[0]):
        total = 0
        fits = wanted[i]
        for k in range(wanted[i]):
            going_on = False
            for r in range(row_indptr[i], row_indptr[i + 1]):
                at = indptr[rows[r]] + k
                if at < indptr[rows[r] + 1]:
                    total += n_tokens[genes[at]]
                    going_on = True
            if total > budget[i]:
                fits = k
                break
            if not going_on:
                break
        out[i] = fits


@njit(cache=True, nogil=True)
def count_gene_tokens(rows, row_indptr, n_genes, indptr, genes, n_tokens, out) -> None:  # type: ignore[no-untyped-def]
    """Count the tokens of the first genes of the cells of each sample.

    Parameters
    ----------
    rows : int64
        The cells of all samples; sample `i` has `rows[row_indptr[i]:row_indptr[i + 1]]`.
    n_genes : int64, (n_samples,)
        How many genes of each cell.
    out : int64, (n_samples,)
        Written: the tokens of all cells of the sample together.
    """
    for i in range(out.shape[0]):
        total = 0
        for r in range(row_indptr[i], row_indptr[i + 1]):
            start = indptr[rows[r]]
            for at in range(start, min(start + n_genes[i], indptr[rows[r] + 1])):
                total += n_tokens[genes[at]]
        out[i] = total
