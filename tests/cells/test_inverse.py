"""From ranks and text back to expression, by the formulas and check vectors of SPEC §3."""

import importlib.util
import json
import sys
import types

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from c2s.cells.inverse import RankExpressionModel, fit_line, parse_sentences, sentence_words
from c2s.cells.ranked import RankedCells, rank_matrix
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError

#: The fit of the released tutorial, and what it gives (SPEC §3).
TUTORIAL = RankExpressionModel(slope=-0.6756886579917628, intercept=2.237853249084892)
CHECK_VECTOR = {0: 2.237853, 1: 2.034451, 9: 1.562165, 99: 0.886476, 199: 0.683073, 999: 0.210787}

LETTERS = GeneVocabulary(list("ABCDEFGH"))


def parsed(sentence, vocabulary=LETTERS, **options):
    """Return genes with ranks, in the order of the sentence."""
    found = parse_sentences([sentence], vocabulary, **options)
    words = [vocabulary.words[g] for g in found.genes]
    return dict(zip(words, found.ranks.tolist(), strict=True))


def counts(sentence, **options):
    """Return the number of words, of words that are no gene, and of repeats."""
    found = parse_sentences([sentence], LETTERS, **options)
    return [int(a[0]) for a in (found.n_words, found.n_invalid, found.n_duplicates)]


# --- the line -----------------------------------------------------------------------------------


def test_check_vector_of_the_specification():
    at = TUTORIAL.at_rank(list(CHECK_VECTOR))
    np.testing.assert_allclose(at, list(CHECK_VECTOR.values()), atol=5e-7)
    assert TUTORIAL.at_rank(2049) > 0
    assert TUTORIAL.at_rank(2049.96) > 0
    assert TUTORIAL.at_rank(np.arange(2050, 50_000)).max() == 0  # clipped, never negative


def test_at_rank_takes_means_and_keeps_the_shape():
    assert TUTORIAL.at_rank(0.5) == pytest.approx(
        2.237853249084892 - 0.6756886579917628 * 0.1760912590556812
    )
    assert TUTORIAL.at_rank(np.zeros((2, 3))).shape == (2, 3)
    assert TUTORIAL.at_rank([]).shape == (0,)


# --- reading sentences --------------------------------------------------------------------------


def test_ranks_are_places_in_the_sentence():
    assert parsed("C A B") == {"C": 0, "A": 1, "B": 2}
    assert counts("C A B") == [3, 0, 0]


@pytest.mark.parametrize("mode", ["c2s", "upstream"])
def test_invalid_words_keep_their_rank(mode):
    assert parsed("X C NOT_A_GENE A YY", mode=mode) == {"C": 1, "A": 3}
    assert counts("X C NOT_A_GENE A YY", mode=mode) == [5, 3, 0]


def test_duplicates_get_the_mean_of_their_places_and_move_no_other():
    assert parsed("A B C A D") == {"A": 1.5, "B": 1, "C": 2, "D": 4}
    assert parsed("A B C D A") == {"A": 2, "B": 1, "C": 2, "D": 3}
    assert parsed("A A X A B") == {"A": 4 / 3, "B": 4}
    assert parsed("B A A B") == {"B": 1.5, "A": 1.5}
    assert counts("A A X A B") == [5, 1, 2]


@pytest.mark.parametrize(
    ("sentence", "order"),
    [
        ("A B C A D", "B A C D"),
        ("A B C D A", "B C A D"),
        ("A B C", "A B C"),
        ("A A", "A"),
        ("", ""),
    ],
)
def test_upstream_mode_reinserts_as_the_released_code_does(sentence, order):
    expected = {word: float(i) for i, word in enumerate(order.split())}
    assert parsed(sentence, mode="upstream") == expected


def test_upstream_mode_keeps_invalid_words_in_the_list():
    # X does not move; A's mean is taken in the list with it.
    assert parsed("A X B A", mode="upstream") == {"A": 1, "B": 2}
    assert counts("A X B A", mode="upstream") == [4, 1, 1]


@pytest.mark.parametrize(
    "sentence",
    ["A B C.", "A B C .", "A B C. <eos>", "A B C<|endoftext|>", "A B C.<ctrl100>", " a  b\tC\n",
     "A, B; C!", 'A B C."', "A B<pad> C<pad><pad>", "<ctrl100>A B C"],
)  # fmt: skip
def test_ends_and_punctuation_of_generated_answers(sentence):
    assert parsed(sentence) == {"A": 0, "B": 1, "C": 2}
    assert counts(sentence) == [3, 0, 0]


def test_punctuation_that_belongs_to_a_gene_stays():
    vocabulary = GeneVocabulary(["TP53.", "TP53", "A.1", "INS"])
    assert sentence_words("TP53. TP53 TP53, A.1. INS.", vocabulary).tolist() == [0, 1, 1, 2, 3]


@pytest.mark.parametrize("sentence", ["", " ", "<eos>", ".", " . <eos>"])
def test_sentences_without_words(sentence):
    assert parsed(sentence) == {}
    assert counts(sentence) == [0, 0, 0]


def test_several_sentences():
    found = parse_sentences(["B A", "", "X", "C C"], LETTERS)
    assert found.indptr.tolist() == [0, 2, 2, 2, 3]
    assert found.indptr.dtype == np.int64
    assert found.genes.tolist() == [1, 0, 2]
    assert found.genes.dtype == np.int32
    assert found.ranks.tolist() == [0, 1, 0.5]
    assert found.n_words.tolist() == [2, 0, 1, 2]
    assert found.n_invalid.tolist() == [0, 0, 1, 0]
    assert found.n_duplicates.tolist() == [0, 0, 0, 1]
    nothing = parse_sentences([], LETTERS)
    assert nothing.indptr.tolist() == [0]
    assert nothing.genes.dtype == np.int32


def test_unknown_mode():
    with pytest.raises(UsageError, match="mode='icml' is unknown; use 'c2s' or 'upstream'"):
        parse_sentences(["A"], LETTERS, mode="icml")


words = st.lists(st.sampled_from([*LETTERS.words, "X", "NOT_A_GENE"]), max_size=14)


@given(words)
def test_mean_ranks_by_hand(sentence):
    expected = {
        word: np.mean([i for i, w in enumerate(sentence) if w == word])
        for word in sentence
        if word in LETTERS
    }
    found = parsed(" ".join(sentence))
    assert list(found) == list(expected)  # by first place
    assert found == pytest.approx(expected)
    n_valid = sum(w in LETTERS for w in sentence)
    assert counts(" ".join(sentence)) == [
        len(sentence), len(sentence) - n_valid, n_valid - len(expected),
    ]  # fmt: skip


# --- the released code itself -------------------------------------------------------------------


@pytest.fixture(scope="module")
def released():
    """The utilities of the `cell2sentence` package, where a user has installed it."""
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("plotnine") is None:
            # It is imported for drawing only, which nothing here does.
            patch.setitem(sys.modules, "plotnine", types.ModuleType("plotnine"))
        yield pytest.importorskip("cell2sentence.utils")


@settings(deadline=None, max_examples=200)
@given(sentence=words.filter(len))
def test_upstream_mode_is_what_the_released_code_does(released, sentence):
    text = " ".join(sentence).lower()
    genes, n_replaced = released.post_process_generated_cell_sentences(text, list(LETTERS.words))
    expected = {g: float(i) for i, g in enumerate(genes) if g in LETTERS}
    assert parsed(text, mode="upstream") == expected
    assert counts(text, mode="upstream")[1] == n_replaced
    theirs = released.reconstruct_expression_from_cell_sentence(
        " ".join(genes), " ", list(LETTERS.words), TUTORIAL.slope, TUTORIAL.intercept
    )
    ours = TUTORIAL.expression([text], LETTERS, mode="upstream").toarray()[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_sentences_hold_the_genes_and_counts_of_the_released_code(released):
    import anndata as ad

    dense = np.random.default_rng(0).poisson(0.7, (30, 20)).astype(np.float32)
    adata = ad.AnnData(sp.csr_matrix(dense))
    adata.var_names = [f"g{i}" for i in range(20)]
    vocabulary = GeneVocabulary(adata.var_names)
    theirs = released.generate_sentences(adata, released.generate_vocabulary(adata))
    ours = rank_matrix(adata.X, vocabulary, adata.obs_names).to_text().to_pylist()
    for a, b, row in zip(ours, theirs, dense, strict=True):
        assert sorted(a.split()) == sorted(b.split())
        assert [row[vocabulary.column(w)] for w in a.split()] == [
            row[vocabulary.column(w)] for w in b.split()
        ]


# --- expression ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cells():
    dense = np.random.default_rng(1).poisson(1.0, (70, 40))
    dense[5] = 0
    vocabulary = GeneVocabulary([f"g{i}" for i in range(40)])
    return rank_matrix(sp.csr_matrix(dense), vocabulary, [f"c{i}" for i in range(70)])


def test_expression_by_hand(cells):
    matrix = TUTORIAL.expression(cells)
    assert matrix.shape == (70, 40)
    assert matrix.dtype == np.float32
    expected = np.zeros((70, 40))
    for i in range(70):
        for rank, gene in enumerate(cells.to_columns(i)):
            expected[i, gene] = TUTORIAL.intercept + TUTORIAL.slope * np.log10(1 + rank)
    np.testing.assert_allclose(matrix.toarray(), expected, rtol=1e-6)
    assert matrix.has_sorted_indices
    assert matrix.nnz == len(cells.genes)


@pytest.mark.parametrize("mode", ["c2s", "upstream"])
def test_expression_of_text_is_that_of_ranks(cells, mode):
    expected = TUTORIAL.expression(cells).toarray()
    vocabulary = cells.vocabulary
    text = cells.to_text()
    chunked = pa.chunked_array([text.slice(0, 30), text.slice(30)])
    for given_ in (text, chunked, text.to_pylist(), iter(text.to_pylist()),
                   parse_sentences(text.to_pylist(), vocabulary, mode=mode)):  # fmt: skip
        found = TUTORIAL.expression(given_, vocabulary, mode=mode).toarray()
        np.testing.assert_array_equal(found, expected)


def test_expression_reads_text_with_the_vocabulary_it_was_fitted_on(cells):
    model = RankExpressionModel(-1.0, 2.0, vocabulary=cells.vocabulary)
    np.testing.assert_array_equal(
        model.expression(cells.to_text()).toarray(), model.expression(cells).toarray()
    )
    with pytest.raises(UsageError, match="give the vocabulary that names the columns"):
        TUTORIAL.expression(["G1 G2"])
    with pytest.raises(UsageError, match="give a list of sentences, not one string"):
        model.expression("G1 G2")
    with pytest.raises(UsageError, match="ranked cells carry their own vocabulary"):
        model.expression(cells, LETTERS)
    same = GeneVocabulary.from_words(cells.vocabulary.words)
    assert model.expression(cells, same).nnz == len(cells.genes)


def test_unlog():
    matrix = TUTORIAL.expression(["B X A"], LETTERS, unlog=True).toarray()[0]
    expected = 10 ** np.array([TUTORIAL.at_rank(2), TUTORIAL.at_rank(0), 0, 0, 0, 0, 0, 0]) - 1
    np.testing.assert_allclose(matrix, expected, rtol=1e-6)


def test_clipped_values_are_not_stored_and_the_cells_are_not_changed():
    vocabulary = GeneVocabulary([f"g{i}" for i in range(3000)])
    for index_type in (np.int32, np.int64):
        indptr = np.array([0, 3000, 3000, 3002], dtype=index_type)
        genes = np.concatenate([np.arange(3000)[::-1], [7, 2]]).astype(np.int32)
        cells = RankedCells(indptr, genes.copy(), vocabulary)
        matrix = TUTORIAL.expression(cells)
        assert np.diff(matrix.indptr).tolist() == [2050, 0, 2]
        assert matrix.data.min() > 0
        assert indptr.tolist() == [0, 3000, 3000, 3002]
        np.testing.assert_array_equal(cells.genes, genes)


# --- fitting ------------------------------------------------------------------------------------


def noisy_cells(seed, n_cells=40, n_genes=300):
    """Return cells whose values follow a line with noise, as ranked cells with values."""
    rng = np.random.default_rng(seed)
    shape = 2.5 - 0.8 * np.log10(1 + np.arange(n_genes)) + rng.normal(0, 0.1, (n_cells, n_genes))
    values = np.maximum(0, shape) * (rng.random((n_cells, n_genes)) < 0.9)
    vocabulary = GeneVocabulary([f"g{i}" for i in range(n_genes)])
    return rank_matrix(sp.csr_matrix(values), vocabulary, [f"{seed}-{i}" for i in range(n_cells)])


def points(cells):
    ranks = np.concatenate([np.arange(n) for n in cells.lengths])
    return ranks, np.log10(1 + ranks), cells.values


@pytest.mark.parametrize("max_rank", [999, 50, 3])
def test_fit_is_least_squares_on_the_near_ranks(max_rank):
    train, held = noisy_cells(0), noisy_cells(1)
    model = fit_line(train, held, max_rank=max_rank)
    ranks, x, y = points(train)
    near = ranks < max_rank
    expected = scipy.stats.linregress(x[near], y[near])
    assert model.slope == pytest.approx(expected.slope, rel=1e-9)
    assert model.intercept == pytest.approx(expected.intercept, rel=1e-9)
    line = LinearRegression().fit(x[near, None], y[near])
    assert model.slope == pytest.approx(line.coef_[0], rel=1e-9)
    _, x, y = points(held)
    fitted = model.intercept + model.slope * x
    assert model.r2 == pytest.approx(r2_score(y, fitted), rel=1e-9)
    assert model.pearson == pytest.approx(scipy.stats.pearsonr(y, fitted).statistic, rel=1e-9)
    assert model.spearman == pytest.approx(scipy.stats.spearmanr(y, fitted).statistic, rel=1e-9)
    assert (model.n_cells, model.n_held_out) == (40, 40)
    assert model.vocabulary is train.vocabulary


def test_rank_999_is_not_fitted_and_rank_998_is():
    # log10(1 + r) < 3, as in the released code: ranks 0 to 998.
    vocabulary = GeneVocabulary([f"g{i}" for i in range(1002)])
    values = np.linspace(5, 4, 1002)
    slopes = []
    for outlier in (998, 999):
        bent = values.copy()
        bent[outlier:] -= 3
        cells = RankedCells(np.array([0, 1002]), np.arange(1002, dtype=np.int32), vocabulary, bent)
        slopes.append(fit_line(cells, cells).slope)
    x = np.log10(1 + np.arange(999))
    assert slopes[1] == pytest.approx(scipy.stats.linregress(x, values[:999]).slope, rel=1e-9)
    assert slopes[0] != pytest.approx(slopes[1], rel=1e-9)


@pytest.mark.parametrize("max_rank", [2, 9, 10, 99, 100, 317, 998, 999, 1000, 2048])
def test_the_last_rank_is_exact_for_any_limit(max_rank):
    vocabulary = GeneVocabulary([f"g{i}" for i in range(3000)])
    values = np.where(np.arange(3000) < max_rank, 3.0 - np.log10(1.0 + np.arange(3000)), 0.1)
    values[max_rank:] += 50  # beyond: would pull the line
    cells = RankedCells(np.array([0, 3000]), np.arange(3000, dtype=np.int32), vocabulary, values)
    model = fit_line(cells, cells, max_rank=max_rank)
    assert model.slope == pytest.approx(-1, abs=1e-9)
    assert model.intercept == pytest.approx(3, abs=1e-9)


def test_cells_that_cannot_be_fitted():
    vocabulary = GeneVocabulary(["a", "b"])

    def one(genes, values):
        indptr, genes = np.array([0, len(genes)]), np.array(genes, dtype=np.int32)
        return RankedCells(indptr, genes, vocabulary, values)

    good = one([0, 1], np.array([2.0, 1.0]))
    for bad in (one([], np.array([])), one([0], np.array([1.0]))):
        with pytest.raises(InputError, match="at least two expressed genes"):
            fit_line(bad, good)
    with pytest.raises(InputError, match="carry no values"):
        fit_line(one([0, 1], None), good)
    with pytest.raises(InputError, match="carry no values"):
        fit_line(good, one([0, 1], None))
    # Nothing to measure on is said by NaN, not by an error.
    model = fit_line(good, one([], np.array([])))
    assert model.slope == pytest.approx(-1 / np.log10(2))
    assert all(np.isnan(v) for v in (model.r2, model.pearson, model.spearman))


def test_round_trip_through_json():
    model = fit_line(noisy_cells(2), noisy_cells(3), target_sum=None)
    restored = RankExpressionModel.from_dict(json.loads(json.dumps(model.to_dict())), LETTERS)
    assert restored.vocabulary is LETTERS
    assert restored.target_sum is None
    for key, value in model.to_dict().items():
        assert getattr(restored, key) == value
    bare = RankExpressionModel.from_dict(
        json.loads(json.dumps(TUTORIAL.to_dict(), allow_nan=False))
    )
    assert (bare.slope, bare.intercept) == (TUTORIAL.slope, TUTORIAL.intercept)
    assert np.isnan(bare.r2)
    assert bare.target_sum == 1e4
