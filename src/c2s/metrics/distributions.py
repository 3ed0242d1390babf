"""How far a sample of generated cells is from a sample of real ones.

All take points of shape (n, d) in one space, such as principal components fitted on real training
cells, and return 0 for equal distributions (up to sampling). SPEC §14.3. None of these values means
anything alone: compare it with real cells against other real cells, at the same numbers of cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from c2s.common.errors import C2SError, UsageError
from c2s.metrics._checks import point_sets

CELLOT_GAMMAS = (2.0, 1.0, 0.5, 0.1, 0.01, 0.005)
"""RBF widths of CellOT's evaluation (SPEC §14.3), to be used with ``biased=True``."""

SCFID_CELLS_PER_DIMENSION = 4
"""Fewer cells than this many times the dimensions make scFID mostly bias; use energy distance."""

_BLOCK_VALUES = 1 << 22  # distances held at once: 32 MiB of float64
_MEDIAN_ROWS = 4096  # rows of the pooled sample that the median heuristic looks at


def scfid(real: np.ndarray, generated: np.ndarray) -> float:
    """Return the Frechet distance between Gaussians fitted to two samples (scFID).

    ``|mu_r - mu_g|^2 + tr(S_r + S_g - 2 (S_r S_g)^(1/2))``, with covariances of ddof 1. The last
    trace is the nuclear norm of the product of the centred data matrices scaled by 1/sqrt(n - 1),
    which is exact for any number of cells, also n <= d, and needs no ridge on the covariance.

    The value has a bias that grows with d / n: compare only scores of equal sample sizes, and have
    at least `SCFID_CELLS_PER_DIMENSION` times as many cells as dimensions.

    Parameters
    ----------
    real : array, shape (n, d), n >= 2
    generated : array, shape (m, d), m >= 2

    Returns
    -------
    float
        Squared units of the space, at least 0 (rounding below 0 is cut); lower is better.

    Raises
    ------
    InputError
        Fewer than 2 cells, different numbers of dimensions, NaN or infinite values.

    References
    ----------
    SPEC §14.3. Heusel et al. 2017 (FID), Dowson & Landau 1982 (the distance).

    Examples
    --------
    >>> a = np.array([[0.0, 0], [1, 0], [0, 1], [3, 2]])
    >>> round(scfid(a, a + [1, 2]), 12)
    5.0
    """
    real, generated = point_sets(real, generated, minimum=2)
    shift = real.mean(axis=0) - generated.mean(axis=0)
    root_real, root_generated = _covariance_root(real), _covariance_root(generated)
    cross = np.linalg.svd(root_real @ root_generated.T, compute_uv=False).sum()
    value = shift @ shift + np.sum(root_real**2) + np.sum(root_generated**2) - 2 * cross
    return max(0.0, float(value))


def mmd2(
    real: np.ndarray,
    generated: np.ndarray,
    *,
    gammas: Sequence[float] | None = None,
    biased: bool = False,
) -> float:
    """Return the squared maximum mean discrepancy with a Gaussian (RBF) kernel.

    The kernel is not specified by the paper. It is the mean over `gammas` of
    ``exp(-gamma |x - y|^2)``; by default one gamma, ``1 / (2 s^2)`` with s the median distance
    between the cells of both samples together (of 4,096 evenly spaced ones where there are more).

    Parameters
    ----------
    real : array, shape (n, d)
    generated : array, shape (m, d)
    gammas
        Kernel widths. `CELLOT_GAMMAS` with ``biased=True`` is CellOT's setting; in a space of 50
        principal components its large widths see little but the diagonal, 1/n + 1/m.
    biased
        False: unbiased U-statistic, which may be below 0 for equal distributions. True: the
        V-statistic, at least 0, which counts each cell's kernel with itself.

    Returns
    -------
    float
        No unit; lower is better, 0 for equal distributions.

    Raises
    ------
    InputError
        As `scfid`; the biased form takes single cells.
    UsageError
        `gammas` is empty or holds a value that is not positive and finite.

    References
    ----------
    SPEC §14.3. Gretton et al. 2012, "A kernel two-sample test", JMLR 13:723 (Lemma 6; median
    heuristic §8).
    """
    real, generated = point_sets(real, generated, minimum=1 if biased else 2)
    widths = [_median_gamma(real, generated)] if gammas is None else [float(g) for g in gammas]
    if not widths or not all(np.isfinite(g) and g > 0 for g in widths):
        raise UsageError(f"gammas: found {list(widths)}, expected one or more positive numbers")

    def kernel(squared: np.ndarray) -> np.ndarray:
        total = np.exp(-widths[0] * squared)
        for gamma in widths[1:]:
            total += np.exp(-gamma * squared)
        return total / len(widths)

    n, m = len(real), len(generated)
    within_real, within_generated = _sum_within(real, kernel), _sum_within(generated, kernel)
    cross = _sum_across(real, generated, kernel) / (n * m)
    if biased:
        value = (within_real + n) / n**2 + (within_generated + m) / m**2 - 2 * cross
    else:
        value = within_real / (n * (n - 1)) + within_generated / (m * (m - 1)) - 2 * cross
    return float(value)


def energy_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Return the energy distance ``2 E|x - y| - E|x - x'| - E|y - y'|``, without bias.

    The expectations within a sample leave out the pairs of a cell with itself (U-statistic), so the
    value does not depend on the number of cells but by noise, and may be below 0 for equal
    distributions. It is fit for few cells, where scFID is not.

    Parameters
    ----------
    real : array, shape (n, d), n >= 2
    generated : array, shape (m, d), m >= 2

    Returns
    -------
    float
        Units of the space; lower is better, 0 for equal distributions.

    Raises
    ------
    InputError
        As `scfid`.

    References
    ----------
    Szekely & Rizzo 2013, "Energy statistics", J. Stat. Plan. Inference 143:1249.
    """
    real, generated = point_sets(real, generated, minimum=2)
    n, m = len(real), len(generated)
    across = _sum_across(real, generated, np.sqrt) / (n * m)
    within_real = _sum_within(real, np.sqrt) / (n * (n - 1))
    within_generated = _sum_within(generated, np.sqrt) / (m * (m - 1))
    return float(2 * across - within_real - within_generated)


def wasserstein(real: np.ndarray, generated: np.ndarray, p: int = 2) -> float:
    """Return the exact p-Wasserstein distance between two samples, each cell of equal weight.

    The order is not specified by the paper. In many dimensions a sample with too little spread is
    nearer to real cells than other real cells are: judge by the value of real against real, and do
    not take a lower one for better. Needs the whole n x m matrix of distances in memory (128 MB
    for 4,000 cells against 4,000) and more than quadratic time.

    Parameters
    ----------
    real : array, shape (n, d)
    generated : array, shape (m, d)
    p
        1: the mean Euclidean distance of the best matching. 2: the root of the mean squared one.

    Returns
    -------
    float
        Units of the space; lower is better, 0 only for equal samples.

    Raises
    ------
    InputError
        As `scfid`; single cells are taken.
    UsageError
        `p` is not 1 or 2.
    C2SError
        The solver did not reach the optimum.

    References
    ----------
    SPEC §14.3. Solver: Bonneel et al. 2011, as in POT (Flamary et al. 2021).
    """
    if p not in (1, 2):
        raise UsageError(f"p: found {p!r}, expected 1 or 2")
    real, generated = point_sets(real, generated)
    import ot
    from scipy.spatial.distance import cdist

    cost = cdist(real, generated, "sqeuclidean" if p == 2 else "euclidean")
    n, m = cost.shape
    value, log = ot.emd2(
        np.full(n, 1 / n), np.full(m, 1 / m), cost, numItermax=10_000_000, log=True
    )
    if log["warning"] is not None:
        raise C2SError(
            f"wasserstein: the solver stopped before the optimum on {n:,} against {m:,} cells "
            f"({log['warning']}); use fewer cells"
        )
    return float(max(0.0, float(value)) ** (1 / p))


def _covariance_root(x: np.ndarray) -> np.ndarray:
    """Return R of shape (min(n, d), d) with R'R the covariance of `x` (ddof 1)."""
    return np.asarray(np.linalg.qr((x - x.mean(axis=0)) / np.sqrt(len(x) - 1), mode="r"))


def _median_gamma(real: np.ndarray, generated: np.ndarray) -> float:
    """Return 1 / (2 s^2), s the median distance of all pairs of the pooled sample."""
    from scipy.spatial.distance import pdist

    pooled = np.concatenate([real, generated])
    if len(pooled) > _MEDIAN_ROWS:
        pooled = pooled[np.linspace(0, len(pooled) - 1, _MEDIAN_ROWS).astype(np.int64)]
    distances = pdist(pooled)
    median = float(np.median(distances))
    if median == 0:  # more than half of the pairs are copies: look at the others
        apart = distances[distances > 0]
        median = float(np.median(apart)) if len(apart) else 1.0
    return 1 / (2 * median**2)


def _sum_across(
    x: np.ndarray, y: np.ndarray, function: Callable[[np.ndarray], np.ndarray]
) -> float:
    """Return the sum of `function(|x_i - y_j|^2)` over all pairs, in blocks."""
    from scipy.spatial.distance import cdist

    rows = max(1, _BLOCK_VALUES // len(y))
    return sum(
        float(function(cdist(x[start : start + rows], y, "sqeuclidean")).sum())
        for start in range(0, len(x), rows)
    )


def _sum_within(x: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> float:
    """Return the sum of `function(|x_i - x_j|^2)` over ordered pairs i != j, in blocks."""
    from scipy.spatial.distance import cdist

    rows = max(1, _BLOCK_VALUES // len(x))
    total = 0.0
    for start in range(0, len(x), rows):
        block = x[start : start + rows]
        square = function(cdist(block, block, "sqeuclidean"))
        np.fill_diagonal(square, 0)
        total += float(square.sum())
        rest = x[start + rows :]
        if len(rest):  # every pair with a later row stands for both orders
            total += 2 * float(function(cdist(block, rest, "sqeuclidean")).sum())
    return total
