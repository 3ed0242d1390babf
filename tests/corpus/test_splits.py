"""Splits are stratified, disjoint and repeatable."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2s.common.errors import UsageError
from c2s.corpus.splits import PARTS, split_by_hash, split_cells, split_groups
from c2s.datasets import pancreas


def sizes(parts):
    return [int((parts == part).sum()) for part in PARTS]


def test_shares_within_each_label():
    labels = np.repeat(["a", "b", "c"], [1000, 100, 10])
    parts = split_cells(labels)
    assert [sizes(parts[labels == x]) for x in "abc"] == [[700, 100, 200], [70, 10, 20], [7, 1, 2]]


@pytest.mark.parametrize(
    ("n", "expected"),
    [(1, [1, 0, 0]), (2, [2, 0, 0]), (3, [2, 0, 1]), (4, [3, 0, 1]), (0, [0, 0, 0])],
)
def test_labels_with_few_cells(n, expected):
    labels = ["rare"] * n + ["common"] * 50
    assert sizes(split_cells(labels)[:n]) == expected


@given(
    st.lists(st.sampled_from(["a", "b", "c", 1, 2.5, None, True]), max_size=60),
    st.sampled_from(
        [(0.7, 0.1, 0.2), (1.0, 0.0, 0.0), (0.0, 0.5, 0.5), (0.8, 0.2, 0.0), (0, 0, 1)]
    ),
    st.integers(0, 3),
)
def test_every_cell_is_in_one_part_and_shares_are_rounded(labels, fractions, seed):
    parts = split_cells(labels, fractions, seed)
    assert parts.shape == (len(labels),)
    assert set(parts) <= set(PARTS)
    text = np.array([str(label) for label in labels], dtype=object)
    for label in set(text):
        mine = parts[text == label]
        _, n_val, n_test = sizes(mine)
        assert n_test == round(fractions[2] * len(mine))
        assert n_val == min(round(fractions[1] * len(mine)), len(mine) - n_test)


@pytest.mark.parametrize(
    "labels",
    [
        [1] * 50 + [2] * 50,
        np.repeat([0, 1], 50),
        [float("nan")] * 100,
        [None] * 100,
        pd.Series(["x"] * 100, dtype="category"),
        pd.Categorical(["x"] * 50 + ["y"] * 50),
        np.array(["x"] * 100),
        pd.Series(pd.array(["x"] * 50 + [None] * 50, dtype="string")),
    ],
    ids=["int", "int array", "nan", "None", "categorical", "Categorical", "str array", "string"],
)
def test_labels_of_any_type_are_split(labels):
    assert sizes(split_cells(labels)) == [70, 10, 20]


def test_the_seed_draws_the_split_and_nothing_else_does():
    labels = pancreas().obs["cell_type"]
    parts = split_cells(labels, seed=0)
    np.random.seed(0)  # noqa: NPY002 - global state must not matter
    np.testing.assert_array_equal(split_cells(labels.to_numpy(), seed=0), parts)
    other = split_cells(labels, seed=1)
    assert sizes(other) == sizes(parts)
    # Two independent draws of 20 % share 4 % of the cells.
    both = ((parts == "test") & (other == "test")).mean()
    assert 0.02 < both < 0.06


def test_other_labels_do_not_move_the_cells_of_a_label():
    labels = np.array(["a"] * 30 + ["b"] * 30, dtype=object)
    renamed = np.array(["a"] * 30 + ["c"] * 30, dtype=object)
    np.testing.assert_array_equal(split_cells(labels)[:30], split_cells(renamed)[:30])
    assert (split_cells(labels)[:30] != split_cells(labels)[30:]).any()


def test_every_cell_is_tested_about_as_often():
    tested = np.mean([split_cells(["a"] * 50, seed=s) == "test" for s in range(400)], axis=0)
    assert tested.mean() == pytest.approx(0.2)
    assert np.abs(tested - 0.2).max() < 5 * (0.2 * 0.8 / 400) ** 0.5


@pytest.mark.parametrize("fractions", [(0.7, 0.1, 0.1), (1.1, -0.1, 0.0), (0.5, 0.5, 0.5)])
def test_shares_that_are_none_are_refused(fractions):
    with pytest.raises(UsageError, match="must be ≥ 0 and sum to 1"):
        split_cells(["a"], fractions)


# --- whole donors, and single cells by their hashes -----------------------------------------------


@given(
    st.sets(st.text(max_size=4), max_size=40),
    st.sampled_from(
        [(0.8, 0.1, 0.1), (0.5, 0.5, 0.0), (0.0, 0.5, 0.5), (1.0, 0.0, 0.0), (0, 0, 1)]
    ),
    st.integers(0, 3),
)
def test_every_group_is_in_one_part_and_no_part_is_empty(groups, fractions, seed):
    found = split_groups(sorted(groups), fractions, seed, "donors", "study")
    assert set(found) == groups
    n = [sum(p == part for p in found.values()) for part in PARTS]
    for k, part in enumerate(PARTS[1:], start=1):
        wanted = round(fractions[k] * len(groups))
        if len(groups) >= 3:
            wanted = max(wanted, 1) if fractions[k] else 0
        if part == "test":
            assert n[2] == min(wanted, len(groups))
        else:
            assert n[1] == min(wanted, len(groups) - n[2])
    if fractions[0] >= 0.5 and len(groups) >= 3:
        assert n[0] > 0


def test_groups_are_split_by_seed_and_keys_whatever_their_order():
    groups = [f"d{i}" for i in range(20)]
    shares = (0.6, 0.2, 0.2)
    first = split_groups(groups, shares, 0, "donors", "A")
    assert split_groups(groups[::-1], shares, 0, "donors", "A") == first
    assert split_groups(groups, shares, 0, "donors", "B") != first
    assert split_groups(groups, shares, 1, "donors", "A") != first
    assert sorted(first.values()) == ["test"] * 4 + ["train"] * 12 + ["val"] * 4


def test_every_group_is_tested_about_as_often():
    tested = np.zeros(6)
    for seed in range(600):
        found = split_groups(list("abcdef"), (0.6, 0.2, 0.2), seed)
        tested += [found[g] == "test" for g in "abcdef"]
    assert tested.sum() == 600
    assert np.abs(tested - 100).max() < 50


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.1), (0.0, 0.0, 1.0), (0.25, 0.75, 0.0)])
def test_cells_split_by_hash_have_the_shares(fractions):
    keys = np.random.default_rng(0).integers(0, 2**64, size=50_000, dtype=np.uint64)
    parts = split_by_hash(keys, fractions)
    for k, share in enumerate(fractions):
        assert (parts == k).mean() == pytest.approx(share, abs=0.01)
    np.testing.assert_array_equal(split_by_hash(keys[::7], fractions), parts[::7])


def test_the_lowest_and_the_highest_hash():
    keys = np.array([0, 2**64 - 1], np.uint64)
    assert split_by_hash(keys, (0.8, 0.1, 0.1)).tolist() == [2, 0]
    assert split_by_hash(keys, (0.0, 0.0, 1.0)).tolist() == [2, 2]
    assert split_by_hash(keys, (0.0, 1.0, 0.0)).tolist() == [1, 1]
