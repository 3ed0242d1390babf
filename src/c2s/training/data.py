"""What a training recipe reads: its stream of samples, and what the model that it trains must know of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from c2s.common.errors import InputError, UsageError, warn
from c2s.common.progress import OnStage, no_progress
from c2s.corpus.build import prompts_path
from c2s.corpus.reader import ShardReader
from c2s.corpus.recipe import FIELDS, CorpusRecipe
from c2s.corpus.redrawn import RedrawnCorpus
from c2s.corpus.show import corpus_tokenizer, read_manifest
from c2s.corpus.sources.paths import PACKAGED, expand
from c2s.tasks.pathways import PathwayLine
from c2s.tasks.prompts import PromptPack, load_prompts
from c2s.tokens.tokenizer import CellTokenizer
from c2s.training.recipe import DataRecipe, corpus_recipe
from c2s.training.samples import CorpusStream, SampleStream, TokenSample, samples_of


@dataclass(frozen=True)
class TrainingData:
    """A corpus, or the first of those that are drawn anew for every epoch.

    Attributes
    ----------
    folder
        The corpus.
    packed
        Whether an item is a packed sequence, else a sample.
    seed
        Draws the order.
    redrawn
        What draws the corpora of later epochs; None for a corpus that was built.
    """

    folder: Path
    packed: bool
    seed: int
    redrawn: RedrawnCorpus | None = None

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest of the corpus."""
        return read_manifest(self.folder)

    @cached_property
    def recipe(self) -> CorpusRecipe:
        """The corpus's recipe."""
        return CorpusRecipe.parse(self.manifest["recipe"], f"{self.folder}: its recipe")

    @cached_property
    def tokenizer(self) -> CellTokenizer:
        """The corpus's tokenizer, with its genes."""
        return corpus_tokenizer(self.folder, self.manifest)

    @property
    def tasks(self) -> list[str]:
        """The tasks that there are training samples of."""
        return sorted(self.manifest["samples"].get("train", {}))

    @property
    def tokens(self) -> int:
        """Training tokens of an epoch."""
        return sum(self.manifest["tokens"]["train"].values())

    @cached_property
    def conditions(self) -> dict[str, list[str]]:
        """The values of each field that training cells have, sorted."""
        folder = self.folder / "cells" / "train"
        if not folder.is_dir():
            return {}
        found = {}
        for field in FIELDS:
            if field in ("donor", "study"):
                continue
            values: set[str] = set()
            for batch in ds.dataset(folder).to_batches(columns=[field]):
                values |= set(batch.column(field).unique().to_pylist())
            found[field] = sorted(v for v in values if v is not None)
        return {k: v for k, v in found.items() if v}

    @cached_property
    def prompts(self) -> PromptPack:
        """The corpus's wording."""
        place = Path() if self.redrawn is None else self.redrawn.folder
        return load_prompts(prompts_path(self.recipe, place))

    @cached_property
    def pathways(self) -> PathwayLine | None:
        """What is named before the answers of some tasks; None for nothing."""
        found = self.manifest.get("pathways")
        if found is None:
            return None
        own = {name: found[name] for name in PathwayLine.model_fields}
        return PathwayLine.parse(own, f"{self.folder}: pathways")

    @property
    def top_k(self) -> int:
        """Genes of a cell: the most that the corpus shows of one; without tasks of cells, of its sentences."""
        tasks = self.recipe.task_ids("single", "multi")
        return max([self.recipe.genes_of(t)[1] for t in tasks], default=self.recipe.sentence_genes)

    @cached_property
    def stream(self) -> SampleStream:
        """What is trained on."""
        if self.redrawn is not None:
            return RedrawnStream(self.redrawn, self.packed, self.seed)
        return CorpusStream(
            lambda rank, world: ShardReader(
                self.folder,
                "train",
                packed=self.packed,
                seed=self.seed,
                rank=rank,
                world_size=world,
                epochs=1 << 30,
            )
        )

    def validation(self, n_samples: int) -> list[TokenSample]:
        """Return some samples of the split "val", the same for the same seed; fewer where there are fewer."""
        if not n_samples or not self.manifest["samples"].get("val"):
            return []
        reader = ShardReader(self.folder, "val", packed=False, seed=self.seed, rank=0, world_size=1)
        items = itertools.islice(reader, n_samples)
        return [s for item in items for s in samples_of(item, reader.task_names)]


class RedrawnStream:
    """The samples of corpora that are drawn anew for every epoch.

    Parameters
    ----------
    corpus
        What draws them.
    packed, seed
        See `TrainingData`.
    """

    def __init__(self, corpus: RedrawnCorpus, packed: bool, seed: int) -> None:
        self.corpus, self.packed, self.seed = corpus, packed, seed
        self._opened: tuple[int, ShardReader] | None = None
        self._counts: dict[int, int] = {}
        whole = self._reader(0)
        self.task_names = whole.task_names
        self._n_items = whole.n_items

    def _reader(self, epoch: int) -> ShardReader:
        """Return the reader of an epoch; that of the last one asked for is kept."""
        if self._opened is None or self._opened[0] != epoch:
            reader = ShardReader(
                self.corpus.epoch(epoch),
                "train",
                packed=self.packed,
                seed=self.seed + epoch,
                rank=0,
                world_size=1,
            )
            self._opened = (epoch, reader)
        return self._opened[1]

    @property
    def n_items(self) -> int:
        """Items of the first epoch; others have about as many."""
        return self._n_items

    def steps(
        self, batch_size: int, first: int, rank: int, world_size: int
    ) -> Iterator[list[TokenSample]]:
        """Yield the samples of this process, step by step; see `SampleStream`."""
        epoch = begin = 0
        for step in itertools.count(first):
            places = np.arange(step * batch_size + rank, (step + 1) * batch_size, world_size)
            samples: list[TokenSample] = []
            while True:
                # Epochs have different numbers of items, which is known without drawing those that are over.
                if epoch not in self._counts:
                    self._counts[epoch] = self.corpus.n_items(epoch, packed=self.packed)
                end = begin + self._counts[epoch]
                here = places[places < end]
                if len(here):
                    for item in self._reader(epoch).at(here - begin):
                        samples += samples_of(item, self.task_names)
                places = places[len(here) :]
                if not len(places):
                    break
                epoch, begin = epoch + 1, end
            yield samples


def open_data(
    recipe: DataRecipe,
    folder: Path,
    work: Path,
    *,
    packed: bool,
    seed: int,
    context: int | None,
    tokenizer: str | None = None,
    mode: str | None = None,
    begun: bool = False,
    on_stage: OnStage = no_progress,
) -> TrainingData:
    """Open the corpus of a recipe, or draw the first.

    Parameters
    ----------
    recipe
        What is trained on.
    folder
        Where its relative paths begin.
    work
        Where corpora that are drawn are kept.
    packed, seed
        See `TrainingData`.
    context
        Longest sample that the model takes; corpora are drawn to fit.
    tokenizer, mode
        Of the model, where it has one; corpora are drawn with it.
    begun
        There was trained on what is in `work`: it is not replaced.
    on_stage
        Told of progress.

    Raises
    ------
    InputError, UsageError
        There is no corpus, or none can be drawn; the message names the field.
    """
    if recipe.corpus is not None:
        path = folder / recipe.corpus
        data = TrainingData(path, packed, seed)
        longest = data.recipe.context
        if context is not None and longest > context:
            raise UsageError(
                f"data.corpus: its samples have up to {longest:,} tokens, the model's context is {context:,}; build "
                f"the corpus with context: {context}, or give base.context"
            )
        return data
    drawn, place = corpus_recipe(recipe, folder)
    changes: dict[str, Any] = {}
    if context is not None and drawn.context > context:
        changes["context"] = context
    if tokenizer is not None:
        changes["tokenizer"] = tokenizer
        if mode == "genes" or drawn.tokens == "genes":
            changes["tokens"] = "genes"
    drawn = CorpusRecipe.parse(
        {**drawn.model_dump(mode="json"), **changes, "seed": drawn.seed}, "data.recipe"
    )
    redrawn = RedrawnCorpus(drawn, place, work, begun=begun)
    return TrainingData(redrawn.epoch(0, on_stage), packed, seed, redrawn)


def fitted_line(recipe: DataRecipe, folder: Path, data: TrainingData) -> dict[str, Any] | None:
    """Return the line from rank to expression of the cells trained on, by data set; None where none can be had.

    The line has two parameters, so that it is fitted on all cells of its file instead of training cells only: what it
    could learn of a test cell is nothing.
    """
    from c2s.cells.readers import read
    from c2s.cells.sentences import fit_inverse
    from c2s.datasets import pancreas

    source = data.recipe.sources[0]
    path = recipe.inverse
    gene_names, layer = None, None
    if path is None:
        if data.redrawn is None:
            return None
        path, gene_names, layer = source.patterns[0], source.gene_names, source.layer
        folder = data.redrawn.folder
    try:
        path = expand([path], folder)[0]
        # Some thousand cells are enough; a file may hold more than memory does.
        backed = Path(path).suffix == ".h5ad"
        adata = pancreas() if path == PACKAGED else read(folder / path, backed=backed)
        line = fit_inverse(adata, layer=layer, gene_names=gene_names, seed=data.seed)
    except (InputError, UsageError) as error:
        warn(f"no line from rank to expression was fitted: {error}")
        return None
    return {Path(path).name.split(".")[0]: line.to_dict()}
