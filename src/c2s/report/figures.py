"""The figures of the demo's report, drawn by `c2s.plots`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from c2s.plots import (
    confusion_matrix,
    distance_histogram,
    label_colours,
    loss_curves,
    rank_expression,
    reliability,
    umap_real_generated,
)
from c2s.plots.style import MUTED
from c2s.report.svg import to_svg
from c2s.report.wording import DASH, at, finite

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from c2s.report.demo import DemoResults

View = Literal["real", "generated", "overlay"]


def drawings(results: DemoResults) -> dict[str, Markup | None]:
    """Return every figure of the report as inline SVG, None where there is nothing to draw."""
    drawn: dict[str, Markup | None] = {}
    for view in get_args(View):
        axes = _umap(results, view, None) if _has_umap(results) else None
        drawn[f"umap_{view}"] = _svg(axes, f"umap-{view}", f"UMAP, {view} cells")
    for name, title, draw in _SINGLE:
        drawn[name] = _svg(draw(results, None), name, title)
    return drawn


def cell_type_colours(results: DemoResults) -> dict[str, str]:
    """Return the colour of each cell type in the maps of the report."""
    return label_colours(np.asarray(results.umap_type, dtype=np.str_)) if _has_umap(results) else {}


def overview(results: DemoResults) -> Figure:
    """Return the map, the confusion matrix and the rank fit side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 4.4), layout="constrained", facecolor="white")
    axes = figure.subplots(1, 3, width_ratios=(1.0, 1.1, 1.1))
    panels: list[tuple[str, Callable[[Axes], Axes | None]]] = [
        (
            "Generated cells on real cells (grey)",
            lambda ax: _umap(results, "generated", ax) if _has_umap(results) else None,
        ),
        ("Annotation of held-out cells", lambda ax: _confusion(results, ax)),
        ("Expression against rank", lambda ax: _rank(results, ax)),
    ]
    # From right to left: names are placed on the map when the room that others take is known.
    for ax, (title, draw) in reversed(list(zip(axes, panels, strict=True))):
        ax.set_title(title, loc="left", fontsize=11, fontweight="bold")
        if draw(ax) is None:
            ax.set_axis_off()
            ax.text(0.5, 0.5, DASH, ha="center", va="center", color=MUTED, transform=ax.transAxes)
    return figure


def smoothing(losses: Sequence[Mapping[str, object]]) -> int:
    """Return over how many records training losses are averaged: a fortieth of the longest line."""
    lengths: dict[object, int] = {}
    for record in losses:
        if record.get("split") == "train":
            lengths[record.get("task")] = lengths.get(record.get("task"), 0) + 1
    return max(max(lengths.values(), default=0) // 40, 1)


def _svg(axes: Axes | None, name: str, title: str) -> Markup | None:
    if axes is None:
        return None
    figure = axes.get_figure(root=True)
    assert figure is not None  # an Axes that was just drawn on
    return to_svg(figure, name.replace("_", "-"), title)


def _has_umap(results: DemoResults) -> bool:
    parts = (results.umap, results.umap_type, results.umap_generated)
    return all(part is not None for part in parts)


def _umap(results: DemoResults, view: View, ax: Axes | None) -> Axes:
    assert results.umap is not None
    assert results.umap_type is not None
    assert results.umap_generated is not None
    return umap_real_generated(
        results.umap, results.umap_type, results.umap_generated, show=view, ax=ax
    )


def _confusion(results: DemoResults, ax: Axes | None) -> Axes | None:
    if results.confusion is None or len(results.confusion[0]) == 0:
        return None
    return confusion_matrix(*results.confusion, ax=ax)


def _reliability(results: DemoResults, ax: Axes | None) -> Axes | None:
    if results.reliability is None or len(results.reliability) == 0:
        return None
    return reliability(results.reliability, ax=ax)


def _rank(results: DemoResults, ax: Axes | None) -> Axes | None:
    if results.rank_points is None or len(results.rank_points[0]) == 0:
        return None
    return rank_expression(
        *results.rank_points,
        slope=finite(at(results.metrics, "inverse.slope")),
        intercept=finite(at(results.metrics, "inverse.intercept")),
        ax=ax,
    )


def _losses(results: DemoResults, ax: Axes | None) -> Axes | None:
    if not results.losses:
        return None
    return loss_curves(results.losses, window=smoothing(results.losses), ax=ax)


def _nearest(results: DemoResults, ax: Axes | None) -> Axes | None:
    distances = [at(results.nearest, kind) for kind in ("generated", "real")]
    if any(found is None or len(found) == 0 for found in distances):
        return None
    return distance_histogram(*distances, ax=ax)


_SINGLE: tuple[tuple[str, str, Callable[[DemoResults, Axes | None], Axes | None]], ...] = (
    ("confusion", "Confusion matrix of the annotation", _confusion),
    ("reliability", "Accuracy against confidence", _reliability),
    ("nearest", "Histogram of distances to the nearest training cell", _nearest),
    ("rank", "Expression against rank, with the fitted line", _rank),
    ("losses", "Training and validation loss", _losses),
)
