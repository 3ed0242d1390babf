"""Intervals by resampling cells."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from c2s.common.errors import InputError, UsageError
from c2s.common.seeds import generator


def bootstrap_interval(
    statistic: Callable[..., float],
    *arrays: np.ndarray,
    seed: int = 0,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile-bootstrap interval of a statistic over rows.

    Parameters
    ----------
    statistic
        Function of arrays that returns a number, such as `c2s.metrics.accuracy`.
    *arrays : array, shape (n, ...)
        Its arguments. Rows with the same index belong together and are drawn together.
    seed
        Chooses the resamples.
    n_resamples
        More give a steadier interval and take as much longer.
    level
        Coverage, between 0 and 1.

    Returns
    -------
    low, high : float

    Raises
    ------
    InputError
        No arrays, no rows, or different numbers of rows.
    UsageError
        `level` is not between 0 and 1, or `n_resamples` is below 1.

    References
    ----------
    Efron & Tibshirani 1993, "An introduction to the bootstrap", ch. 13.

    Examples
    --------
    >>> bootstrap_interval(np.mean, np.ones(20))
    (1.0, 1.0)
    """
    if not 0 < level < 1:
        raise UsageError(f"level: found {level}, expected a number between 0 and 1")
    if n_resamples < 1:
        raise UsageError(f"n_resamples: found {n_resamples}, expected at least 1")
    rows = [np.asarray(array) for array in arrays]
    lengths = sorted({len(array) for array in rows})
    if len(lengths) != 1 or lengths[0] == 0:
        raise InputError(f"bootstrap: found arrays of {lengths} rows, expected one equal number")
    rng = generator(seed, "bootstrap")
    n = lengths[0]
    values = np.empty(n_resamples)
    for i in range(n_resamples):
        drawn = rng.integers(n, size=n)
        values[i] = statistic(*(array[drawn] for array in rows))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
