"""Distances between samples against SPEC's check vectors, SciPy, POT and naive loops."""

import itertools

import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import rbf_kernel

from c2s.common.errors import C2SError, InputError, UsageError
from c2s.metrics import CELLOT_GAMMAS, distributions, energy_distance, mmd2, scfid, wasserstein

ALL = [scfid, mmd2, energy_distance, wasserstein]


def samples(n=60, m=50, d=4, seed=0, shift=0.0, scale=1.0):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d))
    return rng.normal(size=(n, d)) @ mix, scale * rng.normal(size=(m, d)) @ mix + shift


# --- scFID ---------------------------------------------------------------------------------------


def scfid_by_square_root(a, b, ridge=0.0):
    """The textbook formula, with an explicit matrix square root."""
    eye = ridge * np.eye(a.shape[1])
    sa, sb = np.cov(a, rowvar=False) + eye, np.cov(b, rowvar=False) + eye
    shift = a.mean(axis=0) - b.mean(axis=0)
    return float(shift @ shift + np.trace(sa + sb - 2 * np.real(sqrtm(sa @ sb))))


def test_scfid_check_vectors_of_the_specification():
    a, _ = samples()
    assert scfid(a, a) == pytest.approx(0, abs=1e-12)
    assert scfid(a, a + np.array([1, 2, 0, 0])) == pytest.approx(5.0, abs=1e-10)
    doubled = a.mean(axis=0) + 2 * (a - a.mean(axis=0))
    assert scfid(a, doubled) == pytest.approx(np.trace(np.cov(a, rowvar=False)))


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 5), (60, 80, 30), (12, 300, 3)])
def test_scfid_equals_the_matrix_square_root_on_full_rank_data(n, m, d):
    a, b = samples(n, m, d, shift=0.5, scale=1.4)
    assert scfid(a, b) == pytest.approx(scfid_by_square_root(a, b), rel=1e-9)


def test_scfid_with_fewer_cells_than_dimensions_is_the_limit_of_a_vanishing_ridge():
    a, b = samples(10, 14, 24, shift=0.1, scale=1.3)
    # S_r^(1/2) S_g S_r^(1/2) by eigenvalues: an independent way that allows singular covariances.
    sa, sb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(sa)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ sb @ root).clip(0)).sum()
    shift = a.mean(axis=0) - b.mean(axis=0)
    expected = shift @ shift + np.trace(sa) + np.trace(sb) - 2 * cross
    assert scfid(a, b) == pytest.approx(expected, rel=1e-6)
    assert scfid_by_square_root(a, b, ridge=0.1) != pytest.approx(expected, rel=1e-2)


def test_scfid_of_one_dimension_is_the_distance_of_two_gaussians():
    a, b = samples(40, 30, 1, shift=2.0, scale=3.0)
    spread = a.std(ddof=1) - b.std(ddof=1)
    assert scfid(a, b) == pytest.approx((a.mean() - b.mean()) ** 2 + spread**2)


def test_scfid_of_samples_without_spread_is_the_squared_distance_of_means():
    assert scfid(np.ones((5, 3)), np.ones((4, 3)) + np.array([0, 3, 4])) == pytest.approx(25)


@given(arrays(np.float64, (6, 3), elements=st.floats(-100, 100)), st.integers(0, 99))
@settings(max_examples=50)
def test_scfid_is_symmetric_and_blind_to_rotation_and_order(a, seed):
    rng = np.random.default_rng(seed)
    b = rng.normal(size=(7, 3))
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    value = scfid(a, b)
    assert value >= 0
    assert scfid(b, a) == pytest.approx(value, rel=1e-6, abs=1e-6)
    assert scfid(rng.permutation(a @ turn), b @ turn) == pytest.approx(value, rel=1e-6, abs=1e-6)


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


def test_mmd2_default_width_is_the_median_distance_of_the_pooled_sample():
    a, b = samples(30, 25, 4, shift=1.0)
    pooled = np.concatenate([a, b])
    distances = cdist(pooled, pooled)[np.triu_indices(len(pooled), 1)]
    gamma = 1 / (2 * np.median(distances) ** 2)
    aa, bb, ab = rbf_kernel(a, a, gamma), rbf_kernel(b, b, gamma), rbf_kernel(a, b, gamma)
    n, m = len(a), len(b)
    expected = (aa.sum() - n) / (n * (n - 1)) + (bb.sum() - m) / (m * (m - 1)) - 2 * ab.mean()
    assert mmd2(a, b) == pytest.approx(expected, rel=1e-10)
    assert mmd2(a, b, gammas=[gamma]) == pytest.approx(expected, rel=1e-10)


def test_mmd2_median_of_many_cells_is_near_that_of_all():
    a, b = samples(3000, 2500, 2, shift=0.5)
    gamma = distributions._median_gamma(a, b)
    rng = np.random.default_rng(1)
    pooled = np.concatenate([a, b])
    x, y = pooled[rng.integers(len(pooled), size=(2, 200_000))]
    median = np.median(np.linalg.norm(x - y, axis=1))
    assert gamma == pytest.approx(1 / (2 * median**2), rel=0.03)


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
    b[0] = 3.0
    expected = mmd2_by_loops(a, b, [1 / (2 * 18)], biased=False)
    assert mmd2(a, b) == pytest.approx(expected)
    assert mmd2(a, a.copy()) == 0


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


@pytest.mark.parametrize("metric", [mmd2, energy_distance])
def test_unbiased_statistics_are_0_on_average_whatever_the_sample_size(metric):
    rng = np.random.default_rng(3)
    values = [metric(*rng.normal(size=(2, 5, 2))) for _ in range(1500)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))


# --- Wasserstein ---------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 2])
def test_wasserstein_of_equal_sizes_is_the_best_assignment(p):
    a, b = samples(30, 30, 3, shift=0.5)
    cost = cdist(a, b) ** p
    expected = cost[linear_sum_assignment(cost)].mean() ** (1 / p)
    assert wasserstein(a, b, p=p) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("p", [1, 2])
def test_wasserstein_of_unequal_sizes_equals_a_linear_programme_and_pot_called_directly(p):
    from scipy.optimize import linprog

    a, b = samples(6, 9, 3, shift=0.5)
    cost = cdist(a, b) ** p
    rows = np.kron(np.eye(6), np.ones(9))
    columns = np.kron(np.ones(6), np.eye(9))
    solved = linprog(
        cost.ravel(),
        A_eq=np.concatenate([rows, columns]),
        b_eq=np.concatenate([np.full(6, 1 / 6), np.full(9, 1 / 9)]),
    )
    assert wasserstein(a, b, p=p) == pytest.approx(solved.fun ** (1 / p), rel=1e-8)
    assert wasserstein(a, b, p=p) == pytest.approx(ot.emd2([], [], cost) ** (1 / p), rel=1e-10)


def test_wasserstein_in_one_dimension_pairs_the_sorted_values():
    a, b = samples(25, 25, 1, shift=1.0)
    gap = np.sort(a[:, 0]) - np.sort(b[:, 0])
    assert wasserstein(a, b, p=1) == pytest.approx(np.abs(gap).mean())
    assert wasserstein(a, b) == pytest.approx(np.sqrt((gap**2).mean()))


def test_wasserstein_of_a_shifted_copy_is_the_shift():
    a, _ = samples(20, 1, 4)
    assert wasserstein(a, a) == 0
    for p in (1, 2):
        assert wasserstein(a, a + np.array([3, 0, 4, 0]), p=p) == pytest.approx(5)
    assert wasserstein(np.zeros((1, 2)), np.array([[3.0, 4.0]])) == pytest.approx(5)


def test_wasserstein_refuses_other_orders_and_says_when_it_is_not_exact(monkeypatch):
    with pytest.raises(UsageError, match="expected 1 or 2"):
        wasserstein(*samples(), p=3)
    solver = ot.emd2
    monkeypatch.setattr(ot, "emd2", lambda *a, **k: solver(*a, **{**k, "numItermax": 1}))
    with (
        pytest.warns(UserWarning, match="numItermax"),
        pytest.raises(C2SError, match="before the optimum"),
    ):
        wasserstein(*samples())


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
