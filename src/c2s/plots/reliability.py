"""Whether a stated probability is the share of answers that are right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from c2s.common.errors import InputError
from c2s.plots.style import GENERATED, MUTED, axes_or_new, legend, quiet

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def reliability(bins: Sequence[tuple[float, float, int]], *, ax: Axes | None = None) -> Axes:
    """Draw accuracy against mean confidence; on the diagonal, confidence can be taken at its word.

    Parameters
    ----------
    bins : sequence of (confidence, accuracy, n)
        Mean confidence and accuracy (both between 0 and 1) of the `n` cells in each bin of
        confidence. Bins without cells are left out.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without it.

    Returns
    -------
    matplotlib Axes
        The area of a mark grows with its number of cells, which stands beside it.

    Raises
    ------
    InputError
        A bin is not three numbers.
    """
    for number, entry in enumerate(bins):
        if len(entry) != 3:
            raise InputError(f"reliability bin {number}: {len(entry)} numbers; expected 3")
    ax = axes_or_new(ax, 4.2, 3.8)
    ax.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1, label="confidence = accuracy")
    table = np.asarray(bins, dtype=np.float64).reshape(-1, 3)
    table = table[np.isfinite(table).all(axis=1) & (table[:, 2] > 0)]
    if len(table):
        confidence, accuracy, n = table.T
        ax.plot(confidence, accuracy, color=GENERATED, linewidth=1.2, alpha=0.7)
        ax.scatter(
            confidence,
            accuracy,
            s=18 + 100 * n / n.max(),
            color=GENERATED,
            linewidths=0,
            alpha=0.85,
        )
        for x, y, count in table:
            ax.annotate(
                f"{int(count):,}", (x, y), xytext=(0, -11), textcoords="offset points",
                ha="center", va="top", fontsize=7, color=MUTED,
            )  # fmt: skip
    ax.set_xlim(0, 1.04)
    ax.set_ylim(0, 1.04)
    ax.set_xlabel("Mean confidence (probability)")
    ax.set_ylabel("Accuracy (share of cells)")
    quiet(ax)
    legend(ax, "upper left")
    return ax
