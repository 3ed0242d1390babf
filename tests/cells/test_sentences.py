"""From an AnnData to sentences and to the inverse model (`c2s.pp`)."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scipy.stats

import c2s
from c2s.cells import readers, sentences
from c2s.cells.preprocess import log10_normalized
from c2s.cells.ranked import rank_matrix
from c2s.cells.sentences import cell_sentences, fit_inverse
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import C2SWarning, InputError, UsageError

FORMATS = ["csr", "csc", "csr_array", "csc_array", "dense", "fortran", "int64", "float64",
           "uint16"]  # fmt: skip


def columns(cells):
    return [cells.to_columns(i).tolist() for i in range(len(cells))]


def adata_of(matrix, names=None):
    adata = ad.AnnData(matrix)
    adata.obs_names = [f"cell{i}" for i in range(adata.n_obs)]
    adata.var_names = names or [f"Gene{i}" for i in range(adata.n_vars)]
    return adata


@pytest.fixture(scope="module")
def dense():
    return np.random.default_rng(0).negative_binomial(0.5, 0.2, (130, 40)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(dense):
    return columns(cell_sentences(adata_of(sp.csr_matrix(dense))))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Walk over every matrix in blocks of 48 cells."""
    blocks = readers.csr_blocks
    monkeypatch.setattr(sentences, "csr_blocks", lambda matrix: blocks(matrix, 48))


def stored(dense, how):
    makers = {
        "csr": sp.csr_matrix,
        "csc": sp.csc_matrix,
        "csr_array": sp.csr_array,
        "csc_array": sp.csc_array,
        "dense": np.array,
        "fortran": np.asfortranarray,
    }
    return makers[how](dense) if how in makers else sp.csr_matrix(dense.astype(how))


# --- sentences ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", FORMATS)
def test_every_format_gives_the_same_ranks(dense, expected, how):
    cells = cell_sentences(adata_of(stored(dense, how)))
    assert columns(cells) == expected
    row = np.repeat(np.arange(len(cells)), cells.lengths)
    np.testing.assert_array_equal(cells.values, dense[row, cells.genes])
    assert cells.cell_ids.tolist() == [f"cell{i}" for i in range(130)]


@pytest.mark.parametrize("how", ["csr", "csc", "dense"])
def test_backed_files_give_the_same_ranks(dense, expected, how, tmp_path):
    adata_of(stored(dense, how)).write_h5ad(tmp_path / "a.h5ad")
    adata = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    try:
        assert columns(cell_sentences(adata)) == expected
        in_memory, backed = fit_inverse(adata_of(stored(dense, how))), fit_inverse(adata)
        assert backed.to_dict() == in_memory.to_dict()
    finally:
        adata.file.close()


def test_the_real_data_as_the_kernel_ranks_them():
    adata = c2s.datasets.pancreas()[:200].copy()
    cells = cell_sentences(adata, top_k=None, seed=4)
    direct = rank_matrix(adata.X, GeneVocabulary(adata.var_names), adata.obs_names, seed=4)
    assert columns(cells) == columns(direct)
    assert cells.words(0)[0] in ("PRSS1", "REG1A", "CTRB2", "PRSS2")  # an acinar cell


def test_layers_and_raw(dense, expected):
    adata = adata_of(np.zeros_like(dense))
    adata.layers["counts"] = sp.csr_matrix(dense)
    assert columns(cell_sentences(adata, layer="counts")) == expected
    whole = adata_of(sp.csr_matrix(dense))
    part = whole[:, :7].copy()
    part.raw = whole
    assert columns(cell_sentences(part, layer="raw")) == expected
    assert len(cell_sentences(part).vocabulary) == 7
    with pytest.raises(UsageError, match="no layer 'count'; it has X, counts; did you mean 'count"):
        cell_sentences(adata, layer="count")


def test_the_object_is_not_changed(dense):
    adata = adata_of(sp.csr_matrix(dense))
    before = adata.copy()
    cell_sentences(adata, thin=0.5, top_k=3)
    fit_inverse(adata)
    np.testing.assert_array_equal(adata.X.toarray(), before.X.toarray())
    assert adata.uns == {}
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    pd.testing.assert_frame_equal(adata.var, before.var)


def test_views_and_subsets_keep_the_order_of_each_cell(dense, expected):
    adata = adata_of(sp.csr_matrix(dense))
    rows = np.random.default_rng(1).permutation(130)[:70]
    assert columns(cell_sentences(adata[rows])) == [expected[i] for i in rows]


def test_genes_can_be_chosen(dense, expected):
    adata = adata_of(sp.csr_matrix(dense))
    adata.var["highly_variable"] = np.arange(40) % 2 == 0
    chosen = columns(cell_sentences(adata, genes="highly_variable"))
    assert chosen == [[g for g in row if g % 2 == 0] for row in expected]
    panel = range(3, 30)
    few = columns(cell_sentences(adata, genes=[f"GENE{g}" for g in panel], top_k=2))
    assert few == [[g for g in row if g in panel][:2] for row in expected]


def test_thinning_takes_a_share_per_cell(dense, expected):
    adata = adata_of(sp.csr_matrix(dense))
    thin = np.where(np.arange(130) < 60, 1.0, 0.3)
    cells = cell_sentences(adata, thin=thin)
    assert columns(cells)[:60] == expected[:60]
    row = np.repeat(np.arange(130), cells.lengths)
    kept = np.bincount(row, weights=cells.values, minlength=130)[60:].sum()
    assert kept == pytest.approx(0.3 * dense[60:].sum(), rel=0.1)
    with pytest.raises(UsageError, match=r"shares of shape \(3,\) for 130 cells"):
        cell_sentences(adata, thin=np.ones(3))


def test_ids_are_written_as_symbols_and_come_back_as_columns(dense):
    adata = adata_of(sp.csr_matrix(dense[:, :3]), ["ENSG00000141510.2", "Ins1", "ENSA"])
    adata.var["feature_name"] = ["TP53", "no", "no"]
    cells = cell_sentences(adata[dense[:, :3].any(1)].copy())
    assert set(cells.to_text()[0].as_py().split()) <= {"TP53", "INS1", "ENSA"}
    assert cells.vocabulary.name("TP53") == "ENSG00000141510.2"
    table = {"ENSG00000141510": "P53"}
    named = cell_sentences(adata[dense[:, :3].any(1)].copy(), gene_names=table)
    assert named.vocabulary.words == ("P53", "INS1", "ENSA")
    assert columns(named) != []


def test_a_vocabulary_can_be_given(dense):
    adata = adata_of(sp.csr_matrix(dense))
    vocabulary = GeneVocabulary([f"X{i}" for i in range(40)])
    assert cell_sentences(adata, vocabulary=vocabulary).vocabulary is vocabulary
    with pytest.raises(InputError, match="40 columns, the vocabulary 3 genes"):
        cell_sentences(adata, vocabulary=GeneVocabulary(["a", "b", "c"]))


def test_entries_that_are_stored_twice_are_summed(dense):
    twice = sp.csr_matrix(
        (np.array([1.0, 2, 4]), np.array([0, 1, 0]), np.array([0, 3])), shape=(1, 2)
    )
    adata = adata_of(twice)
    cells = cell_sentences(adata)
    assert columns(cells) == [[0, 1]]
    assert cells.values.tolist() == [5, 2]
    model = fit_inverse(adata_of(sp.vstack([twice, twice], format="csr")))
    at = np.log10(1 + 1e4 * np.array([5, 2]) / 7)
    assert model.at_rank([0, 1]) == pytest.approx(at, rel=1e-5)


# --- refusals and warnings ----------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
@pytest.mark.parametrize("how", ["csr", "csc", "dense"])
def test_values_that_no_profile_has_are_refused_with_their_place(dense, value, how):
    bad = dense.copy()
    bad[100, 7] = value
    for verb in (cell_sentences, lambda a: fit_inverse(a, held_out=0.5)):
        with pytest.raises(InputError, match="cell cell100, gene Gene7 is "):
            verb(adata_of(stored(bad, how)))


def test_empty_cells_are_warned_about(dense):
    some = dense.copy()
    some[[50, 99]] = 0
    with pytest.warns(C2SWarning, match=r"2 of 130 cells express none .*first: 'cell50'"):
        cells = cell_sentences(adata_of(sp.csr_matrix(some)))
    assert np.flatnonzero(cells.lengths == 0).tolist() == [50, 99]
    assert cells.to_text()[50].as_py() == ""


def test_data_without_any_expression_are_refused(dense):
    with pytest.raises(InputError, match="no cell expresses any of the genes"):
        cell_sentences(adata_of(np.zeros((3, 4), dtype=np.float32)))
    with pytest.raises(InputError, match="there are no cells"):
        cell_sentences(adata_of(sp.csr_matrix(dense))[:0].copy())


def test_repeated_cell_names_are_refused(dense):
    adata = adata_of(sp.csr_matrix(dense))
    adata.obs_names = ["a", "b", "a", *adata.obs_names[3:]]
    for verb in (cell_sentences, fit_inverse):
        with pytest.raises(InputError, match=r"1 cell names occur more than once \(a\)"):
            verb(adata)


def test_white_space_in_a_gene_name_is_refused(dense):
    adata = adata_of(sp.csr_matrix(dense), ["a gene", *[f"g{i}" for i in range(39)]])
    with pytest.raises(InputError, match="'a gene'"):
        cell_sentences(adata)


# --- the inverse model --------------------------------------------------------------------------


def test_fit_on_real_counts_is_the_line_through_ranks_and_normalised_expression():
    adata = c2s.datasets.pancreas()[:400].copy()
    model = fit_inverse(adata, n_cells=300, held_out=0.25, seed=3)
    assert (model.n_cells, model.n_held_out, model.target_sum) == (300, 100, 1e4)
    # The same by NumPy, ties in any order: equal values may swap ranks without moving the line.
    held = c2s.common.seeds.generator(3, "fit_inverse").permutation(400)
    expression = np.log10(1 + 1e4 * adata.X.toarray() / adata.X.sum(1).A)
    points = [[], []]
    for row in held[100:]:
        value = -np.sort(-expression[row][expression[row] > 0])[:999]
        points[0].append(np.log10(1 + np.arange(len(value))))
        points[1].append(value)
    line = scipy.stats.linregress(np.concatenate(points[0]), np.concatenate(points[1]))
    assert model.slope == pytest.approx(line.slope, rel=1e-5)
    assert model.intercept == pytest.approx(line.intercept, rel=1e-5)
    assert model.r2 > 0.8
    assert model.slope < 0


def test_counts_and_their_normalised_values_give_the_same_line(dense):
    adata = adata_of(sp.csr_matrix(dense))
    logged = adata_of(log10_normalized(sp.csr_matrix(dense)))
    a, b = fit_inverse(adata), fit_inverse(logged)
    assert (a.slope, a.intercept, a.r2) == pytest.approx((b.slope, b.intercept, b.r2), rel=1e-6)
    assert (a.target_sum, b.target_sum) == (1e4, None)
    assert fit_inverse(adata, target_sum=1e6).target_sum == 1e6
    assert fit_inverse(adata, target_sum=1e6).intercept > a.intercept + 1


def test_few_cells_of_abundances_are_not_taken_for_logged_ones():
    # One cell reaches the 30 that tells abundances from logged values, be it fitted or held out.
    values = np.random.default_rng(0).uniform(0.1, 5, (4, 30))
    values[0] *= 50
    adata = adata_of(sp.csr_matrix(values))
    for seed in range(8):
        model = fit_inverse(adata, held_out=0.25, seed=seed)
        assert model.target_sum == 1e4
        assert model.r2 > 0  # both parts normalised alike


def test_cells_are_fitted_or_measured_never_both(dense, monkeypatch):
    adata, seen = adata_of(sp.csr_matrix(dense)), {}

    def record(train, held, **options):
        seen["train"], seen["held"] = set(train.cell_ids), set(held.cell_ids)
        return "line"

    monkeypatch.setattr(sentences, "fit_line", record)
    for options, sizes in (
        ({}, (104, 26)),
        ({"n_cells": 10}, (10, 26)),
        ({"held_out": 0.999}, (1, 129)),
        ({"held_out": 0.0}, (129, 1)),
    ):
        assert fit_inverse(adata, **options) == "line"
        assert not seen["train"] & seen["held"]
        assert (len(seen["train"]), len(seen["held"])) == sizes
    fit_inverse(adata, n_cells=10, seed=1)
    other = seen["train"]
    fit_inverse(adata, n_cells=10, seed=1)
    assert seen["train"] == other
    fit_inverse(adata, n_cells=10, seed=2)
    assert seen["train"] != other


def test_one_cell_is_too_few_to_fit(dense):
    with pytest.raises(InputError, match="1 cell is too few"):
        fit_inverse(adata_of(sp.csr_matrix(dense))[:1].copy())


def test_sentences_and_expression_of_real_cells_agree():
    adata = c2s.datasets.pancreas()[:100].copy()
    model = fit_inverse(adata)
    cells = cell_sentences(adata, top_k=200)
    expression = model.expression(cells)
    np.testing.assert_array_equal(model.expression(cells.to_text()).toarray(), expression.toarray())
    # The most expressed gene of a cell is the highest in the reconstruction too.
    np.testing.assert_array_equal(expression.toarray().argmax(1), cells.genes[cells.indptr[:-1]])
