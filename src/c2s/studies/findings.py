"""What a study found, in one form for all kinds: rows, sentences, tables, pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Columns of the tidy table, in order.
COLUMNS = (
    "part", "task", "encoder", "method", "against", "scope", "label", "metric", "value", "low", "high", "n_cells",
    "n_labels",
)  # fmt: skip

#: What a method is called that is the model of the study.
MODEL = "model"


@dataclass(frozen=True)
class Section:
    """A part of the summary.

    Attributes
    ----------
    title
        Its heading.
    paragraphs
        Sentences.
    table
        Rows of text, the first one the heading; empty for none.
    """

    title: str
    paragraphs: Sequence[str] = ()
    table: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class Findings:
    """What was found by one kind of study.

    Attributes
    ----------
    rows
        One figure each, with the fields of `COLUMNS`; fields that are left out are empty.
    sections
        Of the summary.
    facts
        JSON-able.
    left_out
        What was not measured and why: `part`, `method`, `label`, `metric`, `reason`.
    tables
        Further tables to write, by file name.
    figures
        Pictures by file name without suffix.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    left_out: list[dict[str, str]] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        """Return the rows as a table with the columns of `COLUMNS`."""
        return pd.DataFrame(self.rows, columns=list(COLUMNS))

    def value(self, metric: str, method: str, part: str = "test", **fields: str) -> float:
        """Return one figure by its metric, method, part and further fields; NaN where there is none."""
        wanted = {"metric": metric, "method": method, "part": part, "against": "", "label": ""}
        rows = [
            r for r in self.rows if all(r.get(k, "") == v for k, v in (wanted | fields).items())
        ]
        return float(rows[0]["value"]) if rows else float("nan")


def joined(parts: Iterable[Findings]) -> Findings:
    """Return several findings as one."""
    whole = Findings()
    for part in parts:
        whole.rows.extend(part.rows)
        whole.sections.extend(part.sections)
        seconds = {**whole.facts.get("seconds", {}), **part.facts.get("seconds", {})}
        whole.facts.update({**part.facts, "seconds": seconds})
        whole.left_out.extend(part.left_out)
        whole.tables.update(part.tables)
        whole.figures.update(part.figures)
    return whole


def number(value: float | None, digits: int = 3) -> str:
    """Return a number as it stands in a table; "–" where it is undefined."""
    if value is None or not np.isfinite(value):
        return "–"
    if value != 0 and abs(value) < 10 ** (-digits):
        return f"{value:.1e}"
    return f"{value:.{digits}f}"


def with_interval(row: Mapping[str, Any], digits: int = 3) -> str:
    """Return a figure with its interval: "0.981 [0.967, 0.992]"."""
    low, high = row.get("low"), row.get("high")
    value = number(row["value"], digits)
    if low is None or high is None or not np.isfinite([low, high]).all():
        return value
    return f"{value} [{number(low, digits)}, {number(high, digits)}]"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of text as a Markdown table; the first one is the heading."""
    if not rows:
        return ""
    cells = [[" ".join(str(c).split()).replace("|", "\\|") for c in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    rule = "| " + " | ".join("---" for _ in cells[0]) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def interval_figure(rows: Sequence[Mapping[str, Any]], title: str, ideal: float | None) -> Figure:
    """Draw a dot with its interval for each row, by method.

    Parameters
    ----------
    rows
        With `method`, `value`, `low`, `high`.
    title
        Name of the metric with its direction.
    ideal
        Where a perfect result would stand; None for no line.
    """
    from c2s.plots.style import GENERATED, INK, MUTED, axes_or_new, quiet, verbatim

    ax = axes_or_new(None, 5.2, 0.9 + 0.32 * len(rows))
    for y, row in enumerate(rows):
        colour = GENERATED if row["method"] == MODEL else INK
        if row.get("low") is not None and np.isfinite([row["low"], row["high"]]).all():
            ax.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=1.5)
        ax.plot(row["value"], y, "o", color=colour, markersize=5)
    if ideal is not None:
        ax.axvline(ideal, color=MUTED, linewidth=0.8, linestyle=":")
    ax.set_yticks(range(len(rows)), [str(row["method"]) for row in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel(title)
    quiet(ax)
    verbatim(ax.get_yticklabels())
    return cast("Figure", ax.get_figure(root=True))
