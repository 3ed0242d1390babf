"""Compiled choosing, guessing and checking of the tokens of cell sentences.

All work on the arrays of `c2s.constraints.kernels`; `logits` has one number a column of the constraint.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from c2s.constraints import kernels as constraint

# Of splitmix64, as in `c2s.common.seeds.mix64` and `c2s.decoding.sampling.uniform_numbers`.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


@njit(cache=True, nogil=True)
def uniform_number(key, step):  # type: ignore[no-untyped-def]
    """Return the number in [0, 1) of a sequence's key and a step."""
    return np.float64(_mixed(key, step) >> np.uint64(11)) * 2.0**-53


@njit(cache=True, nogil=True)
def waiting_time(key, step, column):  # type: ignore[no-untyped-def]
    """Return the number of a key, a step and a column, exponentially distributed with mean 1."""
    bits = _mixed(_mixed(key, step), column)
    return -np.log((np.float64(bits >> np.uint64(11)) + 0.5) * 2.0**-53)


@njit(cache=True, nogil=True)
def _mixed(key, counter):  # type: ignore[no-untyped-def]
    bits = key + np.uint64(counter + 1) * _STEP
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return bits ^ (bits >> np.uint64(31))


@njit(cache=True, nogil=True)
def choose_column(  # type: ignore[no-untyped-def]
    logits, columns, n, temperature, top_k, top_p, key, step, inside, weights
):
    """Draw one of the first `n` columns; probabilities are those of `c2s.decoding.sampling.choose`.

    At the start of a gene the draw is that of `choose` too. Inside a gene each token has a waiting time, divided by its
    probability, and the shortest is taken, which is the same distribution (Gumbel-max). There, another distribution
    that is not far away draws mostly the same token from the same numbers; that is what guesses live on.

    Parameters
    ----------
    logits : float32, (n_columns,)
    columns : int64, (n or more,)
    key, step
        Of the draw.
    inside : bool
        Whether a gene is being written.
    weights : float64, (n or more,)
        Room to work in.
    """
    if n == 1:
        return columns[0]
    best = 0
    for i in range(1, n):
        if logits[columns[i]] > logits[columns[best]]:
            best = i
    if temperature == 0:
        return columns[best]
    highest = np.float64(logits[columns[best]])
    for i in range(n):
        weights[i] = np.exp((np.float64(logits[columns[i]]) - highest) / temperature)
    if 0 < top_k < n:
        _keep_top_k(weights[:n], top_k)
    if top_p < 1:
        _keep_top_p(weights[:n], top_p)
    if inside:
        return columns[_first_to_come(weights, columns, n, key, step)]
    at, reached = uniform_number(key, step) * weights[:n].sum(), 0.0
    for i in range(n):
        reached += weights[i]
        if reached > at:
            return columns[i]
    return columns[best]  # only where rounding has left the sum behind the draw


@njit(cache=True, nogil=True)
def _first_to_come(weights, columns, n, key, step):  # type: ignore[no-untyped-def]
    """Return which of the first `n` has the shortest waiting time for its weight."""
    first, shortest = 0, np.inf
    for i in range(n):
        if weights[i] > 0:
            wait = waiting_time(key, step, columns[i]) / weights[i]
            if wait < shortest:
                first, shortest = i, wait
    return first


@njit(cache=True, nogil=True)
def _keep_top_k(weights, top_k) -> None:  # type: ignore[no-untyped-def]
    """Put 0 for all but the `top_k` largest; what equals the last of them stays."""
    lowest = np.partition(weights, len(weights) - top_k)[len(weights) - top_k]
    for i in range(len(weights)):
        if weights[i] < lowest:
            weights[i] = 0.0


@njit(cache=True, nogil=True)
def _keep_top_p(weights, top_p) -> None:  # type: ignore[no-untyped-def]
    """Put 0 for all but the largest, the fewest that reach this share of the sum."""
    total = weights.sum()
    # Less than this share each, all small ones together do not make what is cut off: they are in it.
    least = (1 - top_p) / len(weights) * total
    large = np.flatnonzero(weights >= least)
    order = large[np.argsort(-weights[large], kind="mergesort")]
    for i in range(len(weights)):
        if weights[i] < least:
            weights[i] = 0.0
    before = 0.0
    for i in order:
        weight = weights[i]
        if before >= top_p * total:
            weights[i] = 0.0
        before += weight


@njit(cache=True, nogil=True)
def take(  # type: ignore[no-untyped-def]
    trie, states, rows, keys, fed, n_fed, first_logits, logits, temperatures, top_k, top_p, n_taken
) -> None:  # fmt: skip
    """Draw the next tokens of each row, as far as what was fed is what is drawn.

    Parameters
    ----------
    rows : int64, (n,)
        Rows of `states`.
    keys : uint64, (n,)
    fed : int64, (n, n_tokens)
        Columns: the last token that was taken, then guesses. The new last token is written into `fed[:, 0]`.
    n_fed, first_logits : int64, (n,)
        How many were fed, and where in `logits` those behind the first of them are.
    logits : float32, (n_all, n_columns)
    temperatures : float64, (genes of a sentence,)
        While each gene is written.
    n_taken : int64, (n,)
        Written: how many tokens were drawn. All but the last of them had been guessed.
    """
    columns = np.empty(logits.shape[1], np.int64)
    weights = np.empty(logits.shape[1], np.float64)
    for i in range(len(rows)):
        row, j = rows[i], 0
        while True:
            n = constraint.allowed(trie, states, row, columns)
            column = choose_column(
                logits[first_logits[i] + j], columns, n, temperatures[states.n_genes[row]], top_k, top_p,
                keys[i], states.n_tokens[row], states.node[row] > trie.start, weights,
            )  # fmt: skip
            constraint.advance(trie, states, row, column)
            j += 1
            done = states.n_genes[row] == states.genes.shape[1]
            if done or j == n_fed[i] or column != fed[i, j]:
                break
        n_taken[i] = j
        fed[i, 0] = column


@njit(cache=True, nogil=True)
def guess(trie, states, rows, keys, counts, width, greedy, fed, n_fed) -> None:  # type: ignore[no-untyped-def]
    """Guess how the gene goes on that each row is writing, up to its end or as far as `fed` goes.

    A guess is what would be drawn, with the very numbers that the draw will use, if genes that are still open were
    as probable as they were frequent.

    Parameters
    ----------
    rows : int64, (n,)
        Rows of `states`.
    keys : uint64, (n,)
    counts : float32, (n_stretches, n_items)
        How often each gene was found in each stretch of a sentence.
    width : int
        Genes of a stretch.
    greedy : bool
        Guess what is most frequent: the most probable token will be taken.
    fed : int64, (n, n_tokens)
        `fed[:, 0]` is the last token of each row; guesses are written behind it.
    n_fed : int64, (n,)
        Written: 1 and the number of guesses.
    """
    for i in range(len(rows)):
        row = rows[i]
        stretch = min(states.n_genes[row] // width, counts.shape[0] - 1)
        node, step, n = states.node[row], states.n_tokens[row], 1
        while node > 0 and n < fed.shape[1]:
            node = _guessed_child(
                trie, states.taken[row], counts[stretch], node, keys[i], step, greedy
            )
            if node < 0:
                break
            fed[i, n] = trie.column[node - 1]
            n += 1
            step += 1
        n_fed[i] = n


@njit(cache=True, nogil=True)
def _guessed_child(trie, taken, counts, node, key, step, greedy):  # type: ignore[no-untyped-def]
    """Return the child that a gene is expected to go on with, −1 if it is expected to end."""
    item = trie.item_at[node]
    guessed, shortest = -1, np.inf
    if item >= 0 and not taken[item] and counts[item] > 0:
        # The end is any of the tokens that begin a gene; their waiting times are not looked at, but the median is.
        shortest = (1.0 if greedy else np.log(2.0)) / counts[item]
    for child in range(trie.child_start[node] + 1, trie.child_start[node + 1] + 1):
        weight = _open_weight(trie, taken, counts, child)
        if weight > 0:
            wait = 1.0 if greedy else waiting_time(key, step, trie.column[child - 1])
            if wait / weight < shortest:
                guessed, shortest = child, wait / weight
    return guessed


@njit(cache=True, nogil=True)
def _open_weight(trie, taken, counts, node):  # type: ignore[no-untyped-def]
    """Return the sum of the counts of the genes at a node and below it that are not taken."""
    weight = 0.0
    for at in range(trie.first[node], trie.first[node] + trie.below[node]):
        item = trie.order[at]
        if not taken[item]:
            weight += counts[item]
    return weight


@njit(cache=True, nogil=True)
def learn(states, rows, n_before, counts, width, near) -> None:  # type: ignore[no-untyped-def]
    """Count the genes that were written since each row had `n_before` genes.

    A gene counts 1 in its stretch and `near` times less in each further one away.
    """
    for i in range(len(rows)):
        row = rows[i]
        for rank in range(n_before[i], states.n_genes[row]):
            item = states.genes[row, rank]
            for stretch in range(counts.shape[0]):
                away = abs(stretch - min(rank // width, counts.shape[0] - 1))
                counts[stretch, item] += near**away
