"""Percentile-bootstrap intervals."""

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap

from c2s.common.errors import InputError, UsageError
from c2s.metrics import accuracy, bootstrap_interval


def test_agrees_with_scipy():
    x = np.random.default_rng(0).exponential(size=300)
    low, high = bootstrap_interval(np.mean, x, seed=0, n_resamples=4000)
    other = scipy_bootstrap(
        (x,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert (low, high) == pytest.approx((other.low, other.high), abs=0.01)


def test_rows_are_drawn_together():
    truth = np.array(["a", "b"] * 50)
    assert bootstrap_interval(accuracy, truth, truth) == (1.0, 1.0)


def test_interval_of_a_proportion_is_the_normal_one():
    right = np.repeat([1.0, 0.0], [900, 100])
    low, high = bootstrap_interval(np.mean, right, n_resamples=4000)
    half = 1.96 * np.sqrt(0.9 * 0.1 / 1000)
    assert (low, high) == pytest.approx((0.9 - half, 0.9 + half), abs=0.002)
    narrow = bootstrap_interval(np.mean, right, n_resamples=4000, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_the_seed_decides():
    x = np.random.default_rng(0).normal(size=40)
    assert bootstrap_interval(np.mean, x, seed=1) == bootstrap_interval(np.mean, x, seed=1)
    assert bootstrap_interval(np.mean, x, seed=1) != bootstrap_interval(np.mean, x, seed=2)


def test_wrong_use_is_refused():
    with pytest.raises(InputError, match="bootstrap"):
        bootstrap_interval(accuracy, np.ones(3), np.ones(4))
    with pytest.raises(InputError, match="bootstrap"):
        bootstrap_interval(np.mean, np.ones(0))
    with pytest.raises(InputError, match="bootstrap"):
        bootstrap_interval(np.mean)
    with pytest.raises(UsageError, match="level"):
        bootstrap_interval(np.mean, np.ones(3), level=95)
    with pytest.raises(UsageError, match="n_resamples"):
        bootstrap_interval(np.mean, np.ones(3), n_resamples=0)
