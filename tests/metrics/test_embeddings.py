"""Neighbours and clusters against brute force, scikit-learn, and scib-metrics where it is installed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn import metrics as sk
from sklearn.neighbors import KNeighborsClassifier

from c2s.common.errors import InputError, UsageError
from c2s.metrics import (
    adjusted_rand_index,
    cluster_agreement,
    knn_accuracy,
    label_transfer,
    normalized_mutual_information,
)

RNG = np.random.default_rng(0)
CELLS = RNG.normal(size=(120, 4)) + 2.0 * np.repeat(np.arange(3), 40)[:, None]
LABELS = np.repeat(["a", "b", "c"], 40)

partitions = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=30)


@pytest.mark.parametrize("k", [1, 4, 15])
def test_label_transfer_equals_scikit_learn_and_brute_force(k):
    query = RNG.normal(size=(50, 4)) * 3
    found = label_transfer(CELLS, LABELS, query, n_neighbors=k)
    expected = KNeighborsClassifier(k, algorithm="brute").fit(CELLS, LABELS).predict(query)
    np.testing.assert_array_equal(found, expected)


def test_knn_accuracy_leaves_the_cell_itself_out():
    d = cdist(CELLS, CELLS)
    np.fill_diagonal(d, np.inf)
    codes = np.unique(LABELS, return_inverse=True)[1]
    near = np.argsort(d, axis=1)[:, :7]
    votes = np.array([np.bincount(codes[row], minlength=3).argmax() for row in near])
    assert knn_accuracy(CELLS, LABELS, n_neighbors=7) == np.mean(votes == codes)
    shuffled = RNG.permutation(LABELS)
    assert knn_accuracy(CELLS, shuffled, n_neighbors=1) < 0.5  # its own label would make it 1


def test_knn_accuracy_with_copies_of_a_cell():
    cells = np.repeat([[0.0], [1.0]], 4, axis=0)
    assert knn_accuracy(cells, ["a"] * 4 + ["b"] * 4, n_neighbors=3) == 1


@given(partitions)
def test_partitions_equal_scikit_learn(cells):
    truth, clusters = map(list, zip(*cells, strict=True))
    named = [f"type {t}" for t in truth]
    assert adjusted_rand_index(named, clusters) == pytest.approx(
        sk.adjusted_rand_score(truth, clusters), abs=1e-9
    )
    assert normalized_mutual_information(named, clusters) == pytest.approx(
        sk.normalized_mutual_info_score(truth, clusters), abs=1e-9
    )


@pytest.mark.parametrize(
    ("truth", "clusters"),
    [([0], [0]), ([0, 0], [0, 0]), ([0, 1], [0, 1]), ([0, 1], [0, 0]), ([0, 0, 1], [2, 2, 2])],
)
def test_degenerate_partitions_equal_scikit_learn(truth, clusters):
    assert adjusted_rand_index(truth, clusters) == sk.adjusted_rand_score(truth, clusters)
    expected = sk.normalized_mutual_info_score(truth, clusters)
    assert normalized_mutual_information(truth, clusters) == pytest.approx(expected, abs=1e-12)


def test_clusters_of_types_that_lie_apart_agree_and_of_noise_do_not():
    apart = CELLS + 20.0 * np.repeat(np.arange(3), 40)[:, None]
    found = cluster_agreement(apart, LABELS)
    assert (found.ari, found.nmi) == (1.0, pytest.approx(1.0))
    assert found.clusters.shape == (120,)
    noise = cluster_agreement(RNG.normal(size=(120, 4)), LABELS)
    assert abs(noise.ari) < 0.1
    some = cluster_agreement(CELLS, LABELS, seed=1)
    assert some.ari == pytest.approx(sk.adjusted_rand_score(LABELS, some.clusters))
    np.testing.assert_array_equal(cluster_agreement(CELLS, LABELS, seed=1).clusters, some.clusters)
    assert len(set(cluster_agreement(CELLS, LABELS, n_clusters=5).clusters)) == 5


@pytest.mark.filterwarnings("ignore")
def test_cluster_agreement_is_what_scib_metrics_measures():
    scib = pytest.importorskip("scib_metrics")
    apart = CELLS + 3.0 * np.repeat(np.arange(3), 40)[:, None]
    theirs = scib.nmi_ari_cluster_labels_kmeans(apart, LABELS)
    found = cluster_agreement(apart, LABELS)
    assert found.ari == pytest.approx(theirs["ari"], abs=1e-6)
    assert found.nmi == pytest.approx(theirs["nmi"], abs=1e-6)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="at least 16 cells"):
        knn_accuracy(CELLS[:15], LABELS[:15])
    with pytest.raises(InputError, match="at least 15 cells"):
        label_transfer(CELLS[:14], LABELS[:14], CELLS)
    with pytest.raises(InputError, match=r"labels: found 3, expected one per cell \(120\)"):
        knn_accuracy(CELLS, ["a", "b", "c"])
    with pytest.raises(InputError, match="query: found 2 dimensions, expected 4"):
        label_transfer(CELLS, LABELS, CELLS[:, :2])
    with pytest.raises(InputError, match="is nan"):
        cluster_agreement(np.full((3, 1), np.nan), ["a"] * 3)
    with pytest.raises(InputError, match="different length"):
        adjusted_rand_index(["a"], [1, 2])
    with pytest.raises(InputError, match="one label per cell"):
        normalized_mutual_information([], [])
    with pytest.raises(UsageError, match="n_neighbors"):
        knn_accuracy(CELLS, LABELS, n_neighbors=0)
    with pytest.raises(UsageError, match="n_clusters"):
        cluster_agreement(CELLS, LABELS, n_clusters=0)
    with pytest.raises(InputError, match="at least 5 cells"):
        cluster_agreement(CELLS[:4], LABELS[:4], n_clusters=5)
