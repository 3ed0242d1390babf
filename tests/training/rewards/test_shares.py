"""Shares of cells in a measure of their group, beside the measure itself of the group without each cell."""

import doctest
import importlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from c2s.common.seeds import generator
from c2s.metrics import energy_distance, scfid
from c2s.training.rewards.shares import (
    Gaussian,
    diversity_shares,
    energy_shares,
    mean_distance,
    scfid_shares,
)

SHAPES = [(3, 5, 2), (8, 40, 4), (32, 60, 5), (6, 30, 6), (7, 30, 6), (5, 4, 9), (12, 8, 30)]


def samples(g, n, d, seed=0):
    rng = generator(seed, "samples", g, n, d)
    mix = rng.normal(size=(d, d))
    return rng.normal(size=(g, d)) @ mix + 0.5, rng.normal(size=(n, d)) @ mix


def slow(measure, generated):
    """-G D + (G - 1) D_i, by measuring the group without each cell."""
    g = len(generated)
    rest = [np.delete(generated, i, axis=0) for i in range(g)]
    return np.array([-g * measure(generated) + (g - 1) * measure(left) for left in rest])


@pytest.mark.parametrize("module", ["shares", "pairs", "programme", "registry"])
def test_examples_in_docstrings(module):
    found = importlib.import_module(f"c2s.training.rewards.{module}")
    assert doctest.testmod(found, extraglobs={"np": np}).failed == 0


@pytest.mark.parametrize(("g", "n", "d"), SHAPES)
def test_energy_shares_are_those_of_brute_force(g, n, d):
    generated, real = samples(g, n, d)
    expected = slow(lambda cells: energy_distance(real, cells), generated)
    np.testing.assert_allclose(energy_shares(generated, real), expected, rtol=1e-9, atol=1e-9)
    known = energy_shares(generated, real, mean_distance(real))
    np.testing.assert_array_equal(known, energy_shares(generated, real))


@pytest.mark.parametrize(("g", "n", "d"), SHAPES)
def test_scfid_shares_are_those_of_brute_force(g, n, d):
    generated, real = samples(g, n, d)
    expected = slow(lambda cells: scfid(real, cells), generated)
    scale = scfid(real, generated) * g
    np.testing.assert_allclose(scfid_shares(generated, real) / scale, expected / scale, atol=2e-7)
    np.testing.assert_array_equal(
        scfid_shares(generated, Gaussian.fit(real)), scfid_shares(generated, real)
    )


def test_scfid_shares_of_a_collapsed_group_are_those_of_brute_force():
    generated, real = samples(8, 40, 4)
    generated[1:] = generated[0]
    expected = slow(lambda cells: scfid(real, cells), generated)
    np.testing.assert_allclose(scfid_shares(generated, real), expected, rtol=1e-6)


@pytest.mark.parametrize("g", [3, 4, 17])
def test_diversity_shares_are_those_of_brute_force(g):
    cells, _ = samples(g, 3, 4)
    expected = -slow(mean_distance, cells)
    np.testing.assert_allclose(diversity_shares(cdist(cells, cells)), expected, rtol=1e-9)


def test_the_mean_over_a_group_is_the_measure():
    generated, real = samples(9, 30, 4)
    assert energy_shares(generated, real).mean() == pytest.approx(
        -energy_distance(real, generated), rel=1e-9
    )
    spread = diversity_shares(cdist(generated, generated))
    assert spread.mean() == pytest.approx(mean_distance(generated), rel=1e-9)
    # scFID is too large by its bias, which the jackknife takes off.
    assert scfid_shares(generated, real).mean() > -scfid(real, generated)


def test_a_hand_calculation():
    # Real 0 and 2; group 0, 2, 9. Mean distances to real cells 1, 1, 8; to the others 5.5, 4.5, 8: D = 20/3 - 2 - 6.
    # Without 9: D = 2 - 2 - 2 = -2. With G = 3: -3 (-4/3) + 2 (-2) = 0.
    found = energy_shares(np.array([[0.0], [2.0], [9.0]]), np.array([[0.0], [2.0]]))
    np.testing.assert_allclose(found, [4, 0, 0], atol=1e-12)


@pytest.mark.parametrize("measure", ["energy", "scfid", "diversity"])
def test_shares_give_an_unbiased_gradient(measure):
    """Over all groups of four of a policy on three points: the mean of share times the gradient of log-probability."""
    points = np.array([[0.0, 1.0], [2.0, 0.0], [5.0, 1.5]])
    real = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 1.0], [1.5, 0.5]])
    share, value = {
        "energy": (lambda x: energy_shares(x, real), lambda x: -energy_distance(real, x)),
        "scfid": (lambda x: scfid_shares(x, real), lambda x: -scfid(real, x)),
        "diversity": (lambda x: diversity_shares(cdist(x, x)), mean_distance),
    }[measure]
    groups = [list(drawn) for drawn in itertools.product(range(3), repeat=4)]
    shares = np.array([share(points[g]) for g in groups])
    values = np.array([value(points[g]) for g in groups])

    def expected(logits):
        p = np.exp(logits) / np.exp(logits).sum()
        return (values * [np.prod(p[g]) for g in groups]).sum()

    logits = np.array([0.3, -0.2, 0.5])
    p = np.exp(logits) / np.exp(logits).sum()
    policy = np.zeros(3)
    for drawn, one in zip(groups, shares, strict=True):
        policy += np.prod(p[drawn]) * ((np.eye(3)[drawn] - p) * one[:, None]).mean(axis=0)
    steps = 1e-5 * np.eye(3)
    numeric = [(expected(logits + e) - expected(logits - e)) / 2e-5 for e in steps]
    np.testing.assert_allclose(policy, numeric, atol=1e-6)


def test_shares_do_not_shrink_with_the_group():
    real = samples(3, 200, 4)[1]
    many = samples(3, 4000, 4)[1][2000:] + 5.0
    spread = {}
    for g in (8, 64):
        drawn = [many[30 * i : 30 * i + g] for i in range(60)]
        for name, share in (("energy", energy_shares), ("scfid", scfid_shares)):
            spread[name, g] = np.mean([share(cells, real).std() for cells in drawn])
    for name in ("energy", "scfid"):
        assert 0.7 < spread[name, 64] / spread[name, 8] < 1.4


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(7)), st.integers(0, 50))
def test_permuted_cells_have_permuted_shares(order, seed):
    generated, real = samples(7, 12, 3, seed)
    distances = cdist(generated, generated)
    for whole, permuted in (
        (energy_shares(generated, real), energy_shares(generated[order], real)),
        (scfid_shares(generated, real), scfid_shares(generated[order], real)),
        (diversity_shares(distances), diversity_shares(distances[np.ix_(order, order)])),
    ):
        np.testing.assert_allclose(permuted, whole[order], rtol=1e-6, atol=1e-6)
