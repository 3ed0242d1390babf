"""Compiled walks through the trie of a cell sentence, for many sentences at once.

A sentence is a row of `States`. Token ids are counted by *column*, their position among all tokens that can ever be
allowed (`GeneSentence.tokens`), so that nothing here is as long as a model's vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit


class Trie(NamedTuple):
    """The arrays of a `TokenTrie` that the kernels walk.

    Attributes
    ----------
    child_start : int64, (n_nodes + 1,)
    column : int64, (n_nodes - 1,)
        Of the token that leads to node `r + 1`; ascending among the children of a node. −1 leads to the forms of
        genes at the beginning of a sentence and is never taken.
    parent, item_at, below, first : int64, (n_nodes,)
    order : int64, (n_items,)
        See `TokenTrie`.
    end_column : int
        The column of the token that ends a sentence.
    start : int
        The node that a sentence begins in, 1 where genes have a form of their own there, else 0. The children of
        the root that begin a later gene are those from row `start` on.
    node_of : int64, (n_genes,)
        Where the usual form of each gene ends.
    required : bool, (n_genes,)
        The genes that a sentence must have.
    required_ranks : int64, (n_required,)
        Where in `order` they are, ascending.
    """

    child_start: np.ndarray
    column: np.ndarray
    parent: np.ndarray
    item_at: np.ndarray
    below: np.ndarray
    order: np.ndarray
    first: np.ndarray
    end_column: int
    start: int
    node_of: np.ndarray
    required: np.ndarray
    required_ranks: np.ndarray


class States(NamedTuple):
    """Where several sentences stand, a row each.

    Attributes
    ----------
    node : int64, (n,)
        Inside the gene that is being written; 0 between genes.
    n_genes, n_tokens, n_missing : int64, (n,)
        Genes that are complete, tokens that were taken, and required genes that are not among the complete ones.
    genes : int32, (n, genes of a sentence)
        The complete genes, as items; −1 behind them.
    used : int32, (n, n_nodes)
        How many of the complete genes end at a node or below it.
    taken : bool, (n, n_genes)
        Whether a gene is among the complete ones.
    """

    node: np.ndarray
    n_genes: np.ndarray
    n_tokens: np.ndarray
    n_missing: np.ndarray
    genes: np.ndarray
    used: np.ndarray
    taken: np.ndarray


def finished(states: States) -> States:
    """Return what is left to know of finished sentences, without the long rows that only writing them needs.

    Copies: a view of no columns would keep the whole array.
    """
    return states._replace(used=states.used[:, :0].copy(), taken=states.taken[:, :0].copy())


@njit(cache=True, nogil=True)
def allowed(trie, states, row, out):  # type: ignore[no-untyped-def]
    """Write the columns of the tokens that may come next, ascending; return how many there are."""
    node = states.node[row]
    only = only_required(trie, states, row, -1)
    # Looked up here: a call for each of thousands of children would take most of the time.
    below, used = trie.below, states.used[row]
    n = 0
    at, last = trie.child_start[node], trie.child_start[node + 1]
    if node == 0:
        at += trie.start
    if not may_end(trie, states, row, node, only):
        for child in range(at + 1, last + 1):
            if used[child] < below[child] and (not only or _n_missing(trie, states, row, child)):
                out[n] = trie.column[child - 1]
                n += 1
        return n

    final = states.n_genes[row] + 1 == states.genes.shape[1]
    # Behind a whole gene: its own continuations, and what begins the next gene, both ascending.
    begin = trie.child_start[0] + trie.start
    begin_last = begin if final else trie.child_start[1]
    closed = -1 if final else _closed_if_ended(trie, states, row, trie.item_at[node])
    only_behind = only_required(trie, states, row, trie.item_at[node])
    end_open = final
    while at < last or begin < begin_last or end_open:
        inside = trie.column[at] if at < last else np.int64(2**62)
        behind = trie.column[begin] if begin < begin_last else np.int64(2**62)
        if end_open and trie.end_column < inside:
            out[n] = trie.end_column
            n += 1
            end_open = False
        elif inside < behind:
            at += 1
            if used[at] < below[at] and (not only or _n_missing(trie, states, row, at)):
                out[n] = inside
                n += 1
        else:
            begin += 1
            is_open = used[begin] < below[begin] and begin != closed
            if is_open and (not only_behind or _n_missing(trie, states, row, begin)):
                out[n] = behind
                n += 1
    return n


@njit(cache=True, nogil=True)
def advance(trie, states, row, column) -> None:  # type: ignore[no-untyped-def]
    """Take an allowed token."""
    states.n_tokens[row] += 1
    only = only_required(trie, states, row, -1)
    child = find_child(trie, states.node[row], column)
    if child < 0 or n_open(trie, states, row, child, only) == 0:
        _end_gene(trie, states, row, states.node[row])
        if states.n_genes[row] == states.genes.shape[1]:
            return
        only = only_required(trie, states, row, -1)
        child = find_child(trie, 0, column)
    states.node[row] = child
    if may_end(trie, states, row, child, only) and n_open(trie, states, row, child, only) == 1:
        _end_gene(trie, states, row, child)


@njit(cache=True, nogil=True)
def replay(trie, states, columns, lengths, out):  # type: ignore[no-untyped-def]
    """Walk through sentences that were written, and mark in `out` what was allowed at each place.

    `columns` are those of the tokens, (n, longest), of which `lengths` belong to each sentence; `out` is
    (n, longest, n_columns), false. Returns −1, or the number `row * longest + place` of a token that is not allowed.
    """
    longest = columns.shape[1]
    found = np.empty(out.shape[2], np.int64)
    for row in range(len(lengths)):
        for place in range(lengths[row]):
            if states.n_genes[row] == states.genes.shape[1]:
                return row * longest + place
            n = allowed(trie, states, row, found)
            for k in range(n):
                out[row, place, found[k]] = True
            if not out[row, place, columns[row, place]]:
                return row * longest + place
            advance(trie, states, row, columns[row, place])
    return -1


@njit(cache=True, nogil=True)
def only_required(trie, states, row, ended):  # type: ignore[no-untyped-def]
    """Whether as many required genes are missing as there are places left, in the gene that is being written.

    `ended` is a gene that is taken to be complete already, or −1.
    """
    left = states.genes.shape[1] - states.n_genes[row]
    missing = states.n_missing[row]
    if ended >= 0:
        left -= 1
        missing -= trie.required[ended]
    return missing > 0 and missing == left


@njit(cache=True, nogil=True)
def n_open(trie, states, row, node, only):  # type: ignore[no-untyped-def]
    """Return how many genes at a node and below it may still be written; `only` counts none but required ones."""
    if only:
        return _n_missing(trie, states, row, node)
    return trie.below[node] - states.used[row, node]


@njit(cache=True, nogil=True)
def _n_missing(trie, states, row, node):  # type: ignore[no-untyped-def]
    """Return how many required genes at a node and below it are not written yet."""
    at = np.searchsorted(trie.required_ranks, trie.first[node])
    n = 0
    while at < len(trie.required_ranks):
        rank = trie.required_ranks[at]
        if rank >= trie.first[node] + trie.below[node]:
            break
        n += not states.taken[row, trie.order[rank]]
        at += 1
    return n


@njit(cache=True, nogil=True)
def may_end(trie, states, row, node, only):  # type: ignore[no-untyped-def]
    """Whether a gene ends at a node that may be written; `only` is as in `n_open`."""
    item = trie.item_at[node]
    return item >= 0 and not states.taken[row, item] and (trie.required[item] or not only)


@njit(cache=True, nogil=True)
def find_child(trie, node, column):  # type: ignore[no-untyped-def]
    """Return the child of a node behind a token, or −1."""
    low, last = trie.child_start[node], trie.child_start[node + 1]
    high = last
    while low < high:
        middle = (low + high) // 2
        if trie.column[middle] < column:
            low = middle + 1
        else:
            high = middle
    return low + 1 if low < last and trie.column[low] == column else -1


@njit(cache=True, nogil=True)
def _closed_if_ended(trie, states, row, item):  # type: ignore[no-untyped-def]
    """Return the child of the root that would have no genes left if a gene were complete, else −1."""
    node = trie.node_of[item]
    while trie.parent[node] > 0:
        node = trie.parent[node]
    only = only_required(trie, states, row, item)
    # The gene itself is counted among the open ones, unless it is none of the required ones that are counted.
    counted = trie.required[item] or not only
    return node if n_open(trie, states, row, node, only) == counted else -1


@njit(cache=True, nogil=True)
def _end_gene(trie, states, row, node) -> None:  # type: ignore[no-untyped-def]
    """Complete the gene that ends at a node."""
    item = trie.item_at[node]
    states.genes[row, states.n_genes[row]] = item
    states.n_genes[row] += 1
    states.taken[row, item] = True
    states.n_missing[row] -= trie.required[item]
    node = trie.node_of[item]
    while node > 0:
        states.used[row, node] += 1
        node = trie.parent[node]
    states.node[row] = 0
