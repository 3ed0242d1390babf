"""The space that cells are compared in: an encoder and the way from sentences to expression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from c2s.cells.inverse import RankExpressionModel
from c2s.cells.ranked import RankedCells
from c2s.common.errors import InputError
from c2s.training.rewards.base import RealCells, Rollouts

if TYPE_CHECKING:
    from c2s.cells.vocabulary import GeneVocabulary
    from c2s.encoders.base import CellEncoder


class CellSpace:
    """Where cells are placed, generated ones and real ones alike.

    What is placed is placed once: several rewards, and `watch`, share it.

    Parameters
    ----------
    encoder
        Any encoder.
    inverse
        From rank to expression (SPEC §3), the one that `RealCells.expression` came through.
    """

    def __init__(self, encoder: CellEncoder, inverse: RankExpressionModel) -> None:
        self.encoder, self.inverse = encoder, inverse
        self._nothing: np.ndarray | None = None

    def places(self, rollouts: Rollouts, columns: np.ndarray | None = None) -> np.ndarray:
        """Return the places of generated cells.

        Parameters
        ----------
        rollouts
            With cells.
        columns : int array, optional
            Genes that count; all others are zeroed before the encoder sees the cell. By default all count.

        Returns
        -------
        float64 array, shape (n, n_dimensions)
            NaN for a cell without genes: a profile of zeros may lie near the middle of the space, and would then be a
            good answer. NaN too for a cell that the encoder refuses, and for tasks without cells.
        """
        cells = rollouts.cells
        if cells is None:
            return np.full((len(rollouts), self.encoder.n_dimensions), np.nan)

        def place() -> np.ndarray:
            found = self._encode(self.inverse.expression(cells), cells.vocabulary, columns)
            found[cells.lengths == 0] = np.nan
            return found

        return rollouts.once((self, _key(columns)), place)

    def real_places(self, real: RealCells, columns: np.ndarray | None = None) -> np.ndarray:
        """Return the places of real cells; parameters as `places`. float64, shape (n_real, n_dimensions).

        Raises
        ------
        InputError
            The encoder refuses all of them.
        """
        vocabulary = real.cells.vocabulary

        def place() -> np.ndarray:
            found = self._encode(real.expression, vocabulary, columns)
            if len(real) and not placed(found).any():
                self.encoder.encode(real.expression, vocabulary)  # says why in its own words
            return found

        return real.once((self, _key(columns)), place)

    def _encode(
        self, expression: sp.csr_matrix, vocabulary: GeneVocabulary, columns: np.ndarray | None
    ) -> np.ndarray:
        """Return places; cells that have none of the genes are where the encoder places nothing, or NaN."""
        if columns is not None:
            expression = _only(expression, columns)
        some = np.diff(expression.indptr) > 0
        result = np.empty((expression.shape[0], self.encoder.n_dimensions))
        if some.any():
            result[some] = self._encode_known(expression[np.flatnonzero(some)], vocabulary)
        if not some.all():
            result[~some] = self._place_of_nothing(vocabulary)
        return result

    def _place_of_nothing(self, vocabulary: GeneVocabulary) -> np.ndarray:
        """Return where the encoder places a profile of zeros; NaN where it refuses one."""
        if self._nothing is None:
            zeros = sp.csr_matrix((1, len(vocabulary)), dtype=np.float32)
            self._nothing = self._encode_known(zeros, vocabulary)[0]
        return self._nothing

    def _encode_known(self, expression: sp.csr_matrix, vocabulary: GeneVocabulary) -> np.ndarray:
        """Return places, NaN for cells that the encoder refuses, as one none of whose genes it knows.

        One such answer must not end a run. They are found by halving, since they are few.
        """
        try:
            return np.asarray(self.encoder.encode(expression, vocabulary), np.float64)
        except InputError:
            n = expression.shape[0]
            if n == 1:
                return np.full((1, self.encoder.n_dimensions), np.nan)
            parts = (expression[: n // 2], expression[n // 2 :])
            return np.concatenate([self._encode_known(part, vocabulary) for part in parts])


def _key(columns: np.ndarray | None) -> bytes | None:
    return None if columns is None else columns.tobytes()


def _only(expression: sp.csr_matrix, columns: np.ndarray) -> sp.csr_matrix:
    """Return the matrix with all columns but some set to 0."""
    kept = np.zeros(expression.shape[1], dtype=bool)
    kept[columns] = True
    result = expression.copy()
    result.data[~kept[result.indices]] = 0
    result.eliminate_zeros()
    return result


def placed(points: np.ndarray) -> np.ndarray:
    """Return which points there are at all: rows without NaN. bool, shape (n,)."""
    return np.isfinite(points).all(axis=1)


def shared_genes(left: RankedCells, right: RankedCells) -> np.ndarray:
    """Return the share of genes that two sentences have in common: genes of both over those of the longer.

    Parameters
    ----------
    left, right
        Cells of one vocabulary.

    Returns
    -------
    float64 array, shape (n_left, n_right)
        0 to 1; 0 for a cell without genes.
    """
    both = np.asarray((_presence(left) @ _presence(right).T).todense(), dtype=np.float64)
    longer = np.maximum(left.lengths[:, None], right.lengths[None, :])
    return np.divide(both, longer, out=np.zeros(both.shape), where=longer > 0)


def _presence(cells: RankedCells) -> sp.csr_matrix:
    shape = (len(cells), len(cells.vocabulary))
    ones = np.ones(len(cells.genes), np.float32)
    return sp.csr_matrix((ones, cells.genes, cells.indptr), shape=shape)
