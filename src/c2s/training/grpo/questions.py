"""What is asked in alignment: prompts about the training cells of a corpus, and how their answers are read.

A question is a pure function of the seed and its number, so that any process, and any resumed run, asks the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import scipy.sparse as sp

from c2s.cells.ranked import RankedCells
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import UsageError, listing
from c2s.common.seeds import cell_keys, generator
from c2s.constraints.free_text import FreeText
from c2s.constraints.replay import answer_tokens
from c2s.constraints.trie import Constraint, OneOf
from c2s.corpus.recipe import FIELDS
from c2s.decoding.answers import GeneChoice, answer_constraint, texts_around
from c2s.decoding.engine import TransformersEngine
from c2s.decoding.prompts import label_answers
from c2s.decoding.sampling import Sampling
from c2s.models.directory import Model
from c2s.tasks.base import Task
from c2s.tasks.registry import TASKS
from c2s.training.grpo.recipe import PolicyRecipe
from c2s.training.rewards.base import RealCells, Rollouts

#: Cells of a split that are looked at, at most; more tell a reward nothing new and take memory.
_MOST_CELLS = 100_000


@dataclass(frozen=True)
class CorpusCells:
    """Cells of a split of a corpus, with what is known of them.

    Attributes
    ----------
    cells
        As their sentences have them.
    fields : mapping of object arrays, shape (n_cells,)
        Of each field a text, or None.
    """

    cells: RankedCells
    fields: dict[str, np.ndarray]

    def with_texts(self, names: Sequence[str]) -> CorpusCells:
        """Return the cells that have all of some fields."""
        rows = np.ones(len(self.cells), np.bool_)
        for name in names:
            rows &= np.array([text is not None for text in self.fields[name]], np.bool_)
        return CorpusCells(self.cells.take(rows), {k: v[rows] for k, v in self.fields.items()})


def read_cells(folder: Path, split: str, vocabulary: GeneVocabulary, seed: int) -> CorpusCells:
    """Read the cells of a split; of more than 100,000, that many drawn at random.

    Parameters
    ----------
    folder
        The corpus.
    split
        "train" or "val".
    vocabulary
        The genes of the model; others are left out of the cells.
    """
    place = folder / "cells" / split
    if not place.is_dir():
        empty = RankedCells.from_columns([], vocabulary)
        return CorpusCells(empty, {f: np.empty(0, object) for f in FIELDS})
    found = ds.dataset(place)
    n_cells = found.count_rows()
    rows = np.arange(n_cells)
    if n_cells > _MOST_CELLS:
        rows = np.sort(generator(seed, "cells", split).choice(n_cells, _MOST_CELLS, replace=False))
    table = found.take(pa.array(rows), columns=["cell_sentence", *FIELDS])
    fields: dict[str, np.ndarray] = {
        f: np.array(table[f].to_pylist(), dtype=object) for f in FIELDS
    }
    return CorpusCells(_ranked(table["cell_sentence"], vocabulary), fields)


def _ranked(sentences: pa.ChunkedArray, vocabulary: GeneVocabulary) -> RankedCells:
    """Return sentences as columns of a vocabulary, without a loop over cells."""
    words = pc.split_pattern(sentences.combine_chunks(), " ")
    flat = words.flatten().dictionary_encode()
    flat = flat.combine_chunks() if isinstance(flat, pa.ChunkedArray) else flat
    lengths = pc.list_value_length(words).to_numpy(zero_copy_only=False)
    of_word = vocabulary.columns(flat.dictionary.to_pylist()).astype(np.int32)
    genes = of_word[flat.indices.to_numpy(zero_copy_only=False)]
    cell = np.repeat(np.arange(len(lengths)), lengths)[genes >= 0]
    counts = np.bincount(cell, minlength=len(lengths))
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return RankedCells(indptr, genes[genes >= 0], vocabulary)


@dataclass(frozen=True)
class Question:
    """A prompt of a group.

    Attributes
    ----------
    ids : int32 array
        Token ids of the prompt, and of what every answer begins with.
    condition
        Which of the conditions it asks for.
    truth
        Row of a training cell that belongs to it.
    reference
        The true answer, where it is a text.
    """

    ids: np.ndarray
    condition: int
    truth: int
    reference: str | None


class Questions:
    """The questions of a run, what their answers may be, and how they are read.

    Parameters
    ----------
    model
        Its wording, genes and tokens.
    recipe
        The task, and how it is asked.
    cells
        Those that are asked about.
    seed
        Draws everything.

    Attributes
    ----------
    real : RealCells
        The cells, as rewards see them.
    constraint : Constraint
        What an answer may be.

    Raises
    ------
    UsageError
        There are no such cells, the model does not know the task, or more genes are asked for than it knows.
    """

    def __init__(self, model: Model, recipe: PolicyRecipe, cells: CorpusCells, seed: int) -> None:
        self.model, self.recipe, self.seed = model, recipe, seed
        self.task: Task = TASKS[recipe.task]
        if self.task.id not in model.card.tasks:
            raise UsageError(
                f"policy.task = {self.task.id}: the model was not trained on it; it knows: "
                f"{listing(model.card.tasks) or 'no task'}"
            )
        missing = [name for name in self.task.conditions if name not in FIELDS]
        if missing:
            raise UsageError(
                f"policy.task = {self.task.id}: it needs the {missing[0]}, which cells of a corpus lack"
            )
        self.n_genes = recipe.genes or model.card.top_k
        if self.n_genes > len(model.vocabulary):
            raise UsageError(
                f"policy.genes = {self.n_genes:,}: the model knows {len(model.vocabulary):,} genes"
            )
        asked = cells.with_texts([n for n in self.task.needs if n in FIELDS])
        if not len(asked.cells):
            raise UsageError(
                f"policy.task = {self.task.id}: no cell of the corpus has all of {listing(self.task.needs)}"
            )
        self.fields = asked.fields
        self.real = self._real(asked)
        self._begin, self.constraint = self._answers()
        self._engine = TransformersEngine(model)
        # Questions are asked again and again: by policy and reward, for each answer of a group.
        self.question = cache(self._question)
        self._order = cache(self._draw_order)
        self._check_context()

    def _check_context(self) -> None:
        """Refuse answers that do not fit into the model's context behind the longest of some prompts.

        Raises
        ------
        UsageError
            They do not.
        """
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        looked_at = range(min(self.n_of_epoch, 64))
        longest = max(len(self.question(n).ids) for n in looked_at) + self.constraint.max_tokens
        if context is not None and longest > context:
            raise UsageError(
                f"policy.genes: prompt and answer take up to {longest:,} tokens, and the model's context is "
                f"{context:,}; ask for fewer genes than {self.n_genes:,}"
            )

    def _real(self, asked: CorpusCells) -> RealCells:
        """Return the cells as rewards see them, with the condition of each."""
        shown = asked.cells.head(self.n_genes)
        texts = [asked.fields[name] for name in self.task.conditions]
        keys = (
            [", ".join(map(str, row)) for row in zip(*texts, strict=True)]
            if texts
            else [""] * len(shown)
        )
        conditions, condition = np.unique(np.array(keys, dtype=object), return_inverse=True)
        return RealCells(
            cells=shown,
            expression=self._expression(shown),
            conditions=[str(c) for c in conditions],
            condition=condition.astype(np.int64),
        )

    def _expression(self, cells: RankedCells) -> sp.csr_matrix:
        """Return what the sentences of cells are turned back into; nothing where the model has no line for that."""
        if not self.model.card.inverse:
            return sp.csr_matrix((len(cells), len(cells.vocabulary)), dtype=np.float32)
        return self.model.inverse.expression(cells)

    def _answers(self) -> tuple[np.ndarray, Constraint]:
        """Return what every answer begins with, as tokens, and what may follow."""
        tokenizer, nothing = self.model.tokenizer, np.empty(0, np.int32)
        wording = self.model.prompts.wording(self.task.id)
        kept: Constraint
        if self.task.answer == "cell":
            columns = np.arange(len(self.model.vocabulary))
            choice = GeneChoice(columns, self.n_genes, np.empty(0, np.int64))
            begin, sentence = answer_constraint(
                self.model, texts_around(self.task, wording, 1), choice
            )
            kept, most = sentence, sentence.usual_tokens * 5 // 4 + 8
        else:
            labels = self.model.known(self.task.target)
            answers = label_answers(self.model, self.task, labels)
            begin, kept = nothing, OneOf([a[:-1] for a in answers], tokenizer.eos_id)
            most = kept.max_tokens + 8
        if self.recipe.constrained:
            return begin, kept
        never = [tokenizer.pad_id] if tokenizer.pad_id != tokenizer.eos_id else []
        return begin, FreeText(len(tokenizer.backend), tokenizer.eos_id, most, never)

    @property
    def n_of_epoch(self) -> int:
        """Questions of an epoch: every condition, or every cell, once."""
        return len(
            self.real.conditions if self.recipe.prompts == "conditions" else self.real.condition
        )

    def _question(self, number: int) -> Question:
        """Return a question by its number."""
        rng = generator(self.seed, "question", number)
        epoch, at = divmod(number, self.n_of_epoch)
        row = int(self._order(epoch)[at])
        if self.recipe.prompts == "conditions":
            row = int(rng.choice(self.real.rows(row)))
        wording = self.model.prompts.wording(self.task.id)
        values = {name: str(texts[row]) for name, texts in self.fields.items()}
        cell = None if self.task.generates else self.real.cells.to_columns(row)
        prompt = self.task.ask(
            wording.pick(rng), values, cell, self.n_genes if cell is None else len(cell), wording
        )
        ids = np.concatenate([self.model.encode_prompt(prompt), self._begin]).astype(np.int32)
        reference = None if self.task.generates else values[self.task.target]
        return Question(ids, int(self.real.condition[row]), row, reference)

    def _draw_order(self, epoch: int) -> np.ndarray:
        return generator(self.seed, "order", epoch).permutation(self.n_of_epoch)

    def write(
        self, numbers: Sequence[int], copies: Sequence[int], temperature: float
    ) -> list[np.ndarray]:
        """Draw answers with the model as it is now.

        Parameters
        ----------
        numbers
            Of the questions.
        copies
            Which answer of its group each is; with the question's number it decides every draw.

        Returns
        -------
        list of int32 arrays
            Token ids of each answer behind `Question.ids`.
        """
        prompts = [self.question(n).ids for n in numbers]
        keys = cell_keys([f"{n}#{c}" for n, c in zip(numbers, copies, strict=True)], self.seed)
        states = self._engine.generate(
            prompts,
            self.constraint,
            Sampling(temperature=temperature, seed=self.seed),
            begun=len(self._begin),
            keys=keys,
        )
        return [np.array(answer_tokens(self.constraint, state), np.int32) for state in states]

    def read(self, numbers: Sequence[int], answers: Sequence[np.ndarray]) -> Rollouts:
        """Read answers, as the task reads them. Answers to a question are neighbours."""
        asked = [self.question(n) for n in numbers]
        texts = [self.text(answer) for answer in answers]
        if not self.task.generates:
            labels = self.model.known(self.task.target)
            texts = [self.task.parse_label(text, labels) or text for text in texts]
        none = np.zeros(len(texts), np.int64)
        cells, repeated, unknown = None, none, none
        if self.task.generates:
            parsed = self.task.parse_cells(texts, self.model.vocabulary)
            order = np.lexsort(
                [parsed.ranks, np.repeat(np.arange(len(texts)), np.diff(parsed.indptr))]
            )
            cells = RankedCells(parsed.indptr, parsed.genes[order], self.model.vocabulary)
            repeated, unknown = parsed.n_duplicates, parsed.n_invalid
        begins = np.flatnonzero(np.diff(numbers, prepend=-1))
        return Rollouts(
            group=np.repeat(np.arange(len(begins)), np.diff([*begins, len(texts)])),
            condition=np.array([q.condition for q in asked], np.int64),
            texts=texts,
            cells=cells,
            asked_genes=np.full(len(texts), self.n_genes, np.int64),
            repeated=repeated,
            unknown=unknown,
            truth=np.array([q.truth for q in asked], np.int64),
            references=None if self.task.generates else [str(q.reference) for q in asked],
            seed=int(generator(self.seed, "rewards", int(numbers[0])).integers(2**31)),
        )

    def text(self, answer: np.ndarray) -> str:
        """Return an answer as text, without its end."""
        eos = self.model.tokenizer.eos_id
        return self.model.tokenizer.decode([t for t in answer.tolist() if t != eos]).strip()
