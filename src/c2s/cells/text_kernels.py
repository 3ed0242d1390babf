"""Compiled writing of sentences into one buffer of bytes, as Arrow wants it."""

from __future__ import annotations

import numpy as np
from numba import njit, prange


@njit(parallel=True, cache=True, nogil=True)
def _text_lengths(indptr, genes, word_lengths, out) -> None:  # type: ignore[no-untyped-def]
    for c in prange(indptr.shape[0] - 1):
        n = indptr[c + 1] - indptr[c]
        total = max(n - 1, 0)  # the spaces between words
        for e in range(indptr[c], indptr[c + 1]):
            total += word_lengths[genes[e]]
        out[c] = total


def text_offsets(
    indptr: np.ndarray, genes: np.ndarray, word_lengths: np.ndarray, offsets: np.ndarray
) -> None:
    """Write the byte offset of every sentence to `offsets` (int64, shape (n_cells + 1,))."""
    lengths = np.empty(len(indptr) - 1, np.int64)
    _text_lengths(indptr, genes, word_lengths, lengths)
    offsets[0] = 0
    np.cumsum(lengths, out=offsets[1:])


@njit(parallel=True, cache=True, nogil=True)
def write_text(indptr, genes, word_starts, word_lengths, blob, offsets, out) -> None:  # type: ignore[no-untyped-def]
    """Write the bytes of every sentence to `out` (uint8), each at its offset."""
    for c in prange(indptr.shape[0] - 1):
        at = offsets[c]
        for e in range(indptr[c], indptr[c + 1]):
            if e > indptr[c]:
                out[at] = 32  # space
                at += 1
            gene = genes[e]
            start = word_starts[gene]
            for i in range(word_lengths[gene]):
                out[at + i] = blob[start + i]
            at += word_lengths[gene]
