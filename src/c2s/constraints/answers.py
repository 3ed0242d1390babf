"""Given answers laid out as one tree, so that a network reads the beginnings that they share once.

No model is inside: an `AnswerTree` says which tokens stand behind a prompt, where, what each of them may look
at, and which probabilities make up which answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from c2s.common.errors import InputError
from c2s.constraints.trie import TokenTrie


class AnswerTree:
    """A trie of answers as rows behind a prompt (tree attention), and the steps that are asked for.

    Row 0 is the last token of the prompt. Every further row is a token after which some answer goes on; the last
    token of an answer is only asked for, never read, unless a longer answer begins with it.

    Parameters
    ----------
    answers
        Token ids of each answer, all different; one may be the beginning of another.

    Attributes
    ----------
    token : int64, shape (n_rows,)
        What is read at each row; −1 at row 0.
    depth : int64, shape (n_rows,)
        How far behind the last token of the prompt it stands.
    sees : bool, shape (n_rows, n_rows)
        Which rows a row may look at: those on its way from row 0, and itself.
    step_row, step_token : int64, shape (n_steps,)
        Steps: a token, and the row that it follows.

    Raises
    ------
    InputError
        There is no answer, two are the same, or one has no tokens.
    """

    def __init__(self, answers: Sequence[Sequence[int]]) -> None:
        if not answers:
            raise InputError("there are no answers to score; give at least one")
        trie = TokenTrie(answers)
        n_nodes, n_children = len(trie.parent), np.diff(trie.child_start)
        inner = np.flatnonzero(n_children)  # ascending, so that a row stands behind its parent's
        row_of = np.full(n_nodes, -1, dtype=np.int64)
        row_of[inner] = np.arange(len(inner))
        token_of = np.full(n_nodes, -1, dtype=np.int64)
        token_of[trie.child_node] = trie.child_token
        self.token = token_of[inner]
        self.depth = np.zeros(len(inner), dtype=np.int64)
        self.sees = np.eye(len(inner), dtype=bool)
        for row in range(1, len(inner)):
            above = row_of[trie.parent[inner[row]]]
            self.depth[row] = self.depth[above] + 1
            self.sees[row] |= self.sees[above]
        self.step_row = np.repeat(row_of, n_children)
        self.step_token = trie.child_token
        step_of = np.empty(n_nodes, dtype=np.int64)
        step_of[trie.child_node] = np.arange(n_nodes - 1)
        ends = np.flatnonzero(trie.item_at >= 0)
        ways: list[list[int]] = [[] for _ in answers]
        for node in ends:
            at = int(node)
            while at > 0:
                ways[trie.item_at[node]].append(int(step_of[at]))
                at = int(trie.parent[at])
        self._steps = np.concatenate([np.array(way[::-1], dtype=np.int64) for way in ways])
        self._starts = np.cumsum([0, *map(len, ways[:-1])])

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.token)

    def totals(self, steps: np.ndarray) -> np.ndarray:
        """Return log p of each answer from log p of each step.

        Parameters
        ----------
        steps : float64 array, shape (n_prompts, n_steps)

        Returns
        -------
        float64 array, shape (n_prompts, n_answers)
        """
        return np.asarray(np.add.reduceat(steps[:, self._steps], self._starts, axis=1))


def answer_trees(
    answers: Sequence[Sequence[int]], most: int
) -> list[tuple[np.ndarray, AnswerTree]]:
    """Lay out answers in as many trees as it takes for none to have more than `most` rows.

    Answers that begin alike come into the same tree. One that is longer than `most` has a tree to itself.

    Returns
    -------
    list of (int64 array, AnswerTree)
        Which answers a tree holds, in its own order, and the tree.

    Raises
    ------
    InputError
        As `AnswerTree`.
    """
    ids = [tuple(map(int, answer)) for answer in answers]
    order = sorted(range(len(ids)), key=lambda i: ids[i])
    groups: list[list[int]] = [[]]
    rows = 1
    before: tuple[int, ...] = ()
    for i in order:
        if before and before == ids[i]:
            raise InputError(f"answer {i} has the same tokens as another one")
        # In this order, whatever an answer shares with any earlier one it shares with the last.
        same = next(
            (k for k, (a, b) in enumerate(zip(before, ids[i], strict=False)) if a != b), None
        )
        shared = min(len(before), len(ids[i])) if same is None else same
        new = len(ids[i]) - 1 - min(shared, max(len(before) - 1, 0))
        if groups[-1] and rows + new > most:
            groups.append([])
            rows, new = 1, len(ids[i]) - 1
        groups[-1].append(i)
        rows, before = rows + new, ids[i]
    return [(np.array(g, dtype=np.int64), AnswerTree([ids[i] for i in g])) for g in groups]


def common_beginning(sequences: Sequence[Sequence[int] | np.ndarray]) -> int:
    """Return how many tokens all sequences begin with alike; the last token of each is left out.

    Parameters
    ----------
    sequences
        Token ids; at least one sequence, and none is empty.
    """
    shortest = min(map(len, sequences)) - 1
    stack = np.array([sequence[:shortest] for sequence in sequences])
    same = (stack == stack[0]).all(axis=0)
    return shortest if same.all() else int(same.argmin())
