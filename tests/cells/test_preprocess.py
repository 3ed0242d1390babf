"""Quality control and normalisation against hand calculations, scanpy and real cells."""

import json
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from c2s.cells.preprocess import (
    PreprocessConfig,
    gene_symbols,
    is_mitochondrial,
    log10_normalized,
    normalize,
    quality_control,
)
from c2s.common.errors import C2SWarning, InputError, UsageError
from c2s.datasets import pancreas


@pytest.fixture(scope="module")
def real():
    return pancreas()[:150].copy()


def toy(values, genes=None):
    values = np.asarray(values)
    return ad.AnnData(
        sp.csr_matrix(values),
        obs=pd.DataFrame(index=[f"c{i}" for i in range(len(values))]),
        var=pd.DataFrame(index=genes or [f"G{i}" for i in range(values.shape[1])]),
    )


# --- configuration ----------------------------------------------------------------------------


def test_defaults_are_those_of_the_specification():
    config = PreprocessConfig()
    assert config.model_dump() == {
        "target_sum": 1e4,
        "log_base": 10,
        "min_genes": 200,
        "min_cells": 3,
        "max_genes": None,
        "max_pct_mt": 20.0,
    }
    assert all(field.description for field in PreprocessConfig.model_fields.values())


def test_digest_follows_the_values():
    config = PreprocessConfig()
    assert config.digest() == PreprocessConfig(min_genes=200).digest()
    assert config.digest() != PreprocessConfig(min_genes=201).digest()
    assert PreprocessConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    "bad", [{"target_sum": 0}, {"log_base": 2}, {"min_gene": 3}, {"max_pct_mt": 200}]
)
def test_impossible_configurations_are_refused(bad):
    with pytest.raises(ValidationError, match=next(iter(bad))):
        PreprocessConfig(**bad)


def test_a_configuration_is_frozen():
    with pytest.raises(ValidationError):
        PreprocessConfig().min_genes = 3


# --- gene names -------------------------------------------------------------------------------


def test_symbols_replace_ids_and_nothing_else():
    var = pd.DataFrame(
        {"feature_name": ["MT-ND1", "WRONG", None, "X"]},
        index=["ENSG00000198888", "TP53", "ENSG00000000003.15", "ENSA"],
    )
    assert list(gene_symbols(var)) == ["MT-ND1", "TP53", "ENSG00000000003.15", "ENSA"]
    assert list(is_mitochondrial(var)) == [True, False, False, False]


def test_mitochondrial_genes_of_man_and_mouse():
    var = pd.DataFrame(index=["MT-CO1", "mt-Co1", "MTOR", "MTND1P23", "Actb"])
    assert list(is_mitochondrial(var)) == [True, True, False, False, False]


# --- quality control --------------------------------------------------------------------------


def test_quality_control_by_hand():
    adata = toy(
        [
            [1, 1, 1, 0, 0],  # kept: 3 genes, no mitochondrial counts
            [1, 0, 0, 0, 0],  # 1 gene, too few
            [1, 1, 0, 0, 3],  # 60 % mitochondrial
            [2, 1, 1, 1, 1],  # 5 genes, too many
            [3, 1, 0, 0, 1],  # kept: 20 % mitochondrial is not more than 20 %
        ],
        ["A", "B", "C", "D", "MT-ND1"],
    )
    before = adata.copy()
    kept = quality_control(adata, PreprocessConfig(min_genes=3, max_genes=3, min_cells=2))
    assert list(kept.obs_names) == ["c0", "c4"]
    # Genes are counted among kept cells: C and MT-ND1 are in one of them, D in none.
    assert list(kept.var_names) == ["A", "B"]
    np.testing.assert_array_equal(kept.X.toarray(), [[1, 1], [3, 1]])
    record = kept.uns["c2s"]["quality_control"]
    assert record["cells_dropped"] == {"min_genes": 1, "max_genes": 1, "max_pct_mt": 1}
    assert record["genes_dropped"] == {"min_cells": 3}
    assert (record["cells_before"], record["cells_after"]) == (5, 2)
    assert record["mitochondrial_filter"] == "applied to 1 genes"
    assert json.loads(record["config"])["max_genes"] == 3
    np.testing.assert_array_equal(adata.X.toarray(), before.X.toarray())
    assert "c2s" not in adata.uns


@pytest.mark.parametrize("how", ["csr", "csc", "dense", "stored zeros"])
def test_quality_control_as_scanpy_does_it(real, how):
    import scanpy as sc

    config = PreprocessConfig(min_genes=1500, min_cells=5, max_pct_mt=None)
    expected = real.copy()
    sc.pp.filter_cells(expected, min_genes=1500)
    sc.pp.filter_genes(expected, min_cells=5)
    adata = real.copy()
    if how == "csc":
        adata.X = sp.csc_matrix(adata.X)
    elif how == "dense":
        adata.X = adata.X.toarray()
    elif how == "stored zeros":
        dense = adata.X.toarray()
        full = sp.csr_matrix(np.ones_like(dense))
        full.data = dense.ravel().copy()
        adata.X = full
    kept = quality_control(adata, config)
    assert 0 < kept.n_obs < real.n_obs
    assert list(kept.obs_names) == list(expected.obs_names)
    assert list(kept.var_names) == list(expected.var_names)


def test_quality_control_of_backed_data_gives_the_same(real, tmp_path):
    config = PreprocessConfig(min_genes=1500, min_cells=5)
    real.write_h5ad(tmp_path / "real.h5ad")
    backed = ad.read_h5ad(tmp_path / "real.h5ad", backed="r")
    kept, expected = quality_control(backed, config), quality_control(real, config)
    assert not kept.isbacked
    assert list(kept.obs_names) == list(expected.obs_names)
    np.testing.assert_array_equal(kept.X.toarray(), expected.X.toarray())
    backed.file.close()


def test_the_mitochondrial_filter_says_when_it_cannot_work():
    config = PreprocessConfig(min_genes=1, min_cells=1)
    without = quality_control(toy([[1, 2]]), config)
    logged = quality_control(toy([[0.5, 2.5]], ["MT-ND1", "A"]), config)
    off = quality_control(
        toy([[5, 1]], ["MT-ND1", "A"]), config.model_copy(update={"max_pct_mt": None})
    )
    notes = [
        a.uns["c2s"]["quality_control"]["mitochondrial_filter"] for a in (without, logged, off)
    ]
    assert [note.split(":")[0] for note in notes] == ["not applied", "not applied", "switched off"]
    assert "no mitochondrial gene" in notes[0]
    assert "logged" in notes[1]
    assert (logged.n_obs, off.n_obs) == (1, 1)


def test_thresholds_that_leave_nothing_are_refused_with_the_numbers():
    with pytest.raises(InputError, match=r"none of 2 cells \(min_genes drops 2.*expresses 2 genes"):
        quality_control(toy([[1, 2], [3, 4]]))
    with pytest.raises(InputError, match="none of 2 is expressed in 3 of 2 kept cells"):
        quality_control(toy([[1, 2], [3, 4]]), PreprocessConfig(min_genes=1))
    with pytest.raises(InputError, match="without cells"):
        quality_control(toy(np.zeros((0, 2))))


@pytest.mark.parametrize(("bad", "message"), [(np.nan, "finite"), (-1.0, "scaled")])
@pytest.mark.parametrize("work", [quality_control, normalize])
def test_unusable_values_are_refused_and_nothing_is_changed(work, bad, message):
    adata = toy([[1.0, bad], [1.0, 2.0]])
    before = adata.X.copy()
    with pytest.raises(InputError, match=message):
        work(adata)
    np.testing.assert_array_equal(adata.X.toarray(), before.toarray())
    assert "c2s" not in adata.uns


# --- normalisation ----------------------------------------------------------------------------


def test_log10_normalized_by_hand():
    matrix = sp.csr_matrix(np.array([[1, 0, 9], [0, 0, 0], [0, 4, 0]]))
    found = log10_normalized(matrix, target_sum=100)
    assert found.dtype == np.float32
    expected = [
        [np.log10(11), 0, np.log10(91)],
        [0, 0, 0],
        [0, np.log10(101), 0],
    ]
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-6)
    assert matrix.dtype.kind == "i"
    assert not np.shares_memory(found.indices, matrix.indices)


@pytest.mark.parametrize("how", ["csr", "csc", "dense"])
def test_normalize_as_scanpy_does_it_on_real_cells(real, how):
    import scanpy as sc

    expected = real.copy()
    sc.pp.normalize_total(expected, target_sum=1e4)
    sc.pp.log1p(expected, base=10)
    adata = real.copy()
    if how != "csr":
        adata.X = sp.csc_matrix(adata.X) if how == "csc" else adata.X.toarray()
    assert normalize(adata) is None
    assert sp.issparse(adata.X) == (how != "dense")
    assert adata.X.dtype == np.float32
    found = adata.X if how == "dense" else adata.X.toarray()
    np.testing.assert_allclose(found, expected.X.toarray(), rtol=2e-5, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.int64, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(0, 99)),
    st.floats(1, 1e6),
)
def test_unlogged_cells_sum_to_the_target(counts, target):
    found = log10_normalized(sp.csr_matrix(counts), target).toarray().astype(np.float64)
    total = (10**found - 1).sum(axis=1)
    np.testing.assert_allclose(total, np.where(counts.sum(axis=1) > 0, target, 0), rtol=1e-4)
    # Order within a cell is unchanged: what ranking relies on (SPEC §2).
    for before, after in zip(counts, found, strict=True):
        assert (np.diff(after[np.argsort(before, kind="stable")]) >= 0).all()


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16", "float32"])
def test_counts_of_small_dtypes_do_not_overflow(dtype):
    counts = np.full((1, 400), 200, dtype=dtype)
    adata = ad.AnnData(counts)
    normalize(adata)
    np.testing.assert_allclose(adata.X, np.log10(1 + 1e4 / 400), rtol=1e-6)


def test_normalize_from_a_layer_and_from_raw():
    counts = np.array([[1, 0, 9], [5, 5, 0]])
    adata = toy(np.zeros((2, 3)))
    adata.layers["counts"] = sp.csr_matrix(counts)
    expected = log10_normalized(sp.csr_matrix(counts)).toarray()
    normalize(adata, layer="counts")
    np.testing.assert_array_equal(adata.X.toarray(), expected)
    np.testing.assert_array_equal(adata.layers["counts"].toarray(), counts)
    assert adata.uns["c2s"]["preprocess"]["layer"] == "counts"

    adata = toy(counts)
    adata.raw = adata.copy()
    adata.X = sp.csr_matrix(np.zeros((2, 3)))
    normalize(adata, layer="raw")
    np.testing.assert_array_equal(adata.X.toarray(), expected)
    with pytest.raises(UsageError, match="raw has 3 genes and adata has 2"):
        normalize(adata[:, :2].copy(), layer="raw")


def test_copy_leaves_the_input_alone(real):
    before = real.X.copy()
    found = normalize(real, copy=True)
    assert found is not None
    assert (before != real.X).nnz == 0
    assert "c2s" not in real.uns
    assert found.X.max() < 5


def test_a_view_does_not_write_to_its_parent(real):
    parent = real.copy()
    view = parent[:10]
    normalize(view)
    assert not view.is_view
    assert (parent.X != real.X).nnz == 0
    assert "c2s" not in parent.uns
    np.testing.assert_array_equal(view.X.toarray(), log10_normalized(real.X[:10]).toarray())


def test_records_survive_a_file_and_add_up(real, tmp_path):
    adata = quality_control(real)
    normalize(adata, target_sum=5000)
    adata.write_h5ad(tmp_path / "a.h5ad")
    kept = ad.read_h5ad(tmp_path / "a.h5ad").uns["c2s"]
    assert kept["preprocess"] == {
        "input": "counts",
        "layer": "X",
        "target_sum": 5000.0,
        "log_base": 10,
    }
    config = PreprocessConfig.model_validate_json(kept["quality_control"]["config"])
    assert config == PreprocessConfig()
    assert kept["quality_control"]["digest"] == config.digest()
    assert kept["quality_control"]["cells_dropped"]["max_pct_mt"] >= 0


@pytest.mark.parametrize("through_a_file", [False, True])
def test_normalizing_twice_changes_nothing_and_says_so(real, tmp_path, through_a_file):
    adata = normalize(real, copy=True)
    if through_a_file:
        adata.write_h5ad(tmp_path / "a.h5ad")
        adata = ad.read_h5ad(tmp_path / "a.h5ad")
    before = adata.X.copy()
    with pytest.warns(C2SWarning, match="normalised by c2s before, to 10000 per cell") as caught:
        assert normalize(adata) is None
    assert caught[0].filename == __file__
    assert (before != adata.X).nnz == 0
    with pytest.warns(C2SWarning):
        again = normalize(adata, copy=True)
    assert again is not adata
    assert (before != again.X).nnz == 0


def test_counts_put_back_into_x_are_normalised_again(real):
    adata = normalize(real, copy=True)
    adata.X = real.X.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        normalize(adata)
    np.testing.assert_array_equal(adata.X.toarray(), log10_normalized(real.X).toarray())


def test_abundances_are_taken_as_counts_with_a_warning():
    adata = toy([[10.5, 29.5], [100.0, 0.0]])
    with pytest.warns(C2SWarning, match=r"X .* taken as counts"):
        normalize(adata)
    np.testing.assert_allclose(
        adata.X.toarray(),
        [[np.log10(1 + 1e4 * 10.5 / 40), np.log10(1 + 1e4 * 29.5 / 40)], [np.log10(10001), 0]],
        rtol=1e-6,
    )
    assert adata.uns["c2s"]["preprocess"]["input"] == "abundances"


def test_logged_values_are_left_as_they_are_with_a_warning():
    adata = toy([[0.5, 2.5], [1.0, 0.0]])
    adata.layers["logged"] = adata.X * 1.5
    with pytest.warns(C2SWarning, match="X looks logged already"):
        normalize(adata)
    np.testing.assert_array_equal(adata.X.toarray(), [[0.5, 2.5], [1.0, 0.0]])
    assert adata.uns["c2s"]["preprocess"] == {"input": "logged", "layer": "X"}
    with pytest.warns(C2SWarning, match="layer 'logged' looks logged"):
        normalize(adata, layer="logged")
    np.testing.assert_array_equal(adata.X.toarray(), [[0.75, 3.75], [1.5, 0.0]])


def test_the_guess_can_be_overridden():
    adata = toy([[0.5, 1.5]])
    normalize(adata, kind="abundances", target_sum=4)
    np.testing.assert_allclose(adata.X.toarray(), np.log10([[2.0, 4.0]]), rtol=1e-6)


@pytest.mark.parametrize("target", [0, -1, np.nan, np.inf])
def test_impossible_targets_are_refused(target):
    with pytest.raises(UsageError, match=r"target_sum is .*; a positive number"):
        normalize(toy([[1, 2]]), target_sum=target)


def test_backed_data_are_refused(real, tmp_path):
    real.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    with pytest.raises(UsageError, match="to_memory"):
        normalize(backed)
    backed.file.close()
