"""Do the two halves of a pair find each other? FOSCTTM of matched embeddings."""

from __future__ import annotations

import numpy as np

from c2s.common.errors import InputError
from c2s.metrics._checks import Labels, label_codes, points

_BLOCK_VALUES = 1 << 22  # comparisons held at once: 4 MiB


def foscttm(similarity: np.ndarray, *, groups: Labels | None = None) -> float:
    """Return the fraction of samples closer than the true match (FOSCTTM).

    Row i and column i are a pair, such as a cell and the pseudobulk of its donor and type. For each row, the share of
    columns that are *strictly* more similar to it than its match; the same for each column; and the mean of both.

    Parameters
    ----------
    similarity : array, shape (n, n)
        Larger is closer, such as cosine similarity; for distances pass their negative.
    groups : array, shape (n,)
        Pairs that are interchangeable, such as the ten cells that share one pseudobulk: within a group, others are
        neither matches nor wrong, and are left out of numerator and denominator. By default every pair stands for
        itself, and the denominators are n, as in GLUE. NaN when all pairs are of one group of several.

    Returns
    -------
    float
        0 to 1; lower is better: 0 when every match is closest, about 0.5 for embeddings that know nothing. A constant
        similarity gives 0, since ties do not count: look at the spread of the similarities too.

    Raises
    ------
    InputError
        Not a square of finite numbers, empty, or not one group per pair.

    References
    ----------
    SPEC §9. Cao & Gao 2022 (GLUE), Nat. Biotechnol. 40:1458; Liu et al. 2019 (MMD-MA).

    Examples
    --------
    >>> s = [[0.9, 0.2, 0.1], [0.95, 0.8, 0.3], [0.4, 0.85, 0.7]]
    >>> round(foscttm(s), 6)
    0.222222
    >>> round(foscttm(s, groups=["a", "a", "b"]), 6)  # row 3: 1 of 3, column 2: 1 of 2; (1/9 + 1/6) / 2
    0.138889
    """
    matrix = points("similarity", similarity)
    n = len(matrix)
    if matrix.shape[1] != n:
        raise InputError(
            f"similarity: found shape {matrix.shape}, expected a square: row i and column i are a pair"
        )
    codes = np.arange(n) if groups is None else label_codes(("groups", groups))[1][0]
    if len(codes) != n:
        raise InputError(f"groups: found {len(codes)} labels, expected one per pair ({n})")
    own = np.diagonal(matrix)
    ahead_of_rows, ahead_of_columns = np.empty(n), np.zeros(n)
    rows = max(1, _BLOCK_VALUES // n)
    for start in range(0, n, rows):
        block = slice(start, start + rows)
        strangers = codes[block, None] != codes
        ahead_of_rows[block] = ((matrix[block] > own[block, None]) & strangers).sum(axis=1)
        ahead_of_columns += ((matrix[block] > own) & strangers).sum(axis=0)
    compared = (
        n - np.bincount(codes)[codes] + 1.0
    )  # the match itself counts, as in GLUE's denominator
    if groups is not None and n > 1 and (codes == codes[0]).all():
        return float("nan")
    return float((np.mean(ahead_of_rows / compared) + np.mean(ahead_of_columns / compared)) / 2)
