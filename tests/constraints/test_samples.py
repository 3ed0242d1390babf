"""Several cells in one answer: every sample in one way, with the text between its cells and nothing else."""

import itertools

import pytest

from c2s.common.errors import UsageError
from c2s.constraints.samples import CellSample
from c2s.constraints.trie import GeneSentence, TokenTrie

END, BREAK, WORD = 0, 21, 22
CHAIN = [(1,), (1, 11), (2, 12)]


def sentence(n_genes, end, **options):
    return GeneSentence(TokenTrie(CHAIN), n_genes, end, **options)


def all_paths(constraint, path=()):
    """Yield every token path with its final state."""
    state = constraint.start()
    for token in path:
        state.advance(token)
    if state.done:
        yield list(path), state
        return
    allowed = state.allowed().tolist()
    assert allowed
    for token in allowed:
        yield from all_paths(constraint, (*path, token))


@pytest.mark.parametrize("between", [[BREAK], [BREAK, WORD], [BREAK, WORD, WORD]], ids=str)
def test_every_sample_can_be_written_in_one_way(between):
    constraint = CellSample(
        [sentence(2, BREAK), sentence(1, BREAK), sentence(2, END)], [between, between]
    )
    found = []
    for path, state in all_paths(constraint):
        cells = [[t for gene in cell for t in CHAIN[gene]] for cell in state.cells]
        written = [*cells[0], *between, *cells[1], *between, *cells[2]]
        assert path in (written, [*written, END])
        assert len(path) <= constraint.max_tokens
        found.append(tuple(map(tuple, state.cells)))
    assert len(set(found)) == len(found)
    one, two = itertools.permutations(range(3), 1), list(itertools.permutations(range(3), 2))
    assert set(found) == set(itertools.product(two, one, two))


def test_required_genes_and_beginnings_hold_in_each_cell():
    options = {"required": [1], "beginnings": [(5,), (5, 11), (6, 12)]}
    constraint = CellSample(
        [sentence(2, BREAK, **options), sentence(2, END, **options)], [[BREAK, WORD]]
    )
    for path, state in all_paths(constraint):
        assert all(1 in cell for cell in state.cells)
        assert path[0] in (5, 6)
        assert path[path.index(WORD) + 1] in (5, 6)


def test_progress_is_that_of_the_cell():
    constraint = CellSample([sentence(3, BREAK), sentence(3, END)], [[BREAK, WORD]])
    state, seen = constraint.start(), []
    for token in (2, 12, 1, 11, 1, BREAK, WORD, 1, 11, 2, 12, 1):
        seen.append(state.progress)
        state.advance(token)
    assert seen == [0, 0, 0.5, 0.5, 1, 1, 1, 0, 0, 0.5, 0.5, 1]
    assert state.done
    assert state.cells == [[2, 1, 0], [1, 2, 0]]


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(UsageError, match="2 cells with 0 texts between them"):
        CellSample([sentence(1, BREAK), sentence(1, END)])
    with pytest.raises(UsageError, match="0 cells"):
        CellSample([], [])
    with pytest.raises(UsageError, match="behind cell 1 does not begin with the token that ends"):
        CellSample([sentence(1, END), sentence(1, END)], [[BREAK]])
