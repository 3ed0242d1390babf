"""Intervals by resampling cells, or the donors that they come from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from c2s.common.errors import InputError, UsageError
from c2s.common.seeds import generator
from c2s.metrics._checks import Labels, label_codes


def bootstrap_interval(
    statistic: Callable[..., float],
    *arrays: np.ndarray,
    clusters: Labels | None = None,
    seed: int = 0,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile-bootstrap interval of a statistic over rows, or over whole clusters of rows.

    Parameters
    ----------
    statistic
        Function of arrays that returns a number, such as `c2s.metrics.accuracy`.
    *arrays : array, shape (n, ...)
        Its arguments. Rows with the same index belong together and are drawn together.
    clusters : array of str or int, shape (n,), optional
        The donor of each row, or whatever else is drawn as a whole: each resample takes as many clusters as there are,
        with replacement, with all their rows. Without it, rows are drawn on their own, which is too narrow where rows
        of one donor are alike. With fewer than about ten clusters the interval is rough, and too narrow.
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
        No arrays, no rows, different numbers of rows, or fewer than two clusters.
    UsageError
        `level` is not between 0 and 1, or `n_resamples` is below 1.

    References
    ----------
    Efron & Tibshirani 1993, "An introduction to the bootstrap", ch. 13. Clusters: Field & Welsh 2007, "Bootstrapping
    clustered data", J. R. Stat. Soc. B 69:369.

    Examples
    --------
    >>> bootstrap_interval(np.mean, np.ones(20))
    (1.0, 1.0)
    >>> bootstrap_interval(np.mean, np.repeat([0.0, 1.0], 10), clusters=np.repeat(["a", "b"], 10))
    (0.0, 1.0)
    """
    if not 0 < level < 1:
        raise UsageError(f"level: found {level}, expected a number between 0 and 1")
    if n_resamples < 1:
        raise UsageError(f"n_resamples: found {n_resamples}, expected at least 1")
    rows = [np.asarray(array) for array in arrays]
    lengths = sorted({len(array) for array in rows})
    if len(lengths) != 1 or lengths[0] == 0:
        raise InputError(f"bootstrap: found arrays of {lengths} rows, expected one equal number")
    n = lengths[0]
    members = None if clusters is None else _members(clusters, n)
    rng = generator(seed, "bootstrap")
    values = np.empty(n_resamples)
    for i in range(n_resamples):
        if members is None:
            drawn = rng.integers(n, size=n)
        else:
            chosen = rng.integers(len(members), size=len(members))
            drawn = np.concatenate([members[c] for c in chosen])
        values[i] = statistic(*(array[drawn] for array in rows))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _members(clusters: Labels, n: int) -> list[np.ndarray]:
    """Return the rows of each cluster."""
    names, (codes,) = label_codes(("clusters", clusters))
    if len(codes) != n:
        raise InputError(f"clusters: found {len(codes):,}, expected one a row ({n:,})")
    if len(names) < 2:
        raise InputError(
            f"clusters: all rows are of {names[0]!r}; an interval over clusters needs at least 2 of them"
        )
    return [np.flatnonzero(codes == code) for code in range(len(names))]
