"""The report of `c2s demo`: one HTML file that opens without a network, built only from its input.

`write_report` fills `demo.html` with what `view` words and `figures` draw. To look at a change:
`python tests/report/conftest.py report.html` writes the report of the tests, of invented numbers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from c2s.common.files import atomic_file
from c2s.report import figures, view
from c2s.report.templates import template

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class DemoResults:
    """Everything the report shows. What is None or absent is shown as a dash.

    Parameters
    ----------
    metrics : mapping
        The content of `demo/metrics.json`: `dataset`, `annotation`, `generation`, `inverse`,
        `training`, `seconds`, `seconds_by_stage`, `seed`, `versions`. Fractions are between 0 and
        1, times in seconds.
    confusion : (labels, int array of shape (n_labels, n_labels)), optional
        Held-out cells of true type (row) that were given each predicted type (column).
    umap : float array, shape (n_cells, 2), optional
        Places of real and generated cells on one map.
    umap_type : str array, shape (n_cells,), optional
        Cell type of each, for generated cells the one asked for.
    umap_generated : bool array, shape (n_cells,), optional
        True for generated cells.
    reliability : sequence of (mean confidence, accuracy, n), optional
        Bins of confidence of the annotation.
    rank_points : (float array, float array), each of shape (n_points,), optional
        log10(1 + rank) and normalised expression; a subsample of at most about 20,000 points.
    losses : sequence of mappings, optional
        `step`, `loss` (nats per token), `split` ("train" or "val") and optionally `task`.
    nearest : mapping, optional
        `generated` and `real`: distance of each generated and each held-out real cell to its
        nearest training cell, float arrays of shape (n,).
    examples : sequence of mappings, optional
        `cell_type`, `generated` (genes of one generated cell, highest first) and `real` (the
        commonest top genes of real cells of the type).
    metric_notes : mapping of metric name to mapping
        `description`, `best` ("lower" or "higher") and `ideal` (float). Who wins is told from
        `best`; without it no winner is named.
    recipe : mapping
        What was run, as resolved.
    """

    metrics: Mapping[str, Any]
    confusion: tuple[Sequence[str], NDArray[Any]] | None = None
    umap: NDArray[Any] | None = None
    umap_type: NDArray[Any] | None = None
    umap_generated: NDArray[Any] | None = None
    reliability: Sequence[tuple[float, float, int]] | None = None
    rank_points: tuple[NDArray[Any], NDArray[Any]] | None = None
    losses: Sequence[Mapping[str, Any]] | None = None
    nearest: Mapping[str, NDArray[Any]] | None = None
    examples: Sequence[Mapping[str, Any]] | None = None
    metric_notes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)


def write_report(path: str | os.PathLike[str], results: DemoResults) -> None:
    """Write the report to `path`, whole or not at all.

    Parameters
    ----------
    path : path
        The HTML file; its folder must exist, a file of that name is replaced.
    results : DemoResults
        What to show.

    Raises
    ------
    InputError
        The folder does not exist, or arrays that belong together differ in shape.
    C2SError
        The file cannot be written.
    """
    page = render(results)
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render(results: DemoResults) -> str:
    """Return the report as HTML: no script, nothing loaded from elsewhere, figures inside.

    The same results give the same bytes.

    Raises
    ------
    InputError
        Arrays that belong together differ in shape.
    """
    return template("demo.html").render(page=view.page(results), figures=figures.drawings(results))


def demo_overview(results: DemoResults) -> Figure:
    """Return one wide figure for a README: the map, the confusion matrix and the rank fit.

    Examples
    --------
    >>> demo_overview(results).savefig("demo.png", dpi=150)  # doctest: +SKIP
    """
    return figures.overview(results)
