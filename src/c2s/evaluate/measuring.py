"""The measuring itself: values by condition, candidate, metric and split, and the rows of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from c2s.common.errors import InputError, listing
from c2s.common.progress import progress_bar
from c2s.common.seeds import generator
from c2s.evaluate.floors import MOST_CELLS
from c2s.evaluate.measures import FEWEST_CELLS, Measure, Sample, Setting
from c2s.evaluate.prepare import Prepared, left_out
from c2s.evaluate.splits import Resampling, draw, half_of_groups, halves, interval
from c2s.metrics import median_gamma

#: What stands in the table beside the generated cells, in its order.
CANDIDATES = {
    "generated": "generated cells",
    "ceiling": "other real cells of the condition: the noise ceiling",
    "other_ties": "the same real cells, ties drawn anew: the ceiling of the overlap",
    "other_donors": "real cells of other donors: how far donors are apart",
    "independent": "floor: each gene drawn on its own from cells of the condition",
    "control": "floor: control cells as the prediction",
    "mean_shift": "floor: control cells, all moved by the mean response in training",
    "round_trip": "real cells through sentences, against measured expression: the cost of the round trip",
    "measured": "other real cells, both in measured expression: what the round trip is to be compared with",
}

#: Candidates that are of the cells at hand: their intervals are over cells also where donors are drawn.
OF_THESE_CELLS = ("ceiling", "other_ties", "round_trip", "measured")

#: Columns of the table; those of the labels stand behind the second.
COLUMNS = (
    "scope",
    "condition",
    "candidate",
    "metric",
    "value",
    "low",
    "high",
    "difference",
    "difference_low",
    "difference_high",
    "n_cells",
    "n_conditions",
)

#: For each candidate the real cells and its own that are compared.
Pairs: TypeAlias = dict[str, tuple[Sample, Sample]]


class Measurement:
    """The measuring of one evaluation: values by condition, candidate, metric and split."""

    def __init__(
        self,
        *,
        treated: np.ndarray,
        data: Prepared,
        single: list[Measure],
        together: list[Measure],
        wanted: Mapping[str, int],
        resampling: Resampling,
        pairs: np.ndarray | None,
        n_splits: int,
        seed: int,
    ) -> None:
        self.conditions, self.treated, self.data = data.conditions, treated, data
        self.single, self.together, self.wanted = single, together, wanted
        self.resampling, self.pairs = resampling, pairs
        self.n_splits, self.seed = n_splits, seed
        self.left_out: list[dict[str, str]] = list(data.missing)
        # A label may be called as a column of the table is, "condition" above all.
        self.label_columns = [
            f"{name}_label" if name in COLUMNS else name for name in data.conditions.by
        ]
        self.settings: dict[int | None, Setting] = {}
        self.real_rows = [data.real.rows(c) for c in range(len(data.conditions))]
        self.size = [
            min(len(rows), len(data.generated.rows(c)), MOST_CELLS) // 2
            for c, rows in enumerate(self.real_rows)
        ]
        self.compared = [c for c in range(len(data.conditions)) if treated[c] and self.size[c] >= 1]
        self.donor_size = self._donor_sizes() if resampling.of == "donors" else {}
        self._name_what_is_not_compared()

    def _donor_sizes(self) -> dict[int, int]:
        """Return how many cells of each condition are compared between halves of the donors.

        One number for all halves, since distances grow as cells get fewer: what three quarters of the halves have on
        either side.
        """
        sizes = {}
        for c in self.compared:
            groups = self.resampling.groups[self.real_rows[c]]
            found = []
            for split in range(self.n_splits):
                chosen = half_of_groups(len(self.resampling.names), self.seed, split)
                inside = int(np.isin(groups, chosen).sum())
                found.append(min(inside, len(groups) - inside, self.size[c]))
            sizes[c] = int(np.quantile(found, 0.25, method="lower"))
        return sizes

    def _name_what_is_not_compared(self) -> None:
        for c in np.flatnonzero(self.treated).tolist():
            real, made = len(self.real_rows[c]), len(self.data.generated.rows(c))
            if self.size[c] == 0:
                reason = (
                    f"{real:,} real and {made:,} generated cells; at least 2 of each are needed"
                )
                self.left_out.append(left_out(self.conditions.name(c), "", "", reason))
        unknown = int((self.data.generated.condition == -1).sum())
        if unknown:
            reason = f"{unknown:,} generated cells are of conditions that no real cell has"
            self.left_out.append(left_out("", "generated", "", reason))
        if not self.compared:
            known = [self.conditions.name(int(c)) for c in np.flatnonzero(self.treated)]
            raise InputError(
                f"no condition has at least 2 real and 2 generated cells; real cells are of {listing(known, 5)}"
            )

    def table(self) -> pd.DataFrame:
        """Measure everything."""
        names = list(CANDIDATES)
        shape = (len(self.conditions), len(names), len(self.single), self.n_splits)
        cells = np.full(shape, np.nan)
        pooled = np.full((len(names), len(self.together), self.n_splits), np.nan)
        by_donor = self.resampling.of == "donors"
        donors = np.full(shape, np.nan) if by_donor else None
        pooled_donors = np.full(pooled.shape, np.nan) if by_donor else None
        total = self.n_splits * (len(self.compared) + 1) * (1 + by_donor)
        with progress_bar("Measuring", total, "comparisons") as progress:
            for s in range(self.n_splits):
                self._measure_split(s, names, None, cells, pooled, progress)
                if donors is not None and pooled_donors is not None:
                    chosen = half_of_groups(len(self.resampling.names), self.seed, s)
                    self._measure_split(s, names, chosen, donors, pooled_donors, progress)
        self._name_what_was_too_small()
        rows = self._condition_rows(names, cells, donors)
        rows += self._mean_rows(names, cells, donors)
        rows += self._together_rows(names, pooled, pooled_donors)
        return pd.DataFrame(rows, columns=[*COLUMNS[:2], *self.label_columns, *COLUMNS[2:]])

    def _measure_split(
        self,
        split: int,
        names: list[str],
        donors: np.ndarray | None,
        cells: np.ndarray,
        pooled: np.ndarray,
        progress: Callable[[int], None],
    ) -> None:
        """Write the values of one split into `cells` and `pooled`; halves of `donors` are compared where given."""
        pairs = {c: self._pairs_of(c, split, donors) for c in self.compared}
        for c in self.compared:
            cells[c, :, :, split] = self._condition(c, pairs[c], split, names, donors)
            progress(1)
        pooled[:, :, split] = self._together(list(pairs.values()), split, names, donors)
        progress(1)

    # -- samples ---------------------------------------------------------------------------------------------------

    def _pairs_of(self, c: int, split: int, donors: np.ndarray | None) -> Pairs:
        """Return for each candidate the real cells and its own that are compared in one split."""
        data, n = self.data, self.size[c]
        rows = self.real_rows[c]
        if donors is None:
            first, second = halves(rows, n, self.seed, split, c)
        else:
            n = self.donor_size[c]
            inside = np.isin(self.resampling.groups[rows], donors)
            first, _ = halves(rows[inside], n, self.seed, split, c)
            second = draw(rows[~inside], n, self.seed, split, c, "other donors")
            if min(len(first), len(second)) < n:
                return {}
        truth = Sample(data.real, first)
        found: Pairs = {}
        for other in (data.generated, *data.floors):
            drawn = draw(other.rows(c), n, self.seed, split, c, other.name)
            if len(drawn) == n > 0:
                found[other.name] = (truth, Sample(other, drawn))
        if donors is not None:
            if n:
                found["other_donors"] = (truth, Sample(data.real, second))
            return found
        found["ceiling"] = (truth, Sample(data.real, second))
        found["other_ties"] = (truth, Sample(data.other_ties, first))
        found["round_trip"] = (Sample(data.plain, first), Sample(data.real, second))
        found["measured"] = (Sample(data.plain, first), Sample(data.plain, second))
        return found

    def _in_pairs(self, truth: Sample, other: Sample) -> tuple[Sample, Sample]:
        """Return generated cells beside the real cells of the same names, where pairs are wanted."""
        if self.pairs is None or other.candidate is not self.data.generated:
            return truth, other
        mate = self.pairs[truth.rows]
        kept = mate >= 0
        return Sample(truth.candidate, truth.rows[kept]), Sample(other.candidate, mate[kept])

    # -- values ----------------------------------------------------------------------------------------------------

    def _condition(
        self, c: int, found: Pairs, split: int, names: list[str], donors: np.ndarray | None
    ) -> np.ndarray:
        """Return the values of one condition and split. float64, shape (n_candidates, n_measures)."""
        values = np.full((len(names), len(self.single)), np.nan)
        setting = self._setting(c)
        for name, (truth, other) in found.items():
            for m, measure in enumerate(self.single):
                if split < measure.most_splits and _fits(name, measure, donors):
                    values[names.index(name), m] = self._value(measure, truth, other, setting)
        return values

    def _together(
        self, found: list[Pairs], split: int, names: list[str], donors: np.ndarray | None
    ) -> np.ndarray:
        """Return the values of all conditions together. float64, shape (n_candidates, n_measures)."""
        parts: dict[str, list[tuple[Sample, Sample]]] = {}
        for of_condition in found:
            for name, pair in of_condition.items():
                parts.setdefault(name, []).append(pair)
        n_parts = sum(map(bool, found))
        values = np.full((len(names), len(self.together)), np.nan)
        for name, pairs in parts.items():
            if len(pairs) < n_parts:
                continue  # of another mixture of conditions than the rest
            truth, other = _joined([p[0] for p in pairs]), _joined([p[1] for p in pairs])
            for m, measure in enumerate(self.together):
                if split < measure.most_splits and _fits(name, measure, donors):
                    values[names.index(name), m] = self._value(
                        measure, truth, other, self._setting(None), shuffle=split
                    )
        return values

    def _value(
        self,
        measure: Measure,
        truth: Sample,
        other: Sample,
        setting: Setting,
        shuffle: int | None = None,
    ) -> float:
        if measure.kind == "sentences":
            truth, other = self._in_pairs(truth, other)
        if len(truth) < measure.fewest(self.data.trip.space.n_dimensions, self.wanted):
            return float("nan")
        if len(truth) > measure.most_cells:
            order = generator(self.seed, "most cells", shuffle or 0).permutation(len(truth))
            order = order[: measure.most_cells]
            truth = Sample(truth.candidate, truth.rows[order])
            other = Sample(other.candidate, other.rows[order])
        return measure.value(truth, other, setting)

    def _setting(self, c: int | None) -> Setting:
        """Return what stays the same within a condition, or for all of them together."""
        if c not in self.settings:
            rows = self.real_rows[c] if c is not None else np.concatenate(
                [self.real_rows[k] for k in self.compared]
            )  # fmt: skip
            points = self.data.real.points[draw(rows, 2000, self.seed, 0, 0, "kernel")]
            untreated = None if c is None else self.data.control.get(c)
            mean = None if untreated is None else Sample(self.data.real, untreated).mean_expression
            gamma = None if len(points) < 2 or (points == points[0]).all() else median_gamma(points)
            self.settings[c] = Setting(gamma, mean, self.seed)
        return self.settings[c]

    # -- rows of the table -----------------------------------------------------------------------------------------

    def _name_what_was_too_small(self) -> None:
        floors = {floor.name: floor for floor in self.data.floors}
        for c in self.compared:
            condition, n = self.conditions.name(c), self.size[c]
            for name, floor in floors.items():
                if (have := len(floor.rows(c))) < n:
                    reason = f"{have:,} cells of it, {n:,} are compared"
                    self.left_out.append(left_out(condition, name, "", reason))
            for measure in self.single:
                need = measure.fewest(self.data.trip.space.n_dimensions, self.wanted)
                if n < need:
                    reason = f"{n:,} cells on each side, {need:,} are needed"
                    self.left_out.append(left_out(condition, "", measure.name, reason))
                elif measure.kind == "response" and c not in self.data.control:
                    reason = "no control cell has the same other labels"
                    self.left_out.append(left_out(condition, "", measure.name, reason))
            if self.donor_size.get(c, FEWEST_CELLS) < FEWEST_CELLS:
                reason = (
                    f"{self.donor_size[c]:,} cells in halves of the donors; no interval over donors"
                )
                self.left_out.append(left_out(condition, "other_donors", "", reason))
        n_cells = sum(self.size[c] for c in self.compared)
        for measure in self.together:
            need = measure.fewest(self.data.trip.space.n_dimensions, self.wanted)
            if n_cells < need:
                reason = (
                    f"all conditions together: {n_cells:,} cells on each side, {need:,} are needed"
                )
                self.left_out.append(left_out("", "", measure.name, reason))

    def _row(self, scope: str, c: int | None, name: str, measure: Measure) -> dict[str, Any]:
        labels = self.conditions.values[c] if c is not None else ("",) * len(self.conditions.by)
        return {
            "scope": scope,
            "condition": "" if c is None else self.conditions.name(c),
            **dict(zip(self.label_columns, labels, strict=True)),
            "candidate": name,
            "metric": measure.name,
        }

    def _condition_rows(
        self, names: list[str], cells: np.ndarray, donors: np.ndarray | None
    ) -> list[dict[str, Any]]:
        rows = []
        for c in self.compared:
            groups = len(np.unique(self.resampling.groups[self.real_rows[c]]))
            for k, name in enumerate(names):
                for m, measure in enumerate(self.single):
                    figure = self._figures(
                        cells[c, :, m],
                        k,
                        2 * self.size[c],
                        self._by_donor(donors, c, name, m, measure),
                        groups,
                    )
                    if figure is not None:
                        row = self._row("condition", c, name, measure)
                        n_cells = self._cells_of(c, name)
                        rows.append(row | figure | {"n_cells": n_cells, "n_conditions": 1})
        return rows

    def _cells_of(self, c: int, name: str) -> int:
        return self.donor_size[c] if name == "other_donors" else self.size[c]

    def _by_donor(
        self,
        donors: np.ndarray | None,
        where: int | list[int] | None,
        name: str,
        m: int,
        measure: Measure,
    ) -> np.ndarray | None:
        """Return values of halves of the donors, (…, n_candidates, n_splits), where intervals are over donors."""
        if donors is None or name in OF_THESE_CELLS or measure.costly:
            return None
        return donors[:, m] if where is None else donors[where, :, m]

    def _mean_rows(
        self, names: list[str], cells: np.ndarray, donors: np.ndarray | None
    ) -> list[dict[str, Any]]:
        rows = []
        for k, name in enumerate(names):
            for m, measure in enumerate(self.single):
                source = donors if donors is not None and name == "other_donors" else cells
                known = [c for c in self.compared if np.isfinite(source[c, k, m]).any()]
                if not known:
                    continue
                n_cells = sum(self._cells_of(c, name) for c in known)
                figure = self._mean_figures(cells, donors, known, k, m)
                if figure is not None:
                    row = self._row("mean", None, name, measure)
                    rows.append(row | figure | {"n_cells": n_cells, "n_conditions": len(known)})
        return rows

    def _mean_figures(
        self, cells: np.ndarray, donors: np.ndarray | None, known: list[int], k: int, m: int
    ) -> dict[str, float] | None:
        """Return the mean of candidate `k` over conditions, with what intervals of means are over."""
        if self.resampling.of == "conditions":
            means = _mean(cells[known, :, m], axis=2)
            between = self._over_conditions(means[:, k] - means[:, 0], known)
            return self._over_conditions(means[:, k], known) | _as_difference(between, k)
        name = list(CANDIDATES)[k]
        by_donor = self._by_donor(donors, known, name, m, self.single[m])
        return self._figures(
            _mean_of_splits(cells[known, :, m]),
            k,
            2 * sum(self.size[c] for c in known),
            None if by_donor is None else _mean_of_splits(by_donor),
            len(self.resampling.names),
        )

    def _together_rows(
        self, names: list[str], pooled: np.ndarray, donors: np.ndarray | None
    ) -> list[dict[str, Any]]:
        n_cells = sum(self.size[c] for c in self.compared)
        rows = []
        for k, name in enumerate(names):
            for m, measure in enumerate(self.together):
                figure = self._figures(
                    pooled[:, m],
                    k,
                    2 * n_cells,
                    self._by_donor(donors, None, name, m, measure),
                    len(self.resampling.names),
                )
                if figure is not None:
                    row = self._row("together", None, name, measure)
                    used = min(n_cells, measure.most_cells)
                    rows.append(
                        row | figure | {"n_cells": used, "n_conditions": len(self.compared)}
                    )
        return rows

    def _figures(
        self, values: np.ndarray, k: int, n_cells: int, by_donor: np.ndarray | None, n_donors: int
    ) -> dict[str, float] | None:
        """Return a candidate's value, and its difference from the generated cells', with intervals.

        Parameters
        ----------
        values, by_donor : float arrays, shape (n_candidates, n_splits)
            Of halves of the cells, and of the donors. Candidate 0 is the generated cells.
        """
        own = self._figure(values[k], n_cells, None if by_donor is None else by_donor[k], n_donors)
        if own is None:
            return None
        donors = None if by_donor is None else by_donor[k] - by_donor[0]
        between = self._figure(values[k] - values[0], n_cells, donors, n_donors)
        return own | _as_difference(between, k)

    def _figure(
        self, values: np.ndarray, n_cells: int, by_donor: np.ndarray | None, n_donors: int
    ) -> dict[str, float] | None:
        """Return a value with its interval, or None where no split has one.

        `by_donor` are values of halves of the donors, or None where the interval is over cells.
        """
        known = values if by_donor is None or np.isfinite(values).any() else by_donor
        if not np.isfinite(known).any():
            return None
        value = float(_mean(known, axis=0))
        if by_donor is None:
            low, high = interval(value, values - value, n_cells)
        elif np.isfinite(by_donor).any():
            about = by_donor - _mean(by_donor, axis=0)
            low, high = interval(value, about, n_donors, drawn=max(1, n_donors // 2))
        else:  # too few cells in halves of the donors: nothing is known of how donors vary
            low, high = float("nan"), float("nan")
        return {"value": value, "low": low, "high": high}

    def _over_conditions(self, means: np.ndarray, known: list[int]) -> dict[str, float]:
        """Return the mean over conditions, (n_conditions,), with an interval over the groups (drugs) they belong to."""
        group = np.array([self.resampling.groups[self.real_rows[c][0]] for c in known])
        kinds = np.unique(group)
        value = float(_mean(means, axis=0))
        about = np.full(max(200, self.n_splits), np.nan)  # cheap: nothing is measured anew
        for s in range(len(about)):
            drawn = kinds[half_of_groups(len(kinds), self.seed, s)]
            if len(drawn):
                about[s] = _mean(means[np.isin(group, drawn)], axis=0) - value
        low, high = interval(value, about, len(kinds), drawn=max(1, len(kinds) // 2))
        return {"value": value, "low": low, "high": high}


def _fits(name: str, measure: Measure, donors: np.ndarray | None) -> bool:
    """Return whether a candidate is measured by this: measured expression has no sentences, and other ties no more."""
    if measure.costly and (donors is not None or name in ("round_trip", "measured")):
        return False
    if name == "other_ties":
        return measure.kind == "sentences"
    if name in ("round_trip", "measured"):
        return measure.kind in ("points", "profile")
    return True


def _as_difference(figure: dict[str, float] | None, k: int) -> dict[str, float]:
    """Return a figure under the names of a difference; the generated cells (candidate 0) have none."""
    if figure is None or k == 0:
        figure = {"value": np.nan, "low": np.nan, "high": np.nan}
    return {
        "difference": figure["value"],
        "difference_low": figure["low"],
        "difference_high": figure["high"],
    }


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean over what is not NaN; NaN where everything is."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=axis)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / known.sum(axis=axis))


def _mean_of_splits(values: np.ndarray) -> np.ndarray:
    """Return the mean over conditions of each split, float64 of shape (n_candidates, n_splits).

    A condition that lacks a split (its cells are of none of the donors drawn) takes part with its mean over the others,
    so that the mean does not move because its conditions change. A split that no condition has stays unknown.
    """
    means = _mean(values, axis=2)[:, :, None]
    filled = np.where(np.isfinite(values), values, means)
    unknown = ~np.isfinite(values).any(axis=0)
    result = _mean(filled, axis=0)
    result[unknown] = np.nan
    return result


def _joined(samples: list[Sample]) -> Sample:
    return Sample(samples[0].candidate, np.concatenate([s.rows for s in samples]))
