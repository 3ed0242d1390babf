"""Power laws y = a ± b·x^(−c), fitted exactly in a and b for every c; many curves at once, for the bootstrap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from c2s.common.errors import InputError

#: Exponents that are looked at; outside them a curve over a few sizes is a straight line in log x, or a step.
C_RANGE = (0.01, 5.0)
_GRID = 96
_SECTIONS = 36
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class PowerLaws:
    """One fitted law a row, y = a + sign·b·x^(−c).

    Attributes
    ----------
    a, b, c : float64 array, shape (n_curves,)
        `a` is what y comes to, b ≥ 0. Where b is 0 the curve is flat and c is NaN.
    sign
        +1 where y falls with x, as a loss; −1 where it rises.
    r2 : float64 array, shape (n_curves,)
        Share of the variance that is explained; NaN for values that are all the same.
    at_edge : bool array, shape (n_curves,)
        c lies at an end of `C_RANGE`: the values do not tell a power law from a straight line in log x (c small), or
        from a step (c large).
    """

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    sign: int
    r2: np.ndarray
    at_edge: np.ndarray

    def at(self, x: np.ndarray) -> np.ndarray:
        """Return the laws at places. float64, shape (n_curves, len(x))."""
        c = np.nan_to_num(self.c)[:, None]
        return self.a[:, None] + self.sign * self.b[:, None] * np.asarray(x, float)[None] ** -c


def fit_power_laws(
    x: np.ndarray,
    y: np.ndarray,
    *,
    falling: bool,
    limits: tuple[float, float] = (-np.inf, np.inf),
) -> PowerLaws:
    """Fit y = a − b·x^(−c), or L = a + b·x^(−c) where y falls (SPEC §16), by least squares.

    For a given c the law is linear in a and b, so that their best values are exact; c alone is searched, on a grid
    and then by golden sections. No start values are needed, and none can be wrong (variable projection: Golub & Pereyra
    1973, SIAM J. Numer. Anal. 10:413).

    Parameters
    ----------
    x : float array, shape (n_places,)
        Sizes, above 0, at least three different ones.
    y : float array, shape (n_curves, n_places), or (n_places,) for one
    falling
        Whether y falls as x grows.
    limits
        Between which `a` lies: (0, inf) for a loss, (−inf, 100) for a share in percent.

    Raises
    ------
    InputError
        Fewer than three different sizes, a size that is not above 0, or a value that is not a number.
    """
    x, y = np.asarray(x, float), np.atleast_2d(np.asarray(y, float))
    if y.shape[1] != len(x):
        raise InputError(
            f"power law: found {y.shape[1]:,} values for {len(x):,} sizes, expected one each"
        )
    if not (np.isfinite(x).all() and (x > 0).all() and np.isfinite(y).all()):
        raise InputError("power law: sizes must be above 0, and all values finite numbers")
    if len(np.unique(x)) < 3:
        raise InputError(
            f"power law: found {len(np.unique(x)):,} different sizes; its three numbers need at least 3"
        )
    sign = 1 if falling else -1
    # Around 1, so that x^(−c) neither vanishes nor overflows; b is put back at the end.
    middle = float(np.exp(np.log(x).mean()))
    scaled = x / middle
    grid = np.geomspace(*C_RANGE, _GRID)
    errors = np.stack(
        [_linear(scaled, y, np.full(len(y), c), sign, limits)[2] for c in grid], axis=1
    )
    best = errors.argmin(1)
    low, high = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, _GRID - 1)]
    c = _golden(scaled, y, low, high, sign, limits)
    a, b, error = _linear(scaled, y, c, sign, limits)
    spread = ((y - y.mean(1, keepdims=True)) ** 2).sum(1)
    # Differences that are rounding are none.
    alike = spread <= (1e-9 * np.abs(y).max(1)) ** 2 * len(x)
    flat = alike | (b <= 0)
    a, b = np.where(alike, np.clip(y.mean(1), *limits), a), np.where(flat, 0.0, b)
    edge = ~flat & ((c < C_RANGE[0] * 1.01) | (c > C_RANGE[1] / 1.01))
    r2 = np.where(alike, np.nan, 1 - error / np.where(alike, 1.0, spread))
    return PowerLaws(a, b * middle**c, np.where(flat, np.nan, c), sign, r2, edge)


def _golden(
    x: np.ndarray,
    y: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    sign: int,
    limits: tuple[float, float],
) -> np.ndarray:
    """Return the exponent of the least error between two, for every curve; float64, shape (n_curves,)."""
    low, high = np.log(low), np.log(high)
    for _ in range(_SECTIONS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        lower = (
            _linear(x, y, np.exp(left), sign, limits)[2]
            <= _linear(x, y, np.exp(right), sign, limits)[2]
        )
        low, high = np.where(lower, low, left), np.where(lower, right, high)
    return np.asarray(np.exp((low + high) / 2))


def _linear(
    x: np.ndarray, y: np.ndarray, c: np.ndarray, sign: int, limits: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the best a within its limits, the best b ≥ 0 and the squared error, for given exponents."""
    z = sign * x[None] ** -c[:, None]

    def error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(((a[:, None] + b[:, None] * z - y) ** 2).sum(1))

    centred = z - z.mean(1, keepdims=True)
    b = (centred * y).sum(1) / np.maximum((centred**2).sum(1), 1e-300)
    a = y.mean(1) - b * z.mean(1)
    inside = (b >= 0) & (a >= limits[0]) & (a <= limits[1])
    # The error is convex: where its least point is not allowed, the best that is lies on an edge.
    on_limit = np.clip(a, *limits)
    with_limit = np.maximum(((y - on_limit[:, None]) * z).sum(1) / (z**2).sum(1), 0.0)
    level, none = np.clip(y.mean(1), *limits), np.zeros_like(b)
    flat = error(level, none) < error(on_limit, with_limit)
    edge_a, edge_b = np.where(flat, level, on_limit), np.where(flat, none, with_limit)
    a, b = np.where(inside, a, edge_a), np.where(inside, b, edge_b)
    return a, b, error(a, b)


def fit_lines(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit y = intercept + slope·log10 x to each row.

    Parameters
    ----------
    x : float array, shape (n_places,)
        At least two different ones, above 0.
    y : float array, shape (n_curves, n_places)

    Returns
    -------
    intercept, slope : float64 array, shape (n_curves,)
    """
    logs = np.log10(np.asarray(x, float))
    centred = logs - logs.mean()
    y = np.atleast_2d(np.asarray(y, float))
    slope = y @ centred / (centred**2).sum()
    return y.mean(1) - slope * logs.mean(), slope
