"""Do cells of one type lie together in an embedding? Neighbours' votes, and clusters against labels.

scib-metrics measures the same with k-means and scikit-learn's scores; it is not used because it needs JAX.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from c2s.common.errors import InputError, UsageError
from c2s.common.seeds import generator
from c2s.metrics._checks import Labels, label_codes, points


@dataclass(frozen=True)
class ClusterAgreement:
    """Result of `cluster_agreement`.

    Attributes
    ----------
    ari, nmi
        `adjusted_rand_index` and `normalized_mutual_information` of the labels and the clusters.
    clusters : int64 array, shape (n,)
        Cluster of each cell.
    """

    ari: float
    nmi: float
    clusters: np.ndarray


def label_transfer(
    reference: np.ndarray, labels: Labels, query: np.ndarray, *, n_neighbors: int = 15
) -> np.ndarray:
    """Give each cell the label that most of its nearest reference cells have.

    Parameters
    ----------
    reference : array, shape (n, d)
        Cells with labels.
    labels : array of str or int, shape (n,)
    query : array, shape (m, d)
        Cells without.
    n_neighbors
        Number of reference cells that vote (Euclidean distance; for cosine, scale rows to length 1 first).

    Returns
    -------
    array, shape (m,)
        Labels. Where votes are equal, the first in sorted order.

    Raises
    ------
    InputError
        Not one label per cell, different numbers of dimensions, NaN or infinite values, or fewer reference cells than
        `n_neighbors`.
    UsageError
        `n_neighbors` is below 1.

    Examples
    --------
    >>> cells = np.array([[0.0], [1.0], [10.0]])
    >>> label_transfer(cells, ["a", "a", "b"], np.array([[0.4], [9.0]]), n_neighbors=1).tolist()
    ['a', 'b']
    """
    reference, names, codes = _labelled("reference", reference, labels, n_neighbors, n_neighbors)
    query = points("query", query)
    if query.shape[1] != reference.shape[1]:
        raise InputError(
            f"query: found {query.shape[1]} dimensions, expected {reference.shape[1]} as in "
            "reference; encode both with the same encoder"
        )
    return names[_votes(reference, codes, len(names), query, n_neighbors)]


def knn_accuracy(embedding: np.ndarray, labels: Labels, *, n_neighbors: int = 15) -> float:
    """Return the share of cells that their nearest other cells vote the right label for (leave one out).

    Parameters
    ----------
    embedding : array, shape (n, d)
    labels : array of str or int, shape (n,)
    n_neighbors
        Number of other cells that vote (Euclidean distance); where votes are equal, the first label in sorted order
        wins. Labels with fewer cells than about half of it cannot win.

    Returns
    -------
    float
        0 to 1; higher is better. Compare with the share of the most common label.

    Raises
    ------
    InputError
        As `label_transfer`; or not more cells than `n_neighbors`.
    UsageError
        `n_neighbors` is below 1.

    References
    ----------
    SPEC §8. Cover & Hart 1967, "Nearest neighbor pattern classification", IEEE Trans. Inf. Theory 13:21.

    Examples
    --------
    >>> cells = np.array([[0.0], [1.0], [10.0], [11.0], [2.0]])
    >>> knn_accuracy(cells, ["a", "a", "b", "b", "b"], n_neighbors=1)
    0.8
    """
    cells, names, codes = _labelled("embedding", embedding, labels, n_neighbors, n_neighbors + 1)
    return float(np.mean(_votes(cells, codes, len(names), None, n_neighbors) == codes))


def adjusted_rand_index(truth: Labels, clusters: Labels) -> float:
    """Return how far two partitions agree on pairs of cells, adjusted for chance.

    Parameters
    ----------
    truth, clusters : array of str or int, shape (n,)
        Names do not matter, only who is together.

    Returns
    -------
    float
        -0.5 to 1; higher is better, 1 for equal partitions (also when all cells are together, or each alone, in both),
        about 0 for random ones.

    Raises
    ------
    InputError
        Different lengths, no cells, or a missing label.

    References
    ----------
    Hubert & Arabie 1985, "Comparing partitions", J. Classif. 2:193.

    Examples
    --------
    >>> adjusted_rand_index([0, 0, 1, 1], ["x", "x", "y", "y"])
    1.0
    >>> round(adjusted_rand_index([0, 0, 1, 1], [0, 0, 1, 2]), 6)
    0.571429
    """
    table = _contingency(truth, clusters).astype(np.float64)
    together = float((table * (table - 1)).sum()) / 2
    in_truth, in_clusters = (
        float((sizes * (sizes - 1)).sum()) / 2 for sizes in (table.sum(axis=1), table.sum(axis=0))
    )
    n = table.sum()
    pairs = float(n * (n - 1)) / 2
    if together == in_truth == in_clusters:
        return 1.0
    expected = in_truth * in_clusters / pairs
    return (together - expected) / ((in_truth + in_clusters) / 2 - expected)


def normalized_mutual_information(truth: Labels, clusters: Labels) -> float:
    """Return the mutual information of two partitions, divided by the mean of their entropies.

    Parameters
    ----------
    truth, clusters : array of str or int, shape (n,)

    Returns
    -------
    float
        0 to 1; higher is better. 1 when both put all cells together, 0 when only one does. Not adjusted for chance:
        many small clusters score well.

    Raises
    ------
    InputError
        As `adjusted_rand_index`.

    References
    ----------
    Vinh, Epps & Bailey 2010, "Information theoretic measures for clusterings comparison", JMLR 11:2837 (NMI_sum).

    Examples
    --------
    >>> round(normalized_mutual_information([0, 0, 1, 1], [0, 0, 1, 2]), 6)
    0.8
    """
    table = _contingency(truth, clusters)
    if table.shape == (1, 1):
        return 1.0
    joint = table / table.sum()
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    here = joint > 0
    information = float((joint[here] * np.log(joint[here] / np.outer(rows, columns)[here])).sum())
    entropies = [float(-(side * np.log(side)).sum()) for side in (rows, columns)]
    if min(entropies) == 0 or information <= np.finfo(np.float64).eps:
        return 0.0
    return min(1.0, 2 * information / sum(entropies))


def cluster_agreement(
    embedding: np.ndarray, labels: Labels, *, n_clusters: int | None = None, seed: int = 0
) -> ClusterAgreement:
    """Cluster an embedding by k-means and compare the clusters with labels.

    Parameters
    ----------
    embedding : array, shape (n, d)
    labels : array of str or int, shape (n,)
    n_clusters
        By default the number of labels, as in scib-metrics.
    seed
        Start of k-means, which is run ten times.

    Returns
    -------
    ClusterAgreement

    Raises
    ------
    InputError
        Not one label per cell, NaN or infinite values, or fewer cells than clusters.
    UsageError
        `n_clusters` is below 1.

    References
    ----------
    SPEC §8. Luecken et al. 2022 (scIB), Nat. Methods 19:41.

    Examples
    --------
    >>> found = cluster_agreement(np.array([[0.0], [1.0], [10.0], [11.0]]), ["a", "a", "b", "b"])
    >>> found.ari, found.nmi
    (1.0, 1.0)
    """
    if n_clusters is not None and n_clusters < 1:
        raise UsageError(f"n_clusters: found {n_clusters}, expected at least 1")
    cells, names, codes = _labelled("embedding", embedding, labels, 1, n_clusters or 1)
    from sklearn.cluster import KMeans

    state = int(generator(seed, "k-means").integers(1 << 31))
    means = KMeans(n_clusters or len(names), n_init=10, random_state=state)
    clusters = means.fit_predict(cells).astype(np.int64)
    return ClusterAgreement(
        adjusted_rand_index(codes, clusters),
        normalized_mutual_information(codes, clusters),
        clusters,
    )


def _labelled(
    name: str, cells: np.ndarray, labels: Labels, n_neighbors: int, fewest: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return checked points, the sorted labels, and each cell's position in them."""
    if n_neighbors < 1:
        raise UsageError(f"n_neighbors: found {n_neighbors}, expected at least 1")
    checked = points(name, cells, fewest)
    names, (codes,) = label_codes(("labels", labels))
    if len(codes) != len(checked):
        raise InputError(f"labels: found {len(codes)}, expected one per cell ({len(checked)})")
    return checked, names, codes


def _votes(
    reference: np.ndarray,
    codes: np.ndarray,
    n_labels: int,
    query: np.ndarray | None,
    n_neighbors: int,
) -> np.ndarray:
    """Return the most frequent code among the nearest reference cells; without `query`, among other cells."""
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=n_neighbors).fit(reference)
    near = codes[index.kneighbors(query, return_distance=False)]
    flat = (np.arange(len(near))[:, None] * n_labels + near).ravel()
    counts = np.bincount(flat, minlength=len(near) * n_labels).reshape(len(near), n_labels)
    return np.asarray(counts.argmax(axis=1))


def _contingency(truth: Labels, clusters: Labels) -> np.ndarray:
    """Return how many cells of each label (row) are in each cluster (column)."""
    (rows, (row,)), (columns, (column,)) = (
        label_codes((name, values)) for name, values in (("truth", truth), ("clusters", clusters))
    )
    if len(row) != len(column):
        raise InputError(
            f"labels of different length (truth: {len(row):,}, clusters: {len(column):,}); "
            "expected one per cell in each"
        )
    flat = np.bincount(row * len(columns) + column, minlength=len(rows) * len(columns))
    return flat.reshape(len(rows), len(columns))
