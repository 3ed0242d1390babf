"""Arrow text is the words of each cell, joined by single spaces (SPEC §2, Eq. 1)."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from c2s.cells.ranked import RankedCells, rank_matrix
from c2s.cells.vocabulary import GeneVocabulary
from c2s.datasets import pancreas

NAMES = ["A", "INS", "hla-a", "βcell", "細胞", "🧬", "é" * 30, "RP11-34P13.7", "x" * 300]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, len(NAMES) - 1), max_size=12), max_size=80))
def test_text_is_the_words_joined(rows):
    cells = RankedCells.from_columns(rows, GeneVocabulary(NAMES))
    text = cells.to_text()
    text.validate(full=True)
    assert text.type == pa.large_string()
    assert text.null_count == 0
    assert text.to_pylist() == [" ".join(NAMES[g].upper() for g in row) for row in rows]
    assert text.to_pylist() == [cells.sentence(i) for i in range(len(cells))]


@pytest.mark.parametrize("rows", [[], [[]], [[], []], [[0]], [[], [0], []]])
def test_empty_cells_are_empty_strings(rows):
    text = RankedCells.from_columns(rows, GeneVocabulary(["INS"])).to_text()
    assert text.to_pylist() == ["INS" if row else "" for row in rows]


def test_no_genes_at_all():
    assert RankedCells.from_columns([[], []], GeneVocabulary([])).to_text().to_pylist() == ["", ""]


def test_text_of_a_part_of_the_cells():
    cells = RankedCells.from_columns([[0, 1], [2], [], [1, 0, 2]], GeneVocabulary(["A", "B", "C"]))
    assert cells.take([3, 2, 3]).to_text().to_pylist() == ["B A C", "", "B A C"]
    assert cells.head(1).to_text().to_pylist() == ["A", "C", "", "B"]


def test_text_outlives_the_cells():
    text = RankedCells.from_columns([[0, 1]] * 100, GeneVocabulary(["A", "B"])).to_text()
    np.zeros(10_000)  # would reuse freed memory
    assert set(text.to_pylist()) == {"A B"}


def test_real_cells():
    adata = pancreas()[:300]
    vocabulary = GeneVocabulary(adata.var_names)
    cells = rank_matrix(adata.X.tocsr(), vocabulary, adata.obs_names)
    text = cells.to_text().to_pylist()
    assert text == [cells.sentence(i) for i in range(300)]
    for sentence, row in zip(text, adata.X.toarray(), strict=True):
        counts = row[[vocabulary.column(word) for word in sentence.split(" ")]]
        assert (np.diff(counts) <= 0).all()
        assert len(counts) == (row > 0).sum()
