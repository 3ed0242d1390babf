"""Which cell types are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from c2s.common.errors import InputError
from c2s.plots.style import INK, REAL, axes_or_new, quiet, see_through, verbatim

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray


def confusion_matrix(
    labels: Sequence[str], matrix: NDArray[np.integer], *, ax: Axes | None = None
) -> Axes:
    """Draw a confusion matrix: counts as numbers, the share of each true type as shade.

    Parameters
    ----------
    labels : sequence of str, length n_labels
        Names of the rows and columns.
    matrix : int array, shape (n_labels, n_labels)
        Cells of true type (row) that were given each predicted type (column).
    ax : matplotlib Axes, optional
        Where to draw; a new figure without it.

    Returns
    -------
    matplotlib Axes
        Its image holds the row shares, each between 0 and 1; a row without cells is 0.

    Raises
    ------
    InputError
        The matrix is not square, has another size than `labels`, or holds a negative count.
    """
    counts = np.asarray(matrix)
    n = len(labels)
    if counts.shape != (n, n):
        raise InputError(
            f"confusion matrix: shape {counts.shape}; expected ({n}, {n}) for {n} labels"
        )
    if n and counts.min() < 0:
        raise InputError(f"confusion matrix: the count {counts.min()}; expected none below 0")
    side = 1.5 + 0.3 * n
    ax = axes_or_new(ax, side + 0.4, side)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros((n, n)), where=totals > 0)
    # Not beyond 0.65 opaque: the numbers on top stay readable on a white and on a dark page.
    ax.imshow(shares, cmap=see_through(REAL, 0.65), vmin=0, vmax=1, interpolation="nearest")
    for row, column in np.argwhere(counts > 0):
        ax.text(
            column, row, f"{counts[row, column]:,}",
            ha="center", va="center", fontsize=7.5, color=INK,
        )  # fmt: skip
    names = [str(label) for label in labels]
    ax.set_xticks(np.arange(n), names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(np.arange(n), names)
    verbatim([*ax.get_xticklabels(), *ax.get_yticklabels()])
    ax.set_xlabel("Predicted cell type (cells)")
    ax.set_ylabel("True cell type (cells)")
    quiet(ax, frame=False)
    ax.tick_params(length=0)
    return ax
