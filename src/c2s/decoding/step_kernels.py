"""Compiled drawing for engines that keep their own batch: states are told what was written, and draws take nothing.

All work on the arrays of `c2s.constraints.kernels`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from c2s.constraints import kernels as constraint
from c2s.decoding.kernels import choose_column


@njit(cache=True, nogil=True)
def catch_up(trie, states, rows, starts, columns) -> None:  # type: ignore[no-untyped-def]
    """Take what was written in each row since it was last looked at.

    Parameters
    ----------
    rows : int64, (n,)
        Rows of `states`.
    starts : int64, (n + 1,)
        Row `i` takes `columns[starts[i]:starts[i + 1]]`.
    columns : int64
    """
    for i in range(len(rows)):
        for column in columns[starts[i] : starts[i + 1]]:
            constraint.advance(trie, states, rows[i], column)


@njit(cache=True, nogil=True)
def draw(  # type: ignore[no-untyped-def]
    trie, states, rows, keys, logits, temperatures, top_k, top_p, drawn
) -> None:  # fmt: skip
    """Draw the next token of each row as `c2s.decoding.kernels.take` does, without taking it.

    Parameters
    ----------
    rows : int64, (n,)
        Rows of `states`.
    keys : uint64, (n,)
    logits : float32, (n, n_columns)
    temperatures : float64, (genes of a sentence,)
        While each gene is written.
    drawn : int64, (n,)
        Written: columns; −1 where the sentence is complete.
    """
    columns = np.empty(logits.shape[1], np.int64)
    weights = np.empty(logits.shape[1], np.float64)
    for i in range(len(rows)):
        row = rows[i]
        if states.n_genes[row] == states.genes.shape[1]:
            drawn[i] = -1
            continue
        n = constraint.allowed(trie, states, row, columns)
        drawn[i] = choose_column(
            logits[i], columns, n, temperatures[states.n_genes[row]], top_k, top_p,
            keys[i], states.n_tokens[row], states.node[row] > trie.start, weights,
        )  # fmt: skip
