"""Are generated cells copies of training cells? Copies beat every other score of a generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from c2s.common.errors import InputError
from c2s.metrics._checks import points

_BLOCK_VALUES = 1 << 22  # distances held at once: 32 MiB of float64


@dataclass(frozen=True)
class Memorisation:
    """How near generated cells are to training cells, beside held-out real cells.

    Attributes
    ----------
    generated_median, real_median
        Median distance to the nearest training cell, in units of the space.
    median_ratio
        `generated_median` / `real_median`. About 1 is right; far below 1, cells are copied; above
        1, they lie off the data. NaN when both are 0, infinite when only the real one is.
    share_below_1st, share_below_5th
        Share of generated cells at or below the 1st and 5th percentile of the held-out real cells'
        distances: about 0.01 and 0.05 is right, much more means copies.
    """

    generated_median: float
    real_median: float
    median_ratio: float
    share_below_1st: float
    share_below_5th: float


def nearest_distance(generated: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Return each cell's Euclidean distance to its nearest training cell.

    Parameters
    ----------
    generated : array, shape (n, d)
        Generated cells, or held-out real ones to compare with.
    training : array, shape (m, d)
        The cells that the generator was trained on, in the same space and after the same round trip
        through sentences.

    Returns
    -------
    float64 array, shape (n,)
        Exactly 0 for an exact copy (differences are summed, not expanded into inner products, which
        would blur small distances).

    Raises
    ------
    InputError
        No cells, different numbers of dimensions, NaN or infinite values.

    Examples
    --------
    >>> nearest_distance(np.array([[0.0, 0], [3, 4]]), np.array([[0.0, 0], [0, 1]]))
    array([0.        , 4.24264069])
    """
    generated, training = points("generated", generated), points("training", training)
    if generated.shape[1] != training.shape[1]:
        raise InputError(
            f"generated: found {generated.shape[1]} dimensions, expected {training.shape[1]} as in "
            "training; encode both with the same encoder"
        )
    from scipy.spatial.distance import cdist

    nearest = np.empty(len(generated))
    rows = max(1, _BLOCK_VALUES // len(training))
    for start in range(0, len(generated), rows):
        block = slice(start, start + rows)
        nearest[block] = cdist(generated[block], training).min(axis=1)
    return nearest


def memorisation_summary(
    generated_distances: np.ndarray, real_distances: np.ndarray
) -> Memorisation:
    """Compare generated with held-out real cells by distance to the nearest training cell.

    Parameters
    ----------
    generated_distances : array, shape (n,)
        `nearest_distance` of the generated cells.
    real_distances : array, shape (m,)
        `nearest_distance` of real cells that were not trained on, of the same mixture of types.

    Returns
    -------
    Memorisation

    Raises
    ------
    InputError
        An input is empty, not one-dimensional, or holds NaN or infinite values.

    Examples
    --------
    >>> found = memorisation_summary(np.array([0.0, 1.0, 1.0]), np.array([1.0, 2.0, 3.0]))
    >>> found.median_ratio, found.share_below_5th
    (0.5, 1.0)
    """
    generated = points("generated_distances", np.atleast_1d(generated_distances)[:, None])[:, 0]
    real = points("real_distances", np.atleast_1d(real_distances)[:, None])[:, 0]
    first, fifth = np.percentile(real, [1, 5])
    generated_median, real_median = float(np.median(generated)), float(np.median(real))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = float(np.divide(generated_median, real_median))
    return Memorisation(
        generated_median=generated_median,
        real_median=real_median,
        median_ratio=ratio,
        share_below_1st=float(np.mean(generated <= first)),
        share_below_5th=float(np.mean(generated <= fifth)),
    )
