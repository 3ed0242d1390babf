"""PCAEncoder against scikit-learn and NumPy, on real cells and on degenerate matrices."""

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.decomposition import PCA

from c2s.common.errors import InputError, UsageError
from c2s.datasets import pancreas
from c2s.encoders import pca
from c2s.encoders.pca import PCAEncoder


@pytest.fixture(scope="module")
def cells():
    """log10-normalised pancreas cells, 300 x 20,125."""
    counts = sp.csr_matrix(pancreas().X[:300])
    scaled = sp.csr_matrix(counts.multiply(1e4 / counts.sum(axis=1)), dtype=np.float32)
    scaled.data = np.log10(1 + scaled.data)
    return scaled


def subspaces_are_equal(a, b):
    return np.linalg.svd(a @ b.T, compute_uv=False).min() == pytest.approx(1, abs=1e-8)


def test_equal_to_scikit_learn_on_real_cells(cells):
    ours = PCAEncoder(n_components=10).fit(cells)
    theirs = PCA(n_components=10, svd_solver="full").fit(cells.toarray().astype(np.float64))
    np.testing.assert_allclose(ours.explained_variance_, theirs.explained_variance_, rtol=1e-6)
    np.testing.assert_allclose(ours.mean_, theirs.mean_, atol=1e-6)
    assert subspaces_are_equal(ours.components_, theirs.components_)
    signs = np.sign(np.sum(ours.components_ * theirs.components_, axis=1))
    np.testing.assert_allclose(
        ours.transform(cells), theirs.transform(cells.toarray()) * signs, atol=1e-4
    )


def test_new_cells_are_placed_by_the_training_cells_alone(cells):
    train, test = cells[:200], cells[200:]
    encoder = PCAEncoder(n_components=5).fit(train)
    expected = (test.toarray() - encoder.mean_) @ encoder.components_.T
    np.testing.assert_allclose(encoder.transform(test), expected, atol=1e-9)
    np.testing.assert_allclose(encoder.transform(train).mean(axis=0), 0, atol=1e-9)
    assert encoder.transform(test).dtype == np.float64
    assert encoder.transform(test[:1]).shape == (1, 5)


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csr_array, sp.csc_matrix, np.asarray])
def test_sparse_and_dense_give_the_same_space(cells, kind):
    part = cells[:60].toarray()[:, :400].astype(np.float64)
    expected = PCAEncoder(4).fit(part)
    encoder = PCAEncoder(4).fit(kind(part))
    np.testing.assert_allclose(encoder.components_, expected.components_, atol=1e-10)
    np.testing.assert_allclose(encoder.transform(kind(part)), expected.transform(part), atol=1e-9)


@pytest.mark.parametrize("shape", [(40, 90), (90, 40)])
def test_iterative_and_dense_solvers_agree(shape):
    values = np.random.default_rng(0).normal(size=shape) + 3
    mean = values.mean(axis=0)
    start = np.random.default_rng(1).normal(size=min(shape))
    dense, dense_rows = pca._dense_svd(values, mean, 6)
    iterative, iterative_rows = pca._iterative_svd(sp.csr_matrix(values), mean, 6, start)
    np.testing.assert_allclose(iterative, dense, rtol=1e-10)
    overlap = np.abs(np.sum(dense_rows * iterative_rows, axis=1))
    np.testing.assert_allclose(overlap, 1, atol=1e-8)


@pytest.mark.parametrize(("n", "genes", "k"), [(300, 30, 5), (30, 300, 5), (8, 20, 7), (20, 8, 8)])
def test_components_are_orthonormal_by_falling_variance_with_a_fixed_sign(n, genes, k):
    values = np.random.default_rng(0).normal(size=(n, genes)) * np.arange(1, genes + 1)
    encoder = PCAEncoder(k).fit(values)
    np.testing.assert_allclose(encoder.components_ @ encoder.components_.T, np.eye(k), atol=1e-9)
    assert (np.diff(encoder.explained_variance_) <= 0).all()
    np.testing.assert_allclose(
        encoder.transform(values).var(axis=0, ddof=1), encoder.explained_variance_, rtol=1e-8
    )
    largest = np.abs(encoder.components_).argmax(axis=1)
    assert (encoder.components_[np.arange(k), largest] > 0).all()


@pytest.mark.parametrize("genes", [6, 200])
def test_components_beyond_the_rank_are_zero(genes):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(50, 2)) @ rng.normal(size=(2, genes))
    encoder = PCAEncoder(5).fit(values)
    assert (encoder.explained_variance_[:2] > 0.1).all()
    assert (encoder.components_[2:] == 0).all()
    rebuilt = encoder.transform(values) @ encoder.components_ + encoder.mean_
    np.testing.assert_allclose(rebuilt, values, atol=1e-8)


def test_digest_is_of_the_content(cells):
    part = cells[:100]
    first = PCAEncoder(5).fit(part)
    assert first.digest() == PCAEncoder(5).fit(part).digest()
    assert first.digest() != PCAEncoder(5).fit(cells[:101]).digest()
    assert first.digest() != PCAEncoder(4).fit(part).digest()
    other_seed = PCAEncoder(5, seed=1).fit(part)
    np.testing.assert_allclose(other_seed.components_, first.components_, atol=1e-8)


def test_what_cannot_be_encoded_is_refused(cells):
    with pytest.raises(InputError, match="at least 51 cells"):
        PCAEncoder(50).fit(cells[:50])
    with pytest.raises(InputError, match="lower n_components"):
        PCAEncoder(5).fit(np.random.default_rng(0).normal(size=(30, 4)))
    for genes in (4, 100):
        with pytest.raises(InputError, match="equal cells"):
            PCAEncoder(2).fit(np.ones((30, genes)))
    with pytest.raises(InputError, match="NaN"):
        PCAEncoder(2).fit(np.full((30, 4), np.nan))
    with pytest.raises(InputError, match="expected the 20,125 genes"):
        PCAEncoder(2).fit(cells[:20]).transform(cells[:, :10])
    with pytest.raises(UsageError, match="n_components"):
        PCAEncoder(0)
    for call in (lambda: PCAEncoder(2).transform(cells), PCAEncoder(2).digest):
        with pytest.raises(UsageError, match="fit"):
            call()
