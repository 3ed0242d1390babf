"""How alike two orders of the same genes are."""

from __future__ import annotations

import numpy as np

from c2s.common.errors import InputError


def kendall_tau_b(x: np.ndarray, y: np.ndarray) -> float | np.ndarray:
    """Return Kendall's tau-b, which counts tied genes properly.

    For sentences, score a gene by minus its rank and give all genes that are missing from the
    sentence the same lowest score.

    Parameters
    ----------
    x, y : array, shape (n_genes,) or (n_cells, n_genes)
        Scores of the same genes.

    Returns
    -------
    float, or float64 array of shape (n_cells,)
        -1 to 1, higher is better; NaN where all scores of one side are equal, or one is NaN.

    Raises
    ------
    InputError
        The shapes differ, or are not one- or two-dimensional.

    References
    ----------
    SPEC §7.5. Kendall 1945, "The treatment of ties in ranking problems", Biometrika 33:239.

    Examples
    --------
    >>> round(kendall_tau_b([5, 4, 3, 0, 0, 0], [4, 5, 2, 1, 0, 0]), 6)
    0.771517
    """
    left, right = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if left.shape != right.shape or left.ndim not in (1, 2):
        raise InputError(
            f"kendall_tau_b: found shapes {left.shape} and {right.shape}, expected the same genes "
            "(n_genes,) or (n_cells, n_genes) twice"
        )
    if left.ndim == 1:
        return _tau(left, right)
    return np.array([_tau(a, b) for a, b in zip(left, right, strict=True)])


def _tau(x: np.ndarray, y: np.ndarray) -> float:
    from scipy.stats import kendalltau

    return float(kendalltau(x, y, variant="b").statistic)
