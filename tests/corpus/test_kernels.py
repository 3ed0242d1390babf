"""The compiled looks at cells say what numpy says."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from c2s.common.seeds import text_keys
from c2s.corpus.kernels import (
    FINE,
    NEGATIVE,
    NOT_FINITE,
    OUT_OF_RANGE,
    count_cells_per_gene,
    look_at_rows,
)

N_GENES = 9
KEYS = text_keys([f"G{i}" for i in range(N_GENES)])
MITOCHONDRIAL = np.arange(N_GENES) % 4 == 1


def look(data, indices, indptr, mitochondrial=MITOCHONDRIAL, keys=KEYS):
    """Return (ascending, wrong, expressed, share, content) of CSR arrays."""
    n = len(indptr) - 1
    out = np.full(n, 99, np.uint8), np.empty(n, np.int64), np.empty(n), np.empty(n, np.uint64)
    ascending = look_at_rows(
        np.asarray(data), np.asarray(indices, np.int32), np.asarray(indptr, np.int64), len(keys), keys,
        mitochondrial, *out,
    )  # fmt: skip
    return ascending, *out


def one(data, indices, **kwargs):
    ascending, wrong, expressed, share, content = look(data, indices, [0, len(indices)], **kwargs)
    return bool(ascending), int(wrong[0]), int(expressed[0]), float(share[0]), int(content[0])


values = st.one_of(st.integers(0, 6), st.sampled_from([0.5, 1.25, 3e-3, 2.0**17, 1e6]))
rows = st.lists(st.dictionaries(st.integers(0, N_GENES - 1), values, max_size=N_GENES), max_size=6)


@settings(max_examples=60, deadline=None)
@given(rows, st.sampled_from([np.float32, np.float64]), st.randoms(use_true_random=False))
def test_rows_are_as_numpy_says(cells, dtype, random):
    """Stored zeros and columns in any order."""
    shuffled = [random.sample(sorted(c.items()), len(c)) for c in cells]
    data = np.array([v for c in shuffled for _, v in c], dtype)
    indices = np.array([g for c in shuffled for g, _ in c], np.int32)
    indptr = np.concatenate([[0], np.cumsum([len(c) for c in cells])]).astype(np.int64)
    ascending, wrong, expressed, share, _ = look(data, indices, indptr)
    dense = sp.csr_matrix((data, indices, indptr), shape=(len(cells), N_GENES)).toarray()
    assert ascending == all(sorted(g for g, _ in c) == [g for g, _ in c] for c in shuffled)
    assert (wrong == FINE).all()
    np.testing.assert_array_equal(expressed, (dense > 0).sum(axis=1))
    total = dense.astype(float).sum(axis=1)
    mine = dense.astype(float)[:, MITOCHONDRIAL].sum(axis=1)
    np.testing.assert_allclose(share, 100 * mine / np.where(total > 0, total, 1), rtol=1e-12)


@pytest.mark.parametrize(
    ("data", "indices", "wrong"),
    [
        ([1.0, np.nan], [0, 1], NOT_FINITE),
        ([np.inf, 1.0], [0, 1], NOT_FINITE),
        ([-np.inf, 1.0], [0, 1], NOT_FINITE),
        ([1.0, -0.5], [0, 1], NEGATIVE),
        ([1.0, -1.0, np.nan], [0, 1, 2], NEGATIVE),
        ([1.0, np.nan, -1.0], [0, 1, 2], NOT_FINITE),
        ([1.0, 1.0], [0, N_GENES], OUT_OF_RANGE),
        ([1.0, 1.0], [-1, 3], OUT_OF_RANGE),
        ([np.nan, 1.0], [0, N_GENES + 5], OUT_OF_RANGE),
        ([-0.0, 0.0], [0, 1], FINE),
        ([], [], FINE),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_wrong_with_a_row_is_said_of_that_row_only(data, indices, wrong, dtype):
    n = len(data)
    _, found, expressed, _, _ = look(
        np.array([5, *data, 7], dtype), [3, *indices, 4], [0, 1, n + 1, n + 2]
    )
    assert found.tolist() == [FINE, wrong, FINE]
    assert expressed[[0, 2]].tolist() == [1, 1]


def test_whole_numbers_of_any_type():
    fine = one(np.array([1, 2, 3.0]), [0, 1, 5])
    for dtype in (
        np.int8,
        np.uint8,
        np.int16,
        np.uint16,
        np.int32,
        np.uint32,
        np.int64,
        np.float32,
    ):
        assert one(np.array([1, 2, 3], dtype), [0, 1, 5]) == fine
    assert one(np.array([1, -2], np.int32), [0, 1])[1] == NEGATIVE


@pytest.mark.parametrize(
    ("indices", "ascending"),
    [([0, 1, 2], True), ([0, 2, 1], False), ([0, 1, 1], False), ([5], True), ([], True)],
    ids=["ascending", "unsorted", "twice", "one", "none"],
)
def test_order_of_columns(indices, ascending):
    assert one(np.ones(len(indices)), indices)[0] is ascending
    # A column that is lower than the last of the row before is fine.
    both = look(np.ones(len(indices) + 1), [8, *indices], [0, 1, len(indices) + 1])[0]
    assert both == ascending


def test_without_mitochondrial_genes_there_is_no_share():
    none = np.empty(0, bool)
    with_share, without = (
        one(np.arange(1.0, 8), range(7), mitochondrial=m) for m in (MITOCHONDRIAL, none)
    )
    assert with_share[3] > 0
    assert without[3] == 0
    assert with_share[:3] + with_share[4:] == without[:3] + without[4:]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.integers(0, N_GENES - 1), values, min_size=1),
    st.randoms(use_true_random=False),
)
def test_a_fingerprint_is_of_the_content_only(cell, random):
    pairs = sorted(cell.items())
    first = one(np.array([v for _, v in pairs], np.float32), [g for g, _ in pairs])[4]
    random.shuffle(pairs)
    padding = [g for g in range(N_GENES) if g not in cell]  # stored zeros
    again = np.array([float(np.float32(v)) for _, v in pairs] + [0.0] * len(padding), np.float64)
    assert one(again, [g for g, _ in pairs] + padding)[4] == first
    # Other columns of a file with other genes before them.
    moved = np.concatenate([text_keys(["X", "Y"]), KEYS])
    shifted = one(
        again,
        [g + 2 for g, _ in pairs] + [g + 2 for g in padding],
        keys=moved,
        mitochondrial=np.empty(0, bool),
    )
    assert shifted[4] == first


def test_fingerprints_of_other_cells_differ():
    rng = np.random.default_rng(0)
    dense = rng.poisson(0.7, size=(3000, N_GENES))
    cells = np.unique(dense[dense.any(axis=1)], axis=0)
    matrix = sp.csr_matrix(cells.astype(np.float32))
    content = look(matrix.data, matrix.indices, matrix.indptr)[4]
    assert len(set(content.tolist())) == len(cells) > 500
    # The same values in other genes, and values that swap their genes.
    assert one([1.0, 2.0], [0, 1])[4] != one([2.0, 1.0], [0, 1])[4] != one([1.0, 2.0], [0, 2])[4]
    assert one([0.1], [0])[4] != one([0.2], [0])[4]
    assert one([1e6], [0])[4] != one([1e6 + 1], [0])[4]


@settings(max_examples=40, deadline=None)
@given(rows, st.data())
def test_cells_of_each_gene_are_as_numpy_says(cells, data):
    dense = np.zeros((len(cells), N_GENES))
    for i, cell in enumerate(cells):
        dense[i, list(cell)] = list(cell.values())
    stored = [sorted(c.items()) for c in cells]  # stored zeros among them
    arrays = (
        np.array([v for c in stored for _, v in c], np.float32),
        np.array([g for c in stored for g, _ in c], np.int32),
        np.concatenate([[0], np.cumsum([len(c) for c in stored])]).astype(np.int64),
    )
    kept = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(cells), max_size=len(cells))), bool
    )
    out = np.arange(N_GENES)
    count_cells_per_gene(*arrays, kept, out)
    np.testing.assert_array_equal(out, np.arange(N_GENES) + (dense[kept] > 0).sum(axis=0))
