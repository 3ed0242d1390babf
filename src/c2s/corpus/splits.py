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


#: The part of studies that are held out whole.
HELD_OUT = "held_out"

#: All parts of a corpus.
CORPUS_PARTS = (*PARTS, HELD_OUT)

#: A donor of this name has its cells split at random.
BY_CELL = "by cell"


def split_groups(
    groups: Sequence[str], fractions: tuple[float, float, float], seed: int, *keys: str | int
) -> dict[str, str]:
    """Split whole groups (the donors of a study, or gene sets) into parts.

    Every part whose share is not zero gets at least one of three or more groups; what rounding leaves over goes
    to training.

    Parameters
    ----------
    groups
        Names, each once; their order does not matter.
    fractions
        Shares of train, val and test.
    seed, keys
        Draw the split; `keys` say what of.

    Returns
    -------
    dict
        The part of each group.
    """
    order = generator(seed, "groups", *keys).permutation(np.array(sorted(groups), dtype=object))
    n = len(order)
    counts = [round(f * n) for f in fractions]
    if n >= 3:
        counts = [max(c, 1) if f > 0 else 0 for c, f in zip(counts, fractions, strict=True)]
    n_test = min(counts[2], n)
    n_val = min(counts[1], n - n_test)
    parts = ["test"] * n_test + ["val"] * n_val + ["train"] * (n - n_test - n_val)
    return {str(group): part for group, part in zip(order, parts, strict=True)}


def split_by_hash(keys: np.ndarray, fractions: tuple[float, float, float]) -> np.ndarray:
    """Split single cells by their hashes (uint64), each on its own; array of int8 positions in `PARTS`."""
    share = (keys >> np.uint64(11)).astype(np.float64) / 2.0**53  # below 1, exactly
    edges = np.cumsum([fractions[2], fractions[1]])
    return np.select([share < edges[0], share < edges[1]], [2, 1], 0).astype(np.int8)
