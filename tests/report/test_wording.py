"""Numbers and sentences of the report."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2s.report.wording import (
    DASH,
    at,
    count,
    duration,
    excess,
    number,
    percent,
    tally,
    text,
    told_apart,
    versus,
    winner,
)


def plain(words: str) -> str:
    """Put ordinary spaces and hyphens in place of the typographic ones."""
    return words.replace("\u00a0", " ").replace("−", "-")


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, np.float64("nan"), "", True])
@pytest.mark.parametrize("write", [count, number, percent, duration], ids=lambda f: f.__name__)
def test_missing_numbers_are_a_dash(write, missing):
    assert write(missing) == DASH


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"),
        (14.27, "14.3"),
        (999.9, "1,000"),
        (1234.5, "1,234"),
        (-0.7123, "-0.712"),
        (0.00012, "0.000120"),
        (0.00001234, "1.23e-05"),
        (np.float32(2.5), "2.50"),
    ],
)
def test_number_has_three_significant_digits(value, written):
    assert plain(number(value)) == written


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_number_is_within_half_a_unit_of_the_third_digit(value):
    read = float(plain(number(value)).replace(",", ""))
    assert read == pytest.approx(value, rel=5.0001e-3, abs=0.0)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.97423, "97.4 %"),
        (1, "100 %"),
        (0, "0 %"),
        (0.99996, "99.996 %"),
        (0.00001, "0.001 %"),
        (-0.5, "-50.0 %"),
    ],
)
def test_percent_is_100_only_when_it_is(value, written):
    assert plain(percent(value)) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.84, "0.8 s"),
        (48.4, "48 s"),
        (59.7, "1 min 0 s"),
        (348, "5 min 48 s"),
        (7380, "2 h 3 min"),
    ],
)
def test_duration(value, written):
    assert plain(duration(value)) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, DASH),
        (20160101, "20160101"),
        (np.int64(7), "7"),
        (False, "False"),
        (["a", 2], "a, 2"),
        ([], DASH),
        (math.nan, DASH),
    ],
)
def test_text_of_settings(value, written):
    assert text(value) == written


def test_told_apart_adds_digits_until_unequal_numbers_look_unequal():
    assert told_apart((0.01178, 0.01181, None)) == ["0.01178", "0.01181", DASH]
    assert told_apart((0.01178, 0.01174)) == ["0.0118", "0.0117"]
    assert told_apart((0.5, 0.5)) == ["0.500", "0.500"]
    assert told_apart((1.0, 1.0 + 1e-12)) == ["1.0000000", "1.0000000"]  # and ends


def test_at_never_fails():
    assert at({"a": {"b": 3}}, "a.b") == 3
    assert at({"a": 3}, "a.b") is None
    assert at(None, "a") is None


@pytest.mark.parametrize(
    ("model", "baseline", "best", "ideal", "who"),
    [
        (1.0, 2.0, "lower", None, "model"),
        (1.0, 2.0, "higher", None, "baseline"),
        (1.0, 1.0, "lower", 0.0, "tie"),
        (0.2, 0.6, "lower", 0.5, "baseline"),
        (0.6, 0.9, "lower", 0.5, "model"),
        (0.9, 0.8, "higher", 1.0, "model"),
        (None, 1.0, "lower", 0.0, None),
        (1.0, math.nan, "lower", 0.0, None),
        (1.0, 2.0, None, 0.0, None),
    ],
)
def test_winner(model, baseline, best, ideal, who):
    assert winner(model, baseline, best, ideal) == who


finite = st.floats(-1e6, 1e6)


@given(finite, finite, st.sampled_from(["lower", "higher"]), st.none() | finite)
def test_swapping_the_numbers_swaps_the_winner(a, b, best, ideal):
    other = {"model": "baseline", "baseline": "model", "tie": "tie"}
    assert winner(b, a, best, ideal) == other[winner(a, b, best, ideal)]


def test_excess_is_how_much_worse_than_the_ceiling():
    assert excess(5.0, 2.0, "lower") == 3.0
    assert excess(0.7, 0.9, "higher") == pytest.approx(0.2)
    assert excess(5.0, None, "lower") is None


def test_versus():
    assert versus(0.974, 0.987, "knn") == "1.3 points below knn"
    assert versus(0.987, 0.974, "knn") == "1.3 points above knn"
    assert versus(0.5, 0.5, "knn") == "equal to knn"
    assert versus(None, 0.5, "knn") == "knn 50.0\u00a0%"


def test_tally():
    unit = ("type", "types")
    model, other = "the model is better", "independent resampling is better"
    assert tally([("a", "model"), ("b", "model")], unit).startswith(f"In all 2 types, {model}")
    assert tally([("a", "baseline")], unit).startswith(f"In 1 type, {other}")
    mixed = tally([("a", "model"), ("b", "baseline"), ("c", "tie"), ("d", None)], unit)
    assert mixed.startswith("Of 3 types, ")
    assert "in 1 (a); independent resampling is better than the model in 1 (b)" in mixed
    assert mixed.endswith("equal in 1 (c).")
    assert tally([("a", None)], unit) == "No type could be compared."
