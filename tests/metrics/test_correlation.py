"""Rank and linear correlations against SPEC §7.5, counting pairs, and SciPy row by row."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from c2s.common.errors import InputError
from c2s.metrics import correlation, kendall_tau_b, pearson, rank_kernels, spearman

ALL = [kendall_tau_b, spearman, pearson]
SCIPY = {
    kendall_tau_b: lambda x, y: stats.kendalltau(x, y, variant="b").statistic,
    spearman: lambda x, y: stats.spearmanr(x, y).statistic,
    pearson: lambda x, y: stats.pearsonr(x, y).statistic,
}
rng = np.random.default_rng(0)


def by_scipy(metric, x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant rows
        return np.array([SCIPY[metric](a, b) for a, b in zip(x, y, strict=True)])


def tau_b_by_pairs(x, y):
    concordant = discordant = tied_x = tied_y = 0
    for i, j in itertools.combinations(range(len(x)), 2):
        product = np.sign(x[i] - x[j]) * np.sign(y[i] - y[j])
        concordant += product > 0
        discordant += product < 0
        tied_x += x[i] == x[j]
        tied_y += y[i] == y[j]
    pairs = len(x) * (len(x) - 1) / 2
    root = np.sqrt((pairs - tied_x) * (pairs - tied_y))
    return (concordant - discordant) / root if root else np.nan


def profiles(kind, cells, genes):
    x = {
        "continuous": lambda: rng.normal(size=(cells, genes)),
        "counts": lambda: rng.poisson(0.7, size=(cells, genes)),
        "two values": lambda: rng.integers(2, size=(cells, genes)) * 1e-300,
        "large and far": lambda: 1e12 + rng.normal(size=(cells, genes)),
        # Values that only the last bits tell apart: the sort packs these away and has to put them right.
        "last bits": lambda: 1 + rng.integers(40, size=(cells, genes)) * np.spacing(1.0),
        "signs": lambda: rng.choice([-2.0, -1.0, -0.0, 0.0, 1.0], size=(cells, genes)),
        "infinite": lambda: rng.choice([-np.inf, -1.0, 2.0, np.inf], size=(cells, genes)),
    }[kind]()
    return x, np.where(rng.random(x.shape) < 0.4, x, rng.permuted(x, axis=1))


KINDS = ["continuous", "counts", "two values", "large and far", "last bits", "signs"]


def test_check_vector_of_the_specification():
    assert kendall_tau_b([5, 4, 3, 0, 0, 0], [4, 5, 2, 1, 0, 0]) == pytest.approx(
        0.771517, abs=5e-7
    )


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("genes", [2, 3, 40, 150, 1500])
def test_equal_to_scipy_row_by_row(metric, kind, genes):
    x, y = profiles(kind, 4, genes)
    # SciPy's mean of values far from 0 costs digits (it warns of it); these differences are exact.
    near = (x - x[:, :1], y - y[:, :1]) if metric is pearson else (x, y)
    np.testing.assert_allclose(metric(x, y), by_scipy(metric, *near), atol=1e-9)


@pytest.mark.parametrize("metric", [kendall_tau_b, spearman])
@pytest.mark.parametrize("genes", [3, 150])
def test_infinite_values_are_the_largest_and_smallest_as_in_scipy(metric, genes):
    x, y = profiles("infinite", 5, genes)
    np.testing.assert_allclose(metric(x, y), by_scipy(metric, x, y), atol=1e-9)


pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12)


@given(pairs)
@settings(deadline=None)
def test_tau_is_counting_pairs(cells):
    x, y = map(list, zip(*cells, strict=True))
    assert kendall_tau_b(x, y) == pytest.approx(tau_b_by_pairs(x, y), nan_ok=True)


values = st.floats(allow_nan=False, width=64) | st.integers(-2, 2).map(float)


@given(
    st.integers(1, 70).flatmap(lambda n: arrays(np.float64, (2, n), elements=values)),
    st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=80)
def test_all_ways_to_count_give_the_same_bits(rows, seed):
    x = rows[:1] + 0.0
    y = np.random.default_rng(seed).permutation(rows[1])[None] + 0.0
    expected, found = np.empty(1), np.empty(1)
    rank_kernels.tau_b_by_pairs(x, y, expected)
    (keys_x, bits), (keys_y, _) = correlation._sorted_keys(x), correlation._sorted_keys(y)
    for short in (True, False):
        rank_kernels.tau_b_by_sorting(x, y, keys_x, keys_y, bits, short, found)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("metric", [kendall_tau_b, spearman])
def test_blocks_of_rows_do_not_change_the_values(metric, monkeypatch):
    x, y = profiles("counts", 11, 90)
    whole = metric(x, y)
    monkeypatch.setattr(correlation, "_BLOCK_VALUES", 200)
    np.testing.assert_array_equal(metric(x, y), whole)


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("genes", [6, 200])
def test_same_reversed_and_constant_orders(metric, genes):
    x = np.arange(genes)
    assert metric(x, 10 * x) == pytest.approx(1)
    assert metric(x, -x) == pytest.approx(-1)
    assert np.isnan(metric(x, np.full(genes, 0.1)))
    assert np.isnan(metric(np.full(genes, 0.1), np.full(genes, 0.1)))


@pytest.mark.parametrize("metric", ALL)
def test_undefined_where_scipy_is(metric):
    x = np.array([[1.0, 2, 3], [1, np.nan, 3], [1, 2, 3], [0.1, 0.1, 0.1]])
    y = np.array([[1.0, 2, 3], [1, 2, 3], [np.nan] * 3, [1, 2, 3]])
    found = metric(x, y)
    np.testing.assert_array_equal(np.isnan(found), [False, True, True, True])
    np.testing.assert_array_equal(np.isnan(by_scipy(metric, x, y)), np.isnan(found))
    wide = np.tile(x, 40), np.tile(y, 40)
    np.testing.assert_array_equal(np.isnan(metric(*wide)), np.isnan(found))


@pytest.mark.parametrize("metric", ALL)
def test_one_gene_no_gene_and_no_cell(metric):
    assert np.isnan(metric([1.0], [2.0]))
    assert np.isnan(metric([], []))
    assert metric(np.zeros((0, 5)), np.zeros((0, 5))).shape == (0,)
    assert metric(np.zeros((0, 500)), np.zeros((0, 500))).shape == (0,)
    np.testing.assert_array_equal(metric(np.zeros((3, 0)), np.zeros((3, 0))), [np.nan] * 3)
    assert isinstance(metric([1.0, 2.0], [1.0, 2.0]), float)


def test_pearson_of_an_infinite_value_is_undefined_and_of_extreme_ones_is_not():
    assert np.isnan(pearson([1, np.inf, 2], [1, 2, 3]))
    x = np.array([1.0, 2, 4])
    for scale in (1e-200, 1e200):
        assert pearson(x * scale, x[::-1]) == pytest.approx(pearson(x, x[::-1]))


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("per_cell", [True, False])
def test_differences_from_control(metric, per_cell):
    x, y = profiles("continuous", 3, 30)
    control = rng.normal(size=(3, 30) if per_cell else 30) * 5
    found = metric(x, y, delta=control)
    np.testing.assert_allclose(found, by_scipy(metric, x - control, y - control), atol=1e-9)
    assert metric(x + 100 * control, y + 100 * control).min() > 0.8  # the control hides everything


@pytest.mark.parametrize("metric", ALL)
def test_a_programme_is_its_columns(metric):
    x, y = profiles("continuous", 3, 30)
    genes = [3, 7, 8, 20]
    np.testing.assert_allclose(
        metric(x[:, genes], y[:, genes]), by_scipy(metric, x[:, genes], y[:, genes]), atol=1e-9
    )


@pytest.mark.parametrize("metric", ALL)
def test_strided_and_integer_input(metric):
    x, y = profiles("counts", 8, 300)
    expected = metric(np.ascontiguousarray(x[::2, ::3]), np.ascontiguousarray(y[::2, ::3]))
    np.testing.assert_array_equal(metric(x[::2, ::3], y[::2, ::3]), expected)
    before = x.copy()
    metric(x, y, delta=x[0])
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("metric", ALL)
def test_other_shapes_are_refused(metric):
    with pytest.raises(InputError, match="same genes"):
        metric([1, 2], [1, 2, 3])
    with pytest.raises(InputError, match="same genes"):
        metric(1, 2)
    with pytest.raises(InputError, match="control"):
        metric([1, 2, 3], [1, 2, 3], delta=[1, 2])
    with pytest.raises(InputError, match="expected numbers"):
        metric(["a", "b"], ["a", "b"])
