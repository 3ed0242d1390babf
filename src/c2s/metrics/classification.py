"""How well labels are predicted: accuracy, F1, confusion, calibration."""

from __future__ import annotations

import numpy as np
import pandas as pd

from c2s.common.errors import InputError, UsageError
from c2s.metrics._checks import Labels, label_codes


def accuracy(truth: Labels, predicted: Labels) -> float:
    """Return the share of cells whose predicted label is the true one.

    Parameters
    ----------
    truth, predicted : array of str or int, shape (n,)

    Returns
    -------
    float
        Between 0 and 1; higher is better.

    Raises
    ------
    InputError
        Different lengths, no cells, or a missing label.

    References
    ----------
    Sokolova & Lapalme 2009, "A systematic analysis of performance measures for classification tasks", Inf. Process.
    Manag. 45:427.

    Examples
    --------
    >>> accuracy(["beta", "beta", "alpha"], ["beta", "alpha", "alpha"])
    0.6666666666666666
    """
    _, (true_code, predicted_code) = label_codes(("truth", truth), ("predicted", predicted))
    return float(np.mean(true_code == predicted_code))


def confusion_matrix(
    truth: Labels, predicted: Labels, labels: Labels | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels and how many cells of each (row) were called each (column).

    Parameters
    ----------
    truth, predicted : array of str or int, shape (n,)
    labels
        Order of rows and columns; must hold every label that occurs and may hold others.
        By default the sorted union of the labels in `truth` and `predicted`.

    Returns
    -------
    labels : array, shape (n_labels,)
    matrix : int64 array, shape (n_labels, n_labels)
        Rows are true labels, columns predicted ones.

    Raises
    ------
    InputError
        As `accuracy`; or `labels` lacks a label that occurs, or names one twice.
    """
    found, (true_code, predicted_code) = label_codes(("truth", truth), ("predicted", predicted))
    order = found if labels is None else np.asarray(labels)
    place = {label: i for i, label in enumerate(order.tolist())}
    absent = [label for label in found.tolist() if label not in place]
    if absent:
        raise InputError(f"labels: {absent[0]!r} occurs in the data and is not among them; add it")
    if len(place) < len(order):
        raise InputError("labels: a label is named twice; name each once")
    to_order = np.array([place[label] for label in found.tolist()], dtype=np.int64)
    n = len(order)
    flat = np.bincount(to_order[true_code] * n + to_order[predicted_code], minlength=n * n)
    return order, flat.reshape(n, n).astype(np.int64)


def per_class(truth: Labels, predicted: Labels) -> pd.DataFrame:
    """Return precision, recall, F1 and number of true cells of each label.

    The rows are the sorted union of the labels in `truth` and in `predicted`, as in scikit-learn: a
    label that is predicted and never true has recall and F1 0, and one that is true and never
    predicted has precision and F1 0.

    Returns
    -------
    DataFrame
        Index: label. Columns: ``precision``, ``recall``, ``f1`` (0 to 1), ``support`` (cells).

    Raises
    ------
    InputError
        As `accuracy`.
    """
    labels, matrix = confusion_matrix(truth, predicted)
    hits = np.diag(matrix).astype(np.float64)
    support, called = matrix.sum(axis=1), matrix.sum(axis=0)
    return pd.DataFrame(
        {
            "precision": _ratio(hits, called),
            "recall": _ratio(hits, support),
            "f1": _ratio(2 * hits, support + called),
            "support": support,
        },
        index=pd.Index(labels, name="label"),
    )


def macro_f1(truth: Labels, predicted: Labels) -> float:
    """Return the unweighted mean of the labels' F1.

    The mean is over the union of the labels in `truth` and in `predicted` (scikit-learn's default),
    so that a label which is predicted and never true counts as 0, and so does one that is true and
    never predicted.

    Returns
    -------
    float
        Between 0 and 1; higher is better.

    Raises
    ------
    InputError
        As `accuracy`.

    References
    ----------
    van Rijsbergen 1979, "Information retrieval".

    Examples
    --------
    >>> macro_f1(["beta", "beta", "alpha"], ["beta", "alpha", "alpha"])  # 2/3 and 2/3
    0.6666666666666666
    """
    return float(per_class(truth, predicted)["f1"].mean())


def reliability(
    truth: Labels, predicted: Labels, confidence: np.ndarray, n_bins: int = 10
) -> pd.DataFrame:
    """Return confidence against accuracy in bins of equal width, for a reliability curve.

    Parameters
    ----------
    truth, predicted : array of str or int, shape (n,)
    confidence : array, shape (n,)
        Probability given to the predicted label, 0 to 1.
    n_bins
        Number of bins (lo, hi] between 0 and 1; confidence 0 belongs to the first. Empty bins are
        left out.

    Returns
    -------
    DataFrame
        Columns: ``confidence`` (mean), ``accuracy``, ``n`` (cells), one row per bin that has cells.

    Raises
    ------
    InputError
        As `accuracy`; or a confidence is missing or outside 0 to 1.
    UsageError
        `n_bins` is below 1.
    """
    if n_bins < 1:
        raise UsageError(f"n_bins: found {n_bins}, expected at least 1")
    _, (true_code, predicted_code) = label_codes(("truth", truth), ("predicted", predicted))
    probability = np.asarray(confidence, dtype=np.float64)
    if probability.shape != true_code.shape:
        raise InputError(
            f"confidence: found shape {probability.shape}, expected one per cell {true_code.shape}"
        )
    wrong = np.flatnonzero(~((probability >= 0) & (probability <= 1)))
    if len(wrong):
        raise InputError(
            f"confidence: cell {wrong[0]} has {probability[wrong[0]]}, expected 0 to 1; "
            "give probabilities, not logits or percentages"
        )
    inner_edges = np.linspace(0, 1, n_bins + 1)[1:-1]
    table = pd.DataFrame(
        {
            "bin": np.digitize(probability, inner_edges, right=True),
            "confidence": probability,
            "accuracy": (true_code == predicted_code).astype(np.float64),
        }
    ).groupby("bin")
    bins = table.mean()
    bins["n"] = table.size()
    return bins.reset_index(drop=True)


def expected_calibration_error(
    truth: Labels, predicted: Labels, confidence: np.ndarray, n_bins: int = 10
) -> float:
    """Return the mean gap between confidence and accuracy over bins, weighted by cells.

    Parameters
    ----------
    truth, predicted, confidence, n_bins
        As in `reliability`.

    Returns
    -------
    float
        Between 0 and 1; lower is better.

    Raises
    ------
    InputError, UsageError
        As `reliability`.

    References
    ----------
    Guo et al. 2017, "On calibration of modern neural networks", ICML (equal-width bins).

    Examples
    --------
    >>> expected_calibration_error(["a"] * 4, ["a", "a", "a", "b"], np.ones(4))  # 1 said, 0.75 right
    0.25
    """
    bins = reliability(truth, predicted, confidence, n_bins)
    gap = (bins["confidence"] - bins["accuracy"]).abs()
    return float((gap * bins["n"]).sum() / bins["n"].sum())


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return numerator / denominator, 0 where the denominator is 0."""
    return np.divide(
        numerator, denominator, out=np.zeros(len(numerator)), where=np.asarray(denominator) > 0
    )
