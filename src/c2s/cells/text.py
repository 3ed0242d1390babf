"""Cell sentences as text: written from ranks without a Python loop, and read back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

    from c2s.cells.ranked import RankedCells


def ranked_to_text(cells: RankedCells) -> pa.Array:
    """Return the sentences of `cells` as a pyarrow `large_string` array.

    Words are joined by single spaces; an empty cell is an empty string. Their bytes are copied from
    tables of all words of the vocabulary straight into the buffer of the Arrow array.
    """
    import pyarrow as pa

    from c2s.cells import text_kernels

    encoded = [word.encode() for word in cells.vocabulary.words]
    word_ends = np.cumsum([len(w) for w in encoded], dtype=np.int64)
    word_starts = np.concatenate([[0], word_ends[:-1]]).astype(np.int64)
    blob = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    word_lengths = word_ends - word_starts
    width = text_kernels.PADDED
    spaced = b"".join((word + b" ").ljust(width)[:width] for word in encoded)
    padded = np.frombuffer(spaced, dtype=np.uint8).reshape(-1, width)
    offsets = np.empty(len(cells) + 1, np.int64)
    text_kernels.text_offsets(cells.indptr, cells.genes, word_lengths, offsets)
    out = np.empty(offsets[-1], np.uint8)
    text_kernels.write_text(
        cells.indptr, cells.genes, word_starts, word_lengths, blob, padded, offsets, out
    )
    return pa.Array.from_buffers(
        pa.large_string(), len(cells), [None, pa.py_buffer(offsets), pa.py_buffer(out)]
    )
