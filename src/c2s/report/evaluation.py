"""The report of an evaluation: one HTML file that opens without a network, built from an `Evaluation` only.

`write_evaluation_report` fills `evaluation.html` with what `evaluation_view` words and `c2s.plots` draws.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from c2s.common.files import atomic_file
from c2s.evaluate.result import Evaluation
from c2s.evaluate.wording import left_out_summary, metric_title
from c2s.plots import (
    evaluation_bars,
    evaluation_conditions,
    evaluation_map,
    nearest_training,
)
from c2s.report import evaluation_view
from c2s.report.svg import to_svg
from c2s.report.templates import template

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["drawings", "left_out_summary", "render_evaluation", "write_evaluation_report"]


def write_evaluation_report(
    path: str | os.PathLike[str], evaluation: Evaluation, title: str = "Generated cells, evaluated"
) -> None:
    """Write the report of an evaluation to `path`, whole or not at all.

    Parameters
    ----------
    path
        The HTML file; its folder must exist, a file of that name is replaced.
    evaluation
        What `c2s.evaluate.compare.evaluate` found. One read from a file has no map and no histogram of distances.
    title
        Heading of the page.

    Raises
    ------
    InputError
        The folder does not exist.
    C2SError
        The file cannot be written.
    """
    page = render_evaluation(evaluation, title)
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render_evaluation(evaluation: Evaluation, title: str) -> str:
    """Return the report as HTML: no script, nothing loaded from elsewhere, figures inside."""
    return template("evaluation.html").render(
        page=evaluation_view.page(evaluation, title), figures=drawings(evaluation)
    )


def drawings(evaluation: Evaluation) -> dict[str, Any]:
    """Return the figures as inline SVG, None where there is nothing to draw; of conditions, one a metric."""
    table = evaluation.table
    scopes = set(table["scope"])
    drawn: dict[str, Any] = {
        scope: to_svg(evaluation_bars(evaluation, scope), f"bars-{scope}", f"Candidates, {scope}")
        if scope in scopes
        else None
        for scope in ("mean", "together")
    }
    return drawn | {
        "conditions": _condition_figures(evaluation),
        "map": _map(evaluation),
        "nearest": to_svg(nearest_training(evaluation), "nearest", "Distances to training cells")
        if evaluation.nearest
        else None,
    }


def _condition_figures(evaluation: Evaluation) -> list[tuple[str, Markup]]:
    """Return a figure for each metric that more than one condition has."""
    rows = evaluation.table[evaluation.table["scope"] == "condition"]
    figures = []
    for metric, of_metric in rows.groupby("metric", sort=False):
        if of_metric["condition"].nunique() > 1:
            name, title = str(metric), metric_title(str(metric))
            figure = evaluation_conditions(evaluation, name)
            figures.append((title, to_svg(figure, f"by-{name}", f"{title} by condition")))
    return figures


def _map(evaluation: Evaluation) -> Markup | None:
    if "y" not in evaluation.places:
        return None
    return to_svg(evaluation_map(evaluation), "map", "Real and generated cells on one map")
