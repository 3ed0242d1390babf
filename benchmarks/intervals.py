"""How often intervals of an evaluation hold the truth, on samples whose truth is known.

    python benchmarks/intervals.py

Two Gaussian clouds in five dimensions that differ in mean and spread; 60 real cells, and as many or five times as many
generated ones. For each of 300 draws the interval of random halves (`c2s.evaluate.splits`) is taken, and beside it the
percentile interval of the ordinary bootstrap. Then cells of donors that differ, with intervals over donors and cells.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from c2s.evaluate.splits import draw, half_of_groups, halves, interval
from c2s.metrics import energy_distance, mmd2, scfid

N, DIMENSIONS, DRAWS, SPLITS = 60, 5, 300, 30

Statistic = Callable[[np.ndarray, np.ndarray], float]


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """MMD² with one fixed kernel."""
    return mmd2(a, b, gammas=[0.1])


def sample(rng: np.random.Generator, real: int, made: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(real, DIMENSIONS)), rng.normal(0.5, 1.3, size=(made, DIMENSIONS))


def of_halves(
    statistic: Statistic, real: np.ndarray, made: np.ndarray, seed: int
) -> tuple[float, float]:
    n = min(len(real), len(made)) // 2
    values = np.array(
        [
            statistic(
                real[halves(np.arange(len(real)), n, seed, s, 0)[0]],
                made[draw(np.arange(len(made)), n, seed, s, 0, "generated")],
            )
            for s in range(SPLITS)
        ]
    )
    return interval(float(values.mean()), values - values.mean(), 2 * n)


def of_bootstrap(
    statistic: Statistic, real: np.ndarray, made: np.ndarray, rng: np.random.Generator
) -> tuple[float, float]:
    values = [
        statistic(
            real[rng.integers(len(real), size=len(real))],
            made[rng.integers(len(made), size=len(made))],
        )
        for _ in range(60)
    ]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def cells() -> None:
    rng = np.random.default_rng(0)
    for name, statistic in (
        ("MMD²", kernel_distance),
        ("energy distance", energy_distance),
        ("scFID", scfid),
    ):
        half = np.mean([statistic(*sample(rng, N // 2, N // 2)) for _ in range(4000)])
        whole = np.mean([statistic(*sample(rng, N, N)) for _ in range(2000)])
        for made in (N, 5 * N):
            held, boot = 0, 0
            for trial in range(DRAWS):
                a, b = sample(rng, N, made)
                low, high = of_halves(statistic, a, b, trial)
                held += low <= half <= high
                if made == N:
                    low, high = of_bootstrap(statistic, a, b, rng)
                    boot += low <= whole <= high
            text = f"; ordinary bootstrap {boot / DRAWS:.1%}" if made == N else ""
            print(
                f"{name}, {N} real and {made} generated: halves {held / DRAWS:.1%}{text}",
                flush=True,
            )


def donors() -> None:
    rng = np.random.default_rng(1)
    for number in (3, 4, 5, 8):
        by_donor = by_cell = 0
        for trial in range(2 * DRAWS):
            of = np.repeat(np.arange(number), 30)
            real = rng.normal(size=len(of)) + rng.normal(0, 0.5, size=number)[of]
            n = len(of) // 2
            split = [
                real[halves(np.arange(len(of)), n, trial, s, 0)[0]].mean() for s in range(SPLITS)
            ]
            whole = [
                real[np.isin(of, half_of_groups(number, trial, s))].mean() for s in range(SPLITS)
            ]
            value = float(np.mean(split))
            low, high = interval(value, np.array(whole) - np.mean(whole), number, drawn=number // 2)
            by_donor += low <= 0 <= high
            low, high = interval(value, np.array(split) - value, 2 * n)
            by_cell += low <= 0 <= high
        share = [by_donor / (2 * DRAWS), by_cell / (2 * DRAWS)]
        print(f"{number} donors: over donors {share[0]:.1%}, over cells {share[1]:.1%}", flush=True)


if __name__ == "__main__":
    cells()
    donors()
