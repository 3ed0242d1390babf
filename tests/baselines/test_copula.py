"""The copula has the margins, the planted correlations, and comes nearer to real cells than genes drawn on their own."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp, kstest, norm, spearmanr

from c2s.baselines import GaussianCopula, IndependentResampling
from c2s.baselines.copula import common_factors, normal_scores
from c2s.cells.preprocess import log10_normalized
from c2s.common.errors import InputError, UsageError


@pytest.fixture(scope="module")
def real(pancreas):
    """log10-normalised pancreas cells of two types: 872 beta and 236 alpha."""
    part = pancreas[pancreas.obs["cell_type"].isin(["beta", "alpha"])]
    return log10_normalized(part.X), np.asarray(part.obs["cell_type"]).astype(str)


@pytest.fixture(scope="module")
def fitted(real):
    return GaussianCopula().fit(*real)


@pytest.fixture(scope="module")
def sampled(fitted):
    wanted = np.array(["beta"] * 1500 + ["alpha"] * 700)
    np.random.default_rng(0).shuffle(wanted)
    return fitted.sample(wanted, seed=0), wanted


def test_every_gene_has_the_margin_of_its_type(real, sampled):
    cells, labels = real
    drawn, wanted = sampled
    assert isinstance(drawn, sp.csr_matrix)
    assert drawn.dtype == cells.dtype
    assert drawn.has_canonical_format
    for kind in ("beta", "alpha"):
        true, ours = cells[labels == kind].tocsc(), drawn[wanted == kind].tocsc()
        share, ours_share = (np.diff(m.indptr) / m.shape[0] for m in (true, ours))
        assert (ours_share[share == 0] == 0).all()
        assert (ours_share[share == 1] == 1).all()
        noise = np.sqrt(share * (1 - share) / ours.shape[0])
        z = (ours_share - share)[noise > 0] / noise[noise > 0]
        assert z.std() == pytest.approx(
            1, abs=0.1
        )  # correlated genes err together, so z.mean() may be off
        p = []
        for gene in np.argsort(share)[[-1, -5, -50, -500, -1000, -3000]]:
            assert set(ours[:, gene].data) <= set(true[:, gene].data)
            p.append(ks_2samp(true[:, gene].toarray().ravel(), ours[:, gene].toarray().ravel()).pvalue)  # fmt: skip
        assert min(p) > 1e-4


def test_two_genes_by_hand():
    # 1,500 pairs of normal variables with correlation 0.8: normal scores give the variables back.
    rng = np.random.default_rng(0)
    first, own = rng.standard_normal((2, 1500))
    second = 0.8 * first + 0.6 * own
    cells = sp.csr_matrix(np.exp(np.stack([first, second], axis=1)))  # positive; ranks are the same
    r = np.corrcoef(first, second)[0, 1]
    # Eigenvalues 1 + r and 1 − r: the first stands out, the noise is 1 − r, and B = √r (1, 1).
    factors = common_factors(normal_scores(np.stack([first, second], axis=1), rng))
    np.testing.assert_allclose(np.abs(factors), np.sqrt(r) * np.ones((1, 2)), atol=0.01)
    model = GaussianCopula().fit(cells, ["a"] * 1500)
    drawn = np.log(model.sample(["a"] * 20_000, seed=0).toarray())
    assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(r, abs=0.03)
    assert model.factors_ == {"a": 1}


def test_planted_correlations_are_found_and_others_are_not_made_up():
    rng = np.random.default_rng(1)
    n, genes = 300, 400
    module = rng.standard_normal((n, 1)) * np.repeat([0.9, -0.9, 0.0], [30, 20, genes - 50])
    rate = np.exp(0.5 + 0.6 * (module + np.sqrt(1 - 0.81 * (np.arange(genes) < 50)) * rng.standard_normal((n, genes))))  # fmt: skip
    cells = sp.csr_matrix(rng.poisson(rate).astype(np.float32))
    labels = np.array(["a"] * n)
    assert 0.1 < (cells.toarray() == 0).mean() < 0.4  # ties, zeros among them

    def correlation(matrix):
        return spearmanr(matrix.toarray()[:, :100]).statistic

    true = correlation(cells)
    wanted = ["a"] * 3000
    copula = correlation(GaussianCopula().fit(cells, labels).sample(wanted, seed=0))
    alone = correlation(IndependentResampling().fit(cells, labels).sample(wanted, seed=0))
    planted = np.zeros((100, 100), dtype=bool)
    planted[:50, :50] = ~np.eye(50, dtype=bool)
    assert np.abs(true[planted]).mean() > 0.2
    error, error_alone = (np.abs(m - true)[planted].mean() for m in (copula, alone))
    assert error < 0.3 * error_alone
    assert np.sign(copula[planted]).tolist() == np.sign(true[planted]).tolist()
    outside = ~planted & ~np.eye(100, dtype=bool)
    assert np.abs(copula[outside]).mean() < 0.05  # the sample itself has 0.046 by chance


def test_noise_has_no_factors_and_strong_common_ones_are_recovered_with_more_genes_than_cells():
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((100, 1000))
    noise = (noise - noise.mean(axis=0)) / noise.std(axis=0)
    assert len(common_factors(noise)) == 0
    loadings = np.sqrt(0.5) * np.sign(rng.standard_normal((1, 1000)))
    mixed = rng.standard_normal((100, 1)) @ loadings + np.sqrt(0.5) * rng.standard_normal((100, 1000))  # fmt: skip
    mixed = (mixed - mixed.mean(axis=0)) / mixed.std(axis=0)
    found = common_factors(mixed)
    assert np.abs(np.corrcoef(found[0], loadings[0])[0, 1]) > 0.95
    assert (found[0] ** 2).mean() == pytest.approx(0.5, abs=0.05)
    assert (found[1:] ** 2).sum() < 0.01 * (
        found[0] ** 2
    ).sum()  # noise at the very edge may slip through


def test_shrinkage_is_the_published_one_where_noise_is_one():
    # Donoho, Gavish & Johnstone: a true eigenvalue l is seen as l (1 + γ / (l − 1)).
    rng = np.random.default_rng(3)
    n, genes, true = 1200, 600, 21.0
    vector = np.ones(genes) / np.sqrt(genes)
    scores = rng.standard_normal((n, genes)) * np.sqrt(1 - (true - 1) / genes)
    scores += np.sqrt(true - 1) * rng.standard_normal((n, 1)) * vector
    scores = (scores - scores.mean(axis=0)) / scores.std(axis=0)
    factors = common_factors(scores)
    ratio = genes / n
    kept = (1 - ratio / (true - 1) ** 2) / (1 + ratio / (true - 1))
    assert (factors[0].astype(float) ** 2).sum() == pytest.approx((true - 1) * kept, rel=0.06)
    assert len(factors) == 1


@given(
    values=st.lists(st.integers(0, 5), min_size=3, max_size=60).filter(lambda v: len(set(v)) > 1),
    seed=st.integers(0, 100),
)
def test_normal_scores_keep_the_order_and_are_standardised(values, seed):
    column = np.array(values, dtype=float)
    scores = normal_scores(column[:, None], np.random.default_rng(seed))[:, 0]
    assert scores.mean() == pytest.approx(0, abs=1e-5)
    assert (scores**2).mean() == pytest.approx(1, abs=1e-4)
    for low, high in zip(np.unique(column), np.unique(column)[1:], strict=False):
        assert scores[column == low].max() < scores[column == high].min()


def test_normal_scores_of_ties_are_normal_and_random():
    rng = np.random.default_rng(0)
    values = rng.poisson(0.7, size=(2000, 2)).astype(float)
    scores = normal_scores(values, rng)
    for column in scores.T:
        assert kstest(column, norm.cdf).pvalue > 0.05
    # Ordered by chance among equals: no more correlated than the values are.
    assert np.abs(np.corrcoef(scores.T)[0, 1]) < 0.07


def test_it_is_nearer_to_real_cells_than_genes_drawn_on_their_own(pancreas):
    from c2s.cells.ranked import rank_matrix
    from c2s.cells.sentences import fit_inverse
    from c2s.cells.vocabulary import GeneVocabulary
    from c2s.evaluate.generation import Space, whole_metrics

    labels = np.asarray(pancreas.obs["cell_type"]).astype(str)
    rows = np.flatnonzero(np.isin(labels, ["alpha", "beta"]))
    rows = np.random.default_rng(0).permutation(rows)
    train, test = rows[:750], rows[750:]
    cells, vocabulary = log10_normalized(pancreas.X), GeneVocabulary.from_var(pancreas.var)

    def ranked(matrix):
        names = [str(i) for i in range(matrix.shape[0])]
        return rank_matrix(matrix, vocabulary, names, top_k=200, seed=0)

    space = Space.fit(ranked(cells[train]), fit_inverse(pancreas[train]))
    truth = space.embed(ranked(cells[test]))
    scores = {}
    for model in (GaussianCopula(), IndependentResampling()):
        drawn = model.fit(cells[train], labels[train]).sample(labels[test], seed=0)
        scores[model.name] = whole_metrics(truth, space.embed(ranked(drawn)), 0)
    copula, alone = scores["gaussian_copula"], scores["independent"]
    assert copula["scfid"] < 0.6 * alone["scfid"]
    assert copula["energy_distance"] < 0.6 * alone["energy_distance"]
    assert 0.5 < copula["c2st"] < alone["c2st"] - 0.05


def test_a_cell_depends_on_its_type_its_number_and_the_seed_only(fitted):
    alone = fitted.sample(np.array(["alpha"] * 7), seed=3)
    mixed = fitted.sample(np.array(["beta", "alpha"] * 150), seed=3)[1::2]  # more than one block
    np.testing.assert_array_equal(mixed[:7].toarray(), alone.toarray())
    assert (fitted.sample(np.array(["alpha"] * 7), seed=4) != alone).nnz > 0
    rows = {row.tobytes() for row in mixed.toarray()}
    assert len(rows) == 150  # blocks differ
    assert fitted.sample(np.array([]), seed=0).shape == (0, alone.shape[1])


def test_fitting_repeats_for_a_seed_and_a_type_does_not_depend_on_the_others(real):
    cells, labels = real
    alpha = labels == "alpha"
    genes = cells[:, :4000]
    once = GaussianCopula(max_cells=100).fit(genes, labels).sample(["alpha"] * 5, seed=0)
    again = GaussianCopula(max_cells=100).fit(genes[alpha], labels[alpha]).sample(["alpha"] * 5, 0)
    np.testing.assert_array_equal(once.toarray(), again.toarray())
    other = GaussianCopula(max_cells=100, seed=1).fit(genes, labels).sample(["alpha"] * 5, seed=0)
    assert (once != other).nnz > 0


def test_types_with_few_cells_are_drawn_gene_by_gene():
    rng = np.random.default_rng(0)
    both = rng.poisson(5.0, size=(209, 1)) * np.ones((1, 30))  # every gene is the same in a cell
    labels = np.array(["few"] * 9 + ["many"] * 200)
    model = GaussianCopula().fit(sp.csr_matrix(both), labels)
    assert model.independent_types_.tolist() == ["few"]
    assert model.factors_["few"] == 0
    assert model.factors_["many"] >= 1
    few = model.sample(["few"] * 2000, seed=0).toarray()
    assert set(few[:, 0]) == set(both[:9, 0])
    off = ~np.eye(30, dtype=bool)
    assert np.abs(np.corrcoef(few.T)[off]).max() < 0.1
    many = model.sample(["many"] * 500, seed=0).toarray()
    assert np.corrcoef(many.T)[off].min() > 0.85  # ties in random order take the rest
    lower = GaussianCopula(min_cells=9).fit(sp.csr_matrix(both), labels)
    assert lower.independent_types_.tolist() == []


def test_a_type_without_expression_gives_empty_cells_and_stored_zeros_are_no_values():
    cells = sp.csr_matrix(np.array([[0.0, 0]] * 12 + [[1, 1]] * 12))
    model = GaussianCopula().fit(cells, np.array(["empty"] * 12 + ["full"] * 12))
    drawn = model.sample(["empty", "full"], seed=0)
    np.testing.assert_array_equal(drawn.toarray(), [[0, 0], [1, 1]])
    cells.data[:6] = 0
    share = GaussianCopula().fit(cells, ["a"] * 24).sample(["a"] * 2000, seed=0).toarray().mean(axis=0)  # fmt: skip
    np.testing.assert_allclose(share, np.asarray(cells.mean(axis=0)).ravel(), atol=0.05)


def test_wrong_use_is_refused(real, fitted):
    cells, labels = real
    with pytest.raises(UsageError, match="fit"):
        GaussianCopula().sample(np.array(["beta"]), seed=0)
    with pytest.raises(InputError, match="'bet', expected a type such as beta"):
        fitted.sample(np.array(["bet"]), seed=0)
    with pytest.raises(InputError, match="one label per cell"):
        GaussianCopula().fit(cells, labels[:3])
    for bad in (-1.5, np.nan):
        broken = cells[:30].copy()
        broken.data[5] = bad
        with pytest.raises(InputError, match="expected expression of 0 or more"):
            GaussianCopula().fit(broken, labels[:30])
    for options in ({"min_share": 1.1}, {"min_cells": 2}, {"max_cells": 2}):
        with pytest.raises(UsageError, match=next(iter(options))):
            GaussianCopula(**options)
