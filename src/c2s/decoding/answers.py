"""From a task's wording to what its answer may be: one cell or several, with the texts around them as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from c2s.common.errors import InputError
from c2s.constraints.samples import CellSample
from c2s.constraints.trie import GeneSentence, TokenTrie
from c2s.tasks.base import Task
from c2s.tasks.prompts import TaskWording
from c2s.tokens.tokenizer import CellTokenizer, Segment

if TYPE_CHECKING:
    from c2s.models.directory import Model

#: So many genes are tried, to see that the texts between cells are the same tokens whatever genes stand beside them.
_PROBES = 24


@dataclass(frozen=True)
class GeneChoice:
    """What each cell of an answer may be made of.

    Attributes
    ----------
    columns : int array, shape (n_columns,)
        Vocabulary columns that may be written.
    n_genes
        Genes of each cell.
    required : int array
        Places in `columns` of the genes that every cell must have.
    """

    columns: np.ndarray
    n_genes: int
    required: np.ndarray


def texts_around(task: Task, wording: TaskWording, n_cells: int) -> list[str]:
    """Return what an answer of `n_cells` cells has before, between and behind its cells, `n_cells + 1` texts."""
    cells = [np.empty(0, np.int32) for _ in range(n_cells)]
    placed = wording.response.place(
        {}, {task.target: wording.cells.write(cells) if task.kind == "multi" else cells}
    )
    texts = [""]
    for part in placed:
        if isinstance(part, str):
            texts[-1] += part
        else:
            texts.append("")
    return texts


def answer_constraint(
    model: Model, texts: Sequence[str], choice: GeneChoice
) -> tuple[np.ndarray, GeneSentence | CellSample]:
    """Return the tokens that an answer begins with, and the constraint on what follows them.

    Parameters
    ----------
    model
        Its tokenizer, and how often it saw each gene.
    texts
        Before, between and behind the cells; see `texts_around`.
    choice
        What each cell may be made of.

    Returns
    -------
    tuple
        Token ids that belong behind every prompt, and `GeneSentence` for one cell, `CellSample` for several.

    Raises
    ------
    InputError
        What stands between the cells is not the same tokens beside every gene.
    UsageError
        More genes are asked for than may be written.
    """
    tokenizer = model.tokenizer
    joints = [_joint(tokenizer, text, choice.columns, first=i == 0) for i, text in enumerate(texts[:-1])]  # fmt: skip
    tail = [*_joint(tokenizer, texts[-1], choice.columns, last=True).tokens, tokenizer.eos_id]
    trie = TokenTrie([tokenizer.gene_pieces(int(column)) for column in choice.columns])
    frequencies = np.array(model.card.gene_frequencies, dtype=np.float64)
    made: dict[tuple[int, bool], GeneSentence] = {}
    sentences = []
    ends = [joint.tokens[0] for joint in joints[1:]] + [tail[0]]
    for joint, end in zip(joints, ends, strict=True):
        if (end, joint.spaced) not in made:
            made[end, joint.spaced] = GeneSentence(
                trie, choice.n_genes, end, frequencies[choice.columns] if len(frequencies) else None,
                required=choice.required,
                beginnings=None if joint.spaced else _beginnings(tokenizer, choice.columns),
            )  # fmt: skip
        sentences.append(made[end, joint.spaced])
    begin = np.array(joints[0].tokens, dtype=np.int32)
    if len(sentences) == 1:
        return begin, sentences[0]
    return begin, CellSample(sentences, [joint.tokens for joint in joints[1:]])


@dataclass(frozen=True)
class _Joint:
    """The tokens of a text before a gene, and whether the gene is then written as behind a space."""

    tokens: list[int]
    spaced: bool = True


def _joint(
    tokenizer: CellTokenizer, text: str, columns: np.ndarray, *, first: bool = False, last: bool = False
) -> _Joint:  # fmt: skip
    """Return a text between two cells, or before the first or behind the last, as tokens."""
    found: list[_Joint] = []
    for column in columns[:: max(1, len(columns) // _PROBES)]:
        cell, pieces = np.array([column], np.int32), tokenizer.gene_pieces(int(column))
        before: list[Segment] = [] if first else [" ", cell]
        behind: list[Segment] = [] if last else [cell]
        ids = tokenizer.encode([*before, text, *behind]).tolist()
        n_before = 0 if first else len(pieces)
        if not first and ids[:n_before] != pieces:
            raise _not_apart(text)
        ids = ids[n_before:]
        spaced = last or ids[-len(pieces) :] == pieces
        if not spaced:
            pieces = _alone(tokenizer, int(column))
            if ids[-len(pieces) :] != pieces:
                raise _not_apart(text)
        found.append(_Joint(ids if last else ids[: -len(pieces)], spaced))
    if any(joint != found[0] for joint in found):
        raise _not_apart(text)
    return found[0]


def _not_apart(text: str) -> InputError:
    return InputError(
        f"the tokenizer does not keep {text!r} apart from the genes beside it, so cells cannot be written around it; "
        "use prompts with another layout of cells"
    )


def _beginnings(tokenizer: CellTokenizer, columns: np.ndarray) -> list[list[int]]:
    return [_alone(tokenizer, int(column)) for column in columns]


def _alone(tokenizer: CellTokenizer, column: int) -> list[int]:
    """Return the tokens of a gene without a space before it."""
    return [int(i) for i in tokenizer.encode_english(tokenizer.vocabulary.words[column])]
