"""Power laws: planted ones are found, by the search alone; intervals cover; values without a law are said to have none."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from c2s.common.errors import InputError
from c2s.studies.power_law import C_RANGE, fit_lines, fit_power_laws

SIZES = np.array([1e5, 3.3e5, 8e5, 2.2e6, 4.7e6])


@settings(deadline=None, max_examples=40)
@given(a=st.floats(0.1, 3), rise=st.floats(0.2, 5), c=st.floats(0.05, 1.5), falling=st.booleans())
def test_planted_laws_are_recovered(a, rise, c, falling):
    b = rise * SIZES[0] ** c  # so that the curve changes by `rise` at the first size
    y = a + (1 if falling else -1) * b * SIZES**-c
    law = fit_power_laws(SIZES, y, falling=falling)
    assert law.c[0] == pytest.approx(c, rel=1e-3, abs=1e-4)
    assert law.a[0] == pytest.approx(a, rel=5e-3, abs=5e-3)
    assert law.b[0] == pytest.approx(b, rel=2e-2)
    assert law.r2[0] == pytest.approx(1)
    np.testing.assert_allclose(law.at(SIZES)[0], y, rtol=1e-4, atol=1e-6)


def test_with_noise_it_is_the_least_squares_of_scipy():
    rng = np.random.default_rng(0)
    y = 1.5 + 300 * SIZES**-0.5 + rng.normal(0, 0.01, (6, 5))
    law = fit_power_laws(SIZES, y, falling=True)
    x = SIZES / 1e6
    for k, values in enumerate(y):
        (a, b, c), _ = curve_fit(
            lambda x, a, b, c: a + b * x**-c, x, values, p0=(1.5, 0.3, 0.5), maxfev=20000
        )
        theirs = ((a + b * x**-c - values) ** 2).sum()
        mine = ((law.at(SIZES)[k] - values) ** 2).sum()
        assert mine <= theirs * (1 + 1e-6)
        assert [law.a[k], law.c[k]] == pytest.approx([a, c], rel=2e-3)


def test_many_curves_at_once_are_each_alone():
    y = np.random.default_rng(1).uniform(1, 2, (7, 5))
    together = fit_power_laws(SIZES, y, falling=True, limits=(0.0, np.inf))
    for k in range(7):
        alone = fit_power_laws(SIZES, y[k], falling=True, limits=(0.0, np.inf))
        for name in ("a", "b", "c", "r2"):
            np.testing.assert_array_equal(getattr(together, name)[k], getattr(alone, name)[0])


def test_a_keeps_to_its_limits_and_the_rest_is_best_there():
    y = 90 + 4 * np.log10(SIZES / 1e5)  # a straight line would come to more than 100
    free = fit_power_laws(SIZES, y, falling=False)
    held = fit_power_laws(SIZES, y, falling=False, limits=(-np.inf, 100.0))
    assert free.a[0] > 101
    assert free.at_edge[0]
    assert held.a[0] == pytest.approx(100)
    # With a at 100 nothing on a fine grid of b and c is better.
    c, b = np.meshgrid(np.geomspace(*C_RANGE, 300), np.linspace(0, 20, 400))
    z = (SIZES / 1e5)[:, None, None] ** -c
    errors = ((100 - b * z - y[:, None, None]) ** 2).sum(0)
    assert ((held.at(SIZES)[0] - y) ** 2).sum() <= errors.min() * (1 + 1e-6)


class TestNoLaw:
    def test_the_same_value_everywhere(self):
        law = fit_power_laws(SIZES, np.full(5, 71.3), falling=False, limits=(-np.inf, 100.0))
        assert (law.a[0], law.b[0]) == (71.3, 0.0)
        assert np.isnan(law.c[0])
        assert np.isnan(law.r2[0])
        assert law.at(SIZES)[0].tolist() == [71.3] * 5

    def test_values_that_go_the_other_way(self):
        law = fit_power_laws(SIZES, [1.0, 2.0, 3.0, 4.0, 5.0], falling=True)
        assert (law.a[0], law.b[0]) == (3.0, 0.0)
        assert np.isnan(law.c[0])
        assert law.r2[0] == pytest.approx(0)

    def test_a_step_is_at_the_edge(self):
        law = fit_power_laws(SIZES, [2.0, 1.0, 1.0, 1.0, 1.0], falling=True)
        assert law.at_edge[0]
        assert law.c[0] == pytest.approx(C_RANGE[1], rel=0.02)

    @pytest.mark.parametrize(
        ("x", "y", "said"),
        [
            ([1.0, 1.0, 2.0], [1.0, 2.0, 3.0], "found 2 different sizes"),
            ([0.0, 1.0, 2.0], [1.0, 2.0, 3.0], "above 0"),
            ([1.0, 2.0, 3.0], [1.0, np.nan, 3.0], "finite"),
            ([1.0, 2.0, 3.0], [1.0, 2.0], "2 values for 3 sizes"),
        ],
    )
    def test_what_cannot_be_fitted_is_refused(self, x, y, said):
        with pytest.raises(InputError, match=said):
            fit_power_laws(np.array(x), np.array(y), falling=True)


def test_lines_are_those_of_numpy():
    y = np.random.default_rng(2).normal(size=(3, 5))
    intercept, slope = fit_lines(SIZES, y)
    for k in range(3):
        expected = np.polyfit(np.log10(SIZES), y[k], 1)
        assert [slope[k], intercept[k]] == pytest.approx(expected)
