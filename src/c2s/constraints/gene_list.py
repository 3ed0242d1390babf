"""A list of different genes that the model ends itself; `GeneSentence` is the one with an exact number of genes."""

from __future__ import annotations

import numpy as np

from c2s.constraints.trie import GeneSentence, TokenTrie


class GeneList:
    """Genes of a vocabulary only, none twice, at least one and at most `most`, then the end.

    Parameters
    ----------
    trie
        Token sequences of all genes as they stand behind a space.
    most
        Genes of a list at most.
    end_token
        What ends a list.

    Raises
    ------
    UsageError, InputError
        As `GeneSentence`.
    """

    def __init__(self, trie: TokenTrie, most: int, end_token: int) -> None:
        # The longest list is such a sentence, so what it refuses cannot be a list either.
        self.max_tokens = GeneSentence(trie, most, end_token).max_tokens
        self.trie, self.most, self.end_token = trie, most, end_token

    def start(self) -> GeneListState:
        """Return the state before the first gene."""
        return GeneListState(self)


class GeneListState:
    """Where one list stands. As in a `GeneSentence`, the token behind a gene says whether it was whole.

    Attributes
    ----------
    genes : list of int
        The genes so far, as items of the trie.
    done
        Whether the list is complete.
    """

    def __init__(self, constraint: GeneList) -> None:
        self._constraint, self._trie = constraint, constraint.trie
        self.genes: list[int] = []
        self.done = False
        self._node = 0
        self._free = constraint.trie.below.copy()  # genes at a node or below it that were not taken

    @property
    def progress(self) -> float:
        """0: the answer is no cell."""
        return 0.0

    def allowed(self) -> np.ndarray:
        """Return the token ids that may come next. int64, ascending."""
        tokens = self._open(self._node)
        if self._whole():
            tokens = np.append(tokens, self._constraint.end_token)
            if len(self.genes) + 1 < self._constraint.most:
                self._count(-1)  # as if it were taken
                tokens = np.append(tokens, self._open(0))
                self._count(+1)
        return np.unique(tokens)

    def advance(self, token: int) -> None:
        """Take the next token."""
        below = self._trie.child(self._node, token)
        if below < 0:
            self.genes.append(int(self._trie.item_at[self._node]))
            self._count(-1)
            self.done = token == self._constraint.end_token
            below = 0 if self.done else self._trie.child(0, token)
        self._node = below

    def _whole(self) -> bool:
        """Whether a gene ends here that was not taken before."""
        item = int(self._trie.item_at[self._node])
        return item >= 0 and item not in self.genes

    def _open(self, node: int) -> np.ndarray:
        """Return the tokens that lead from a node to genes that were not taken."""
        first, last = self._trie.child_start[node], self._trie.child_start[node + 1]
        children = self._trie.child_node[first:last]
        return self._trie.child_token[first:last][self._free[children] > 0]

    def _count(self, change: int) -> None:
        """Change the number of free genes on the way to here."""
        node = self._node
        while node >= 0:
            self._free[node] += change
            node = int(self._trie.parent[node])
