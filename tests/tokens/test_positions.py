"""Which tokens are a cell's: against the text that the tokens in question decode to, with three real tokenizers."""

import numpy as np
import pytest

from c2s.cells.vocabulary import GeneVocabulary
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
