"""Answers walked through again: the tokens that were written, and what else was allowed at each place (SPEC §7)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from c2s.common.errors import InputError, UsageError
from c2s.constraints.free_text import FreeText
from c2s.constraints.gene_list import GeneList
from c2s.constraints.replay import answer_tokens, choices_of
from c2s.constraints.trie import GeneSentence, OneOf, TokenTrie

END = 0
GENES = {
    "one token a gene": [[1], [2], [3], [4]],
    "a chain of prefixes": [[1], [1, 11], [1, 11, 12], [1, 11, 12, 11]],
    "a gene that is the start of two": [[1], [1, 11], [1, 12], [2]],
    "a start that is no gene": [[1, 11], [1, 12], [1, 12, 13], [1, 12, 14]],
}
BEGINNINGS = [[21], [21, 11], [21, 11, 12], [21, 11, 12, 11]]


def constraints():
    for name, genes in GENES.items():
        for n_genes in (1, 2, 4):
            yield f"{name}, {n_genes}", GeneSentence(TokenTrie(genes), n_genes, END)
        yield f"{name}, required", GeneSentence(TokenTrie(genes), 2, END, required=[3])
        yield f"{name}, list", GeneList(TokenTrie(genes), 3, END)
    chain = TokenTrie(GENES["a chain of prefixes"])
    yield "beginnings", GeneSentence(chain, 2, END, beginnings=BEGINNINGS)
    yield "labels", OneOf([[1, 2], [1], [3]], END)
    yield "text", FreeText(6, END, 4, never=[5])


CONSTRAINTS = dict(constraints())


def walk(constraint, rng):
    """Write an answer at random; return the tokens, what was allowed at each place, and the finished state."""
    state, tokens, allowed = constraint.start(), [], []
    while not state.done:
        allowed.append(state.allowed().tolist())
        tokens.append(int(rng.choice(allowed[-1])))
        state.advance(tokens[-1])
    return tokens, allowed, state


@pytest.mark.parametrize("name", CONSTRAINTS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_tokens_and_choices_are_those_of_the_states(name, seed):
    constraint, rng = CONSTRAINTS[name], np.random.default_rng(seed)
    written = [walk(constraint, rng) for _ in range(3)]
    for tokens, _, state in written:
        assert answer_tokens(constraint, state) == tokens
    found = choices_of(constraint, [np.array(tokens) for tokens, _, _ in written])
    assert (np.diff(found.tokens) > 0).all()
    for row, (tokens, allowed, _) in enumerate(written):
        for place, (token, choices) in enumerate(zip(tokens, allowed, strict=True)):
            allowed_there = found.sets[found.which[row, place]]
            assert found.tokens[allowed_there].tolist() == sorted(choices)
            assert found.tokens[found.taken[row, place]] == token
        assert (found.which[row, len(tokens) :] == -1).all()


@pytest.mark.parametrize(
    ("name", "answer", "place"),
    [
        ("one token a gene, 2", [1, 1], 1),  # twice
        ("one token a gene, 2", [1, 9], 1),  # no gene
        ("one token a gene, 2", [1, 2, 3], 2),  # behind the end
        ("labels", [2], 0),
        ("labels", [1, 3], 1),
        ("text", [5], 0),
    ],
)
def test_an_answer_that_is_not_allowed_is_refused(name, answer, place):
    with pytest.raises(InputError, match=rf"token {answer[place]} at place {place}"):
        choices_of(CONSTRAINTS[name], [np.array([1]), np.array(answer)][-1:])


def test_nothing_to_walk_through():
    found = choices_of(CONSTRAINTS["labels"], [])
    assert found.sets.shape == (0, 0)
    assert found.which.shape == (0, 0)


def test_free_text_has_two_sets_whatever_its_length():
    """A mask of the vocabulary for each token of each answer would be gigabytes."""
    found = choices_of(CONSTRAINTS["text"], [np.array([1, 2, 3, 4]), np.array([2, 0])])
    assert found.sets.shape == (2, 5)
    assert found.which.tolist() == [[0, 1, 1, 1], [0, 1, -1, -1]]


def test_answers_that_keep_no_tokens_are_refused():
    class Other:
        max_tokens = 1

        def start(self):
            return self

    with pytest.raises(UsageError, match="Other do not keep"):
        answer_tokens(Other(), Other())
