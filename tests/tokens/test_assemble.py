"""Batches hold the very ids that the tokenizer makes of the texts, for real cells and every kind of prompt."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from c2s.cells.ranked import RankedCells
from c2s.cells.sentences import cell_sentences
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import UsageError
from c2s.tokens import assemble
from c2s.tokens.assemble import Assembler, Parts
from c2s.tokens.tokenizer import CellTokenizer, train_text_tokenizer

ODD = GeneVocabulary(
    "C10ORF10 HLA-A HLA-DRB1 7SK AC004556.1 RP11-34P13.7 A_B C_2 MT-CO1 T 5S_RRNA Y_RNA β-ACTIN"
    " TNFΑ ENSG00000002586_PAR_Y INS INSR 3.8-1 KIAA0040L-ENSG00000110711_2X-VERY-LONG-NAME.17".split()
)  # "TNFΑ" ends in a Greek letter: its joins are not safe
KINDS = [("small", "text"), ("small", "genes"), ("spanning", "text"), ("gpt-neox", "text"), ("smollm2", "text"), ("gemma", "text")]  # fmt: skip

# Pairs of prompt and response; numbers are cells.
SINGLE = [
    (["Here are the 50 most expressed genes of a Homo sapiens cell, highest first: ", 3, "\nCell type:"], [" beta"]),
    (["Which kind of Homo sapiens cell ranks its genes like this (first 50)? ", 4, "\nKind:"], [" t cell (CD4+)."]),
    (["Write the 50 most expressed genes of a cell of type beta, highest first:"], [" ", 5]),
    (["Genes:"], [" ", 6, "."]),
    (["A gene set, by name: HALLMARK_HYPOXIA. Its genes:"], [" INS INSR A1BG"]),
    (["An abstract. ", "In β cells, we’ll show 3 × 4 = 12.", "\n\n"], [" Text", "."]),
]  # fmt: skip
MULTI = [
    (["Tissue? Cell 1: ", 0, "\nCell 2: ", 1, "\nCell 3: ", 2, "\nTissue:"], [" pancreas."]),
    (["Cell 1:\n", 0, ".\nCell 2:\n", 1, ".\nTissue of these 2 cells:"], [" pancreas."]),
    (["Generate 2 cells:"], [" Cell 1: ", 7, "\nCell 2: ", 8, "."]),
    (["Generate 2 cells:"], ["\nCell 1:\n", 7, ".\nCell 2:\n", 8, "."]),
    (["[Cell 1] ", 3, "\n[Cell 2] ", 4], [" tissue"]),
]
STRANGE = [
    ([3], [4]),
    ([3, " ", 4], [" ", 5, " ", 6, " x"]),
    ([3, 4, "  ", 5, "\n", 6], [7, "A", 8]),
    (["(", 3, ")", "", " ", 4, " \n ", 5, "é", 6, "é ", 7], ["'", 3, "'s"]),
    ([""], [""]),
    ([], []),
    ([" "], ["  "]),
]


def expected(tokenizer, parts, cells, *, by_encode=False):
    """What the tokenizer itself makes of the text of the prompt and of that of the response."""
    ids = []
    for side in (parts.prompt, parts.response):
        segments = [s if isinstance(s, str) else cells.to_columns(s)[: parts.n_genes] for s in side]
        text = tokenizer.text(segments)
        backend = tokenizer.backend(text, add_special_tokens=False)["input_ids"]
        ids.append(tokenizer.encode(segments).tolist() if by_encode else backend)
    return ids


def assert_equal_to_the_tokenizer(assembler, examples, cells, *, order=None, by_encode=False):
    batch = assembler.batch(examples, cells)
    order = np.arange(len(examples)) if order is None else np.asarray(order)
    tokens, offsets = batch.write(order)
    assert tokens.dtype == np.int32
    assert offsets.dtype == batch.lengths.dtype == batch.prompt_lengths.dtype == np.int64
    for i, example in enumerate(order):
        prompt, response = expected(
            assembler.tokenizer, examples[example], cells, by_encode=by_encode
        )
        found = tokens[offsets[i] : offsets[i + 1]].tolist()
        assert found == [*prompt, *response, assembler.tokenizer.eos_id], examples[example]
        assert batch.prompt_lengths[example] == len(prompt)
        assert batch.lengths[example] == len(found)


@pytest.fixture(scope="module")
def cells(pancreas):
    return cell_sentences(pancreas[:60], top_k=120)


@pytest.fixture(scope="module")
def used(cells):
    """The same cells in the vocabulary of the genes that they hold: quick to make a tokenizer for."""
    genes = np.unique(cells.genes)
    vocabulary = GeneVocabulary.from_words([cells.vocabulary.words[g] for g in genes])
    columns = np.searchsorted(genes, cells.genes).astype(np.int32)
    return RankedCells(cells.indptr, columns, vocabulary)


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def assembler(request, backend, used):
    name, mode = request.param
    genes = used.vocabulary if mode == "genes" else None
    return Assembler(CellTokenizer(backend(name, genes), used.vocabulary, mode))


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def odd(request, backend):
    name, mode = request.param
    genes = ODD if mode == "genes" else None
    return Assembler(CellTokenizer(backend(name, genes), ODD, mode))


@pytest.fixture
def encoded(monkeypatch):
    """Count the examples that go through `CellTokenizer.encode`."""
    calls = []
    encode = CellTokenizer.encode

    def counted(self, segments):
        calls.append(segments)
        return encode(self, segments)

    monkeypatch.setattr(CellTokenizer, "encode", counted)
    return calls


def spans_words(assembler):
    return not all(assembler.tokenizer.joins.safe(c, " ") for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")


class TestBatch:
    def test_real_cells(self, assembler, used, encoded):
        examples = [Parts(p, r, 50) for p, r in (*SINGLE, *MULTI)]
        assert_equal_to_the_tokenizer(assembler, examples, used)
        assert bool(encoded) == spans_words(assembler)  # otherwise none of them needs the slow way

    @pytest.mark.parametrize("n_genes", [1, 2, 120, 500])
    def test_any_number_of_genes(self, assembler, used, n_genes):
        examples = [Parts(p, r, n_genes) for p, r in (*SINGLE, *MULTI)]
        assert_equal_to_the_tokenizer(assembler, examples, used)

    def test_all_wording_of_this_project(self, assembler, used, encoded):
        from c2s.tasks.prompts import load_prompts

        class Text(dict):
            def __missing__(self, field):
                return f"some {field}"

        examples = []
        for task in load_prompts("c2s").tasks.values():
            for n, prompt in enumerate(task.prompts):
                cell = np.array([n % len(used)])
                fields = Text(cell_sentence=cell, multi_cell_sentences=cell, num_genes="50")
                values = {f: fields[f] for f in prompt.fields | task.response.fields}
                sides = [
                    [s if isinstance(s, str) else int(s[0]) for s in template.fill(values)]
                    for template in (prompt, task.response)
                ]
                examples.append(Parts(*sides, n_genes=50))
        assert len(examples) >= 20
        assert_equal_to_the_tokenizer(assembler, examples, used)
        assert bool(encoded) == spans_words(assembler)

    def test_strange_prompts(self, assembler, used):
        # A gene token that touches a word is one to `encode` ("genes" mode), and none to the tokenizer.
        by_encode = assembler.tokenizer.mode == "genes"
        examples = [Parts(p, r, n) for p, r in STRANGE for n in (1, 2, 9)]
        assert_equal_to_the_tokenizer(assembler, examples, used, by_encode=by_encode)

    def test_order(self, assembler, used):
        examples = [Parts(p, r, 7) for p, r in (*SINGLE, *MULTI)]
        assert_equal_to_the_tokenizer(assembler, examples, used, order=[3, 0, 3, 10, 1])
        assert_equal_to_the_tokenizer(assembler, examples, used, order=[-1])
        assert_equal_to_the_tokenizer(assembler, examples, used, order=[])

    def test_no_examples(self, assembler, used):
        batch = assembler.batch([], used)
        assert len(batch) == 0
        tokens, offsets = batch.write(np.arange(0))
        assert (tokens.tolist(), offsets.tolist()) == ([], [0])

    def test_cells_without_genes(self, assembler, used):
        sparse = RankedCells.from_columns([[0, 1], [], [2]], used.vocabulary)
        examples = [Parts(["Genes: ", 1, " next ", 0, "\n", 1, "."], [" ", i], 5) for i in range(3)]
        examples += [Parts(["Genes: ", 0, " next:"], [" ", 2], 0)]
        assert_equal_to_the_tokenizer(assembler, examples, sparse)

    @settings(deadline=None, max_examples=60)
    @given(data=st.data())
    def test_any_prompt(self, assembler, used, data):
        text = st.text("abc de.,:?!()\n\t5é", max_size=10)
        before, behind = st.sampled_from([" ", "\n", ": ", "  "]), st.sampled_from([".", "\n", " "])

        def side():
            parts = []
            for _ in range(data.draw(st.integers(0, 3))):
                parts += [data.draw(text) + data.draw(before), data.draw(st.integers(0, 59))]
                parts += [data.draw(behind)]
            return [*parts, data.draw(text)]

        examples = [Parts(side(), side(), data.draw(st.integers(1, 6))) for _ in range(3)]
        assert_equal_to_the_tokenizer(assembler, examples, used)

    def test_the_pool_is_emptied_and_earlier_batches_stay(self, backend, used, monkeypatch):
        monkeypatch.setattr(assemble, "_MOST_IDS", 300)
        assembler = Assembler(CellTokenizer(backend("small"), used.vocabulary, "text"))
        old = assembler.batch([Parts(["Once: ", 1, " end"], [" x"], 9)], used)
        before = old.write(np.arange(1))[0].tolist()
        for i in range(8):
            examples = [Parts([f"Number {i} {j}: ", 2, "."], [" y"], 9) for j in range(40)]
            assert_equal_to_the_tokenizer(assembler, examples, used)
        assert len(assembler._texts) < 200
        assert old.write(np.arange(1))[0].tolist() == before

    def test_cells_of_another_vocabulary_are_refused(self, assembler, cells):
        with pytest.raises(UsageError, match="make a CellTokenizer for the cells' vocabulary"):
            assembler.batch([], cells)

    @pytest.mark.parametrize("row", [60, -1, 10**9])
    def test_a_cell_that_is_not_there_is_refused(self, assembler, used, row):
        for prompt in (["Genes: ", row], ["Genes:\n", row]):
            with pytest.raises(UsageError, match=rf"there is no cell {row}; there are 60 cells"):
                assembler.batch([Parts(prompt, [" x"], 5)], used)


class TestGenes:
    def test_odd_names(self, odd):
        columns = np.arange(len(ODD))
        rng = np.random.default_rng(0)
        rows = [rng.permutation(columns) for _ in range(30)] + [[c] for c in columns]
        cells = RankedCells.from_columns(rows, ODD)
        examples = [
            Parts(["A cell: ", i, behind], [" ", i, "."], n_genes)
            for i in range(len(cells))
            for behind, n_genes in (("\nCell type:", 4), (". Next:", 99))
        ]
        if (
            odd.tokenizer.mode == "genes"
        ):  # gene tokens are whole words; "Α." is none for a regex of ASCII
            assert odd.tokenizer.backend.unk_token is None
        assert_equal_to_the_tokenizer(odd, examples, cells)

    def test_two_thousand_in_a_row(self, backend, pancreas):
        for name in ("gpt-neox", "smollm2", "gemma"):
            words = sorted(w for w in map(str.upper, pancreas.var_names[::10]))[:2000]
            vocabulary = GeneVocabulary.from_words(words)
            cells = RankedCells.from_columns([np.arange(2000)], vocabulary)
            assembler = Assembler(CellTokenizer(backend(name), vocabulary, "text"))
            assert len(vocabulary) == 2000
            examples = [Parts(["Genes: ", 0], [" ", 0, "."], 2000)]
            assert_equal_to_the_tokenizer(assembler, examples, cells)

    def test_a_tokenizer_that_cannot_be_cut(self, used):
        from tokenizers import pre_tokenizers

        backend = train_text_tokenizer(["Genes of a cell: "], 300)
        backend.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer = CellTokenizer(backend, used.vocabulary, "text")
        assert not tokenizer.joins.table.any()
        examples = [Parts(p, r, 30) for p, r in (*SINGLE, *MULTI, *STRANGE)]
        assert_equal_to_the_tokenizer(Assembler(tokenizer), examples, used)


class TestMostGenes:
    @settings(deadline=None, max_examples=40)
    @given(data=st.data())
    def test_brute_force(self, assembler, used, data):
        n = data.draw(st.integers(0, 5))
        groups = [data.draw(st.lists(st.integers(0, 59), max_size=4)) for _ in range(n)]
        wanted = [data.draw(st.integers(0, 150)) for _ in range(n)]
        budget = [data.draw(st.integers(-3, 1500)) for _ in range(n)]
        indptr = np.concatenate([[0], np.cumsum([len(g) for g in groups])]).astype(np.int64)
        rows = np.array([r for g in groups for r in g], dtype=np.int64)
        found = assembler.most_genes(rows, indptr, np.array(wanted), np.array(budget), used)
        tokenizer = assembler.tokenizer
        for i, group in enumerate(groups):
            totals = [
                sum(len(tokenizer.gene_tokens.gather(used.to_columns(r)[:k])) for r in group)
                for k in range(wanted[i] + 1)
            ]
            fitting = [k for k, total in enumerate(totals) if total <= budget[i]]
            assert found[i] == max(fitting, default=0)

    def test_one_token_more_or_less(self, assembler, used):
        tokens = np.cumsum(
            [len(assembler.tokenizer.gene_pieces(int(g))) for g in used.to_columns(0)]
        )
        for k in (1, 7, 100):
            budget = np.array([tokens[k - 1], tokens[k - 1] - 1])
            rows, indptr = np.array([0, 0]), np.array([0, 1, 2])
            found = assembler.most_genes(rows, indptr, np.array([110, 110]), budget, used)
            assert found.tolist() == [k, k - 1]

    def test_an_example_of_so_many_genes_has_so_many_tokens(self, assembler, used):
        if spans_words(assembler):
            pytest.skip("genes have other tokens among other genes")
        english = assembler.batch([Parts(["Cells:"], [" x"], 0)], used).lengths[0]
        rows, indptr = np.array([3, 4]), np.array([0, 2])
        (k,) = assembler.most_genes(rows, indptr, np.array([120]), np.array([200]), used)
        parts = [Parts(["Cells: ", 3, " ", 4], [" x"], int(n)) for n in (k, k + 1)]
        fits, too_long = assembler.batch(parts, used).lengths - english
        assert fits <= 200 < too_long

    def test_wrong_arrays_are_refused(self, assembler, used):
        one = np.array([1])
        with pytest.raises(UsageError, match="there is no cell 60"):
            assembler.most_genes(np.array([60]), np.array([0, 1]), one, one, used)
        for indptr in ([0, 2], [1, 1], [0, 1, 1], []):
            with pytest.raises(UsageError, match="do not fit an indptr"):
                assembler.most_genes(np.array([0]), np.array(indptr), one, one, used)
