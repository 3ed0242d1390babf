"""Whether generated cells lie nearer to the training cells than new real cells do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from c2s.common.errors import UsageError
from c2s.plots.style import GENERATED, REAL, axes_or_new, legend, quiet, vector

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray


def distance_histogram(
    generated: Sequence[float] | NDArray[np.floating],
    real: Sequence[float] | NDArray[np.floating],
    *,
    bins: int = 40,
    space: str = "PCA space",
    ax: Axes | None = None,
) -> Axes:
    """Draw how far generated and held-out real cells are from their nearest training cell.

    Copied training cells pile up at 0. Dashed lines stand at the medians.

    Parameters
    ----------
    generated : float array, shape (n_generated,)
        Distance of each generated cell to its nearest training cell.
    real : float array, shape (n_real,)
        The same for real cells that were not trained on.
    bins : int
        Number of bins, the same for both, from 0 to the largest distance.
    space : str
        What the distances are measured in, for the axis label.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without it.

    Returns
    -------
    matplotlib Axes
        Heights are shares of the cells of each kind, in percent: they add up to 100.

    Raises
    ------
    InputError
        An array is not one-dimensional.
    UsageError
        `bins` is below 1.
    """
    if bins < 1:
        raise UsageError(f"bins={bins}; expected at least 1")
    ax = axes_or_new(ax, 5.6, 3.6)
    groups = {
        "held-out real cells": (vector(real, "real"), REAL),
        "generated cells": (vector(generated, "generated"), GENERATED),
    }
    groups = {name: (x[np.isfinite(x)], colour) for name, (x, colour) in groups.items()}
    furthest = max((float(x.max()) for x, _ in groups.values() if len(x)), default=0.0)
    edges = np.linspace(0.0, furthest or 1.0, bins + 1)
    for name, (distances, colour) in groups.items():
        if not len(distances):
            continue
        heights = 100.0 * np.histogram(distances, edges)[0] / len(distances)
        ax.stairs(heights, edges, fill=True, color=colour, alpha=0.28)
        ax.stairs(heights, edges, color=colour, linewidth=1.4, label=name)
        ax.axvline(float(np.median(distances)), color=colour, linestyle="--", linewidth=1.2)
    ax.set_xlim(0.0, edges[-1])
    ax.set_xlabel(f"Distance to the nearest training cell ({space})")
    ax.set_ylabel("Cells (%)")
    quiet(ax)
    legend(ax, "upper right")
    return ax
