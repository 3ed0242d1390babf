"""What constrained answers can be: all that is valid, each in one way, nothing else (SPEC §17)."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError
from c2s.constraints.trie import GeneSentence, OneOf, TokenTrie
from c2s.datasets import pancreas

END = 0

#: Token sequences of genes. Behind a gene a new one begins with a space, so the first tokens
#: (1, 2, 3, 4) are none of the others (11, 12, …).
TINY = {
    "one token a gene": [[1], [2], [3], [4]],
    "no token in common": [[1, 11], [2, 11], [3, 12, 11]],
    "a chain of prefixes": [[1], [1, 11], [1, 11, 12], [1, 11, 12, 11]],
    "the chain, longest first": [[1, 11, 12], [1, 11], [1], [2]],
    "a gene that is the start of two": [[1], [1, 11], [1, 12], [2]],
    "a start that is no gene": [[1, 11], [1, 12], [1, 12, 13], [1, 12, 14]],
    "prefixes in two places": [[1], [1, 11], [2], [2, 11], [3, 11]],
    "a gap in the chain": [[1], [1, 11, 12], [1, 11, 12, 13], [2, 11]],
    "only one gene": [[1, 11]],
}


def replay(constraint, path):
    state = constraint.start()
    for token in path:
        state.advance(token)
    return state


def all_paths(constraint, path=()):
    """Yield every token path with its final state, checking what holds in every state."""
    state = replay(constraint, path)
    if state.done:
        yield list(path), state
        return
    allowed = state.allowed().tolist()
    assert allowed, f"stuck after {path}"
    assert len(set(allowed)) == len(allowed), f"{allowed} after {path}"
    for token in allowed:
        yield from all_paths(constraint, (*path, token))


def assert_complete(sequences, n_genes):
    """Check that the paths are the permutations of `n_genes` genes, each by one path."""
    constraint = GeneSentence(TokenTrie(sequences), n_genes, END)
    found = []
    for path, state in all_paths(constraint):
        assert len(path) <= constraint.max_tokens
        written = [t for gene in state.genes for t in sequences[gene]]
        assert path in (written, [*written, END])
        found.append(tuple(state.genes))
    assert len(set(found)) == len(found)
    assert set(found) == set(itertools.permutations(range(len(sequences)), n_genes))


@pytest.mark.parametrize("sequences", TINY.values(), ids=TINY.keys())
def test_every_sentence_can_be_written_in_one_way(sequences):
    for n_genes in range(1, len(sequences) + 1):
        assert_complete(sequences, n_genes)


gene_tokens = st.tuples(
    st.integers(1, 2), st.lists(st.integers(11, 12), max_size=3).map(tuple)
).map(lambda parts: (parts[0], *parts[1]))


@settings(deadline=None, max_examples=150)
@given(st.lists(gene_tokens, min_size=1, max_size=5, unique=True), st.data())
def test_every_sentence_of_any_vocabulary_can_be_written_in_one_way(sequences, data):
    n_genes = data.draw(st.integers(1, min(len(sequences), 4)))
    assert_complete(sequences, n_genes)


def test_the_end_is_written_only_where_it_is_needed():
    # After [1] the gene [1, 11] is still open, so the end must say that it is not meant.
    paths = {
        tuple(s.genes): p
        for p, s in all_paths(GeneSentence(TokenTrie(TINY["a chain of prefixes"]), 1, END))
    }
    assert paths == {
        (0,): [1, END],
        (1,): [1, 11, END],
        (2,): [1, 11, 12, END],
        (3,): [1, 11, 12, 11],
    }


def test_states_are_independent():
    constraint = GeneSentence(TokenTrie(TINY["prefixes in two places"]), 3, END)
    a, b = constraint.start(), constraint.start()
    a.advance(1)
    a.advance(2)
    assert b.genes == []
    assert b.allowed().tolist() == [1, 2, 3]
    assert a.genes == [0]
    assert not a.done


def test_a_complete_sentence_keeps_nothing_that_only_writing_needs():
    """An array of a number a node and of one a gene is much, a hundred thousand times."""
    constraint = GeneSentence(TokenTrie(TINY["prefixes in two places"]), 2, END)
    state = replay(constraint, [1, 11, 3, 11])
    assert state.done
    assert state.genes == [1, 4]
    assert state.allowed().tolist() == []
    for array in state._states:
        assert array.base is None
        assert array.size <= 2


@given(st.permutations(range(5)))
def test_advance_takes_numpy_integers(order):
    constraint = GeneSentence(TokenTrie([[g + 1] for g in range(5)]), 5, END)
    state = constraint.start()
    for gene in order:
        assert not state.done
        assert sorted(state.allowed()) == sorted(g + 1 for g in range(5) if g not in state.genes)
        assert state.allowed().dtype == np.int64
        state.advance(np.int64(gene + 1))
    assert state.done
    assert state.genes == list(order)


# --- required genes -----------------------------------------------------------------------------


def assert_has_what_is_required(sequences, n_genes, required):
    """Check that the paths are the permutations that hold all required genes, each by one path."""
    constraint = GeneSentence(TokenTrie(sequences), n_genes, END, required=required)
    found = []
    for path, state in all_paths(constraint):
        written = [t for gene in state.genes for t in sequences[gene]]
        assert path in (written, [*written, END])
        assert state.ended_by_token == (path == [*written, END])
        found.append(tuple(state.genes))
    assert len(set(found)) == len(found)
    every = itertools.permutations(range(len(sequences)), n_genes)
    assert set(found) == {genes for genes in every if set(required) <= set(genes)}


@pytest.mark.parametrize("sequences", TINY.values(), ids=TINY.keys())
def test_every_sentence_with_the_required_genes_can_be_written_in_one_way(sequences):
    for n_genes in range(1, len(sequences) + 1):
        for n_required in range(1, n_genes + 1):
            for required in itertools.combinations(range(len(sequences)), n_required):
                assert_has_what_is_required(sequences, n_genes, required)


@settings(deadline=None, max_examples=100)
@given(st.lists(gene_tokens, min_size=1, max_size=5, unique=True), st.data())
def test_required_genes_of_any_vocabulary(sequences, data):
    n_genes = data.draw(st.integers(1, min(len(sequences), 4)))
    items = st.integers(0, len(sequences) - 1)
    required = data.draw(st.sets(items, max_size=n_genes))
    assert_has_what_is_required(sequences, n_genes, sorted(required))


def test_more_required_genes_than_room_are_refused():
    with pytest.raises(UsageError, match="3 genes are required, and a sentence has 2 genes"):
        GeneSentence(TokenTrie(TINY["one token a gene"]), 2, END, required=[0, 1, 3])


# --- genes that are written otherwise at the beginning -------------------------------------------


@settings(deadline=None, max_examples=100)
@given(st.lists(gene_tokens, min_size=1, max_size=4, unique=True), st.data())
def test_the_first_gene_has_a_form_of_its_own(sequences, data):
    n_genes = data.draw(st.integers(1, len(sequences)))
    required = data.draw(st.sets(st.integers(0, len(sequences) - 1), max_size=n_genes))
    beginnings = [(tokens[0] + 4, *tokens[1:]) for tokens in sequences]
    constraint = GeneSentence(
        TokenTrie(sequences), n_genes, END, required=sorted(required), beginnings=beginnings
    )
    assert -1 not in constraint.tokens
    found = []
    for path, state in all_paths(constraint):
        first, *later = state.genes
        written = [*beginnings[first], *(t for gene in later for t in sequences[gene])]
        assert path in (written, [*written, END])
        assert len(path) <= constraint.max_tokens
        assert state.ended_by_token == (len(path) > len(written))
        found.append(tuple(state.genes))
    assert len(set(found)) == len(found)
    every = itertools.permutations(range(len(sequences)), n_genes)
    assert set(found) == {genes for genes in every if required <= set(genes)}


def test_there_is_a_beginning_for_each_gene():
    with pytest.raises(UsageError, match="1 beginnings for 4 genes"):
        GeneSentence(TokenTrie(TINY["one token a gene"]), 2, END, beginnings=[[5]])


# --- real genes ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words():
    return GeneVocabulary(pancreas().var_names).words


def walk(constraint, rng):
    """Choose at random until done; return the tokens and the genes."""
    state, path = constraint.start(), []
    while not state.done:
        allowed = state.allowed()
        assert len(allowed)
        path.append(int(rng.choice(allowed)))
        state.advance(path[-1])
        assert len(path) <= constraint.max_tokens
    return path, state.genes


def test_random_sentences_of_one_token_a_gene(words):
    rng = np.random.default_rng(0)
    tokens = rng.permutation(len(words)) + 1
    constraint = GeneSentence(TokenTrie([[t] for t in tokens]), 200, END)
    assert constraint.max_tokens == 201
    sentences = [walk(constraint, rng) for _ in range(5)]
    for path, genes in sentences:
        assert len(genes) == len(set(genes)) == 200
        assert path == tokens[genes].tolist()
    assert len({tuple(genes) for _, genes in sentences}) == 5


def letters(word):
    """Return a token per letter, the first with the space before it: many genes begin others."""
    codes = [ord(c) for c in word]
    return [codes[0] + 1000, *codes[1:]]


def read(path):
    """Return the words that tokens of `letters` spell."""
    return "".join(f" {chr(t - 1000)}" if t > 1000 else chr(t) for t in path if t != END).split()


def test_random_sentences_letter_by_letter(words):
    rng = np.random.default_rng(1)
    constraint = GeneSentence(TokenTrie([letters(w) for w in words]), 150, END)
    for _ in range(5):
        path, genes = walk(constraint, rng)
        assert len(genes) == len(set(genes)) == 150
        assert read(path) == [words[g] for g in genes]


def test_all_genes_of_a_vocabulary_can_be_used_up(words):
    rng = np.random.default_rng(2)
    some = [w for w in words if w.startswith(("KRT", "IFI", "INS"))][:250]
    assert any(a != b and b.startswith(a) for a in some for b in some)
    constraint = GeneSentence(TokenTrie([letters(w) for w in some]), len(some), END)
    path, genes = walk(constraint, rng)
    assert sorted(genes) == list(range(len(some)))
    assert read(path) == [some[g] for g in genes]


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_genes", [0, -1, 5])
def test_a_sentence_of_more_genes_than_there_are_is_refused(n_genes):
    with pytest.raises(UsageError, match=f"{n_genes} genes, none twice, cannot be made of 4 genes"):
        GeneSentence(TokenTrie(TINY["one token a gene"]), n_genes, END)


@pytest.mark.parametrize(
    ("sequences", "token"), [([[1], [1, 2], [2]], 2), ([[1], [1, 1]], 1), ([[1], [1, END]], END)]
)
def test_tokens_that_can_be_read_in_two_ways_are_refused(sequences, token):
    # "1 2" would be the second gene, or the first and the third.
    with pytest.raises(InputError, match=f"token {token} may go on with a gene or begin the next"):
        GeneSentence(TokenTrie(sequences), 1, END)


def test_the_same_token_inside_and_in_front_is_no_matter_where_no_gene_ends():
    assert_complete([[1, 2], [2], [3, 1, 11]], 2)


def test_the_trie_refuses_items_that_are_the_same_or_nothing():
    with pytest.raises(InputError, match="items 0 and 2 of the trie have the same tokens"):
        TokenTrie([[1, 2], [1], [1, 2]])
    with pytest.raises(InputError, match="item 1 of the trie has no tokens"):
        TokenTrie([[1, 2], []])


# --- the trie itself ----------------------------------------------------------------------------


@given(st.lists(gene_tokens, max_size=12, unique=True))
@example([])
def test_trie_arrays(sequences):
    trie = TokenTrie(sequences)
    prefixes = sorted({s[:i] for s in sequences for i in range(len(s) + 1)} | {()})
    assert len(trie.item_at) == len(trie.below) == len(trie.parent) == len(prefixes)
    assert len(trie.child_token) == len(trie.child_node) == len(prefixes) - 1
    assert trie.depth == max(map(len, sequences), default=0)
    assert [sequences[item] for item in trie.order] == sorted(sequences)
    assert trie.lengths.tolist() == [len(s) for s in sorted(sequences)]
    for prefix in prefixes:
        node = 0
        for token in prefix:
            parent, node = node, trie.child(node, token)
            assert trie.parent[node] == parent
        under = [s for s in sequences if s[: len(prefix)] == prefix]
        assert trie.below[node] == len(under)
        items = trie.order[trie.first[node] : trie.first[node] + trie.below[node]]
        assert [sequences[item] for item in items] == sorted(under)
        item = sequences.index(prefix) if prefix in sequences else -1
        assert trie.item_at[node] == item
        following = sorted({s[len(prefix)] for s in under if len(s) > len(prefix)})
        assert trie.tokens(node).tolist() == following
        assert trie.child(node, 99) == -1
    assert trie.parent[0] == -1


def test_the_longest_and_the_usual_sentence():
    constraint = GeneSentence(TokenTrie([[1, 11, 12], [2], [1, 11], [3]]), 2, END)
    assert constraint.max_tokens == 3 + 2 + 1
    assert constraint.usual_tokens == 4  # 2 genes of 7 / 4 tokens
    assert constraint.tokens.tolist() == [END, 1, 2, 3, 11, 12]


@pytest.mark.parametrize("frequencies", [[1, 2], [1, 2, -1, 0], [1, 2, np.nan, 0]])
def test_frequencies_are_one_number_a_gene(frequencies):
    with pytest.raises(UsageError, match="one number, not below 0, for each of 4 genes"):
        GeneSentence(TokenTrie(TINY["one token a gene"]), 2, END, np.array(frequencies))


# --- one of a list ------------------------------------------------------------------------------

LABELS = st.lists(
    st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple), min_size=1, max_size=8,
    unique=True,
)  # fmt: skip


@given(LABELS)
@example([(1,), (1, 1), (1, 1, 1)])
def test_one_of_gives_each_item_by_one_path(labels):
    constraint = OneOf(labels, END)
    found = {}
    for path, state in all_paths(constraint):
        assert len(path) <= constraint.max_tokens
        assert path == [*labels[state.item], END]
        found[state.item] = path
    assert sorted(found) == list(range(len(labels)))
    assert constraint.max_tokens == max(map(len, labels)) + 1


def test_one_of_before_the_end():
    state = OneOf([[5, 6], [5, 7]], END).start()
    assert (state.done, state.item) == (False, -1)
    assert state.allowed().tolist() == [5]
    state.advance(5)
    state.advance(np.int64(7))
    assert (state.done, state.item) == (False, -1)
    assert state.allowed().tolist() == [END]
    state.advance(END)
    assert (state.done, state.item) == (True, 1)


def test_one_of_refusals():
    with pytest.raises(UsageError, match="give at least one label"):
        OneOf([], END)
    with pytest.raises(InputError, match="items 0 and 1 of the trie have the same tokens"):
        OneOf([[1], [1]], END)
