"""Progress of a run in stages, and the table that closes the demo."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from c2s.common.progress import progress_bar


class Stages:
    """Draws one progress bar a stage; a line a stage where standard error is no terminal."""

    def __init__(self) -> None:
        self._open = ExitStack()

    def __enter__(self) -> Stages:
        return self

    def __call__(self, name: str, total: int) -> Callable[[int], None]:
        """Begin a stage; return what is told of finished steps."""
        self._open.close()
        if not sys.stderr.isatty():
            print(f"{name} …", file=sys.stderr, flush=True)
        return self._open.enter_context(progress_bar(name, total, "steps"))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()


def demo_table(metrics: dict[str, Any], out: Path) -> None:
    """Print the short table that closes `c2s demo`."""
    from rich.console import Console
    from rich.table import Table

    annotation, generation = metrics["annotation"], metrics["generation"]
    baselines = annotation["baselines"]
    independent = generation["baselines"]["independent"]
    console = Console()

    table = Table(
        title=f"Annotation of {annotation['n_test']} held-out cells", title_justify="left"
    )
    for column in ("", "accuracy", "macro F1"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("c2s model", _percent(annotation["accuracy"]), _number(annotation["macro_f1"]))
    table.add_row("logistic regression", *_pair(baselines["logistic_regression"]))
    table.add_row("nearest neighbours", *_pair(baselines["knn"]))
    console.print(table)

    table = Table(
        title=f"{generation['n_cells']} generated cells against held-out cells",
        title_justify="left",
    )
    for column in ("", "c2s model", "independent", "ceiling"):
        table.add_column(column, justify="left" if not column else "right")
    for name, label in (
        ("scfid", "scFID ↓"),
        ("energy_distance", "energy distance ↓"),
        ("mmd2", "MMD² ↓"),
        ("c2st", "two-sample test → 0.5"),
    ):  # fmt: skip
        table.add_row(
            label,
            *(
                _number(v)
                for v in (generation[name], independent[name], generation[f"{name}_ceiling"])
            ),
        )
    table.add_row(
        "nearest training cell (real: " + _number(generation["nearest_training_distance_real"]) + ")",
        _number(generation["nearest_training_distance"]), _number(independent["nearest_training_distance"]), "",
    )  # fmt: skip
    console.print(table)
    console.print(
        f"genes valid {_percent(generation['valid_fraction'])}, none twice {_percent(generation['unique_fraction'])}, "
        f"exactly {generation['top_k']} {_percent(generation['exact_k_fraction'])}; {metrics['seconds']:.0f} seconds",
        highlight=False,
    )
    console.print(f"Report: {(out / 'report.html').resolve()}", highlight=False, soft_wrap=True)


def _pair(row: dict[str, float]) -> tuple[str, str]:
    return _percent(row["accuracy"]), _number(row["macro_f1"])


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
