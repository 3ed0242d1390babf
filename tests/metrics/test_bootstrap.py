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


def test_clusters_are_drawn_as_wholes():
    """Three equal clusters of constant rows: a resample's mean is one of the 27 means of three draws."""
    x = np.repeat([0.0, 1.0, 5.0], 4)
    seen = set()
    bootstrap_interval(
        lambda v: seen.add(round(float(v.mean()), 9)) or 0.0,
        x, clusters=np.repeat(["p", "q", "r"], 4), n_resamples=2000,
    )  # fmt: skip
    values = (0.0, 1.0, 5.0)
    assert seen == {round((a + b + c) / 3, 9) for a in values for b in values for c in values}


def test_each_row_a_cluster_is_the_plain_bootstrap():
    x = np.random.default_rng(0).exponential(size=50)
    each = bootstrap_interval(np.mean, x, clusters=np.arange(50), seed=3)
    assert each == bootstrap_interval(np.mean, x, seed=3)


def test_alike_rows_of_a_cluster_widen_the_interval_to_that_of_the_cluster_means():
    rng = np.random.default_rng(0)
    means = rng.normal(size=40)
    x = np.repeat(means, 25)
    clustered = bootstrap_interval(
        np.mean, x, clusters=np.repeat(np.arange(40), 25), n_resamples=4000
    )
    assert clustered == pytest.approx(bootstrap_interval(np.mean, means, n_resamples=4000))
    low, high = bootstrap_interval(np.mean, x)
    assert (high - low) < 0.3 * (clustered[1] - clustered[0])  # 1/√25


def test_unequal_clusters_keep_their_rows_together():
    """Of 1 and 3 rows: resamples have 2, 4 or 6 rows."""
    lengths = set()
    bootstrap_interval(
        lambda v: lengths.add(len(v)) or 0.0, np.ones(4), clusters=["a", "b", "b", "b"]
    )
    assert lengths == {2, 4, 6}


def test_clusters_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="clusters: found 3"):
        bootstrap_interval(np.mean, np.ones(4), clusters=["a", "b", "b"])
    with pytest.raises(InputError, match="at least 2"):
        bootstrap_interval(np.mean, np.ones(4), clusters=["a"] * 4)
