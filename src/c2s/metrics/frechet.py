"""scFID: how far two samples are apart in mean and covariance, exactly, streamed, and without bias."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from c2s.common.errors import InputError, UsageError
from c2s.common.seeds import generator
from c2s.metrics._checks import point_sets, points

SCFID_CELLS_PER_DIMENSION = 4
"""Fewer cells than this many times the dimensions make scFID mostly bias; use energy distance."""

_BLOCK_VALUES = 1 << 22  # numbers centred at once: 32 MiB of float64
_FEWEST_GROUPS = 8
_SIZES = 6  # subsample sizes of the extrapolation, from a quarter of the cells to all
_WINDOWS = 4  # subsamples of each size


class Moments:
    """Number, mean and covariance of cells that arrive in batches, in memory of d * d numbers.

    Sums are kept around the running mean (Chan, Golub & LeVeque 1983), so cells far from the origin lose no digits.
    Any split into batches gives the same result up to rounding.

    Attributes
    ----------
    n
        Cells seen.
    mean : float64 array, shape (d,)
        Their mean.
    scatter : float64 array, shape (d, d)
        Sum of the outer products of their distances from the mean: the covariance times n - 1.

    Examples
    --------
    >>> half = Moments().update(np.array([[0.0, 0], [2, 0]]))
    >>> both = half.merge(Moments().update(np.array([[0.0, 4], [2, 4]])))
    >>> both.n, both.mean.tolist()
    (4, [1.0, 2.0])
    >>> both.covariance().round(3).tolist()
    [[1.333, 0.0], [0.0, 5.333]]
    """

    n: int
    mean: np.ndarray
    scatter: np.ndarray

    def __init__(self) -> None:
        self.n = 0
        self.mean = np.zeros(0)
        self.scatter = np.zeros((0, 0))

    def update(self, batch: np.ndarray) -> Moments:
        """Take in cells.

        Parameters
        ----------
        batch : array, shape (n, d)
            Of any number of cells, also none.

        Returns
        -------
        Moments
            This object.

        Raises
        ------
        InputError
            Another number of dimensions than before, NaN or infinite values.
        """
        cells = points("batch", batch, minimum=0)
        rows = max(1, _BLOCK_VALUES // cells.shape[1])
        for start in range(0, len(cells), rows):
            block = cells[start : start + rows]
            mean = block.mean(axis=0)
            centred = block - mean
            self._add(len(block), mean, centred.T @ centred)
        return self

    def merge(self, other: Moments) -> Moments:
        """Take in the cells that another object has seen; that one is left as it is.

        Returns
        -------
        Moments
            This object.

        Raises
        ------
        InputError
            Another number of dimensions.
        """
        if other.n:
            self._add(other.n, other.mean, other.scatter)
        return self

    def covariance(self) -> np.ndarray:
        """Return the covariance (ddof 1), float64 of shape (d, d).

        Raises
        ------
        InputError
            Fewer than 2 cells were seen.
        """
        if self.n < 2:
            raise InputError(
                f"moments: found {self.n} cells, expected at least 2 for a covariance; add cells"
            )
        return self.scatter / (self.n - 1)

    def _add(self, n: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        if self.n == 0:
            self.n, self.mean, self.scatter = n, mean.copy(), scatter.copy()
            return
        if len(mean) != len(self.mean):
            raise InputError(
                f"moments: found cells of {len(mean)} dimensions, expected {len(self.mean)} as in "
                "the cells before; encode all with the same encoder"
            )
        total = self.n + n
        shift = mean - self.mean
        self.scatter += scatter
        self.scatter += np.outer(shift * (self.n * n / total), shift)
        self.mean = self.mean + shift * (n / total)
        self.n = total


@dataclass(frozen=True)
class ScfidInfinity:
    """Result of `scfid_infinity`.

    Attributes
    ----------
    value
        scFID extrapolated to infinitely many cells, in squared units of the space. May be slightly below 0.
    low, high
        Interval of `value` from a jackknife over groups of cells.
    biased
        `scfid` of all cells, for comparison.
    fractions : float64 array, shape (n_sizes,)
        Sizes of the subsamples, as a share of all cells.
    scores : float64 array, shape (n_sizes,)
        Mean scFID at each size; `value` is where their line over 1 / fraction meets 0.
    """

    value: float
    low: float
    high: float
    biased: float
    fractions: np.ndarray
    scores: np.ndarray


def scfid(real: np.ndarray, generated: np.ndarray) -> float:
    """Return the Frechet distance between Gaussians fitted to two samples (scFID).

    ``|mu_r - mu_g|^2 + tr(S_r + S_g - 2 (S_r S_g)^(1/2))``, with covariances of ddof 1. The last trace is the nuclear
    norm of the product of square roots of the covariances: of the centred data matrices scaled by 1/sqrt(n - 1), which
    is exact for any number of cells, also n <= d, and needs no ridge; and for samples of more than 4 million numbers
    of the covariances themselves (`Moments`), which is quicker and as exact up to about 1e-7 of the largest variance
    where a covariance is singular.

    The value has a bias that grows with d / n: compare only scores of equal sample sizes, have at least
    `SCFID_CELLS_PER_DIMENSION` times as many cells as dimensions, or take `scfid_infinity`.

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
    >>> round(scfid(a, a.mean(axis=0) + 2 * (a - a.mean(axis=0))), 6)  # tr S
    2.916667
    """
    real, generated = point_sets(real, generated, minimum=2)
    return _distance(*_mean_and_root(real), *_mean_and_root(generated))


def scfid_from_moments(real: Moments, generated: Moments) -> float:
    """Return scFID of two samples that were seen in batches; see `scfid`.

    Parameters
    ----------
    real, generated
        `Moments` of at least 2 cells each, of the same number of dimensions.

    Returns
    -------
    float
        Squared units of the space, at least 0; lower is better.

    Raises
    ------
    InputError
        Fewer than 2 cells, or different numbers of dimensions.

    References
    ----------
    SPEC §14.3.

    Examples
    --------
    >>> a = np.array([[0.0, 0], [1, 0], [0, 1], [3, 2]])
    >>> round(scfid_from_moments(Moments().update(a), Moments().update(a + [1, 2])), 12)
    5.0
    """
    roots = [_covariance_root(each.covariance()) for each in (real, generated)]
    if len(real.mean) != len(generated.mean):
        raise InputError(
            f"generated: found {len(generated.mean)} dimensions, expected {len(real.mean)} as in "
            "real; encode both with the same encoder"
        )
    return _distance(real.mean, roots[0], generated.mean, roots[1])


def scfid_infinity(
    real: np.ndarray,
    generated: np.ndarray,
    *,
    n_groups: int = 16,
    level: float = 0.95,
    seed: int = 0,
) -> ScfidInfinity:
    """Extrapolate scFID to infinitely many cells, where it has no bias from their number.

    At n cells scFID is too large by about c / n: two halves of one sample are some distance apart. It is taken of
    subsamples from a quarter of the cells to all (drawn without replacement, the same share of both samples), and the
    line over 1 / share is followed to 0. The bias that is left is of order (d / n)^2: small from about eight
    times as many cells as dimensions on. Copies of the real cells come out below 0: they are nearer than other real
    cells could be.

    Each sample is cut at random into groups whose `Moments` are taken once; subsamples are unions of groups, so
    the cells are gone through only once. The interval is a jackknife that leaves out one group of each sample at a
    time; it tends to be too wide where the two distributions are equal. A bootstrap would not do: cells drawn twice
    make a covariance look poorer than it is.

    Parameters
    ----------
    real : array, shape (n, d)
    generated : array, shape (m, d)
    n_groups
        Groups of each sample, at least 8; each sample needs twice as many cells.
    level
        Coverage of the interval, between 0 and 1.
    seed
        Chooses the groups.

    Returns
    -------
    ScfidInfinity

    Raises
    ------
    InputError
        Fewer than ``2 * n_groups`` cells, different numbers of dimensions, NaN or infinite values.
    UsageError
        `n_groups` is below 8, or `level` is not between 0 and 1.

    References
    ----------
    Chong & Forsyth 2020, "Effectively unbiased FID and Inception Score", CVPR (FID infinity); Efron & Tibshirani 1993
    (delete-a-group jackknife).

    Examples
    --------
    >>> a, b = np.random.default_rng(0).normal(size=(2, 200, 10))  # of one distribution
    >>> found = scfid_infinity(a, b)
    >>> round(found.biased, 2), found.low < 0 < found.high
    (0.35, True)
    """
    if n_groups < _FEWEST_GROUPS:
        raise UsageError(f"n_groups: found {n_groups}, expected at least {_FEWEST_GROUPS}")
    if not 0 < level < 1:
        raise UsageError(f"level: found {level}, expected a number between 0 and 1")
    real, generated = point_sets(real, generated, minimum=2 * n_groups)
    rng = generator(seed, "scFID extrapolation")
    groups = [_grouped(sample, n_groups, rng) for sample in (real, generated)]
    value, fractions, scores = _extrapolate(*groups)
    without = [
        _extrapolate(*([g for i, g in enumerate(sample) if i != left] for sample in groups))[0]
        for left in range(n_groups)
    ]
    from scipy.stats import t

    error = np.sqrt((n_groups - 1) * np.var(without))
    half = float(t.ppf((1 + level) / 2, n_groups - 1) * error)
    return ScfidInfinity(value, value - half, value + half, float(scores[-1]), fractions, scores)


def scfid_unbiased(real: np.ndarray, generated: np.ndarray, *, seed: int = 0) -> float:
    """Return scFID extrapolated to infinitely many cells; see `scfid_infinity`, which also gives an interval.

    Parameters
    ----------
    real : array, shape (n, d), n >= 32
    generated : array, shape (m, d), m >= 32
    seed
        Chooses the subsamples.

    Returns
    -------
    float
        Squared units of the space; lower is better, about 0 (also slightly below) for equal distributions.

    Raises
    ------
    InputError
        As `scfid_infinity`.

    References
    ----------
    Chong & Forsyth 2020.

    Examples
    --------
    >>> a, b = np.random.default_rng(0).normal(size=(2, 400, 10))  # of one distribution
    >>> abs(scfid_unbiased(a, b)) < scfid(a, b) / 3
    True
    """
    return scfid_infinity(real, generated, seed=seed).value


def _mean_and_root(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and R with R'R the covariance (ddof 1), the exact or the quick way."""
    if x.size > _BLOCK_VALUES and len(x) > x.shape[1]:
        moments = Moments().update(x)
        return moments.mean, _covariance_root(moments.covariance())
    mean = x.mean(axis=0)
    return mean, np.asarray(np.linalg.qr((x - mean) / np.sqrt(len(x) - 1), mode="r"))


def _covariance_root(covariance: np.ndarray) -> np.ndarray:
    """Return R with R'R the covariance; eigenvalues that are rounding are 0."""
    values, vectors = np.linalg.eigh(covariance)
    values[values <= values.max(initial=0.0) * len(values) * np.finfo(np.float64).eps] = 0
    return np.asarray((vectors * np.sqrt(values)).T)


def _distance(
    real_mean: np.ndarray,
    real_root: np.ndarray,
    generated_mean: np.ndarray,
    generated_root: np.ndarray,
) -> float:
    shift = real_mean - generated_mean
    cross = np.linalg.svd(real_root @ generated_root.T, compute_uv=False).sum()
    spread = np.sum(real_root**2) + np.sum(generated_root**2)
    return max(0.0, float(shift @ shift + spread - 2 * cross))


def _grouped(x: np.ndarray, n_groups: int, rng: np.random.Generator) -> list[Moments]:
    return [Moments().update(x[rows]) for rows in np.array_split(rng.permutation(len(x)), n_groups)]


def _extrapolate(
    real: Sequence[Moments], generated: Sequence[Moments]
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the intercept of the line over 1 / fraction, the fractions, and the mean scFID at each."""
    n = len(real)
    sizes = np.unique(np.linspace(n / 4, n, _SIZES).round().astype(int))
    scores = np.empty(len(sizes))
    for i, size in enumerate(sizes):
        # Windows on the circle of groups use all cells evenly; of all groups there is only one.
        starts = [0] if size == n else [w * n // _WINDOWS for w in range(_WINDOWS)]
        scores[i] = np.mean(
            [
                scfid_from_moments(_union(real, start, size), _union(generated, start, size))
                for start in starts
            ]
        )
    intercept = np.polynomial.Polynomial.fit(n / sizes, scores, 1).convert().coef[0]
    return float(intercept), sizes / n, scores


def _union(groups: Sequence[Moments], start: int, size: int) -> Moments:
    total = Moments()
    for i in range(start, start + size):
        total.merge(groups[i % len(groups)])
    return total
