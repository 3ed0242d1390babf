"""How good an annotation is, beside baselines trained on the same cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from c2s.baselines.annotation import KNNBaseline, LogisticRegressionBaseline
from c2s.cells.preprocess import log10_normalized
from c2s.metrics import (
    accuracy,
    bootstrap_interval,
    expected_calibration_error,
    macro_f1,
    per_class,
    reliability,
)


def evaluate_annotation(
    truth: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, seed: int = 0
) -> dict[str, Any]:
    """Measure an annotation.

    Parameters
    ----------
    truth, predicted : arrays of str, shape (n_cells,)
    confidence : float array, shape (n_cells,)
        Probability given to the predicted label.
    seed
        Of the bootstrap over cells.

    Returns
    -------
    dict
        `accuracy` with its 95 % bootstrap interval over cells, `macro_f1`, `ece`, `n_test`, `per_type` and
        `reliability` (bins of confidence, accuracy and number of cells).
    """
    low, high = bootstrap_interval(accuracy, truth, predicted, seed=seed)
    types = per_class(truth, predicted)
    types = types[types["support"] > 0].sort_values("support", ascending=False)
    rows = types.rename(columns={"support": "n"})[["n", "precision", "recall", "f1"]].to_dict(
        "records"
    )
    bins = reliability(truth, predicted, confidence)
    return {
        "accuracy": accuracy(truth, predicted),
        "accuracy_interval": [low, high],
        "macro_f1": macro_f1(truth, predicted),
        "ece": expected_calibration_error(truth, predicted, confidence),
        "n_test": len(truth),
        "per_type": [
            {"cell_type": name, **row}
            for name, row in zip(types.index.astype(str), rows, strict=True)
        ],
        "reliability": [[float(v) for v in row] for row in bins.to_numpy()],
    }


def annotation_baselines(
    counts: sp.csr_matrix, labels: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Train logistic regression and nearest neighbours on the training cells and measure them on the test cells.

    Parameters
    ----------
    counts : csr_matrix, shape (n_cells, n_genes)
        Raw counts of all genes; normalised here to log10(1 + 1e4 · count / total).
    labels : array of str, shape (n_cells,)
    train, test : int arrays
        Rows.
    seed
        Of the principal components.

    Returns
    -------
    dict
        `accuracy` and `macro_f1` by baseline: "logistic_regression", "knn".
    """
    values = log10_normalized(counts)
    results = {}
    for name, baseline in (
        ("logistic_regression", LogisticRegressionBaseline()),
        ("knn", KNNBaseline(seed=seed)),
    ):
        predicted = baseline.fit(values[train], labels[train]).predict(values[test])
        results[name] = {
            "accuracy": accuracy(labels[test], predicted),
            "macro_f1": macro_f1(labels[test], predicted),
        }
    return results
