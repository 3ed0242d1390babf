"""Randomness depends on the seed and on what a draw belongs to, on nothing else."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2s.common.seeds import cell_keys, generator, mix64, text_keys


def splitmix64(x):
    """Return the finaliser of Steele et al. 2014 in Python's own integers."""
    mask = 2**64 - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def first(rng):
    return int(rng.integers(2**63))


def test_the_same_seed_and_keys_give_the_same_numbers():
    np.random.seed(1)  # noqa: NPY002 - global state must not matter
    a = generator(7, "split", 3).random(5)
    np.random.seed(2)  # noqa: NPY002
    b = generator(7, "split", 3).random(5)
    np.testing.assert_array_equal(a, b)


def test_numbers_are_the_same_in_every_version_of_the_package():
    # A corpus or a split that is drawn again years later must be the same.
    assert first(generator(0)) == 8387228346120017480
    assert first(generator(5, "order", "cell_type", 12)) == 6859831266158897384
    assert cell_keys(["cell1"], 0).tolist() == [7997125754782645038]


def test_every_part_of_the_key_matters():
    keys = [(0,), (1,), (0, "a"), (0, "b"), (0, "a", 1), (0, "a", "1"), (0, 1, "a"), (0, "ab"),
            (0, "a", "b"), (0, 1), (0, "1"), (-1,), (2**40,)]  # fmt: skip
    assert len({first(generator(*k)) for k in keys}) == len(keys)


def test_numpy_scalars_are_the_keys_that_they_equal():
    plain = first(generator(3, 4, "beta"))
    assert first(generator(np.int64(3), np.int32(4), np.str_("beta"))) == plain


def test_generators_of_neighbouring_keys_are_unrelated():
    draws = np.array([generator(0, "example", p).random() for p in range(2000)])
    assert abs(draws.mean() - 0.5) < 5 * (1 / 12) ** 0.5 / 2000**0.5
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 5 / 2000**0.5


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20))
def test_mix64_is_the_published_function(values):
    array = np.array(values, dtype=np.uint64)
    before = array.copy()
    assert mix64(array).tolist() == [splitmix64(v) for v in values]
    np.testing.assert_array_equal(array, before)


def test_mix64_is_one_to_one_and_flips_half_of_the_bits():
    x = np.arange(50_000, dtype=np.uint64)
    mixed = mix64(x)
    assert len(np.unique(mixed)) == len(x)
    flipped = np.bitwise_count(mix64(x) ^ mix64(x ^ np.uint64(1)))
    assert abs(flipped.mean() - 32) < 0.1


WORDS = ["INS", "ins", "", "HLA-A", "βcell", "細胞", "INS ", "a\tb"]


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Index, pd.Series])
def test_text_keys_do_not_depend_on_what_holds_the_words(kind):
    expected = text_keys(WORDS)
    assert expected.dtype == np.uint64
    assert len(set(expected.tolist())) == len(WORDS)
    np.testing.assert_array_equal(text_keys(kind(WORDS)), expected)
    np.testing.assert_array_equal(text_keys(WORDS[::-1]), expected[::-1])


def test_keys_are_the_same_in_another_process():
    code = (
        "from c2s.common.seeds import *; "
        "print(text_keys(['INS', 'βcell']).tolist(), cell_keys(['c1'], 5).tolist())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == (
        f"{text_keys(['INS', 'βcell']).tolist()} {cell_keys(['c1'], 5).tolist()}"
    )


def test_cell_keys_differ_by_seed_and_cell_and_not_by_order():
    ids = [f"cell{i}" for i in range(3000)]
    keys = cell_keys(ids, 0)
    assert keys.dtype == np.uint64
    assert len(np.unique(np.concatenate([keys, cell_keys(ids, 1), cell_keys(ids, -1)]))) == 9000
    np.testing.assert_array_equal(cell_keys(ids[::-1], 0), keys[::-1])
    np.testing.assert_array_equal(cell_keys(ids, np.int64(0)), keys)


def test_no_words_have_no_keys():
    assert text_keys([]).shape == (0,)
    assert cell_keys([], 0).shape == (0,)
