"""Nearest training cells, and whether copies are caught."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from c2s.common.errors import InputError
from c2s.metrics import memorisation, memorisation_summary, nearest_distance


def test_equal_to_scikit_learn():
    rng = np.random.default_rng(0)
    training, generated = rng.normal(size=(80, 6)), rng.normal(size=(50, 6))
    expected, _ = NearestNeighbors(n_neighbors=1).fit(training).kneighbors(generated)
    np.testing.assert_allclose(nearest_distance(generated, training), expected[:, 0])


def test_an_exact_copy_is_at_distance_0_even_far_from_the_origin():
    training = np.random.default_rng(0).normal(size=(30, 4)) + 1e8
    np.testing.assert_array_equal(nearest_distance(training[::-1], training), np.zeros(30))


def test_blocks_do_not_change_the_distances(monkeypatch):
    rng = np.random.default_rng(0)
    training, generated = rng.normal(size=(17, 3)), rng.normal(size=(23, 3))
    whole = nearest_distance(generated, training)
    monkeypatch.setattr(memorisation, "_BLOCK_VALUES", 40)
    np.testing.assert_array_equal(nearest_distance(generated, training), whole)


def test_summary_by_hand():
    real = np.arange(1.0, 102.0)  # 1 .. 101: 1st percentile 2, 5th percentile 6, median 51
    result = memorisation_summary(np.array([2.0, 6.0, 51.0, 102.0]), real)
    assert (result.generated_median, result.real_median) == (28.5, 51.0)
    assert result.median_ratio == pytest.approx(28.5 / 51)
    assert result.share_below_1st == 0.25
    assert result.share_below_5th == 0.5


def test_honest_cells_look_like_test_cells_and_copies_do_not():
    rng = np.random.default_rng(0)
    training, test, honest = rng.normal(size=(3, 400, 5))
    real = nearest_distance(test, training)
    fair = memorisation_summary(nearest_distance(honest, training), real)
    assert fair.median_ratio == pytest.approx(1, abs=0.1)
    assert fair.share_below_1st < 0.04
    assert fair.share_below_5th < 0.10
    copied = memorisation_summary(nearest_distance(training[:50] + 1e-3, training), real)
    assert copied.median_ratio < 0.01
    assert copied.share_below_1st == copied.share_below_5th == 1
    mixed = np.concatenate([honest[:300], training[:100]])
    assert memorisation_summary(nearest_distance(mixed, training), real).share_below_1st > 0.2


def test_copies_are_seen_also_when_some_test_cells_are_equal_to_training_cells():
    real = np.concatenate([np.zeros(10), np.ones(90)])
    assert memorisation_summary(np.zeros(5), real).share_below_1st == 1


def test_ratio_without_distance():
    assert memorisation_summary(np.ones(3), np.zeros(3)).median_ratio == np.inf
    assert np.isnan(memorisation_summary(np.zeros(3), np.zeros(3)).median_ratio)


def test_cells_that_cannot_be_compared_are_refused():
    with pytest.raises(InputError, match="found 3 dimensions, expected 2 as in training"):
        nearest_distance(np.zeros((4, 3)), np.zeros((4, 2)))
    with pytest.raises(InputError, match="training: found 0 cells"):
        nearest_distance(np.zeros((4, 3)), np.zeros((0, 3)))
    with pytest.raises(InputError, match="real_distances: found 0 cells"):
        memorisation_summary(np.ones(3), np.array([]))
