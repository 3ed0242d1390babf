"""Lists of different names, against all that there are."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2s.common.errors import UsageError
from c2s.constraints.names import NameList

SEMICOLON, STOP = 90, 91


def written(constraint):
    """Return every list that the constraint allows, by following all that is allowed, and its names."""
    found, open_ = {}, [()]
    while open_:
        tokens = open_.pop()
        state = constraint.start()
        for token in tokens:
            state.advance(token)
        if state.done:
            assert not len(state.allowed())
            assert state.tokens == list(tokens)
            assert len(tokens) <= constraint.max_tokens
            found[tokens] = tuple(state.names)
            continue
        allowed = state.allowed().tolist()
        assert allowed
        assert allowed == sorted(set(allowed))
        open_ += [(*tokens, token) for token in allowed]
    return found


names_of_tokens = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple), min_size=1, max_size=6, unique=True
)  # fmt: skip


@given(names_of_tokens, st.integers(1, 3))
def test_all_lists_of_different_names_can_be_written_and_nothing_else(names, number):
    if number > len(names):
        with pytest.raises(UsageError, match=f"{number} of {len(names)} names cannot be listed"):
            NameList([[*n, SEMICOLON] for n in names], [[*n, STOP] for n in names], number)
        return
    constraint = NameList([[*n, SEMICOLON] for n in names], [[*n, STOP] for n in names], number)
    expected = {}
    for chosen in itertools.permutations(range(len(names)), number):
        tokens = [t for k in chosen[:-1] for t in (*names[k], SEMICOLON)]
        expected[(*tokens, *names[chosen[-1]], STOP)] = chosen
    found = written(constraint)
    assert found == expected
    assert max(map(len, found)) <= constraint.max_tokens


def test_names_that_hold_their_end_in_a_token_are_names():
    # As a tokenizer may write "hypoxia;" and "hypoxia." in one token each.
    constraint = NameList([[5], [6, SEMICOLON]], [[7], [6, STOP]], 2)
    assert written(constraint) == {(5, 6, STOP): (0, 1), (6, SEMICOLON, 7): (1, 0)}
    assert constraint.start().progress == 0.0
    assert np.array_equal(constraint.start().allowed(), [5, 6])
