"""Errors say what to do, in one line."""

import warnings

import pytest

from c2s.common import errors
from c2s.common.errors import C2SError, C2SWarning, InputError, UsageError, listing, nearest


def test_exit_codes():
    assert (C2SError.exit_code, InputError.exit_code, UsageError.exit_code) == (1, 1, 2)
    assert issubclass(InputError, ValueError)
    assert issubclass(UsageError, ValueError)


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("kidny", ["liver", "kidney", "heart"], ["kidney"]),
        ("BETA", ["alpha", "beta"], ["beta"]),
        ("Beta", ["beta cell", "Beta"], ["Beta", "beta cell"]),
        ("xyz", ["liver", "kidney"], []),
        ("lama", ["lama1", "lama2", "lama3", "lama4"], 3),
        ("anything", [], []),
        ("straße", ["STRASSE"], ["STRASSE"]),
    ],
)
def test_nearest(word, known, expected):
    found = nearest(word, iter(known))
    if isinstance(expected, int):
        assert len(found) == expected
    else:
        assert found == expected


def test_nearest_gives_as_many_as_asked_for():
    assert nearest("lama", ["lama1", "lama2", "lama3"], n=1)[0].startswith("lama")
    assert len(nearest("lama", ["lama1", "lama2", "lama3"], n=1)) == 1


def test_listing():
    assert listing([]) == ""
    assert listing(["a", "b"]) == "a, b"
    assert listing([str(i) for i in range(12)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"
    assert listing(["x"] * 2012).endswith("x and 2,000 more")
    assert listing(["a", "b", "c"], 1) == "a and 2 more"


def test_missing_extra_says_what_to_install():
    error = errors.missing_extra("loompy", "loom")
    assert isinstance(error, UsageError)
    assert str(error) == (
        "loompy is not installed; install it with: pip install 'c2s-toolkit[loom]'"
    )


def test_warnings_point_at_the_caller_of_the_public_function():
    def public_function():
        errors.warn("careful")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        public_function()
    assert caught[0].category is C2SWarning
    assert str(caught[0].message) == "careful"
    assert caught[0].filename == __file__


def test_own_warnings_are_errors_in_tests():
    with pytest.raises(C2SWarning, match="careful"):
        errors.warn("careful")
