"""Random halves: what every figure is measured on, and what its interval comes from.

Each condition's real cells are cut at random into two halves, `n` cells each. Everything is measured against the first
half, at the same number of cells: `n` generated cells, `n` cells of each floor, and the second half, which is the
noise ceiling. A figure is the mean over many such splits.

The spread over splits is also the error of a figure: statistics of random halves, drawn without replacement, vary about
the statistic of all cells as that varies about the truth (the delete-half jackknife). The ordinary bootstrap, which
draws cells with replacement, is of no use here: cells drawn twice are at distance 0 from each other, make a covariance
look poorer than it is, and are recognised by a classifier.

References: Wu 1990, "On the asymptotic properties of the jackknife histogram", Ann. Stat. 18:1438; Politis, Romano &
Wolf 1999, "Subsampling".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from c2s.common.seeds import generator

Resampled = Literal["cells", "donors", "conditions"]


@dataclass(frozen=True)
class Resampling:
    """What intervals tell about: other cells, other donors, or other conditions (drugs).

    Attributes
    ----------
    of
        "cells": of the same donors. "donors": groups that go through the conditions. "conditions": groups that are
        whole conditions, as drugs are.
    column
        Column of `obs` with the groups, or None.
    groups : int64 array, shape (n_cells,)
        Group of each real cell.
    names
        Of the groups.
    """

    of: Resampled
    column: str | None
    groups: np.ndarray
    names: tuple[str, ...]

    def sentence(self) -> str:
        """Say in one sentence what the intervals tell."""
        if self.of == "cells" and self.column is None:
            return (
                "Intervals are over cells: how figures vary with other cells of the same donors. The data name no "
                "donors, so nothing is said about others."
            )
        if self.of == "cells":
            return (
                f"Intervals are over cells: all real cells have the same {self.column} ({self.names[0]}), so nothing "
                "is said about how another would differ."
            )
        what = f"{len(self.names)} values of obs[{self.column!r}]"
        few = " So few make wide and rough intervals." if len(self.names) < 5 else ""
        if self.of == "donors":
            return (
                f"Intervals are over the {what}, which are drawn as wholes; those of the ceiling, of the difference "
                f"from it, and of the two-sample test are over cells.{few}"
            )
        return (
            f"Intervals of means are over the {what}, drawn with all their conditions; those of single conditions "
            f"are over cells.{few}"
        )


def find_resampling(
    groups: list[str] | None, column: str | None, condition: np.ndarray
) -> Resampling:
    """Decide what is drawn as a whole.

    Parameters
    ----------
    groups
        The donor, drug, … of each real cell, or None.
    column
        Where they come from.
    condition : int64 array, shape (n_cells,)
        The condition of each real cell.
    """
    if groups is None or column is None:
        return Resampling("cells", None, np.zeros(len(condition), np.int64), ())
    names, codes = np.unique(np.array(groups, dtype=str), return_inverse=True)
    kinds = tuple(str(name) for name in names)
    if len(kinds) == 1:
        return Resampling("cells", column, codes, kinds)
    pairs = np.unique(np.stack([condition, codes]), axis=1)
    one_each = len(pairs[0]) == len(np.unique(pairs[0]))
    return Resampling("conditions" if one_each else "donors", column, codes, kinds)


def halves(
    rows: np.ndarray, n: int, seed: int, split: int, code: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return two disjoint random sets of `n` rows each."""
    order = generator(seed, "halves", split, code).permutation(rows)
    return order[:n], order[n : 2 * n]


def draw(rows: np.ndarray, n: int, seed: int, split: int, code: int, name: str) -> np.ndarray:
    """Return `n` random rows without replacement; fewer where there are not as many."""
    return generator(seed, "draw", name, split, code).permutation(rows)[:n]


def half_of_groups(n_groups: int, seed: int, split: int) -> np.ndarray:
    """Return the numbers of a random half of the groups (rounded down)."""
    return generator(seed, "groups", split).permutation(n_groups)[: n_groups // 2]


def interval(
    value: float,
    deviations: np.ndarray,
    n_units: int,
    *,
    drawn: int | None = None,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return an interval around `value` from how statistics of random halves vary.

    Parameters
    ----------
    value
        The figure.
    deviations : float array, shape (n_splits,)
        Statistics of halves less their mean; NaN where undefined.
    n_units
        Cells or groups that halves were drawn of: few of them widen the interval as Student's t does.
    drawn
        Units in a half, where that is not exactly half of them.
    level
        Coverage.

    Returns
    -------
    low, high : float
        NaN where fewer than two halves or units are known.
    """
    from scipy.stats import t

    known = deviations[np.isfinite(deviations)]
    n = len(known)
    if n < 2 or n_units < 2 or not np.isfinite(value):
        return float("nan"), float("nan")
    m = n_units / 2 if drawn is None else drawn
    # A half of n units varies about the whole by (n - m) / m of the whole's own variance.
    spread = np.sqrt(m / (n_units - m))
    # The figure is a mean over n halves, and its spread is known from n of them only.
    error = float(np.std(known, ddof=1)) * np.sqrt(spread**2 + 1 / n)
    half = float(t.ppf((1 + level) / 2, min(n_units, n) - 1)) * error
    return value - half, value + half
