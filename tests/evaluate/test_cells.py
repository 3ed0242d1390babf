"""Generated cells are read as the real ones are."""

import numpy as np
import pytest

from c2s.cells.profiles import profiles
from c2s.cells.ranked import rank_matrix
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError
from c2s.datasets import pancreas
from c2s.evaluate.cells import generated_cells, rename


def test_expression_is_ranked_among_the_genes_of_the_real_cells():
    made = pancreas()[:40].copy()
    panel = np.sort(np.random.default_rng(0).permutation(made.n_vars)[:2000])
    genes = GeneVocabulary.from_var(made.var.iloc[panel])
    seen = profiles(made, "cells").among(genes, "cells")
    expected = rank_matrix(seen.matrix, genes, seen.cell_ids, top_k=50, seed=0)
    found = rename(generated_cells(made, 50, 0, genes).cells, genes)
    assert [found.words(i) for i in range(40)] == [expected.words(i) for i in range(40)]
    assert set(np.diff(found.indptr)) == {50}
    # Ranked among all genes, most of the fifty are not in the panel.
    everywhere = rename(generated_cells(made, 50, 0).cells, genes)
    assert np.diff(everywhere.indptr).max() < 25


def test_expression_without_a_gene_of_the_real_cells_is_refused():
    with pytest.raises(InputError, match="share no gene"):
        generated_cells(pancreas()[:5].copy(), 50, 0, GeneVocabulary(["XX1", "XX2"]))
