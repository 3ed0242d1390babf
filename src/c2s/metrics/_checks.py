"""What every metric asks of its arrays, refused in one line when it is not so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from c2s.common.errors import InputError

Labels = Sequence[str] | Sequence[int] | np.ndarray


def points(name: str, array: np.ndarray, minimum: int = 1) -> np.ndarray:
    """Return `array` as finite float64 of shape (n, d) with n >= `minimum`, or refuse it.

    Raises
    ------
    InputError
        Not two-dimensional, not numeric, too few rows, no columns, NaN or infinite.
    """
    try:
        checked = np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name}: expected a numeric array (n cells, d dimensions), found "
            f"{type(array).__name__} ({error}); make sparse matrices dense or encode them first"
        ) from error
    if checked.ndim != 2:
        raise InputError(
            f"{name}: expected an array (n cells, d dimensions), found shape {checked.shape}; "
            "reshape one column to (n, 1)"
        )
    if len(checked) < minimum or checked.shape[1] == 0:
        raise InputError(
            f"{name}: found {len(checked)} cells x {checked.shape[1]} dimensions, expected at "
            f"least {minimum} cells x 1 dimension; give more cells"
        )
    finite = np.isfinite(checked)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InputError(
            f"{name}: row {row}, dimension {column} is {checked[row, column]}, expected a finite "
            "number; remove such cells first"
        )
    return checked


def point_sets(
    real: np.ndarray, generated: np.ndarray, minimum: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Return both samples as `points` of equal width.

    Raises
    ------
    InputError
        One of them is refused by `points`, or their numbers of dimensions differ.
    """
    real, generated = points("real", real, minimum), points("generated", generated, minimum)
    if real.shape[1] != generated.shape[1]:
        raise InputError(
            f"generated: found {generated.shape[1]} dimensions, expected {real.shape[1]} as in "
            "real; encode both with the same encoder"
        )
    return real, generated


def profiles(
    metric: str, x: np.ndarray, y: np.ndarray, delta: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return two float64 arrays of shape (n_cells, n_genes), and whether one cell was given.

    `delta` of shape (n_genes,) or that of `x` is subtracted from both. NaN is let through.

    Raises
    ------
    InputError
        Not numeric, not one- or two-dimensional, or of different shapes.
    """
    try:
        left, right = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        control = None if delta is None else np.asarray(delta, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{metric}: expected numbers, found something else ({error})") from error
    if left.shape != right.shape or left.ndim not in (1, 2):
        raise InputError(
            f"{metric}: found shapes {left.shape} and {right.shape}, expected the same genes "
            "(n_genes,) or (n_cells, n_genes) twice"
        )
    if control is not None:
        if control.shape not in (left.shape, left.shape[-1:]):
            raise InputError(
                f"{metric}: found a control (delta) of shape {control.shape}, expected {left.shape[-1:]} "
                f"or {left.shape}: the same genes in the same order"
            )
        left, right = left - control, right - control
    return np.atleast_2d(left), np.atleast_2d(right), left.ndim == 1


def label_codes(*named: tuple[str, Any]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the sorted union of labels and, per input, each cell's position in it.

    Parameters
    ----------
    named
        Pairs (name used in messages, labels of shape (n,)). All inputs have the same length.

    Returns
    -------
    labels : array, shape (n_labels,)
    codes : list of int64 array, shape (n,)

    Raises
    ------
    InputError
        Lengths differ, an input is empty or not one-dimensional, or a label is missing.
    """
    arrays = [_labels(name, values) for name, values in named]
    lengths = {len(array) for array in arrays}
    if len(lengths) > 1:
        found = ", ".join(f"{n}: {len(a):,}" for (n, _), a in zip(named, arrays, strict=True))
        raise InputError(f"labels of different length ({found}); expected one per cell in each")
    if len({array.dtype.kind for array in arrays}) > 1:
        found = ", ".join(f"{n}: {a.dtype}" for (n, _), a in zip(named, arrays, strict=True))
        raise InputError(f"labels of different type ({found}); make all of them text")
    labels, codes = np.unique(np.concatenate(arrays), return_inverse=True)
    return labels, np.split(codes.astype(np.int64), len(arrays))


def _labels(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or len(array) == 0:
        raise InputError(f"{name}: expected one label per cell, found shape {array.shape}")
    if array.dtype.kind == "O":
        missing = [i for i, v in enumerate(array) if v is None or v != v]
        if missing:
            raise InputError(
                f"{name}: cell {missing[0]} has no label ({len(missing):,} such cells); "
                "leave them out or name them"
            )
        return array.astype(str)
    if array.dtype.kind == "f":
        raise InputError(f"{name}: labels are decimal numbers, expected text or integers")
    return array.astype(np.int64) if array.dtype.kind in "iub" else array
