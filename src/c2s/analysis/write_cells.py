"""From what is asked for to cells: prompts, one or several cells an answer, and the genes that were written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np

from c2s.analysis.cells import warn_of_unknown
from c2s.analysis.generation_task import in_words
from c2s.cells.ranked import RankedCells
from c2s.common.errors import UsageError, listing, nearest, warn
from c2s.common.progress import progress_bar
from c2s.common.seeds import generator
from c2s.constraints.samples import CellSampleState
from c2s.constraints.trie import GeneSentenceState
from c2s.decoding.answers import GeneChoice, answer_constraint, texts_around
from c2s.decoding.engine import Engine
from c2s.decoding.opening import EngineName, engine_for
from c2s.decoding.pathways import line_sampling, with_pathways
from c2s.decoding.sampling import Sampling
from c2s.models.directory import Model
from c2s.tasks.base import Task
from c2s.tokens.tokenizer import Segment


@dataclass(frozen=True)
class AskedCells:
    """Cells that are to be written.

    Attributes
    ----------
    n
        How many.
    task
        Which task writes them; None where a request goes to the model as it is.
    fields : mapping of object arrays, shape (n,)
        Text of each condition for each cell.
    request
        What is sent where there is no task.
    per_sample
        Cells of an answer; the last answer may have fewer.
    """

    n: int
    task: Task | None
    fields: Mapping[str, np.ndarray]
    request: str = ""
    per_sample: int = 1

    @property
    def sizes(self) -> np.ndarray:
        """Cells of each answer. int64, shape (n_answers,)."""
        starts = np.arange(0, self.n, self.per_sample)
        return np.minimum(self.per_sample, self.n - starts)

    @property
    def sample(self) -> np.ndarray:
        """The answer that each cell is in. int64, shape (n,)."""
        return np.arange(self.n) // self.per_sample


class WrittenCells(NamedTuple):
    """Cells that a model wrote.

    Attributes
    ----------
    cells
        Each with exactly as many genes as were asked for.
    prompts
        The prompt of each cell.
    pathways
        The pathways that were named before each cell; None where the task names none.
    """

    cells: RankedCells
    prompts: list[str]
    pathways: list[str] | None


def gene_choice(
    model: Model,
    top_k: int | None = None,
    *,
    genes: Sequence[str] | None = None,
    forbid: str | Sequence[str] | None = None,
    require: str | Sequence[str] | None = None,
) -> GeneChoice:
    """Return what each cell may be made of; the parameters are those of `generate`.

    Warns of genes of a panel that the model does not know.

    Raises
    ------
    UsageError
        A gene is required that may not be written, or that the model does not know; or no gene may be written.
    InputError
        The model knows none of the genes of a panel.
    """
    if isinstance(genes, str):
        raise UsageError("genes must be a list of names")
    vocabulary = model.vocabulary
    every = np.ones(len(vocabulary), bool)
    may = every.copy() if genes is None else vocabulary.mask(list(genes))
    if genes is not None:
        warn_of_unknown(genes, vocabulary, every, "known to the model")
    without, needed = _names(forbid), _names(require)
    forbidden, required = vocabulary.columns(without), vocabulary.columns(needed)
    unknown = [gene for gene, column in zip(without, forbidden, strict=True) if column < 0]
    if unknown:
        warn(f"forbidden genes that the model does not know anyway: {listing(unknown)}")
    may[forbidden[forbidden >= 0]] = False
    for gene, column in zip(needed, required, strict=True):
        if column < 0:
            close = nearest(gene, vocabulary.words)
            raise UsageError(
                f"the model does not know the required gene {gene!r}"
                + (f" (nearest: {listing(close)})" if close else "")
            )
        if not may[column]:
            raise UsageError(f"{gene} is required, and it is forbidden or not in the panel")
    columns = np.flatnonzero(may)
    if not len(columns):
        raise UsageError("every gene that may be written is forbidden; forbid fewer")
    return GeneChoice(
        columns,
        model.card.top_k if top_k is None else top_k,
        np.searchsorted(columns, np.unique(required)),
    )


def _names(genes: str | Sequence[str] | None) -> list[str]:
    return [genes] if isinstance(genes, str) else [str(gene) for gene in genes or ()]


def write_cells(
    model: Model,
    asked: AskedCells,
    choice: GeneChoice,
    sampling: Sampling,
    batch_size: int | None = None,
    engine: EngineName | Engine = "transformers",
) -> WrittenCells:
    """Write the cells that are asked for, each answer in a wording drawn by the seed.

    Where the model learned to name pathways before the cells of the task, it does so first, with draws of their own.
    """
    prompts = _prompts(model, asked, choice.n_genes, sampling.seed)
    sizes = asked.sizes
    cells: list[list[np.ndarray]] = [[] for _ in prompts]
    named: dict[int, str] = {}
    with (
        engine_for(model, engine, batch_size) as opened,
        progress_bar("Generating", len(prompts)) as progress,
    ):
        for order, size in enumerate(sorted({int(s) for s in sizes}, reverse=True)):
            rows = np.flatnonzero(sizes == size)
            begin, constraint = answer_constraint(model, _texts_around(model, asked, size), choice)
            # The draws of a prompt belong to its place in the call: another call needs another seed.
            seeded = _reseeded(sampling, order)
            planned = with_pathways(
                opened, model, asked.task, [model.encode_prompt(prompts[row]) for row in rows],
                line_sampling(seeded),
            )  # fmt: skip
            named |= dict(zip(rows.tolist(), planned.pathways or [], strict=False))
            ids = [np.append(prompt, begin) for prompt in planned.prompts]
            states = opened.generate(ids, constraint, seeded, progress, len(begin))
            for row, state in zip(rows, states, strict=True):
                cells[row] = [choice.columns[genes] for genes in _cells_of(state)]
    texts = [model.tokenizer.text(prompt) for prompt in prompts]
    return WrittenCells(
        RankedCells.from_columns([cell for answer in cells for cell in answer], model.vocabulary),
        [texts[answer] for answer in asked.sample],
        [named[answer] for answer in asked.sample.tolist()] if named else None,
    )


def most_that_fit(model: Model, asked: AskedCells, choice: GeneChoice) -> int:
    """Return how many cells of the request one answer can hold in the model's context, at least 1.

    The longest wording, genes and texts of cells are taken, as the engine takes the longest genes.
    """
    context = getattr(model.config, "max_position_embeddings", None)
    if context is None:
        return asked.n
    lengths = np.sort(np.diff(model.tokenizer.gene_tokens.indptr)[choice.columns])
    a_cell = max(int(lengths[-choice.n_genes :].sum()), 1)
    asked = _longest_first(model, asked)
    for most in range(min(asked.n, max(1, context // a_cell)), 1, -1):
        fields = {name: texts[:most] for name, texts in asked.fields.items()}
        many = replace(asked, n=most, fields=fields, per_sample=most)
        prompts = _every_wording(model, many, choice.n_genes)
        longest = max(len(model.encode_prompt(prompt)) for prompt in prompts)
        # A text may be a token more beside genes than alone, and a gene one more at the beginning of a cell.
        between = _texts_around(model, many, most)
        around = sum(len(model.tokenizer.encode_english(text)) + 2 for text in between)
        if longest + most * a_cell + around <= context:
            return most
    return 1


def _longest_first(model: Model, asked: AskedCells) -> AskedCells:
    """Return the same cells, those with the longest texts in front: what answers of them need, any answer may."""
    n_tokens = np.zeros(asked.n, np.int64)
    for texts in asked.fields.values():
        different, which = np.unique(texts.astype(str), return_inverse=True)
        n_tokens += np.array([len(model.tokenizer.encode_english(f" {t}")) for t in different])[
            which
        ]
    order = np.argsort(-n_tokens, kind="stable")
    return replace(asked, fields={name: texts[order] for name, texts in asked.fields.items()})


def _prompts(model: Model, asked: AskedCells, n_genes: int, seed: int) -> list[list[Segment]]:
    """Return the prompt of each answer."""
    if asked.task is None:
        return [[asked.request.rstrip()]] * asked.n
    wording = model.prompts.wording(asked.task.id)
    prompts = []
    for answer in range(len(asked.sizes)):
        template = wording.pick(generator(seed, "wording", answer))
        values = _values(asked, answer)
        prompts.append(asked.task.ask(template, values, None, n_genes, wording))
    return prompts


def _every_wording(model: Model, asked: AskedCells, n_genes: int) -> list[list[Segment]]:
    """Return the prompt of the first answer in all wordings."""
    task = cast(Task, asked.task)
    wording = model.prompts.wording(task.id)
    values = _values(asked, 0)
    return [task.ask(template, values, None, n_genes, wording) for template in wording.prompts]


def _values(asked: AskedCells, answer: int) -> dict[str, Any]:
    """Return what the wording says in words about an answer: texts of its first cell, and the types of all."""
    task = cast(Task, asked.task)
    start = answer * asked.per_sample
    rows = range(start, min(start + asked.per_sample, asked.n))
    texts = [in_words(task, {k: str(v[row]) for k, v in asked.fields.items()}) for row in rows]
    values: dict[str, Any] = dict(texts[0])
    if task.kind == "multi":
        values["num_cells"] = len(rows)
        if "cell_types" in task.conditions:
            values["cell_types"] = [text["cell_type"] for text in texts]
    return values


def _texts_around(model: Model, asked: AskedCells, size: int) -> list[str]:
    if asked.task is None:
        return [" ", ""]
    return texts_around(asked.task, model.prompts.wording(asked.task.id), size)


def _cells_of(state: object) -> list[list[int]]:
    if isinstance(state, CellSampleState):
        return state.cells
    return [cast(GeneSentenceState, state).genes]


def _reseeded(sampling: Sampling, order: int) -> Sampling:
    if order == 0:
        return sampling
    return replace(sampling, seed=int(generator(sampling.seed, "answers", order).integers(2**31)))
