"""What every baseline asks of its training cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from c2s.common.errors import InputError, listing, nearest

if TYPE_CHECKING:
    import scipy.sparse as sp


def training_labels(
    name: str, matrix: sp.csr_matrix, labels: np.ndarray, minimum: int = 1
) -> np.ndarray:
    """Return the labels as text, shape (n_cells,).

    Raises
    ------
    InputError
        Not one label per cell, a missing label, or fewer than `minimum` different ones.
    """
    given = np.asarray(labels)
    if given.shape != (matrix.shape[0],) or len(given) == 0:
        raise InputError(
            f"{name}: found labels of shape {given.shape} for {matrix.shape[0]:,} cells, expected "
            "one label per cell"
        )
    missing = np.flatnonzero(pd.isna(given))
    if len(missing):
        raise InputError(
            f"{name}: cell {missing[0]} has no label ({len(missing):,} such cells); leave them out"
        )
    text = given.astype(str)
    kinds = np.unique(text)
    if len(kinds) < minimum:
        raise InputError(
            f"{name}: found only the label {str(kinds[0])!r}, expected at least {minimum} "
            "different ones"
        )
    return text


def require_genes(name: str, matrix: sp.csr_matrix, expected: int) -> None:
    """Refuse cells with another number of genes than the training cells had.

    Raises
    ------
    InputError
        `matrix` does not have `expected` columns.
    """
    if matrix.shape[1] != expected:
        raise InputError(
            f"{name}: found {matrix.shape[1]:,} genes, expected the {expected:,} genes that it was "
            "trained on, in their order"
        )


def require_known(name: str, wanted: np.ndarray, known: np.ndarray) -> None:
    """Refuse types that no training cell has.

    Raises
    ------
    InputError
        An entry of `wanted` is not in `known`.
    """
    unknown = sorted(set(wanted.tolist()) - set(known.tolist()))
    if unknown:
        close = nearest(unknown[0], known.tolist()) or known.tolist()
        raise InputError(
            f"{name}: no training cell is of type {unknown[0]!r}, expected a type such as "
            f"{listing(close)}"
        )
