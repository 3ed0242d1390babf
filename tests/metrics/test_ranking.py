"""Kendall's tau-b against SPEC §7.5, loops and SciPy."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2s.common.errors import InputError
from c2s.metrics import kendall_tau_b

scores = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12)


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


def test_check_vector_of_the_specification():
    assert kendall_tau_b([5, 4, 3, 0, 0, 0], [4, 5, 2, 1, 0, 0]) == pytest.approx(
        0.771517, abs=5e-7
    )


@given(scores)
def test_equal_to_counting_pairs(pairs):
    x, y = map(list, zip(*pairs, strict=True))
    assert kendall_tau_b(x, y) == pytest.approx(tau_b_by_pairs(x, y), nan_ok=True)


def test_same_reversed_and_constant_orders():
    x = np.arange(6)
    assert kendall_tau_b(x, 10 * x) == pytest.approx(1)
    assert kendall_tau_b(x, -x) == pytest.approx(-1)
    assert np.isnan(kendall_tau_b(x, np.ones(6)))


def test_one_value_a_cell():
    x = np.array([[1, 2, 3], [1, 2, 3], [1, 2, 3]])
    y = np.array([[1, 2, 3], [3, 2, 1], [7, 7, 7]])
    values = kendall_tau_b(x, y)
    assert values.shape == (3,)
    np.testing.assert_allclose(values, [1, -1, np.nan])


def test_other_shapes_are_refused():
    with pytest.raises(InputError, match="same genes"):
        kendall_tau_b([1, 2], [1, 2, 3])
    with pytest.raises(InputError, match="same genes"):
        kendall_tau_b(1, 2)
