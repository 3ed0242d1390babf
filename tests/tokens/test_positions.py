"""Which tokens are a cell's: against the text that the tokens in question decode to, with three real tokenizers."""

import numpy as np
import pytest

from c2s.cells.ranked import rank_matrix
from c2s.cells.vocabulary import GeneVocabulary
from c2s.tasks.prompts import load_prompts
from c2s.tasks.single_cell import CELL_TYPE
from c2s.tokens.positions import CellFinder
from c2s.tokens.tokenizer import CellTokenizer

GENES = GeneVocabulary.from_words(["INS", "GCG", "MALAT1", "HLA-A", "RP11-34P13.7", "CELL"])
#: The genes of the cells, and prompts whose English holds gene symbols too.
PROMPTS = [
    ("INS MALAT1 RP11-34P13.7 GCG", ["The CELL is: ", np.array([0, 2, 4, 1]), ". INS?"]),
    ("HLA-A CELL", ["A cell\n", np.array([3, 5]), "\nCell type:"]),
    ("GCG INS HLA-A", ["Cell 1: ", np.array([1, 0]), "\nCell 2: ", np.array([3]), "."]),
    ("", ["no cell, INS"]),
]


@pytest.mark.parametrize("mode", ["text", "genes"])
@pytest.mark.parametrize("name", ["gpt-neox", "gemma", "smollm2", "trained"])
def test_they_write_the_cell_and_the_others_the_rest(backend, name, mode):
    tokenizer = CellTokenizer(backend(name, GENES if mode == "genes" else None), GENES, mode)
    for genes, segments in PROMPTS:
        ids, gene = tokenizer.encode_with_genes(segments)
        assert ids.tolist() == tokenizer.encode(segments).tolist()
        assert "".join(tokenizer.decode(ids[gene >= 0]).split()) == genes.replace(" ", "")
        for number, word in enumerate(genes.split()):
            assert "".join(tokenizer.decode(ids[gene == number]).split()) == word
        english = "".join(part for part in segments if isinstance(part, str))
        assert "".join(tokenizer.decode(ids[gene < 0]).split()) == "".join(english.split())


def gene_spans(tokenizer, segments):
    """Spans of the genes of each cell, from `encode_with_genes`, which knows the segments."""
    ids, gene = tokenizer.encode_with_genes(segments)
    assert ids.tolist() == tokenizer.encode(segments).tolist()
    spans, first = [], 0
    for segment in segments:
        if not isinstance(segment, str):
            at = [np.flatnonzero(gene == k) for k in range(first, first + len(segment))]
            spans.append([[int(a[0]), int(a[-1]) + 1] for a in at])
            first += len(segment)
    return ids, [s for s in spans if len(s) >= 3]


@pytest.mark.parametrize("mode", ["text", "genes"])
@pytest.mark.parametrize("name", ["gpt-neox", "gemma", "smollm2", "trained"])
class TestFinder:
    def test_finds_the_cells_of_real_prompts_of_several_tasks(
        self, backend, name, mode, cell_table, cut_genes, sample_examples
    ):
        tokenizer = CellTokenizer(backend(name, cut_genes if mode == "genes" else None), cut_genes, mode)  # fmt: skip
        finder = CellFinder(tokenizer)
        cells = rank_matrix(cell_table.counts, cut_genes, cell_table.cell_ids, top_k=20)
        wording = load_prompts("c2s").wording("cell_type")
        prompts = [
            CELL_TYPE.ask(template, {"organism": "Homo sapiens"}, cells.to_columns(row), 20)
            for row, template in enumerate(wording.prompts)
        ]
        prompts += [example.prompt for example in sample_examples(16)]
        n_cells = 0
        for prompt in prompts:
            ids, spans = gene_spans(tokenizer, prompt)
            found = finder.sentences(ids)
            assert [f.tolist() for f in found] == spans
            n_cells += len(spans)
        assert n_cells > 25

    def test_punctuation_line_breaks_and_single_genes(self, backend, name, mode):
        tokenizer = CellTokenizer(backend(name, GENES if mode == "genes" else None), GENES, mode)
        a, b = np.array([0, 2, 4, 1]), np.array([3, 0, 5])
        for segments in (
            ["A cell:\n", a, "."],
            ["(", a, ") and INS, then\n", b, "\nCell?"],
            [a, "\nAnd:\n" if mode == "genes" else "\n", b],
            ["INS of the CELL GCG is: ", b, ", not HLA-A"],
            ["GCG: INS, MALAT1, HLA-A (INS)"],
        ):
            ids, spans = gene_spans(tokenizer, segments)
            assert [f.tolist() for f in CellFinder(tokenizer).sentences(ids)] == spans
