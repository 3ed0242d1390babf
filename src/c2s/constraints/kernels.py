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
        Of the token that leads to node `r + 1`; ascending among the children of a node.
    parent, item_at, below, first : int64, (n_nodes,)
    order : int64, (n_items,)
        See `TokenTrie`.
    end_column : int
        The column of the token that ends a sentence.
    """

    child_start: np.ndarray
    column: np.ndarray
    parent: np.ndarray
    item_at: np.ndarray
    below: np.ndarray
    order: np.ndarray
    first: np.ndarray
    end_column: int


class States(NamedTuple):
    """Where several sentences stand, a row each.

    Attributes
    ----------
    node : int64, (n,)
        Inside the gene that is being written; 0 between genes.
    n_genes, n_tokens : int64, (n,)
        Genes that are complete, and tokens that were taken.
    genes : int32, (n, genes of a sentence)
        The complete genes, as items; −1 behind them.
    used : int32, (n, n_nodes)
        How many of the complete genes end at a node or below it.
    taken : bool, (n, n_items)
        Whether an item is among the complete genes.
    """

    node: np.ndarray
    n_genes: np.ndarray
    n_tokens: np.ndarray
    genes: np.ndarray
    used: np.ndarray
    taken: np.ndarray


@njit(cache=True, nogil=True)
def allowed(trie, states, row, out):  # type: ignore[no-untyped-def]
    """Write the columns of the tokens that may come next, ascending; return how many there are."""
    node = states.node[row]
    used = states.used[row]
    n = 0
    at, last = trie.child_start[node], trie.child_start[node + 1]
    if not may_end(trie, states, row, node):
        for child in range(at + 1, last + 1):
            if used[child] < trie.below[child]:
                out[n] = trie.column[child - 1]
                n += 1
        return n

    final = states.n_genes[row] + 1 == states.genes.shape[1]
    # Behind a whole gene: its own continuations, and what begins the next gene, both ascending.
    begin, begin_last = (0, 0) if final else (trie.child_start[0], trie.child_start[1])
    closed = _closed_if_ended(trie, used, node)
    end_open = final
    while at < last or begin < begin_last or end_open:
        inside = trie.column[at] if at < last else np.int64(2**62)
        behind = trie.column[begin] if begin < begin_last else np.int64(2**62)
        if end_open and trie.end_column < inside:
            out[n] = trie.end_column
            n += 1
            end_open = False
        elif inside < behind:
            if used[at + 1] < trie.below[at + 1]:
                out[n] = inside
                n += 1
            at += 1
        else:
            if used[begin + 1] < trie.below[begin + 1] and begin + 1 != closed:
                out[n] = behind
                n += 1
            begin += 1
    return n


@njit(cache=True, nogil=True)
def advance(trie, states, row, column) -> None:  # type: ignore[no-untyped-def]
    """Take an allowed token."""
    states.n_tokens[row] += 1
    child = find_child(trie, states.node[row], column)
    if child < 0 or states.used[row, child] == trie.below[child]:
        _end_gene(trie, states, row, states.node[row])
        if states.n_genes[row] == states.genes.shape[1]:
            return
        child = find_child(trie, 0, column)
    states.node[row] = child
    open_items = trie.below[child] - states.used[row, child]
    if may_end(trie, states, row, child) and open_items == 1:
        _end_gene(trie, states, row, child)


@njit(cache=True, nogil=True)
def may_end(trie, states, row, node):  # type: ignore[no-untyped-def]
    """Whether a gene ends at a node that was not written before."""
    item = trie.item_at[node]
    return item >= 0 and not states.taken[row, item]


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
def _closed_if_ended(trie, used, node):  # type: ignore[no-untyped-def]
    """Return the child of the root that would have no genes left if the gene ended at `node`, else −1."""
    while trie.parent[node] > 0:
        node = trie.parent[node]
    return node if used[node] + 1 == trie.below[node] else -1


@njit(cache=True, nogil=True)
def _end_gene(trie, states, row, node) -> None:  # type: ignore[no-untyped-def]
    """Complete the gene that ends at a node."""
    item = trie.item_at[node]
    states.genes[row, states.n_genes[row]] = item
    states.n_genes[row] += 1
    states.taken[row, item] = True
    while node > 0:
        states.used[row, node] += 1
        node = trie.parent[node]
    states.node[row] = 0
