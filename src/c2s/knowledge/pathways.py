"""Which gene sets are enriched among the genes that a cell sentence shows: a sparse product and a hypergeometric tail.

sets = PathwaySets.of(read_gmt("h.all.symbols.gmt"), cells.vocabulary)
sets.best(cells, 3)  # of each cell the three sets that its genes hold more of than chance would
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from c2s.cells.ranked import RankedCells
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError
from c2s.knowledge.gene_sets import GeneSet

#: Pairs of a cell and a set that are worked on at a time: some 50 MB.
_PAIRS = 1 << 18

#: What separates words in the name of a set. The full stop and the semicolon stand between names in a line of them.
_BETWEEN_WORDS = re.compile(r"[\s_.;]+")


def pathway_names(sets: Sequence[GeneSet]) -> list[str]:
    """Return the names of gene sets as lower-case words, without a first word that all of them have.

    Examples
    --------
    >>> names = ["HALLMARK_INTERFERON_ALPHA_RESPONSE", "HALLMARK_HYPOXIA"]
    >>> pathway_names([GeneSet(name, "", ("INS",)) for name in names])
    ['interferon alpha response', 'hypoxia']

    Raises
    ------
    InputError
        Two sets have the same words, or one has none.
    """
    words = [[w for w in _BETWEEN_WORDS.split(s.name.lower()) if w] for s in sets]
    if len(words) > 1 and all(len(w) > 1 and w[0] == words[0][0] for w in words):
        words = [w[1:] for w in words]
    names = [" ".join(w) for w in words]
    first: dict[str, str] = {}
    for name, gene_set in zip(names, sets, strict=True):
        if not name:
            raise InputError(f"the gene set {gene_set.name!r} has no word in its name")
        if name in first:
            raise InputError(
                f"the gene sets {first[name]!r} and {gene_set.name!r} have the same words; rename one"
            )
        first[name] = gene_set.name
    return names


@dataclass(frozen=True, eq=False)
class PathwaySets:
    """Gene sets in the columns of a vocabulary.

    Attributes
    ----------
    names
        Of the sets in lower-case words (`pathway_names`), in the order of their file.
    members : csr_matrix of int64, shape (n_genes, n_sets)
        1 where a gene belongs to a set.
    """

    names: tuple[str, ...]
    members: sp.csr_matrix

    @classmethod
    def of(
        cls, sets: Sequence[GeneSet], vocabulary: GeneVocabulary, min_genes: int = 5
    ) -> PathwaySets:
        """Return the sets that have at least `min_genes` genes of a vocabulary.

        Raises
        ------
        InputError
            As `pathway_names`.
        """
        columns = [vocabulary.columns(s.genes) for s in sets]
        found = [np.unique(c[c >= 0]) for c in columns]
        kept = [
            (name, genes)
            for name, genes in zip(pathway_names(sets), found, strict=True)
            if len(genes) >= min_genes
        ]
        genes = np.concatenate([np.empty(0, np.int64), *(g for _, g in kept)]).astype(np.int64)
        which = np.repeat(np.arange(len(kept)), [len(g) for _, g in kept])
        members = sp.csr_matrix(
            (np.ones(len(genes), np.int64), (genes, which)), shape=(len(vocabulary), len(kept))
        )
        return cls(tuple(name for name, _ in kept), members)

    def log_p(
        self, cells: RankedCells, n_genes: np.ndarray | None = None, rows: np.ndarray | None = None
    ) -> np.ndarray:
        """Return log p of each set holding, by chance, as many of the genes that a cell shows as it does, or more.

        The upper tail of the hypergeometric distribution: the genes shown are drawn from the vocabulary.

        Parameters
        ----------
        cells
            Ranked in the vocabulary that the sets were made for.
        n_genes : int array, shape (n_asked,), optional
            How many of its first genes each cell shows; by default all it has.
        rows : int array, shape (n_asked,), optional
            Which cells are asked about; by default all. One may come again, with another number of genes.

        Returns
        -------
        float64 array, shape (n_asked, n_sets)
        """
        rows = np.arange(len(cells)) if rows is None else rows
        shown = cells.lengths[rows]
        if n_genes is not None:
            shown = np.minimum(shown, n_genes)
        indptr = np.concatenate([[0], np.cumsum(shown)])
        at = np.arange(indptr[-1]) + np.repeat(cells.indptr[rows] - indptr[:-1], shown)
        sentences = sp.csr_matrix(
            (np.ones(len(at), np.int64), cells.genes[at], indptr),
            shape=(len(rows), self.members.shape[0]),
        )
        overlap = (sentences @ self.members).toarray()
        sizes = np.asarray(self.members.sum(axis=0)).ravel()
        # Few of these triples are different, and equal ones get the very same number, so that ties are ties.
        most = int(overlap.max(initial=0)) + 1
        kinds, kind = np.unique(sizes, return_inverse=True)
        code = (shown[:, None] * len(kinds) + kind[None, :]) * most + overlap
        different, where = np.unique(code, return_inverse=True)
        rest, k = np.divmod(different, most)
        n, size = np.divmod(rest, max(len(kinds), 1))
        tail = log_upper_tail(k, self.members.shape[0], kinds[size], n)
        return tail[where].reshape(overlap.shape)

    def best(
        self,
        cells: RankedCells,
        number: int,
        n_genes: np.ndarray | None = None,
        rows: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the `number` most enriched sets of each cell, the most enriched first; ties in the order of the file.

        Parameters are those of `log_p`.

        Returns
        -------
        int64 array, shape (n_asked, number)
            Places in `names`.
        """
        rows = np.arange(len(cells)) if rows is None else rows
        found = np.empty((len(rows), number), np.int64)
        size = max(1, _PAIRS // max(len(self.names), 1))
        for start in range(0, len(rows), size):
            block = slice(start, start + size)
            p = self.log_p(cells, None if n_genes is None else n_genes[block], rows[block])
            found[block] = np.argsort(p, axis=1, kind="stable")[:, :number]
        return found


def log_upper_tail(k: np.ndarray, total: int, good: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Return log P(X ≥ k) of the hypergeometric distribution, as `scipy.stats.hypergeom.logsf(k - 1, …)`.

    SciPy computes this number by number in Python; here a sum runs over all of them at once, always away from the
    mean, so that its terms fall.

    Parameters
    ----------
    k : int array, shape (n,)
        Good ones among those drawn; a number that can be.
    total
        Of all, drawn or not.
    good, drawn : int array, shape (n,)
        Good ones in all, and how many are drawn.

    Returns
    -------
    float64 array, shape (n,)
    """
    k, good, drawn = (np.asarray(a, np.int64) for a in (k, good, drawn))
    above = k * total > good * drawn
    at = np.where(above, k, k - 1)
    logs = _log_p(at, total, good, drawn) + np.log(_sum_outwards(at, total, good, drawn, above))
    logs = np.minimum(logs, 0.0)
    below = np.log1p(-np.exp(logs, where=~above, out=np.zeros(len(k))))
    return np.where(above, logs, below)


def _sum_outwards(
    at: np.ndarray, total: int, good: np.ndarray, drawn: np.ndarray, above: np.ndarray
) -> np.ndarray:
    """Return the sum of p from `at` on, upwards where `above` and else downwards, divided by p of `at`.

    Above the mean that is the tail itself, below it what lies under the tail.
    """
    j, good, drawn = at.astype(float), good.astype(float), drawn.astype(float)
    rest = total - good - drawn  # of those that are neither good nor drawn there are rest + j
    summed, term = np.ones(len(at)), np.where(at >= 0, 1.0, 0.0)
    while (term > 1e-17 * summed).any():
        up, down = (good - j) * (drawn - j), j * (rest + j)
        over, under = (j + 1) * (rest + j + 1), (good - j + 1) * (drawn - j + 1)
        ratio = np.where(above, up, down) / np.where(above, over, under)
        term = np.maximum(term * ratio, 0.0)
        summed += term
        j += np.where(above, 1, -1)
    return summed


def _log_p(k: np.ndarray, total: int, good: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Return log P(X = k), −inf where that cannot be."""
    from scipy.special import gammaln

    log_factorial = gammaln(np.arange(total + 1) + 1.0)

    def log_choose(n: np.ndarray, m: np.ndarray) -> np.ndarray:
        inside = (m >= 0) & (m <= n)
        m = np.where(inside, m, 0)
        found = log_factorial[n] - log_factorial[m] - log_factorial[n - m]
        return np.where(inside, found, -np.inf)

    every = np.full(len(k), total)
    return log_choose(good, k) + log_choose(total - good, drawn - k) - log_choose(every, drawn)
