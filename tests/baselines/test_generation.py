"""Independent resampling has the margins and no correlations; the memoriser is caught."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import chi2_contingency, ks_2samp

from c2s.baselines import IndependentResampling, copy_training, generation
from c2s.common.errors import InputError, UsageError
from c2s.datasets import pancreas
from c2s.encoders.pca import PCAEncoder
from c2s.metrics import c2st, energy_distance, memorisation_summary, mmd2, nearest_distance, scfid


@pytest.fixture(scope="module")
def real():
    """log10-normalised pancreas cells of two types: 872 beta and 236 alpha."""
    adata = pancreas()
    adata = adata[adata.obs["cell_type"].isin(["beta", "alpha"])]
    scaled = sp.csr_matrix(adata.X.multiply(1e4 / adata.X.sum(axis=1)), dtype=np.float32)
    scaled.data = np.log10(1 + scaled.data)
    return scaled, np.asarray(adata.obs["cell_type"]).astype(str)


@pytest.fixture(scope="module")
def sampled(real):
    cells, labels = real
    wanted = np.array(["beta"] * 700 + ["alpha"] * 500)
    np.random.default_rng(0).shuffle(wanted)
    return IndependentResampling().fit(cells, labels).sample(wanted, seed=0), wanted


def test_every_gene_has_the_margin_of_its_type(real, sampled):
    cells, labels = real
    drawn, wanted = sampled
    for kind in ("beta", "alpha"):
        true, ours = cells[labels == kind].tocsc(), drawn[wanted == kind].tocsc()
        share, ours_share = (np.diff(m.indptr) / m.shape[0] for m in (true, ours))
        noise = np.sqrt(share * (1 - share) / ours.shape[0])
        z = (ours_share - share)[noise > 0] / noise[noise > 0]
        assert abs(z.mean()) < 0.05
        assert z.std() == pytest.approx(1, abs=0.05)
        assert (ours_share[share == 0] == 0).all()
        assert (ours_share[share == 1] == 1).all()
        for gene in np.argsort(share)[-5:]:
            assert set(ours[:, gene].data) <= set(true[:, gene].data)
            p = ks_2samp(true[:, gene].toarray().ravel(), ours[:, gene].toarray().ravel()).pvalue
            assert p > 1e-4


def test_the_mean_over_many_cells_is_the_mean_of_the_type():
    cells = sp.csr_matrix(np.array([[1.0, 0, 4], [2, 0, 0], [0, 0, 0], [3, 7, 0]]))
    model = IndependentResampling().fit(cells, np.array(["a", "a", "a", "b"]))
    drawn = model.sample(np.array(["a"] * 30_000), seed=1).toarray()
    for gene, values in enumerate(([0, 1, 2], [0], [0, 4])):
        found, n = np.unique(drawn[:, gene], return_counts=True)
        assert found.tolist() == values
        expected = [30_000 * np.mean(cells[:3].toarray()[:, gene] == v) for v in values]
        assert np.abs(n - expected).max() < 4 * np.sqrt(30_000 * 0.25)


def test_genes_are_drawn_independently():
    cells = sp.csr_matrix(np.array([[1.0, 1, 0], [2, 2, 0], [0, 0, 3], [0, 0, 4]]))
    drawn = (
        IndependentResampling()
        .fit(cells, np.array(["a"] * 4))
        .sample(np.array(["a"] * 20_000), seed=0)
    )
    first, second, third = drawn.toarray().T
    for other in (second, third):
        table = np.array(
            [[np.sum((first == i) & (other == j)) for j in set(other)] for i in (0, 1, 2)]
        )
        assert chi2_contingency(table).pvalue > 1e-4


def test_correlations_within_a_type_are_gone(real, sampled):
    cells, labels = real
    drawn, wanted = sampled

    def correlation(matrix):
        top = np.argsort(np.asarray(cells.mean(axis=0)).ravel())[-60:]
        values = np.corrcoef(matrix[:, top].toarray(), rowvar=False)
        return np.abs(values[np.triu_indices(60, 1)]).mean()

    real_value = correlation(cells[labels == "beta"])
    drawn_value = correlation(drawn[wanted == "beta"])
    chance = np.sqrt(2 / (np.pi * np.sum(wanted == "beta")))
    assert drawn_value == pytest.approx(chance, rel=0.15)
    assert real_value > 2 * drawn_value


def test_rows_are_of_the_types_asked_for_in_their_order():
    cells = sp.csr_matrix(np.array([[1.0, 0], [0, 2], [3, 3]], dtype=np.float32))
    model = IndependentResampling().fit(cells, np.array(["a", "b", "c"]))
    drawn = model.sample(np.array(["c", "a", "b", "a"]), seed=0)
    np.testing.assert_array_equal(drawn.toarray(), [[3, 3], [1, 0], [0, 2], [1, 0]])
    assert isinstance(drawn, sp.csr_matrix)
    assert drawn.dtype == np.float32
    assert drawn.has_sorted_indices
    assert model.sample(np.array([]), seed=0).shape == (0, 2)


def test_a_type_does_not_depend_on_other_types_blocks_or_later_cells(real, monkeypatch):
    cells, labels = real
    model = IndependentResampling().fit(cells, labels)
    alone = model.sample(np.array(["alpha"] * 7), seed=3)
    mixed = model.sample(np.array(["beta", "alpha"] * 9), seed=3)[1::2]
    np.testing.assert_array_equal(mixed[:7].toarray(), alone.toarray())
    monkeypatch.setattr(generation, "_BLOCK_VALUES", 20_000)
    again = model.sample(np.array(["alpha"] * 7), seed=3)
    np.testing.assert_array_equal(again.toarray(), alone.toarray())
    assert (model.sample(np.array(["alpha"] * 7), seed=4) != alone).nnz > 0


def test_stored_zeros_are_not_values():
    cells = sp.csr_matrix(np.array([[1.0], [1.0]]))
    cells.data[0] = 0
    drawn = (
        IndependentResampling()
        .fit(cells, np.array(["a", "a"]))
        .sample(np.array(["a"] * 2000), seed=0)
    )
    assert drawn.sum() == pytest.approx(1000, abs=100)
    assert (drawn.data == 1).all()


def test_a_type_without_expression_gives_empty_cells():
    cells = sp.csr_matrix(np.array([[0.0, 0], [1, 1]]))
    model = IndependentResampling().fit(cells, np.array(["empty", "full"]))
    drawn = model.sample(np.array(["empty", "full", "empty"]), seed=0)
    np.testing.assert_array_equal(drawn.toarray(), [[0, 0], [1, 1], [0, 0]])


def test_the_memoriser_gives_training_cells_of_the_type(real):
    cells, labels = real
    wanted = np.array(["alpha", "beta"] * 20)
    copied = copy_training(cells, labels, wanted, seed=0)
    rows = {kind: {r.tobytes() for r in cells[labels == kind].toarray()} for kind in set(wanted)}
    for kind, row in zip(wanted, copied.toarray(), strict=True):
        assert row.tobytes() in rows[kind]
    assert (copy_training(cells, labels, wanted, seed=0) != copied).nnz == 0
    assert (copy_training(cells, labels, wanted, seed=1) != copied).nnz > 0


def test_the_memoriser_is_caught_by_distance_only_and_independence_by_the_other_metrics(real):
    cells, labels = real
    beta = np.random.default_rng(0).permutation(np.flatnonzero(labels == "beta"))
    train, test = beta[:600], beta[600:]
    encoder = PCAEncoder(5).fit(cells[train])
    space = encoder.transform(cells[train])
    real_test = encoder.transform(cells[test])
    wanted = np.array(["beta"] * len(test))
    memorised = encoder.transform(copy_training(cells[train], labels[train], wanted, seed=0))
    model = IndependentResampling().fit(cells[train], labels[train])
    independent = encoder.transform(model.sample(wanted, seed=0))
    test_distance = nearest_distance(real_test, space)
    caught = memorisation_summary(nearest_distance(memorised, space), test_distance)
    assert caught.median_ratio < 1e-6
    assert caught.share_below_1st == 1
    fair = memorisation_summary(nearest_distance(independent, space), test_distance)
    assert fair.median_ratio > 0.3
    assert fair.share_below_1st < 0.5
    # Copies beat every other score, which is why they are looked for; independence is seen.
    assert c2st(real_test, memorised, classifier="forest") < 0.75
    assert c2st(real_test, independent, classifier="forest") > 0.9
    for metric in (scfid, mmd2, energy_distance):
        assert metric(real_test, memorised) < 0.2 * metric(real_test, independent)


def test_wrong_use_is_refused(real):
    cells, labels = real
    with pytest.raises(UsageError, match="fit"):
        IndependentResampling().sample(np.array(["beta"]), seed=0)
    model = IndependentResampling().fit(cells, labels)
    with pytest.raises(InputError, match="'bet', expected a type such as beta"):
        model.sample(np.array(["beta", "bet"]), seed=0)
    with pytest.raises(InputError, match="'kidney', expected a type such as alpha, beta"):
        copy_training(cells, labels, np.array(["kidney"]), seed=0)
    with pytest.raises(InputError, match="one label per cell"):
        IndependentResampling().fit(cells, labels[:3])
