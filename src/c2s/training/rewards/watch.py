"""Measures that were not rewarded, over training: what a policy that games its reward gives away first."""

from __future__ import annotations

import numpy as np

from c2s.cells.ranked import RankedCells
from c2s.metrics import energy_distance, scfid
from c2s.training.rewards.base import RealCells, Rollouts
from c2s.training.rewards.form import validity
from c2s.training.rewards.shares import mean_distance
from c2s.training.rewards.space import CellSpace, placed, shared_genes

#: Of a condition with more real cells, that many evenly spaced ones are looked at: this runs at every logging step.
MOST_REAL = 1000


def watch(
    rollouts: Rollouts,
    real: RealCells | None,
    space: CellSpace | None,
    seen: RealCells | None = None,
) -> dict[str, float]:
    """Measure answers in ways that the reward did not, for the report of a run.

    Parameters
    ----------
    rollouts
        Answers of a step, or of several.
    real
        Real cells; None for tasks without cells, or where there are none.
    space
        As `open_space` gives it; give the one that rewards use, so that cells are placed once. None where there is no
        line from rank to expression: only genes are compared with those of real cells then.
    seen
        The cells that were trained on, where `real` are others; conditions are known by their names.

    Returns
    -------
    dict of float
        What cannot be measured is left out.

        - ``scfid``, ``energy_distance``: of all answers of a condition from its real cells, the mean over conditions.
          Both depend on the number of answers (scFID by its bias): compare steps of equal numbers.
        - ``diversity``: mean pairwise distance within groups, as a share of that of real cells of the condition. About
          1 is right (0.8 to 1.1 for pancreas cells that the components were not fitted on); towards 0 the policy
          collapses.
        - ``unique``: share of answers that no earlier answer of the group equals word for word.
        - ``valid``: share of cells of exactly the asked number of known genes, none twice.
        - ``genes``: mean number of genes of a cell; ``words``: of a text.
        - ``nearest_overlap``: mean share of genes that an answer has in common with the nearest cell of its
          condition that was trained on; ``nearest_overlap_real``: the same of real cells, with others. Far above it,
          cells are copied.
    """
    cells = rollouts.cells
    if cells is None:
        sentences = [text.strip() for text in rollouts.texts]
        words = float(np.mean([len(text.split()) for text in sentences])) if sentences else np.nan
        return _finite({"unique": _unique(rollouts, sentences), "words": words})
    found = {
        "unique": _unique(rollouts, [cells.to_columns(i).tobytes() for i in range(len(cells))]),
        "valid": float(validity(rollouts).mean()) if len(cells) else np.nan,
        "genes": float(cells.lengths.mean()) if len(cells) else np.nan,
    }
    if real is not None:
        found |= _overlaps(rollouts, cells, real, seen)
        if space is not None:
            found |= _beside_real(rollouts, real, space)
    return _finite(found)


def _overlaps(
    rollouts: Rollouts, cells: RankedCells, real: RealCells, seen: RealCells | None
) -> dict[str, float]:
    """Return how near answers, and real cells, are to cells that were trained on: means over conditions."""
    ours, usual = [], []
    for code in np.unique(rollouts.condition):
        rows = np.flatnonzero((rollouts.condition == code) & (cells.lengths > 0))
        trained = _trained_on(real, seen, int(code))
        if len(rows) and len(trained):
            ours.append(float(shared_genes(cells.take(rows), trained).max(axis=1).mean()))
            usual.append(_overlap_of_real(real, seen, int(code)))
    if not ours:
        return {}
    return {
        "nearest_overlap": float(np.mean(ours)),
        "nearest_overlap_real": float(np.nanmean(usual)) if np.isfinite(usual).any() else np.nan,
    }


def _beside_real(rollouts: Rollouts, real: RealCells, space: CellSpace) -> dict[str, float]:
    """Return what the places of real cells are needed for."""
    points = space.places(rollouts)
    there = placed(points)
    rows_by_code: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        rows_by_code.setdefault(name, []).append(value)

    for code in np.unique(rollouts.condition):
        rows = np.flatnonzero(there & (rollouts.condition == code))
        others = _real_rows(real, space, int(code))
        if len(rows) < 2 or len(others) < 2:
            continue
        places = space.real_places(real)[others]
        add("scfid", scfid(places, points[rows]))
        add("energy_distance", energy_distance(places, points[rows]))
    for rows, code in rollouts.groups():
        judged = rows[there[rows]]
        usual = _spread_of_real(real, space, code)
        if len(judged) >= 2 and usual > 0:
            add("diversity", mean_distance(points[judged]) / usual)
    return {name: float(np.mean(values)) for name, values in rows_by_code.items()}


def _real_rows(real: RealCells, space: CellSpace, code: int) -> np.ndarray:
    """Return the real cells of a condition that are looked at."""
    rows = real.rows(code)
    return _thinned(rows[placed(space.real_places(real)[rows])])


def _thinned(rows: np.ndarray) -> np.ndarray:
    """Return `MOST_REAL` evenly spaced ones of more."""
    if len(rows) <= MOST_REAL:
        return rows
    return rows[np.linspace(0, len(rows) - 1, MOST_REAL).astype(np.int64)]


def _spread_of_real(real: RealCells, space: CellSpace, code: int) -> float:
    """Return the mean pairwise distance of real cells of a condition; 0 where there are not two."""

    def compute() -> float:
        rows = _real_rows(real, space, code)
        return mean_distance(space.real_places(real)[rows]) if len(rows) >= 2 else 0.0

    return real.once(("spread", space, code), compute)


def _trained_on(real: RealCells, seen: RealCells | None, code: int) -> RankedCells:
    """Return the cells of a condition of `real` that were trained on; those of `seen` are known by its name."""
    if seen is None:
        return real.cells.take(_thinned(real.rows(code)))
    name = real.conditions[code]
    there = seen.conditions.index(name) if name in seen.conditions else -1
    return seen.cells.take(seen.rows(there))


def _overlap_of_real(real: RealCells, seen: RealCells | None, code: int) -> float:
    """Return the mean over real cells of the share of genes in common with the nearest one trained on, or other one."""

    def compute() -> float:
        cells, trained = real.cells.take(_thinned(real.rows(code))), _trained_on(real, seen, code)
        shared = shared_genes(cells, trained)
        if seen is None:
            np.fill_diagonal(shared, np.nan if len(cells) == 1 else 0)
        return float(shared.max(axis=1).mean())

    return real.once(("overlap", code, seen), compute)


def _unique(rollouts: Rollouts, answers: list[str] | list[bytes]) -> float:
    """Return the share of answers that no earlier one of the group equals."""
    if not len(rollouts):
        return float("nan")
    groups = rollouts.group.tolist()
    return len(set(zip(groups, answers, strict=True))) / len(groups)


def _finite(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if np.isfinite(value)}
