"""Prompts about cells as token ids: what annotation asks, what embedding reads, and answers that are labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from c2s.cells.ranked import RankedCells
from c2s.common.seeds import generator
from c2s.tasks.base import Task
from c2s.tokens.tokenizer import Segment

if TYPE_CHECKING:
    from c2s.models.directory import Model


def label_prompts(
    model: Model,
    task: Task,
    cells: RankedCells,
    texts: Mapping[str, np.ndarray],
    rows: np.ndarray,
    view: int = 0,
    seed: int = 0,
    top_k: int | None = None,
) -> list[np.ndarray]:
    """Return the token ids of the prompt of each cell in `rows`, in the wording numbered `view`.

    Parameters are those of `label_segments`.
    """
    segments = label_segments(model, task, cells, texts, rows, view, seed, top_k)
    return [model.encode_prompt(parts) for parts in segments]


def label_segments(
    model: Model,
    task: Task,
    cells: RankedCells,
    texts: Mapping[str, np.ndarray],
    rows: np.ndarray,
    view: int = 0,
    seed: int = 0,
    top_k: int | None = None,
) -> Iterator[list[Segment]]:
    """Yield the prompt of each cell in `rows`, English and the cell, in the wording numbered `view`.

    View 0 is the first wording; further views take the others in an order drawn by the seed.

    Parameters
    ----------
    model, task
        Whose wording, and of which task.
    cells
        Ranked in the model's own gene columns.
    texts
        Of each condition a text a cell, object arrays of shape (n_cells,).
    rows : int array
    top_k
        Genes that were asked for, by default as many as the model was trained on; prompts of released checkpoints
        say so even of cells that have fewer.
    """
    wording = model.prompts.wording(task.id)
    order = [0, *(1 + generator(seed, "wording", task.id).permutation(len(wording.prompts) - 1))]
    template = wording.prompts[order[view % len(order)]]
    for row in rows:
        columns = cells.to_columns(row)
        values = {name: str(column[row]) for name, column in texts.items()}
        stated = model.stated_genes(len(columns), top_k)
        yield task.ask(template, values, columns, stated)


def label_answers(model: Model, task: Task, labels: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each label as the answer to a task, with its end."""
    encode, response = model.tokenizer.encode, model.prompts.wording(task.id).response
    return [
        [*encode(response.fill({task.target: label})).tolist(), *model.end_ids] for label in labels
    ]


def as_known(model: Model, condition: str, value: str) -> str:
    """Return a condition as the model knows it; one that keeps no list of them takes any."""
    return model.check_condition(condition, value) if model.known(condition) else value


def only_known(model: Model, condition: str) -> str | None:
    """Return the value of a condition where the model knows a single one, else None."""
    known = model.known(condition)
    return known[0] if len(known) == 1 else None
