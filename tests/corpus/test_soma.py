"""An experiment gives the cells that were written to it, in the order of their ids."""

import shutil
import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse as sp

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError
from c2s.corpus.sources import digest, open_source

tiledbsoma = pytest.importorskip("tiledbsoma")
soma_io = pytest.importorskip("tiledbsoma.io")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def cells(pancreas):
    """Sixty real cells with 3,000 genes, one of them without counts, and columns of several kinds."""
    adata = pancreas[:60, :3000].copy()
    keep = np.ones(60, np.float32)
    keep[11] = 0
    adata.X = sp.csr_matrix(sp.diags_array(keep) @ adata.X)
    adata.X.eliminate_zeros()
    adata.obs["age"] = np.arange(60) % 7
    adata.obs["ratio"] = np.where(np.arange(60) % 5, 0.5, np.nan).astype(np.float32)
    adata.obs["tumour"] = np.arange(60) % 2 == 0
    adata.obs["note"] = np.array(["", "x", "nan"] * 20, dtype=object)
    return adata


@pytest.fixture(scope="module")
def experiment(cells, tmp_path_factory):
    path = tmp_path_factory.mktemp("soma") / "human"
    soma_io.from_anndata(str(path), cells.copy(), "RNA", X_layer_name="raw")
    return path


def one_line(error, *words):
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 500
    for word in words:
        assert str(word) in text


@pytest.mark.parametrize("kind", ["auto", "soma"])
def test_an_experiment(cells, experiment, kind):
    expected = cells.X.toarray()
    with open_source(experiment, kind=kind) as source:
        assert (source.path, source.n_cells) == (str(experiment), 60)
        assert source.stored() is None
        for start, stop in [(0, 1), (1, 23), (11, 12), (23, 23), (40, 60), (0, 60)]:
            block = source.read(start, stop)
            assert isinstance(block, sp.csr_matrix)
            assert (block.dtype, block.indices.dtype) == (np.float32, np.int32)
            assert block.has_canonical_format
            np.testing.assert_array_equal(block.toarray(), expected[start:stop])
        assert source.names(5, 9).to_pylist() == list(cells.obs_names[5:9])
        assert source.names(5, 5) == pa.array([], pa.large_string())
        assert source.vocabulary == GeneVocabulary.from_var(cells.var)
        assert source.mitochondrial.shape == (3000,)


@pytest.mark.parametrize("name", ["cell_type", "donor", "age", "ratio", "tumour", "note"])
def test_columns(cells, experiment, name):
    with open_source(experiment) as source:
        assert source.columns() == list(cells.obs.columns)
        column = source.column(name)
    assert column.type == pa.dictionary(pa.int32(), pa.string())
    expected = [None if pd.isna(v) or v in ("", "nan") else str(v) for v in cells.obs[name]]
    assert column.to_pylist() == expected


def test_what_is_not_there(experiment):
    for options, words in [
        ({"layer": "counts"}, ("'counts'", "it has: raw")),
        ({"measurement": "ATAC"}, ("'ATAC'", "it has: RNA")),
    ]:
        with pytest.raises(UsageError) as error:
            open_source(experiment, **options)
        one_line(error, experiment, *words)
    with open_source(experiment, gene_names="symbl") as source:
        with pytest.raises(InputError) as error:
            _ = source.vocabulary
        one_line(error, experiment, "symbl")
        with pytest.raises(UsageError) as error:
            source.column("cel_type")
        one_line(error, experiment, "'cell_type'")
        with pytest.raises(UsageError) as error:
            source.read(0, 61)
        one_line(error, experiment, "61")


def table(path, ids, columns):
    """Write a table whose rows have these ids."""
    content = pa.table({"soma_joinid": pa.array(ids, pa.int64()), **columns})
    tiledbsoma.DataFrame.create(path, schema=content.schema, domain=[(0, 999)]).close()
    with tiledbsoma.open(path, "w") as written:
        written.write(content)


@pytest.fixture(scope="module")
def census(tmp_path_factory):
    """A small experiment as Census has them: ids with gaps, no names of cells, genes by Ensembl id."""
    path = tmp_path_factory.mktemp("census") / "homo_sapiens"
    tiledbsoma.Experiment.create(str(path)).close()
    with tiledbsoma.open(str(path), "w") as experiment:
        for name in ("ms", "ms/RNA", "ms/RNA/X"):
            kind = tiledbsoma.Measurement if name == "ms/RNA" else tiledbsoma.Collection
            kind.create(f"{path}/{name}").close()
        table(f"{path}/obs", [40, 7, 100], {"cell_type": pa.array(["B", "A", "C"]).dictionary_encode(),
                                              "observation_joinid": pa.array(["oB", "oA", "oC"])})  # fmt: skip
        table(f"{path}/ms/RNA/var", [9, 2], {"feature_id": ["ENSG00000000009", "ENSG00000000002"],
                                              "feature_name": ["MT-CO1", "ABC"]})  # fmt: skip
        values = tiledbsoma.SparseNDArray.create(f"{path}/ms/RNA/X/raw", type=pa.int32(), shape=(1000, 1000))  # fmt: skip
        values.write(pa.table({"soma_dim_0": [100, 7, 100], "soma_dim_1": [2, 9, 9],
                               "soma_data": pa.array([5, 3, 4], pa.int32())}))  # fmt: skip
        values.close()
        experiment.set("obs", tiledbsoma.open(f"{path}/obs"))
        experiment.set("ms", tiledbsoma.open(f"{path}/ms", "w"))
        experiment.ms.set("RNA", tiledbsoma.open(f"{path}/ms/RNA", "w"))
        experiment.ms["RNA"].set("var", tiledbsoma.open(f"{path}/ms/RNA/var"))
        experiment.ms["RNA"].set("X", tiledbsoma.open(f"{path}/ms/RNA/X", "w"))
        experiment.ms["RNA"].X.set("raw", tiledbsoma.open(f"{path}/ms/RNA/X/raw"))
    return path


def test_ids_with_gaps(census):
    with open_source(census) as source:
        assert source.n_cells == 3
        assert source.vocabulary.words == ("ABC", "MT-CO1")
        assert source.mitochondrial.tolist() == [False, True]
        assert source.read(0, 3).toarray().tolist() == [[0, 3], [0, 0], [5, 4]]
        assert source.read(0, 3).dtype == np.int32
        assert source.read(1, 3).toarray().tolist() == [[0, 0], [5, 4]]
        assert source.column("cell_type").to_pylist() == ["A", "B", "C"]
        assert source.names(0, 3).to_pylist() == ["oA", "oB", "oC"]
        assert source.columns() == ["cell_type", "observation_joinid"]


def test_values_of_a_gene_that_var_lacks(census, tmp_path):
    path = shutil.copytree(census, tmp_path / "copy")
    with tiledbsoma.open(f"{path}/ms/RNA/X/raw", "w") as values:
        values.write(pa.table({"soma_dim_0": [40], "soma_dim_1": [5], "soma_data": pa.array([1], pa.int32())}))  # fmt: skip
    with open_source(path) as source, pytest.raises(InputError) as error:
        source.read(0, 3)
    one_line(error, path, "soma_joinid 5", "var")


def test_folders_that_are_no_experiment(experiment, tmp_path):
    with pytest.raises(InputError) as error:
        open_source(experiment / "ms")
    one_line(error, experiment / "ms", "Experiment", "RNA")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as error:
        open_source(tmp_path / "empty", kind="soma")
    one_line(error, tmp_path / "empty")


def test_a_dense_matrix_is_refused(cells, tmp_path):
    adata = ad.AnnData(cells.X[:3, :4].toarray(), obs=cells.obs[:3], var=cells.var[:4])
    soma_io.from_anndata(str(tmp_path / "dense"), adata, "RNA", X_layer_name="raw", X_kind=tiledbsoma.DenseNDArray)  # fmt: skip
    with pytest.raises(InputError) as error:
        open_source(tmp_path / "dense")
    one_line(error, "SOMADenseNDArray", "SOMASparseNDArray")


def test_the_digest_does_not_change_by_reading(experiment):
    before = digest(experiment)
    with open_source(experiment) as source:
        source.read(0, 60)
        source.column("cell_type")
    assert digest(experiment) == before


def test_without_the_package(experiment, monkeypatch):
    monkeypatch.setitem(sys.modules, "tiledbsoma", None)
    with pytest.raises(UsageError) as error:
        open_source(experiment)
    one_line(error, "tiledbsoma", "c2s-toolkit[soma]")


def test_other_sources_do_not_load_tiledbsoma():
    code = (
        "import sys; from c2s.corpus.sources import open_source; open_source('pancreas');"
        "sys.exit('tiledbsoma' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
