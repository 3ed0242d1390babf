"""What matrix values are, and which are refused, in every storage that data come in."""

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from c2s.cells import checks
from c2s.cells.checks import check_expression, entries, matrix_kind, scan
from c2s.common.errors import InputError

FORMATS = ["dense", "csr", "csc", "coo", "csr_array", "h5py", "zarr", "csr-h5ad", "csc-zarr"]


@pytest.fixture
def store(tmp_path):
    """Return a function that stores a dense matrix in one of FORMATS."""
    opened = []

    def stored(dense, how):
        if how == "dense":
            return dense
        if how in ("csr", "csc", "coo"):
            return getattr(sp, f"{how}_matrix")(dense)
        if how == "csr_array":
            return sp.csr_array(dense)
        if how == "zarr":
            return zarr.create_array(str(tmp_path / "a.zarr"), data=dense)
        if how == "csc-zarr":
            group = zarr.open_group(str(tmp_path / "b.zarr"), mode="w")
            ad.io.write_elem(group, "X", sp.csc_matrix(dense))
            return ad.io.sparse_dataset(group["X"])
        file = h5py.File(tmp_path / "a.h5", "w")
        opened.append(file)
        ad.io.write_elem(file, "X", dense if how == "h5py" else sp.csr_matrix(dense))
        return file["X"] if how == "h5py" else ad.io.sparse_dataset(file["X"])

    yield stored
    for file in opened:
        file.close()


def names(prefix, n):
    return [f"{prefix}{i}" for i in range(n)]


@pytest.mark.parametrize("how", FORMATS)
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0, 3, 0], [7, 0, 1]], "counts"),
        ([[0, 3.0, 0], [70000.0, 0, 1]], "counts"),
        ([[0, 0, 0], [0, 0, 0]], "counts"),
        ([[0, 3.5, 0], [29.99, 0, 1]], "logged"),
        ([[0, 3.5, 0], [30, 0, 1]], "abundances"),
        ([[0.5, 0, 0], [0, 0, 0]], "logged"),
    ],
)
def test_kind_of_values(store, how, values, expected):
    assert matrix_kind(store(np.array(values), how)) == expected


@pytest.mark.parametrize("dtype", ["bool", "uint16", "int64", "float16", "float32", "float64"])
def test_integers_are_counts_in_any_dtype(dtype):
    assert matrix_kind(np.array([[1, 0], [0, 1]], dtype=dtype)) == "counts"


@settings(max_examples=60, deadline=None)
@given(
    arrays(
        np.float64,
        st.tuples(st.integers(1, 6), st.integers(1, 6)),
        elements=st.sampled_from([0.0, 0.0, 1.0, 2.5, 31.0, 30.5, -1.0, np.nan, np.inf, -np.inf]),
    ),
    st.integers(1, 9),
    st.sampled_from(["dense", "csr", "csc"]),
)
def test_scan_agrees_with_numpy_in_any_block_size(dense, size, how):
    matrix = dense if how == "dense" else getattr(sp, f"{how}_matrix")(dense)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "entries", lambda m: entries(m, size))
        found = scan(matrix)
    finite = dense[np.isfinite(dense)]
    assert found.n_nonzero == np.count_nonzero(dense)
    assert found.n_not_finite == dense.size - finite.size
    assert found.n_negative == (dense < 0).sum()
    assert found.integral == bool((finite == finite.round()).all())
    assert found.maximum == max(0.0, finite.max(initial=0.0))
    for place, marked in (
        (found.first_not_finite, ~np.isfinite(dense)),
        (found.first_negative, dense < 0),
    ):
        if not marked.any():
            assert place is None
            continue
        row, column = np.argwhere(marked)[0]
        assert (place.row, place.column) == (row, column)
        assert place.value == dense[row, column] or np.isnan(place.value)


@pytest.mark.parametrize("how", FORMATS)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_entries_name_the_place_of_every_value(store, how, size):
    dense = np.random.default_rng(0).poisson(0.7, (9, 5)).astype(np.float32)
    again = np.zeros_like(dense)
    for chunk in entries(store(dense, how), size):
        rows, columns = chunk.places()
        np.add.at(again, (rows, columns), chunk.values)
    np.testing.assert_array_equal(again, dense)


def test_unused_room_behind_the_values_is_not_looked_at():
    matrix = sp.csr_matrix(np.array([[1.0, 0.0], [0.0, 2.0]]))
    matrix.data = np.append(matrix.data, [np.nan, -1.0])
    matrix.indices = np.append(matrix.indices, [0, 0]).astype(np.int32)
    check_expression(matrix, cell_ids=["a", "b"], gene_names=["g", "h"], source="X")


@pytest.mark.parametrize("how", FORMATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_name(store, how, bad):
    dense = np.ones((4, 3), dtype=np.float32)
    dense[2, 1] = dense[3, 0] = bad
    with pytest.raises(
        InputError, match=r"my\.h5ad, X: cell c2, gene g1 is .*2 of the values"
    ) as e:
        check_expression(
            store(dense, how), cell_ids=names("c", 4), gene_names=names("g", 3), source="my.h5ad, X"
        )
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("how", FORMATS)
def test_negatives_are_refused_as_scaled(store, how):
    dense = np.ones((4, 3), dtype=np.float32)
    dense[3, 0] = dense[1, 2] = -0.25
    with pytest.raises(InputError, match=r"cell c1, gene g2 is -0\.25 .*2 values.*sc\.pp\.scale"):
        check_expression(
            store(dense, how), cell_ids=names("c", 4), gene_names=names("g", 3), source="X"
        )


def test_negative_integers_are_refused_too():
    with pytest.raises(InputError, match="gene g1 is -3"):
        check_expression(np.array([[0, -3]]), cell_ids=["c"], gene_names=["g0", "g1"], source="X")


@pytest.mark.parametrize("how", FORMATS)
def test_good_values_pass(store, how):
    dense = np.array([[0, 2.5], [1, 0]], dtype=np.float32)
    check_expression(store(dense, how), cell_ids=["a", "b"], gene_names=["g", "h"], source="X")


def test_words_in_a_matrix_are_refused():
    with pytest.raises(InputError, match="type object; real numbers are expected"):
        scan(np.array([["a", "b"]], dtype=object))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_real_scaled_data_are_refused_and_their_raw_is_logged():
    import scanpy as sc

    adata = sc.datasets.pbmc68k_reduced()
    with pytest.raises(InputError, match=r"gene HES4 is -0\.326"):
        check_expression(
            adata.X, cell_ids=adata.obs_names, gene_names=adata.var_names, source="pbmc, X"
        )
    check_expression(
        adata.raw.X, cell_ids=adata.obs_names, gene_names=adata.raw.var_names, source="pbmc, raw"
    )
    assert matrix_kind(adata.raw.X) == "logged"


def test_real_counts_are_counts():
    from c2s.datasets import pancreas

    assert matrix_kind(pancreas().X) == "counts"
