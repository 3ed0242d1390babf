"""Which tokens are the cell's: against the text that the tokens in question decode to, with three real tokenizers."""

import numpy as np
import pytest

from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import C2SError
from c2s.tokens.positions import cell_tokens
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
        ids = tokenizer.encode(segments)
        found = cell_tokens(tokenizer, segments, len(ids))
        assert found.dtype == bool
        assert "".join(tokenizer.decode(ids[found]).split()) == genes.replace(" ", "")
        english = "".join(part for part in segments if isinstance(part, str))
        assert "".join(tokenizer.decode(ids[~found]).split()) == "".join(english.split())


def test_a_tokenizer_that_disagrees_with_itself_is_refused(backend):
    tokenizer = CellTokenizer(backend("trained"), GENES, "text")
    with pytest.raises(C2SError, match="makes 3 tokens of a prompt's text and 4 of its parts"):
        cell_tokens(tokenizer, [np.array([0])], 4)
