"""Splits of cells into training, validation and test, by seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from c2s.common.errors import UsageError
from c2s.common.seeds import generator

#: Names of the parts, in the order of the fractions.
PARTS = ("train", "val", "test")


def split_cells(
    labels: Sequence[str] | pd.Series | np.ndarray,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int = 0,
) -> np.ndarray:
    """Split cells at random within each label.

    A label with few cells gives each part the rounded share, and what rounding leaves over goes to
    training: of two cells, both are trained on.

    Parameters
    ----------
    labels : shape (n_cells,)
        What to stratify by.
    fractions
        Shares of training, validation and test; they sum to 1.
    seed
        Draws the split.

    Returns
    -------
    array of str, shape (n_cells,)
        "train", "val" or "test" for each cell.

    Raises
    ------
    UsageError
        The fractions do not sum to 1, or one is negative.
    """
    if abs(sum(fractions) - 1) > 1e-9 or min(fractions) < 0:
        raise UsageError(
            f"the shares of train, val and test are {fractions}; they must be ≥ 0 and sum to 1"
        )
    # As text, because labels may be numbers or missing.
    labels = np.array([str(label) for label in labels], dtype=object)
    parts = np.full(len(labels), "train", dtype=object)
    for label in sorted(set(labels)):
        rows = generator(seed, "split", label).permutation(np.flatnonzero(labels == label))
        n_test, n_val = round(fractions[2] * len(rows)), round(fractions[1] * len(rows))
        parts[rows[:n_test]] = "test"
        parts[rows[n_test : n_test + n_val]] = "val"
    return parts
