"""Annotation of samples, several cells of one donor and tissue: their tissue, or the type of each.

These are tasks 5 and 6 of SPEC §4.1. The model reads a sample at once. The tissue is scored as a cell type is: the
exact probability of every known tissue. The types of the cells are answered in one text, a label for each cell. They
are found from the first cell to the last, each as the most probable of the labels behind those already answered, by
its exact probability. Nothing but known labels is ever answered, and a label for every cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import pandas as pd

from c2s.analysis.annotate import candidates, probabilities_of
from c2s.analysis.cells import (
    asked_with,
    cells_for_model,
    claim,
    condition_texts,
    label_columns,
    opened_for,
    record,
    target,
)
from c2s.cells.ranked import RankedCells
from c2s.cells.readers import expression
from c2s.common.errors import InputError, UsageError, listing, warn
from c2s.common.progress import progress_bar
from c2s.common.seeds import generator
from c2s.constraints.answers import common_beginning
from c2s.decoding.engine import TransformersEngine
from c2s.decoding.prompts import label_answers
from c2s.models.directory import Model
from c2s.tasks.base import Task
from c2s.tasks.multi_cell import SAMPLE_CELL_TYPES, TISSUE
from c2s.tasks.prompts import TaskWording

if TYPE_CHECKING:
    from anndata import AnnData

#: What can be asked of a sample: ids of tasks.
What = Literal["tissue", "sample_cell_types"]

_TASKS: dict[str, Task] = {task.id: task for task in (TISSUE, SAMPLE_CELL_TYPES)}
#: Columns of `obs` that get the answers where no other name is given.
_KEYS = {"tissue": "c2s_tissue", "sample_cell_types": "c2s_sample_cell_type"}


def annotate_samples(
    adata: AnnData,
    model: Model,
    what: What = "tissue",
    labels: Sequence[str] | None = None,
    *,
    groupby: str | Sequence[str] | None = None,
    cells_per_sample: int = 5,
    key_added: str | None = None,
    confidence_key: str | None = None,
    sample_key: str = "c2s_sample",
    probabilities_key: str | None = None,
    organism: str | None = None,
    top_k: int | None = None,
    genes: Sequence[str] | str | None = None,
    layer: str | None = None,
    gene_names: Mapping[str, str] | str | None = None,
    batch_size: int | None = None,
    strict: bool = False,
    seed: int = 0,
    copy: bool = False,
) -> AnnData | None:
    """Name the tissue of samples of several cells, or the type of each of their cells, with probabilities.

    Parameters
    ----------
    adata
        Counts or normalised expression. `X` is not changed.
    model
        Trained on the task that `what` names.
    what
        "tissue": one label a sample. "sample_cell_types": one label a cell, found with the other cells in view, from
        the first of a sample to the last; each is the most probable label behind those before it.
    labels
        Candidates; by default all tissues, or cell types, that the model was trained on.
    groupby
        One or several columns of `obs`, as "donor": cells of a sample agree in them. They are drawn at random, each
        once. By default a sample is cells that follow each other in the data. Cells without a group get no answer.
    cells_per_sample
        Cells of a sample, at most; a group is shared out evenly. Best a number that the model was trained on.
    key_added, confidence_key
        Columns of `obs` for the label and its probability, by default `c2s_tissue` or `c2s_sample_cell_type`, and
        the same with `_confidence`. A cell without any known gene is in no sample and gets neither.
    sample_key
        Column of `obs` for the number of a cell's sample, −1 for a cell in none.
    probabilities_key
        Where given, `obsm` gets a table of the probabilities of all labels, with columns as in `annotate`.
    organism
        By default `obs["organism"]`, or the only one that the model knows. Cells of a sample agree in it.
    top_k, genes, layer, gene_names
        Which genes are shown to the model; see `c2s.pp.cell_sentences`. All cells of a sample are shown with as many
        genes, as in training: as many as its poorest cell has, and as fit into the model's context.
    batch_size
        Samples in a batch; by default what fits the machine.
    strict
        Refuse labels that the model never saw.
    seed
        Draws ties, and which cells come into a sample.
    copy
        Return a changed copy instead of writing into `adata`.

    Returns
    -------
    AnnData or None
        The copy, if `copy`.

    Raises
    ------
    InputError
        The matrix cannot be ranked, or shares no gene with the model.
    UsageError
        The model was not trained on the task, the keys hold something else, a column is missing, or the cells of a
        sample do not fit into the model's context.

    Examples
    --------
    >>> c2s.tl.annotate_samples(adata, model, "tissue", groupby="donor")  # doctest: +SKIP
    >>> adata.obs.groupby("donor")["c2s_tissue"].value_counts()  # doctest: +SKIP
    """
    task = _task(model, what)
    if cells_per_sample < 1:
        raise UsageError(f"cells_per_sample={cells_per_sample} is not possible; it is at least 1")
    adata = target(adata, copy)
    key_added = key_added or _KEYS[what]
    confidence_key = confidence_key or f"{key_added}_confidence"
    slots = {
        "obs": [key_added, confidence_key, sample_key],
        "obsm": [probabilities_key] if probabilities_key else [],
    }
    for slot, keys in slots.items():
        claim(adata, "annotate_samples", slot, *keys)
    labels = candidates(model, labels, strict, "tissue" if task is TISSUE else "cell_type")
    model = opened_for(expression(adata, layer)[1], model, gene_names)
    texts = condition_texts(adata, model, task, {"organism": organism})
    cells = cells_for_model(
        adata, model, top_k=top_k, genes=genes, layer=layer, seed=seed, gene_names=gene_names
    )
    groups = _groups(adata, texts, groupby)
    samples = draw_samples(groups, cells.lengths > 0, cells_per_sample, groupby is not None, seed)
    asker = _Asker(model, task, labels, TransformersEngine(model, batch_size), top_k)
    probabilities = asker.ask(cells, texts, samples)

    number = np.full(adata.n_obs, -1)
    for i, rows in enumerate(samples):
        number[rows] = i
    best = np.where(number >= 0, np.nan_to_num(probabilities).argmax(1), -1)
    adata.obs[key_added] = pd.Categorical.from_codes(best, categories=pd.Index(labels))
    adata.obs[confidence_key] = probabilities.max(1)
    adata.obs[sample_key] = number
    if probabilities_key is not None:
        adata.obsm[probabilities_key] = pd.DataFrame(
            probabilities, index=adata.obs_names, columns=label_columns(labels)
        )
    parameters: dict[str, Any] = {
        "what": what, "labels": labels, "cells_per_sample": cells_per_sample, "layer": layer, "seed": seed,
        "groupby": [groupby] if isinstance(groupby, str) else groupby and list(groupby),
        "top_k": model.card.top_k if top_k is None else top_k,
        **asked_with(texts, genes, gene_names),
    }  # fmt: skip
    record(adata, "annotate_samples", model.source, parameters, slots)
    return adata if copy else None


def draw_samples(
    groups: np.ndarray, usable: np.ndarray, cells_per_sample: int, shuffle: bool, seed: int
) -> list[np.ndarray]:
    """Share the cells of each group out into samples of nearly the same size, each cell once.

    Parameters
    ----------
    groups : int array, shape (n_cells,)
        −1 for a cell that belongs to none.
    usable : bool array, shape (n_cells,)
        Cells that come into a sample.
    cells_per_sample
        Cells of a sample at most.
    shuffle, seed
        Whether cells of a group are drawn at random, instead of in their order.

    Returns
    -------
    list of int array
        The rows of each sample, in the order in which the model is shown them.
    """
    samples: list[np.ndarray] = []
    rows = np.flatnonzero(usable & (groups >= 0))
    rows = rows[np.argsort(groups[rows], kind="stable")]
    numbers, starts = np.unique(groups[rows], return_index=True)
    for group, members in zip(numbers.tolist(), np.split(rows, starts)[1:], strict=True):
        drawn = generator(seed, "samples", group).permutation(members) if shuffle else members
        samples += np.array_split(drawn, -(-len(drawn) // cells_per_sample))
    return samples


def _task(model: Model, what: str) -> Task:
    if what not in _TASKS:
        raise UsageError(f"what={what!r} is unknown; use {' or '.join(map(repr, get_args(What)))}")
    if what not in model.card.tasks:
        raise UsageError(
            f"the model was not trained on {what!r}; its tasks: {listing(model.card.tasks) or 'none'}"
        )
    return _TASKS[what]


def _groups(
    adata: AnnData, texts: Mapping[str, np.ndarray], groupby: str | Sequence[str] | None
) -> np.ndarray:
    """Return the number of each cell's group, −1 where a column has no value for it. int64, shape (n_cells,)."""
    names = [groupby] if isinstance(groupby, str) else list(groupby or ())
    for name in names:
        if name not in adata.obs:
            raise UsageError(
                f"obs has no column {name!r} to group by; it has: {listing(list(map(str, adata.obs))) or 'none'}"
            )
    columns = pd.DataFrame({f"obs {name}": adata.obs[name].to_numpy() for name in names})
    for name, values in texts.items():
        columns[f"text {name}"] = values
    groups = columns.groupby(list(columns.columns), sort=True, observed=True, dropna=True).ngroup()
    found = groups.fillna(-1).to_numpy(np.int64)
    if (left := int((found < 0).sum())) == len(found):
        raise InputError(f"no cell has a value in obs[{names[0]!r}]")
    if left:
        warn(f"{left:,} of {len(found):,} cells have no group, and get no answer")
    return found


@dataclass
class _Asker:
    """Asks a model about samples in the first wording of a task."""

    model: Model
    task: Task
    labels: list[str]
    engine: TransformersEngine
    top_k: int | None = None

    def ask(
        self, cells: RankedCells, texts: Mapping[str, np.ndarray], samples: list[np.ndarray]
    ) -> np.ndarray:
        """Return the probability of each label for each cell, NaN for one in no sample. (n_cells, n_labels)."""
        prompts = self.prompts(cells, texts, samples)
        found = np.full((len(cells), len(self.labels)), np.nan)
        if self.task is TISSUE:
            with progress_bar("Annotating", len(samples)) as progress:
                scores = self.engine.score(prompts, self.tissue_answers(), progress)
            for rows, row in zip(samples, probabilities_of(scores[None], 1.0), strict=True):
                found[rows] = row
            return found
        with progress_bar("Annotating", sum(map(len, samples))) as progress:
            for place, here, probabilities in self.types(prompts, [len(s) for s in samples]):
                found[[samples[i][place] for i in here]] = probabilities
                progress(len(here))
        return found

    @cached_property
    def wording(self) -> TaskWording:
        """How the model was asked in training."""
        return self.model.prompts.wording(self.task.id)

    def prompts(
        self, cells: RankedCells, texts: Mapping[str, np.ndarray], samples: list[np.ndarray]
    ) -> list[np.ndarray]:
        """Return the token ids of each sample's prompt, with as many genes as fit into the context."""
        config: Any = self.model.network.config
        context = getattr(config, "max_position_embeddings", None)
        wording = self.wording
        longest = {n: self.longest_answer(n) for n in {len(rows) for rows in samples}}
        prompts, cut = [], 0
        for rows in samples:
            room = None if context is None else context - longest[len(rows)]
            values = {name: str(column[rows[0]]) for name, column in texts.items()}
            columns = [cells.to_columns(row) for row in rows]
            most = min(map(len, columns))

            def encoded(
                n: int, columns: list[np.ndarray] = columns, values: dict[str, str] = values
            ) -> np.ndarray:
                shown = [c[:n] for c in columns]
                stated = self.model.stated_genes(n, self.top_k)
                segments = self.task.ask(wording.prompts[0], values, shown, stated, wording)
                return self.model.encode_prompt(segments)

            n_genes = most if room is None else _most_that_fit(encoded, most, room)
            cut += n_genes < most
            prompts.append(encoded(n_genes))
        if cut:
            warn(
                f"{cut:,} of {len(samples):,} samples are shown with fewer genes a cell, so that they fit into the "
                f"model's context of {context:,} tokens; fewer cells a sample leave room for more"
            )
        return prompts

    def tissue_answers(self) -> list[list[int]]:
        """Return the token ids of each tissue as an answer, with its end."""
        return label_answers(self.model, self.task, self.labels)

    def longest_answer(self, n_cells: int) -> int:
        """Return the most tokens that an answer about so many cells takes, its end counted."""
        if self.task is TISSUE:
            return max(map(len, self.tissue_answers()))
        return max(len(self.types_answer([label] * n_cells, n_cells)) for label in self.labels)

    def types_answer(self, given: Sequence[str], n_cells: int) -> list[int]:
        """Return the token ids of an answer up to what follows the last of the given labels.

        That is the end of the answer, or the beginning of the next entry up to its own label, so that "beta" is not
        taken for the beginning of "beta cell".
        """
        wording, tokenizer = self.wording, self.model.tokenizer
        pieces = wording.labels.write([*given, *[""] * (n_cells - len(given))])
        ended = len(given) == n_cells
        shown = "".join(pieces if ended else pieces[: 2 * len(given)])
        (before, _), *behind = wording.response.parts
        if ended:
            text = before + shown + "".join(literal for literal, _ in behind)
            return [*tokenizer.encode_english(text).tolist(), *self.model.end_ids]
        joint = pieces[2 * len(given)]
        # White space at its end belongs to the tokens of the next label.
        return tokenizer.encode_english(before + shown + (joint.rstrip() or joint)).tolist()

    def types(
        self, prompts: list[np.ndarray], sizes: list[int]
    ) -> Iterator[tuple[int, list[int], np.ndarray]]:
        """Yield, for the first cell, the second and so on: which samples have one, and probabilities of its labels."""
        given: list[list[str]] = [[] for _ in sizes]
        for place in range(max(sizes, default=0)):
            here = [i for i, size in enumerate(sizes) if size > place]
            probabilities = self._next_types(prompts, sizes, given, here)
            for sample, row in zip(here, probabilities, strict=True):
                given[sample].append(self.labels[int(row.argmax())])
            yield place, here, probabilities

    def _next_types(
        self, prompts: list[np.ndarray], sizes: list[int], given: list[list[str]], here: list[int]
    ) -> np.ndarray:
        """Return the probabilities of the next label of some samples, float64, shape (n_samples, n_labels)."""
        asked: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        behind: dict[int, list[int]] = {}
        for sample in here:
            answers = [
                self.types_answer([*given[sample], label], sizes[sample]) for label in self.labels
            ]
            shared = common_beginning(answers)
            behind[sample] = answers[0][:shared]
            asked.setdefault(tuple(tuple(a[shared:]) for a in answers), []).append(sample)
        found = np.empty((len(here), len(self.labels)))
        for tails, which in asked.items():
            rows = [np.concatenate([prompts[i], behind[i]]).astype(np.int64) for i in which]
            begun = [len(behind[i]) for i in which]
            scores = self.engine.score(rows, cast("Sequence[Sequence[int]]", tails), begun=begun)
            found[np.searchsorted(here, which)] = probabilities_of(scores[None], 1.0)
        return found


def _most_that_fit(encoded: Callable[[int], np.ndarray], most: int, room: int) -> int:
    """Return the largest number of genes with which a prompt takes no more than `room` tokens."""
    if len(encoded(most)) <= room:
        return most
    low, high = 0, most  # what fits, and what does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if len(encoded(middle)) <= room else (low, middle)
    if low == 0:
        raise UsageError(
            "a sample does not fit into the model's context even with one gene a cell; use a smaller cells_per_sample=…"
        )
    return low
