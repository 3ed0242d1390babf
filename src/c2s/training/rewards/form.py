"""Rewards of the form of an answer: is it a cell, of the right length, without repetitions and unknown words; or is it,
letter by letter, the true text.

All but the last are NaN where no genes were asked for.
"""

from __future__ import annotations

import numpy as np

from c2s.training.rewards.base import Rollouts


def validity(rollouts: Rollouts) -> np.ndarray:
    """Return 1 for a cell of exactly the asked number of known genes, none twice, else 0. float64, shape (n,)."""
    right = (rollouts.repeated == 0) & (rollouts.unknown == 0)
    right &= _words(rollouts) == rollouts.asked_genes
    return _where_asked(right, rollouts)


def length(rollouts: Rollouts) -> np.ndarray:
    """Return ``−|n − asked| / asked``, with n all words of an answer. float64, shape (n,).

    Repeated genes and unknown words count as words: what is wrong with them is for the other penalties.
    """
    asked = np.maximum(rollouts.asked_genes, 1)
    return _where_asked(-np.abs(_words(rollouts) - asked) / asked, rollouts)


def repetition(rollouts: Rollouts) -> np.ndarray:
    """Return minus the share of words that name a gene again; 0 without words. float64, shape (n,)."""
    return _where_asked(-rollouts.repeated / np.maximum(_words(rollouts), 1), rollouts)


def unknown_genes(rollouts: Rollouts) -> np.ndarray:
    """Return minus the share of words that are no gene; 0 without words. float64, shape (n,)."""
    return _where_asked(-rollouts.unknown / np.maximum(_words(rollouts), 1), rollouts)


def match(rollouts: Rollouts) -> np.ndarray:
    """Return 1 for an answer that is the true text, else 0; NaN for tasks of cells. float64, shape (n,)."""
    if rollouts.references is None:
        return np.full(len(rollouts), np.nan)
    pairs = zip(rollouts.texts, rollouts.references, strict=True)
    return np.array([float(text.strip() == true.strip()) for text, true in pairs])


def _words(rollouts: Rollouts) -> np.ndarray:
    """Return how many words each answer has."""
    genes = 0 if rollouts.cells is None else rollouts.cells.lengths
    return np.asarray(genes + rollouts.repeated + rollouts.unknown)


def _where_asked(values: np.ndarray, rollouts: Rollouts) -> np.ndarray:
    """Return the values as float64, NaN for an answer that was not to be a cell."""
    asked = (rollouts.asked_genes > 0) & (rollouts.cells is not None)
    return np.where(asked, values, np.nan)
