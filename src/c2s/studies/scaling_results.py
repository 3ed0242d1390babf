"""What comes out of a scaling study: points with intervals, power laws with intervals, tables and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from c2s.common.files import atomic_directory, atomic_file
from c2s.common.seeds import generator
from c2s.plots.scaling import AXES, Axis, scaling_curves
from c2s.studies.power_law import fit_lines, fit_power_laws

if TYPE_CHECKING:
    from c2s.studies.scaling_recipe import ScalingRecipe

#: Of percentile intervals.
LEVEL = 0.95
#: Places that a fitted curve is drawn at.
_PLACES = 40
#: Between which the value lies that a metric comes to with more weights or data.
_LIMITS = {"loss": (0.0, np.inf)}
_SHARE = (-np.inf, 100.0)


@dataclass(frozen=True)
class Result:
    """What one training of a study is worth.

    Attributes
    ----------
    size, fraction, method, seed
        Of its place in the grid.
    facts
        Weights ("body": without the tables of tokens), samples, tokens and operations.
    values
        By task and metric, a value a held-out sample: float64, shape (n_samples,). Rows of different trainings belong
        to the same samples; NaN where a sample could not be measured, which leaves it out for all.
    """

    size: str
    fraction: float
    method: str
    seed: int
    facts: Mapping[str, Any]
    values: Mapping[tuple[str, ...], np.ndarray]


@dataclass(frozen=True)
class _Spot:
    """Trainings that differ in their seed only, with what a metric is in each bootstrap resample."""

    size: str
    fraction: float
    method: str
    facts: Mapping[str, Any]
    value: float
    sd: float
    sd_seeds: float | None
    resampled: np.ndarray  # float64, shape (n_resamples,)

    def place(self, axis: Axis) -> float:
        """Return where the spot lies on an axis."""
        return float(self.facts[AXES[axis]])


def summarise(recipe: ScalingRecipe, results: Sequence[Result]) -> dict[str, Any]:
    """Return points and fits of a study.

    A resample draws held-out samples with replacement, the same for all trainings, since they are measured on the same
    samples; and, where there are several seeds, at every point so many of its trainings, with replacement.

    Parameters
    ----------
    recipe
        The study.
    results
        Of each training.

    Returns
    -------
    dict
        `points`: for each size, share of the data, method, task and metric the mean, s.d. over samples, s.d. over
        seeds and 95 % interval. `fits`: along sizes ("size", by non-embedding weights) and along data ("data", by
        training samples) what `_fit` gives.
    """
    points, fits = [], []
    results = _measured_by_all(results)
    for task, metric in sorted({key for r in results for key in r.values}):
        spots = _spots(recipe, results, (task, metric))
        for spot in spots:
            low, high = _interval(spot.resampled)
            points.append(
                {
                    "size": spot.size, "fraction": spot.fraction, "method": spot.method, "task": task,
                    "metric": metric, "value": spot.value, "sd": spot.sd, "sd_seeds": spot.sd_seeds,
                    "low": low, "high": high, **spot.facts,
                }
            )  # fmt: skip
        for axis in AXES:
            for name, line in _lines(spots, axis).items():
                fit = _fit(line, axis, metric)
                if fit is not None:
                    fits.append({"axis": axis, "task": task, "metric": metric, **dict(name), **fit})
    return {"title": recipe.title, "level": LEVEL, "points": points, "fits": fits}


def _measured_by_all(results: Sequence[Result]) -> list[Result]:
    """Return results of the samples alone that every training was measured on, by task and metric."""
    keys = {key for r in results for key in r.values}
    kept = {
        key: np.all([~np.isnan(r.values[key]) for r in results if key in r.values], axis=0)
        for key in keys
    }
    return [
        replace(r, values={k: v[kept[k]] for k, v in r.values.items() if kept[k].any()})
        for r in results
    ]


def _spots(recipe: ScalingRecipe, results: Sequence[Result], key: tuple[str, str]) -> list[_Spot]:
    """Return the points of one metric of one task, in the order of the results."""
    groups: dict[tuple[str, float, str], list[Result]] = {}
    for result in results:
        if key in result.values:
            groups.setdefault((result.size, result.fraction, result.method), []).append(result)
    n = len(next(iter(groups.values()))[0].values[key])
    draws = generator(recipe.seed, "scaling", *key)
    # How often each sample is drawn in each resample, as shares.
    shares = draws.multinomial(n, np.full(n, 1 / n), size=recipe.resamples) / n
    spots = []
    for (size, fraction, method), members in groups.items():
        values = np.stack([m.values[key] for m in members])
        means = shares @ values.T
        chosen = draws.integers(len(members), size=means.shape)
        by_seed = values.mean(1)
        spots.append(
            _Spot(
                size, fraction, method, _mean_facts(members), float(values.mean()), float(values.std(1, ddof=1).mean()),
                float(by_seed.std(ddof=1)) if len(members) > 1 else None,
                np.take_along_axis(means, chosen, 1).mean(1),
            )
        )  # fmt: skip
    return spots


def _mean_facts(members: Sequence[Result]) -> dict[str, Any]:
    """Return facts of trainings that differ in their seed, means where they are not the same."""
    facts = {}
    for name, first in members[0].facts.items():
        values = [m.facts[name] for m in members]
        facts[name] = first if all(v == first for v in values) else float(np.mean(values))
    return {**facts, "trainings": len(members)}


def _lines(spots: Sequence[_Spot], axis: Axis) -> dict[tuple[tuple[str, Any], ...], list[_Spot]]:
    """Return the spots of each curve along an axis, by what is the same in all of them."""
    lines: dict[tuple[tuple[str, Any], ...], list[_Spot]] = {}
    for spot in spots:
        fixed = ("fraction", spot.fraction) if axis == "size" else ("size", spot.size)
        lines.setdefault((fixed, ("method", spot.method)), []).append(spot)
    return {k: sorted(v, key=lambda s: s.place(axis)) for k, v in lines.items()}


def _fit(spots: Sequence[_Spot], axis: Axis, metric: str) -> dict[str, Any] | None:
    """Return a straight line in log x and, from three places on, a power law, with intervals; None for one place.

    Returns
    -------
    dict or None
        `places`: how many. `line`: `intercept` and `slope` for a factor of ten. `power`: `a`, `b` and `c` of
        y = a − b·x^(−c), for losses a + b·x^(−c); `r2`; `exact`: there are three places only, so that the law goes
        through all of them whatever they are; `undetermined`: the share of resamples in which c is at an end of what
        is looked at, or there is no rise at all; `curve`: the law with its band.
    """
    x = np.array([s.place(axis) for s in spots])
    n_places = len(np.unique(x))
    if n_places < 2:
        return None
    values = np.array([s.value for s in spots])[None]
    resampled = np.stack([s.resampled for s in spots], axis=1)
    fit: dict[str, Any] = {"places": n_places, "line": _line(x, values, resampled), "power": None}
    if n_places >= 3:
        fit["power"] = {**_power(x, values, resampled, metric), "exact": n_places == 3}
    return fit


def _line(x: np.ndarray, values: np.ndarray, resampled: np.ndarray) -> dict[str, Any]:
    """Return the straight line in log10 x."""
    own, drawn = fit_lines(x, values), fit_lines(x, resampled)
    return {
        name: _with_interval(float(mine[0]), many)
        for name, mine, many in zip(("intercept", "slope"), own, drawn, strict=True)
    }


def _power(x: np.ndarray, values: np.ndarray, resampled: np.ndarray, metric: str) -> dict[str, Any]:
    """Return the power law, its intervals and its curve."""
    limits, falling = _LIMITS.get(metric, _SHARE), metric == "loss"
    own = fit_power_laws(x, values, falling=falling, limits=limits)
    drawn = fit_power_laws(x, resampled, falling=falling, limits=limits)
    places = np.geomspace(x.min(), x.max(), _PLACES)
    low, high = np.quantile(drawn.at(places), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {
        **{
            name: _with_interval(float(getattr(own, name)[0]), getattr(drawn, name))
            for name in ("a", "b", "c")
        },
        "r2": float(own.r2[0]),
        "at_edge": bool(own.at_edge[0]),
        "undetermined": float(np.mean(drawn.at_edge | np.isnan(drawn.c))),
        "curve": {
            "x": places.tolist(), "y": own.at(places)[0].tolist(), "low": low.tolist(), "high": high.tolist(),
        },
    }  # fmt: skip


def _with_interval(value: float, resampled: np.ndarray) -> dict[str, float]:
    low, high = _interval(resampled)
    return {"value": value, "low": low, "high": high}


def _interval(resampled: np.ndarray) -> tuple[float, float]:
    """Return the percentile interval of what is a number; NaN where nothing is."""
    known = resampled[np.isfinite(resampled)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def write_results(summary: Mapping[str, Any], out: Path) -> None:
    """Write `results.json`, `results.csv` and `figures/` (PNG and SVG) of a study.

    Parameters
    ----------
    summary
        What `summarise` gives, with None for what is no number.
    out
        The folder of the study.
    """

    with atomic_file(out / "results.json") as path:
        path.write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
    with atomic_file(out / "results.csv") as path:
        pd.DataFrame(summary["points"]).to_csv(path, index=False)
    with atomic_directory(out / "figures") as folder:
        for axis, place in AXES.items():
            if len({p[place] for p in summary["points"]}) < 2:
                continue
            figure = scaling_curves(summary["points"], summary["fits"], axis)
            figure.savefig(folder / f"{axis}.png", dpi=160)
            figure.savefig(folder / f"{axis}.svg")


def results_table(summary: Mapping[str, Any]) -> list[str]:
    """Return a line for each fit: what a metric comes to, and how fast; numbers that are none are None."""
    lines = []
    for fit in summary["fits"]:
        what = f"{fit['fraction']:g} of the data" if fit["axis"] == "size" else str(fit["size"])
        head = f"{fit['task']} {fit['metric']} by {fit['axis']} ({what}, {fit['method']})"
        slope, power = fit["line"]["slope"], fit["power"]
        text = f"{head}: {_text(slope)} for a factor of ten"
        if power is not None and power["c"]["value"] is not None:
            sign = "+" if fit["metric"] == "loss" else "−"
            text += f"; {power['a']['value']:.3g} {sign} {power['b']['value']:.3g}·x^−c, c = {_text(power['c'])}"
        lines.append(text)
    return lines


def _text(number: Mapping[str, Any]) -> str:
    if number["low"] is None:
        return f"{number['value']:.3g}"
    return f"{number['value']:.3g} [{number['low']:.3g}, {number['high']:.3g}]"
