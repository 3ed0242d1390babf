"""Overlap and form of cell sentences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2s.common.errors import InputError, UsageError
from c2s.metrics import (
    exact_k_fraction,
    multi_cell_overlap,
    overlap,
    unique_fraction,
    valid_fraction,
)

rows = st.lists(st.lists(st.integers(-1, 6), max_size=8), min_size=1, max_size=6)


def ragged(cells):
    columns = np.array([c for cell in cells for c in cell], dtype=np.int32)
    return columns, np.cumsum([0, *map(len, cells)])


def test_overlap_by_hand():
    assert overlap(["A", "B", "C"], ["A", "B", "C"]) == 100
    assert overlap(["C", "B", "A"], ["A", "B", "C"]) == 100  # order does not count
    assert overlap(["A", "A", "X"], ["A", "B", "C", "D"]) == 25  # nor does naming a gene twice
    assert overlap(["A", "B"], ["A", "A", "B", "C"]) == pytest.approx(200 / 3)
    assert overlap([], ["A"]) == 0
    assert isinstance(overlap(["A"], ["A"]), float)


def test_overlap_is_of_the_true_cell():
    assert overlap(["A"], ["A", "B"]) == 50
    assert overlap(["A", "B"], ["A"]) == 100


@pytest.mark.parametrize("as_array", [np.array, list, lambda c: np.array(c, dtype=object)])
def test_overlap_takes_columns_and_words_as_lists_and_arrays(as_array):
    assert overlap(as_array([3, 1, 2]), as_array([1, 2, 8, 9])) == 50
    assert overlap(as_array(["x", "y"]), as_array(["y", "z"])) == 50


def test_overlap_of_rows_gives_one_value_a_row():
    generated = [["A", "B"], ["C"], ["A", "D", "E"]]
    true = [["A", "B"], ["A"], ["D", "E", "F", "G"]]
    np.testing.assert_array_equal(overlap(generated, true), [100, 0, 50])
    matrix = np.array([[0, 1, 2], [3, 4, 5]])
    np.testing.assert_allclose(overlap(matrix, matrix[:, ::-1]), [100, 100])
    np.testing.assert_allclose(overlap(matrix, matrix + 1), [200 / 3, 200 / 3])


def test_overlap_words_that_are_not_genes_count_on_neither_side():
    assert overlap(np.array([-1, 5, -1]), np.array([5, 6, -1])) == 50


def test_overlap_cut_to_the_same_number_of_genes():
    generated, true = ["A", "X", "B", "C"], ["A", "B", "C", "D"]
    assert overlap(generated, true) == 75
    assert overlap(generated, true, k=2) == 50


def test_overlap_without_true_genes_is_undefined():
    assert np.isnan(overlap(["A"], []))
    assert np.isnan(overlap([["A"], ["A"]], [["A"], []])).tolist() == [False, True]


@given(st.lists(st.text("ABCDEFG", min_size=1, max_size=1), min_size=1), st.data())
def test_overlap_grows_with_genes_that_are_right(true, data):
    kept = data.draw(st.integers(0, len(true)))
    part, whole = overlap(true[:kept], true), overlap(true, true)
    assert 0 <= part <= whole == 100
    assert part == pytest.approx(100 * len(set(true[:kept])) / len(set(true)))


def test_overlap_refuses_what_cannot_be_paired():
    with pytest.raises(InputError, match="2 generated and 1 true"):
        overlap([["A"], ["B"]], [["A"]])
    with pytest.raises(InputError, match="one cell on one side"):
        overlap(["A", "B"], [["A"], ["B"]])
    with pytest.raises(InputError, match="expected a list of words"):
        overlap("A B C", "A B D")
    with pytest.raises(InputError, match="expected a list of words"):
        overlap([["A"], "B C"], [["A"], ["B"]])
    with pytest.raises(UsageError, match="k: found 0"):
        overlap(["A"], ["A"], k=0)


def test_multi_cell_overlap_counts_missing_cells_as_0_and_forgets_extra_ones():
    true = [["A"], ["B", "C"], ["D"], ["E"]]
    assert multi_cell_overlap([["A"], ["B"]], true) == (100 + 50) / 4
    assert multi_cell_overlap([*true, ["F"]], true) == 100
    assert multi_cell_overlap([], true) == 0
    with pytest.raises(InputError, match="no true cells"):
        multi_cell_overlap([["A"]], [])


def test_form_by_hand():
    columns, indptr = ragged([[4, 2, 4], [-1, 2], [], [7, -1, -1]])
    assert valid_fraction(columns, indptr) == 5 / 8
    assert unique_fraction(columns, indptr) == 4 / 5
    assert exact_k_fraction(columns, indptr, 3) == 0.5
    assert exact_k_fraction(columns, indptr, 0) == 0.25


@given(rows)
def test_form_equals_loops(cells):
    columns, indptr = ragged(cells)
    genes = [[c for c in cell if c >= 0] for cell in cells]
    words, valid = sum(map(len, cells)), sum(map(len, genes))
    distinct = sum(len(set(cell)) for cell in genes)
    expected = (valid / words if words else np.nan, distinct / valid if valid else np.nan)
    assert valid_fraction(columns, indptr) == pytest.approx(expected[0], nan_ok=True)
    assert unique_fraction(columns, indptr) == pytest.approx(expected[1], nan_ok=True)
    for k in range(4):
        assert exact_k_fraction(columns, indptr, k) == np.mean([len(c) == k for c in cells])


def test_form_of_a_flawless_generator():
    columns, indptr = ragged([[3, 1, 2], [2, 1, 0]])
    assert valid_fraction(columns, indptr) == unique_fraction(columns, indptr) == 1
    assert exact_k_fraction(columns, indptr, 3) == 1


@pytest.mark.parametrize("indptr", [[0], [0, 2], [1, 3], [0, 3, 2, 3], [[0, 3]]])
@pytest.mark.parametrize("metric", [valid_fraction, unique_fraction])
def test_form_refuses_rows_that_do_not_fit(metric, indptr):
    with pytest.raises(InputError, match="indptr"):
        metric(np.array([1, 2, 3]), np.array(indptr))
