"""What tests of rewards share: answers made of columns, and real cells of the pancreas after the round trip."""

import numpy as np
import pytest

from c2s.cells.ranked import RankedCells
from c2s.cells.vocabulary import GeneVocabulary
from c2s.training.rewards import RealCells, Rollouts

LENGTH = 64


@pytest.fixture(scope="session")
def answers():
    """Return a function that makes `Rollouts` of cells, given as `RankedCells` or as lists of columns."""

    def make(cells, group=None, condition=None, vocabulary=None, **changes):
        if cells is not None and not isinstance(cells, RankedCells):
            cells = RankedCells.from_columns(cells, vocabulary)
        n = len(cells) if cells is not None else len(changes["texts"])
        fields = {
            "group": np.zeros(n, np.int64) if group is None else np.asarray(group, np.int64),
            "condition": np.zeros(n, np.int64) if condition is None else np.asarray(condition),
            "texts": [""] * n,
            "asked_genes": np.full(n, LENGTH if cells is None else max(cells.lengths.max(), 1)),
            "repeated": np.zeros(n, np.int64),
            "unknown": np.zeros(n, np.int64),
            "truth": np.full(n, -1, np.int64),
            "references": None,
            "seed": 3,
        }
        return Rollouts(cells=cells, **{**fields, **changes})

    return make


@pytest.fixture(scope="session")
def words():
    """Twelve genes."""
    return GeneVocabulary.from_words([f"G{i}" for i in range(12)])


@pytest.fixture(scope="session")
def islet(pancreas):
    """Real cells of five types, 64 genes each, in some 1,400 genes; and the line from rank to expression."""
    from c2s.cells.sentences import cell_sentences, fit_inverse

    types = ["acinar", "alpha", "beta", "delta", "ductal"]
    labels = pancreas.obs["cell_type"].astype(str).to_numpy()
    part = pancreas[np.isin(labels, types)].copy()
    labels = part.obs["cell_type"].astype(str).to_numpy()
    top = cell_sentences(part, top_k=LENGTH)
    often = np.flatnonzero(np.bincount(top.genes, minlength=len(top.vocabulary)) >= 5)
    genes = [top.vocabulary.words[column] for column in often]
    among = cell_sentences(part, top_k=LENGTH, genes=genes)
    vocabulary = GeneVocabulary.from_words(genes)
    columns = among.vocabulary.align(vocabulary)[among.genes]
    cells = RankedCells(among.indptr, columns, vocabulary)
    inverse = fit_inverse(part, n_cells=200)
    codes = np.array([types.index(label) for label in labels])
    return RealCells(cells, inverse.expression(cells), types, codes), inverse


@pytest.fixture(scope="session")
def halves(islet):
    """Of every type one half of the cells as those to compare with, and the other half as a perfect generator's."""
    real, inverse = islet
    first = np.arange(len(real)) % 2 == 0
    known = RealCells(
        real.cells.take(first), real.expression[first], real.conditions, real.condition[first]
    )
    return known, real.cells.take(~first), real.condition[~first], inverse
