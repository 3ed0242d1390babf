"""Lists of genes that end themselves, and free text: every allowed way, and no other, leads to an answer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2s.common.errors import InputError, UsageError
from c2s.constraints.free_text import FreeText
from c2s.constraints.gene_list import GeneList
from c2s.constraints.trie import TokenTrie

END = 99
#: First tokens are 1 to 3 (with a space), further ones 11 to 13; one gene may begin another.
GENES = st.lists(
    st.tuples(st.integers(1, 3), st.lists(st.integers(11, 13), max_size=2)).map(
        lambda parts: (parts[0], *parts[1])
    ),
    min_size=1,
    max_size=5,
    unique=True,
)


def answers(state, tokens=()):
    """Every answer that a constraint allows, by trying every token."""
    if state().done:
        return {tokens}
    found = set()
    for token in state().allowed().tolist():

        def after(before=state, token=token):
            now = before()
            now.advance(token)
            return now

        found |= answers(after, (*tokens, token))
    return found


def wanted(genes, most):
    """Every list of different genes, then the end, by plain recursion."""

    def grow(taken):
        if taken:
            yield taken
        if len(taken) < most:
            for gene in set(genes) - set(taken):
                yield from grow((*taken, gene))

    return {(*(token for gene in taken for token in gene), END) for taken in grow(())}


class TestGeneList:
    @given(GENES, st.integers(1, 3))
    def test_allows_every_list_of_different_genes_and_no_other(self, genes, most):
        most = min(most, len(genes))
        constraint = GeneList(TokenTrie(genes), most, END)
        found = answers(constraint.start)
        assert found == wanted(genes, most)
        assert max(map(len, found)) <= constraint.max_tokens

    @given(GENES, st.data())
    def test_remembers_which_genes_they_are(self, genes, data):
        state = GeneList(TokenTrie(genes), len(genes), END).start()
        tokens = []
        while not state.done:
            tokens.append(data.draw(st.sampled_from(state.allowed().tolist())))
            state.advance(tokens[-1])
        assert [t for item in state.genes for t in genes[item]] == tokens[:-1]
        assert len(set(state.genes)) == len(state.genes)

    def test_refuses_what_a_sentence_refuses(self):
        with pytest.raises(InputError, match="begin the next one"):
            GeneList(TokenTrie([(1,), (1, 2), (2,)]), 2, END)
        with pytest.raises(UsageError, match="cannot be made of 1 genes"):
            GeneList(TokenTrie([(1,)]), 2, END)


class TestFreeText:
    def test_by_hand(self):
        state = FreeText(6, 5, 3, never=[0]).start()
        assert state.allowed().tolist() == [1, 2, 3, 4]
        state.advance(3)
        assert state.allowed().tolist() == [1, 2, 3, 4, 5]
        state.advance(5)
        assert (state.done, state.ended, state.tokens) == (True, True, [3])

    def test_is_cut_off(self):
        state = FreeText(6, 5, 2).start()
        for token in (1, 0):
            assert not state.done
            state.advance(token)
        assert (state.done, state.ended, state.tokens) == (True, False, [1, 0])
        assert state.allowed().dtype == np.int64

    def test_no_room(self):
        with pytest.raises(UsageError, match="at most 1 tokens"):
            FreeText(6, 5, 1)
