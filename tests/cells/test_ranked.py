"""Ranks: the order within a cell, and that nothing but the cell decides its ties (SPEC §2)."""

import functools

import numba
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from c2s.cells import kernels, ranked
from c2s.cells.ranked import RankedCells, rank_matrix
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError
from c2s.common.seeds import cell_keys, mix64
from c2s.datasets import pancreas

VALUE_TYPES = ["bool", "uint8", "uint16", "uint32", "int16", "int32", "int64", "float32", "float64"]
#: The kernel is compiled anew for wide indices, so one type of values stands for all of them there.
DTYPES = [
    *((dtype, "int32") for dtype in VALUE_TYPES),
    pytest.param("float32", "int64", marks=pytest.mark.slow),
]


@functools.cache
def genes(n):
    return GeneVocabulary([f"G{i}" for i in range(n)])


def ids(n):
    return [f"cell{i}" for i in range(n)]


def reference(
    dense, vocabulary, cell_ids, *, seed=0, top_k=None, selected=None, alphabetical=False
):
    """Rank by NumPy: a list of columns per cell."""
    rows = []
    for row, key in zip(np.asarray(dense), cell_keys(cell_ids, seed), strict=True):
        if alphabetical:
            tie = np.argsort(np.argsort(np.array(vocabulary.words, dtype=object)))
        else:
            tie = mix64(vocabulary.keys() ^ key)
        order = np.lexsort((tie, -row.astype(np.float64)))
        order = order[row[order] > 0]
        rows.append((order if selected is None else order[selected[order]])[:top_k].tolist())
    return rows


def columns(cells):
    return [cells.to_columns(i).tolist() for i in range(len(cells))]


def rank(dense, vocabulary=None, cell_ids=None, **options):
    dense = np.asarray(dense)
    return rank_matrix(
        sp.csr_matrix(dense),
        vocabulary or genes(dense.shape[1]),
        ids(len(dense)) if cell_ids is None else cell_ids,
        **options,
    )


def counts_like_cells(n_cells, n_genes, seed, high=False):
    """Return counts with many ties, as cells have; `high` adds genes above 255."""
    rng = np.random.default_rng(seed)
    counts = rng.negative_binomial(0.4, 0.25, (n_cells, n_genes))
    if high:
        counts *= rng.choice([1, 1, 1, 90], (n_cells, n_genes))
    return counts


def assert_well_formed(cells, dense):
    assert cells.indptr.dtype == np.int64
    assert cells.genes.dtype == np.int32
    assert cells.indptr[0] == 0
    assert cells.indptr[-1] == len(cells.genes) == len(cells.values)
    row = np.repeat(np.arange(len(cells)), cells.lengths)
    np.testing.assert_array_equal(cells.values, np.asarray(dense)[row, cells.genes])


# --- against a reference ------------------------------------------------------------------------

values = st.one_of(
    arrays(np.int32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=st.integers(0, 3)),
    arrays(np.int64, (3, 6), elements=st.sampled_from([0, 1, 254, 255, 256, 257, 70_000, 2**40])),
    arrays(np.float32, (3, 6), elements=st.sampled_from([0.0, 0.5, 1.0, 1.5, 254.5, 255.5, 1e30])),
    arrays(np.float64, (2, 30), elements=st.floats(0, 1e300)),
)


@settings(deadline=None, max_examples=120)
@given(values, st.integers(-5, 5), st.none() | st.integers(1, 40), st.data())
def test_order_is_that_of_a_full_sort(dense, seed, top_k, data):
    n_genes = dense.shape[1]
    selected = data.draw(st.none() | arrays(bool, n_genes))
    for ties in ("seeded", "alphabetical"):
        cells = rank(dense, top_k=top_k, selected=selected, seed=seed, ties=ties)
        assert_well_formed(cells, dense)
        assert columns(cells) == reference(
            dense, genes(n_genes), ids(len(dense)), seed=seed, top_k=top_k, selected=selected,
            alphabetical=ties == "alphabetical",
        )  # fmt: skip


@pytest.mark.parametrize("high", [False, True], ids=["small counts", "counts above 255"])
@pytest.mark.parametrize("top_k", [None, 1, 20, 200, 10**6])
def test_cells_with_thousands_of_genes(high, top_k):
    dense = counts_like_cells(70, 1500, 0, high)
    dense[3] = 0
    dense[64] *= 300  # every gene is above the kernel's last tally
    cells = rank(dense, top_k=top_k)
    assert_well_formed(cells, dense)
    assert columns(cells) == reference(dense, genes(1500), ids(70), top_k=top_k)
    assert cells.lengths[3] == 0


@pytest.mark.parametrize(("dtype", "index_dtype"), DTYPES)
def test_every_dtype_gives_the_same_ranks(dtype, index_dtype):
    dense = counts_like_cells(66, 80, 1).astype(dtype)
    matrix = sp.csr_matrix(dense)
    matrix.indices = matrix.indices.astype(index_dtype)
    matrix.indptr = matrix.indptr.astype(index_dtype)
    cells = rank_matrix(matrix, genes(80), ids(66))
    assert columns(cells) == reference(dense, genes(80), ids(66))
    assert_well_formed(cells, dense)


@pytest.mark.parametrize("scale", [0.37, 1e-6, 1e6])
def test_scaling_a_cell_and_taking_logarithms_change_nothing(scale):
    dense = counts_like_cells(20, 300, 2, high=True)
    expected = columns(rank(dense))
    factors = scale * np.random.default_rng(0).uniform(0.5, 2, (20, 1))
    assert columns(rank(dense * factors)) == expected
    assert columns(rank(np.log1p(dense * factors))) == expected
    normalised = np.log10(1 + 1e4 * dense / dense.sum(1, keepdims=True)).astype(np.float32)
    assert columns(rank(normalised)) == expected


def test_stored_zeros_are_not_expressed():
    matrix = sp.csr_matrix(np.array([[3, 1, 2, 0], [1, 1, 1, 1]], dtype=np.float32))
    matrix.data[1] = 0
    matrix.data[3:] = 0
    cells = rank_matrix(matrix, genes(4), ids(2))
    assert columns(cells) == [[0, 2], []]


def test_unsorted_indices_and_unused_storage_do_not_matter():
    dense = counts_like_cells(5, 50, 3)
    matrix = sp.csr_matrix(dense)
    expected = columns(rank_matrix(matrix, genes(50), ids(5)))
    for i in range(5):
        row = slice(matrix.indptr[i], matrix.indptr[i + 1])
        matrix.indices[row], matrix.data[row] = matrix.indices[row][::-1], matrix.data[row][::-1]
    matrix.has_sorted_indices = False
    matrix.data = np.append(matrix.data, [9, 9])
    matrix.indices = np.append(matrix.indices, [0, 1]).astype(np.int32)
    assert columns(rank_matrix(matrix, genes(50), ids(5))) == expected
    assert columns(rank_matrix(matrix, genes(50), ids(5), keep=np.full(5, 1 - 1e-16))) == expected


def test_a_matrix_without_cells_or_genes():
    assert len(rank_matrix(sp.csr_matrix((0, 4)), genes(4), [])) == 0
    assert columns(rank_matrix(sp.csr_matrix((2, 0)), genes(0), ids(2))) == [[], []]
    one = sp.csr_matrix(np.ones((2, 1)))
    assert columns(rank_matrix(one, genes(1), ids(2), ties="alphabetical")) == [[0], [0]]


def test_the_matrix_is_not_changed():
    matrix = sp.csr_matrix(counts_like_cells(5, 50, 4).astype(np.float32))
    before = matrix.copy()
    rank_matrix(matrix, genes(50), ids(5), top_k=3, keep=0.5)
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(matrix, part), getattr(before, part))


# --- ties ---------------------------------------------------------------------------------------

N_CELLS, N_GENES = 140, 120


@pytest.fixture(scope="module")
def tied():
    """Counts with few levels: three blocks of 64 rows, every cell full of ties."""
    return np.random.default_rng(5).integers(0, 4, (N_CELLS, N_GENES)).astype(np.float32)


def test_ties_do_not_depend_on_the_order_of_cells(tied):
    expected = columns(rank(tied))
    order = np.random.default_rng(0).permutation(N_CELLS)
    shuffled = rank(tied[order], cell_ids=[f"cell{i}" for i in order])
    assert columns(shuffled) == [expected[i] for i in order]


def test_ties_do_not_depend_on_the_order_of_columns(tied):
    order = np.random.default_rng(1).permutation(N_GENES)
    vocabulary = genes(N_GENES)
    shuffled = GeneVocabulary([vocabulary.names[g] for g in order])
    before, after = rank(tied), rank(tied[:, order], shuffled)
    assert [before.words(i) for i in range(N_CELLS)] == [after.words(i) for i in range(N_CELLS)]


@pytest.mark.parametrize("step", [1, 7, 63, 64, 65, 139])
def test_ties_do_not_depend_on_chunks(tied, step):
    parts = []
    for start in range(0, N_CELLS, step):
        stop = min(start + step, N_CELLS)
        parts += columns(rank(tied[start:stop], cell_ids=ids(N_CELLS)[start:stop]))
    assert parts == columns(rank(tied))


def test_ties_do_not_depend_on_other_genes(tied):
    # Genes that are not ranked, not selected or not there at all leave the order of the rest.
    selected = np.random.default_rng(2).random(N_GENES) < 0.5
    inside = columns(rank(tied, selected=selected))
    assert inside == [[g for g in row if selected[g]] for row in columns(rank(tied))]
    kept = np.flatnonzero(selected)
    names = genes(N_GENES).names
    alone = rank(tied[:, kept], GeneVocabulary([names[g] for g in kept]))
    assert [[int(kept[g]) for g in row] for row in columns(alone)] == inside


def test_ties_do_not_depend_on_threads(tied):
    before = numba.get_num_threads()
    results = []
    try:
        for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
            numba.set_num_threads(threads)
            results.append(columns(rank(tied, keep=0.8)))
    finally:
        numba.set_num_threads(before)
    assert all(r == results[0] for r in results)


def test_ties_do_not_depend_on_the_storage_of_values(tied):
    # Whole counts and other values take different roads through the kernel.
    assert columns(rank(tied)) == columns(rank(tied * np.float32(0.3)))


def test_top_k_is_the_head_of_all_ranks(tied):
    everything = rank(tied)
    for top_k in (1, 5, 60, 500):
        assert columns(rank(tied, top_k=top_k)) == [row[:top_k] for row in columns(everything)]
        assert columns(everything.head(top_k)) == columns(rank(tied, top_k=top_k))


def test_another_seed_draws_other_ties_only(tied):
    a, b = rank(tied, seed=0), rank(tied, seed=1)
    np.testing.assert_array_equal(a.values, b.values)
    assert all(x != y for x, y in zip(columns(a), columns(b), strict=True))
    assert all(set(x) == set(y) for x, y in zip(columns(a), columns(b), strict=True))
    assert columns(rank(tied, seed=0)) == columns(a)


def test_cells_of_one_profile_have_their_own_ties():
    cells = rank(np.ones((300, 40)))
    assert len({tuple(row) for row in columns(cells)}) == 300


def test_ties_are_uniform():
    # Each of 8 tied genes stands in each place about equally often: 6 sigma of a binomial.
    n = 8000
    order = rank(np.ones((n, 8))).genes.reshape(n, 8)
    share = np.array([(order == g).mean(0) for g in range(8)])
    assert np.abs(share - 1 / 8).max() < 6 * (1 / 8 * 7 / 8 / n) ** 0.5
    pairs = order[:, 0] * 8 + order[:, 1]
    seen = np.bincount(pairs, minlength=64).reshape(8, 8)[~np.eye(8, dtype=bool)] / n
    assert np.abs(seen - 1 / 56).max() < 6 * (1 / 56 / n) ** 0.5


def test_alphabetical_ties():
    vocabulary = GeneVocabulary(["b", "A10", "Ä", "a2", "C"])
    dense = np.array([[1, 1, 1, 1, 1], [2, 1, 1, 5, 2]])
    cells = rank(dense, vocabulary, ties="alphabetical", seed=9)
    assert cells.words(0) == ["A10", "A2", "B", "C", "Ä"]
    assert cells.words(1) == ["A2", "B", "C", "A10", "Ä"]
    assert columns(rank(dense, vocabulary, ties="alphabetical", seed=1)) == columns(cells)


def test_alphabetical_keys_come_out_of_the_hash_in_order():
    x = np.random.default_rng(0).integers(0, 2**64, 1000, dtype=np.uint64)
    np.testing.assert_array_equal(mix64(ranked._unmix64(x)), x)
    np.testing.assert_array_equal(ranked._unmix64(mix64(x)), x)


def test_hashes_that_agree_in_one_half_are_told_apart_by_the_other():
    # Crafted keys: for this cell the tie hashes are as given, whatever the columns.
    hashes = np.array([7, 3, 5, 1, (1 << 32) + 2, (1 << 32) + 1, 6, 1 << 63, (1 << 63) - 1],
                      dtype=np.uint64)  # fmt: skip
    vocabulary = GeneVocabulary([f"G{i}" for i in range(len(hashes))])
    vocabulary._keys = ranked._unmix64(hashes) ^ cell_keys(["cell0"], 0)[0]
    for factor in (1, 0.5, 300):
        cells = rank(np.ones((1, len(hashes))) * factor, vocabulary)
        assert columns(cells) == [np.argsort(hashes).tolist()]


# --- thinning -----------------------------------------------------------------------------------


def thinned(dense, keep, seed=0, cell_ids=None):
    """Return the counts after thinning, dense."""
    cells = rank(dense, keep=keep, seed=seed, cell_ids=cell_ids)
    out = np.zeros(np.shape(dense), dtype=np.int64)
    out[np.repeat(np.arange(len(cells)), cells.lengths), cells.genes] = cells.values
    return out


@pytest.mark.parametrize("keep", [0.03, 0.5, 0.9])
@pytest.mark.parametrize("count", [1, 7, 400])
def test_thinned_counts_are_binomial(keep, count):
    n = 40_000
    kept = thinned(np.full((200, 200), count), keep).ravel()
    assert kept.max() <= count
    variance = count * keep * (1 - keep)
    assert abs(kept.mean() - count * keep) < 6 * (variance / n) ** 0.5
    # The standard error of a variance, with the fourth central moment of a binomial.
    fourth = 3 * variance**2 + variance * (1 - 6 * keep * (1 - keep))
    assert abs(kept.var() - variance) < 6 * ((fourth - variance**2) / n) ** 0.5 + 1e-6
    by_cell, by_gene = kept.reshape(200, 200).mean(1), kept.reshape(200, 200).mean(0)
    for means in (by_cell, by_gene):
        assert np.abs(means - count * keep).max() < 6 * (variance / 200) ** 0.5


def test_thinning_draws_are_independent_between_cells_and_genes():
    kept = thinned(np.full((300, 300), 4), 0.5) - 2.0
    for a, b in ((kept[:-1], kept[1:]), (kept[:, :-1], kept[:, 1:])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 6 / a.size**0.5


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint16"])
def test_thinning_nothing_away_changes_nothing(dtype):
    dense = counts_like_cells(70, 90, 6, high=True).astype(dtype)
    for keep in (1, 1.0, np.ones(70)):
        assert columns(rank(dense, keep=keep)) == columns(rank(dense))
        np.testing.assert_array_equal(rank(dense, keep=keep).values, rank(dense).values)


def test_thinning_is_the_same_in_any_order_chunk_and_dtype():
    dense = counts_like_cells(150, 60, 7)
    keep = np.random.default_rng(0).uniform(0.2, 1, 150)
    keep[::7] = 1
    expected = thinned(dense, keep)
    order = np.random.default_rng(1).permutation(150)
    np.testing.assert_array_equal(
        thinned(dense[order], keep[order], cell_ids=[f"cell{i}" for i in order]), expected[order]
    )
    np.testing.assert_array_equal(
        thinned(dense[100:], keep[100:], cell_ids=ids(150)[100:]), expected[100:]
    )
    np.testing.assert_array_equal(thinned(dense.astype(np.float64), keep), expected)
    np.testing.assert_array_equal(expected[::7], dense[::7])
    assert (thinned(dense, keep, seed=1) != expected).any()


def test_each_cell_has_its_own_share():
    keep = np.repeat([0.1, 0.5, 1.0], 50)
    kept = thinned(np.full((150, 100), 10), keep).reshape(3, 50, 100).mean((1, 2))
    np.testing.assert_allclose(kept, [1, 5, 10], atol=0.1)


def test_less_is_kept_of_the_same_molecules():
    # One draw a molecule: a smaller share keeps a subset, so counts never grow.
    dense = counts_like_cells(30, 60, 8)
    more, less = thinned(dense, 0.7), thinned(dense, 0.4)
    assert (less <= more).all()
    assert (more <= dense).all()


def test_alphabetical_ties_of_thinned_counts():
    dense = counts_like_cells(20, 60, 9)
    cells = rank(dense, keep=0.5, ties="alphabetical")
    expected = reference(thinned(dense, 0.5), genes(60), ids(20), alphabetical=True)
    assert columns(cells) == expected


@pytest.mark.parametrize("keep", [0, -0.1, 1.01, np.nan, np.array([0.5, 2.0])])
def test_a_share_that_is_no_probability_is_refused(keep):
    with pytest.raises(UsageError, match=r"keep=.* is not a probability in \(0, 1\]"):
        rank(np.ones((2, 3)), keep=keep)


@pytest.mark.parametrize("keep", [[0.5, 0.5, 0.5], np.full((2, 2), 0.5), []])
def test_shares_that_do_not_fit_the_cells_are_refused(keep):
    with pytest.raises(UsageError, match="give one share, or one a cell"):
        rank(np.ones((2, 3)), keep=keep)


def test_only_whole_counts_can_be_thinned():
    with pytest.raises(UsageError, match="thinning needs whole counts"):
        rank(np.full((2, 3), 1.5), keep=0.5)


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [0, -3])
def test_top_k_below_one_is_refused(top_k):
    with pytest.raises(UsageError, match=f"top_k={top_k} is not possible"):
        rank(np.ones((2, 3)), top_k=top_k)
    with pytest.raises(UsageError, match=f"top_k={top_k} is not possible"):
        rank(np.ones((2, 3))).head(top_k)


def test_unknown_ties_are_refused():
    with pytest.raises(
        UsageError, match="ties='random' is unknown; use 'seeded' or 'alphabetical'"
    ):
        rank(np.ones((2, 3)), ties="random")


def test_arrays_that_do_not_fit_the_matrix_are_refused():
    # The kernel checks no bounds: it would read other memory.
    with pytest.raises(InputError, match="3 columns, the vocabulary 4 genes"):
        rank(np.ones((2, 3)), genes(4))
    with pytest.raises(InputError, match="2 rows, and 3 cell ids were given"):
        rank(np.ones((2, 3)), cell_ids=ids(3))
    with pytest.raises(InputError, match=r"selection has shape \(2,\); the matrix has 3 columns"):
        rank(np.ones((2, 3)), selected=np.ones(2, bool))


# --- the ragged array ---------------------------------------------------------------------------


@pytest.fixture
def cells():
    return RankedCells(
        np.array([0, 2, 2, 5]),
        np.array([1, 0, 2, 1, 3], dtype=np.int32),
        GeneVocabulary(["a", "b", "c", "d"]),
        np.array([5.0, 4.0, 3.0, 2.0, 1.0]),
        np.array(["x", "y", "z"], dtype=object),
    )


def test_views(cells):
    assert len(cells) == 3
    assert cells.lengths.tolist() == [2, 0, 3]
    assert cells.words(2) == ["C", "B", "D"]
    assert cells.sentence(2) == "C B D"
    assert cells.words(1) == []
    assert cells.sentence(1) == ""
    assert repr(cells) == "RankedCells(3 cells, 5 ranks, 4 genes)"


@pytest.mark.parametrize(
    ("rows", "taken"),
    [
        ([2, 0], [2, 0]),
        ([1], [1]),
        ([2, 2, 1, 2], [2, 2, 1, 2]),
        ([], []),
        ([-1, -3], [2, 0]),
        (np.array([True, False, True]), [0, 2]),
        (range(3), [0, 1, 2]),
        (np.array([1, 2], dtype=np.uint8), [1, 2]),
    ],
)
def test_take(cells, rows, taken):
    some = cells.take(rows)
    assert columns(some) == [columns(cells)[i] for i in taken]
    assert some.cell_ids.tolist() == [cells.cell_ids[i] for i in taken]
    assert some.indptr.dtype == np.int64
    by_cell = np.split(cells.values, cells.indptr[1:-1])
    np.testing.assert_array_equal(some.values, np.concatenate([[], *[by_cell[i] for i in taken]]))


@pytest.mark.parametrize("rows", [[3], [-4], [True, False]])
def test_take_refuses_rows_that_are_not_there(cells, rows):
    with pytest.raises(IndexError):
        cells.take(rows)


def test_head(cells):
    assert columns(cells.head(1)) == [[1], [], [2]]
    assert cells.head(1).values.tolist() == [5, 3]
    assert columns(cells.head(2)) == [[1, 0], [], [2, 1]]
    assert columns(cells.head(9)) == columns(cells)
    assert cells.head(1).cell_ids is cells.cell_ids


def test_take_and_head_without_values_and_ids():
    cells = RankedCells.from_columns([[2, 1], [], [0]], genes(3))
    assert columns(cells) == [[2, 1], [], [0]]
    for some in (cells.take([2, 0]), cells.head(1)):
        assert some.values is None
        assert some.cell_ids is None
    empty = RankedCells.from_columns([], genes(3))
    assert (len(empty), len(empty.take([])), len(empty.head(1))) == (0, 0, 0)
    assert RankedCells.from_columns([[0]], genes(1), np.array(["x"])).cell_ids.tolist() == ["x"]


# --- real cells ---------------------------------------------------------------------------------


def test_real_cells_are_ranked_as_the_reference_does():
    adata = pancreas()[::40]
    vocabulary = GeneVocabulary(adata.var_names)
    dense = adata.X.toarray()
    names = list(adata.obs_names)
    for top_k in (None, 200):
        cells = rank_matrix(adata.X.tocsr(), vocabulary, names, top_k=top_k, seed=3)
        assert columns(cells) == reference(dense, vocabulary, names, seed=3, top_k=top_k)
    assert (dense.max(1) > 255).any()


def test_counting_of_expressed_genes_stops_at_the_limit():
    matrix = sp.csr_matrix(counts_like_cells(80, 700, 10))
    everything = np.diff(matrix.indptr)
    for limit in (1, 5, 256, 257, 10_000):
        out = np.empty(80, np.int64)
        kernels.count_expressed(
            matrix.data,
            matrix.indices,
            matrix.indptr,
            np.ones(1, bool),
            False,
            np.int64(limit),
            out,
        )
        np.testing.assert_array_equal(out, np.minimum(everything, limit))
