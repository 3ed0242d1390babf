"""How metrics change with the size of models and the amount of data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from c2s.common.errors import UsageError
from c2s.plots.style import MUTED, PALETTE, legend, quiet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: What curves run along, and the field of a point that says where it lies.
Axis = Literal["size", "data"]
AXES: Mapping[Axis, str] = {"size": "body", "data": "train_samples"}

_LABELS = {"size": "Weights without token tables", "data": "Training samples"}
_WORDS = {
    "loss": "loss (nats per token)",
    "accuracy": "accuracy (%)",
    "overlap": "overlap of genes (%)",
    "bertscore": "BERTScore (%)",
}
#: Marker and line of a method; the shape says it without colour.
_METHODS = {"full": ("o", "-"), "lora": ("^", "--")}


def scaling_curves(
    points: Sequence[Mapping[str, Any]],
    fits: Sequence[Mapping[str, Any]],
    axis: Axis = "size",
) -> Figure:
    """Draw every metric of every task along sizes or data: points with intervals, and fitted power laws with bands.

    Parameters
    ----------
    points, fits
        Those of `results.json` of a scaling study.
    axis
        "size": a curve for each share of the data, by weights; "data": a curve for each size, by training samples.

    Returns
    -------
    matplotlib Figure
        A panel for each task and metric. Points that no law was fitted to are joined by a thin line.

    Raises
    ------
    UsageError
        There are no points.
    """
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((p["task"], p["metric"]) for p in points))
    if not panels:
        raise UsageError("points: there are none to draw")
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns + 0.4, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (task, metric) in zip(axes, panels, strict=False):
        own = [p for p in points if (p["task"], p["metric"]) == (task, metric)]
        laws = [f for f in fits if (f["axis"], f["task"], f["metric"]) == (axis, task, metric)]
        _panel(ax, own, laws, axis)
        ax.set_ylabel(_WORDS.get(metric, metric))
        ax.set_title(task.replace("_", " "))
        ax.set_xlabel(_LABELS[axis])
        quiet(ax)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    legend(axes[0])
    return figure


def _panel(
    ax: Axes, points: Sequence[Mapping[str, Any]], fits: Sequence[Mapping[str, Any]], axis: Axis
) -> None:
    """Draw one metric of one task."""
    place, fixed = AXES[axis], "fraction" if axis == "size" else "size"
    values = list(dict.fromkeys(p[fixed] for p in points))
    colours = {v: PALETTE[i % len(PALETTE)] for i, v in enumerate(values)}
    ax.set_xscale("log")
    for value in values:
        for method, (marker, line) in _METHODS.items():
            own = [p for p in points if p[fixed] == value and p["method"] == method]
            if not own:
                continue
            own.sort(key=lambda p: p[place])
            x, y = [p[place] for p in own], [p["value"] for p in own]
            spread = [[p["value"] - p["low"] for p in own], [p["high"] - p["value"] for p in own]]
            ax.errorbar(
                x, y, yerr=spread, fmt=marker, markersize=4.5, color=colours[value], elinewidth=1.0, capsize=2.0,
                label=_label(value, method, axis),
            )  # fmt: skip
            laws = [f["power"] for f in fits if f[fixed] == value and f["method"] == method]
            if laws and laws[0] is not None:
                curve = laws[0]["curve"]
                ax.plot(curve["x"], curve["y"], line, color=colours[value], linewidth=1.4)
                ax.fill_between(
                    curve["x"], curve["low"], curve["high"], color=colours[value], alpha=0.15, linewidth=0
                )  # fmt: skip
            elif len(own) > 1:
                ax.plot(x, y, line, color=MUTED, linewidth=0.7, zorder=0)


def _label(value: Any, method: str, axis: Axis) -> str:
    """Return what the legend calls a curve."""
    what = f"{value:.0%} of the data" if axis == "size" else str(value)
    return f"{what}, adapter" if method == "lora" else what
