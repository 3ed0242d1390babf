"""Every kind of file gives the same cells and genes; broken files give one clear line."""

import gzip
import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from c2s.cells import readers
from c2s.cells.readers import csr_blocks, expression, read
from c2s.common.errors import C2SError, C2SWarning, InputError, UsageError
from c2s.datasets import pancreas


@pytest.fixture(scope="module")
def cells():
    """Sixty real cells with raw counts and the 700 genes that they express most, as int32."""
    adata = pancreas()[:60]
    total = np.asarray(adata.X.sum(axis=0)).ravel()
    adata = adata[:, np.sort(np.argsort(-total, kind="stable")[:700])].copy()
    adata = ad.AnnData(
        sp.csr_matrix(adata.X).astype(np.int32), obs=adata.obs[["cell_type"]], var=adata.var[[]]
    )
    adata.obs_names.name = adata.var_names.name = None
    return adata


def dense(adata):
    return adata.X.toarray() if sp.issparse(adata.X) else np.asarray(adata.X)


def assert_same(found, cells):
    assert list(found.obs_names) == list(cells.obs_names)
    assert list(found.var_names) == list(cells.var_names)
    np.testing.assert_array_equal(dense(found), dense(cells))


def frame(cells):
    return pd.DataFrame(dense(cells), index=cells.obs_names, columns=cells.var_names)


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


# --- formats ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["h5ad", "zarr"])
def test_anndata_formats(cells, tmp_path, how):
    path = tmp_path / f"cells.{how}"
    getattr(cells, f"write_{how}")(path)
    found = read(path)
    assert_same(found, cells)
    assert list(found.obs["cell_type"]) == list(cells.obs["cell_type"])


def test_backed_h5ad_stays_on_disk(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    found = read(tmp_path / "cells.h5ad", backed=True)
    assert found.isbacked
    blocks = list(csr_blocks(expression(found)[0], rows=7))
    np.testing.assert_array_equal(sp.vstack([b for _, b in blocks]).toarray(), dense(cells))
    found.file.close()


def test_an_h5ad_named_h5_is_recognised(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "cells.h5ad").rename(tmp_path / "cells.h5")
    assert_same(read(tmp_path / "cells.h5"), cells)


def write_10x_h5(cells, path, types=None):
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        matrix = sp.csc_matrix(cells.X.T)
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(matrix, key)
        group["shape"] = np.array(matrix.shape, dtype=np.int32)
        group["barcodes"] = np.array(cells.obs_names, dtype="S")
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{i:011d}" for i in range(cells.n_vars)], dtype="S")
        features["name"] = np.array(cells.var_names, dtype="S")
        features["feature_type"] = np.array(types or ["Gene Expression"] * cells.n_vars, dtype="S")
        features["genome"] = np.array(["GRCh38"] * cells.n_vars, dtype="S")


def test_10x_h5(cells, tmp_path):
    write_10x_h5(cells, tmp_path / "cells.h5")
    found = read(tmp_path / "cells.h5")
    assert_same(found, cells)
    assert found.var["gene_ids"].iloc[1] == "ENSG00000000001"


def test_10x_h5_drops_antibodies(cells, tmp_path):
    types = ["Antibody Capture"] * 2 + ["Gene Expression"] * (cells.n_vars - 2)
    write_10x_h5(cells, tmp_path / "cells.h5", types)
    assert_same(read(tmp_path / "cells.h5"), cells[:, 2:])


def write_mtx(cells, folder, *, prefix="", legacy=False, packed=True, types=None):
    opener, suffix = (gzip.open, ".gz") if packed else (open, "")
    folder.mkdir(exist_ok=True)
    plain = folder / f"{prefix}matrix.mtx"
    scipy.io.mmwrite(plain, sp.coo_matrix(cells.X.T))
    if packed:
        with gzip.open(f"{plain}.gz", "wb") as file:
            file.write(plain.read_bytes())
        plain.unlink()
    types = types or ["Gene Expression"] * cells.n_vars
    stem = "genes" if legacy else "features"
    with opener(folder / f"{prefix}{stem}.tsv{suffix}", "wt") as file:
        for i, (name, kind) in enumerate(zip(cells.var_names, types, strict=True)):
            file.write(f"ENSG{i:011d}\t{name}" + ("\n" if legacy else f"\t{kind}\n"))
    with opener(folder / f"{prefix}barcodes.tsv{suffix}", "wt") as file:
        file.writelines(f"{name}\n" for name in cells.obs_names)


@pytest.mark.parametrize(
    ("legacy", "packed"), [(False, True), (True, False)], ids=["Cell Ranger 3", "Cell Ranger 2"]
)
@pytest.mark.parametrize("prefix", ["", "patientA_"])
def test_10x_mtx_as_scanpy_reads_it(cells, tmp_path, legacy, packed, prefix):
    import scanpy as sc

    write_mtx(cells, tmp_path / "mtx", prefix=prefix, legacy=legacy, packed=packed)
    found = read(tmp_path / "mtx")
    assert_same(found, cells)
    assert found.X.dtype == np.int32
    expected = sc.read_10x_mtx(tmp_path / "mtx", prefix=prefix, make_unique=False)
    assert_same(found, expected)
    pd.testing.assert_frame_equal(found.var, expected.var)


@pytest.mark.parametrize(("legacy", "packed"), [(False, False), (True, True)])
def test_10x_mtx_with_files_repacked_by_hand(cells, tmp_path, legacy, packed):
    write_mtx(cells, tmp_path / "mtx", legacy=legacy, packed=packed)
    assert_same(read(tmp_path / "mtx"), cells)


def test_10x_mtx_drops_antibodies(cells, tmp_path):
    types = ["Gene Expression"] * (cells.n_vars - 3) + ["Antibody Capture"] * 3
    write_mtx(cells, tmp_path / "mtx", types=types)
    assert_same(read(tmp_path / "mtx"), cells[:, :-3])


def test_10x_mtx_of_another_feature_type_is_kept(cells, tmp_path):
    write_mtx(cells, tmp_path / "mtx", types=["Gene"] * cells.n_vars)
    assert_same(read(tmp_path / "mtx"), cells)


def test_several_prefixes_are_a_choice(cells, tmp_path):
    write_mtx(cells, tmp_path / "mtx", prefix="a_")
    write_mtx(cells[:9], tmp_path / "mtx", prefix="b_")
    with pytest.raises(UsageError, match=r"a_matrix\.mtx\.gz, b_matrix\.mtx\.gz.*path of one"):
        read(tmp_path / "mtx")
    assert_same(read(tmp_path / "mtx" / "b_matrix.mtx.gz"), cells[:9])


def test_gene_names_that_look_like_missing_values_stay_words(cells, tmp_path):
    small = cells[:, :4].copy()
    small.var_names = ["NA", "NAN", "None", "ACTB"]
    write_mtx(small, tmp_path / "mtx")
    assert list(read(tmp_path / "mtx").var_names) == ["NA", "NAN", "None", "ACTB"]
    frame(small).T.to_csv(tmp_path / "t.csv")
    assert list(read(tmp_path / "t.csv", orientation="genes-by-cells").var_names) == [
        "NA",
        "NAN",
        "None",
        "ACTB",
    ]


def test_mtx_with_a_missing_or_unequal_companion(cells, tmp_path):
    write_mtx(cells, tmp_path / "mtx")
    (tmp_path / "mtx" / "barcodes.tsv.gz").unlink()
    with pytest.raises(InputError, match=r"none of barcodes\.tsv\.gz, barcodes\.tsv lies beside"):
        read(tmp_path / "mtx")
    (tmp_path / "mtx" / "barcodes.tsv").write_text("a\nb\n")
    with pytest.raises(InputError, match="700 genes × 60 cells, but 700 genes and 2 barcodes"):
        read(tmp_path / "mtx")


@pytest.mark.filterwarnings("ignore")
def test_loom(cells, tmp_path):
    loompy = pytest.importorskip("loompy")
    loompy.create(
        str(tmp_path / "cells.loom"),
        sp.coo_matrix(cells.X.T),
        {"Gene": np.array(cells.var_names)},
        {"CellID": np.array(cells.obs_names), "ClusterName": np.array(cells.obs["cell_type"])},
    )
    found = read(tmp_path / "cells.loom")
    assert_same(found, cells)
    assert found.X.dtype.kind == "i"
    assert list(found.obs["ClusterName"]) == list(cells.obs["cell_type"])


@pytest.mark.filterwarnings("ignore")
def test_loom_written_by_anndata(cells, tmp_path):
    pytest.importorskip("loompy")
    cells.write_loom(tmp_path / "cells.loom")
    assert_same(read(tmp_path / "cells.loom"), cells)


def test_loom_without_loompy_names_the_extra(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "cells.loom", "w") as file:
        file["matrix"] = np.ones((2, 2))
    monkeypatch.setattr(readers, "find_spec", {}.get)
    with pytest.raises(C2SError, match=r"c2s-toolkit\[loom\]"):
        read(tmp_path / "cells.loom")


# --- text tables ------------------------------------------------------------------------------


@pytest.mark.parametrize("genes_in_lines", [True, False], ids=["genes × cells", "cells × genes"])
@pytest.mark.parametrize(
    ("suffix", "separator"),
    [("csv", ","), ("csv.gz", ","), ("tsv", "\t"), ("txt", " "), ("txt.gz", "\t"), ("csv", ";")],
)
def test_tables_of_both_orientations(cells, tmp_path, genes_in_lines, suffix, separator):
    path = tmp_path / f"cells.{suffix}"
    table = frame(cells)
    (table.T if genes_in_lines else table).to_csv(path, sep=separator)
    found = read(path)
    assert_same(found, cells)
    assert found.X.dtype == np.int32
    assert found.X.format == "csr"


def test_a_table_read_in_many_blocks(cells, tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_TABLE_BLOCK", 1000)
    frame(cells).T.to_csv(tmp_path / "cells.csv")
    assert_same(read(tmp_path / "cells.csv"), cells)


def test_a_table_as_r_writes_it(cells, tmp_path):
    """Quoted names, and no name above the first column."""
    lines = ["\t".join(f'"{name}"' for name in cells.obs_names)]
    lines += [
        "\t".join([f'"{gene}"', *map(str, column)])
        for gene, column in zip(cells.var_names, dense(cells).T, strict=True)
    ]
    (tmp_path / "cells.txt").write_text("\n".join(lines))
    assert_same(read(tmp_path / "cells.txt"), cells)


def test_windows_line_ends_byte_order_mark_and_quoted_numbers(tmp_path):
    text = '\ufeffgene,"cell 1","cell 2"\r\n"ACTB","3","0"\r\n"GAPDH","0","4"\r\n\r\n'
    (tmp_path / "t.csv").write_bytes(text.encode())
    found = read(tmp_path / "t.csv")
    assert list(found.obs_names) == ["cell 1", "cell 2"]
    np.testing.assert_array_equal(dense(found), [[3, 0], [0, 4]])


def test_text_columns_become_columns_of_obs(cells, tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_TABLE_BLOCK", 5000)
    table = frame(cells)
    table.insert(0, "barcode", [f"{i}-ACGT" for i in range(len(table))])
    table.insert(1, "assigned_cluster", cells.obs["cell_type"].astype(str).to_numpy())
    table.iloc[3, 1] = None
    table.to_csv(tmp_path / "cells.csv")
    found = read(tmp_path / "cells.csv")
    assert_same(found, cells)
    expected = list(cells.obs["cell_type"].astype(str))
    assert found.obs["assigned_cluster"].isna().to_numpy().nonzero()[0].tolist() == [3]
    assert list(found.obs["assigned_cluster"])[4:] == expected[4:]
    found.write_h5ad(tmp_path / "again.h5ad")


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([[1.0, 2.0], [0.0, 3.0]], np.int32),
        ([[1.5, 2.0], [0.0, 3.0]], np.float32),
        ([[2**40, 0], [0, 1]], np.int64),
        ([[np.nan, 1], [0, 1]], np.float32),
    ],
)
def test_number_types(tmp_path, values, dtype):
    pd.DataFrame(values, index=["c1", "c2"], columns=["ACTB", "GAPDH"]).to_csv(tmp_path / "t.csv")
    found = read(tmp_path / "t.csv")
    assert found.X.dtype == dtype
    np.testing.assert_array_equal(dense(found), np.array(values, dtype=dtype))


MOUSE = ["Actb", "mt-Nd1", "Rpl3", "Gm12345", "Xkr4", "1700011B04Rik"]
ENSEMBL = ["ENSMUSG00000051951", "ENSMUSG00000025900.13", "ENSMUSG00000025902"]


@pytest.mark.parametrize(
    ("lines", "columns", "expected"),
    [
        (["c1", "c2"], MOUSE, "cells-by-genes"),
        (ENSEMBL, ["SRR1039508", "SRR1039509"], "genes-by-cells"),
        (["AAACCTGAGAAACCAT-1", "AAACCTGAGAAACCGC-1"], ["Abc1", "Xyz2"], "cells-by-genes"),
        (["Abc1", "Xyz2"], ["cell_1", "cell_2", "cell_3"], "genes-by-cells"),
        (["CD3D", "CD8A", "FOO", "BAR"], ["T1", "T2"], "genes-by-cells"),
        (["0", "1", "2"], ["KRT5", "SLC1A3", "HLA-DRA"], "cells-by-genes"),
    ],
)
def test_orientation_from_names(tmp_path, lines, columns, expected):
    values = np.arange(len(lines) * len(columns)).reshape(len(lines), -1)
    pd.DataFrame(values, index=lines, columns=columns).to_csv(tmp_path / "t.csv")
    found = read(tmp_path / "t.csv")
    by_cell = expected == "cells-by-genes"
    assert list(found.obs_names) == (lines if by_cell else columns)
    np.testing.assert_array_equal(dense(found), values if by_cell else values.T)
    again = read(tmp_path / "t.csv", orientation=expected)
    np.testing.assert_array_equal(dense(again), dense(found))


@pytest.mark.parametrize("names", [(["a", "b"], ["x", "y"]), (["ACTB", "GAPDH"], ["CD4", "CD8A"])])
def test_an_undecidable_table_asks(tmp_path, names):
    pd.DataFrame([[1, 2], [3, 4]], index=names[0], columns=names[1]).to_csv(tmp_path / "t.csv")
    with pytest.raises(InputError, match="say which with orientation=") as error:
        read(tmp_path / "t.csv")
    assert "t.csv" in one_line(error)
    np.testing.assert_array_equal(
        dense(read(tmp_path / "t.csv", orientation="genes-by-cells")), [[1, 3], [2, 4]]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (",c1,c2\nACTB,1,2\nGAPDH,3\n", r"line 3 \(GAPDH\) has 1 values, 2 are expected"),
        (",c1,c2\nACTB,1,2\nGAPDH,3,4,5\n", r"line 3 \(GAPDH\) has 3 values, 2 are expected"),
        (
            ",c1,c2\nACTB,1,2\nGAPDH,3,4\nB2M,1,x\n",
            r"line 4 \(B2M\), column c2, holds 'x'; a number is expected",
        ),
        (",c1,c2\nACTB,a,b\nGAPDH,c,d\n", "no column holds numbers"),
        (",c1,c2\n", "no table was recognised"),
        ("hello\nworld\n", "no table was recognised"),
        ("ACTB,GAPDH\n5,1\n3,2\n5,0\n", "the first column, ACTB, holds numbers"),
    ],
)
def test_tables_that_are_not_understood(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path / "t.csv")
    assert "t.csv" in one_line(error)


@pytest.mark.parametrize(("corner", "first"), [("row", 0), ("row", 1), ("index", 17), ("", 17)])
def test_lines_may_be_named_by_numbers(tmp_path, corner, first):
    text = f"{corner},ACTB,GAPDH\n{first},5,1\n{first + 1},3,2\n"
    (tmp_path / "t.csv").write_text(text)
    found = read(tmp_path / "t.csv")
    assert list(found.obs_names) == [str(first), str(first + 1)]
    np.testing.assert_array_equal(dense(found), [[5, 1], [3, 2]])


def test_a_bad_number_far_down_is_named(cells, tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_TABLE_BLOCK", 700 * 10)
    table = frame(cells).astype(object)
    table.iloc[42, 5] = "1,5"
    table.to_csv(tmp_path / "t.tsv", sep="\t")
    message = rf"line 44 \({cells.obs_names[42]}\), column {cells.var_names[5]}, holds '1,5'"
    with pytest.raises(InputError, match=message):
        read(tmp_path / "t.tsv")


# --- broken files -----------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("suffix", ["h5ad", "h5", "csv.gz"])
def test_a_file_cut_in_the_middle(cells, tmp_path, suffix, share):
    path = tmp_path / f"cells.{suffix}"
    if suffix == "h5ad":
        cells.write_h5ad(path)
    elif suffix == "h5":
        write_10x_h5(cells, path)
    else:
        frame(cells).to_csv(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError) as error:
        read(path)
    assert path.name in one_line(error)
    assert "again" in str(error.value)


def test_bytes_damaged_inside_an_h5ad(cells, tmp_path):
    path = tmp_path / "cells.h5ad"
    cells.write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        place = file["X/data"].id.get_chunk_info(0)
    whole = bytearray(path.read_bytes())
    whole[place.byte_offset : place.byte_offset + place.size] = b"\x55" * place.size
    path.write_bytes(whole)
    with pytest.raises(InputError, match="cannot be read as an h5ad file") as error:
        read(path)
    one_line(error)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"PK\x03\x04", "a zip archive, not an HDF5 file; unpack it first"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"<!DOCTYPE html>", "not an HDF5 file"),
    ],
)
@pytest.mark.parametrize("suffix", ["h5ad", "h5", "loom"])
def test_files_that_are_something_else(tmp_path, suffix, start, message):
    (tmp_path / f"x.{suffix}").write_bytes(start + bytes(range(256)) * 9)
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path / f"x.{suffix}")
    one_line(error)


def test_missing_and_unknown_files(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.h5ad: there is no such file"):
        read(tmp_path / "nowhere.h5ad")
    (tmp_path / "x.rds").write_bytes(b"RDX3")
    with pytest.raises(InputError, match=r"x\.rds: files of this kind are not known; expected"):
        read(tmp_path / "x.rds")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="neither a zarr store nor does it hold a 10x"):
        read(tmp_path / "folder")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(InputError, match="cannot be read as a zarr store"):
        read(tmp_path / "empty.zarr")


def test_arguments_for_other_kinds_of_file(cells, tmp_path):
    frame(cells).to_csv(tmp_path / "cells.csv")
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(UsageError, match=r"backed=True is for \.h5ad files"):
        read(tmp_path / "cells.csv", backed=True)
    with pytest.raises(UsageError, match="orientation is for text tables"):
        read(tmp_path / "cells.h5ad", orientation="cells-by-genes")


@pytest.mark.parametrize("backed", [False, True])
def test_repeated_cell_names_are_made_unique_aloud(cells, tmp_path, backed):
    twice = cells.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twice.obs_names = ["a", "b", "a", *twice.obs_names[3:]]
        twice.write_h5ad(tmp_path / "t.h5ad")
    with pytest.warns(C2SWarning, match=r"t\.h5ad: 1 cells repeat .*\(a\)") as caught:
        found = read(tmp_path / "t.h5ad", backed=backed)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert list(found.obs_names[:3]) == ["a", "b", "a-1"]
    if backed:
        found.file.close()


def test_repeated_gene_names_are_left_alone(cells, tmp_path):
    twice = cells.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twice.var_names = ["ACTB", "ACTB", *twice.var_names[2:]]
        twice.write_h5ad(tmp_path / "t.h5ad")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(read(tmp_path / "t.h5ad").var_names[:2]) == ["ACTB", "ACTB"]


# --- choosing a matrix, walking over it -------------------------------------------------------


def test_expression_chooses_the_matrix_and_its_genes(cells):
    adata = cells[:, :10].copy()
    adata.layers["counts"] = adata.X.copy()
    adata.raw = cells
    assert expression(adata)[0] is adata.X
    assert expression(adata, "counts")[0] is adata.layers["counts"]
    matrix, var = expression(adata, "raw")
    assert matrix.shape == cells.shape
    assert list(var.index) == list(cells.var_names)


def test_an_unknown_layer_is_refused_with_those_there_are(cells):
    adata = cells.copy()
    adata.layers["counts"] = adata.X
    with pytest.raises(
        UsageError, match=r"no layer 'count'; it has X, counts; did you mean 'counts'\?"
    ):
        expression(adata, "count")
    with pytest.raises(UsageError, match="no layer 'raw'; it has X, counts"):
        expression(adata, "raw")
    with pytest.raises(UsageError, match="has no X; it has no matrix at all"):
        expression(ad.AnnData(obs=cells.obs, var=cells.var))


def stored(matrix, how, folder):
    if how in ("csr", "csc", "coo"):
        return getattr(sp, f"{how}_matrix")(matrix)
    if how == "csr_array":
        return sp.csr_array(matrix)
    if how == "dense":
        return matrix
    kind = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}[how.split("-")[0]]
    where = h5py.File(folder / "x.h5", "w") if how.endswith("h5") else zarr.open_group(folder / "x")
    ad.io.write_elem(where, "X", kind(matrix))
    return where["X"] if how.startswith("dense") else ad.io.sparse_dataset(where["X"])


@pytest.mark.parametrize(
    "how",
    [
        *("csr", "csc", "coo", "csr_array", "dense"),
        *("csr-h5", "csc-h5", "dense-h5", "csr-zarr", "csc-zarr", "dense-zarr"),
    ],
)
@pytest.mark.parametrize("dtype", ["int32", "uint16", "float32", "float64"])
def test_csr_blocks_of_every_storage(cells, tmp_path, how, dtype):
    whole = dense(cells).astype(dtype)
    seen = []
    for rows, block in csr_blocks(stored(whole, how, tmp_path), rows=23):
        assert isinstance(block, sp.csr_matrix)
        assert block.dtype == np.dtype(dtype)
        assert block.has_canonical_format
        np.testing.assert_array_equal(block.toarray(), whole[rows])
        seen.append((rows.start, rows.stop))
    assert seen == [(0, 23), (23, 46), (46, 60)]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_csr_blocks_sum_entries_that_are_stored_twice(data):
    n = data.draw(st.integers(0, 12))
    row, column = (data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)) for _ in "ab")
    order = np.argsort(row, kind="stable")
    matrix = sp.csr_matrix(
        (
            np.arange(1, n + 1),
            np.array(column, dtype=np.int32)[order],
            np.searchsorted(np.sort(row), np.arange(6)).astype(np.int32),
        ),
        shape=(5, 5),
    )
    before = matrix.copy()
    blocks = [block for _, block in csr_blocks(matrix, rows=2)]
    assert all(len(set(r.indices)) == r.nnz for block in blocks for r in block)
    np.testing.assert_array_equal(sp.vstack(blocks).toarray(), before.toarray())
    np.testing.assert_array_equal(matrix.data, before.data)


def test_csr_blocks_do_not_copy_a_csr_matrix(cells):
    matrix = cells.X.sorted_indices()
    for _, block in csr_blocks(matrix, rows=16):
        assert np.shares_memory(block.data, matrix.data)
        assert np.shares_memory(block.indices, matrix.indices)


def test_csr_blocks_of_half_precision(cells):
    half = dense(cells)[:, :20].astype(np.float16)
    ((_, block),) = csr_blocks(half)
    assert block.dtype == np.float32
    np.testing.assert_array_equal(block.toarray(), half)


def test_csr_blocks_refuse_no_rows(cells):
    with pytest.raises(UsageError, match="rows per block is 0"):
        list(csr_blocks(cells.X, rows=0))
