"""Floors: cells that take no model to make, in the same round trip as everything else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import scipy.sparse as sp

from c2s.baselines.generation import IndependentResampling
from c2s.cells.ranked import RankedCells
from c2s.common.seeds import generator
from c2s.evaluate.cells import Profiles, RoundTrip
from c2s.evaluate.conditions import Conditions, Control
from c2s.evaluate.measures import Candidate

#: Cells made of each condition at most: twice what a comparison takes.
MOST_CELLS = 4000


class _Sampler(Protocol):
    def fit(self, matrix: sp.csr_matrix, labels: np.ndarray) -> object: ...

    def sample(self, labels: np.ndarray, seed: int) -> sp.csr_matrix: ...


def candidate(name: str, trip: RoundTrip, cells: RankedCells, condition: np.ndarray) -> Candidate:
    """Take ranked cells through the rest of the round trip."""
    expression = trip.expression(cells)
    return Candidate(name, condition, expression, trip.points(expression), cells)


def _ids(name: str, n: int) -> np.ndarray:
    return np.array([f"{name}-{i}" for i in range(n)], dtype=object)


def _written(name: str, trip: RoundTrip, matrix: sp.csr_matrix, condition: np.ndarray) -> Candidate:
    made = Profiles(matrix, trip.genes, _ids(name, matrix.shape[0]), "logged")
    return candidate(name, trip, trip.rank(made), condition)


def resampled(
    trip: RoundTrip,
    source: Profiles,
    labels: np.ndarray,
    wanted: dict[int, int],
    seed: int,
    sampler: _Sampler | None = None,
    name: str = "independent",
) -> Candidate:
    """Make cells of each condition from the margins of `source`: each gene drawn on its own.

    Parameters
    ----------
    trip
        Ranks and places them.
    source
        Cells that the margins are taken from, over the genes of the round trip.
    labels : int64 array, shape (n_cells,)
        Their conditions; −1 for none.
    wanted
        Cells to make of each condition; conditions without cells in `source` are left out.
    seed
        Of the draws.
    sampler
        Another generator of cells with `fit` and `sample`.
    name
        Of the result.
    """
    codes = [c for c, n in wanted.items() if n > 0 and (labels == c).any()]
    used = np.isin(labels, codes)
    condition = np.repeat(
        np.array(codes, dtype=np.int64), [min(wanted[c], MOST_CELLS) for c in codes]
    )
    if len(condition) == 0:
        return _written(
            name, trip, sp.csr_matrix((0, len(trip.genes)), dtype=np.float32), condition
        )
    sampler = sampler or IndependentResampling()
    sampler.fit(source.matrix[used], labels[used].astype(str))
    return _written(name, trip, sampler.sample(condition.astype(str), seed), condition)


def control_rows(
    conditions: Conditions, control: Control, labels: Iterable[tuple[str, ...]]
) -> dict[int, np.ndarray]:
    """Return for each treated condition the rows of the control cells that belong to it."""
    where: dict[tuple[str, ...], list[int]] = {}
    for row, label in enumerate(labels):
        where.setdefault(label, []).append(row)
    treated = np.flatnonzero(conditions.treated(control))
    found = {int(c): where.get(conditions.untreated(int(c), control), []) for c in treated}
    return {c: np.array(rows, dtype=np.int64) for c, rows in found.items() if rows}


def mean_shift(
    trip: RoundTrip,
    control_cells: Profiles,
    control_of: dict[int, np.ndarray],
    training: Profiles,
    training_labels: list[tuple[str, ...]],
    conditions: Conditions,
    control: Control,
    seed: int,
) -> Candidate:
    """Predict that every control cell moves by the mean response seen in training.

    The response of a condition is taken from training cells of the same condition, or, where there are none, is the
    mean response to the same treatment in all other strata (cell types). Where training has neither, no cell is
    made. Expression below 0 is 0.

    Parameters
    ----------
    trip
        Ranks and places them.
    control_cells
        Cells that are moved, over the genes of the round trip.
    control_of
        Their rows by condition.
    training, training_labels
        Training cells over the same genes, and their labels.
    conditions, control
        What the conditions are, and which cells are untreated.
    seed
        Draws control cells where there are more than enough.
    """
    responses = Responses(training, training_labels, conditions, control)
    blocks, condition = [], []
    for code, rows in control_of.items():
        shift = responses.of(code)
        if shift is None:
            continue
        if len(rows) > MOST_CELLS:
            rows = generator(seed, "mean shift", code).permutation(rows)[:MOST_CELLS]
        for start in range(0, len(rows), 512):  # dense over all genes, so not too many at once
            block = control_cells.matrix[rows[start : start + 512]].toarray() + shift
            blocks.append(sp.csr_matrix(np.maximum(block, 0), dtype=np.float32))
        condition.append(np.full(len(rows), code))
    codes = np.concatenate([np.empty(0, np.int64), *condition]).astype(np.int64)
    empty = sp.csr_matrix((0, len(trip.genes)), dtype=np.float32)
    return _written("mean_shift", trip, sp.vstack([empty, *blocks], format="csr"), codes)


class Responses:
    """Mean differences between treated and control cells of a training set.

    Parameters
    ----------
    training
        Cells over the genes of the round trip.
    labels
        One tuple of labels a cell.
    conditions, control
        What the labels mean.
    """

    def __init__(
        self,
        training: Profiles,
        labels: list[tuple[str, ...]],
        conditions: Conditions,
        control: Control,
    ) -> None:
        self.conditions, self.control = conditions, control
        self.at = conditions.by.index(control.column)
        order: dict[tuple[str, ...], list[int]] = {}
        for row, label in enumerate(labels):
            order.setdefault(label, []).append(row)
        self.means = {
            label: np.asarray(training.matrix[rows].mean(axis=0), np.float64).ravel()
            for label, rows in order.items()
        }

    def of(self, code: int) -> np.ndarray | None:
        """Return the mean response of a condition, float64 of shape (n_genes,), or None where training has none."""
        label = self.conditions.values[code]
        own = self._response(label)
        if own is not None:
            return own
        treatment = label[self.at]
        others = [self._response(other) for other in self.means if other[self.at] == treatment]
        known = [response for response in others if response is not None]
        return np.mean(known, axis=0) if known else None

    def _response(self, label: tuple[str, ...]) -> np.ndarray | None:
        untreated = (*label[: self.at], self.control.value, *label[self.at + 1 :])
        if label not in self.means or untreated not in self.means:
            return None
        return self.means[label] - self.means[untreated]
