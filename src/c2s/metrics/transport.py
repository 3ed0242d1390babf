"""How far cells have to be moved to turn one sample into the other: Wasserstein distances."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from c2s.common.errors import C2SError, UsageError
from c2s.metrics._checks import point_sets
from c2s.metrics.distributions import sum_across, sum_within

WASSERSTEIN_EXACT_PAIRS = 100_000_000
"""Pairs of cells (10,000 against 10,000; 800 MB) up to which ``method="auto"`` solves exactly."""

Method = Literal["exact", "sinkhorn", "auto"]

_BLOCK_VALUES = 1 << 22  # pairs held at once by Sinkhorn: 32 MiB of float64
_TOLERANCE = 1e-5  # largest last step of a potential, in units of the regularisation; its square is the error
_MAX_STEPS = 10_000


def wasserstein(
    real: np.ndarray,
    generated: np.ndarray,
    p: int = 2,
    *,
    method: Method = "exact",
    regularisation: float = 0.05,
) -> float:
    """Return the p-Wasserstein distance between two samples, each cell of equal weight.

    The order is not specified by the paper. In many dimensions a sample with too little spread is nearer to real cells
    than other real cells are: judge by the value of real against real, and do not take a lower one for better.
    Values of the two methods do not compare with each other.

    Parameters
    ----------
    real : array, shape (n, d)
    generated : array, shape (m, d)
    p
        1: the mean Euclidean distance of the best matching. 2: the root of the mean squared one.
    method
        ``"exact"``: the optimum, by a network simplex. Holds the n x m distances (800 MB for 10,000 against 10,000)
        and takes more than quadratic time: about 10 seconds for 5,000 against 5,000. ``"sinkhorn"``: the debiased
        Sinkhorn divergence, in quadratic time (some 200 passes over all pairs) and little memory, for samples that
        are too large for the other; on one core it is the slower one up to some ten thousand cells. It tends to the
        exact value as `regularisation` falls, and is 0 for equal samples. ``"auto"``: exact up to
        `WASSERSTEIN_EXACT_PAIRS` pairs, else Sinkhorn: do not use it to compare conditions of which some are larger
        than that.
    regularisation
        For Sinkhorn: weight of the entropy, in units of the mean (p = 2: squared) distance between real cells. Smaller
        is nearer to the exact value and takes as many more steps. Generated cells have no say in it.

    Returns
    -------
    float
        Units of the space; lower is better, 0 for equal samples.

    Raises
    ------
    InputError
        No cells, different numbers of dimensions, NaN or infinite values.
    UsageError
        `p` is not 1 or 2, unknown `method`, or `regularisation` is not positive.
    C2SError
        The solver did not reach the optimum.

    References
    ----------
    SPEC §14.3. Exact solver: Bonneel et al. 2011, as in POT (Flamary et al. 2021). Sinkhorn divergence: Feydy et al.
    2019, "Interpolating between optimal transport and MMD using Sinkhorn divergences", AISTATS.

    Examples
    --------
    >>> a = np.array([[0.0, 0.0], [1.0, 0.0]])
    >>> wasserstein(a, a + [3, 4]), wasserstein(a, a + [3, 4], p=1)
    (5.0, 5.0)
    >>> round(wasserstein(a, a + [3, 4], method="sinkhorn"), 6)
    5.0
    """
    if p not in (1, 2):
        raise UsageError(f"p: found {p!r}, expected 1 or 2")
    if method not in get_args(Method):
        raise UsageError(f"method: found {method!r}, expected 'exact', 'sinkhorn' or 'auto'")
    if not (np.isfinite(regularisation) and regularisation > 0):
        raise UsageError(f"regularisation: found {regularisation}, expected a positive number")
    real, generated = point_sets(real, generated)
    few = len(real) * len(generated) <= WASSERSTEIN_EXACT_PAIRS
    if method == "exact" or (method == "auto" and few):
        cost = _exact(real, generated, p)
    else:
        cost = _sinkhorn_divergence(real, generated, p, regularisation)
    return float(max(0.0, cost) ** (1 / p))


def _exact(real: np.ndarray, generated: np.ndarray, p: int) -> float:
    """Return the least mean cost of a matching, ``W_p ** p``."""
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
            f"({log['warning']}); use fewer cells or method='sinkhorn'"
        )
    return float(value)


def _sinkhorn_divergence(
    real: np.ndarray, generated: np.ndarray, p: int, regularisation: float
) -> float:
    """Return ``OT(real, generated) - (OT(real, real) + OT(generated, generated)) / 2``, entropic."""
    centre = real.mean(
        axis=0
    )  # the squares of distances are expanded: near the origin they keep their digits
    x, y = real - centre, generated - centre
    epsilon = regularisation * _scale(x, y, p)
    if epsilon == 0:  # no two cells differ
        return 0.0
    within = [_within_cost(cells, p, epsilon) for cells in (x, y)]
    return _across_cost(x, y, p, epsilon) - (within[0] + within[1]) / 2


def _scale(x: np.ndarray, y: np.ndarray, p: int) -> float:
    """Return the mean cost between real cells, or across where all real cells are equal."""

    def cost(squared: np.ndarray) -> np.ndarray:
        return squared if p == 2 else np.sqrt(squared)

    within = sum_within(x, cost) / len(x) ** 2
    return within or sum_across(x, y, cost) / (len(x) * len(y))


def _across_cost(x: np.ndarray, y: np.ndarray, p: int, epsilon: float) -> float:
    """Return the entropic transport cost (dual value) of two samples."""
    f, g = np.zeros(len(x)), np.zeros(len(y))
    for step, width in enumerate(_schedule(x, y, p, epsilon)):
        before = f
        f = _soft_minimum(x, y, g, p, width)
        g = _soft_minimum(y, x, f, p, width)
        if width == epsilon and step and np.abs(f - before).max() <= _TOLERANCE * epsilon:
            return float(f.mean() + g.mean())
    raise _not_converged(x, y)


def _within_cost(x: np.ndarray, p: int, epsilon: float) -> float:
    """Return the entropic transport cost of a sample to itself: one potential, averaged steps."""
    f = np.zeros(len(x))
    for width in _schedule(x, x, p, epsilon):
        after = _soft_minimum(x, x, f, p, width)
        if width == epsilon and np.abs(after - f).max() <= _TOLERANCE * epsilon:
            return float(2 * after.mean())
        f = (f + after) / 2
    raise _not_converged(x, x)


def _schedule(x: np.ndarray, y: np.ndarray, p: int, epsilon: float) -> list[float]:
    """Return the regularisation of each step: halved from the spread of the cells down to `epsilon`."""
    widest = float(np.ptp(np.concatenate([x, y]), axis=0).max()) ** p
    falling = []
    while widest > epsilon:
        falling.append(widest)
        widest /= 2
    return falling + [epsilon] * _MAX_STEPS


def _soft_minimum(
    x: np.ndarray, y: np.ndarray, potential: np.ndarray, p: int, epsilon: float
) -> np.ndarray:
    """Return ``-epsilon log mean_j exp((potential_j - cost(x_i, y_j)) / epsilon)``, shape (len(x),)."""
    rows = max(1, _BLOCK_VALUES // len(y))
    y_squared = np.einsum("ij,ij->i", y, y)
    result = np.empty(len(x))
    for start in range(0, len(x), rows):
        block = x[start : start + rows]
        cost = block @ (-2 * y.T)
        cost += np.einsum("ij,ij->i", block, block)[:, None]
        cost += y_squared
        np.maximum(cost, 0, out=cost)
        if p == 1:
            np.sqrt(cost, out=cost)
        exponent = np.divide(potential - cost, epsilon, out=cost)
        top = exponent.max(axis=1)
        exponent -= top[:, None]
        mean = np.exp(exponent, out=exponent).mean(axis=1)
        result[start : start + rows] = -epsilon * (top + np.log(mean))
    return result


def _not_converged(x: np.ndarray, y: np.ndarray) -> C2SError:
    return C2SError(
        f"wasserstein: Sinkhorn did not converge in {_MAX_STEPS:,} steps on {len(x):,} against "
        f"{len(y):,} cells; raise regularisation or use method='exact'"
    )
