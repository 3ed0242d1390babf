"""scFID: exact, from moments, and extrapolated, against the textbook formula and known Gaussians."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.linalg import sqrtm

from c2s.common.errors import InputError, UsageError
from c2s.metrics import Moments, frechet, scfid, scfid_from_moments, scfid_infinity, scfid_unbiased


def samples(n=60, m=50, d=4, seed=0, shift=0.0, scale=1.0):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d))
    return rng.normal(size=(n, d)) @ mix, scale * rng.normal(size=(m, d)) @ mix + shift


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


# --- moments ------------------------------------------------------------------------------------


def in_batches(x, *sizes):
    moments = Moments()
    for batch in np.split(x, np.cumsum(sizes)):
        moments.update(batch)
    return moments


@given(
    arrays(
        np.float64, st.tuples(st.integers(2, 12), st.integers(1, 4)), elements=st.floats(-1e3, 1e3)
    ),
    st.data(),
)
@settings(max_examples=60)
def test_moments_of_any_batches_are_those_of_all_cells(x, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(x)), max_size=3)))
    parts = [Moments().update(part) for part in np.split(x, cuts)]
    merged = Moments()
    for part in data.draw(st.permutations(parts)):
        merged.merge(part)
    assert merged.n == len(x)
    np.testing.assert_allclose(merged.mean, x.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(
        merged.covariance(), np.cov(x, rowvar=False).reshape(2 * x.shape[1:]), atol=1e-6
    )


def test_moments_far_from_the_origin_keep_their_digits():
    x = np.random.default_rng(0).normal(size=(500, 3))
    far = in_batches(x + 1e7, 100, 1, 200)
    np.testing.assert_allclose(far.covariance(), np.cov(x, rowvar=False), rtol=1e-6, atol=1e-7)


def test_merging_leaves_the_other_alone():
    part = Moments().update(np.eye(3))
    Moments().merge(part).update(np.ones((5, 3)))
    assert part.n == 3
    np.testing.assert_array_equal(part.mean, np.full(3, 1 / 3))


def test_blocks_do_not_change_the_moments(monkeypatch):
    x, _ = samples(41, 1, 3)
    whole = Moments().update(x)
    monkeypatch.setattr(frechet, "_BLOCK_VALUES", 10)
    np.testing.assert_allclose(Moments().update(x).scatter, whole.scatter, rtol=1e-12)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 5), (10, 14, 24), (2, 30, 4), (30, 30, 30)])
def test_scfid_from_moments_is_scfid(n, m, d):
    a, b = samples(n, m, d, shift=0.3, scale=1.3)
    found = scfid_from_moments(in_batches(a, 1, 5), in_batches(b, 3))
    assert found == pytest.approx(scfid(a, b), rel=1e-6)


def test_large_samples_go_through_moments_and_give_the_same(monkeypatch):
    a, b = samples(300, 250, 8, shift=0.3, scale=1.3)
    constant = np.column_stack([a, np.ones(300)]), np.column_stack([b, np.full(250, 3.0)])
    exact = scfid(a, b), scfid(*constant)
    monkeypatch.setattr(frechet, "_BLOCK_VALUES", 100)
    monkeypatch.setattr(np.linalg, "qr", None)
    assert scfid(a, b) == pytest.approx(exact[0], rel=1e-9)
    assert scfid(*constant) == pytest.approx(exact[1], rel=1e-6)
    assert scfid(a, a + np.array([1, 2, *[0] * 6])) == pytest.approx(5, rel=1e-9)


def test_moments_that_cannot_be_used_are_refused():
    one = Moments().update(np.zeros((1, 2)))
    with pytest.raises(InputError, match="found 1 cells, expected at least 2"):
        scfid_from_moments(one, Moments().update(np.eye(2)))
    with pytest.raises(InputError, match="3 dimensions, expected 2"):
        one.update(np.eye(3))
    with pytest.raises(InputError, match="3 dimensions, expected 2"):
        scfid_from_moments(Moments().update(np.eye(2)), Moments().update(np.eye(3)))
    with pytest.raises(InputError, match="batch: row 0, dimension 1 is nan"):
        one.update(np.array([[0.0, np.nan]]))


# --- the bias and the extrapolation ---------------------------------------------------------------

SPREAD_A = np.diag(np.exp(-np.arange(8) / 3))
SPREAD_B = 1.3 * SPREAD_A[::-1, ::-1]
TRUE = float(np.trace(SPREAD_A + SPREAD_B - 2 * sqrtm(SPREAD_A @ SPREAD_B)))


def draws(n, equal, repeats=40):
    rng = np.random.default_rng(n)
    root_a, root_b = np.sqrt(SPREAD_A), np.sqrt(SPREAD_A if equal else SPREAD_B)
    for _ in range(repeats):
        yield rng.normal(size=(n, 8)) @ root_a, rng.normal(size=(n, 8)) @ root_b


@pytest.mark.parametrize(("equal", "true"), [(True, 0.0), (False, TRUE)])
def test_the_bias_is_there_falls_with_n_and_is_taken_away(equal, true):
    few = np.array([scfid(a, b) for a, b in draws(64, equal)])
    many = np.array([scfid(a, b) for a, b in draws(256, equal)])
    corrected = np.array([scfid_unbiased(a, b) for a, b in draws(64, equal)])
    assert few.mean() - true > 3 * few.std() / np.sqrt(40)
    assert (few.mean() - true) / (many.mean() - true) == pytest.approx(4, abs=2 if equal else 3)
    assert abs(corrected.mean() - true) < 3 * corrected.std() / np.sqrt(40)
    assert abs(corrected.mean() - true) < (few.mean() - true) / 2


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    found = [scfid_infinity(a, b) for a, b in draws(80, False, 30)]
    held = np.mean([f.low <= TRUE <= f.high for f in found])
    assert held >= 0.8
    widths = np.mean([f.high - f.low for f in found])
    assert widths < 8 * np.std([f.value for f in found])
    narrow = scfid_infinity(*next(draws(80, False)), level=0.5)
    assert found[0].low < narrow.low < narrow.value < narrow.high < found[0].high


def test_the_extrapolation_says_what_it_did():
    a, b = next(draws(100, False))
    found = scfid_infinity(a, b, seed=3)
    assert found.fractions[0] == 0.25
    assert found.fractions[-1] == 1
    assert found.scores[-1] == pytest.approx(scfid(a, b))
    assert found.biased == found.scores[-1]
    slope, intercept = np.polyfit(1 / found.fractions, found.scores, 1)
    assert found.value == pytest.approx(intercept)
    assert slope > 0
    again = scfid_infinity(a, b, seed=3)
    assert (again.value, again.low) == (found.value, found.low)
    assert scfid_infinity(a, b, seed=4).value != found.value


def test_samples_of_other_sizes_and_fewer_cells_than_dimensions_can_be_extrapolated():
    rng = np.random.default_rng(0)
    assert np.isfinite(scfid_unbiased(rng.normal(size=(40, 50)), rng.normal(size=(90, 50))))
    assert scfid_unbiased(np.ones((32, 2)), np.ones((40, 2)) + np.array([3, 4])) == pytest.approx(
        25
    )


def test_an_extrapolation_that_cannot_be_made_is_refused():
    with pytest.raises(InputError, match="at least 32 cells"):
        scfid_infinity(*samples(31, 50))
    with pytest.raises(UsageError, match="n_groups"):
        scfid_infinity(*samples(), n_groups=4)
    with pytest.raises(UsageError, match="level"):
        scfid_infinity(*samples(), level=95)
