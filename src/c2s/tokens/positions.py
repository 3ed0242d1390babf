"""Which tokens of a prompt are those of its cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from c2s.common.errors import C2SError
from c2s.tokens.tokenizer import CellTokenizer, Segment


def cell_tokens(tokenizer: CellTokenizer, segments: Sequence[Segment], n_tokens: int) -> np.ndarray:
    """Say of each token of a prompt whether it writes a gene of one of the prompt's cells.

    The tokenizer itself tells which characters a token stands for. A token that stands for characters of a gene and
    for others, as the space before it, is the gene's. The space between two genes is a token of its own in few
    tokenizers; such a token counts as the cell's too.

    Parameters
    ----------
    tokenizer
        Of the model.
    segments
        The prompt, as `CellTokenizer.encode` takes it.
    n_tokens
        How many tokens `encode` makes of it.

    Returns
    -------
    bool array, shape (n_tokens,)

    Raises
    ------
    C2SError
        The tokenizer makes another number of tokens of the prompt's text, so that it cannot tell.
    """
    spans, at = [], 0
    for segment in segments:
        length = len(tokenizer.text([segment]))
        if not isinstance(segment, str) and length:
            spans.append((at, at + length))
        at += length
    encoded = tokenizer.backend(
        tokenizer.text(segments), add_special_tokens=False, return_offsets_mapping=True
    )
    offsets = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    if len(offsets) != n_tokens:
        raise C2SError(
            f"the tokenizer makes {len(offsets):,} tokens of a prompt's text and {n_tokens:,} of its parts, so the"
            " cell's own tokens cannot be told; use tokens='prompt'"
        )
    inside = np.zeros(n_tokens, dtype=bool)
    for start, stop in spans:
        inside |= (offsets[:, 0] < stop) & (offsets[:, 1] > start)
    return inside
