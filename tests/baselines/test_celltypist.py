"""The CellTypist-style baseline is what scikit-learn and CellTypist itself compute, without a dense matrix."""

import copy
import sys
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from c2s.baselines import CellTypistBaseline
from c2s.common.errors import InputError, UsageError
from c2s.datasets import pancreas


@pytest.fixture(scope="module")
def split():
    """Natural logarithms of cells over the 1,500 genes with most counts: 1,549 to train, 388 to test."""
    adata = pancreas()
    most = np.sort(np.argsort(-np.asarray(adata.X.sum(axis=0)).ravel())[:1500])
    counts = adata.X[:, most].astype(np.float64)
    cells = sp.csr_matrix(counts.multiply(1e4 / counts.sum(axis=1)))
    cells.data = np.log1p(cells.data)
    labels = np.asarray(adata.obs["cell_type"]).astype(str)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0
    )
    names = adata.var_names[most].to_numpy()
    return cells[train], labels[train], cells[test], labels[test], names


@pytest.fixture(scope="module")
def fitted(split):
    train, labels, _, _, _ = split
    return CellTypistBaseline().fit(train / np.log(10), labels)


def test_scores_are_those_of_scikit_learn_on_the_dense_scaled_matrix(split, fitted):
    train, labels, test, truth, _ = split
    seen = np.flatnonzero(np.asarray(train.sum(axis=0)).ravel())
    scaler = StandardScaler()
    dense = np.minimum(scaler.fit_transform(train[:, seen].toarray()), 10)
    dense_test = np.minimum(scaler.transform(test[:, seen].toarray()), 10)
    assert (scaler.transform(test[:, seen].toarray()) > 10).any()  # so that the cut is tested
    np.testing.assert_array_equal(fitted.genes_, seen)
    scores = fitted.scores(test / np.log(10))
    for kind in ("alpha", "beta", "schwann"):  # many cells, most cells, few cells
        model = LogisticRegression(max_iter=1000).fit(dense, labels == kind)
        column = fitted.classes_.tolist().index(kind)
        np.testing.assert_allclose(fitted.coefficients_[column], model.coef_[0], atol=1e-5)
        np.testing.assert_allclose(scores[:, column], model.decision_function(dense_test), atol=1e-4)  # fmt: skip
    assert np.mean(fitted.predict(test / np.log(10)) == truth) > 0.97


def test_probabilities_are_the_one_against_rest_ones_scaled_to_sum_to_one(split, fitted):
    test = split[2] / np.log(10)
    alone = expit(fitted.scores(test))
    probability = fitted.predict_proba(test)
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    np.testing.assert_allclose(probability, alone / alone.sum(axis=1, keepdims=True), atol=1e-12)
    # A cell unlike anything has odds that round to nothing, and its probabilities still sum to 1.
    far = copy.copy(fitted)
    far.intercepts_ = fitted.intercepts_ - 2000
    assert not expit(far.scores(test)).any()
    np.testing.assert_allclose(far.predict_proba(test).sum(axis=1), 1)


class OneAgainstRest:
    """What LogisticRegression(multi_class="ovr") was, until scikit-learn 1.8 took it away; CellTypist calls it."""

    def __init__(self, C, solver, max_iter, multi_class, n_jobs):
        assert multi_class == "ovr"
        self.options = {"C": C, "solver": solver, "max_iter": max_iter}

    def fit(self, cells, labels):
        self.classes_ = np.unique(labels)
        fits = [
            LogisticRegression(**self.options).fit(cells, labels == kind) for kind in self.classes_
        ]
        self.coef_ = np.concatenate([f.coef_ for f in fits])
        self.intercept_ = np.concatenate([f.intercept_ for f in fits])

    def decision_function(self, cells):
        return np.asarray(cells @ self.coef_.T) + self.intercept_


@pytest.fixture(scope="module")
def celltypist():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # asks scanpy for its version in the old way
        package = pytest.importorskip("celltypist")
    package.logger.set_level(50)
    return package


@pytest.mark.parametrize("selection", [False, True], ids=["all genes", "feature selection"])
def test_labels_are_those_of_celltypist(split, celltypist, monkeypatch, selection):
    import anndata as ad

    train, labels, test, _, names = split
    monkeypatch.setattr(sys.modules["celltypist.train"], "LogisticRegression", OneAgainstRest)
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002 -- the stochastic first pass of CellTypist takes no seed
    options = {"feature_selection": selection, "top_genes": 150}
    theirs = celltypist.train(train, labels, names, **options)
    np.random.set_state(state)  # noqa: NPY002
    cells = ad.AnnData(test)
    cells.var_names = names
    found = celltypist.annotate(cells, theirs, majority_voting=False)
    model = CellTypistBaseline(**options).fit(train, labels)
    agree = model.predict(test) == found.predicted_labels["predicted_labels"].astype(str)
    assert agree.mean() >= 0.99
    if not selection:
        np.testing.assert_allclose(model.scores(test), found.decision_matrix, atol=1e-4)
        np.testing.assert_allclose(expit(model.scores(test)), found.probability_matrix, atol=1e-4)
    else:
        # Their first pass is stochastic; two seeds of it do not select the very same genes either.
        sizes = len(model.genes_), len(theirs.classifier.features)
        shared = set(names[model.genes_]) & set(theirs.classifier.features)
        assert len(shared) > sizes[0] * sizes[1] / train.shape[1] + 50  # more than by chance


def test_selected_genes_are_those_that_tell_the_labels_apart():
    rng = np.random.default_rng(0)
    labels = np.array(["a", "b", "c"] * 40)
    values = rng.poisson(1.0, size=(120, 50)).astype(np.float64)
    for gene, kind in enumerate("abc"):
        values[labels == kind, gene] += 4
    cells = sp.csr_matrix(values)
    model = CellTypistBaseline(feature_selection=True, top_genes=1).fit(cells, labels)
    np.testing.assert_array_equal(model.genes_, [0, 1, 2])
    assert model.coefficients_.shape == (3, 3)
    # The second training sees the selected genes only.
    again = CellTypistBaseline().fit(cells[:, :3], labels)
    np.testing.assert_allclose(model.coefficients_, again.coefficients_, atol=1e-8)
    np.testing.assert_array_equal(model.predict(cells), again.predict(cells[:, :3]))


def test_two_labels_mirror_each_other_and_silent_or_constant_genes_do_not_matter():
    rng = np.random.default_rng(1)
    labels = np.array(["a", "b"] * 30)
    values = rng.poisson(2.0, size=(60, 6)).astype(np.float64)
    values[labels == "a", 0] += 3
    model = CellTypistBaseline().fit(sp.csr_matrix(values), labels)
    scores = model.scores(sp.csr_matrix(values))
    np.testing.assert_allclose(scores[:, 0], -scores[:, 1], atol=1e-3)
    padded = np.hstack([np.zeros((60, 1)), values, np.full((60, 1), 7.3)])
    wider = CellTypistBaseline().fit(sp.csr_matrix(padded), labels)
    np.testing.assert_array_equal(wider.genes_, np.arange(1, 8))
    assert np.abs(wider.coefficients_[:, -1]).max() < 1e-6
    np.testing.assert_allclose(wider.scores(sp.csr_matrix(padded)), scores, atol=1e-6)


def test_wrong_use_is_refused(split):
    train, labels, _, _, _ = split
    with pytest.raises(UsageError, match="fit"):
        CellTypistBaseline().predict(train)
    with pytest.raises(InputError, match="only the label 'a'"):
        CellTypistBaseline().fit(train, np.array(["a"] * train.shape[0]))
    with pytest.raises(InputError, match="found 2 genes, expected the 5 genes"):
        CellTypistBaseline().fit(train[:, :5], labels).predict(train[:, :2])
    with pytest.raises(InputError, match="found 5 expressed genes, expected more than top_genes"):
        CellTypistBaseline(feature_selection=True).fit(train[:, :5], labels)
    with pytest.raises(InputError, match="no gene is expressed"):
        CellTypistBaseline().fit(train[:, :2] * 0, labels)
    with pytest.raises(UsageError, match="inverse_penalty"):
        CellTypistBaseline(inverse_penalty=0)
    with pytest.raises(UsageError, match="top_genes"):
        CellTypistBaseline(top_genes=0)
