"""What `inspect` says of real and of broken data, and that a file and its contents say the same."""

import json
import tracemalloc
import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from c2s.cells import checks
from c2s.cells.checks import entries
from c2s.cells.inspect import inspect
from c2s.common.errors import InputError, UsageError
from c2s.datasets import pancreas


@pytest.fixture(scope="module")
def real():
    return pancreas()[:200].copy()


def problems(found):
    return [f"{p.text} -> {p.mend}" for p in found.problems]


def only(found, words):
    (text,) = [p for p in problems(found) if words in p]
    return text


def test_real_counts(real):
    found = inspect(real)
    dense = real.X.toarray()
    assert (found.n_cells, found.n_genes) == dense.shape
    assert found.kind == "counts"
    assert found.sparsity == pytest.approx((dense == 0).mean(), abs=1e-12)
    assert found.median_total == np.median(dense.sum(axis=1))
    assert found.median_genes == np.median((dense > 0).sum(axis=1))
    assert found.n_empty_cells == 0
    assert found.maximum == dense.max()
    assert (found.dtype, found.storage) == (str(real.X.dtype), "csr in memory")
    assert found.genes.kind == "symbols"
    assert found.genes.organism == "human"
    assert found.problems == []
    label = found.labels[0]
    counts = real.obs["cell_type"].value_counts()
    assert (label.name, label.levels) == ("cell_type", int((counts > 0).sum()))
    assert (label.commonest, label.share) == (counts.index[0], counts.iloc[0] / 200)


@pytest.mark.parametrize("how", ["h5ad", "zarr", "csc.h5ad", "dense.h5ad", "backed"])
def test_a_file_says_what_its_contents_say(real, tmp_path, how):
    adata = real.copy()
    adata.layers["half"] = adata.X * 0.5
    adata.raw = real[:, :50].copy()
    adata.obsm["X_pca"] = np.zeros((200, 2))
    expected = inspect(adata).to_dict()
    if how.startswith("csc"):
        adata.X = sp.csc_matrix(adata.X)
    if how.startswith("dense"):
        adata.X = adata.X.toarray()
    path = tmp_path / (f"a.{how}" if how != "backed" else "a.h5ad")
    (adata.write_zarr if how == "zarr" else adata.write_h5ad)(path)
    source = ad.read_h5ad(path, backed="r") if how == "backed" else path
    found = inspect(source).to_dict()
    storage = {"csc.h5ad": "csc on disk", "dense.h5ad": "dense on disk"}.get(how, "csr on disk")
    assert found["storage"] == storage
    assert found["layers"] == ["half"]
    assert found["has_raw"]
    assert found["obsm"] == ["X_pca"]
    for key in set(expected) - {"storage", "source", "problems", "sparsity"}:
        assert found[key] == expected[key], key
    assert inspect(path, "half").kind == "abundances"
    assert inspect(path, "raw").n_genes == 50
    if how == "backed":
        source.file.close()


def test_the_result_is_json_and_a_table(real):
    found = inspect(real)
    assert json.loads(json.dumps(found.to_dict()))["genes"]["organism"] == "human"
    rows = dict(found.rows())
    assert rows["cells"] == "200"
    assert rows["genes"] == "20,125"
    assert rows["values"].startswith("counts")
    assert rows["label columns"].startswith("cell_type (")
    assert all(isinstance(text, str) for row in found.rows() for text in row)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_scaled_data_point_at_raw():
    import scanpy as sc

    adata = sc.datasets.pbmc68k_reduced()
    found = inspect(adata)
    assert found.kind == "scaled"
    text = only(found, "negative")
    assert f"{(adata.X < 0).sum():,} values" in text
    assert "first: cell AAAGCCTGGCTAAC-1, gene HES4, -0.326" in text
    assert "use layer 'raw', which holds logged values" in text
    raw = inspect(adata, "raw")
    assert raw.kind == "logged"
    assert "logged already" in only(raw, "logged")
    assert found.labels[0].name == "bulk_labels"


def test_a_file_of_an_old_anndata_version():
    """scanpy's packaged file predates the present h5ad layout, so it goes through `read`."""
    import importlib.resources

    path = importlib.resources.files("scanpy") / "datasets" / "10x_pbmc68k_reduced.h5ad"
    found = inspect(path)
    assert (found.n_cells, found.kind, found.has_raw) == (700, "scaled", True)
    assert found.storage == "dense on disk"


def test_counts_in_a_layer_are_recommended():
    adata = ad.AnnData(np.array([[0.5, 1.5]] * 3), obs={"t": ["a", "a", "b"]})
    adata.layers["scaled"] = adata.X - 1
    adata.layers["counts"] = np.array([[1, 2]] * 3)
    assert "use layer 'counts', which holds counts" in only(inspect(adata), "logged already")
    assert "use layer 'counts', which holds counts" in only(inspect(adata, "scaled"), "negative")
    adata.X = adata.layers.pop("counts")
    assert "use X, which holds counts" in only(inspect(adata, "scaled"), "negative")


def test_values_that_cannot_be_ranked_are_reported_and_not_raised():
    values = np.ones((3, 2))
    values[1, 1], values[2, 0] = np.nan, -np.inf
    found = inspect(ad.AnnData(values))
    assert found.kind == "invalid"
    assert "first: cell 1, gene 1, nan" in only(found, "2 values are NaN or infinite")
    assert "go back to the file with raw counts" in only(found, "1 values are negative")
    assert found.median_total == 1.0
    json.dumps(found.to_dict(), allow_nan=False)


def test_cells_that_make_trouble(real):
    adata = real[:5].copy()
    adata.X = sp.csr_matrix(adata.X.toarray() * np.array([[1], [0], [1], [0], [1]]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.obs_names = ["a", "b", "a", "c", "d"]
    adata.obs = adata.obs[[]]
    found = inspect(adata)
    assert found.n_empty_cells == 2
    assert "(first: b)" in only(found, "2 cells express nothing")
    assert "repeat the name of another (a)" in only(found, "1 cells")
    assert "no column of obs" in only(found, "labels")
    few = inspect(real[:, :400].copy())
    n_genes = np.diff(sp.csr_matrix(real[:, :400].X).indptr)
    n_few = ((n_genes > 0) & (n_genes < 200)).sum()
    assert f"{n_few} cells express fewer than 200 genes" in only(few, "fewer")


@pytest.mark.parametrize(
    ("names", "symbols", "expected"),
    [
        (["TP53", "ENSA"], None, ("symbols", 2, 0, None, "human")),
        (["Trp53", "Actb", "mt-Nd1", "Xkr4"], None, ("symbols", 4, 0, None, "mouse")),
        (["ENSG00000141510"], None, ("ensembl", 0, 1, None, "human")),
        (["ENSMUSG00000059552.7"], ["Trp53"], ("ensembl", 0, 1, "feature_name", "mouse")),
        (["ENSG00000141510", "ACTB"], None, ("mixed", 1, 1, None, "human")),
        (["ENSDARG00000035559"], None, ("ensembl", 0, 1, None, "unknown")),
        (["1", "2"], None, ("symbols", 2, 0, None, "unknown")),
    ],
)
def test_gene_names(names, symbols, expected):
    var = pd.DataFrame(index=names)
    if symbols:
        var["feature_name"] = symbols
    found = inspect(ad.AnnData(np.ones((3, len(names))), var=var))
    g = found.genes
    assert (g.kind, g.n_symbols, g.n_ensembl, g.symbol_column, g.organism) == expected
    nameless = any("no symbol" in p.text for p in found.problems)
    assert nameless == (g.n_ensembl > 0 and not symbols)


def test_gene_names_that_make_trouble():
    names = ["ABC", "Abc", "ABC", "TP53", "two words", "KRT5", "KRT5"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = ad.AnnData(np.ones((2, 7)), var=pd.DataFrame(index=names))
    found = inspect(adata)
    assert found.genes.n_duplicated == 4
    assert found.genes.n_case_colliding == 3
    assert "('two words')" in only(found, "1 gene names are empty or contain white space")
    assert "4 genes share a symbol and 3 differ" in only(found, "stay distinct")


def test_label_columns_are_words_that_repeat():
    n = 300
    obs = pd.DataFrame(
        {
            "id": [f"x{i}" for i in range(n)],
            "many": [f"x{i % 250}" for i in range(n)],
            "one": ["a"] * n,
            "number": np.arange(n) % 3,
            "batch": pd.Categorical(np.arange(n) % 3),
            "cell_type": ["T", "B", "B"] * 100,
            "gaps": [None, "u", "v"] * 100,
        },
        index=[str(i) for i in range(n)],
    )
    labels = inspect(ad.AnnData(np.ones((n, 2)), obs=obs)).labels
    assert [(c.name, c.levels) for c in labels] == [("cell_type", 2), ("batch", 3), ("gaps", 2)]
    assert (labels[0].commonest, labels[0].share) == ("B", pytest.approx(2 / 3))


def test_names_of_five_different_samples_are_no_labels():
    obs = pd.DataFrame({"sample": list("abcde")}, index=list("vwxyz"))
    assert inspect(ad.AnnData(np.ones((5, 2)), obs=obs)).labels == []


@pytest.mark.parametrize("how", ["csr", "csc", "dense"])
def test_cells_that_span_several_blocks(real, monkeypatch, how):
    small = real[:9, :300].copy()
    small.X[4] = 0
    dense = small.X.toarray()
    small.X = dense if how == "dense" else getattr(sp, f"{how}_matrix")(dense)
    monkeypatch.setattr(checks.entries, "__defaults__", (20,))
    found = inspect(small)
    assert found.median_total == np.median(dense.sum(axis=1))
    assert found.median_genes == np.median((dense > 0).sum(axis=1))
    assert found.n_empty_cells == 1
    assert found.maximum == dense.max()


def test_storage_that_is_slow_is_mentioned(real):
    adata = real.copy()
    adata.X = sp.csc_matrix(adata.X)
    assert "tocsr()" in only(inspect(adata), "CSC")
    adata.X = adata.X.toarray()
    assert "csr_matrix" in only(inspect(adata), "dense although 88% of it is zero")


def test_empty_data_are_reported():
    found = inspect(ad.AnnData(np.zeros((0, 3))))
    assert "the matrix is empty" in problems(found)[0]
    assert found.median_genes == 0


def test_layers_and_files_that_are_not_there(real, tmp_path):
    with pytest.raises(UsageError, match="no layer 'counts'; it has X"):
        inspect(real, "counts")
    real.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(UsageError, match="no layer 'counts'; it has X"):
        inspect(tmp_path / "a.h5ad", "counts")
    with pytest.raises(InputError, match="no such file"):
        inspect(tmp_path / "b.h5ad")


def test_damaged_files_give_one_line(real, tmp_path):
    path = tmp_path / "a.h5ad"
    real.write_h5ad(path, compression="gzip")
    whole = bytearray(path.read_bytes())
    (tmp_path / "cut.h5ad").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.h5ad: cannot be read as an h5ad file"):
        inspect(tmp_path / "cut.h5ad")
    with h5py.File(path) as file:
        place = file["X/data"].id.get_chunk_info(0)
    whole[place.byte_offset : place.byte_offset + place.size] = b"\x55" * place.size
    path.write_bytes(whole)
    with pytest.raises(InputError, match=r"a\.h5ad: the matrix cannot be read") as error:
        inspect(path)
    assert "\n" not in str(error.value)


def test_a_table_is_inspected_too(real, tmp_path):
    small = real[:20, :3000]
    frame = pd.DataFrame(small.X.toarray(), index=small.obs_names, columns=small.var_names)
    frame.T.to_csv(tmp_path / "a.csv.gz")
    found = inspect(tmp_path / "a.csv.gz")
    assert (found.n_cells, found.n_genes, found.kind) == (20, 3000, "counts")


def test_memory_does_not_grow_with_the_matrix(tmp_path, monkeypatch):
    """4,000,000 stored values are 32 MB on disk; blocks of 65,536 keep below a quarter of that."""
    matrix = sp.random(8000, 1000, density=0.5, format="csr", random_state=0, dtype=np.float32)
    ad.AnnData(matrix, layers={"again": matrix}).write_h5ad(tmp_path / "a.h5ad")
    del matrix
    monkeypatch.setattr(checks.entries, "__defaults__", (1 << 16,))
    tracemalloc.start()
    try:
        found = inspect(tmp_path / "a.h5ad")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.sparsity == pytest.approx(0.5)
    assert entries is checks.entries
    assert peak < 8e6
