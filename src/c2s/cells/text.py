"""Cell sentences as text: written from ranks without a Python loop, and read back."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

    from c2s.cells.ranked import RankedCells
    from c2s.cells.vocabulary import GeneVocabulary


def ranked_to_text(cells: RankedCells) -> pa.Array:
    """Return the sentences of `cells` as a pyarrow `large_string` array.

    Words are joined by single spaces; an empty cell is an empty string. Their bytes are copied from
    tables of all words of the vocabulary straight into the buffer of the Arrow array.
    """
    import pyarrow as pa

    from c2s.cells import text_kernels

    word_starts, word_lengths, blob, padded = _word_tables(cells.vocabulary)
    offsets = np.empty(len(cells) + 1, np.int64)
    text_kernels.text_offsets(cells.indptr, cells.genes, word_lengths, offsets)
    out = np.empty(offsets[-1], np.uint8)
    text_kernels.write_text(
        cells.indptr, cells.genes, word_starts, word_lengths, blob, padded, offsets, out
    )
    return pa.Array.from_buffers(
        pa.large_string(), len(cells), [None, pa.py_buffer(offsets), pa.py_buffer(out)]
    )


# The last few are remembered: blocks of the same cells are written one after the other.
@lru_cache(maxsize=4)
def _word_tables(
    vocabulary: GeneVocabulary,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the starts, the lengths and the bytes of all words, and their padded beginnings (see `write_text`)."""
    from c2s.cells.text_kernels import PADDED

    encoded = [word.encode() for word in vocabulary.words]
    word_ends = np.cumsum([len(w) for w in encoded], dtype=np.int64)
    word_starts = np.concatenate([[0], word_ends[:-1]]).astype(np.int64)
    blob = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    spaced = b"".join((word + b" ").ljust(PADDED)[:PADDED] for word in encoded)
    padded = np.frombuffer(spaced, dtype=np.uint8).reshape(-1, PADDED)
    return word_starts, word_ends - word_starts, blob, padded
