"""Annotation baselines on the packaged pancreas cells: the accuracies of DATA.md."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.model_selection import train_test_split

from c2s.baselines import KNNBaseline, LogisticRegressionBaseline
from c2s.common.errors import InputError, UsageError
from c2s.datasets import pancreas

BOTH = [LogisticRegressionBaseline, KNNBaseline]


@pytest.fixture(scope="module")
def split():
    """log10-normalised cells and labels: 1,549 to train, 388 to test."""
    adata = pancreas()
    scaled = sp.csr_matrix(adata.X.multiply(1e4 / adata.X.sum(axis=1)), dtype=np.float32)
    scaled.data = np.log10(1 + scaled.data)
    labels = np.asarray(adata.obs["cell_type"])
    train, test = train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0
    )
    return scaled[train], labels[train], scaled[test], labels[test]


@pytest.mark.parametrize(
    ("baseline", "low", "high"),
    [
        (LogisticRegressionBaseline(inverse_penalty=1.0), 0.985, 0.99),
        (LogisticRegressionBaseline(), 0.985, 0.995),
        (KNNBaseline(), 0.975, 0.99),
    ],
    ids=["logistic regression, penalty 1", "logistic regression", "10-NN on 50 components"],
)
def test_accuracy_on_held_out_pancreas_cells(split, baseline, low, high):
    train, train_labels, test, labels = split
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a solver that has not converged warns
        predicted = baseline.fit(train, train_labels).predict(test)
    assert low <= np.mean(predicted == labels) <= high
    probability = baseline.predict_proba(test[:20])
    assert probability.shape == (20, 14)
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    np.testing.assert_array_equal(baseline.classes_, np.unique(train_labels))
    np.testing.assert_array_equal(baseline.classes_[probability.argmax(axis=1)], predicted[:20])


@pytest.fixture
def toy():
    rng = np.random.default_rng(0)
    labels = np.array(["a", "b", "c"] * 20)
    means = {"a": [5, 0, 0, 0], "b": [0, 5, 0, 0], "c": [0, 0, 5, 0]}
    values = np.array([means[label] for label in labels]) + rng.uniform(size=(60, 4))
    return sp.csr_matrix(values.astype(np.float32)), labels


@pytest.mark.parametrize("baseline", BOTH)
def test_separate_types_are_told_apart_and_repeats_are_equal(toy, baseline):
    cells, labels = toy
    model = baseline().fit(cells, labels)
    np.testing.assert_array_equal(model.predict(cells), labels)
    again = baseline().fit(cells, labels).predict_proba(cells)
    np.testing.assert_array_equal(model.predict_proba(cells), again)


@pytest.mark.parametrize("baseline", BOTH)
def test_shuffled_labels_cannot_be_learned(toy, baseline):
    cells, labels = toy
    shuffled = np.random.default_rng(1).permutation(labels)
    model = baseline().fit(cells[:40], shuffled[:40])
    assert np.mean(model.predict(cells[40:]) == shuffled[40:]) < 0.7


def test_knn_votes_are_shares_of_the_nearest_cells_and_few_cells_suffice():
    cells = sp.csr_matrix(np.array([[0.0], [1], [2], [10], [11]]))
    model = KNNBaseline(n_neighbors=3).fit(cells, np.array(["a", "a", "b", "b", "b"]))
    votes = model.predict_proba(sp.csr_matrix(np.array([[0.5], [10.5]])))
    np.testing.assert_allclose(votes, [[2 / 3, 1 / 3], [0, 1]])
    every = KNNBaseline().fit(cells, np.array(["a", "a", "b", "b", "b"]))
    np.testing.assert_allclose(every.predict_proba(cells[:1]), [[0.4, 0.6]])


@pytest.mark.parametrize("baseline", BOTH)
def test_wrong_use_is_refused(toy, baseline):
    cells, labels = toy
    with pytest.raises(UsageError, match="fit"):
        baseline().predict(cells)
    with pytest.raises(InputError, match="one label per cell"):
        baseline().fit(cells, labels[:-1])
    with pytest.raises(InputError, match="only the label 'a'"):
        baseline().fit(cells, np.array(["a"] * 60))
    unlabelled = labels.astype(object)
    unlabelled[3] = np.nan
    with pytest.raises(InputError, match="cell 3 has no label"):
        baseline().fit(cells, unlabelled)
    with pytest.raises(InputError, match="found 2 genes, expected the 4 genes"):
        baseline().fit(cells, labels).predict(cells[:, :2])


def test_parameters_that_cannot_work_are_refused():
    with pytest.raises(UsageError, match="inverse_penalty"):
        LogisticRegressionBaseline(inverse_penalty=0)
    with pytest.raises(UsageError, match="n_neighbors"):
        KNNBaseline(n_neighbors=0)
    with pytest.raises(UsageError, match="n_components"):
        KNNBaseline(n_components=0)
