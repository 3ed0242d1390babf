"""How far a sample of generated cells is from a sample of real ones: kernels and distances of all pairs.

All take points of shape (n, d) in one space, such as principal components fitted on real training
cells, and return 0 for equal distributions (up to sampling). SPEC §14.3. None of these values means
anything alone: compare it with real cells against other real cells, at the same numbers of cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from c2s.common.errors import UsageError
from c2s.metrics._checks import point_sets, points

CELLOT_GAMMAS = (2.0, 1.0, 0.5, 0.1, 0.01, 0.005)
"""RBF widths of CellOT's evaluation (SPEC §14.3); see `mmd2_cellot`."""

_BLOCK_VALUES = 1 << 22  # distances held at once: 32 MiB of float64
_MEDIAN_ROWS = 4096  # rows that the median heuristic looks at


def mmd2(
    real: np.ndarray,
    generated: np.ndarray,
    *,
    gammas: Sequence[float] | None = None,
    biased: bool = False,
) -> float:
    """Return the squared maximum mean discrepancy with a Gaussian (RBF) kernel.

    The kernel is not specified by the paper. It is the mean over `gammas` of ``exp(-gamma |x - y|^2)``; by default
    one gamma, `median_gamma` of the **real** cells: the generated cells have no say in how they are measured, so
    that several generators compared with the same real cells are measured with the same kernel. Compute it
    once and pass it where the real cells themselves differ, as for a ceiling.

    Parameters
    ----------
    real : array, shape (n, d)
    generated : array, shape (m, d)
    gammas
        Kernel widths, in 1 / squared units of the space.
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
        Fewer than 2 cells (the biased form takes single cells, but for `median_gamma`), different numbers of
        dimensions, NaN or infinite values.
    UsageError
        `gammas` is empty or holds a value that is not positive and finite.

    References
    ----------
    SPEC §14.3. Gretton et al. 2012, "A kernel two-sample test", JMLR 13:723 (Lemma 6). Their median heuristic (§8)
    pools both samples: ``gammas=[median_gamma(np.concatenate([real, generated]))]``.

    Examples
    --------
    >>> a, b = np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]])
    >>> round(mmd2(a, b, gammas=[1.0]), 6)  # 2/e - (e^-1 + 2 e^-4 + e^-9) / 2
    0.533442
    """
    real, generated = point_sets(real, generated, minimum=1 if biased else 2)
    widths = [median_gamma(real)] if gammas is None else [float(g) for g in gammas]
    if not widths or not all(np.isfinite(g) and g > 0 for g in widths):
        raise UsageError(f"gammas: found {list(widths)}, expected one or more positive numbers")

    def kernel(squared: np.ndarray) -> np.ndarray:
        total = np.exp(-widths[0] * squared)
        for gamma in widths[1:]:
            total += np.exp(-gamma * squared)
        return total / len(widths)

    n, m = len(real), len(generated)
    within_real, within_generated = sum_within(real, kernel), sum_within(generated, kernel)
    cross = sum_across(real, generated, kernel) / (n * m)
    if biased:
        value = (within_real + n) / n**2 + (within_generated + m) / m**2 - 2 * cross
    else:
        value = within_real / (n * (n - 1)) + within_generated / (m * (m - 1)) - 2 * cross
    return float(value)


def mmd2_cellot(real: np.ndarray, generated: np.ndarray) -> float:
    """Return the squared MMD as CellOT's evaluation has it: `mmd2` with `CELLOT_GAMMAS`, biased.

    The mean over six widths of the V-statistic. Meant for comparison with published numbers: in a space of 50 principal
    components its large gammas see little but the diagonal, 1/n + 1/m.

    Parameters
    ----------
    real : array, shape (n, d)
    generated : array, shape (m, d)

    Returns
    -------
    float
        No unit, at least 0; lower is better. Falls with the number of cells, also for equal distributions.

    Raises
    ------
    InputError
        No cells, different numbers of dimensions, NaN or infinite values.

    References
    ----------
    SPEC §14.3. Bunne et al. 2023 (CellOT), Nat. Methods 20:1759.

    Examples
    --------
    >>> round(mmd2_cellot(np.array([[0.0]]), np.array([[1.0]])), 6)  # the mean of 2 - 2 exp(-gamma)
    0.666785
    """
    return mmd2(real, generated, gammas=CELLOT_GAMMAS, biased=True)


def median_gamma(cells: np.ndarray) -> float:
    """Return the width of an RBF kernel by the median heuristic: ``1 / (2 s^2)``, s the median distance.

    Parameters
    ----------
    cells : array, shape (n, d), n >= 2
        Real cells. Of more than 4,096, that many evenly spaced ones are looked at.

    Returns
    -------
    float
        In 1 / squared units of the space. Where more than half of the pairs are copies, of the other pairs; where all
        cells are equal, 0.5.

    Raises
    ------
    InputError
        Fewer than 2 cells, NaN or infinite values.

    References
    ----------
    Gretton et al. 2012, §8.

    Examples
    --------
    >>> median_gamma(np.array([[0.0], [1.0], [5.0]]))  # the median of 1, 4 and 5 is 4
    0.03125
    """
    cells = points("cells", cells, minimum=2)
    from scipy.spatial.distance import pdist

    if len(cells) > _MEDIAN_ROWS:
        cells = cells[np.linspace(0, len(cells) - 1, _MEDIAN_ROWS).astype(np.int64)]
    distances = pdist(cells)
    median = float(np.median(distances))
    if median == 0:  # more than half of the pairs are copies: look at the others
        apart = distances[distances > 0]
        median = float(np.median(apart)) if len(apart) else 1.0
    return 1 / (2 * median**2)


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
        Fewer than 2 cells, different numbers of dimensions, NaN or infinite values.

    References
    ----------
    Szekely & Rizzo 2013, "Energy statistics", J. Stat. Plan. Inference 143:1249.

    Examples
    --------
    >>> energy_distance(np.array([[0.0], [1]]), np.array([[5.0], [6]]))  # 2 * 5 - 1 - 1
    8.0
    """
    real, generated = point_sets(real, generated, minimum=2)
    n, m = len(real), len(generated)
    across = sum_across(real, generated, np.sqrt) / (n * m)
    within_real = sum_within(real, np.sqrt) / (n * (n - 1))
    within_generated = sum_within(generated, np.sqrt) / (m * (m - 1))
    return float(2 * across - within_real - within_generated)


def sum_across(x: np.ndarray, y: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> float:
    """Return the sum of `function(|x_i - y_j|^2)` over all pairs, in blocks."""
    from scipy.spatial.distance import cdist

    rows = max(1, _BLOCK_VALUES // len(y))
    return sum(
        float(function(cdist(x[start : start + rows], y, "sqeuclidean")).sum())
        for start in range(0, len(x), rows)
    )


def sum_within(x: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> float:
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
