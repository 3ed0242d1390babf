"""What each cell contributes to a measure of its whole group: leave-one-out, in closed form.

For a measure D of a group of G cells that is to fall, the reward of cell i is ``−G · D + (G − 1) · D_i``, with `D_i`
that of the group without the cell: minus the pseudo-value of the jackknife (Efron & Tibshirani 1993, ch. 11). It is the
same as ``(G − 1) · (D_i − D) − D``:

- Cells of a group differ by ``(G − 1) · (D_i − D)``: a cell that brings the group nearer has more than −D. The factor
  makes them tend to the influence of a cell as the group grows, and not to 0: a cell's part in D falls as 1/G.
- Its mean over the group is minus the measure, less the bias that falls as 1/G; it is exactly −D for the energy
  distance, which has none. So the mean reward of a run can be read.
- The mean over the group of reward times the gradient of the log-probability is an unbiased estimate of the gradient of
  minus the expected measure: `D_i` does not depend on the cell, and so adds nothing in expectation.

For a measure that is to rise (diversity) all signs are turned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from c2s.metrics.distributions import sum_within

#: A group without one of its cells needs two that are left.
FEWEST_CELLS = 3


def mean_distance(points: np.ndarray) -> float:
    """Return the mean Euclidean distance of two different points of a sample, shape (n, d) with n ≥ 2."""
    return sum_within(points, np.sqrt) / (len(points) * (len(points) - 1))


def energy_shares(
    generated: np.ndarray, real: np.ndarray, within_real: float | None = None
) -> np.ndarray:
    """Return each cell's share of minus the energy distance of its group from real cells.

    With `a` the mean distance of a cell from the real cells and `w` that from the others of its group, a bar for the
    mean over the group, and `D` the unbiased `c2s.metrics.energy_distance`, it is
    ``−D + 2 (ā − a) − 2 (G − 1)/(G − 2) (w̄ − w)``.

    Parameters
    ----------
    generated : float64 array, shape (G, d), G >= 3
        A group.
    real : float64 array, shape (n, d), n >= 2
        Real cells of its condition.
    within_real
        `mean_distance` of the real cells, where it is known.

    Returns
    -------
    float64 array, shape (G,)
        Units of the space; the mean is −D.

    Examples
    --------
    >>> real = np.array([[0.0], [2.0]])
    >>> energy_shares(np.array([[0.0], [2.0], [9.0]]), real).round(3).tolist()  # D = 2 · 10/3 − 2 − 6
    [4.0, 0.0, 0.0]
    """
    from scipy.spatial.distance import cdist

    if within_real is None:
        within_real = mean_distance(real)
    away = cdist(generated, real).mean(axis=1)
    spread = _mean_to_others(cdist(generated, generated))
    distance = 2 * away.mean() - within_real - spread.mean()
    return np.asarray(2 * (away.mean() - away) - _spread_shares(spread) - distance)


def diversity_shares(distances: np.ndarray) -> np.ndarray:
    """Return each cell's share of the mean pairwise distance of its group.

    With `w` the mean distance of a cell from the others and a bar for the mean over the group, it is
    ``w̄ + 2 (G − 1)/(G − 2) (w − w̄)``.

    Parameters
    ----------
    distances : float64 array, shape (G, G), G >= 3
        Symmetric, with zeros on the diagonal.

    Returns
    -------
    float64 array, shape (G,)
        Units of the distances; the mean is the mean pairwise distance.

    Examples
    --------
    >>> diversity_shares(np.array([[0.0, 0, 1], [0, 0, 1], [1, 1, 0]])).round(3).tolist()
    [0.0, 0.0, 2.0]
    """
    spread = _mean_to_others(distances)
    return np.asarray(spread.mean() - _spread_shares(spread))


def _mean_to_others(distances: np.ndarray) -> np.ndarray:
    return np.asarray(distances.sum(axis=1) / (len(distances) - 1))


def _spread_shares(spread: np.ndarray) -> np.ndarray:
    """Return (G − 1) times the mean pairwise distance without each cell less that with it."""
    n = len(spread)
    return np.asarray(2 * (n - 1) / (n - 2) * (spread.mean() - spread))


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of real cells.

    Attributes
    ----------
    mean : float64 array, shape (d,)
    root : float64 array, shape (r, d)
        With root' · root the covariance (ddof 1).
    """

    mean: np.ndarray
    root: np.ndarray

    @classmethod
    def fit(cls, points: np.ndarray) -> Self:
        """Take mean and covariance of points, shape (n, d) with n ≥ 2."""
        mean = points.mean(axis=0)
        scaled = (points - mean) / np.sqrt(len(points) - 1)
        return cls(mean, np.asarray(np.linalg.qr(scaled, mode="r")))


def scfid_shares(generated: np.ndarray, real: np.ndarray | Gaussian) -> np.ndarray:
    """Return each cell's share of minus the scFID of its group from real cells.

    Leaving a cell out changes the mean by a vector and the covariance by a matrix of rank one; the eigenvalues that the
    nuclear norm of scFID needs are taken of all G cases at once, of the smaller of d x d and G x G.

    Parameters
    ----------
    generated : float64 array, shape (G, d), G >= 3
        A group.
    real : float64 array, shape (n, d), n >= 2
        Real cells of its condition, or `Gaussian.fit` of them.

    Returns
    -------
    float64 array, shape (G,)
        Squared units of the space; ``−G · scfid(group) + (G − 1) · scfid(group without the cell)``. The mean is minus
        scFID less the jackknife's estimate of its bias by the number of generated cells.
    """
    fit = real if isinstance(real, Gaussian) else Gaussian.fit(real)
    n = len(generated)
    mean = generated.mean(axis=0)
    centred = generated - mean
    squares = np.einsum("ij,ij->i", centred, centred)
    shift, total = mean - fit.mean, np.sum(fit.root**2)
    projected = centred @ fit.root.T  # (G, r)
    whole = shift @ shift + total + squares.sum() / (n - 1)
    whole -= 2 * np.linalg.svd(projected, compute_uv=False).sum() / np.sqrt(n - 1)
    shifts = shift - centred / (n - 1)
    without = np.einsum("ij,ij->i", shifts, shifts) + total
    without += (squares.sum() - n / (n - 1) * squares) / (n - 2)
    without -= 2 * _norms_without_each(projected) / np.sqrt(n - 2)
    return np.asarray((n - 1) * np.maximum(without, 0) - n * max(whole, 0.0))


def _norms_without_each(centred: np.ndarray) -> np.ndarray:
    """Return the nuclear norm of centred points, shape (n, d), after each is left out and the others centred anew."""
    n, d = centred.shape
    if d < n:
        gram = centred.T @ centred - n / (n - 1) * centred[:, :, None] * centred[:, None, :]
    else:
        inner = centred @ centred.T
        to = inner / (n - 1)
        own = np.diagonal(inner) / (n - 1) ** 2
        # Point j without i is x_j + x_i / (n - 1), since the mean moves by -x_i / (n - 1).
        gram = inner + to[:, :, None] + to[:, None, :] + own[:, None, None]
        each = np.arange(n)
        gram[each, each, :] = 0
        gram[each, :, each] = 0
    values = np.linalg.eigvalsh(gram)
    noise = values[:, -1:] * values.shape[1] * np.finfo(np.float64).eps
    return np.sqrt(np.where(values > noise, values, 0.0)).sum(axis=1)
