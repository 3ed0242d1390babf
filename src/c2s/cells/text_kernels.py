"""Compiled writing of sentences into one buffer of bytes, as Arrow wants it."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

# Gene symbols are rarely longer than 15 characters, and 16 bytes are copied at once.
PADDED = 16


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
def write_text(indptr, genes, word_starts, word_lengths, blob, padded, offsets, out) -> None:  # type: ignore[no-untyped-def]
    """Write the bytes of every sentence to `out`, each at its offset.

    Parameters
    ----------
    indptr, genes
        The cells, as in `RankedCells`.
    word_starts, word_lengths : int64, (n_words,)
        Where the bytes of each word are in `blob`.
    blob : uint8
        The bytes of all words.
    padded : uint8, (n_words, PADDED)
        The first bytes of each word and a space. Copying a fixed number of them and writing the
        next word over what is too much is several times as fast as copying each word's own
        length; it is done where it stays within the sentence, because another thread may have
        written the next one.
    offsets : int64, (n_cells + 1,)
        Where the sentences start and end.
    out : uint8, (offsets[-1],)
    """
    for c in prange(indptr.shape[0] - 1):
        at, end = np.uint64(offsets[c]), np.uint64(offsets[c + 1])
        for e in range(indptr[c], indptr[c + 1]):
            gene = np.uint64(genes[e])
            length = np.uint64(word_lengths[gene])
            if length < np.uint64(PADDED) and at + np.uint64(PADDED) <= end:
                for i in range(PADDED):
                    out[at + np.uint64(i)] = padded[gene, np.uint64(i)]
            else:
                start = np.uint64(word_starts[gene])
                for i in range(length):
                    out[at + np.uint64(i)] = blob[start + np.uint64(i)]
                if at + length < end:
                    out[at + length] = 32  # space
            at += length + np.uint64(1)
