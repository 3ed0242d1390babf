"""How far a gene's rank in a cell tells its expression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from c2s.plots.style import (
    GENERATED,
    INK,
    MUTED,
    REAL,
    axes_or_new,
    legend,
    quiet,
    same_length,
    see_through,
    vector,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection
    from numpy.typing import NDArray


def rank_expression(
    log_rank: Sequence[float] | NDArray[np.floating],
    expression: Sequence[float] | NDArray[np.floating],
    *,
    slope: float | None = None,
    intercept: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw expression against rank as hexagons shaded by how many points fall in each.

    Parameters
    ----------
    log_rank : float array, shape (n_points,)
        log10(1 + rank), ranks counted from 0 within a cell.
    expression : float array, shape (n_points,)
        Normalised expression, log10(1 + counts scaled to the library size).
    slope, intercept : float, optional
        The fitted line `intercept + slope · log_rank` (SPEC §3); no line without both.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without it.

    Returns
    -------
    matplotlib Axes
        Its hexagons count every point once.

    Raises
    ------
    InputError
        The arrays differ in length or are not one-dimensional.
    """
    x = vector(log_rank, "log_rank")
    y = vector(expression, "expression")
    same_length(log_rank=x, expression=y)
    ax = axes_or_new(ax, 4.8, 3.8)
    if len(x):
        hexagons = ax.hexbin(
            x, y, gridsize=48, bins="log", mincnt=1,
            cmap=see_through(REAL, 1.0), linewidths=0, rasterized=True,
        )  # fmt: skip
        # From half a point on, so that a hexagon with a single point is not transparent.
        fullest = np.max(np.asarray(hexagons.get_array(), dtype=np.float64))
        hexagons.set_clim(0.5, max(float(fullest), 1.0))
        _colour_scale(ax, hexagons)
    if slope is not None and intercept is not None and len(x):
        ends = np.array([x.min(), x.max()])
        ax.plot(ends, intercept + slope * ends, color=GENERATED, linewidth=1.8, label="fitted line")
        legend(ax, "upper right")
    ax.set_xlabel("log10(1 + rank in the cell)")
    ax.set_ylabel("Expression, log10(1 + normalised count)")
    quiet(ax)
    return ax


def _colour_scale(ax: Axes, hexagons: PolyCollection) -> None:
    bar = ax.figure.colorbar(hexagons, ax=ax, pad=0.02, aspect=30)
    bar.set_label("Points in a hexagon", color=INK, fontsize=8.5)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=MUTED, labelcolor=INK, labelsize=8, width=0.8)
    bar.ax.tick_params(which="minor", length=0)
