"""Pathways that are named before an answer (SPEC §17, row 4): " Pathways: hypoxia; apoptosis." and then the answer.

Before a label they are those of the cell that is shown; before a cell those of the cell that is written, a plan of it.
The line is part of the response, so it is learned, and decoding writes it before the answer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
from pydantic import Field, field_validator, model_validator

from c2s.cells.ranked import RankedCells
from c2s.common.config import Config
from c2s.common.errors import InputError, listing
from c2s.constraints.names import NameList
from c2s.knowledge.pathways import PathwaySets
from c2s.tasks.base import Task
from c2s.tasks.registry import TASKS
from c2s.tokens.tokenizer import CellTokenizer

T = TypeVar("T")

#: What stands before, between and behind the names.
BEGIN, BETWEEN, END = " Pathways:", ";", "."


def takes_pathways(task: Task) -> bool:
    """Whether pathways may be named before a task's answer: it is about one cell and answers with a label or a cell."""
    return task.kind == "single" and task.answer in ("label", "cell")


def check_tasks(tasks: Sequence[str]) -> None:
    """Refuse tasks before whose answer pathways cannot be named.

    Raises
    ------
    ValueError
        One of these, for a pydantic model.
    """
    able = [name for name, task in TASKS.items() if takes_pathways(task)]
    for name in tasks:
        if name not in able:
            raise ValueError(
                f"pathways are named before the answer of tasks of one cell ({listing(able)}), found {name!r}"
            )


class PathwayLine(Config):
    """The line that a model writes before the answers of some tasks, as `c2s.json` keeps it."""

    names: list[str] = Field(min_length=1, description="Pathways that may be named.")
    number: int = Field(ge=1, description="How many are named, all different.")
    tasks: list[str] = Field(min_length=1, description="Tasks with the line before their answer.")

    @field_validator("tasks")
    @classmethod
    def _able(cls, tasks: list[str]) -> list[str]:
        check_tasks(tasks)
        return tasks

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if len(set(self.names)) < len(self.names):
            raise ValueError("'names' has a pathway twice")
        if self.number > len(self.names):
            raise ValueError(
                f"{self.number} of {len(self.names)} pathways cannot be named, all different"
            )
        return self


def line(names: Sequence[str]) -> str:
    """Return the line that names pathways.

    Examples
    --------
    >>> line(["hypoxia", "apoptosis"])
    ' Pathways: hypoxia; apoptosis.'
    """
    return f"{BEGIN} " + f"{BETWEEN} ".join(names) + END


def with_line(text: str, response: Sequence[str | T]) -> list[str | T]:
    """Return a response with a line before it, English merged where it touches; a response begins with a space."""
    first, *rest = response
    return [text + first, *rest] if isinstance(first, str) else [text, first, *rest]


@dataclass(frozen=True)
class Pathways:
    """What names the pathways of cells in training samples.

    Attributes
    ----------
    sets
        In the columns that the cells are ranked in.
    number
        How many are named.
    tasks
        Before whose answers.
    """

    sets: PathwaySets
    number: int
    tasks: Collection[str]

    def lines(
        self,
        cells: RankedCells,
        n_genes: np.ndarray | None = None,
        rows: np.ndarray | None = None,
    ) -> list[str]:
        """Return the line of each cell that is asked about; parameters are those of `PathwaySets.log_p`."""
        names = self.sets.names
        best = self.sets.best(cells, self.number, n_genes, rows)
        return [line([names[k] for k in row]) for row in best.tolist()]


def line_constraint(tokenizer: CellTokenizer, wanted: PathwayLine) -> tuple[list[int], NameList]:
    """Return the tokens that every line begins with, and the constraint on what follows them.

    Raises
    ------
    InputError
        The tokenizer's tokens reach across the places where names and answers meet, so that the tokens of a line are
        not those of its parts.
    """
    encode = tokenizer.encode_english
    begin = encode(BEGIN).tolist()
    inner = [encode(f" {name}{BETWEEN}").tolist() for name in wanted.names]
    last = [encode(f" {name}{END}").tolist() for name in wanted.names]
    word = tokenizer.vocabulary.words[0]
    behind = tokenizer.encode([" ", np.zeros(1, np.int32)]).tolist()
    for name, first, end in zip(wanted.names, inner, last, strict=True):
        parts = [*begin, *first, *end]
        texts = {
            " a": [*parts, *encode(" a").tolist()],
            f" {word}": [*parts, *behind],
        }
        for text, ids in texts.items():
            if encode(line([name, name]) + text).tolist() != ids:
                raise InputError(
                    f"pathways: the tokenizer does not keep the pathway {name!r} apart from what stands beside it, so "
                    "pathways cannot be named before an answer; use another tokenizer"
                )
    return begin, NameList(inner, last, wanted.number)
