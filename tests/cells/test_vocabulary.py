"""A column keeps its word and a word its column, whatever genes are called (SPEC §2.5, §21a)."""

import pickle
import re
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from c2s.cells.inverse import parse_sentences
from c2s.cells.ranked import rank_matrix
from c2s.cells.vocabulary import ENSEMBL_ID, GeneVocabulary
from c2s.common.errors import InputError
from c2s.datasets import pancreas

TP53, MOUSE_TP53 = "ENSG00000141510", "ENSMUSG00000059552"

# --- names that data sets come with -------------------------------------------------------------

ensembl = st.builds(
    lambda species, number, version, par: f"ENS{species}G{number:011d}{version}{par}",
    st.sampled_from(["", "MUS", "RNO", "DAR", "mus"]),
    st.integers(0, 5),
    st.sampled_from(["", ".1", ".2", ".17"]),
    st.sampled_from(["", "", "", "_PAR_Y"]),
)
symbols = st.sampled_from(
    ["Abc", "ABC", "abc", "ABC_2", "abc_2", "ABC_3", "ENSA", "Ensa", "ENSG", "INS", "Ins1", "HLA-A",
     "RP11-34P13.7", "TP53.", "ß", "SS", "ſs", "ŉ", "ʼN", "ı", "I", "İ", "ǅ", "µ", "Μ", "ΐ", "ﬁ",
     "FI", "\u00e9", "e\u0301", "<eos>", "<CTRL100>", ".", ",", "NOT_A_GENE", "1", "nan", "None",
     "ABC_ENSG00000000001", "ENSG00000000001_2", "ENSG00000000001_PAR_Y"]
)  # fmt: skip
unicode_names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6).filter(
    lambda text: not any(c.isspace() for c in text)
)
gene_names = st.one_of(ensembl, symbols, unicode_names)
given_symbols = st.one_of(
    st.none(), symbols, ensembl, st.sampled_from([float("nan"), pd.NA, "", "  ", "nan", "NaN"])
)
columns_of_a_matrix = st.lists(st.tuples(gene_names, given_symbols), min_size=1, max_size=12)


def assert_one_to_one(vocabulary):
    """Check what every vocabulary must be."""
    words = vocabulary.words
    assert len(set(words)) == len(words) == len(vocabulary) == len(vocabulary.names)
    for column, word in enumerate(words):
        assert word == word.upper()
        assert word.split() == [word]
        assert vocabulary.word(column) == word
        assert vocabulary.column(word) == column
        if word.lower().upper() == word:
            assert vocabulary.column(word.lower()) == column
        assert vocabulary.name(word) == vocabulary.names[column]
        assert word in vocabulary
    np.testing.assert_array_equal(vocabulary.columns(words), np.arange(len(words)))


@given(columns_of_a_matrix)
@example([("ABC", None), ("Abc", None), ("ABC_2", None), ("abc", None)])
@example([("ENSG00000000001.1", None), ("ENSG00000000001.2", None), ("ENSG00000000001", None)])
def test_any_names_give_one_word_a_column(columns):
    names, given_ = zip(*columns, strict=True)
    vocabulary = GeneVocabulary(names, given_)
    assert_one_to_one(vocabulary)
    assert vocabulary.names == names
    restored = GeneVocabulary.from_words(vocabulary.words)
    assert restored == vocabulary
    assert hash(restored) == hash(vocabulary)
    assert_one_to_one(restored)


@settings(deadline=None, max_examples=150)
@given(columns_of_a_matrix, st.data())
def test_rank_text_parse_column_gives_the_same_columns(columns, data):
    names, given_ = zip(*columns, strict=True)
    vocabulary = GeneVocabulary(names, given_)
    counts = data.draw(
        st.lists(
            st.lists(st.integers(0, 3), min_size=len(names), max_size=len(names)),
            min_size=1,
            max_size=4,
        )
    )
    matrix = sp.csr_matrix(np.array(counts, dtype=np.int32))
    cells = rank_matrix(matrix, vocabulary, [f"c{i}" for i in range(len(counts))])
    texts = cells.to_text().to_pylist()
    parsed = parse_sentences(texts, vocabulary)
    np.testing.assert_array_equal(parsed.indptr, cells.indptr)
    np.testing.assert_array_equal(parsed.genes, cells.genes)
    ranks = [rank for n in cells.lengths for rank in range(n)]
    np.testing.assert_array_equal(parsed.ranks, ranks)
    assert not parsed.n_invalid.any()
    assert not parsed.n_duplicates.any()
    for i, row in enumerate(counts):
        assert sorted(cells.to_columns(i)) == list(np.flatnonzero(row))
        assert [vocabulary.column(w) for w in texts[i].split()] == list(cells.to_columns(i))


SPACES = [c for c in map(chr, range(sys.maxunicode)) if c.isspace()]


@given(st.lists(gene_names, min_size=1, max_size=8), st.data())
def test_white_space_is_refused_by_name(names, data):
    space = data.draw(st.sampled_from(SPACES))
    at = data.draw(st.integers(0, len(names) - 1))
    cut = data.draw(st.integers(0, len(names[at])))
    bad = names[at][:cut] + space + names[at][cut:]
    names[at] = bad
    with pytest.raises(InputError, match=re.escape(repr(bad))) as caught:
        GeneVocabulary(names)
    assert "1 gene name is empty or contains white space" in str(caught.value)
    assert "\n" not in str(caught.value)


# --- rule 1: symbols and ids --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [TP53, TP53 + ".18", MOUSE_TP53, MOUSE_TP53 + ".7", "ensg00000141510", "ENSDARG00000000001",
     "ENSG00000002586.20_PAR_Y", "ENSG00000002586_PAR_Y"],
)  # fmt: skip
def test_what_an_ensembl_gene_id_is(name):
    assert ENSEMBL_ID.match(name)


@pytest.mark.parametrize(
    "name",
    ["ENSA", "ENSAP1", "ENSG", "ENSG0000014151", "ENSG000001415100", "ENST00000269305",
     "ENSP00000269305", "ENSG00000141510.", "ENSG00000141510.x", "xENSG00000141510", "TP53",
     TP53 + "\n", "ENSG0000014151١", "ENſG00000141510"],
)  # fmt: skip
def test_what_an_ensembl_gene_id_is_not(name):
    assert not ENSEMBL_ID.match(name)


def test_ensa_is_a_gene():
    vocabulary = GeneVocabulary(["ENSA", TP53], ["WRONG", "TP53"])
    assert vocabulary.words == ("ENSA", "TP53")


def test_ids_become_symbols_column_by_column():
    vocabulary = GeneVocabulary(
        [TP53 + ".18", "INS", MOUSE_TP53, "Gcg"], ["TP53", "IGNORED", "Trp53", None]
    )
    assert vocabulary.words == ("TP53", "INS", "TRP53", "GCG")
    assert vocabulary.symbols == ("TP53", "INS", "Trp53", "Gcg")
    assert vocabulary.name("TRP53") == MOUSE_TP53


@pytest.mark.parametrize(
    "missing", [None, "", "  ", float("nan"), np.nan, pd.NA, "nan", "None", "NA", "<NA>", TP53,
                TP53 + ".3"]
)  # fmt: skip
def test_an_id_without_a_symbol_is_its_own_word_without_version(missing):
    vocabulary = GeneVocabulary([TP53 + ".18", "INS"], [missing, None])
    assert vocabulary.words == (TP53, "INS")


def test_the_second_copy_on_the_y_chromosome_stays_itself():
    names = ["ENSG00000002586.20", "ENSG00000002586.20_PAR_Y"]
    assert GeneVocabulary(names).words == ("ENSG00000002586", "ENSG00000002586_PAR_Y")
    assert GeneVocabulary(names, ["CD99", "CD99"]).words == (
        "CD99", "CD99_ENSG00000002586_PAR_Y",
    )  # fmt: skip


def test_symbols_are_stripped():
    assert GeneVocabulary([TP53], [" TP53 "]).words == ("TP53",)


# --- rules 2 and 3: upper case and collisions ---------------------------------------------------


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["Abc", "ABC"], ("ABC_2", "ABC")),
        (["ABC", "Abc"], ("ABC", "ABC_2")),
        (["Abc", "abc", "aBc"], ("ABC", "ABC_2", "ABC_3")),
        (["A", "A", "A"], ("A", "A_2", "A_3")),
        (["A", "A_2", "A"], ("A", "A_2", "A_3")),
        (["a", "A", "A_2", "a_2", "A_3"], ("A_4", "A", "A_2", "A_2_2", "A_3")),
        (["ß", "SS", "ss"], ("SS_2", "SS", "SS_3")),
    ],
)
def test_collisions(names, words):
    assert GeneVocabulary(names).words == words


def test_colliding_symbols_of_ids_carry_the_id():
    names = ["ENSG00000000001.4", "ENSG00000000002", "Abc", "ABC"]
    vocabulary = GeneVocabulary(names, ["ABC", "Abc", None, None])
    assert vocabulary.words == ("ABC", "ABC_ENSG00000000002", "ABC_2", "ABC_3")


def test_mouse_symbols_come_back_as_they_were():
    names = ["Ins1", "Ins2", "Gcg", "mt-Nd1", "H2-K1", "0610005C13Rik", "INS1"]
    vocabulary = GeneVocabulary(names)
    assert vocabulary.words[:6] == ("INS1_2", "INS2", "GCG", "MT-ND1", "H2-K1", "0610005C13RIK")
    assert vocabulary.word(6) == "INS1"
    assert [vocabulary.name(w) for w in vocabulary.words] == names


@given(st.lists(gene_names, min_size=2, max_size=8, unique_by=lambda n: n.upper()), st.randoms())
def test_words_of_distinct_genes_do_not_depend_on_the_order_of_columns(names, random):
    vocabulary = GeneVocabulary(names)
    assume(all("_" not in w for w in vocabulary.words))  # nothing collided
    shuffled = list(names)
    random.shuffle(shuffled)
    other = GeneVocabulary(shuffled)
    assert {n: vocabulary.words[i] for i, n in enumerate(names)} == {
        n: other.words[i] for i, n in enumerate(shuffled)
    }


# --- from a table of genes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "column", ["feature_name", "gene_symbols", "gene_symbol", "gene_name", "symbol"]
)
@pytest.mark.parametrize("dtype", ["object", "category", "string"])
def test_symbols_are_found_in_var(column, dtype):
    var = pd.DataFrame({column: pd.Series(["TP53", None, "x"], dtype=dtype).to_numpy()})
    var[column] = var[column].astype(dtype)
    var.index = [TP53, "ENSG00000000001.2", "INS"]
    assert GeneVocabulary.from_var(var).words == ("TP53", "ENSG00000000001", "INS")


def test_the_first_known_column_is_believed_unless_another_is_named():
    var = pd.DataFrame({"gene_name": ["B"], "feature_name": ["A"], "mine": ["C"]}, index=[TP53])
    assert GeneVocabulary.from_var(var).words == ("A",)
    assert GeneVocabulary.from_var(var, "mine").words == ("C",)
    with pytest.raises(InputError, match="var has no column 'yours'; it has: gene_name, feature_n"):
        GeneVocabulary.from_var(var, "yours")
    with pytest.raises(InputError, match="it has: none"):
        GeneVocabulary.from_var(var[[]], "yours")
    assert GeneVocabulary.from_var(var[[]]).words == (TP53,)


def test_a_table_from_id_to_symbol():
    table = {TP53: "TP53", "ensmusg00000059552.3": "Trp53", "ENSG00000000003": float("nan")}
    var = pd.DataFrame(index=[TP53 + ".1", MOUSE_TP53, "ENSG00000000003", "ENSG00000000004", "INS"])
    assert GeneVocabulary.from_var(var, table).words == (
        "TP53", "TRP53", "ENSG00000000003", "ENSG00000000004", "INS",
    )  # fmt: skip


# --- refusals -----------------------------------------------------------------------------------


def test_several_bad_names_are_counted_and_the_first_are_shown():
    with pytest.raises(InputError) as caught:
        GeneVocabulary(["a b", "", "c\td", "e\u00a0f", "ok"])
    message = str(caught.value)
    assert message.startswith("4 gene names are empty or contain white space ('a b', '', 'c\\td' ")
    assert "rename or drop them" in message


def test_a_bad_symbol_of_a_good_id_is_shown_with_the_id():
    with pytest.raises(InputError, match=rf"\('HLA A' for {TP53}\)"):
        GeneVocabulary([TP53], ["HLA A"])


def test_an_id_with_a_line_break_is_not_taken_for_the_id():
    with pytest.raises(InputError, match="white space"):
        GeneVocabulary([TP53 + "\n"])


def test_symbols_must_fit_the_names():
    with pytest.raises(InputError, match="1 symbols were given for 2 genes"):
        GeneVocabulary(["a", "b"], ["a"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["A", "B", "A"], "lists A more than once"),
        (["A", "b"], r"not in upper case \(b\)"),
        (["A", "B C"], "white space"),
        (["A", ""], "empty"),
    ],
)
def test_words_that_are_none_are_refused(words, says):
    with pytest.raises(InputError, match=says):
        GeneVocabulary.from_words(words)


# --- looking up ---------------------------------------------------------------------------------


def test_lookups():
    vocabulary = GeneVocabulary(["Ins1", "Gcg", "INS1"])
    assert vocabulary.words == ("INS1_2", "GCG", "INS1")
    assert vocabulary.column("ins1") == 2
    assert "gcg" in vocabulary
    assert "GCGX" not in vocabulary
    assert 1 not in vocabulary
    columns = vocabulary.columns(["gcg", "?", "INS1_2", "INS1"])
    assert columns.dtype == np.int32
    assert columns.tolist() == [1, -1, 0, 2]
    assert vocabulary.columns([]).shape == (0,)
    with pytest.raises(KeyError):
        vocabulary.column("GCGX")


@pytest.mark.parametrize("column", [-1, 3, np.int32(-1)])
def test_a_column_that_is_none_has_no_word(column):
    # -1 stands for "no gene" and must not come back as the last gene.
    with pytest.raises(IndexError):
        GeneVocabulary(["A", "B", "C"]).word(column)


def test_align():
    ours, theirs = GeneVocabulary(["A", "b", "C"]), GeneVocabulary(["C", "B", "D"])
    assert ours.align(theirs).tolist() == [-1, 1, 0]
    assert theirs.align(ours).tolist() == [2, 1, -1]


def test_mask_takes_names_and_words():
    vocabulary = GeneVocabulary([TP53, "Abc", "ABC", "Ins1"], ["TP53", None, None, None])
    cases = {
        "Abc": [1],  # an original name before a word
        "ABC": [2],
        "abc": [2],  # the word ABC
        "ABC_2": [1],
        "ins1": [3],
        "TP53": [0],
        TP53: [0],
    }
    for gene, columns in cases.items():
        assert np.flatnonzero(vocabulary.mask([gene])).tolist() == columns, gene
    assert vocabulary.mask(["INS1", "nothing", "ABC"]).tolist() == [False, False, True, True]


def test_mask_takes_every_column_of_a_duplicated_name():
    vocabulary = GeneVocabulary(["A", "B", "A"])
    assert vocabulary.mask(["A"]).tolist() == [True, False, True]
    assert vocabulary.mask(["A_2"]).tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("genes", "says"),
    [
        (
            ["INSS"],
            r"none of the 1 genes asked for is in the data, for example 'INSS' \(nearest: INS",
        ),
        ([], "none of the 0 genes"),
        (np.array([True, False]), "for example 'True'"),
        ([3], "for example '3'"),
    ],
)
def test_mask_refuses_a_panel_without_any_gene(genes, says):
    with pytest.raises(InputError, match=says):
        GeneVocabulary(["INS", "GCG"]).mask(genes)


def test_equality_and_pickling():
    vocabulary = GeneVocabulary(["Ins1", "Gcg"])
    assert vocabulary == GeneVocabulary(["INS1", "GCG"])
    assert vocabulary != GeneVocabulary(["Gcg", "Ins1"])
    assert vocabulary != ("INS1", "GCG")
    copy = pickle.loads(pickle.dumps(vocabulary))
    assert copy == vocabulary
    assert copy.names == vocabulary.names
    assert repr(vocabulary) == "GeneVocabulary(2 genes: INS1, GCG)"


def test_tie_keys_belong_to_words_and_not_to_places():
    a, b = GeneVocabulary(["A", "b", "C"]), GeneVocabulary(["C", "B", "a"])
    assert a.keys().dtype == np.uint64
    assert len(set(a.keys().tolist())) == 3
    np.testing.assert_array_equal(a.keys(), b.keys()[::-1])


def test_real_names_keep_their_words():
    names = list(pancreas().var_names)
    vocabulary = GeneVocabulary(names)
    assert_one_to_one(vocabulary)
    assert vocabulary.names == tuple(names)
    changed = [(n, w) for n, w in zip(names, vocabulary.words, strict=True) if n != w]
    assert all(n.upper() == w for n, w in changed)  # C1orf112 → C1ORF112, and no collision
    assert len({n.upper() for n in names}) == len(names)
