"""The folder that `c2s evaluate` leaves."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from c2s.cells.inverse import RankExpressionModel
from c2s.common.files import atomic_directory, refuse_foreign
from c2s.encoders.pca import PCAEncoder
from c2s.evaluate.cell_eval import write_cell_eval
from c2s.evaluate.result import Evaluation
from c2s.plots.evaluation import (
    evaluation_bars,
    evaluation_conditions,
    evaluation_map,
    nearest_training,
)
from c2s.report.evaluation import write_evaluation_report

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure

#: Names of what `write_evaluation` leaves.
WRITTEN = {
    "evaluation.json",
    "table.csv",
    "left_out.csv",
    "report.html",
    "plots",
    "encoder.npz",
    "cell-eval",
}


def write_evaluation(
    out: str | os.PathLike[str],
    evaluation: Evaluation,
    title: str,
    *,
    cell_eval: tuple[AnnData, AnnData] | None = None,
    layer: str | None = None,
) -> None:
    """Write an evaluation to a folder, which appears when everything is complete.

    It holds `evaluation.json` (facts, table, what was left out), `table.csv`, `left_out.csv`, `report.html`, `plots/`,
    with principal components `encoder.npz` (give it to the next evaluation: ``--encoder pca:OUT/encoder.npz``), and if
    wanted `cell-eval/`.

    Parameters
    ----------
    out
        Missing, empty, or an earlier evaluation, which is replaced.
    evaluation
        What was found.
    title
        Of the report.
    cell_eval
        Real and generated cells, for the files that cell-eval reads.
    layer
        Of the real cells, as `evaluate` was given it.

    Raises
    ------
    UsageError
        `out` holds something else; or cell-eval was asked for and the evaluation has no control cells.
    """
    refuse_foreign(Path(out), WRITTEN)
    with atomic_directory(out) as folder:
        evaluation.table.to_csv(folder / "table.csv", index=False)
        evaluation.left_out.to_csv(folder / "left_out.csv", index=False)
        text = json.dumps(evaluation.to_dict(), indent=1, allow_nan=False)
        (folder / "evaluation.json").write_text(text + "\n", "utf-8")
        if isinstance(evaluation.encoder, PCAEncoder):
            evaluation.encoder.save(folder / "encoder.npz")
        (folder / "plots").mkdir()
        for name, figure in _figures(evaluation).items():
            figure.savefig(folder / "plots" / f"{name}.png", dpi=120, bbox_inches="tight")
        write_evaluation_report(folder / "report.html", evaluation, title)
        if cell_eval is not None:
            real, generated = cell_eval
            write_cell_eval(
                folder / "cell-eval",
                real,
                generated,
                by=evaluation.facts["by"],
                control=evaluation.facts["control"],
                inverse=RankExpressionModel.from_dict(evaluation.facts["inverse"]),
                top_k=evaluation.facts["top_k"],
                layer=layer,
                seed=evaluation.facts["seed"],
            )


def _figures(evaluation: Evaluation) -> dict[str, Figure]:
    table = evaluation.table
    scopes = set(table["scope"])
    figures = {
        scope: evaluation_bars(evaluation, scope=scope)
        for scope in ("mean", "together")
        if scope in scopes
    }
    if "y" in evaluation.places:  # a space of one dimension has no map
        figures["map"] = evaluation_map(evaluation)
    for metric in table.loc[table["scope"] == "condition", "metric"].unique():
        figures[f"conditions_{metric}"] = evaluation_conditions(evaluation, metric)
    if evaluation.nearest:
        figures["nearest_training"] = nearest_training(evaluation)
    return figures
