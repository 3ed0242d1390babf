"""Cells made ready to be compared: the same genes, the same sentences, the same way back to expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from c2s.cells.inverse import RankExpressionModel, sentence_words
from c2s.cells.profiles import Profiles, profiles
from c2s.cells.ranked import RankedCells, rank_matrix
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError, listing
from c2s.encoders.base import CellEncoder
from c2s.metrics import exact_k_fraction, unique_fraction, valid_fraction

if TYPE_CHECKING:
    from anndata import AnnData

#: Column of `obs` in which `c2s generate` writes sentences.
SENTENCE = "cell_sentence"
#: Genes of a sentence where generated cells do not say it by their own sentences.
TOP_K = 200


@dataclass(frozen=True)
class Generated:
    """Generated cells: what they say, and how well formed it was.

    Attributes
    ----------
    cells
        Ranked, over the genes of the data; genes named twice are kept once, at their first place.
    top_k
        Genes that a sentence was to have: the most common number.
    form
        Shares of words that are genes (`valid_fraction`) and are not repeated (`unique_fraction`), of cells with
        exactly `top_k` genes (`exact_k_fraction`) and of sentences that no earlier cell has (`distinct_fraction`).
        Empty for cells that come as expression.
    """

    cells: RankedCells
    top_k: int
    form: dict[str, float]


def generated_cells(
    adata: AnnData, top_k: int | None, seed: int, among: GeneVocabulary | None = None
) -> Generated:
    """Read generated cells: their sentences where `obs` has them, else their expression, ranked.

    Parameters
    ----------
    adata
        As `c2s generate` writes, or expression from any other generator.
    top_k
        Genes of a cell; by default the commonest length of the sentences, and 200 for expression.
    seed
        Orders ties of expression.
    among
        Genes of the real cells. Expression is ranked among those of them that it has, as real cells are: ranked among
        more genes, its sentences would lose words to genes that are not looked at.

    Raises
    ------
    InputError
        There are no cells, no word of the sentences is a gene, or none of the genes is in `among`.
    """
    if adata.n_obs == 0:
        raise InputError("the generated cells: found no cells")
    vocabulary = GeneVocabulary.from_var(adata.var)
    if SENTENCE not in adata.obs:
        found = profiles(adata, "the generated cells")
        if among is not None:
            found = found.among(shared_genes(among, vocabulary), "the generated cells")
        top_k = top_k or TOP_K
        cells = rank_matrix(found.matrix, found.vocabulary, found.cell_ids, top_k=top_k, seed=seed)
        return Generated(cells, top_k, {})
    texts = adata.obs[SENTENCE].astype(str).tolist()
    columns = [sentence_words(text, vocabulary) for text in texts]
    flat = np.concatenate(columns)
    if not (flat >= 0).any():
        raise InputError(
            f"the generated cells: no word of obs[{SENTENCE!r}] is a gene of var (first: {texts[0][:60]!r})"
        )
    indptr = np.concatenate([[0], np.cumsum([len(c) for c in columns])])
    lengths, times = np.unique(np.diff(indptr), return_counts=True)
    k = int(lengths[::-1][times[::-1].argmax()]) if top_k is None else top_k
    form = {
        "valid_fraction": valid_fraction(flat, indptr),
        "unique_fraction": unique_fraction(flat, indptr),
        "exact_k_fraction": exact_k_fraction(flat, indptr, k),
        "distinct_fraction": len(set(texts)) / len(texts),
    }
    cells = RankedCells.from_columns(
        [_first_places(c) for c in columns], vocabulary, adata.obs_names.to_numpy(dtype=object)
    )
    return Generated(cells.head(k), k, form)


def _first_places(columns: np.ndarray) -> np.ndarray:
    valid = columns[columns >= 0]
    _, first = np.unique(valid, return_index=True)
    return valid[np.sort(first)]


def shared_genes(real: GeneVocabulary, generated: GeneVocabulary) -> GeneVocabulary:
    """Return the genes that both have, in the order of the real cells.

    Raises
    ------
    InputError
        There are none.
    """
    columns = np.flatnonzero(real.align(generated) >= 0)
    if len(columns) == 0:
        raise InputError(
            f"real and generated cells share no gene: {listing(real.words, 3)} against "
            f"{listing(generated.words, 3)}; are both symbols of one species?"
        )
    return GeneVocabulary.from_words(
        [real.words[c] for c in columns], [real.symbols[c] for c in columns]
    )


def rename(cells: RankedCells, genes: GeneVocabulary) -> RankedCells:
    """Return ranked cells over other genes; those that `genes` lacks are left out, the order stays."""
    if cells.vocabulary == genes:
        return cells
    columns = cells.vocabulary.align(genes)[cells.genes]
    kept = columns >= 0
    indptr = np.concatenate([[0], np.cumsum(kept)])[cells.indptr]
    values = None if cells.values is None else cells.values[kept]
    return RankedCells(
        indptr.astype(np.int64), columns[kept].astype(np.int32), genes, values, cells.cell_ids
    )


@dataclass(frozen=True)
class RoundTrip:
    """The way that every cell takes before it is measured: sentence, expression, place in a space.

    Attributes
    ----------
    genes
        What sentences may name.
    measured
        Genes that are looked at afterwards: all of `genes`, or a programme among them.
    top_k
        Genes of a sentence.
    inverse
        From rank to expression.
    encoder
        Makes the space; the name of one that is not fitted yet has no `points`.
    seed
        Orders ties.
    """

    genes: GeneVocabulary
    measured: GeneVocabulary
    top_k: int
    inverse: RankExpressionModel
    encoder: CellEncoder | str
    seed: int

    @property
    def space(self) -> CellEncoder:
        """The encoder, once it is there."""
        if isinstance(self.encoder, str):
            raise UsageError(f"encoder {self.encoder!r} was not opened")
        return self.encoder

    def rank(self, cells: Profiles, seed: int | None = None) -> RankedCells:
        """Write cells over `genes` as sentences of `top_k` genes; another `seed` orders ties differently."""
        return rank_matrix(
            cells.matrix,
            cells.vocabulary,
            cells.cell_ids,
            top_k=self.top_k,
            seed=self.seed if seed is None else seed,
        )

    def expression(self, cells: RankedCells) -> sp.csr_matrix:
        """Return the expression that sentences stand for, over `measured`. csr_matrix, (n_cells, n_measured)."""
        return self.look(self.inverse.expression(cells))

    def look(self, matrix: sp.csr_matrix) -> sp.csr_matrix:
        """Return the columns of `measured`, of a matrix over `genes`."""
        if self.measured == self.genes:
            return matrix
        return sp.csr_matrix(matrix[:, self.measured.align(self.genes)])

    def points(self, expression: sp.csr_matrix) -> np.ndarray:
        """Return the places of cells from their expression over `measured`. float64, (n_cells, d)."""
        return np.asarray(self.space.encode(expression, self.measured), dtype=np.float64)


def programme(genes: GeneVocabulary, words: Sequence[str]) -> GeneVocabulary:
    """Return the genes of a programme that the cells have.

    Raises
    ------
    InputError
        They have none of them.
    """
    columns = np.flatnonzero(genes.mask(list(words)))
    return GeneVocabulary.from_words(
        [genes.words[c] for c in columns], [genes.symbols[c] for c in columns]
    )
