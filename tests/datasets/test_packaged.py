"""The packaged cells are the published ones."""

from importlib.resources import files

import numpy as np
import pytest
import scipy.sparse as sp

from c2s.datasets import pancreas, pbmc68k

#: Labels of Baron et al. 2016, donor 1.
PANCREAS_LABELS = {
    "beta": 872, "alpha": 236, "delta": 214, "endothelial": 130, "ductal": 120, "acinar": 110,
    "quiescent_stellate": 92, "gamma": 70, "activated_stellate": 51, "macrophage": 14,
    "epsilon": 13, "mast": 8, "schwann": 5, "t_cell": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def cells():
    return pancreas()


def test_pancreas_is_donor_1_as_published(cells):
    assert cells.shape == (1937, 20125)
    assert cells.obs["cell_type"].value_counts().to_dict() == PANCREAS_LABELS
    assert np.median(cells.X.sum(1).A1) == 5346
    assert np.median(cells.X.getnnz(1)) == 1881


def test_pancreas_holds_raw_counts_in_sound_csr(cells):
    assert sp.isspmatrix_csr(cells.X)
    assert cells.X.dtype == np.float32
    cells.X.check_format(full_check=True)
    assert cells.X.has_canonical_format
    assert (cells.X.data >= 1).all()
    assert (cells.X.data == np.rint(cells.X.data)).all()
    assert cells.X.indices.dtype == np.int32


def test_pancreas_names_are_unique_symbols(cells):
    assert cells.obs_names.is_unique
    assert cells.var_names.is_unique
    assert {"INS", "GCG", "HLA-A", "NKX6-1", "ENSA"} <= set(cells.var_names)
    assert not [n for n in cells.var_names if "." in n or not n]


@pytest.mark.parametrize(
    ("gene", "cell_type"),
    [("INS", "beta"), ("GCG", "alpha"), ("SST", "delta"), ("PPY", "gamma"), ("GHRL", "epsilon"),
     ("PRSS1", "acinar"), ("KRT19", "ductal"), ("PLVAP", "endothelial"), ("TPSAB1", "mast")],
)  # fmt: skip
def test_pancreas_columns_belong_to_their_genes(cells, gene, cell_type):
    # Markers of each type: a shift of genes, cells or labels against the counts would show.
    expression = cells[:, gene].X.toarray()[:, 0] / cells.X.sum(1).A1
    by_type = {t: expression[cells.obs["cell_type"] == t].mean() for t in PANCREAS_LABELS}
    assert max(by_type, key=by_type.get) == cell_type


def test_pancreas_says_where_it_is_from(cells):
    assert "GSE84133" in cells.uns["citation"]
    for column, value in {
        "tissue": "pancreas",
        "organism": "Homo sapiens",
        "donor": "human1",
    }.items():
        assert set(cells.obs[column]) == {value}


def test_pancreas_is_new_at_each_call(cells):
    other = pancreas()
    other.X.data[:] = 0
    assert cells.X.data.min() >= 1


def test_pancreas_can_be_written(cells, tmp_path):
    cells[:20].copy().write_h5ad(tmp_path / "a.h5ad")


def test_packaged_data_stay_small():
    folder = files("c2s.datasets").joinpath("data")
    assert sum(len(f.read_bytes()) for f in folder.iterdir()) <= 4 * 2**20


def test_pbmc68k_is_log_normalised_with_labels():
    cells = pbmc68k()
    assert cells.shape == (700, 765)
    assert cells.obs["cell_type"].nunique() == 10
    assert cells.X.min() >= 0
    values = cells.X.toarray() if sp.issparse(cells.X) else cells.X
    assert (values != np.rint(values)).any()
    assert values.max() < 10
    assert "Zheng" in cells.uns["citation"]
