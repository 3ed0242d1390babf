"""Random halves: what intervals cover, on data whose truth is known."""

import numpy as np
import pytest

from c2s.evaluate.splits import draw, find_resampling, half_of_groups, halves, interval
from c2s.metrics import mmd2

#: Mean of `kernel_distance` for 30 cells a side of the two clouds below, over 20,000 draws.
TRUTH = 0.0778


def kernel_distance(a, b):
    return mmd2(a, b, gammas=[0.1])


def estimate(real, generated, n_splits, seed):
    """Value and interval as an evaluation takes them, of one condition without donors."""
    n = min(len(real), len(generated)) // 2
    values = []
    for split in range(n_splits):
        first, _ = halves(np.arange(len(real)), n, seed, split, 0)
        made = draw(np.arange(len(generated)), n, seed, split, 0, "generated")
        values.append(kernel_distance(real[first], generated[made]))
    value = float(np.mean(values))
    return value, interval(value, np.array(values) - value, 2 * n)


def test_halves_are_disjoint_random_and_repeatable():
    rows = np.arange(100, 141)
    first, second = halves(rows, 20, 0, 3, 7)
    assert len(first) == len(second) == 20
    assert not set(first) & set(second)
    assert set(first) | set(second) <= set(rows)
    np.testing.assert_array_equal(first, halves(rows, 20, 0, 3, 7)[0])
    assert set(first) != set(halves(rows, 20, 0, 4, 7)[0])
    assert set(first) != set(halves(rows, 20, 1, 3, 7)[0])
    assert len(draw(rows, 60, 0, 0, 0, "x")) == 41


def test_intervals_hold_the_truth_as_often_as_they_say_and_those_of_the_ordinary_bootstrap_do_not():
    rng = np.random.default_rng(0)

    def sample(n):
        return rng.normal(size=(n, 5)), rng.normal(0.5, 1.3, size=(n, 5))

    truth = np.mean([kernel_distance(*sample(60)) for _ in range(400)])
    held = bootstrapped = 0
    for trial in range(120):
        real, made = sample(60)
        _, (low, high) = estimate(real, made, 20, trial)
        held += low <= truth <= high
        again = [
            kernel_distance(real[rng.integers(60, size=60)], made[rng.integers(60, size=60)])
            for _ in range(40)
        ]
        low, high = np.quantile(again, [0.025, 0.975])
        bootstrapped += low <= truth <= high
    # 95 % of 120 is 114; fewer than 106 have a chance of 0.1 %.
    assert held >= 106
    assert bootstrapped < 106


@pytest.mark.parametrize("n_donors", [4, 5, 8])
def test_intervals_over_donors_hold_the_truth_where_donors_differ(n_donors):
    rng = np.random.default_rng(1)
    by_donor = by_cell = 0
    for trial in range(200):
        donor = np.repeat(np.arange(n_donors), 20)
        real = rng.normal(size=len(donor)) + rng.normal(0, 1, size=n_donors)[donor]
        n = len(donor) // 2
        cells = np.array(
            [real[halves(np.arange(len(donor)), n, trial, s, 0)[0]].mean() for s in range(20)]
        )
        donors = np.array(
            [real[np.isin(donor, half_of_groups(n_donors, trial, s))].mean() for s in range(20)]
        )
        low, high = interval(cells.mean(), donors - donors.mean(), n_donors, drawn=n_donors // 2)
        by_donor += low <= 0 <= high
        low, high = interval(cells.mean(), cells - cells.mean(), 2 * n)
        by_cell += low <= 0 <= high
    # 95 % of 200 is 190; below 179 has a chance of 0.1 %. Over cells, donors are taken for noise that is not there.
    assert by_donor >= 179
    assert by_cell < 140


def test_an_interval_needs_two_units_and_two_halves():
    assert np.isnan(interval(1.0, np.array([0.0]), 10)).all()
    assert np.isnan(interval(1.0, np.array([0.1, -0.1]), 1)).all()
    assert np.isnan(interval(float("nan"), np.array([0.1, -0.1]), 10)).all()
    # Spread of two halves, as wide as that of a mean over two of them: t with one degree of freedom.
    low, high = interval(1.0, np.array([0.1, -0.1, np.nan]), 1000)
    half = 12.706 * 0.1 * np.sqrt(2) * np.sqrt(1 + 1 / 2)
    assert 1 - low == pytest.approx(high - 1) == pytest.approx(half, rel=1e-4)
    # A third of the units in a half: its spread is twice as large (in variance) as that of the whole.
    _, high = interval(0.0, np.tile([0.1, -0.1], 500), 3, drawn=1)
    assert high == pytest.approx(4.3027 * 0.1 * np.sqrt(0.5), rel=2e-3)


def test_intervals_of_few_splits_are_as_honest_as_those_of_many():
    rng = np.random.default_rng(2)
    held = 0
    for trial in range(150):
        real, made = rng.normal(size=(60, 5)), rng.normal(0.5, 1.3, size=(60, 5))
        _, (low, high) = estimate(real, made, 4, trial)
        held += low <= TRUTH <= high
    assert held >= 133  # 95 % of 150 is 142.5; fewer than 133 have a chance of 0.1 %


def test_what_is_drawn_as_a_whole_is_seen_in_the_data():
    condition = np.array([0, 0, 1, 1])
    assert find_resampling(None, None, condition).of == "cells"
    one = find_resampling(["d"] * 4, "donor", condition)
    assert one.of == "cells"
    assert "same donor (d)" in one.sentence()
    crossing = find_resampling(["d", "e", "d", "e"], "donor", condition)
    assert crossing.of == "donors"
    assert "2 values of obs['donor']" in crossing.sentence()
    whole = find_resampling(["x", "x", "y", "y"], "drug", condition)
    assert whole.of == "conditions"
    assert whole.names == ("x", "y")
