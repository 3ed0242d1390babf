"""Token tries, and what an answer may be: a state per sequence that says which tokens may follow.

No model is inside. A decoding engine asks a `TokenState` for the allowed token ids, chooses one and tells
the state; the same states serve any engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from c2s.common.errors import InputError, UsageError
from c2s.constraints import kernels


class TokenState(Protocol):
    """Where one sequence stands."""

    @property
    def done(self) -> bool:
        """Whether the answer is complete."""

    @property
    def progress(self) -> float:
        """Where in its cell the answer stands: 0 at the first gene, 1 at the last; 0 for what is no cell."""

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

    Nodes are numbered level by level, within a level in the order of their tokens, so the children of a node are
    neighbours and row `r` of the children is node `r + 1`.

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
    order : int64, shape (n_items,)
        The items in the order of their tokens.
    first : int64, shape (n_nodes,)
        The items at a node and below it are `order[first[v]:first[v] + below[v]]`.
    lengths : int64, shape (n_items,)
        Number of tokens of the items, in this order.
    depth
        Number of tokens of the longest item.
    sequences : list of tuples of int
        The token sequences.

    Raises
    ------
    InputError
        Two items have the same tokens, or one has none.
    """

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        self.sequences = rows = [tuple(map(int, tokens)) for tokens in sequences]
        if () in rows:
            raise InputError(f"item {rows.index(())} of the trie has no tokens")
        self.order = np.array(sorted(range(len(rows)), key=rows.__getitem__), dtype=np.int64)
        self.depth = max(map(len, rows), default=0)
        lengths = np.array([len(rows[item]) for item in self.order], dtype=np.int64)
        self.lengths = lengths
        tokens = np.full((len(rows), self.depth), -1, dtype=np.int64)
        inside = np.arange(self.depth) < lengths[:, None]
        tokens[inside] = [token for item in self.order for token in rows[item]]

        # A row makes a new node where it parts from the row before it, and at every token behind.
        new = inside.copy()
        new[1:] &= np.logical_or.accumulate(tokens[1:] != tokens[:-1], axis=1)
        same = np.flatnonzero(~new.any(axis=1))
        if len(same):
            a, b = self.order[same[0] - 1], self.order[same[0]]
            raise InputError(f"items {a} and {b} of the trie have the same tokens")
        node = np.cumsum(new.T.ravel()).reshape(new.T.shape).T  # (n_items, depth), level by level
        above = np.column_stack([np.zeros(len(rows), np.int64), node])[:, :-1]

        n_nodes = 1 + int(new.sum())
        self.child_token = tokens.T[new.T]
        self.child_node = np.arange(1, n_nodes, dtype=np.int64)
        self.parent = np.append(-1, above.T[new.T]).astype(np.int64)
        n_children = np.bincount(self.parent[1:], minlength=n_nodes)
        self.child_start = np.append(0, np.cumsum(n_children)).astype(np.int64)
        self.below = np.bincount(node[inside], minlength=n_nodes).astype(np.int64)
        self.below[0] = len(rows)
        self.first = np.append(0, np.nonzero(new.T)[1]).astype(np.int64)
        self.item_at = np.full(n_nodes, -1, dtype=np.int64)
        self.item_at[node[np.arange(len(rows)), lengths - 1]] = self.order

    def tokens(self, node: int) -> np.ndarray:
        """Return the tokens that lead on from a node, ascending."""
        return self.child_token[self.child_start[node] : self.child_start[node + 1]]

    def child(self, node: int, token: int) -> int:
        """Return the node behind a token, or −1."""
        tokens = self.tokens(node)
        at = int(np.searchsorted(tokens, token))
        found = at < len(tokens) and tokens[at] == token
        return int(self.child_start[node]) + at + 1 if found else -1


#: Leads to the forms of genes at the beginning of a sentence; no tokenizer has it.
_BEGINNING = -1


class GeneSentence:
    """A cell sentence: genes of a vocabulary only, none twice, exactly `n_genes`, then the end (SPEC §17).

    Parameters
    ----------
    trie
        Token sequences of all genes as they stand behind a space; item `g` is vocabulary column `g`.
    n_genes
        How many genes the sentence has.
    end_token
        What ends it: the tokenizer's end of text, or the first token of what stands behind the sentence.
    frequencies : float array, shape (n_items,), optional
        How often each gene is found in sentences, in any unit. It decides nothing; engines guess from it.
    required : int array, optional
        Items that the sentence must have. They are free to come anywhere; only when as many of them are
        missing as there are places left, nothing else may be written.
    beginnings : list of token sequences, optional
        How each gene is written at the beginning of the sentence, where that is not as behind a space: the layout
        of a pack may put a line break there.

    Attributes
    ----------
    tokens : int64, shape (n_columns,)
        All token ids that can ever be allowed, ascending. Engines that hold one number a token need only these;
        the states count by *column*, the position in this list.
    n_items
        Genes to choose from.

    Raises
    ------
    UsageError
        More genes are asked for, or required, than there is room for, or the frequencies are not one number a gene,
        none below 0.
    InputError
        A token that follows a whole gene may go on with a longer gene or begin another, so that
        what was written could not be told apart. No tokenizer that can be undone does this: behind
        a gene a new one begins with a space.
    """

    def __init__(
        self,
        trie: TokenTrie,
        n_genes: int,
        end_token: int,
        frequencies: np.ndarray | None = None,
        *,
        required: Sequence[int] | np.ndarray = (),
        beginnings: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.n_items = len(trie.order)
        if not 1 <= n_genes <= self.n_items:
            raise UsageError(
                f"a sentence of {n_genes:,} genes, none twice, cannot be made of {self.n_items:,} genes"
            )
        self.trie, self.n_genes, self.end_token = trie, n_genes, end_token
        self.frequencies = self._checked(frequencies)
        self.required = np.unique(np.asarray(required, dtype=np.int64))
        if len(self.required) > n_genes:
            raise UsageError(
                f"{len(self.required):,} genes are required, and a sentence has {n_genes:,} genes"
            )
        walked = trie if beginnings is None else _with_beginnings(trie, beginnings)
        self._beginnings = trie.sequences if beginnings is None else beginnings
        ends_above = np.repeat(walked.item_at >= 0, np.diff(walked.child_start))
        unclear = ends_above & np.isin(walked.child_token, [*trie.tokens(0), end_token])
        if unclear.any():
            raise InputError(
                f"token {walked.child_token[unclear][0]} may go on with a gene or begin the next one;"
                " genes must be tokenised with the space before them"
            )
        self.tokens = np.unique(np.append(walked.child_token, end_token))
        self.tokens = self.tokens[self.tokens != _BEGINNING]
        self.arrays = self._arrays(walked)

    def _checked(self, frequencies: np.ndarray | None) -> np.ndarray | None:
        if frequencies is None:
            return None
        frequencies = np.asarray(frequencies, dtype=np.float64)
        if frequencies.shape != (self.n_items,) or not (frequencies >= 0).all():
            raise UsageError(
                f"frequencies have shape {frequencies.shape}; they are one number, not below 0, for each of"
                f" {self.n_items:,} genes"
            )
        return frequencies

    def _arrays(self, walked: TokenTrie) -> kernels.Trie:
        """Return what the kernels walk; where genes have two forms, both are the same item."""
        column = np.searchsorted(self.tokens, walked.child_token)
        column[walked.child_token == _BEGINNING] = -1
        required = np.zeros(self.n_items, dtype=np.bool_)
        required[self.required] = True
        order = walked.order % self.n_items
        node_of = np.empty(self.n_items, np.int64)
        usual = np.flatnonzero((walked.item_at >= 0) & (walked.item_at < self.n_items))
        node_of[walked.item_at[usual]] = usual
        return kernels.Trie(
            child_start=walked.child_start,
            column=column,
            parent=walked.parent,
            item_at=np.where(walked.item_at < 0, -1, walked.item_at % self.n_items),
            below=walked.below,
            order=order,
            first=walked.first,
            end_column=int(np.searchsorted(self.tokens, self.end_token)),
            start=int(walked is not self.trie),
            node_of=node_of,
            required=required,
            required_ranks=np.flatnonzero(required[order]),
        )

    @property
    def max_tokens(self) -> int:
        """An upper bound for the tokens of an answer: those of the genes with the most tokens."""
        longest = np.sort(self.trie.lengths)[-self.n_genes :]
        first = max(map(len, self._beginnings)) if self.arrays.start else longest[0]
        return int(longest[1:].sum() + first) + 1

    @property
    def usual_tokens(self) -> int:
        """Tokens of a sentence of genes of average length."""
        return int(np.ceil(self.n_genes * self.trie.lengths.mean()))

    def n_tokens_of(self, genes: Sequence[int]) -> int:
        """Return the number of tokens of some genes in a row, from the first of a sentence on, without its end."""
        later = sum(len(self.trie.sequences[gene]) for gene in genes[1:])
        return later + sum(len(self._beginnings[gene]) for gene in genes[:1])

    def tokens_of(self, genes: Sequence[int]) -> list[int]:
        """Return the tokens of some genes in a row, from the first of a sentence on, without its end."""
        first = [int(token) for gene in genes[:1] for token in self._beginnings[gene]]
        return first + [token for gene in genes[1:] for token in self.trie.sequences[gene]]

    def start(self) -> GeneSentenceState:
        """Return the state before the first gene."""
        return GeneSentenceState(self, self.start_many(1), 0)

    def start_many(self, n: int) -> kernels.States:
        """Return the states of `n` sentences before their first genes, as arrays that the kernels work on."""
        return kernels.States(
            node=np.full(n, self.arrays.start, np.int64),
            n_genes=np.zeros(n, np.int64),
            n_tokens=np.zeros(n, np.int64),
            n_missing=np.full(n, len(self.required), np.int64),
            genes=np.full((n, self.n_genes), -1, np.int32),
            used=np.zeros((n, len(self.arrays.parent)), np.int32),
            taken=np.zeros((n, self.n_items), np.bool_),
        )


def _with_beginnings(trie: TokenTrie, beginnings: Sequence[Sequence[int]]) -> TokenTrie:
    """Return a trie that also has item `n_items + g` for gene `g` at the beginning, behind `_BEGINNING`."""
    if len(beginnings) != len(trie.order):
        raise UsageError(
            f"{len(beginnings):,} beginnings for {len(trie.order):,} genes; there is one a gene"
        )
    return TokenTrie([*trie.sequences, *([_BEGINNING, *tokens] for tokens in beginnings)])


class GeneSentenceState:
    """Where one generated sentence stands: the genes so far, and the node inside the gene being written.

    A gene ends where its tokens end. If another gene begins with the same tokens (`IFI6` in `IFI6X`), the
    next token decides: one that goes on inside the trie, or one that begins a new gene or ends the text.

    Parameters
    ----------
    constraint
        What sentences may be.
    states, row
        The arrays of several sentences, and which of them this one is.
    """

    def __init__(self, constraint: GeneSentence, states: kernels.States, row: int) -> None:
        self.constraint = constraint
        self._states, self._row = states, row

    @property
    def place(self) -> tuple[kernels.States, int]:
        """The arrays that the kernels work on, and which row of them this sentence is."""
        return self._states, self._row

    @property
    def done(self) -> bool:
        """Whether the sentence is complete."""
        return bool(self._states.n_genes[self._row] == self.constraint.n_genes)

    @property
    def progress(self) -> float:
        """Where the sentence stands: 0 at the first gene, 1 at the last."""
        last = self.constraint.n_genes - 1
        return float(min(self._states.n_genes[self._row], last) / max(last, 1))

    @property
    def genes(self) -> list[int]:
        """The genes so far, as items of the trie."""
        n = self._states.n_genes[self._row]
        return self._states.genes[self._row, :n].tolist()

    @property
    def ended_by_token(self) -> bool:
        """Whether the sentence is complete by its end token, which is written only where its last gene could go on."""
        return self.done and bool(
            self._states.n_tokens[self._row] > self.constraint.n_tokens_of(self.genes)
        )

    def allowed(self) -> np.ndarray:
        """Return the token ids that may come next. int64, ascending; none where the sentence is complete."""
        if self.done:
            return np.empty(0, np.int64)
        columns = np.empty(len(self.constraint.tokens), np.int64)
        n = kernels.allowed(self.constraint.arrays, self._states, self._row, columns)
        return self.constraint.tokens[columns[:n]]

    def advance(self, token: int) -> None:
        """Take the next token."""
        column = int(np.searchsorted(self.constraint.tokens, token))
        kernels.advance(self.constraint.arrays, self._states, self._row, column)
        if self.done:
            self._states = kernels.finished(self._states)


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
    def progress(self) -> float:
        """0: a label is no cell."""
        return 0.0

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
