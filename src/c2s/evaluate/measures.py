"""What is measured between two samples of cells, and how many cells that takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp

from c2s.cells.ranked import RankedCells
from c2s.common.errors import UsageError, listing, nearest
from c2s.metrics import (
    METRICS,
    SCFID_CELLS_PER_DIMENSION,
    Metric,
    c2st,
    kendall_tau_b,
    mmd2,
    overlap,
    pearson,
    spearman,
    wasserstein,
)

#: Fewer cells than this on each side are not measured, whatever a metric allows.
FEWEST_CELLS = 5

#: What a measure looks at: places of cells, mean expression, its difference from control, or sentences in pairs.
Kind = Literal["points", "profile", "response", "sentences"]


@dataclass(frozen=True)
class Candidate:
    """Cells that stand beside the real ones: the generated ones, a floor, a ceiling.

    Attributes
    ----------
    name
        As "generated", "independent", "control".
    condition : int64 array, shape (n_cells,)
        Number of each cell's condition.
    expression : csr_matrix, shape (n_cells, n_genes)
        After the round trip through sentences, over the genes that are measured.
    points : float64 array, shape (n_cells, d)
        Places in the encoder's space.
    sentences
        The ranked cells, or None where cells are looked at without sentences.
    """

    name: str
    condition: np.ndarray
    expression: sp.csr_matrix
    points: np.ndarray
    sentences: RankedCells | None

    def rows(self, code: int) -> np.ndarray:
        """Return the rows of a condition. int64."""
        return np.flatnonzero(self.condition == code)

    def take(self, rows: np.ndarray, name: str, condition: np.ndarray) -> Candidate:
        """Return some of the cells under another name and with other conditions."""
        sentences = None if self.sentences is None else self.sentences.take(rows)
        return Candidate(name, condition, self.expression[rows], self.points[rows], sentences)


@dataclass(frozen=True)
class Sample:
    """Some cells of a candidate; what is looked at is kept, since one sample meets many others."""

    candidate: Candidate
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def points(self) -> np.ndarray:
        """Places. float64, shape (n, d)."""
        return self.candidate.points[self.rows]

    @cached_property
    def mean_expression(self) -> np.ndarray:
        """Mean profile. float64, shape (n_genes,)."""
        return np.asarray(self.candidate.expression[self.rows].mean(axis=0), np.float64).ravel()

    @cached_property
    def sentences(self) -> list[np.ndarray]:
        """Columns of each cell."""
        cells = self.candidate.sentences
        if cells is None:
            raise UsageError(f"{self.candidate.name}: has no sentences")
        return [cells.to_columns(row) for row in self.rows]


@dataclass(frozen=True)
class Setting:
    """What stays the same for all comparisons of a condition.

    Attributes
    ----------
    gamma
        Width of the kernel of MMD², from real cells alone.
    control : float64 array, shape (n_genes,), or None
        Mean profile of the control cells.
    seed
        Of the two-sample test.
    """

    gamma: float | None
    control: np.ndarray | None
    seed: int


@dataclass(frozen=True)
class Measure:
    """A metric with what it is given.

    Attributes
    ----------
    name, title
        Key and heading.
    metric
        Direction, ideal, unit and description.
    kind
        What it looks at.
    compute
        Function of two arrays (or two lists of sentences) and the `Setting`.
    cells_per_dimension
        Fewest cells on each side, in dimensions of the space.
    most_cells
        More cells than this on each side are left out by a random draw; the same for all candidates.
    most_splits
        Random splits that it is measured on, where all would take too long.
    costly
        Takes seconds: measured of all conditions together only, of generated cells, ceiling and floors, with intervals
        over cells.
    """

    name: str
    title: str
    metric: Metric
    kind: Kind
    compute: Callable[[Any, Any, Setting], float]
    cells_per_dimension: int = 0
    most_cells: int = 2000
    most_splits: int = 1000
    costly: bool = False

    def fewest(self, n_dimensions: int, wanted: Mapping[str, int]) -> int:
        """Return the fewest cells on each side; `wanted` gives other numbers than the usual by name."""
        usual = max(self.metric.min_cells, FEWEST_CELLS, self.cells_per_dimension * n_dimensions)
        return max(wanted.get(self.name, usual), self.metric.min_cells)

    def value(self, real: Sample, other: Sample, setting: Setting) -> float:
        """Measure `other` against `real`; NaN where the metric is undefined."""
        if self.kind == "points":
            return self.compute(real.points, other.points, setting)
        if self.kind == "sentences":
            return self.compute(real.sentences, other.sentences, setting)
        return self.compute(real.mean_expression, other.mean_expression, setting)


def _two(function: Callable[..., Any], real: Any, other: Any, setting: Setting) -> float:
    del setting
    return float(function(real, other))


def _mmd2(real: np.ndarray, other: np.ndarray, setting: Setting) -> float:
    return mmd2(real, other, gammas=None if setting.gamma is None else [setting.gamma])


def _c2st(real: np.ndarray, other: np.ndarray, setting: Setting) -> float:
    return c2st(real, other, classifier="forest", seed=setting.seed)


def _overlap(real: list[np.ndarray], other: list[np.ndarray], setting: Setting) -> float:
    del setting
    return float(np.nanmean(overlap(other, real)))


def _response(
    function: Callable[..., Any], real: np.ndarray, other: np.ndarray, setting: Setting
) -> float:
    if setting.control is None:
        return float("nan")
    return float(function(real, other, delta=setting.control))


def _measure(name: str, kind: Kind, compute: Callable[..., float], **more: Any) -> Measure:
    metric = METRICS[name]
    return Measure(name, metric.title, metric, kind, compute, **more)


def _of_response(name: str, function: Callable[..., Any]) -> Measure:
    metric = METRICS[name]
    title = f"{metric.title} of the response"
    return Measure(f"{name}_response", title, metric, "response", partial(_response, function))


def _points(name: str, **more: Any) -> Measure:
    return _measure(name, "points", partial(_two, METRICS[name].function), **more)


MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        _points("scfid", cells_per_dimension=SCFID_CELLS_PER_DIMENSION),
        _points("scfid_unbiased", cells_per_dimension=2 * SCFID_CELLS_PER_DIMENSION),
        _points("energy_distance"),
        _measure("mmd2", "points", _mmd2),
        _points("mmd2_cellot"),
        # Exact transport takes the cube of the number of cells.
        _points("wasserstein", most_cells=500, most_splits=10),
        Measure(
            "wasserstein_1",
            "Wasserstein (W1)",
            METRICS["wasserstein"],
            "points",
            partial(_two, partial(wasserstein, p=1)),
            most_cells=500,
            most_splits=10,
        ),
        _measure("c2st", "points", _c2st, most_cells=1000, most_splits=5, costly=True),
        _measure("pearson", "profile", partial(_two, pearson)),
        _measure("spearman", "profile", partial(_two, spearman)),
        _measure("kendall_tau_b", "profile", partial(_two, kendall_tau_b)),
        _of_response("pearson", pearson),
        _of_response("spearman", spearman),
        _of_response("kendall_tau_b", kendall_tau_b),
        _measure("overlap", "sentences", _overlap),
    )
}
"""Everything that `evaluate` can measure between real cells and others, by name."""

#: Measured unless others are named; the response only where control cells are.
DEFAULT = (
    "scfid",
    "energy_distance",
    "mmd2",
    "wasserstein",
    "pearson",
    "pearson_response",
    "overlap",
)
#: Measured unless others are named, of all conditions together.
DEFAULT_TOGETHER = ("scfid", "energy_distance", "mmd2", "wasserstein", "c2st", "overlap")


def chosen_measures(
    names: list[str] | None, has_control: bool
) -> tuple[list[Measure], list[Measure]]:
    """Return what is measured in each condition, and of all conditions together.

    Raises
    ------
    UsageError
        There is no name, or one that is unknown or needs control cells where none are.
    """
    if names is None:
        single = [MEASURES[n] for n in DEFAULT if has_control or MEASURES[n].kind != "response"]
        return single, [MEASURES[n] for n in DEFAULT_TOGETHER]
    if not names:
        raise UsageError(f"metrics: found none; there are {listing(list(MEASURES), 20)}")
    for name in names:
        if name not in MEASURES:
            raise UsageError(
                f"metrics: {name!r} is unknown; there are {listing(list(MEASURES), 20)}"
                + (f"; did you mean {close[0]!r}?" if (close := nearest(name, MEASURES, 1)) else "")
            )
        if MEASURES[name].kind == "response" and not has_control:
            raise UsageError(
                f"metrics: {name} looks at differences from control cells; say which they are, "
                "as control='perturbation=control'"
            )
    found = [MEASURES[name] for name in dict.fromkeys(names)]
    single = [measure for measure in found if not measure.costly]
    return single, [m for m in found if m.kind in ("points", "sentences")]
