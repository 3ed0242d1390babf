"""The classifier two-sample test on samples that are alike, apart, correlated and copied."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from c2s.common.errors import InputError, UsageError
from c2s.common.seeds import generator
from c2s.metrics import c2st, two_sample_test

RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(200, 5))
OTHER = RNG.normal(size=(200, 5))
CORRELATED = RNG.multivariate_normal([0, 0], [[1, 0.95], [0.95, 1]], size=300)
UNCORRELATED = RNG.normal(size=(300, 2))


def test_samples_of_one_distribution_cannot_be_told_apart():
    result = two_sample_test(REAL, OTHER)
    assert result.n == 200
    assert abs(result.accuracy - 0.5) < 0.1
    assert abs(result.auc - 0.5) < 0.1
    assert abs(c2st(REAL, OTHER, classifier="forest") - 0.5) < 0.1


def test_the_further_apart_the_easier_to_tell():
    values = [c2st(REAL, OTHER + shift) for shift in (0, 0.3, 1, 10)]
    assert values == sorted(values)
    assert values[-1] == 1.0
    assert two_sample_test(REAL, OTHER + 10).auc == 1.0


def test_missing_correlations_are_seen_by_the_forest_and_not_by_the_linear_classifier():
    assert abs(c2st(CORRELATED, UNCORRELATED) - 0.5) < 0.08
    assert c2st(CORRELATED, UNCORRELATED, classifier="forest") > 0.7


def test_copied_cells_fall_far_below_chance():
    assert c2st(REAL, REAL.copy(), classifier="forest") < 0.3


def test_equal_to_scikit_learn_on_the_same_folds():
    real, generated = REAL, OTHER + 0.3
    state = int(generator(4, "two-sample test", "logistic").integers(1 << 31))
    features, target = np.concatenate([real, generated]), np.repeat([0, 1], 200)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    folds = StratifiedKFold(5, shuffle=True, random_state=state)
    called = cross_val_predict(model, features, target, cv=folds)
    auc = cross_val_score(model, features, target, cv=folds, scoring="roc_auc").mean()
    result = two_sample_test(real, generated, seed=4)
    assert result.accuracy == pytest.approx(np.mean(called == target))
    assert result.auc == pytest.approx(auc)


def test_the_larger_sample_is_cut_so_that_half_is_chance():
    many = np.random.default_rng(1).normal(size=(1000, 5))
    result = two_sample_test(REAL[:100], many)
    assert result.n == 100
    assert result.accuracy < 0.65  # calling all cells by the larger sample would give 0.91


def test_the_seed_decides():
    shifted = OTHER + 0.2
    assert two_sample_test(REAL, shifted, seed=1) == two_sample_test(REAL, shifted, seed=1)
    assert len({two_sample_test(REAL, shifted, seed=s).auc for s in range(4)}) > 1


def test_constant_features_and_large_units_are_no_obstacle():
    real = np.column_stack([REAL, np.ones(200)]) * 1e6
    generated = np.column_stack([OTHER, np.ones(200)]) * 1e6
    assert c2st(real, generated) == c2st(REAL, OTHER)


def test_too_few_cells_and_unknown_choices_are_refused():
    with pytest.raises(InputError, match="at least 5 of each"):
        c2st(REAL[:4], OTHER)
    with pytest.raises(InputError, match="dimensions"):
        c2st(REAL, OTHER[:, :2])
    with pytest.raises(UsageError, match="classifier"):
        c2st(REAL, OTHER, classifier="svm")
    with pytest.raises(UsageError, match="folds"):
        c2st(REAL, OTHER, folds=1)
