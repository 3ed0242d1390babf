"""How alike two expression profiles, or two orders of the same genes, are: one number a cell.

All take the same genes on both sides, shape (n_genes,) for one cell or (n_cells, n_genes). For a gene programme, select
its columns on both sides. For the *changes* that a perturbation makes, pass the control as `delta`: profiles of
the same tissue are alike whatever was done to it, their differences from control are not.
"""

from __future__ import annotations

import numpy as np

from c2s.metrics._checks import profiles

_BLOCK_VALUES = 1 << 20  # values sorted at once: 8 MiB of keys


def kendall_tau_b(
    x: np.ndarray, y: np.ndarray, *, delta: np.ndarray | None = None
) -> float | np.ndarray:
    """Return Kendall's tau-b, which counts tied genes properly.

    For sentences, score a gene by minus its rank and give all genes that are missing from the
    sentence the same lowest score.

    Parameters
    ----------
    x, y : array, shape (n_genes,) or (n_cells, n_genes)
        Scores of the same genes.
    delta : array, shape (n_genes,) or that of `x`
        Control, subtracted from both sides first.

    Returns
    -------
    float, or float64 array of shape (n_cells,)
        -1 to 1, higher is better. NaN where all scores of one side are equal, where one is NaN, and for fewer than two
        genes.

    Raises
    ------
    InputError
        The shapes differ, or are not one- or two-dimensional.

    References
    ----------
    SPEC §7.5. Kendall 1945, "The treatment of ties in ranking problems", Biometrika 33:239. Counting by merging: Knight
    1966, J. Am. Stat. Assoc. 61:436.

    Examples
    --------
    >>> round(kendall_tau_b([5, 4, 3, 0, 0, 0], [4, 5, 2, 1, 0, 0]), 6)
    0.771517
    """
    left, right, one = profiles("kendall_tau_b", x, y, delta)
    missing = np.isnan(left).any(axis=1) | np.isnan(right).any(axis=1)
    result = _tau_b(_comparable(left), _comparable(right))
    result[missing] = np.nan
    return float(result[0]) if one else result


def spearman(
    x: np.ndarray, y: np.ndarray, *, delta: np.ndarray | None = None
) -> float | np.ndarray:
    """Return Spearman's rank correlation: Pearson's of the ranks, tied genes sharing their mean rank.

    Parameters
    ----------
    x, y, delta
        As in `kendall_tau_b`.

    Returns
    -------
    float, or float64 array of shape (n_cells,)
        -1 to 1, higher is better. NaN where all values of one side are equal, where one is NaN, and for fewer than two
        genes.

    Raises
    ------
    InputError
        As `kendall_tau_b`.

    References
    ----------
    Spearman 1904, Am. J. Psychol. 15:72.

    Examples
    --------
    >>> round(spearman([5, 4, 3, 0, 0, 0], [4, 5, 2, 1, 0, 0]), 6)
    0.89326
    """
    left, right, one = profiles("spearman", x, y, delta)
    missing = np.isnan(left).any(axis=1) | np.isnan(right).any(axis=1)
    result = _pearson(_average_ranks(_comparable(left)), _average_ranks(_comparable(right)))
    result[missing] = np.nan
    return float(result[0]) if one else result


def pearson(x: np.ndarray, y: np.ndarray, *, delta: np.ndarray | None = None) -> float | np.ndarray:
    """Return Pearson's correlation.

    Parameters
    ----------
    x, y, delta
        As in `kendall_tau_b`.

    Returns
    -------
    float, or float64 array of shape (n_cells,)
        -1 to 1, higher is better. NaN where all values of one side are equal, where one is NaN or infinite, and for
        fewer than two genes.

    Raises
    ------
    InputError
        As `kendall_tau_b`.

    References
    ----------
    SPEC §14.2. Pearson 1895, Proc. R. Soc. 58:240.

    Examples
    --------
    >>> round(pearson([1, 2, 3, 4], [2, 1, 4, 3]), 6)
    0.6
    >>> round(pearson([1, 2, 3, 4], [2, 1, 4, 3], delta=[1, 1, 3, 3]), 6)  # of (0, 1, 0, 1) and (1, 0, 1, 0)
    -1.0
    """
    left, right, one = profiles("pearson", x, y, delta)
    result = _pearson(left, right)
    return float(result[0]) if one else result


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the correlation of each row."""
    if x.shape[1] < 2:
        return np.full(len(x), np.nan)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        value = np.einsum("ij,ij->i", _unit(x), _unit(y))
    return np.clip(value, -1, 1)


def _unit(x: np.ndarray) -> np.ndarray:
    """Return rows centred and of length 1; NaN where a row has no spread."""
    # Differences from the first gene are exact where values are alike and far from 0; their mean then loses no digits.
    centred = x - x[:, :1]
    # Scaled, so that squares of very large or small values neither overflow nor vanish.
    centred /= np.abs(centred).max(axis=1, keepdims=True)
    centred -= centred.mean(axis=1, keepdims=True)
    return np.asarray(centred / np.linalg.norm(centred, axis=1, keepdims=True))


def _comparable(x: np.ndarray) -> np.ndarray:
    """Return `x` with -0.0 made 0.0: the kernels sort by bits."""
    return np.ascontiguousarray(x + 0.0)


def _tau_b(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return tau-b of each row, by the quickest of the ways that give it."""
    from c2s.metrics import rank_kernels as kernels

    result = np.empty(len(x))
    if x.shape[1] <= kernels.PAIRS_GENES:
        kernels.tau_b_by_pairs(x, y, result)
        return result
    rows = max(1, _BLOCK_VALUES // x.shape[1])
    short = x.shape[1] <= kernels.SHORT_GENES
    for start in range(0, len(x), rows):
        block = slice(start, start + rows)
        (keys_x, bits), (keys_y, _) = _sorted_keys(x[block]), _sorted_keys(y[block])
        kernels.tau_b_by_sorting(x[block], y[block], keys_x, keys_y, bits, short, result[block])
    return result


def _average_ranks(x: np.ndarray) -> np.ndarray:
    """Return the rank of each value within its row, from 1; tied values share the mean."""
    from c2s.metrics.rank_kernels import average_ranks

    ranks = np.empty(x.shape)
    rows = max(1, _BLOCK_VALUES // max(1, x.shape[1]))
    for start in range(0, len(x), rows):
        block = slice(start, start + rows)
        average_ranks(x[block], *_sorted_keys(x[block]), ranks[block])
    return ranks


def _sorted_keys(x: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the packed keys of each row in rising order, and the bits that hold the column."""
    from c2s.metrics.rank_kernels import pack

    bits = max(1, int(x.shape[1] - 1).bit_length())
    keys = np.empty(x.shape, dtype=np.uint64)
    pack(x, bits, keys)
    keys.sort(axis=1)
    return keys, bits
