"""Cells drawn from scVI are counts of the right distribution and type, and of no training cell."""

import numpy as np
import pytest
import scipy.sparse as sp

from c2s.baselines import LogisticRegressionBaseline, ScviSampling
from c2s.baselines.scvi_sampling import _Type
from c2s.cells.preprocess import log10_normalized
from c2s.common.errors import InputError, UsageError
from c2s.encoders.scvi_tools import import_scvi


@pytest.fixture(scope="module")
def cells(cut):
    """Counts and labels of 150 cells of five types, over the 400 genes with most counts and 200 random ones."""
    try:
        import_scvi()
    except UsageError as error:
        pytest.skip(str(error))
    order = np.argsort(-np.asarray(cut.X.sum(axis=0)).ravel())
    rest = np.random.default_rng(0).choice(order[400:], 200, replace=False)
    columns = np.sort(np.concatenate([order[:400], rest]))
    return cut.X[:, columns].tocsr(), cut.obs["cell_type"].astype(str).to_numpy()


@pytest.fixture(scope="module")
def fitted(cells):
    return ScviSampling(max_epochs=100, device="cpu").fit(*cells)


@pytest.fixture(scope="module")
def sampled(fitted):
    wanted = np.repeat(fitted.types_, 60)
    np.random.default_rng(0).shuffle(wanted)
    return fitted.sample(wanted, seed=0), wanted


def test_samples_are_counts_of_the_genes_that_are_seen(cells, sampled):
    counts, _ = cells
    drawn, _ = sampled
    assert isinstance(drawn, sp.csr_matrix)
    assert drawn.shape == (300, 600)
    assert drawn.dtype == counts.dtype
    assert (drawn.data > 0).all()
    assert (drawn.data == np.round(drawn.data)).all()
    rare = np.asarray((counts > 0).sum(axis=0)).ravel() < 3
    assert rare.sum() > 10
    assert drawn[:, rare].nnz == 0
    copies = {row.tobytes() for row in counts.toarray()}
    assert not any(row.tobytes() in copies for row in drawn.toarray())


def test_samples_are_of_the_type_asked_for(cells, sampled):
    counts, labels = cells
    drawn, wanted = sampled
    judge = LogisticRegressionBaseline().fit(log10_normalized(counts), labels)
    assert np.mean(judge.predict(log10_normalized(drawn)) == wanted) > 0.9
    for kind in np.unique(labels):
        true = np.asarray(counts[labels == kind].mean(axis=0)).ravel()
        ours = np.asarray(drawn[wanted == kind].mean(axis=0)).ravel()
        assert np.corrcoef(np.log1p(true), np.log1p(ours))[0, 1] > 0.9


def test_counts_have_the_moments_of_the_network(fitted):
    import torch

    kind = fitted._types["beta"]
    point, total = kind.mean[None], np.array([5000.0])

    class Fixed:
        def draw(self, rng, n):
            return np.repeat(point, n, axis=0), np.repeat(total, n)

    draws = [fitted._draw(Fixed(), np.random.default_rng(i)).toarray() for i in range(60)]
    drawn = np.concatenate(draws)[:, fitted._genes]
    with torch.inference_mode():
        law = fitted._module.generative(
            z=torch.tensor(point, dtype=torch.float32), library=torch.log(torch.tensor(total, dtype=torch.float32))[:, None],
            batch_index=torch.zeros(1, 1, dtype=torch.int64),
        )["px"]  # fmt: skip
        mean, variance = law.mean[0].numpy(), law.variance[0].numpy()
        none = torch.exp(law.log_prob(torch.zeros(1, drawn.shape[1])))[0].numpy()
    n = len(drawn)
    error = (drawn.mean(axis=0) - mean) / np.sqrt(variance / n)
    assert np.abs(error).max() < 6
    error = ((drawn == 0).mean(axis=0) - none) / np.sqrt(none * (1 - none) / n + 1e-9)
    assert np.abs(error).max() < 6
    assert 0.8 < np.median(drawn.var(axis=0)[mean > 0.5] / variance[mean > 0.5]) < 1.2


def test_a_type_is_the_gaussian_with_the_moments_of_its_posteriors_together():
    means = np.array([[0.0, 0.0], [2.0, 4.0]])
    variances = np.array([[1.0, 0.5], [3.0, 1.5]])
    kind = _Type.of(means, variances, np.array([10.0, 20.0]))
    np.testing.assert_allclose(kind.mean, [1, 2])
    # Of the means [[1, 2], [2, 4]], and on the diagonal the average variances 2 and 1.
    np.testing.assert_allclose(kind.root @ kind.root.T, [[3, 2], [2, 5]])
    points, totals = kind.draw(np.random.default_rng(0), 20_000)
    np.testing.assert_allclose(points.mean(axis=0), [1, 2], atol=0.06)
    np.testing.assert_allclose(np.cov(points.T), [[3, 2], [2, 5]], atol=0.15)
    assert set(totals) == {10.0, 20.0}
    single = _Type.of(means[1:], variances[1:], np.array([20.0]))  # one cell has a spread too
    np.testing.assert_allclose(single.root @ single.root.T, np.diag([3, 1.5]))


def test_a_cell_depends_on_its_type_its_number_and_the_seed_only(fitted):
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    alone = fitted.sample(np.array(["alpha"] * 7), seed=3)
    mixed = fitted.sample(np.array(["beta", "alpha"] * 140), seed=3)[1::2]  # more than one block
    np.testing.assert_array_equal(mixed[:7].toarray(), alone.toarray())
    assert (fitted.sample(np.array(["alpha"] * 7), seed=4) != alone).nnz > 0
    assert len({row.tobytes() for row in mixed.toarray()}) == 140
    assert fitted.sample(np.array([]), seed=0).shape == (0, 600)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


def test_fitting_repeats_for_a_seed(cells):
    def draw(seed):
        model = ScviSampling(max_epochs=1, n_latent=3, seed=seed, device="cpu").fit(*cells)
        return model.sample(["beta"] * 3, seed=0).toarray()

    np.testing.assert_array_equal(draw(0), draw(0))
    assert (draw(0) != draw(1)).any()


def test_wrong_use_is_refused(cells, fitted):
    counts, labels = cells
    with pytest.raises(UsageError, match="fit"):
        ScviSampling().sample(np.array(["beta"]), seed=0)
    with pytest.raises(InputError, match="'bet', expected a type such as beta"):
        fitted.sample(np.array(["bet"]), seed=0)
    with pytest.raises(InputError, match="one label per cell"):
        ScviSampling().fit(counts, labels[:3])
    with pytest.raises(InputError, match="expected raw counts"):
        ScviSampling().fit(log10_normalized(counts), labels)
    empty = sp.vstack([counts, counts[:1] * 0]).tocsr()
    with pytest.raises(InputError, match="cell 150 has no count"):
        ScviSampling().fit(empty, np.append(labels, "beta"))
    with pytest.raises(UsageError, match="min_cells"):
        ScviSampling(min_cells=0)
