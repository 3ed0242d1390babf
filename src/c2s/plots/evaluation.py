"""Figures of an evaluation: generated cells between floors and ceiling, on a map, and beside training cells.

They have several panels or a height that depends on the data, so each makes and returns a Figure of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from c2s.common.errors import UsageError, listing
from c2s.plots.distances import distance_histogram
from c2s.plots.style import (
    BACKGROUND,
    GENERATED,
    INK,
    MUTED,
    PALETTE,
    REAL,
    label_colours,
    quiet,
    verbatim,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from c2s.evaluate.measures import Measure
    from c2s.evaluate.result import Evaluation

#: Colour and marker of each candidate, in the order of the rows. The shape says it without colour.
CANDIDATE_STYLE: Mapping[str, tuple[str, str]] = {
    "generated": (GENERATED, "o"),
    "ceiling": (REAL, "D"),
    "independent": (PALETTE[2], "s"),
    "control": (PALETTE[3], "^"),
    "mean_shift": (PALETTE[4], "v"),
    "other_donors": (PALETTE[5], "P"),
    "other_ties": (PALETTE[6], "d"),
    "round_trip": (MUTED, "X"),
    "measured": (MUTED, "p"),
}
#: Candidates that tell about the round trip or the ties: they do not set the scale, and stand back.
_ASIDE = ("other_ties", "round_trip", "measured")

_MOST_NAMED = 12  # conditions with a colour of their own on the map
_MANY_ROWS = 60  # from here on, rows are half as high and text is small


def evaluation_bars(evaluation: Evaluation, scope: str = "mean") -> Figure:
    """Draw generated cells, ceiling and floors by metric: a mark with its 95 % interval each.

    Each panel has the scale of the candidates that compete. Candidates that tell about the round trip or about ties
    stand at the edge with their number where they are far off. A dotted line is the ideal value, where it is near.

    Parameters
    ----------
    evaluation
        What `c2s.evaluate.compare.evaluate` found.
    scope
        "mean" over conditions, or "together": all conditions as one sample.

    Returns
    -------
    matplotlib Figure
        A panel a metric, a row a candidate; the arrow of a title says which way is better.

    Raises
    ------
    UsageError
        The evaluation has no figures of that scope.
    """
    from matplotlib.figure import Figure

    from c2s.evaluate.measures import MEASURES
    from c2s.evaluate.wording import TITLES

    rows = evaluation.table[evaluation.table["scope"] == scope]
    metrics = [name for name in MEASURES if name in set(rows["metric"])]
    if scope == "condition" or not metrics:
        raise UsageError(f"scope: found {scope!r}, expected 'mean' or 'together'")
    candidates = [name for name in CANDIDATE_STYLE if name in set(rows["candidate"])]
    width = min(3, len(metrics))
    height = -(-len(metrics) // width)
    figure = Figure(
        figsize=(1.9 + 2.6 * width, height * (0.75 + 0.24 * len(candidates))), layout="constrained"
    )
    grid = figure.subplots(height, width, sharey=True, squeeze=False).ravel()
    for ax, name in zip(grid, metrics, strict=False):
        of_metric = rows[rows["metric"] == name]
        _panel(ax, of_metric.set_index("candidate"), candidates, MEASURES[name])
        part, whole = int(of_metric["n_conditions"].max()), evaluation.facts["n_compared"]
        _titles(ax, MEASURES[name], f"{part:,} of {whole:,} conditions" if part < whole else "")
    for ax in grid[len(metrics) :]:
        ax.set_axis_off()
    grid[0].set_yticks(range(len(candidates)), [TITLES[name] for name in candidates])
    grid[0].set_ylim(len(candidates) - 0.5, -0.5)
    return figure


def evaluation_conditions(evaluation: Evaluation, metric: str) -> Figure:
    """Draw one metric condition by condition: generated cells, ceiling and floors with 95 % intervals.

    Parameters
    ----------
    evaluation
        What `c2s.evaluate.compare.evaluate` found.
    metric
        Name in `c2s.evaluate.measures.MEASURES`.

    Returns
    -------
    matplotlib Figure
        A row a condition, the best generated cells on top, with the number of cells on each side; it grows with the
        number of conditions.

    Raises
    ------
    UsageError
        The metric was measured in no condition.
    """
    from matplotlib.figure import Figure

    from c2s.evaluate.measures import MEASURES
    from c2s.evaluate.wording import TITLES

    rows = evaluation.table[evaluation.table["scope"] == "condition"]
    known = list(dict.fromkeys(rows["metric"]))
    if metric not in known:
        raise UsageError(
            f"metric: {metric!r} was measured in no condition; measured were {listing(known) or 'none'}"
        )
    rows = rows[(rows["metric"] == metric) & ~rows["candidate"].isin(_ASIDE)]
    measure = MEASURES[metric]
    names, cells = _sorted_conditions(rows, measure)
    candidates = [name for name in CANDIDATE_STYLE if name in set(rows["candidate"])]
    many = len(names) > _MANY_ROWS
    row_height = 0.13 if many else 0.26
    figure = Figure(figsize=(7.0, 1.1 + row_height * len(names)), layout="constrained")
    ax = figure.add_subplot()
    at = {name: i for i, name in enumerate(names)}
    # Above one another within the row, so that equal values can be seen.
    shifts = dict(zip(candidates, np.linspace(-0.27, 0.27, len(candidates)), strict=True))
    # From the last to the first: generated cells lie on top.
    for candidate in reversed(candidates):
        own = rows[rows["candidate"] == candidate]
        places = own["condition"].map(at).to_numpy(np.float64) + shifts[candidate]
        _marks(ax, own, places, candidate, TITLES[candidate], size=2.6 if many else 4.0)
    _ideal_line(ax, measure)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlabel(f"{measure.title} ({direction(measure)}); after each name, cells on each side")
    quiet(ax)
    labels = [f"{name} ({n:,})" for name, n in zip(names, cells, strict=True)]
    ax.set_yticks(range(len(names)), labels, fontsize=5.5 if many else 8.5)
    verbatim(ax.get_yticklabels())
    ax.grid(axis="y", color=MUTED, alpha=0.2, linewidth=0.5)
    ax.tick_params(axis="y", length=0)
    handles, words = ax.get_legend_handles_labels()
    figure.legend(
        handles[::-1], words[::-1], loc="outside upper left", ncols=3, frameon=False,
        fontsize=8.5, labelcolor=INK,
    )  # fmt: skip
    return figure


def evaluation_map(evaluation: Evaluation) -> Figure:
    """Draw the first two dimensions of the space: real cells beside generated ones, coloured by condition.

    Parameters
    ----------
    evaluation
        What `c2s.evaluate.compare.evaluate` found; one read from a file has no places of cells.

    Returns
    -------
    matplotlib Figure
        Two panels with the same limits. The twelve conditions with most cells are named, all others are grey.

    Raises
    ------
    UsageError
        The evaluation holds no places, or its space has one dimension.
    """
    from matplotlib.figure import Figure

    places = evaluation.places
    if "y" not in places or not len(places):
        raise UsageError(
            "the evaluation holds no places of cells in two dimensions: one read from a file has none; evaluate anew"
        )
    counts = places["condition"].value_counts()
    named = sorted(counts.index, key=lambda name: (-counts[name], name))[:_MOST_NAMED]
    colours = label_colours(named)
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for ax, kind in zip(panels, ("real", "generated"), strict=True):
        shown = places[places["cells"] == kind]
        _map_panel(ax, shown, colours)
        title = f"{kind.capitalize()} cells ({len(shown):,})"
        ax.set_title(title, loc="left", fontsize=9.5, color=INK)
        ax.set_xlabel("Dimension 1")
        ax.set_xticks([])
        ax.set_yticks([])
        quiet(ax)
    panels[0].set_ylabel("Dimension 2")
    _map_legend(figure, named, colours, len(counts) - len(named))
    return figure


def nearest_training(evaluation: Evaluation) -> Figure:
    """Draw how far generated and held-out real cells are from their nearest training cell.

    Parameters
    ----------
    evaluation
        What `c2s.evaluate.compare.evaluate` found with training cells; one read from a file has no distances.

    Returns
    -------
    matplotlib Figure
        As `distance_histogram`.

    Raises
    ------
    UsageError
        The evaluation holds no distances.
    """
    found = evaluation.nearest
    if not found:
        raise UsageError(
            "the evaluation holds no distances to training cells: evaluate with train=, and draw before it is written"
        )
    ax = distance_histogram(
        found["generated"], found["real"], space=f"space of {evaluation.facts['encoder']}"
    )
    figure = ax.get_figure(root=True)
    assert figure is not None  # an Axes that was just drawn on
    return figure


def direction(measure: Measure) -> str:
    """Return which way is better: "↓ better", "↑ better", or "→ 0.5" for an ideal within the range."""
    metric = measure.metric
    if metric.best == "lower":
        return "↓ better" if metric.ideal == 0 else f"→ {metric.ideal:g}"
    return "↑ better"


def _panel(ax: Axes, rows: pd.DataFrame, candidates: Sequence[str], measure: Measure) -> None:
    """Draw the candidates of one metric, one above the other."""
    known = [name for name in candidates if name in rows.index]
    low, high = _limits(rows.loc[[n for n in known if n not in _ASIDE]])
    for name in known:
        row = rows.loc[[name]]
        y = float(candidates.index(name))
        value = float(row["value"].iloc[0])
        if low <= value <= high or name not in _ASIDE:
            _marks(ax, row, np.array([y]), name, name, size=4.0 if name in _ASIDE else 5.5)
        else:
            _beyond(ax, value, y, right=value > high)
    ax.set_xlim(low, high)
    _ideal_line(ax, measure)
    ax.grid(axis="y", color=MUTED, alpha=0.2, linewidth=0.5)
    quiet(ax)
    ax.tick_params(axis="y", length=0)
    ax.locator_params(axis="x", nbins=4)


def _limits(rows: pd.DataFrame) -> tuple[float, float]:
    """Return the range of values and intervals with a margin."""
    values = rows[["value", "low", "high"]].to_numpy(np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    margin = 0.12 * ((high - low) or abs(high) or 1.0)
    return low - margin, high + margin


def _marks(
    ax: Axes, rows: pd.DataFrame, places: np.ndarray, candidate: str, label: str, size: float
) -> None:
    """Draw values at heights `places` with their intervals, in the style of the candidate."""
    colour, marker = CANDIDATE_STYLE[candidate]
    low, high = rows["low"].to_numpy(np.float64), rows["high"].to_numpy(np.float64)
    ax.hlines(places, low, high, color=colour, linewidth=0.35 * size, alpha=0.75)
    ax.plot(
        rows["value"].to_numpy(np.float64), places, marker, color=colour, markersize=size,
        markeredgewidth=0, label=label,
    )  # fmt: skip


def _beyond(ax: Axes, value: float, y: float, *, right: bool) -> None:
    """Write a value that lies outside the panel at its edge."""
    ax.text(
        0.99 if right else 0.01,
        y,
        f"{value:.3g} →" if right else f"← {value:.3g}",
        transform=ax.get_yaxis_transform(),
        ha="right" if right else "left",
        va="center",
        fontsize=8,
        color=MUTED,
    )


def _ideal_line(ax: Axes, measure: Measure) -> None:
    """Draw the ideal value where it lies within half a panel of what is shown."""
    low, high = ax.get_xlim()
    ideal, span = measure.metric.ideal, high - low
    if low - span / 2 <= ideal <= high + span / 2:
        ax.axvline(ideal, color=MUTED, linewidth=1.0, linestyle=":", zorder=0, label="_ideal")
        margin = 0.03 * span
        ax.set_xlim(min(low, ideal - margin), max(high, ideal + margin))


def _titles(ax: Axes, measure: Measure, second_line: str) -> None:
    ax.set_title(
        f"{measure.title}  {direction(measure)}",
        loc="left",
        fontsize=9.5,
        color=INK,
        pad=14 if second_line else 5,
    )
    ax.text(0, 1.02, second_line, transform=ax.transAxes, fontsize=8, color=MUTED, va="bottom")


def _sorted_conditions(rows: pd.DataFrame, measure: Measure) -> tuple[list[str], list[int]]:
    """Return conditions and their numbers of cells, those with the best generated cells first."""
    generated = rows[rows["candidate"] == "generated"]
    gap = dict(
        zip(
            generated["condition"], (measure.metric.gap(v) for v in generated["value"]), strict=True
        )
    )
    cells = dict(zip(rows["condition"], rows["n_cells"].astype(int), strict=True))
    names = sorted(cells, key=lambda name: (gap.get(name, np.inf), name))
    return names, [cells[name] for name in names]


def _map_panel(ax: Axes, cells: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """Draw cells of named conditions in their colours above all others in grey, the rarest on top."""
    condition = cells["condition"].to_numpy(dtype=np.str_)
    places = cells[["x", "y"]].to_numpy(np.float64)
    for name in (None, *colours):
        chosen = ~np.isin(condition, list(colours)) if name is None else condition == name
        ax.scatter(
            places[chosen, 0],
            places[chosen, 1],
            s=7.0,
            color=BACKGROUND if name is None else colours[name],
            alpha=0.4 if name is None else 0.8,
            linewidths=0,
            label="other conditions" if name is None else name,
            # Thousands of points: an image inside the drawing, axes and text stay vectors.
            rasterized=True,
        )


def _map_legend(
    figure: Figure, named: Sequence[str], colours: Mapping[str, str], n_others: int
) -> None:
    from matplotlib.lines import Line2D

    entries = [(name, colours[name]) for name in named]
    if n_others:
        entries.append((f"{n_others:,} other{'s' * (n_others > 1)}", BACKGROUND))
    handles = [
        Line2D([], [], marker="o", linestyle="", color=colour, markersize=5, label=name)
        for name, colour in entries
    ]
    box = figure.legend(
        handles=handles, loc="outside right upper", frameon=False, fontsize=8.5, labelcolor=INK
    )
    verbatim(box.get_texts())
