"""Distances between samples against SPEC's check vectors, SciPy, scikit-learn and naive loops."""

import itertools

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import energy_distance as scipy_energy
from sklearn.metrics.pairwise import rbf_kernel

from c2s.common.errors import InputError, UsageError
from c2s.metrics import (
    CELLOT_GAMMAS,
    distributions,
    energy_distance,
    median_gamma,
    mmd2,
    mmd2_cellot,
    scfid,
    wasserstein,
)

ALL = [scfid, mmd2, energy_distance, wasserstein]


def samples(n=60, m=50, d=4, seed=0, shift=0.0, scale=1.0):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d))
    return rng.normal(size=(n, d)) @ mix, scale * rng.normal(size=(m, d)) @ mix + shift


# --- MMD -----------------------------------------------------------------------------------------


def mmd2_by_loops(a, b, gammas, biased):
    def kernel(x, y):
        return np.mean([np.exp(-g * np.sum((x - y) ** 2)) for g in gammas])

    def within(x):
        pairs = itertools.product(range(len(x)), repeat=2)
        values = [kernel(x[i], x[j]) for i, j in pairs if biased or i != j]
        return np.mean(values)

    return within(a) + within(b) - 2 * np.mean([kernel(x, y) for x in a for y in b])


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("gammas", [(0.3,), CELLOT_GAMMAS])
def test_mmd2_equals_loops(gammas, biased):
    a, b = samples(9, 7, 3, shift=0.3)
    expected = mmd2_by_loops(a, b, gammas, biased)
    assert mmd2(a, b, gammas=gammas, biased=biased) == pytest.approx(expected, rel=1e-12)


def test_mmd2_default_width_is_the_median_distance_of_real_cells():
    a, b = samples(30, 25, 4, shift=1.0)
    gamma = 1 / (2 * np.median(cdist(a, a)[np.triu_indices(len(a), 1)]) ** 2)
    aa, bb, ab = rbf_kernel(a, a, gamma), rbf_kernel(b, b, gamma), rbf_kernel(a, b, gamma)
    n, m = len(a), len(b)
    expected = (aa.sum() - n) / (n * (n - 1)) + (bb.sum() - m) / (m * (m - 1)) - 2 * ab.mean()
    assert median_gamma(a) == pytest.approx(gamma, rel=1e-12)
    assert mmd2(a, b) == pytest.approx(expected, rel=1e-10)
    assert mmd2(a, b, gammas=[gamma]) == pytest.approx(expected, rel=1e-10)


def test_a_generator_has_no_say_in_the_kernel():
    a, b = samples(40, 40, 3)
    # Of cells that are all far away only the kernel of each sample with itself is left.
    values = [mmd2(a, b + shift) for shift in (1e3, 1e5)]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_median_gamma_of_many_cells_is_near_that_of_all():
    a, _ = samples(6000, 1, 2)
    gamma = median_gamma(a)
    rng = np.random.default_rng(1)
    x, y = a[rng.integers(len(a), size=(2, 200_000))]
    median = np.median(np.linalg.norm(x - y, axis=1))
    assert gamma == pytest.approx(1 / (2 * median**2), rel=0.03)


def test_median_gamma_needs_two_cells():
    with pytest.raises(InputError, match="at least 2 cells"):
        median_gamma(np.zeros((1, 2)))
    with pytest.raises(InputError, match="at least 2 cells"):
        mmd2(np.zeros((1, 2)), np.ones((3, 2)), biased=True)
    assert mmd2(np.zeros((1, 2)), np.zeros((3, 2)), gammas=[1.0], biased=True) == 0


def test_cellot_is_the_mean_over_its_gammas_of_means_of_kernels():
    a, b = samples(12, 9, 3, shift=0.4)
    values = [
        rbf_kernel(a, a, g).mean() + rbf_kernel(b, b, g).mean() - 2 * rbf_kernel(a, b, g).mean()
        for g in (2, 1, 0.5, 0.1, 0.01, 0.005)
    ]
    assert mmd2_cellot(a, b) == pytest.approx(np.mean(values), rel=1e-9)


def test_mmd2_biased_of_equal_samples_is_0_and_unbiased_below_0():
    a, _ = samples(20, 1, 3)
    assert mmd2(a, a, biased=True) == pytest.approx(0, abs=1e-14)
    assert mmd2(a, a) < 0


def test_mmd2_of_far_samples_with_wide_gammas_sees_only_the_diagonal():
    a, b = samples(20, 30, 50, shift=100.0)
    value = mmd2(a * 100, b * 100, gammas=CELLOT_GAMMAS, biased=True)
    assert value == pytest.approx(1 / 20 + 1 / 30)


def test_mmd2_of_samples_that_are_mostly_copies_uses_the_distances_that_are_not_0():
    a = np.zeros((10, 2))
    b = np.zeros((10, 2))
    a[0], a[1], b[:5] = 3.0, 6.0, 3.0
    expected = mmd2_by_loops(a, b, [1 / (2 * 18)], biased=False)
    assert mmd2(a, b) == pytest.approx(expected)
    equal = np.zeros((10, 2))  # without any distance: a width of 0.5
    assert mmd2(equal, b) == pytest.approx(mmd2_by_loops(equal, b, [0.5], biased=False))
    assert mmd2(equal, equal.copy()) == 0


@pytest.mark.parametrize("gammas", [[], [0.0], [-1.0], [np.inf], [1.0, np.nan]])
def test_mmd2_refuses_widths_that_are_not_positive(gammas):
    with pytest.raises(UsageError, match="gammas"):
        mmd2(*samples(), gammas=gammas)


# --- Energy distance -----------------------------------------------------------------------------


def energy_by_loops(a, b):
    def within(x):
        return np.mean([np.linalg.norm(p - q) for p, q in itertools.combinations(x, 2)])

    return 2 * np.mean([np.linalg.norm(x - y) for x in a for y in b]) - within(a) - within(b)


def test_energy_distance_equals_loops():
    a, b = samples(11, 8, 3, shift=0.4)
    assert energy_distance(a, b) == pytest.approx(energy_by_loops(a, b), rel=1e-12)


def test_energy_distance_by_hand():
    # 2 * mean(1, 2, 0, 1) - 1 - 1
    assert energy_distance(np.array([[0.0], [1]]), np.array([[1.0], [2]])) == pytest.approx(0.0)
    # 2 * mean(5, 6, 4, 5) - 1 - 1
    assert energy_distance(np.array([[0.0], [1]]), np.array([[5.0], [6]])) == pytest.approx(8.0)


def test_energy_distance_equals_scipy_in_one_dimension():
    a, b = samples(17, 12, 1, shift=0.4)
    # SciPy: the root of the biased statistic. Leaving out pairs of a cell with itself takes away a known part.
    surplus = sum(cdist(x, x).mean() / (len(x) - 1) for x in (a, b))
    expected = scipy_energy(a[:, 0], b[:, 0]) ** 2 - surplus
    assert energy_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("metric", [mmd2, energy_distance])
def test_unbiased_statistics_are_0_on_average_whatever_the_sample_size(metric):
    rng = np.random.default_rng(3)
    values = [metric(*rng.normal(size=(2, 5, 2))) for _ in range(1500)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))


# --- All of them ---------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("fault", ["shifted", "wider", "narrower", "one cell copied", "no mixture"])
def test_a_fault_made_on_purpose_costs_more_than_another_real_sample(metric, fault):
    rng = np.random.default_rng(5)

    def draw():
        return rng.normal(size=(150, 3)) + 3 * rng.integers(2, size=(150, 1))

    real, other = draw(), draw()
    broken = {
        "shifted": other + 0.8,
        "wider": other.mean(axis=0) + 2 * (other - other.mean(axis=0)),
        "narrower": other.mean(axis=0) + 0.3 * (other - other.mean(axis=0)),
        "one cell copied": np.repeat(other[:1], 150, axis=0),
        "no mixture": rng.normal(size=(150, 3)),
    }[fault]
    assert metric(real, broken) > 2 * max(metric(real, other), 0.001)


@pytest.mark.parametrize("metric", [mmd2, energy_distance])
def test_blocks_do_not_change_the_value(metric, monkeypatch):
    a, b = samples(37, 23, 3, shift=0.2)
    whole = metric(a, b)
    for values in (1, 100, 37 * 5):
        monkeypatch.setattr(distributions, "_BLOCK_VALUES", values)
        assert metric(a, b) == pytest.approx(whole, rel=1e-10)


@pytest.mark.parametrize("metric", ALL)
def test_float32_is_computed_in_float64(metric):
    a, b = (x.astype(np.float32) for x in samples(30, 30, 3, shift=1000.0))
    assert metric(a, b) == metric(a.astype(np.float64), b.astype(np.float64))


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize(
    ("real", "generated", "message"),
    [
        (np.zeros((5, 2)), np.zeros((5, 3)), "found 3 dimensions, expected 2"),
        (np.zeros(5), np.zeros((5, 1)), r"real: .*found shape \(5,\)"),
        (np.zeros((5, 1)), np.zeros((0, 1)), "generated: found 0 cells"),
        (np.zeros((5, 0)), np.zeros((5, 0)), "0 dimensions"),
        (np.array([[0.0, 1], [np.nan, 2]]), np.zeros((5, 2)), "row 1, dimension 0 is nan"),
        (np.zeros((5, 2)), np.full((5, 2), np.inf), "generated: row 0, dimension 0 is inf"),
        (np.array([["a", "b"]] * 3), np.zeros((5, 2)), "real: expected a numeric array"),
    ],
)
def test_points_that_cannot_be_compared_are_refused(metric, real, generated, message):
    with pytest.raises(InputError, match=message):
        metric(real, generated)


@pytest.mark.parametrize("metric", [scfid, mmd2, energy_distance])
def test_a_single_cell_is_refused_where_spread_is_needed(metric):
    with pytest.raises(InputError, match="at least 2 cells"):
        metric(np.zeros((1, 2)), np.zeros((5, 2)))
