"""Sources read what anndata reads, from every way of storing it, and refuse damaged files in one line."""

import hashlib
import json
import shutil
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import C2SError, InputError, UsageError
from c2s.corpus.sources import (
    AnnDataSource,
    arrays,
    by_row,
    digest,
    expand,
    matrices,
    obs,
    open_source,
)
from c2s.corpus.sources.obs import labels

SLICES = [(0, 1), (1, 37), (37, 37), (37, 120), (5, 60), (119, 120), (0, 120)]


@pytest.fixture(scope="module")
def cells(pancreas):
    """120 real cells with 4,000 genes; `X` differs from the layer and from `raw`."""
    often = np.argsort(-np.asarray(pancreas.X.sum(axis=0)).ravel(), kind="stable")[:4000]
    adata = pancreas[:120, np.sort(often)].copy()
    adata.raw = pancreas[:120, :5000].copy()
    adata.layers["counts"] = adata.X.copy()
    adata.X = (adata.X * 0.5).tocsr()
    keep = np.ones(120, np.float32)
    keep[7] = 0
    adata.X = sp.csr_matrix(sp.diags_array(keep) @ adata.X)
    adata.X.eliminate_zeros()
    return adata


def stored_as(cells, form):
    change = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": lambda m: m.toarray()}[form]
    raw = ad.AnnData(change(cells.raw.X), obs=cells.obs, var=cells.raw.var)
    return ad.AnnData(
        change(cells.X), obs=cells.obs, var=cells.var, layers={"counts": change(cells.layers["counts"])}, raw=raw
    )  # fmt: skip


def dense(matrix):
    return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)


def assert_reads(source, expected, slices=SLICES):
    expected = dense(expected)
    for start, stop in slices:
        block = source.read(start, stop)
        assert isinstance(block, sp.csr_matrix)
        assert block.indices.dtype == np.int32
        assert block.has_canonical_format
        np.testing.assert_array_equal(block.toarray(), expected[start:stop])
    stored = source.stored()
    if stored is not None:
        assert stored.dtype == np.int64
        assert stored.tolist() == [0, *np.cumsum((expected != 0).sum(axis=1)).tolist()]


def one_line(error, *words):
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 500
    for word in words:
        assert str(word) in text
    return text


# --- every way of storing a matrix ------------------------------------------------------------


@pytest.mark.parametrize("layer", [None, "counts", "raw"])
@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_h5ad(cells, tmp_path, form, compression, layer):
    path = tmp_path / "cells.h5ad"
    stored_as(cells, form).write_h5ad(path, compression=compression)
    read = ad.read_h5ad(path)
    expected = {None: read.X, "counts": read.layers["counts"], "raw": read.raw.X}[layer]
    var = read.raw.var if layer == "raw" else read.var
    with open_source(path, layer=layer, scratch=tmp_path / "scratch") as source:
        assert source.n_cells == 120
        assert source.path == str(path)
        assert source.vocabulary == GeneVocabulary.from_var(var)
        assert (source.stored() is None) == (form == "dense")
        assert_reads(source, expected)
        assert source.names(3, 9).to_pylist() == list(read.obs_names[3:9])


@pytest.mark.parametrize("layer", [None, "raw"])
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_zarr(cells, tmp_path, form, version, layer):
    path = tmp_path / "cells.zarr"
    with ad.settings.override(zarr_write_format=version):
        stored_as(cells, form).write_zarr(path)
    read = ad.read_zarr(path)
    with open_source(path, layer=layer, scratch=tmp_path / "scratch") as source:
        assert_reads(source, read.X if layer is None else read.raw.X)
        assert source.names(0, 120).to_pylist() == list(read.obs_names)
        assert source.column("cell_type").to_pylist() == list(read.obs["cell_type"])


def test_zarr_of_small_chunks(cells, tmp_path):
    path = tmp_path / "cells.zarr"
    cells.write_zarr(path)
    group = zarr.open_group(path, mode="r+")["X"]
    for name in ("data", "indices"):
        values = group[name][:]
        del group[name]
        group.create_array(name, data=values, chunks=(1000,))
    zarr.consolidate_metadata(path)
    with open_source(path) as source:
        assert_reads(source, cells.X)


def test_the_packaged_pancreas(pancreas):
    with open_source("pancreas") as source:
        assert (source.path, source.n_cells) == ("pancreas", 1937)
        for start, stop in SLICES:
            assert (source.read(start, stop) != pancreas.X[start:stop]).nnz == 0
        np.testing.assert_array_equal(source.stored(), pancreas.X.indptr)
        assert source.columns() == list(pancreas.obs.columns)
        assert source.column("cell_type").to_pylist() == list(pancreas.obs["cell_type"])
        assert source.names(5, 7).to_pylist() == list(pancreas.obs_names[5:7])
        assert source.vocabulary == GeneVocabulary.from_var(pancreas.var)


def write_sparse(path, matrix, *, names=None, **how):
    """Write what anndata would, but with arrays of any type and any filters."""
    n, m = matrix.shape
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "shape": [n, m]})
        for key, options in (("data", how), ("indices", how), ("indptr", {})):
            group.create_dataset(key, data=getattr(matrix, key), **options)
        for table, size in (("obs", n), ("var", m)):
            node = file.create_group(table)
            node.attrs.update({"_index": "_index", "column-order": np.array([], "S1")})
            node["_index"] = np.array([f"{table}{i}" for i in range(size)], dtype="S")
    return path


GZIP = {
    "gzip": {"compression": "gzip"},
    "gzip and shuffle": {"compression": "gzip", "shuffle": True},
    "gzip, chunks": {"compression": "gzip", "chunks": (97,)},
    "gzip, shuffle and a checksum": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "one chunk": {"compression": "gzip", "chunks": (10**6,), "maxshape": (None,)},
    "chunks": {"chunks": (97,)},
    "contiguous": {},
}


@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.int64, np.uint8])
@pytest.mark.parametrize("how", GZIP)
@pytest.mark.parametrize("with_isal", [True, False], ids=["isal", "no isal"])
def test_packed_chunks(cells, tmp_path, monkeypatch, with_isal, how, dtype):
    if with_isal:
        pytest.importorskip("isal")
    else:
        monkeypatch.setitem(sys.modules, "isal", None)
    matrix = cells.layers["counts"].astype(dtype)
    matrix.eliminate_zeros()  # 256, as a byte
    matrix.indices = matrix.indices.astype(np.int64 if dtype == np.int64 else np.int32)
    path = write_sparse(tmp_path / "cells.h5ad", matrix, **GZIP[how])
    with open_source(path) as source:
        unpacked_here = with_isal and "gzip" in str(GZIP[how]) and "fletcher32" not in GZIP[how]
        assert isinstance(source._rows.data, arrays.GzipArray) == unpacked_here
        assert source.read(0, 5).dtype == dtype
        assert_reads(source, matrix)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """An array of 1,000 numbers in chunks of 64, shuffled and packed."""
    path = tmp_path_factory.mktemp("packed") / "array.h5"
    values = np.random.default_rng(0).integers(0, 2**31, 1000).astype(np.int32)
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=values, chunks=(64,), compression="gzip", shuffle=True)
    with h5py.File(path, "r") as file:
        yield arrays.open_array(str(path), file["a"]), values


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), max_size=8))
@settings(max_examples=60, deadline=None)
def test_reads_in_any_order_give_the_same(packed, spans):
    run, values = packed
    for one, other in spans:
        start, stop = min(one, other), max(one, other)
        np.testing.assert_array_equal(run.read(start, stop), values[start:stop])


@given(st.lists(st.integers(0, 2**63), min_size=1, max_size=40), st.sampled_from([1, 2, 4, 8]))
@settings(deadline=None)  # the first call compiles
def test_unshuffle(numbers, size):
    values = np.array(numbers, np.uint64).astype(f"u{size}")
    raw = np.ascontiguousarray(values.view(np.uint8).reshape(-1, size).T).ravel()
    out = np.empty_like(values)
    arrays._unshuffle(raw, out)
    np.testing.assert_array_equal(out, values)


def test_unsorted_and_repeated_places(tmp_path):
    # Row 0 is not sorted; row 1 holds column 2 twice; row 2 is empty.
    data, indices = np.array([1, 2, 3, 4, 5], np.float32), np.array([3, 0, 2, 1, 2], np.int32)
    matrix = sp.csr_matrix((3, 5), dtype=np.float32)
    matrix.data, matrix.indices, matrix.indptr = data, indices, np.array([0, 2, 5, 5], np.int32)
    path = write_sparse(tmp_path / "odd.h5ad", matrix)
    expected = [[2, 0, 0, 1, 0], [0, 4, 8, 0, 0], [0, 0, 0, 0, 0]]
    with open_source(path) as source:
        assert source.read(0, 3).toarray().tolist() == expected
        assert source.read(1, 2).has_canonical_format
    memory = ad.AnnData(matrix)
    source = AnnDataSource("memory", memory)
    assert source.read(0, 3).toarray().tolist() == expected
    assert memory.X.data.tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("form", ["csr", "dense"])
def test_half_precision(tmp_path, form):
    values = np.array([[0, 0.5], [1.5, 0]], np.float16)
    path = tmp_path / "half.h5ad"
    write_sparse(path, sp.csr_matrix(values.astype(np.float32)))
    with h5py.File(path, "r+") as file:
        if form == "dense":
            del file["X"]
            file["X"] = values
        else:
            data = file["X/data"][:].astype(np.float16)
            del file["X/data"]
            file["X/data"] = data
    with open_source(path) as source:
        assert source.read(0, 2).dtype == np.float32
        assert source.read(0, 2).toarray().tolist() == values.tolist()


def test_a_dense_matrix_is_read_in_pieces(cells, tmp_path, monkeypatch):
    monkeypatch.setattr(matrices, "_DENSE_BYTES", 10 * 4000 * 4)
    path = tmp_path / "dense.h5ad"
    stored_as(cells, "dense").write_h5ad(path)
    read = []
    with open_source(path) as source:
        array = source._rows.array

        class Watched:
            dtype, chunks = array.dtype, (4, 100)

            def __getitem__(self, rows):
                read.append((rows.start, rows.stop))
                return array[rows]

        source._rows.array = Watched()
        assert_reads(source, cells.X, [(3, 30)])
    assert read == [(3, 8), (8, 16), (16, 24), (24, 30)]  # eight rows: as many chunks as fit


def test_rows_that_are_not_there(cells, tmp_path):
    with open_source("pancreas") as source, pytest.raises(UsageError) as error:
        source.read(1900, 1938)
    one_line(error, "pancreas", "1,938", "1,937")


# --- stored by column -------------------------------------------------------------------------


@pytest.fixture
def by_column(cells, tmp_path):
    path = tmp_path / "csc.h5ad"
    stored_as(cells, "csc").write_h5ad(path, compression="gzip")
    return path


@pytest.mark.parametrize("block", [100, 5000, 1 << 20])
def test_columns_become_rows(cells, by_column, tmp_path, monkeypatch, block):
    # A block of 100 values is less than most cells have; 5,000 are a few cells.
    monkeypatch.setattr(by_row, "_BLOCK", block)
    with open_source(by_column, scratch=tmp_path / "scratch") as source:
        assert_reads(source, cells.X)
    made = list((tmp_path / "scratch").glob("*/matrix/*"))
    assert sorted(p.name for p in made) == ["data.bin", "indices.bin", "indptr.npy"]


def test_the_copy_by_row_is_made_once(cells, by_column, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"

    def opened(path):
        with open_source(path, scratch=scratch) as source:
            return source.read(0, 120)

    with ThreadPoolExecutor(4) as pool:
        blocks = list(pool.map(opened, [by_column] * 4))
    for block in blocks:
        np.testing.assert_array_equal(block.toarray(), cells.X.toarray())
    monkeypatch.setattr(by_row, "_write_by_row", lambda *_: pytest.fail("made again"))
    moved = shutil.copy(by_column, tmp_path / "moved.h5ad")  # the same content elsewhere
    opened(moved)
    with open_source(moved, scratch=scratch, content=digest(by_column)) as source:
        assert_reads(source, cells.X)


def test_a_layer_has_a_copy_of_its_own(cells, by_column, tmp_path):
    for layer, expected in ((None, cells.X), ("counts", cells.layers["counts"])):
        with open_source(by_column, layer=layer, scratch=tmp_path / "scratch") as source:
            assert_reads(source, expected)


def test_a_full_disk_leaves_nothing(by_column, tmp_path, monkeypatch, cells):
    def full(*_):
        raise OSError(28, "No space left on device")

    scratch = tmp_path / "scratch"
    with monkeypatch.context() as patch:
        patch.setattr(by_row, "_sort_bucket", full)
        with pytest.raises(C2SError) as error:
            open_source(by_column, scratch=scratch)
    one_line(error, scratch, "no space left")
    assert [p.name for p in scratch.glob("*/*")] == ["lock"]
    leftover = next(scratch.glob("rows-*")) / ".c2s-killed"
    leftover.mkdir()
    with open_source(by_column, scratch=scratch) as source:
        assert_reads(source, cells.X)
    assert not leftover.exists()


def test_columns_without_scratch(by_column):
    with pytest.raises(InputError) as error:
        open_source(by_column)
    one_line(error, by_column, "CSC", "scratch", "tocsr")
    with h5py.File(by_column, "r+"):  # refused by HDF5 where the file is still open for reading
        pass


def test_scratch_that_cannot_be_written(by_column, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(C2SError) as error:
        open_source(by_column, scratch=tmp_path / "file")
    one_line(error, tmp_path / "file", "scratch")


# --- genes ------------------------------------------------------------------------------------


def test_symbols_of_ids(tmp_path):
    var = pd.DataFrame(
        {"feature_name": ["TP53", "MT-ND1", None], "own": ["P53", "mt-x", "ABC"]},
        index=["ENSG00000141510", "ENSG00000198888", "ENSG00000000003"],
    )
    path = tmp_path / "ids.h5ad"
    ad.AnnData(sp.csr_matrix(np.eye(3, dtype=np.float32)), var=var).write_h5ad(path)
    for gene_names, words, mitochondrial in [
        (None, ("TP53", "MT-ND1", "ENSG00000000003"), [False, True, False]),
        ("own", ("P53", "MT-X", "ABC"), [False, True, False]),
        ({"ENSG00000000003": "MT-A"}, ("ENSG00000141510", "ENSG00000198888", "MT-A"), [False, False, True]),
    ]:  # fmt: skip
        with open_source(path, gene_names=gene_names) as source:
            assert source.vocabulary.words == words
            assert source.mitochondrial.tolist() == mitochondrial
            assert source.mitochondrial.dtype == bool
    with open_source(path, gene_names="symbl") as source, pytest.raises(InputError) as error:
        _ = source.vocabulary
    one_line(error, path, "symbl", "feature_name, own")


def test_an_unwritable_gene_names_the_file(tmp_path):
    path = tmp_path / "space.h5ad"
    ad.AnnData(sp.csr_matrix(np.eye(2, dtype=np.float32)), var=pd.DataFrame(index=["A B", "C"])).write_h5ad(path)  # fmt: skip
    with open_source(path) as source, pytest.raises(InputError) as error:
        _ = source.vocabulary
    one_line(error, path, "A B")


# --- columns of obs ---------------------------------------------------------------------------


OBS = pd.DataFrame(
    {
        "categorical": pd.Categorical(["b", None, "a", "b"], categories=["a", "b", "unused"]),
        "of numbers": pd.Categorical([3, 1, None, 3]),
        "ordered": pd.Categorical(["low", "high", "low", "low"], ["low", "high"], ordered=True),
        "text": np.array(["x", "", "nan", "ä z"], dtype=object),
        "whole": np.array([4, -1, 0, 4], np.int64),
        "single": np.array([0.1, np.nan, 2, 1e9], np.float32),
        "double": [0.5, 1.0, np.nan, np.inf],
        "yes": [True, False, True, True],
        "nullable whole": pd.array([1, None, 3, 1], dtype="Int32"),
        "nullable yes": pd.array([True, None, False, True], dtype="boolean"),
        "nullable text": pd.array(["q", None, "r", "q"], dtype="string"),
        "categories of text": pd.Categorical(pd.array(["u", None, "v", "u"], dtype="string")),
    },
    index=["c1", "c2", "c3", "c1"],
)
TEXT = {
    "categorical": ["b", None, "a", "b"],
    "of numbers": ["3", "1", None, "3"],
    "ordered": ["low", "high", "low", "low"],
    "text": ["x", None, None, "ä z"],
    "whole": ["4", "-1", "0", "4"],
    "single": ["0.1", None, "2.0", "1e+09"],
    "double": ["0.5", "1.0", None, "inf"],
    "yes": ["True", "False", "True", "True"],
    "nullable whole": ["1", None, "3", "1"],
    "nullable yes": ["True", None, "False", "True"],
    "nullable text": ["q", None, "r", "q"],
    "categories of text": ["u", None, "v", "u"],
}


@pytest.fixture(scope="module", params=["h5ad", "zarr 2", "zarr 3", "memory"])
def labelled(request, tmp_path_factory):
    """Four cells with columns of every kind that anndata writes, stored in every way."""
    obs = OBS.rename(columns=lambda c: c.replace(" ", "_"))
    folder = tmp_path_factory.mktemp("labelled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ad.AnnData, "strings_to_categoricals", lambda self, df=None: None)
        with (
            ad.settings.override(allow_write_nullable_strings=True),
            pytest.warns(UserWarning, match="not unique"),
        ):
            adata = ad.AnnData(sp.csr_matrix(np.eye(4, dtype=np.float32)), obs=obs)
        if request.param == "memory":
            yield AnnDataSource("memory", adata)
            return
        path = folder / ("cells." + request.param.split()[0])
        version = 2 if request.param.endswith("2") else 3
        with ad.settings.override(allow_write_nullable_strings=True, zarr_write_format=version):
            adata.write_h5ad(path) if path.suffix == ".h5ad" else adata.write_zarr(path)
    with open_source(path) as source:
        yield source


@pytest.mark.parametrize("name", TEXT)
def test_columns_of_every_kind(labelled, name, monkeypatch):
    monkeypatch.setattr(obs, "_BLOCK", 3)  # columns are longer than a block
    column = labelled.column(name.replace(" ", "_"))
    assert column.type == pa.dictionary(pa.int32(), pa.string())
    assert column.to_pylist() == TEXT[name]
    assert None not in column.dictionary.to_pylist()


def test_columns_are_listed_and_names_may_repeat(labelled):
    assert labelled.columns() == [name.replace(" ", "_") for name in TEXT]
    assert labelled.names(0, 4) == pa.array(["c1", "c2", "c3", "c1"], pa.large_string())
    assert labelled.names(1, 1) == pa.array([], pa.large_string())


def test_an_unknown_column(labelled):
    with pytest.raises(UsageError) as error:
        labelled.column("categorial")
    one_line(error, labelled.path, "did you mean 'categorical'?")
    with pytest.raises(UsageError) as error:
        labelled.column("0000")
    one_line(error, "it has: categorical, of_numbers")


@given(st.lists(st.sampled_from(["a", "b", "nan", "", None, np.nan, 1, 1.5, True, b"a", np.int8(1)]), max_size=9), st.data())  # fmt: skip
def test_labels(levels, data):
    codes = data.draw(st.lists(st.integers(-1, len(levels) - 1), max_size=12))
    column = labels(np.array(codes, np.int64), levels)

    def text(level):
        if level is None or (isinstance(level, float) and np.isnan(level)) or level in ("", "nan"):
            return None
        return level.decode() if isinstance(level, bytes) else str(level)

    assert column.to_pylist() == [None if code < 0 else text(levels[code]) for code in codes]
    words = column.dictionary.to_pylist()
    assert len(set(words)) == len(words)


# --- files of old versions of anndata ---------------------------------------------------------


def test_tables_of_records(tmp_path):
    """Before 0.7: obs and var are arrays of records, categories are in uns, raw is `raw.X`."""
    path = tmp_path / "old.h5ad"
    matrix = sp.csr_matrix(np.array([[0, 2, 1], [1, 0, 0]], np.float32))
    with h5py.File(path, "w") as file:
        obs = np.array(
            [(b"c1", 1, 7, b"s\xc3\xa4", 0.5), (b"c2", -1, 9, b"", np.nan)],
            dtype=[("index", "S2"), ("louvain", "i1"), ("n_genes", "i8"), ("site", "S4"), ("x", "f4")],
        )  # fmt: skip
        file["obs"] = obs
        file["var"] = np.array([(b"A",), (b"B",), (b"C",)], dtype=[("index", "S1")])
        file["raw.var"] = np.array([(b"R",), (b"S",), (b"T",)], dtype=[("index", "S1")])
        file["uns/louvain_categories"] = np.array([b"T cell", b"B cell"])
        for name, values in (("X", matrix), ("raw.X", matrix * 3)):
            group = file.create_group(name)
            group.attrs.update({"h5sparse_format": b"csr", "h5sparse_shape": matrix.shape})
            for key in ("data", "indices", "indptr"):
                group[key] = getattr(values, key)
    with open_source(path) as source:
        assert source.columns() == ["louvain", "n_genes", "site", "x"]
        assert source.column("louvain").to_pylist() == ["B cell", None]
        assert source.column("n_genes").to_pylist() == ["7", "9"]
        assert source.column("site").to_pylist() == ["sä", None]
        assert source.column("x").to_pylist() == ["0.5", None]
        assert source.names(0, 2).to_pylist() == ["c1", "c2"]
        assert source.vocabulary.words == ("A", "B", "C")
        assert source.read(0, 2).toarray().tolist() == matrix.toarray().tolist()
    with open_source(path, layer="raw") as source:
        assert source.vocabulary.words == ("R", "S", "T")
        assert source.read(0, 1).toarray().tolist() == [[0, 6, 3]]


def test_categories_of_anndata_0_7(tmp_path):
    path = write_sparse(tmp_path / "old.h5ad", sp.csr_matrix(np.eye(3, dtype=np.float32)))
    with h5py.File(path, "r+") as file:
        obs = file["obs"]
        obs["__categories/site"] = np.array([b"gut", b"skin"])
        obs["site"] = np.array([1, -1, 0], np.int8)
        obs["site"].attrs["categories"] = obs["__categories/site"].ref
        obs.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.1.0"})
        obs.attrs["column-order"] = np.array([b"site"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ad.OldFormatWarning)
            expected = ad.io.read_elem(obs)["site"]
    with open_source(path) as source:
        assert source.columns() == ["site"]
        assert source.column("site").to_pylist() == [None if pd.isna(v) else v for v in expected]
        assert source.column("site").to_pylist() == ["skin", None, "gut"]


# --- files that cannot be used ----------------------------------------------------------------


@pytest.fixture
def whole(cells, tmp_path):
    path = tmp_path / "cells.h5ad"
    cells.write_h5ad(path, compression="gzip")
    return path


def test_missing_and_unknown_files(tmp_path):
    with pytest.raises(InputError) as error:
        open_source(tmp_path / "nothing.h5ad")
    one_line(error, tmp_path / "nothing.h5ad", "no such file")
    (tmp_path / "table.csv").write_text("a,b\n")
    (tmp_path / "folder").mkdir()
    for name in ("table.csv", "folder"):
        with pytest.raises(InputError) as error:
            open_source(tmp_path / name)
        one_line(error, tmp_path / name, ".h5ad", ".zarr", "SOMA")


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "empty"), (b"<html>", "begins with b'<htm'"), (b"\x89HDF\r\n\x1a\n" + b"x" * 40, "damaged")]
)  # fmt: skip
def test_files_that_are_no_hdf5(tmp_path, content, words):
    path = tmp_path / "bad.h5ad"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        open_source(path)
    one_line(error, path, words)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_a_file_that_is_cut_off(whole, share):
    content = whole.read_bytes()
    whole.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError) as error:
        open_source(whole)
    one_line(error, whole, "cut off or damaged")


@pytest.mark.parametrize("with_isal", [True, False], ids=["isal", "no isal"])
def test_damaged_chunks(cells, whole, monkeypatch, with_isal):
    if not with_isal:
        monkeypatch.setitem(sys.modules, "isal", None)
    with h5py.File(whole, "r") as file:
        chunk = file["X/data"].id.get_chunk_info(file["X/data"].id.get_num_chunks() - 1)
    with open(whole, "r+b") as file:
        file.seek(chunk.byte_offset + chunk.size // 2)
        file.write(b"\0\1\2\3" * 8)
    with open_source(whole) as source:
        assert_reads(source, cells.X, [(0, 1)])  # the first chunk is well
        with pytest.raises(InputError) as error:
            source.read(0, 120)
    one_line(error, whole, "cut off or damaged")


def damage(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def replace(file, name, values):
    del file[name]
    file[name] = values


DAMAGE = {
    "no obs": (lambda f: f.pop("obs"), "holds no obs"),
    "no var": (lambda f: f.pop("var"), "holds no var"),
    "no data": (lambda f: f["X"].pop("data"), "damaged"),
    "fewer values": (lambda f: replace(f, "X/data", f["X/data"][:-1]), "indptr"),
    "fewer columns": (lambda f: replace(f, "X/indices", f["X/indices"][:-1]), "indptr"),
    "fewer rows": (lambda f: replace(f, "X/indptr", f["X/indptr"][:-1]), "indptr"),
    "an index that falls": (lambda f: f["X/indptr"].__setitem__(5, 0), "indptr"),
    "another shape": (lambda f: f["X"].attrs.__setitem__("shape", [120, 3999]), "120 × 3,999"),
    "a foreign layout": (lambda f: f["X"].attrs.__setitem__("encoding-type", "coo"), "'coo'"),
    "text": (lambda f: replace(f, "X/data", np.array([b"x"] * len(f["X/data"]))), "real numbers"),
    "three dimensions": (lambda f: replace(f, "X", np.zeros((120, 2, 2))), "3 dimensions"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_structure(whole, what):
    change, words = DAMAGE[what]
    damage(whole, change)
    with pytest.raises(InputError) as error:
        open_source(whole)
    one_line(error, whole, words)
    with h5py.File(whole, "r+"):
        pass


@pytest.mark.parametrize("column", [4000, -1])
def test_a_column_outside_the_matrix(whole, column):
    damage(whole, lambda f: f["X/indices"].__setitem__(100, column))
    with open_source(whole) as source, pytest.raises(InputError) as error:
        source.read(0, 120)
    one_line(error, whole, "4,000 genes", f"{column:,}")


def test_a_row_outside_the_matrix(by_column, tmp_path):
    damage(by_column, lambda f: f["X/indices"].__setitem__(100, 120))
    with pytest.raises(InputError) as error:
        open_source(by_column, scratch=tmp_path / "scratch")
    one_line(error, by_column, "120")


def test_damaged_columns_of_obs(whole):
    def change(file):
        file["obs/cell_type/codes"][0] = 99
        replace(file, "obs/donor/codes", file["obs/donor/codes"][:-1])

    damage(whole, change)
    with open_source(whole) as source:
        for name, words in (("cell_type", "99"), ("donor", "119")):
            with pytest.raises(InputError) as error:
                source.column(name)
            one_line(error, whole, words)


@pytest.mark.parametrize("name", ["data", "indices"])
def test_a_zarr_with_a_missing_chunk(cells, tmp_path, name):
    path = tmp_path / "cells.zarr"
    cells.write_zarr(path)
    chunk = next(p for p in (path / "X" / name).rglob("*") if p.is_file() and p.name.isdigit())
    chunk.unlink()
    with pytest.raises(InputError) as error:
        open_source(path)
    one_line(error, path, name, "missing")


def test_a_damaged_zarr(cells, tmp_path):
    path = tmp_path / "cells.zarr"
    cells.write_zarr(path)
    chunk = next(p for p in (path / "X" / "indptr").rglob("*") if p.is_file() and p.name.isdigit())
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(InputError) as error:
        open_source(path)
    one_line(error, path)


def test_layers_that_are_not_there(whole):
    with pytest.raises(UsageError) as error:
        open_source(whole, layer="count")
    one_line(error, whole, "'count'", "X, raw, counts")
    damage(whole, lambda f: f.pop("X"))
    with pytest.raises(UsageError) as error:
        open_source(whole)
    one_line(error, whole, "no X", "raw, counts")


# --- identity and patterns --------------------------------------------------------------------


def test_digest_of_a_file(whole):
    assert digest(whole) == hashlib.sha256(whole.read_bytes()).hexdigest()


def test_digest_of_a_folder(tmp_path):
    for name, content in (("b/x", b"1"), ("a", b"22"), ("b/.hidden", b"")):
        file = tmp_path / "one" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    lines = [(n, hashlib.sha256(c).hexdigest()) for n, c in (("a", b"22"), ("b/.hidden", b""), ("b/x", b"1"))]  # fmt: skip
    expected = hashlib.sha256("".join(f"{n}\0{h}\n" for n, h in lines).encode()).hexdigest()
    assert digest(tmp_path / "one") == expected
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert digest(tmp_path / "two") == expected
    (tmp_path / "two" / "a").rename(tmp_path / "two" / "c")
    assert digest(tmp_path / "two") != expected


def test_digest_of_the_packaged_data_and_of_nothing(tmp_path):
    import c2s.datasets

    packed = Path(c2s.datasets.__file__).parent / "data" / "pancreas.npz.xz"
    assert digest("pancreas") == hashlib.sha256(packed.read_bytes()).hexdigest()
    with pytest.raises(InputError) as error:
        digest(tmp_path / "nothing")
    one_line(error, tmp_path / "nothing")


def test_patterns(tmp_path):
    for name in ("b.h5ad", "a.h5ad", "deep/er/c.h5ad", "odd[1].h5ad", "note.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "same.h5ad").symlink_to(tmp_path / "a.h5ad")

    def found(*patterns):
        return [p if p == "pancreas" else Path(p).relative_to(tmp_path).as_posix() for p in expand(patterns, tmp_path)]  # fmt: skip

    assert found("b.h5ad", "?.h5ad", "./a.h5ad") == ["a.h5ad", "b.h5ad"]
    assert found("same.h5ad", "a.h5ad") == ["a.h5ad"]
    assert found("**/*.h5ad") == ["a.h5ad", "b.h5ad", "deep/er/c.h5ad", "odd[1].h5ad"]
    assert found("odd[1].h5ad") == ["odd[1].h5ad"]
    assert found(str(tmp_path / "deep" / "*" / "c*")) == ["deep/er/c.h5ad"]
    assert sorted(found("a.h5ad", "pancreas")) == ["a.h5ad", "pancreas"]
    assert found() == []
    for pattern in ("*.zarr", "missing.h5ad"):
        with pytest.raises(InputError) as error:
            found("a.h5ad", pattern)
        one_line(error, pattern, tmp_path)


def test_a_zarr_says_what_it_lacks(tmp_path):
    zarr.open_group(tmp_path / "empty.zarr", mode="w", zarr_format=2)
    assert json.loads((tmp_path / "empty.zarr" / ".zgroup").read_text())["zarr_format"] == 2
    with pytest.raises(InputError) as error:
        open_source(tmp_path / "empty.zarr")
    one_line(error, "holds no obs", "nothing")
