"""A list of a given number of different names out of given ones, such as pathways before an answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from c2s.common.errors import UsageError
from c2s.constraints.trie import TokenTrie


class NameList:
    """So many different names, each with what stands behind it: a separator, or the end of the list.

    Parameters
    ----------
    inner, last
        Token ids of each name with the separator behind it, and with the end of the list. None is the beginning of
        another.
    number
        Names of a list.

    Raises
    ------
    UsageError
        There are fewer names, or `number` is below 1.
    InputError
        Two names have the same tokens, or one has none.
    """

    def __init__(
        self, inner: Sequence[Sequence[int]], last: Sequence[Sequence[int]], number: int
    ) -> None:
        if not 1 <= number <= len(inner) or len(inner) != len(last):
            raise UsageError(f"{number} of {len(inner):,} names cannot be listed, all different")
        self.number = number
        self._inner, self._last = TokenTrie(inner), TokenTrie(last)

    @property
    def max_tokens(self) -> int:
        """An upper bound for the tokens of a list: those of the names with the most tokens."""
        longest = np.sort(self._inner.lengths)[::-1][: self.number - 1]
        return int(longest.sum()) + self._last.depth

    def start(self) -> NameListState:
        """Return the state before the first name."""
        return NameListState(self)

    def trie(self, place: int) -> TokenTrie:
        """Return the names as they stand at a place of the list, counted from 0."""
        return self._last if place == self.number - 1 else self._inner


class NameListState:
    """Where one list stands.

    Attributes
    ----------
    names : list of int
        The names so far, as their places in the list of all names.
    tokens : list of int
        What was written.
    """

    def __init__(self, constraint: NameList) -> None:
        self._constraint = constraint
        self._node = 0
        self.names: list[int] = []
        self.tokens: list[int] = []

    @property
    def done(self) -> bool:
        """Whether the list is complete."""
        return len(self.names) == self._constraint.number

    @property
    def progress(self) -> float:
        """0: the answer is no cell."""
        return 0.0

    def allowed(self) -> np.ndarray:
        """Return the token ids that may come next: those that lead to a name that is not listed. int64, ascending."""
        if self.done:
            return np.empty(0, np.int64)
        trie = self._constraint.trie(len(self.names))
        first, stop = trie.child_start[self._node], trie.child_start[self._node + 1]
        children = trie.child_node[first:stop]
        # Of the names at a child and below it, which lie next to each other in the order of their tokens.
        begin, free = trie.first[children], trie.below[children].copy()
        for name in self.names:
            place = int(np.flatnonzero(trie.order == name)[0])
            free -= (begin <= place) & (place < begin + trie.below[children])
        return trie.child_token[first:stop][free > 0]

    def advance(self, token: int) -> None:
        """Take the next token."""
        trie = self._constraint.trie(len(self.names))
        self._node = trie.child(self._node, token)
        self.tokens.append(int(token))
        name = int(trie.item_at[self._node])
        if name >= 0:
            self.names.append(name)
            self._node = 0
