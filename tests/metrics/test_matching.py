"""FOSCTTM against SPEC §9 and the formula on distances as GLUE publishes it."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from c2s.common.errors import InputError
from c2s.metrics import foscttm, matching


def on_distances(x, y):
    """GLUE's definition: for each sample, the share of the other side strictly nearer than its match."""
    d = cdist(x, y)
    own = np.diag(d)
    of_x = np.array([np.sum(d[i] < own[i]) for i in range(len(x))]) / len(x)
    of_y = np.array([np.sum(d[:, j] < own[j]) for j in range(len(y))]) / len(y)
    return np.concatenate([of_x, of_y]).mean()


def test_check_vectors_of_the_specification():
    assert foscttm([[0.9, 0.2, 0.1], [0.95, 0.8, 0.3], [0.4, 0.85, 0.7]]) == pytest.approx(
        0.222222, abs=5e-7
    )
    assert foscttm(np.eye(5)) == 0
    random = np.random.default_rng(0).normal(size=(400, 400))
    assert foscttm(random) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("n", [1, 2, 7, 60])
def test_equal_to_the_formula_on_distances(n):
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(2, n, 3))
    y = (x + y).round(0) if n == 60 else x + y  # ties
    assert foscttm(-cdist(x, y)) == pytest.approx(on_distances(x, y), rel=1e-12)


def test_the_worst_order_and_ties():
    n = 5
    assert foscttm(1 - np.eye(n)) == pytest.approx((n - 1) / n)
    assert foscttm(np.ones((n, n))) == 0


def test_others_of_a_group_are_neither_matches_nor_wrong():
    rng = np.random.default_rng(0)
    bulk = np.repeat(rng.normal(size=(6, 4)), 3, axis=0)
    cells = bulk + 0.8 * rng.normal(size=bulk.shape)
    groups = np.repeat(list("abcdef"), 3)
    s = -cdist(cells, bulk)
    shares = []
    for i in range(len(s)):
        strangers = [j for j in range(len(s)) if groups[j] != groups[i]]
        shares.append(np.sum(s[i, strangers] > s[i, i]) / (len(strangers) + 1))
        shares.append(np.sum(s[strangers, i] > s[i, i]) / (len(strangers) + 1))
    assert foscttm(s, groups=groups) == pytest.approx(np.mean(shares))
    assert foscttm(s, groups=groups) != foscttm(s)
    assert foscttm(s, groups=np.arange(len(s))) == foscttm(s)


def test_a_cell_is_not_wrong_when_it_finds_its_own_pseudobulk():
    s = np.array([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert foscttm(s) > 0
    assert foscttm(s, groups=["a", "a", "b"]) == 0
    assert np.isnan(foscttm(s, groups=["a", "a", "a"]))


def test_blocks_do_not_change_the_value(monkeypatch):
    s = np.random.default_rng(0).normal(size=(23, 23))
    groups = np.arange(23) // 2
    whole = foscttm(s, groups=groups)
    monkeypatch.setattr(matching, "_BLOCK_VALUES", 60)
    assert foscttm(s, groups=groups) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(
    ("similarity", "groups", "message"),
    [
        (np.zeros((2, 3)), None, "expected a square"),
        (np.zeros((0, 0)), None, "0 cells"),
        (np.array([[1.0, np.nan], [0, 1]]), None, "row 0, dimension 1 is nan"),
        (np.eye(3), ["a", "b"], "expected one per pair"),
        (np.eye(2), ["a", None], "has no label"),
    ],
)
def test_what_is_no_table_of_pairs_is_refused(similarity, groups, message):
    with pytest.raises(InputError, match=message):
        foscttm(similarity, groups=None if groups is None else np.array(groups, dtype=object))
