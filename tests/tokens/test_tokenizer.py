"""Segments give the very ids that the Hugging Face tokenizer makes of their text, and come back as text."""

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError
from c2s.tokens.tokenizer import (
    CellTokenizer,
    add_gene_tokens,
    load_tokenizer,
    train_text_tokenizer,
)

# Dashes, dots, digits, one-letter genes, and genes that are the beginning of other genes.
GENES = GeneVocabulary(
    "INS INSR INS-IGF2 HLA-A HLA-DRB1 A1BG A1BG-AS1 RP11-34P13.7 T TTR MT-CO1 IFI6 C7 CD3D CAT".split()
)
BEFORE = [
    "Genes: ", "Genes:\n", "Genes:\n\n", "Genes: \n", "Genes:\n ", "Genes:  ", "Genes:   ", "Genes:\t", "(", "", " ",
]  # fmt: skip
BEHIND = ["", ".", ". Next", "\nCell type:", "\n\n", " is it?", "'s", ",", ")", "!?", " 5", " ."]
ENGLISH = [
    "Genes of a Homo sapiens cell, highest first:\nCell type: beta. Which type is it? (5)!\n\n"
]


def backend_ids(tokenizer, segments):
    """What Hugging Face makes of the whole text."""
    text = tokenizer.text(segments)
    return tokenizer.backend(text, add_special_tokens=False)["input_ids"]


def english_then(columns, before, behind):
    return [
        part for part in (before, np.array(columns), behind) if not isinstance(part, str) or part
    ]


@pytest.fixture(scope="module", params=["text", "genes"])
def tokenizer(request):
    backend = train_text_tokenizer(ENGLISH, 320)
    if request.param == "genes":
        add_gene_tokens(backend, GENES)
    return CellTokenizer(backend, GENES, request.param)


@pytest.fixture(
    scope="module",
    params=list(product(["gpt-neox", "smollm2", "gemma"], ["text", "genes"])),
    ids="-".join,
)
def real(request, real_tokenizers):
    """The tokenizers of Pythia, SmolLM2 and Gemma."""
    name, mode = request.param
    backend = load_tokenizer(real_tokenizers / name)
    if mode == "genes":
        add_gene_tokens(backend, GENES)
    return CellTokenizer(backend, GENES, mode)


class TestEncode:
    @pytest.mark.parametrize("behind", BEHIND, ids=repr)
    @pytest.mark.parametrize("before", BEFORE, ids=repr)
    def test_equals_the_backend_on_the_text(self, tokenizer, before, behind):
        for columns in (np.arange(len(GENES)), np.array([8, 0, 1]), np.array([6])):
            segments = english_then(columns, before, behind)
            assert tokenizer.encode(segments).tolist() == backend_ids(tokenizer, segments)

    def test_equals_a_real_backend(self, real):
        for before, behind in product(BEFORE, BEHIND):
            for columns in (np.arange(len(GENES)), np.array([14, 8, 0])):
                segments = english_then(columns, before, behind)
                assert real.encode(segments).tolist() == backend_ids(real, segments), (
                    before,
                    behind,
                )

    @settings(deadline=None, max_examples=150)
    @given(data=st.data())
    def test_equals_the_backend_on_any_prompt(self, tokenizer, data):
        words = st.text("abc de.,:?!()\n\t5é", max_size=12)
        cells = st.lists(st.integers(0, len(GENES) - 1), min_size=1, max_size=6)
        segments = []
        for _ in range(data.draw(st.integers(1, 3))):
            # English ends before a cell in white space or punctuation, and goes on behind it likewise.
            segments += [data.draw(words) + data.draw(st.sampled_from([" ", "\n", ": ", ":\n\n"]))]
            segments += [np.array(data.draw(cells)), data.draw(st.sampled_from([".", "\n", ", "]))]
        segments.append(data.draw(words))
        assert tokenizer.encode(segments).tolist() == backend_ids(tokenizer, segments)

    def test_prompt_and_response_are_the_ids_of_both_together(self, tokenizer):
        prompt, response = ["Write 2 genes:"], [" ", np.array([0, 5])]
        together = [*tokenizer.encode(prompt), *tokenizer.encode(response)]
        assert together == backend_ids(tokenizer, [*prompt, *response])
        prompt, response = ["Genes: ", np.array([0, 5]), "\nCell type:"], [" beta."]
        together = [*tokenizer.encode(prompt), *tokenizer.encode(response)]
        assert together == backend_ids(tokenizer, [*prompt, *response])

    def test_real_cells(self, cut, make_tokenizer):
        from c2s.cells.sentences import cell_sentences

        cells = cell_sentences(cut[:20], top_k=50)
        genes = GeneVocabulary.from_words(sorted({w for i in range(20) for w in cells.words(i)}))
        columns = cells.vocabulary.align(genes)
        for mode in ("text", "genes"):
            tokenizer = make_tokenizer(genes, mode)
            for i in range(20):
                segments = ["A cell: ", columns[cells.to_columns(i)], "\nCell type:"]
                assert tokenizer.text(segments) == f"A cell: {cells.sentence(i)}\nCell type:"
                assert tokenizer.encode(segments).tolist() == backend_ids(tokenizer, segments)

    def test_nothing_and_an_empty_cell(self, tokenizer):
        assert tokenizer.encode([]).tolist() == []
        assert tokenizer.encode([""]).dtype == np.int32
        segments = ["Genes: ", np.array([], int), "\nCell type:"]
        assert tokenizer.encode(segments).tolist() == backend_ids(tokenizer, segments)

    def test_pieces_of_a_gene_are_those_behind_a_space(self, tokenizer):
        first = tokenizer.encode(["Genes:"]).tolist()
        for column in range(len(GENES)):
            both = tokenizer.encode(["Genes: ", np.array([column])]).tolist()
            assert both == [*first, *tokenizer.gene_pieces(column)]

    @pytest.mark.parametrize("behind", BEHIND, ids=repr)
    @pytest.mark.parametrize("before", BEFORE, ids=repr)
    def test_which_gene_a_token_is_part_of(self, tokenizer, before, behind):
        """A repeated gene and one that is an English word of the prompt are told apart by where they stand."""
        columns = np.array([0, 8, 6, 8, 14, 0])
        segments = english_then(columns, before, behind)
        ids, gene = tokenizer.encode_with_genes(segments)
        assert ids.tolist() == tokenizer.encode(segments).tolist()
        assert gene[gene >= 0].tolist() == sorted(gene[gene >= 0])
        for number, column in list(enumerate(columns))[1:-1]:
            assert ids[gene == number].tolist() == tokenizer.gene_pieces(column)
        # At the ends a token may hold English too; of those it holds, none is left.
        for number in (0, len(columns) - 1):
            word = GENES.words[columns[number]]
            assert word in tokenizer.decode(ids[gene == number])

    def test_which_gene_a_token_of_a_real_tokenizer_is_part_of(self, real):
        columns = np.array([0, 8, 6, 8, 14, 0])
        for before, behind in product(BEFORE, BEHIND):
            segments = english_then(columns, before, behind)
            ids, gene = real.encode_with_genes(segments)
            assert ids.tolist() == real.encode(segments).tolist()
            for number, column in list(enumerate(columns))[1:-1]:
                assert ids[gene == number].tolist() == real.gene_pieces(column)

    def test_english_is_part_of_no_gene(self, tokenizer):
        segments = [
            "INS and CAT: ",
            np.array([0]),
            "\nINS",
            np.array([], int),
            " and ",
            np.array([1, 0]),
        ]
        ids, gene = tokenizer.encode_with_genes(segments)
        assert ids[gene == 0].tolist() == ids[gene == 2].tolist() == tokenizer.gene_pieces(0)
        assert ids[gene == 1].tolist() == tokenizer.gene_pieces(1)
        english = tokenizer.decode(ids[gene < 0])
        assert "".join(english.split()) == "INSandCAT:INSand"
        for nothing in ([], [""]):
            assert [len(x) for x in tokenizer.encode_with_genes(nothing)] == [0, 0]


class TestDecode:
    def test_a_prompt_comes_back(self, tokenizer):
        segments = ["Genes of a cell: ", np.arange(len(GENES)), ".\nCell type: beta (5)!"]
        assert tokenizer.decode(tokenizer.encode(segments)) == tokenizer.text(segments)

    def test_a_prompt_of_a_real_tokenizer_comes_back(self, real):
        segments = ["Genes of a CATEGORY: ", np.arange(len(GENES)), ".\nCell type: Tcell (5)!"]
        assert real.decode(real.encode(segments)) == real.text(segments)

    @settings(deadline=None)
    @given(
        text=st.text(st.characters(exclude_categories=["Cs", "Lu"]), max_size=30).filter(
            lambda text: "<|" not in text  # special tokens are left out
        )
    )
    def test_any_english_comes_back(self, tokenizer, text):
        assert tokenizer.decode(tokenizer.encode([text])) == text

    def test_leaves_out_special_tokens(self, tokenizer):
        ids = [*tokenizer.encode([" ", np.array([0, 8])]), tokenizer.eos_id, tokenizer.pad_id]
        assert tokenizer.decode(ids).strip() == "INS T"

    def test_a_one_letter_gene_is_told_from_the_letter(self):
        """A byte-level tokenizer has a token for "T", and the gene T shares it."""
        backend = train_text_tokenizer(["ype of cell"] * 9, 300)
        grown = add_gene_tokens(backend, GENES)
        tokenizer = CellTokenizer(backend, GENES, "genes")
        assert grown == len(GENES) - 1
        assert len(tokenizer.encode([" ", np.array([8])])) == 1
        for segments in (["(Type of cell)"], ["Cells ", np.array([8, 0, 8]), ".\nType: T4/Tx."]):
            assert tokenizer.decode(tokenizer.encode(segments)) == tokenizer.text(segments)


class TestGeneTokens:
    def test_one_token_a_gene(self, cut_genes, gene_tokenizer):
        ids = gene_tokenizer.encode([" ", np.arange(len(cut_genes))])
        assert len(ids) == len(cut_genes)
        assert len(set(ids.tolist())) == len(cut_genes)
        columns = gene_tokenizer.gene_columns()
        assert [columns[i] for i in ids.tolist()] == list(range(len(cut_genes)))

    @pytest.mark.parametrize("word", ["INSULIN", "ins", "XINS", "INS2", "HLA-A", "INS-IGF2"])
    def test_a_gene_is_not_found_inside_another_word(self, word):
        backend = train_text_tokenizer(ENGLISH, 320)
        add_gene_tokens(backend, GENES)
        gene = backend.convert_tokens_to_ids("INS")
        assert gene not in backend(f"the {word} cell")["input_ids"]

    def test_lacking_genes_are_counted_and_named(self):
        backend = train_text_tokenizer(ENGLISH, 320)
        add_gene_tokens(backend, GeneVocabulary(["INS", "GCG"]))
        with pytest.raises(InputError, match=r"lacks 2 genes of the vocabulary \(SST, PPY\)"):
            CellTokenizer(backend, GeneVocabulary(["INS", "SST", "PPY"]), "genes")

    def test_a_tokenizer_without_end_is_refused(self):
        backend = train_text_tokenizer(ENGLISH, 320)
        backend.eos_token = None
        with pytest.raises(InputError, match="no end-of-text token"):
            CellTokenizer(backend, GENES, "text")

    def test_an_unknown_mode_is_refused(self):
        with pytest.raises(UsageError, match="'word' is unknown; use 'text' or 'genes'"):
            CellTokenizer(train_text_tokenizer(ENGLISH, 320), GENES, "word")


class TestTraining:
    def test_same_texts_same_tokenizer(self, prompt_texts):
        trained = {
            train_text_tokenizer(iter(prompt_texts), 500).backend_tokenizer.to_str()
            for _ in range(4)
        }
        assert len(trained) == 1
        vocabulary = json.loads(trained.pop())["model"]["vocab"]
        assert len(vocabulary) == 500

    def test_writes_any_text(self):
        backend = train_text_tokenizer(["only these words"], 300)
        text = "Größe 37 °C, 細胞 🧬\t\n"
        assert backend.decode(backend(text)["input_ids"]) == text


class TestFiles:
    def test_saved_and_loaded_the_same(self, tokenizer, tmp_path):
        tokenizer.save(tmp_path)
        again = CellTokenizer(load_tokenizer(tmp_path), GENES, tokenizer.mode)
        segments = ["Genes of: ", np.arange(len(GENES)), ".\nCell type: beta"]
        assert again.encode(segments).tolist() == tokenizer.encode(segments).tolist()
        assert (again.eos_id, again.pad_id) == (tokenizer.eos_id, tokenizer.pad_id)
        assert again.eos_id != again.pad_id

    @pytest.mark.parametrize(
        "damage", ["", "[1]", "{}", '{"added_tokens": [], "model": {"type": "BPE", "vocab": 3}}']
    )
    def test_a_damaged_file_is_named_in_one_line(self, tokenizer, tmp_path, damage):
        tokenizer.save(tmp_path)
        (tmp_path / "tokenizer.json").write_text(damage)
        with pytest.raises(InputError, match="no tokenizer can be read there") as caught:
            load_tokenizer(tmp_path)
        assert str(caught.value).startswith(f"{tmp_path}/tokenizer.json: ")
        assert "\n" not in str(caught.value)
