"""Which samples are drawn from the cells of a unit: a pure function of the cells, the recipe and the seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np

from c2s.cells.ranked import RankedCells
from c2s.common.seeds import generator
from c2s.corpus.recipe import CorpusRecipe
from c2s.tasks.base import Task
from c2s.tasks.pathways import Pathways, with_line
from c2s.tasks.prompts import PromptPack
from c2s.tasks.registry import get_task
from c2s.tokens.assemble import Assembler, Parts, TokenBatch

#: A prompt says the number of genes, and another number may take so many fewer tokens ("2048" or "999").
_NUMBER_TOKENS = 4


class Sample(NamedTuple):
    """One example of a task, before its words are chosen.

    Attributes
    ----------
    task
        Its id.
    wording
        Which of the task's prompts.
    rows
        The cells: rows of the unit's ranked cells.
    genes
        Genes of each cell.
    drawn
        The number of genes that was drawn, before the context was measured.
    text
        Which of the texts of a study is the abstract, for tasks that have one.
    """

    task: str
    wording: int
    rows: tuple[int, ...]
    genes: int
    drawn: int
    text: int = 0


@dataclass(frozen=True)
class UnitCells:
    """The cells of a unit that passed quality control.

    Attributes
    ----------
    ranked
        In rank order.
    fields
        A text or None for each cell, by field.
    abstracts
        The ways to write the abstract of each study that has one.
    pathways
        What names pathways before answers, in the genes of `ranked`.
    """

    ranked: RankedCells
    fields: Mapping[str, Sequence[str | None]]
    abstracts: Mapping[str, Sequence[str]]
    pathways: Pathways | None = None

    @cached_property
    def known(self) -> dict[str, np.ndarray]:
        """Which cells have each field, and which belong to a study with an abstract. bool, shape (n_cells,)."""
        found = {
            f: np.array([t is not None for t in texts], bool) for f, texts in self.fields.items()
        }
        studies = self.fields["study"]
        found["abstract"] = np.array([s in self.abstracts for s in studies], bool)
        return found


@dataclass
class Drawn:
    """Samples of one part of a unit, and why others are missing."""

    samples: list[Sample] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    """Cells or samples by "task: reason"."""


def draw_samples(
    cells: UnitCells,
    rows: np.ndarray,
    recipe: CorpusRecipe,
    prompts: PromptPack,
    keys: Sequence[str | int],
) -> Drawn:
    """Draw the samples of some cells.

    The number is `samples_per_cell` times the number of cells, shared by weight among the tasks that the data allow.
    Within a task of single cells every cell comes once before any comes again.

    Parameters
    ----------
    cells, rows
        The unit, and which of its cells are drawn from: those of one split.
    keys
        What the draw belongs to: the source's hash, the unit's first row, the split.
    """
    drawn = Drawn()
    lengths = cells.ranked.lengths
    able: dict[str, np.ndarray | list[np.ndarray]] = {}
    for task_id in recipe.task_ids("single", "multi"):
        task = get_task(task_id)
        good = _with_fields(task, cells, rows, drawn.dropped)
        long_enough = lengths[good] >= recipe.genes_of(task_id)[0]
        _count(drawn.dropped, f"{task_id}: cell has too few genes", int((~long_enough).sum()))
        good = good[long_enough]
        if task.kind == "single":
            able[task_id] = good
        else:
            groups = _groups(cells, good)
            fewest = recipe.cells_of(task_id)[0]
            small = sum(len(g) for g in groups if len(g) < fewest)
            _count(
                drawn.dropped,
                f"{task_id}: cell of a donor and tissue with too few cells in its unit",
                small,
            )
            able[task_id] = [g for g in groups if len(g) >= fewest]
    able = {t: found for t, found in able.items() if len(found)}
    weights = np.array([recipe.weight_of(t) for t in able])
    for task_id, share in zip(able, weights / weights.sum() if len(able) else [], strict=True):
        rng = generator(recipe.draw_seed, "samples", task_id, *keys)
        wanted = int(recipe.samples_per_cell * len(rows) * share + rng.random())
        found = able[task_id]
        if isinstance(found, list):
            chosen = _several(found, wanted, recipe.cells_of(task_id), rng)
        else:
            rounds = [rng.permutation(found) for _ in range(-(-wanted // len(found)))]
            chosen = [(int(r),) for r in np.concatenate([*rounds, []])[:wanted]]
        drawn.samples += _finish(task_id, chosen, lengths, recipe, prompts, cells, rng)
    return drawn


def _with_fields(
    task: Task, cells: UnitCells, rows: np.ndarray, dropped: Counter[str]
) -> np.ndarray:
    """Return the cells that have every field that a task needs."""
    for name in task.needs:
        there = cells.known[name][rows]
        _count(dropped, f"{task.id}: cell has no {name}", int((~there).sum()))
        rows = rows[there]
    return rows


def _count(dropped: Counter[str], reason: str, n: int) -> None:
    if n:
        dropped[reason] += n


def _groups(cells: UnitCells, rows: np.ndarray) -> list[np.ndarray]:
    """Return the cells of each donor sample with one tissue (SPEC §4.1), in the order of their names."""
    by_sample: dict[tuple[tuple[str, bool], ...], list[int]] = {}
    columns = [cells.fields[f] for f in ("study", "donor", "tissue", "organism")]
    for row in rows.tolist():
        # Beside the text whether there is one: a donor may be called "None".
        key = tuple((str(c[row]), c[row] is None) for c in columns)
        by_sample.setdefault(key, []).append(row)
    return [np.array(by_sample[key]) for key in sorted(by_sample)]


def _several(
    groups: list[np.ndarray], wanted: int, limits: tuple[int, int], rng: np.random.Generator
) -> list[tuple[int, ...]]:
    """Draw samples of several different cells, a group as often as it has cells."""
    sizes = np.array([len(g) for g in groups])
    which = rng.choice(len(groups), size=wanted, p=sizes / sizes.sum())
    numbers = rng.integers(limits[0], np.minimum(limits[1], sizes[which]) + 1)
    return [
        tuple(rng.choice(groups[g], size=n, replace=False).tolist())
        for g, n in zip(which, numbers, strict=True)
    ]


def _finish(
    task_id: str,
    chosen: list[tuple[int, ...]],
    lengths: np.ndarray,
    recipe: CorpusRecipe,
    prompts: PromptPack,
    cells: UnitCells,
    rng: np.random.Generator,
) -> list[Sample]:
    """Draw the number of genes, the wording and the abstract of each sample; one number of genes for all its cells."""
    n = len(chosen)
    low, high = recipe.genes_of(task_id)
    starts = np.cumsum([0, *map(len, chosen)])[:-1]
    flat = np.fromiter(chain.from_iterable(chosen), np.int64)
    most = np.minimum.reduceat(lengths[flat], starts) if n else np.empty(0, np.int64)
    genes = rng.integers(low, np.minimum(high, most) + 1)
    wording = rng.integers(len(prompts.wording(task_id).prompts), size=n)
    texts = rng.random(n)
    if cells.abstracts:
        studies = cells.fields["study"]
        texts *= [len(cells.abstracts.get(str(studies[rows[0]]), [""])) for rows in chosen]
    drawn = zip(
        chosen, genes.tolist(), wording.tolist(), texts.astype(np.int64).tolist(), strict=True
    )
    return [Sample(task_id, w, rows, g, g, t) for rows, g, w, t in drawn]


def write_out(samples: Sequence[Sample], cells: UnitCells, prompts: PromptPack) -> list[Parts]:
    """Return the prompt and the response of each sample."""
    writers = {t: _writer(get_task(t), cells, prompts) for t in {s.task for s in samples}}
    parts = [writers[sample.task](sample) for sample in samples]
    return (
        parts
        if cells.pathways is None
        else _with_pathways(samples, parts, cells.ranked, cells.pathways)
    )


def _with_pathways(
    samples: Sequence[Sample], parts: Sequence[Parts], ranked: RankedCells, pathways: Pathways
) -> list[Parts]:
    """Return samples with the pathways of their cell before the answer, in the tasks that want that.

    Of a cell the genes count that the sample has of it.
    """
    written = list(parts)
    which = [i for i, sample in enumerate(samples) if sample.task in pathways.tasks]
    rows = np.array([samples[i].rows[0] for i in which], np.int64)
    n_genes = np.array([samples[i].genes for i in which], np.int64)
    for i, text in zip(which, pathways.lines(ranked, n_genes, rows), strict=True):
        written[i] = replace(parts[i], response=with_line(text, parts[i].response))
    return written


def _writer(task: Task, cells: UnitCells, prompts: PromptPack) -> Callable[[Sample], Parts]:
    """Return what writes the samples of one task; what is the same for all of them is looked up once."""
    wording = prompts.wording(task.id)
    named = [n for n in dict.fromkeys((*task.conditions, task.target)) if n in cells.fields]
    columns = [(name, cells.fields[name]) for name in named]
    types = cells.fields["cell_type"] if "cell_types" in (*task.conditions, task.target) else None
    studies = cells.fields["study"] if "abstract" in task.needs else None

    def write(sample: Sample) -> Parts:
        first = sample.rows[0]
        values: dict[str, object] = {name: texts[first] for name, texts in columns}
        values["num_genes"], values["num_cells"] = sample.genes, len(sample.rows)
        if types is not None:
            values["cell_types"] = [types[r] for r in sample.rows]
        if studies is not None:
            values["abstract"] = cells.abstracts[str(studies[first])][sample.text]
        return Parts(*task.parts(wording, sample.wording, values, sample.rows), sample.genes)

    return write


def fit(
    drawn: Drawn,
    cells: UnitCells,
    recipe: CorpusRecipe,
    prompts: PromptPack,
    assembler: Assembler,
) -> tuple[list[Sample], TokenBatch]:
    """Make every sample fit the context, as measured with the tokenizer; nothing is cut.

    A sample that is too long gets the largest number of genes with which it fits, then fewer cells, both within the
    recipe's ranges; one that still does not fit is dropped and counted. Fewer genes may have other pathways, so with
    a line of them the number is the largest but for what such lines differ by in length.
    """

    def measured(samples: list[Sample]) -> TokenBatch:
        return assembler.batch(write_out(samples, cells, prompts), cells.ranked)

    fitting: list[Sample | None] = list(drawn.samples)
    batch = measured(drawn.samples)
    long = np.flatnonzero(batch.lengths > recipe.context).tolist()
    if not long:
        return drawn.samples, batch
    lengths = batch.lengths[long]
    while long:
        shorter = _shorter([fitting[i] for i in long], lengths, cells, recipe, assembler)
        for i, sample in zip(long, shorter, strict=True):
            fitting[i] = sample
            if sample is None:
                drawn.dropped[f"{drawn.samples[i].task}: sample does not fit the context"] += 1
        left = [i for i in long if fitting[i] is not None]
        lengths = measured([s for i in left if (s := fitting[i]) is not None]).lengths
        still = lengths > recipe.context
        long, lengths = [i for i, more in zip(left, still, strict=True) if more], lengths[still]
    samples = [s for s in fitting if s is not None]
    return samples, measured(samples)


def _shorter(
    samples: Sequence[Sample | None],
    lengths: np.ndarray,
    cells: UnitCells,
    recipe: CorpusRecipe,
    assembler: Assembler,
) -> list[Sample | None]:
    """Return each sample with fewer genes, else with a cell less and its first number of genes, else None."""
    present = [s for s in samples if s is not None]
    rows = np.concatenate([s.rows for s in present]).astype(np.int64)
    indptr = np.concatenate([[0], np.cumsum([len(s.rows) for s in present])])
    genes = np.array([s.genes for s in present], np.int64)
    english = lengths - assembler.gene_tokens(rows, indptr, genes, cells.ranked)
    # Rather too many than too few: those that do not fit after all come again, so that the largest number is found.
    room = recipe.context - english + _NUMBER_TOKENS
    most = assembler.most_genes(rows, indptr, genes, room, cells.ranked)
    most = np.minimum(most, genes - 1)
    shorter: list[Sample | None] = []
    for sample, k in zip(present, most.tolist(), strict=True):
        if k >= recipe.genes_of(sample.task)[0]:
            shorter.append(sample._replace(genes=k))
        elif len(sample.rows) > recipe.cells_of(sample.task)[0]:
            shorter.append(sample._replace(rows=sample.rows[:-1], genes=sample.drawn))
        else:
            shorter.append(None)
    return shorter
