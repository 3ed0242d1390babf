"""Real and generated cells on one map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from c2s.common.errors import InputError, UsageError
from c2s.plots.style import (
    BACKGROUND,
    GENERATED,
    INK,
    PAPER,
    REAL,
    axes_or_new,
    colour_of,
    label_colours,
    legend,
    quiet,
    same_length,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox
    from numpy.typing import NDArray

_SIZE = 5.0  # points², of one cell


def umap_real_generated(
    coordinates: NDArray[np.floating],
    cell_types: Sequence[str] | NDArray[np.str_],
    generated: NDArray[np.bool_],
    *,
    show: Literal["overlay", "real", "generated"] = "overlay",
    colours: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a two-dimensional map of real and generated cells.

    All three views have the same limits, so that places can be compared between panels.

    Parameters
    ----------
    coordinates : float array, shape (n_cells, 2)
        Places on the map (UMAP or any other), without units.
    cell_types : str array, shape (n_cells,)
        Cell type of a real cell, or the type that a generated cell was asked to be.
    generated : bool array, shape (n_cells,)
        True for generated cells.
    show : {"overlay", "real", "generated"}
        "overlay": both, in two colours. "real" and "generated": only these, coloured and named by
        cell type, above the others in grey. A name that would cover another is left out.
    colours : mapping of cell type to colour, optional
        Default: `label_colours` of all `cell_types`.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without it.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    InputError
        Shapes do not agree, or a type has no colour.
    UsageError
        `show` is none of the three.
    """
    places = np.asarray(coordinates, dtype=np.float64)
    if places.ndim != 2 or places.shape[1] != 2:
        raise InputError(f"coordinates: shape {places.shape}; expected (n_cells, 2)")
    types = np.asarray(cell_types, dtype=np.str_)
    made = np.asarray(generated, dtype=bool)
    same_length(coordinates=places, cell_types=types, generated=made)
    ax = axes_or_new(ax)
    if show == "overlay":
        _scatter(ax, places[~made], REAL, "real", alpha=0.55)
        _scatter(ax, places[made], GENERATED, "generated", alpha=0.55)
    elif show in ("real", "generated"):
        shown = made if show == "generated" else ~made
        _scatter(ax, places[~shown], BACKGROUND, None, alpha=0.4)
        _by_type(ax, places[shown], types[shown], colours or label_colours(types))
    else:
        raise UsageError(f"show={show!r}; expected 'overlay', 'real' or 'generated'")
    _map_frame(ax, places)
    if show == "overlay":
        legend(ax, "upper left", marker_scale=2.5)
    else:
        _name_types(ax, places[shown], types[shown])
    return ax


def _scatter(
    ax: Axes, places: NDArray[np.float64], colour: str, label: str | None, alpha: float
) -> None:
    ax.scatter(
        places[:, 0],
        places[:, 1],
        s=_SIZE,
        color=colour,
        alpha=alpha,
        linewidths=0,
        label=label,
        # Thousands of points: an image inside the drawing, axes and text stay vectors.
        rasterized=True,
    )


def _by_type(
    ax: Axes,
    places: NDArray[np.float64],
    types: NDArray[np.str_],
    colours: Mapping[str, str],
) -> None:
    names, counts = np.unique(types, return_counts=True)
    # Rare types last, so that they lie on top and can be seen.
    for name in names[np.argsort(-counts, kind="stable")]:
        label = str(name)
        _scatter(ax, places[types == name], colour_of(label, colours), label, alpha=0.85)


def _map_frame(ax: Axes, places: NDArray[np.float64]) -> None:
    """Set equal limits for every view of the same cells; the scale of a map says nothing."""
    finite = places[np.isfinite(places).all(axis=1)]
    if len(finite):
        low, high = finite.min(axis=0), finite.max(axis=0)
        margin = 0.08 * np.maximum(high - low, 1e-9)
        ax.set_xlim(low[0] - margin[0], high[0] + margin[0])
        ax.set_ylim(low[1] - margin[1], high[1] + margin[1])
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlabel("UMAP 1 (no unit)")
    ax.set_ylabel("UMAP 2 (no unit)")
    quiet(ax)


def _name_types(ax: Axes, places: NDArray[np.float64], types: NDArray[np.str_]) -> None:
    """Write each type above its cells, the commonest first, no name over another."""
    from matplotlib.patheffects import withStroke

    figure = ax.get_figure(root=True)
    if figure is not None:
        figure.draw_without_rendering()  # lays the axes out, so that sizes of names are known
    names, counts = np.unique(types, return_counts=True)
    taken: list[Bbox] = []
    for name in names[np.argsort(-counts, kind="stable")]:
        cells = places[types == name]
        text = ax.annotate(
            str(name),
            (0.0, 0.0),
            xytext=(0.0, 0.0),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=INK,
            parse_math=False,
            path_effects=[withStroke(linewidth=2.4, foreground=PAPER)],
        )
        if not _place(text, cells, taken):
            text.remove()


def _place(text: Annotation, cells: NDArray[np.float64], taken: list[Bbox]) -> bool:
    """Try above the cells, below, a line further each, then on them; False if nothing is free."""
    x = float(np.median(cells[:, 0]))
    low, middle, high = (float(y) for y in np.quantile(cells[:, 1], (0.05, 0.5, 0.95)))
    for y, points in ((high, 4), (low, -11), (high, 14), (low, -21), (middle, -3)):
        text.xy, text.xyann = (x, y), (0, points)
        box = text.get_window_extent()
        if not any(box.overlaps(other) for other in taken):
            taken.append(box)
            return True
    return False
