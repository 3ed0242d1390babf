"""Token tries, and what an answer may be: a state per sequence that says which tokens may follow.

No model is inside. A decoding engine asks a `TokenState` for the allowed token ids, chooses one and tells
the state; the same states serve any engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from c2s.common.errors import InputError, UsageError


class TokenState(Protocol):
    """Where one sequence stands."""

    @property
    def done(self) -> bool:
        """Whether the answer is complete."""

    def allowed(self) -> np.ndarray:
        """Return the token ids that may come next. int64, shape (n_allowed,), never empty unless done."""

    def advance(self, token: int) -> None:
        """Take the token that was chosen; it must be one of `allowed()`."""


class Constraint(Protocol):
    """What answers may be; makes the state that a new sequence starts in."""

    @property
    def max_tokens(self) -> int:
        """An upper bound for the number of tokens of an answer."""

    def start(self) -> TokenState:
        """Return the state at the beginning of an answer."""


class TokenTrie:
    """The token sequences of a list of items as a tree in arrays; one sequence may be the start of another.

    Attributes
    ----------
    child_start : int64, shape (n_nodes + 1,)
        The children of node `v` are rows `child_start[v]:child_start[v + 1]` of the next two.
    child_token, child_node : int64, shape (n_nodes - 1,)
        Token that leads to each child, ascending within a node, and the child.
    parent : int64, shape (n_nodes,)
        The node above, −1 for the root.
    item_at : int64, shape (n_nodes,)
        The item that ends at a node, or −1.
    below : int64, shape (n_nodes,)
        Number of items that end at a node or below it.
    depth
        Number of tokens of the longest item.

    Raises
    ------
    InputError
        Two items have the same tokens, or one has none.
    """

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        children: list[dict[int, int]] = [{}]
        item_at, below, parent = [-1], [0], [-1]
        for item, tokens in enumerate(sequences):
            node = 0
            below[0] += 1
            for token in tokens:
                child = children[node].get(int(token))
                if child is None:
                    child = len(children)
                    children[node][int(token)] = child
                    children.append({})
                    item_at.append(-1)
                    below.append(0)
                    parent.append(node)
                node = child
                below[node] += 1
            if node == 0:
                raise InputError(f"item {item} of the trie has no tokens")
            if item_at[node] >= 0:
                raise InputError(
                    f"items {item_at[node]} and {item} of the trie have the same tokens"
                )
            item_at[node] = item
        self.child_start = np.concatenate([[0], np.cumsum([len(c) for c in children])]).astype(
            np.int64
        )
        rows = [sorted(c.items()) for c in children]
        self.child_token = np.array([t for row in rows for t, _ in row], dtype=np.int64)
        self.child_node = np.array([v for row in rows for _, v in row], dtype=np.int64)
        self.item_at = np.array(item_at, dtype=np.int64)
        self.below = np.array(below, dtype=np.int64)
        self.parent = np.array(parent, dtype=np.int64)
        self.depth = max((len(s) for s in sequences), default=0)
        self._children = children

    def tokens(self, node: int) -> np.ndarray:
        """Return the tokens that lead on from a node, ascending."""
        return self.child_token[self.child_start[node] : self.child_start[node + 1]]

    def child(self, node: int, token: int) -> int:
        """Return the node behind a token, or −1."""
        return self._children[node].get(token, -1)


class GeneSentence:
    """A cell sentence: genes of a vocabulary only, none twice, exactly `n_genes`, then the end (SPEC §17).

    Parameters
    ----------
    trie
        Token sequences of all genes as they stand behind a space; item `g` is vocabulary column `g`.
    n_genes
        How many genes the sentence has.
    end_token
        What ends it, the tokenizer's end of text.

    Raises
    ------
    UsageError
        More genes are asked for than the trie holds.
    InputError
        A token that follows a whole gene may go on with a longer gene or begin another, so that
        what was written could not be told apart. No tokenizer that can be undone does this: behind
        a gene a new one begins with a space.
    """

    def __init__(self, trie: TokenTrie, n_genes: int, end_token: int) -> None:
        if not 1 <= n_genes <= trie.below[0]:
            raise UsageError(
                f"a sentence of {n_genes:,} genes, none twice, cannot be made of {trie.below[0]:,} genes"
            )
        self.trie, self.n_genes, self.end_token = trie, n_genes, end_token
        ends_above = np.repeat(trie.item_at >= 0, np.diff(trie.child_start))
        unclear = ends_above & np.isin(trie.child_token, [*trie.tokens(0), end_token])
        if unclear.any():
            raise InputError(
                f"token {trie.child_token[unclear][0]} may go on with a gene or begin the next one;"
                " genes must be tokenised with the space before them"
            )

    @property
    def max_tokens(self) -> int:
        """Longest possible answer in tokens."""
        return self.n_genes * self.trie.depth + 1

    def start(self) -> GeneSentenceState:
        """Return the state before the first gene."""
        return GeneSentenceState(self)


class GeneSentenceState:
    """Where one generated sentence stands: the genes so far, and the node inside the gene being written.

    A gene ends where its tokens end. If another gene begins with the same tokens (`IFI6` in `IFI6X`), the
    next token decides: one that goes on inside the trie, or one that begins a new gene or ends the text.
    """

    def __init__(self, constraint: GeneSentence) -> None:
        self.constraint = constraint
        self.genes: list[int] = []
        self.done = False
        self._node = 0
        # Genes used up at or below a node, and which children of a node are still open; made when needed.
        self._used: dict[int, int] = {}
        self._open: dict[int, np.ndarray] = {}

    def allowed(self) -> np.ndarray:
        """Return the token ids that may come next. int64, ascending within each part."""
        inside = self._open_tokens(self._node)
        if not self._may_end_here():
            return inside
        if len(self.genes) + 1 == self.constraint.n_genes:
            return np.append(inside, self.constraint.end_token)
        # The gene that would end here may not come again, so a subtree of which it is the rest is closed.
        begin = self._open_tokens(0)
        if len(path := self._exhausted_if_ended()):
            begin = begin[begin != path[0]]
        return np.concatenate([inside, begin])

    def advance(self, token: int) -> None:
        """Take the next token."""
        trie = self.constraint.trie
        child = trie.child(self._node, token)
        if self._node and child >= 0 and not self._is_open(child):
            child = -1
        if child < 0:
            self._end_gene()
            if len(self.genes) == self.constraint.n_genes:
                self.done = True
                return
            child = trie.child(0, token)
        self._node = child
        if trie.child_start[child] == trie.child_start[child + 1] or not len(
            self._open_tokens(child)
        ):
            self._end_gene()
            self.done = len(self.genes) == self.constraint.n_genes

    def _may_end_here(self) -> bool:
        item = self.constraint.trie.item_at[self._node]
        return bool(item >= 0 and item not in self.genes)

    def _open_tokens(self, node: int) -> np.ndarray:
        tokens = self.constraint.trie.tokens(node)
        return tokens[self._open[node]] if node in self._open else tokens

    def _is_open(self, child: int) -> bool:
        return self._used.get(child, 0) < self.constraint.trie.below[child]

    def _exhausted_if_ended(self) -> list[int]:
        """Return [token] of the root's child that would be closed if the gene ended here, else []."""
        trie, node = self.constraint.trie, self._node
        while trie.parent[node] != 0:
            node = trie.parent[node]
        if self._used.get(node, 0) + 1 < trie.below[node]:
            return []
        row = np.flatnonzero(trie.child_node[trie.child_start[0] : trie.child_start[1]] == node)[0]
        return [int(trie.tokens(0)[row])]

    def _end_gene(self) -> None:
        trie, node = self.constraint.trie, self._node
        self.genes.append(int(trie.item_at[node]))
        while node > 0:
            self._used[node] = self._used.get(node, 0) + 1
            parent = int(trie.parent[node])
            if self._used[node] == trie.below[node]:
                low, high = trie.child_start[parent], trie.child_start[parent + 1]
                if parent not in self._open:
                    self._open[parent] = np.ones(high - low, dtype=bool)
                self._open[parent][np.flatnonzero(trie.child_node[low:high] == node)[0]] = False
            node = parent
        self._node = 0


class OneOf:
    """One item of a list (a label), then the end.

    Parameters
    ----------
    sequences
        Token ids of each item as it stands behind a space.
    end_token
        What ends the answer.

    Raises
    ------
    UsageError
        The list is empty.
    InputError
        Two items have the same tokens.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], end_token: int) -> None:
        self.sequences = [list(map(int, s)) for s in sequences]
        self.end_token = end_token
        if not self.sequences:
            raise UsageError("there is nothing to choose from; give at least one label")
        self.trie = TokenTrie([[*s, end_token] for s in self.sequences])

    @property
    def max_tokens(self) -> int:
        """Longest possible answer in tokens."""
        return self.trie.depth

    def start(self) -> OneOfState:
        """Return the state before the first token."""
        return OneOfState(self.trie)


class OneOfState:
    """Where one label stands in its trie."""

    def __init__(self, trie: TokenTrie) -> None:
        self._trie, self._node = trie, 0

    @property
    def done(self) -> bool:
        """Whether an item is complete."""
        return bool(self._trie.item_at[self._node] >= 0)

    @property
    def item(self) -> int:
        """The item that was chosen, or −1 while it is not complete."""
        return int(self._trie.item_at[self._node])

    def allowed(self) -> np.ndarray:
        """Return the token ids that may come next."""
        return self._trie.tokens(self._node)

    def advance(self, token: int) -> None:
        """Take the next token."""
        self._node = self._trie.child(self._node, token)
