"""What a reward is given and what it gives: answers of whole groups, real cells, and one number an answer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

from c2s.cells.ranked import RankedCells
from c2s.common.errors import UsageError

if TYPE_CHECKING:
    import scipy.sparse as sp

T = TypeVar("T")


class Remembers:
    """What is computed of an object once, for all who ask, and is gone with the object."""

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return what `compute` gave when `key` was first asked for."""
        memo = self.__dict__.setdefault("_memo", {})
        if key not in memo:
            memo[key] = compute()
        return memo[key]


@dataclass(frozen=True, eq=False)
class Rollouts(Remembers):
    """Answers of whole groups. Rows of a group are neighbours.

    Attributes
    ----------
    group : int64 array, shape (n,)
        Number of the group (prompt) of each answer, ascending. Random draws of a group depend on `seed` and on this
        number: number the groups of a step over all processes.
    condition : int64 array, shape (n,)
        Which of `RealCells.conditions` was asked for, −1 where none; the same in all of a group.
    texts
        Answers as text.
    cells
        The cell of each answer, in the model's vocabulary; it may have fewer genes than asked, or 0. None for tasks
        without cells.
    asked_genes : int64 array, shape (n,)
        Genes that were asked for.
    repeated : int64 array, shape (n,)
        Genes that the answer wrote again.
    unknown : int64 array, shape (n,)
        Words that are no gene of the vocabulary.
    truth : int64 array, shape (n,)
        Row of `RealCells` that belongs to the prompt, −1 where none.
    references
        True texts, for tasks whose answer is text.
    seed
        Of this step; random pairings are drawn from it.

    Raises
    ------
    UsageError
        The parts are not of the same length, or rows of a group are no neighbours.
    """

    group: np.ndarray
    condition: np.ndarray
    texts: list[str]
    cells: RankedCells | None
    asked_genes: np.ndarray
    repeated: np.ndarray
    unknown: np.ndarray
    truth: np.ndarray
    references: list[str] | None
    seed: int

    def __post_init__(self) -> None:
        parts = ("condition", "texts", "cells", "asked_genes", "repeated", "unknown", "truth")
        for name in (*parts, "references"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self):
                raise UsageError(
                    f"rollouts.{name}: found {len(value):,}, expected one an answer ({len(self):,})"
                )
        if (np.diff(self.group) < 0).any():
            raise UsageError("rollouts.group: found numbers that fall, expected rows in order")

    def __len__(self) -> int:
        return len(self.group)

    def groups(self) -> Iterator[tuple[np.ndarray, int]]:
        """Give the rows of each group (int64) and its condition.

        Raises
        ------
        UsageError
            A group asks for two conditions.
        """
        for rows in np.split(np.arange(len(self)), np.flatnonzero(np.diff(self.group)) + 1):
            if not len(rows):
                continue
            codes = np.unique(self.condition[rows])
            if len(codes) > 1:
                raise UsageError(
                    f"rollouts.condition: group {self.group[rows[0]]} asks for {len(codes)} conditions, expected one"
                )
            yield rows, int(codes[0])


@dataclass(frozen=True, eq=False)
class RealCells(Remembers):
    """Real training cells that rewards compare with.

    Attributes
    ----------
    cells
        In the model's vocabulary, through the same sentence length as generated cells.
    expression : csr_matrix, shape (n_real, n_genes)
        log10(1 + CP10k) after the sentence round trip (inverse model).
    conditions
        Names of the conditions.
    condition : int64 array, shape (n_real,)
        Which of them each cell has, −1 for none.

    Raises
    ------
    UsageError
        The parts are not of the same number of cells and genes.
    """

    cells: RankedCells
    expression: sp.csr_matrix
    conditions: list[str]
    condition: np.ndarray

    def __post_init__(self) -> None:
        shape = (len(self.cells), len(self.cells.vocabulary))
        if self.expression.shape != shape or len(self.condition) != shape[0]:
            raise UsageError(
                f"real cells: found expression of shape {self.expression.shape} and {len(self.condition):,} conditions "
                f"for {shape[0]:,} cells and {shape[1]:,} genes"
            )

    def __len__(self) -> int:
        return len(self.cells)

    def rows(self, code: int) -> np.ndarray:
        """Return the cells of a condition; none for −1. int64."""
        if code < 0:
            return np.empty(0, np.int64)
        return self.once(("rows", code), lambda: np.flatnonzero(self.condition == code))


Reward: TypeAlias = Callable[[Rollouts], np.ndarray]
"""A function of rollouts that gives float64 of shape (n,): higher is better, NaN where it says nothing.

The rewards here are NaN for all answers of a group or for none, so that no answer gains by escaping its judge: what a
group cannot be compared by is missing for all of it, and an answer that cannot be judged beside others that can (a cell
without genes) gets the lowest reward of its group.
"""


@dataclass(frozen=True)
class OpenedReward:
    """A reward that is bound to its data.

    Attributes
    ----------
    name
        Of its kind; a second one of a kind has a number behind it.
    weight
        By which it is multiplied in the sum.
    function
        The reward, unweighted.
    """

    name: str
    weight: float
    function: Reward


def combined(
    rewards: Sequence[OpenedReward], rollouts: Rollouts
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the weighted sum of rewards, and each reward unweighted by its name.

    Parameters
    ----------
    rewards
        As `open_rewards` gives them.
    rollouts
        Answers of whole groups.

    Returns
    -------
    total : float64 array, shape (n,)
        Rewards that are NaN are left out of the sum; NaN where all are.
    parts : dict of float64 arrays, shape (n,)
    """
    parts = {reward.name: np.asarray(reward.function(rollouts), np.float64) for reward in rewards}
    total = np.zeros(len(rollouts))
    said = np.zeros(len(rollouts), dtype=bool)
    for reward in rewards:
        value = parts[reward.name]
        total += np.where(np.isnan(value), 0.0, reward.weight * value)
        said |= ~np.isnan(value)
    return np.where(said, total, np.nan), parts
