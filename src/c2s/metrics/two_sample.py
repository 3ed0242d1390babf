"""Can a classifier tell generated cells from real ones?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from c2s.common.errors import InputError, UsageError
from c2s.common.seeds import generator
from c2s.metrics._checks import point_sets

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin

Classifier = Literal["logistic", "forest"]


@dataclass(frozen=True)
class TwoSampleResult:
    """Result of `two_sample_test`.

    Attributes
    ----------
    accuracy
        Share of held-out cells told right; 0.5 when the samples cannot be told apart.
    auc
        Area under the ROC curve, the mean over folds; 0.5 when they cannot be told apart.
    n
        Cells used of each sample.
    """

    accuracy: float
    auc: float
    n: int


def two_sample_test(
    real: np.ndarray,
    generated: np.ndarray,
    *,
    classifier: Classifier = "logistic",
    folds: int = 5,
    seed: int = 0,
) -> TwoSampleResult:
    """Train a classifier to tell generated from real cells and return how well it does.

    The larger sample is cut at random to the size of the smaller, so that 0.5 is chance. Each fold
    of a stratified cross-validation is judged by a classifier trained on the others.

    Values somewhat below 0.5 are noise. Values *far* below 0.5 mean that generated cells are copies
    of the real ones: the classifier then meets each held-out cell with the other label in training.

    Parameters
    ----------
    real : array, shape (n, d)
    generated : array, shape (m, d)
    classifier
        ``"logistic"``: logistic regression on standardised features; fast, sees shifts of single
        features and not their correlations or spread. ``"forest"``: 200-tree random forest; slower,
        sees correlations, and needs more cells.
    folds
        Number of folds, at least 2; each sample needs as many cells.
    seed
        Chooses the cells kept, the folds and the forest.

    Returns
    -------
    TwoSampleResult

    Raises
    ------
    InputError
        Fewer cells than folds, different numbers of dimensions, NaN or infinite values.
    UsageError
        Unknown `classifier`, or fewer than 2 folds.

    References
    ----------
    Lopez-Paz & Oquab 2017, "Revisiting classifier two-sample tests", ICLR.
    """
    if classifier not in get_args(Classifier):
        raise UsageError(f"classifier: found {classifier!r}, expected 'logistic' or 'forest'")
    if folds < 2:
        raise UsageError(f"folds: found {folds}, expected at least 2")
    real, generated = point_sets(real, generated)
    n = min(len(real), len(generated))
    if n < folds:
        raise InputError(
            f"two-sample test: found {len(real)} real and {len(generated)} generated cells, "
            f"expected at least {folds} of each for {folds} folds; give more cells or fewer folds"
        )
    rng = generator(seed, "two-sample test", classifier)
    features = np.concatenate([_subsample(real, n, rng), _subsample(generated, n, rng)])
    is_generated = np.repeat([0, 1], n)
    correct, auc = _cross_validate(
        features, is_generated, classifier, folds, int(rng.integers(1 << 31))
    )
    return TwoSampleResult(accuracy=float(correct.mean()), auc=float(auc.mean()), n=n)


def c2st(
    real: np.ndarray,
    generated: np.ndarray,
    *,
    classifier: Classifier = "logistic",
    folds: int = 5,
    seed: int = 0,
) -> float:
    """Return the accuracy of the classifier two-sample test; see `two_sample_test`.

    Returns
    -------
    float
        Between 0 and 1; lower is better, 0.5 when the samples cannot be told apart.

    Raises
    ------
    InputError, UsageError
        As `two_sample_test`.

    References
    ----------
    Lopez-Paz & Oquab 2017.

    Examples
    --------
    >>> cells = np.linspace(0, 1, 20)[:, None]
    >>> c2st(cells, cells + 10)
    1.0
    """
    return two_sample_test(real, generated, classifier=classifier, folds=folds, seed=seed).accuracy


def _subsample(x: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    return x if len(x) == n else x[np.sort(rng.choice(len(x), size=n, replace=False))]


def _cross_validate(
    features: np.ndarray, target: np.ndarray, classifier: Classifier, folds: int, random_state: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each cell was told right, shape (n,), and the AUC of each fold."""
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    correct = np.zeros(len(target), dtype=bool)
    auc = []
    splits = StratifiedKFold(folds, shuffle=True, random_state=random_state)
    for train, test in splits.split(features, target):
        model = _classifier(classifier, random_state).fit(features[train], target[train])
        probability = model.predict_proba(features[test])[:, 1]
        correct[test] = (probability > 0.5) == target[test].astype(bool)
        # Per fold: scores of different folds come from different models and do not compare.
        auc.append(roc_auc_score(target[test], probability))
    return correct, np.array(auc)


def _classifier(name: Classifier, random_state: int) -> ClassifierMixin:
    if name == "forest":
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(n_estimators=200, random_state=random_state, n_jobs=1)
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
