"""What an evaluation found: the table, what was left out, and files of both."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from c2s.common.errors import InputError, listing
from c2s.common.files import json_able
from c2s.encoders.base import CellEncoder
from c2s.evaluate.measures import MEASURES
from c2s.evaluate.wording import standing

#: Columns of the table with numbers that may be undefined.
NUMBERS = ("value", "low", "high", "difference", "difference_low", "difference_high")

#: Facts that must be equal for figures of two evaluations to be compared.
_SAME = {
    "top_k": "other sentence lengths",
    "genes_measured": "other genes (those that real and generated cells share)",
    "encoder": "other encoders",
    "real_cells": "other real cells",
    "by": "other labels",
    "control": "another control",
    "inverse": "other lines from rank to expression",
    "paired": "pairs in one only",
    "n_splits": "other numbers of halves",
    "seed": "other seeds",
}


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes
    ----------
    table
        A row a figure: `scope` ("condition", "mean" over conditions, "together": all conditions as one sample),
        `condition`, a column for each label, `candidate`, `metric`, `value`, `low`, `high` (95 % interval),
        `difference` from the generated cells' value (with `difference_low`, `difference_high`), `n_cells` on each
        side, `n_conditions`.
    left_out
        What was not measured and why: `condition`, `candidate`, `metric`, `reason`; an empty field means all.
    facts
        JSON-able: settings, numbers of cells, the encoder by content hash, the form of generated sentences, the check
        for memorising, notes.
    nearest
        Distances to the nearest training cell: "generated" and "real", float64 arrays. Empty without training cells.
    places
        First two dimensions of all cells: `x`, `y`, `cells` ("real" or "generated"), `condition`.
    encoder
        Makes the space; give it to the next evaluation that is to be compared with this one.
    """

    table: pd.DataFrame
    left_out: pd.DataFrame
    facts: dict[str, Any]
    nearest: dict[str, np.ndarray] = field(default_factory=dict)
    places: pd.DataFrame = field(default_factory=pd.DataFrame)
    encoder: CellEncoder | None = None

    def value(
        self, metric: str, candidate: str = "generated", scope: str = "mean", condition: str = ""
    ) -> float:
        """Return one figure; NaN where it was left out."""
        rows = self.table
        chosen = rows[
            (rows["scope"] == scope)
            & (rows["condition"] == condition)
            & (rows["candidate"] == candidate)
            & (rows["metric"] == metric)
        ]
        return float(chosen["value"].iloc[0]) if len(chosen) else float("nan")

    def summary(self, scope: str = "mean") -> pd.DataFrame:
        """Return a row a metric, a column a candidate: values of one scope.

        The column `standing` says in words how the generated cells stand; see `c2s.evaluate.wording.standing`.
        """
        rows = self.table[self.table["scope"] == scope]
        wide = rows.pivot(index="metric", columns="candidate", values="value")
        order = [m for m in MEASURES if m in wide.index]
        wide = wide.loc[order, [c for c in rows["candidate"].unique() if c in wide.columns]]
        wide.columns.name = None
        wide["standing"] = [standing(rows[rows["metric"] == metric]).text for metric in order]
        return wide

    def to_dict(self) -> dict[str, Any]:
        """Return facts, table and what was left out, as JSON can hold them; undefined numbers are None."""
        return {
            **json_able(self.facts),
            "table": json_able(self.table.to_dict("records")),
            "left_out": json_able(self.left_out.to_dict("records")),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evaluation:
        """Restore what `to_dict` gave; pictures need the arrays, which are not in it."""
        facts = {k: v for k, v in values.items() if k not in ("table", "left_out")}
        table = pd.DataFrame(values["table"])
        lacking = {"scope", "condition", "candidate", "metric", *NUMBERS} - set(table.columns)
        unknown = [] if lacking else sorted(set(table["metric"]) - set(MEASURES))
        if lacking or unknown:
            raise ValueError(f"unexpected table: {listing(sorted(lacking) or unknown, 3)}")
        for column in table.columns:
            if column in NUMBERS:
                table[column] = pd.to_numeric(table[column])
        left_out = pd.DataFrame(
            values["left_out"], columns=["condition", "candidate", "metric", "reason"]
        )
        return cls(table, left_out, facts)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Evaluation:
        """Read the `evaluation.json` of a folder that `c2s evaluate` wrote.

        Raises
        ------
        InputError
            There is none, or it is damaged.
        """
        file = Path(path)
        file = file / "evaluation.json" if file.is_dir() else file
        try:
            return cls.from_dict(json.loads(file.read_text("utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{file}: cannot be read as an evaluation ({type(error).__name__}: {error})"
            ) from error


def compare_evaluations(evaluations: Mapping[str, Evaluation], scope: str = "mean") -> pd.DataFrame:
    """Put the generated cells of several models into one table.

    Parameters
    ----------
    evaluations
        By name of the model.
    scope
        As in `Evaluation.table`.

    Returns
    -------
    DataFrame
        A row a metric and model, with floors and ceiling of the first one: `metric`, `model`, `value`, `low`, `high`.

    Raises
    ------
    InputError
        They come from different encoders, real cells or settings, so that their figures mean different things.
    """
    _require_same(evaluations)
    first = next(iter(evaluations.values()))
    parts = [
        each.table[(each.table["candidate"] == "generated")].assign(model=name)
        for name, each in evaluations.items()
    ]
    _require_same_sizes(pd.concat(parts))
    others = first.table[first.table["candidate"] != "generated"]
    table = pd.concat([*parts, others.assign(model=others["candidate"])])
    table = table[table["scope"] == scope]
    order = {name: i for i, name in enumerate(MEASURES)}
    table = table.sort_values("metric", key=lambda m: m.map(order), kind="stable")
    return table[["metric", "model", "value", "low", "high", "n_cells"]].reset_index(drop=True)


def _require_same(evaluations: Mapping[str, Evaluation]) -> None:
    names: Sequence[str] = list(evaluations)
    if not names:
        raise InputError("no evaluation was given to compare")
    first = evaluations[names[0]].facts
    for name in names[1:]:
        other = evaluations[name].facts
        for key, what in _SAME.items():
            if first.get(key) != other.get(key):
                raise InputError(
                    f"{names[0]} and {name} cannot be compared: {what} ({key} is {first.get(key)!r} and "
                    f"{other.get(key)!r}); evaluate the second with --like FOLDER of the first"
                )


def _require_same_sizes(generated: pd.DataFrame) -> None:
    """Refuse figures on different numbers of cells: scFID and others grow as cells get fewer."""
    for (scope, condition, metric), rows in generated.groupby(["scope", "condition", "metric"]):
        if rows["n_cells"].nunique() > 1:
            found = ", ".join(f"{r.model} {r.n_cells:,}" for r in rows.itertuples())
            raise InputError(
                f"figures on different numbers of cells cannot be compared: {metric} of {condition or scope} is on "
                f"{found} cells on each side; generate as many cells of each condition with every model"
            )
