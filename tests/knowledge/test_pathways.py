"""Enriched gene sets are those of Fisher's test, cell by cell, whatever the order of cells, genes or blocks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import fisher_exact, hypergeom

from c2s.cells.ranked import RankedCells
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError
from c2s.knowledge import pathways
from c2s.knowledge.gene_sets import GeneSet
from c2s.knowledge.pathways import PathwaySets, log_upper_tail, pathway_names

N_GENES = 40


@pytest.fixture(scope="module")
def vocabulary():
    return GeneVocabulary.from_words([f"G{i:02}" for i in range(N_GENES)])


@pytest.fixture(scope="module")
def gene_sets(vocabulary):
    """Sets of 3 to 30 genes of the vocabulary and two that are not in it."""
    rng = np.random.default_rng(0)
    return [
        GeneSet(f"HALLMARK_SET_{chr(97 + i)}", "", (*rng.permutation(vocabulary.words)[: 3 + 3 * i], "X1", "X2"))
        for i in range(10)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def cells(vocabulary):
    rng = np.random.default_rng(1)
    rows = [rng.permutation(N_GENES)[:n] for n in (1, 5, 12, 12, 20, 33, 40, 0, 25)]
    return RankedCells.from_columns(rows, vocabulary)


def by_hand(words, gene_sets, vocabulary, min_genes):
    """Return log p of each set by Fisher's exact test on sets of words."""
    found = {}
    for gene_set in gene_sets:
        genes = set(gene_set.genes) & set(vocabulary.words)
        if len(genes) < min_genes:
            continue
        both = len(genes & set(words))
        rest = len(vocabulary) - len(genes) - len(words) + both
        table = [[both, len(genes) - both], [len(words) - both, rest]]
        found[gene_set.name] = np.log(fisher_exact(table, alternative="greater").pvalue)
    return found


def test_log_p_is_that_of_fishers_test(cells, gene_sets, vocabulary):
    sets = PathwaySets.of(gene_sets, vocabulary, min_genes=5)
    shown = np.array([1, 3, 12, 7, 20, 50, 40, 4, 10])
    assert sets.names == tuple(f"set {chr(97 + i)}" for i in range(1, 10))  # the first has 3 genes
    for n_genes in (None, shown):
        found = sets.log_p(cells, n_genes)
        for i in range(len(cells)):
            words = cells.words(i) if n_genes is None else cells.words(i)[: n_genes[i]]
            expected = by_hand(words, gene_sets, vocabulary, 5)
            np.testing.assert_allclose(found[i], list(expected.values()), atol=1e-11)


def test_best_sets_are_in_order_and_ties_in_that_of_the_file(cells, gene_sets, vocabulary):
    doubled = [
        *gene_sets,
        *(GeneSet(f"HALLMARK_AGAIN_{s.name[-1]}", "", s.genes) for s in gene_sets),
    ]
    sets = PathwaySets.of(doubled, vocabulary)
    best, log_p = sets.best(cells, 4), sets.log_p(cells)
    for i in range(len(cells)):
        expected = sorted(range(len(sets.names)), key=lambda s, i=i: (log_p[i, s], s))[:4]
        assert best[i].tolist() == expected
    # A set and its copy are equally enriched: the copy stands behind, unless it is no longer among the best.
    half = len(sets.names) // 2
    for row in best.tolist():
        for place, which in enumerate(row):
            if which >= half:
                assert which - half in row[:place]
    assert best[7].tolist() == [0, 1, 2, 3]  # a cell without genes


def test_nothing_depends_on_the_order_of_cells_genes_or_blocks(cells, gene_sets, vocabulary, monkeypatch):  # fmt: skip
    rng = np.random.default_rng(2)
    sets = PathwaySets.of(gene_sets, vocabulary)
    best = sets.best(cells, 3)
    order = rng.permutation(len(cells))
    assert (sets.best(cells.take(order), 3) == best[order]).all()
    assert (sets.best(cells, 3, rows=order) == best[order]).all()
    other = rng.permutation(N_GENES)  # the same genes in other columns
    moved = GeneVocabulary.from_words([vocabulary.words[g] for g in other])
    rows = [moved.columns(rng.permutation(cells.words(i)).tolist()) for i in range(len(cells))]
    again = PathwaySets.of(gene_sets, moved).best(RankedCells.from_columns(rows, moved), 3)
    assert (again == best).all()
    monkeypatch.setattr(pathways, "_PAIRS", 20)  # two cells at a time
    assert (sets.best(cells, 3) == best).all()


@given(st.data())
def test_the_tail_is_that_of_scipy(data):
    total = data.draw(st.integers(1, 3000))
    good, drawn = data.draw(st.integers(0, total)), data.draw(st.integers(0, total))
    k = data.draw(st.integers(max(0, good + drawn - total), min(good, drawn)))
    found = log_upper_tail(np.array([k]), total, np.array([good]), np.array([drawn]))
    expected = hypergeom.logsf(k - 1, total, good, drawn)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


def test_a_tail_below_the_smallest_number_is_told_from_another():
    n = np.array([200, 200])
    far = log_upper_tail(np.array([200, 199]), 20_000, n, n)
    assert far[0] < far[1] < -800
    np.testing.assert_allclose(far, hypergeom.logsf([199, 198], 20_000, 200, 200), rtol=1e-9)


def test_real_cells_have_what_their_type_is_known_for(cut, gene_sets):
    from c2s.cells.sentences import cell_sentences

    enzymes = ("PRSS1", "CTRB1", "CTRB2", "CPA1", "CPB1", "PNLIP", "CELA3A", "CEL")
    keratins = ("KRT7", "KRT8", "KRT18", "KRT19", "KRT80")
    sets = [GeneSet("KERATINS", "", keratins), GeneSet("DIGESTIVE_ENZYMES", "", enzymes)]
    cells = cell_sentences(cut, top_k=100)
    best = PathwaySets.of(sets, cells.vocabulary, 5).best(cells, 1)[:, 0]
    acinar = (cut.obs["cell_type"] == "acinar").to_numpy()
    ductal = (cut.obs["cell_type"] == "ductal").to_numpy()
    assert best[acinar].mean() > 0.9 > 0.5 > best[ductal].mean()


def test_names_are_lower_case_words_without_what_all_begin_with():
    def names(*given):
        return pathway_names([GeneSet(name, "", ("A",)) for name in given])

    assert names("HALLMARK_TNFA_SIGNALING_VIA_NFKB", "HALLMARK_HYPOXIA") == [
        "tnfa signaling via nfkb", "hypoxia",
    ]  # fmt: skip
    assert names("KEGG_A", "HALLMARK_A") == ["kegg a", "hallmark a"]
    assert names("HALLMARK", "HALLMARK_A") == ["hallmark", "hallmark a"]
    assert names("HALLMARK_A") == ["hallmark a"]
    assert names("p53; v1.2", "B") == ["p53 v1 2", "b"]
    with pytest.raises(InputError, match="'A_B' and 'a b' have the same words"):
        names("A_B", "a b")
    with pytest.raises(InputError, match="has no word in its name"):
        names("_._", "B")
