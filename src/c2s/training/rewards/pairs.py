"""The published reward of cytokine responses: minus the squared distance to a randomly paired real cell (SPEC §7.3)."""

from __future__ import annotations

import numpy as np

from c2s.common.seeds import generator
from c2s.training.rewards.base import RealCells, Rollouts


def random_pairs(
    rollouts: Rollouts, real: RealCells, there: np.ndarray | None = None
) -> np.ndarray:
    """Return for each answer a real cell of its condition, drawn at random.

    A group is paired with a random permutation of the cells; none comes twice in a group before all came once.

    Parameters
    ----------
    rollouts
        Their seed and the number of a group draw the permutation.
    real
        Cells with conditions.
    there : bool array, shape (n_real,), optional
        Cells that can be drawn; by default all.

    Returns
    -------
    int64 array, shape (n,)
        Rows of `real`; −1 where the condition has no such cell.
    """
    result = np.full(len(rollouts), -1, dtype=np.int64)
    for rows, code in rollouts.groups():
        of_condition = real.rows(code)
        if there is not None:
            of_condition = of_condition[there[of_condition]]
        if len(of_condition):
            rng = generator(rollouts.seed, "pairs", int(rollouts.group[rows[0]]))
            rounds = -(-len(rows) // len(of_condition))
            drawn = np.concatenate([rng.permutation(of_condition) for _ in range(rounds)])
            result[rows] = drawn[: len(rows)]
    return result


def negative_mse(generated: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Return ``−|x_i − y_i|² / d`` of paired places.

    The mean over random pairs is highest at the mean of the condition's cells: a generator gains by writing one average
    cell again and again. Beside KL, a diversity reward acts against it.

    Parameters
    ----------
    generated, real : float64 arrays, shape (n, d)
        Places, paired by position. NaN rows have no place.

    Returns
    -------
    float64 array, shape (n,)
        At most 0, in squared units of the space; NaN where a place is missing.

    References
    ----------
    SPEC §7.3.

    Examples
    --------
    >>> negative_mse(np.array([[0.0, 0], [1, 1]]), np.array([[3.0, 4], [1, 1]])).tolist()
    [-12.5, -0.0]
    """
    return np.asarray(-np.square(generated - real).mean(axis=1))
