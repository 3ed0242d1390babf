"""Generation baselines: what a language model has to beat at making cells of a type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from c2s.baselines._checks import require_known, training_labels
from c2s.common.errors import UsageError
from c2s.common.seeds import generator

if TYPE_CHECKING:
    import scipy.sparse as sp

#: Cells that `drawn_in_blocks` draws at a time.
BLOCK = 128

_BLOCK_VALUES = 1 << 22  # draws held at once: 32 MiB of int64


class GenerationBaseline(Protocol):
    """What every generation baseline offers.

    Attributes
    ----------
    name
        Key in tables and in ``metrics.json``.
    needs_counts
        True where `fit` takes raw counts; else it takes log10-normalised expression.
    types_ : array of str, shape (n_types,)
        Sorted labels, known after `fit`.
    """

    name: str
    needs_counts: bool
    types_: np.ndarray

    def fit(self, matrix: sp.csr_matrix, labels: np.ndarray) -> GenerationBaseline:
        """Learn from training cells, CSR (n_cells, n_genes), and their labels."""
        ...

    def sample(self, labels: np.ndarray, seed: int) -> sp.csr_matrix:
        """Return one cell for each label, CSR (n, n_genes) in the units of the training matrix.

        The cells of a type depend on the seed, the type and their number within the type, and not on which other types
        are asked for, nor on how many.
        """
        ...


class IndependentResampling:
    """Cells whose genes are each drawn on their own from the training cells of the type.

    Every gene of a sampled cell takes the value that it has in a random training cell of the type,
    another cell for each gene. The samples have the right distribution of every single gene and no
    correlation between genes beyond the type: a generator that does no better has learned the
    margins only. Sentences are made from the result as from any expression matrix.

    Attributes
    ----------
    types_ : array of str, shape (n_types,)
        Sorted labels, known after `fit`.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> cells = sp.csr_matrix([[1.0, 2], [3, 0], [0, 5]])
    >>> model = IndependentResampling().fit(cells, ["a", "a", "b"])
    >>> model.sample(["b", "b"], seed=0).toarray()
    array([[0., 5.],
           [0., 5.]])
    """

    name = "independent"
    needs_counts = False

    types_: np.ndarray

    def __init__(self) -> None:
        self._cells: dict[str, sp.csc_matrix] = {}

    def fit(self, matrix: sp.csr_matrix, labels: np.ndarray) -> IndependentResampling:
        """Keep the training cells of each type.

        Parameters
        ----------
        matrix : CSR, shape (n_cells, n_genes)
            log10-normalised expression.
        labels : array of str, shape (n_cells,)

        Raises
        ------
        InputError
            Not one label per cell, or a missing label.
        """
        labels = training_labels(self.name, matrix, labels)
        self.types_ = np.unique(labels)
        self._cells = {}
        for kind in self.types_:
            cells = matrix[labels == kind].tocsc()
            cells.eliminate_zeros()  # a stored zero would count as an expressed value
            self._cells[str(kind)] = cells
        return self

    def sample(self, labels: np.ndarray, seed: int) -> sp.csr_matrix:
        """Draw one cell for each requested label.

        Parameters
        ----------
        labels : array of str, shape (n,)
            Type of each cell wanted; may repeat.
        seed
            The cells of a type depend on the seed, the type and their number within the type, and
            not on which other types are asked for.

        Returns
        -------
        CSR, shape (n, n_genes)
            Expression in the units of the training matrix; row i is of type ``labels[i]``.

        Raises
        ------
        InputError
            A label that was not in the training cells.
        UsageError
            `fit` was not called.
        """

        def draw(kind: str, n: int) -> list[sp.csr_matrix]:
            return _draw(self._cells[kind], n, generator(seed, self.name, kind))

        return drawn_by_type(self.name, self._cells, labels, draw)


def drawn_by_type(
    name: str,
    fitted: Mapping[str, object],
    labels: np.ndarray,
    draw: Callable[[str, int], list[sp.csr_matrix]],
) -> sp.csr_matrix:
    """Return one cell for each label: cells are drawn type by type and put into the order of the labels.

    Parameters
    ----------
    name
        Of the baseline, for messages.
    fitted
        What was learned, by type; empty before `fit`.
    labels : array of str, shape (n,)
        Type of each cell wanted; may repeat.
    draw
        Given a type and a number of cells, returns them in at least one block, also where there are none.

    Returns
    -------
    CSR, shape (n, n_genes)

    Raises
    ------
    InputError
        A label is not in `fitted`.
    UsageError
        `fitted` is empty.
    """
    import scipy.sparse as sp

    if not fitted:
        raise UsageError(f"{name}: fit() was not called; call it with training cells first")
    wanted = np.asarray(labels).astype(str)
    require_known(name, wanted, np.array(sorted(fitted)))
    kinds = [str(kind) for kind in np.unique(wanted)] or [next(iter(fitted))]
    rows = [np.flatnonzero(wanted == kind) for kind in kinds]
    blocks = [b for kind, of in zip(kinds, rows, strict=True) for b in draw(kind, len(of))]
    by_type = sp.csr_matrix(sp.vstack(blocks, format="csr"))
    return by_type[np.argsort(np.concatenate(rows))]


def drawn_in_blocks(
    draw: Callable[[np.random.Generator], sp.csr_matrix], n: int, *keys: str | int
) -> list[sp.csr_matrix]:
    """Return `n` cells in blocks of `BLOCK`, the last one cut, so that a cell does not depend on how many are wanted.

    Parameters
    ----------
    draw
        Given a generator, returns `BLOCK` cells.
    n
        Cells wanted. For none there is one block without rows.
    *keys
        The seed, and what else the draws belong to.
    """
    seed, *names = keys
    return [
        draw(generator(int(seed), *names, start))[: n - start]
        for start in range(0, max(n, 1), BLOCK)
    ]


def copy_training(
    matrix: sp.csr_matrix, labels: np.ndarray, wanted: np.ndarray, seed: int
) -> sp.csr_matrix:
    """Return random training cells of the wanted types: a memoriser, made on purpose.

    It has perfect margins and correlations and is worthless as a generator. A check for memorising
    that does not catch it is broken.

    Parameters
    ----------
    matrix : CSR, shape (n_cells, n_genes)
        Training cells.
    labels : array of str, shape (n_cells,)
    wanted : array of str, shape (n,)
        Type of each cell wanted; may repeat.
    seed
        Chooses the cells, with replacement.

    Returns
    -------
    CSR, shape (n, n_genes)
        Row i is a training cell of type ``wanted[i]``.

    Raises
    ------
    InputError
        Not one label per training cell, a missing label, or a wanted type without training cells.
    """
    known = training_labels("copy_training", matrix, labels)
    wanted = np.asarray(wanted).astype(str)
    require_known("copy_training", wanted, np.unique(known))
    rows = np.empty(len(wanted), dtype=np.int64)
    for kind in np.unique(wanted):
        cells = np.flatnonzero(known == kind)
        places = np.flatnonzero(wanted == kind)
        rng = generator(seed, "copy_training", str(kind))
        rows[places] = cells[rng.integers(len(cells), size=len(places))]
    return matrix[rows]


def _draw(cells: sp.csc_matrix, n: int, rng: np.random.Generator) -> list[sp.csr_matrix]:
    """Return `n` cells in blocks, each gene drawn uniformly from the rows of `cells` on its own.

    A gene with z non-zero values in N cells takes the j-th of them if a uniform draw j from 0..N-1
    is below z, else zero. That is a draw of a random cell for each gene, the cells that express it
    being counted first; the order in which cells are counted does not matter to a uniform draw.
    """
    import scipy.sparse as sp

    n_cells, genes = cells.shape
    nonzero = np.diff(cells.indptr)
    expressed = np.flatnonzero(nonzero)
    rows = max(1, _BLOCK_VALUES // max(1, len(expressed)))
    blocks = []
    for start in range(0, max(n, 1), rows):  # for no cell one block without rows
        size = min(rows, n - start)
        drawn = rng.integers(n_cells, size=(size, len(expressed)))
        row, place = np.nonzero(drawn < nonzero[expressed])
        gene = expressed[place]
        values = cells.data[cells.indptr[gene] + drawn[row, place]]
        indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=size))])
        blocks.append(sp.csr_matrix((values, gene, indptr), shape=(size, genes)))
    return blocks
