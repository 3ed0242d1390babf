"""Training examples drawn straight from cells in memory, ranked anew each time.

Ranks are cheap and ties are many, so a cell seen again is seen with other ties, another wording and, where
asked, thinned counts. Position `p` of the stream is always the same example for the same seed, whatever was
drawn before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from pydantic import Field

from c2s.cells.ranked import RankedCells, rank_matrix
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.config import Config
from c2s.common.errors import UsageError
from c2s.common.seeds import generator
from c2s.tasks.base import Example
from c2s.tasks.pathways import Pathways, with_line
from c2s.tasks.prompts import PromptPack
from c2s.tasks.registry import get_task


class TaskMix(Config):
    """How often a task is drawn, and how its cells are varied."""

    weight: float = Field(
        default=1.0, gt=0, description="Share of the examples, relative to other tasks."
    )
    thin: float = Field(
        default=1.0, gt=0, le=1,
        description="Smallest share of a cell's molecules that is kept before ranking (binomial thinning); the "
        "share is uniform between this and 1 (not specified by the paper).",
    )  # fmt: skip
    unthinned: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="Share of the examples that are left whole where `thin` is below 1.",
    )


@dataclass(frozen=True)
class CellTable:
    """Cells to draw from.

    Attributes
    ----------
    counts : csr_matrix, shape (n_cells, n_genes)
        Columns are those of `vocabulary`.
    vocabulary
        Genes of the model.
    cell_ids : array of str, shape (n_cells,)
    fields
        Texts per cell for the wording: "organism", "cell_type", …
    """

    counts: sp.csr_matrix
    vocabulary: GeneVocabulary
    cell_ids: np.ndarray
    fields: Mapping[str, np.ndarray]


class OnlineExamples:
    """A stream of examples of several tasks over a table of cells.

    Parameters
    ----------
    table
        The cells.
    tasks
        Mixture by task id.
    prompts
        Wording.
    top_k
        Genes of a cell, at most.
    n_examples
        Length of the stream; within a task every cell is seen once before any is seen again.
    seed
        Draws everything.
    pathways
        Names the pathways of cells before the answers of some tasks, in the genes of the table.

    Raises
    ------
    UsageError
        A task needs a field that the table lacks.
    """

    def __init__(
        self,
        table: CellTable,
        tasks: Mapping[str, TaskMix],
        prompts: PromptPack,
        top_k: int,
        n_examples: int,
        seed: int,
        pathways: Pathways | None = None,
    ) -> None:
        self.table, self.prompts, self.top_k, self.seed = table, prompts, top_k, seed
        self.pathways = pathways
        self.task_ids = sorted(tasks)
        self.mixes = [tasks[t] for t in self.task_ids]
        for task in map(get_task, self.task_ids):
            missing = {*task.conditions, task.target} - {*table.fields, "cell_sentence"}
            if missing:
                raise UsageError(
                    f"task {task.id!r} needs {sorted(missing)[0]!r} for each cell, which was not given"
                )
        weights = np.array([m.weight for m in self.mixes])
        schedule = generator(seed, "schedule").choice(
            len(weights), size=n_examples, p=weights / weights.sum()
        )
        self._task_of = schedule.astype(np.int16)
        self._row_of = np.empty(n_examples, np.int64)
        n_cells = len(table.cell_ids)
        for k, task_id in enumerate(self.task_ids):
            at = np.flatnonzero(schedule == k)
            rng = generator(seed, "order", task_id)
            rounds = [rng.permutation(n_cells) for _ in range(-(-len(at) // n_cells))]
            if rounds:
                self._row_of[at] = np.concatenate(rounds)[: len(at)]

    def __len__(self) -> int:
        return len(self._task_of)

    def draw(self, positions: Sequence[int] | np.ndarray) -> list[Example]:
        """Return the examples at the given positions of the stream."""
        positions = np.asarray(positions, dtype=np.int64)
        rows = self._row_of[positions]
        rngs = [generator(self.seed, "example", int(p)) for p in positions]
        keep = np.array(
            [self._share_kept(int(p), rng) for p, rng in zip(positions, rngs, strict=True)]
        )
        ids = [f"{self.table.cell_ids[r]}#{p}" for r, p in zip(rows, positions, strict=True)]
        cells = rank_matrix(
            self.table.counts[rows],
            self.table.vocabulary,
            ids,
            top_k=self.top_k,
            seed=self.seed,
            keep=keep,
        )
        examples = []
        for i, (position, row, rng) in enumerate(zip(positions, rows, rngs, strict=True)):
            task = get_task(self.task_ids[self._task_of[position]])
            wording = self.prompts.wording(task.id)
            values = {name: str(column[row]) for name, column in self.table.fields.items()}
            examples.append(task.example(wording, wording.pick(rng), values, cells.to_columns(i)))
        return examples if self.pathways is None else _with_pathways(examples, cells, self.pathways)

    def _share_kept(self, position: int, rng: np.random.Generator) -> float:
        mix = self.mixes[self._task_of[position]]
        whole, share = rng.random(2)
        return 1.0 if mix.thin == 1 or whole < mix.unthinned else mix.thin + share * (1 - mix.thin)


def _with_pathways(
    examples: Sequence[Example], cells: RankedCells, pathways: Pathways
) -> list[Example]:
    """Return examples, one a cell, with the cell's pathways before the answer in the tasks that want that."""
    written = list(examples)
    which = [i for i, example in enumerate(examples) if example.task in pathways.tasks]
    for i, text in zip(which, pathways.lines(cells, rows=np.array(which, np.int64)), strict=True):
        written[i] = replace(examples[i], response=with_line(text, examples[i].response))
    return written
