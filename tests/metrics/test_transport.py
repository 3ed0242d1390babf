"""Wasserstein distances against assignments, linear programmes, SciPy and POT."""

import numpy as np
import ot
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from c2s.common.errors import C2SError, UsageError
from c2s.metrics import transport, wasserstein


def samples(n=60, m=50, d=4, seed=0, shift=0.0, scale=1.0):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d))
    return rng.normal(size=(n, d)) @ mix, scale * rng.normal(size=(m, d)) @ mix + shift


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


# --- Sinkhorn ------------------------------------------------------------------------------------


def sinkhorn_by_pot(a, b, p, regularisation):
    """Entropic costs from POT's plans: the debiased divergence."""
    epsilon = regularisation * np.mean(cdist(a, a) ** p)

    def cost(x, y):
        distances = cdist(x, y) ** p
        u, v = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
        plan = ot.bregman.sinkhorn_log(u, v, distances, epsilon, numItermax=100_000, stopThr=1e-13)
        entropy = np.sum(plan * np.log(np.maximum(plan, 1e-300) / np.outer(u, v)))
        return np.sum(plan * distances) + epsilon * entropy

    return max(0, cost(a, b) - (cost(a, a) + cost(b, b)) / 2) ** (1 / p)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize(("n", "m", "d"), [(20, 31, 4), (15, 15, 1), (2, 6, 3), (2, 1, 2)])
def test_sinkhorn_equals_the_divergence_from_the_plans_of_pot(p, n, m, d):
    a, b = samples(n, m, d, shift=0.7, scale=1.3)
    found = wasserstein(a, b, p=p, method="sinkhorn", regularisation=0.2)
    assert found == pytest.approx(sinkhorn_by_pot(a, b, p, 0.2), rel=1e-6)


@pytest.mark.parametrize("p", [1, 2])
def test_sinkhorn_tends_to_the_exact_distance(p):
    a, b = samples(40, 30, 3, shift=0.5)
    exact = wasserstein(a, b, p=p)
    gaps = [
        abs(wasserstein(a, b, p=p, method="sinkhorn", regularisation=r) - exact)
        for r in (0.5, 0.05, 0.005)
    ]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.01 * exact


def test_sinkhorn_of_equal_samples_is_0_and_of_a_shifted_copy_the_shift():
    a, _ = samples(25, 1, 4)
    assert wasserstein(a, a[::-1], method="sinkhorn") == pytest.approx(0, abs=1e-5)
    assert wasserstein(a, a + np.array([3, 0, 4, 0]), method="sinkhorn") == pytest.approx(
        5, rel=1e-6
    )
    assert wasserstein(
        a + 1e4, a + 1e4 + np.array([3, 0, 4, 0]), method="sinkhorn"
    ) == pytest.approx(5, rel=1e-6)


@pytest.mark.parametrize("method", ["exact", "sinkhorn"])
@pytest.mark.parametrize("p", [1, 2])
def test_cells_that_are_all_equal(method, p):
    assert wasserstein(np.ones((4, 2)), np.ones((3, 2)), p, method=method) == 0
    found = wasserstein(np.zeros((4, 2)), np.tile([3.0, 4.0], (5, 1)), p, method=method)
    assert found == pytest.approx(5)
    assert wasserstein(np.zeros((1, 2)), np.array([[3.0, 4.0]]), p, method=method) == pytest.approx(
        5
    )


def test_a_generator_has_no_say_in_the_regularisation():
    a, b = samples(20, 20, 2)
    shifted = [wasserstein(a, b + s, method="sinkhorn", regularisation=0.3) for s in (50, 100)]
    # For a far sample the divergence is the shift and something that only the shapes decide.
    assert shifted[1] - shifted[0] == pytest.approx(50 * np.sqrt(2), rel=1e-3)


def test_sinkhorn_blocks_do_not_change_the_value(monkeypatch):
    a, b = samples(23, 17, 3, shift=0.2)
    whole = wasserstein(a, b, method="sinkhorn", regularisation=0.3)
    monkeypatch.setattr(transport, "_BLOCK_VALUES", 40)
    assert wasserstein(a, b, method="sinkhorn", regularisation=0.3) == pytest.approx(
        whole, rel=1e-9
    )


def test_auto_is_exact_up_to_a_number_of_pairs(monkeypatch):
    a, b = samples(20, 20, 2, shift=0.4)
    exact, sinkhorn = wasserstein(a, b), wasserstein(a, b, method="sinkhorn")
    assert exact != sinkhorn
    assert wasserstein(a, b, method="auto") == exact
    monkeypatch.setattr(transport, "WASSERSTEIN_EXACT_PAIRS", 399)
    assert wasserstein(a, b, method="auto") == sinkhorn
    assert wasserstein(a, b) == exact


def test_exact_equals_scipy_in_one_dimension():
    a, b = samples(17, 12, 1, shift=0.4)
    assert wasserstein(a, b, p=1) == pytest.approx(wasserstein_distance(a[:, 0], b[:, 0]), rel=1e-9)


def test_sinkhorn_says_when_it_did_not_converge(monkeypatch):
    monkeypatch.setattr(transport, "_MAX_STEPS", 2)
    with pytest.raises(C2SError, match="did not converge in 2 steps"):
        wasserstein(*samples(), method="sinkhorn")
    with pytest.raises(UsageError, match="method"):
        wasserstein(*samples(), method="fast")
    with pytest.raises(UsageError, match="regularisation"):
        wasserstein(*samples(), method="sinkhorn", regularisation=0)
