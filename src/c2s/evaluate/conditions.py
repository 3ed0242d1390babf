"""Conditions: the combinations of labels within which real and generated cells are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from c2s.common.errors import InputError, UsageError, listing, nearest

if TYPE_CHECKING:
    from anndata import AnnData

#: Between the values of a condition, where it is named.
JOINT = " · "


@dataclass(frozen=True)
class Control:
    """Which cells are untreated: those whose `column` holds `value`.

    Attributes
    ----------
    column
        One of the columns that make a condition, as "perturbation".
    value
        Its value in control cells, as "control".
    """

    column: str
    value: str

    @classmethod
    def parse(cls, text: str, by: Sequence[str]) -> Control:
        """Read "perturbation=control".

        Raises
        ------
        UsageError
            There is no "=", or the column is none of `by`.
        """
        column, found, value = (part.strip() for part in text.partition("="))
        if not found or not column or not value:
            raise UsageError(
                f"control: found {text!r}, expected COLUMN=VALUE, as perturbation=control"
            )
        if column not in by:
            raise UsageError(
                f"control: the column {column!r} is none of those that make a condition ({', '.join(by)})"
            )
        return cls(column, value)


@dataclass(frozen=True)
class Conditions:
    """Every combination of labels that real cells have, in sorted order.

    Attributes
    ----------
    by
        Columns of `obs`.
    values
        One tuple of labels a condition, in the order of `by`.
    """

    by: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, real: AnnData, by: Sequence[str]) -> Conditions:
        """Find the conditions of real cells.

        Raises
        ------
        UsageError
            `by` is empty, names a column twice, or one that `obs` lacks.
        InputError
            A label is missing.
        """
        if not by or len(set(by)) != len(by):
            raise UsageError(
                f"by: found {', '.join(by) or 'nothing'}, expected one or more columns of obs, each once"
            )
        labels = condition_labels(real, by, "the real cells")
        return cls(tuple(by), tuple(sorted(set(labels))))

    def __len__(self) -> int:
        return len(self.values)

    def name(self, code: int) -> str:
        """Return a condition as text."""
        return JOINT.join(self.values[code])

    def codes(self, labels: Sequence[tuple[str, ...]]) -> np.ndarray:
        """Return the number of each cell's condition, −1 for one that real cells do not have. int64."""
        code = {value: i for i, value in enumerate(self.values)}
        return np.array([code.get(label, -1) for label in labels], dtype=np.int64)

    def treated(self, control: Control | None) -> np.ndarray:
        """Return which conditions are not the control. bool, shape (n_conditions,)."""
        if control is None:
            return np.ones(len(self), dtype=bool)
        at = self.by.index(control.column)
        return np.array([value[at] != control.value for value in self.values])

    def untreated(self, code: int, control: Control) -> tuple[str, ...]:
        """Return the labels of the control cells that belong to a condition: all other labels are the same."""
        at = self.by.index(control.column)
        value = self.values[code]
        return (*value[:at], control.value, *value[at + 1 :])


def condition_labels(adata: AnnData, by: Sequence[str], what: str) -> list[tuple[str, ...]]:
    """Return each cell's labels as a tuple of text.

    Parameters
    ----------
    adata
        Cells with the columns in `obs`.
    by
        The columns.
    what
        Names the cells in messages.

    Raises
    ------
    UsageError
        `obs` lacks a column.
    InputError
        A label is missing.
    """
    columns = [column_text(adata.obs, name, what) for name in by]
    return list(zip(*columns, strict=True))


def column_text(obs: pd.DataFrame, name: str, what: str) -> list[str]:
    """Return a column of `obs` as text; errors as `condition_labels`."""
    if name not in obs:
        known = [str(column) for column in obs.columns]
        close = nearest(name, known, 1)
        raise UsageError(
            f"{what}: obs has no column {name!r}; it has {listing(known) or 'none'}"
            + (f"; did you mean {close[0]!r}?" if close else "")
        )
    column = obs[name]
    missing = column.isna().to_numpy()
    if missing.any():
        raise InputError(
            f"{what}: obs[{name!r}] is missing for {int(missing.sum()):,} cells (first: "
            f"{obs.index[missing][0]!r}); drop them or name what they are"
        )
    return [str(value) for value in column]
