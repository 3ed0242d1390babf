"""Gene order as augmentation (SPEC §17, row 2): genes of prompts' cell sentences stand in other orders now and then.

The paper would have training on variable orders bring order invariance. Only prompts are permuted: an answer in another
order would teach the model to write cells that no line from rank to expression belongs to. Prompts do not say that
they were permuted (the paper does not specify it).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
from pydantic import Field

from c2s.common.config import Config
from c2s.common.seeds import generator
from c2s.tokens.positions import CellFinder

if TYPE_CHECKING:
    from c2s.tokens.tokenizer import CellTokenizer
    from c2s.training.samples import SampleStream, TokenSample


class AugmentRecipe(Config):
    """How often genes of prompts are put in another order, and how far they come (SPEC §17, row 2)."""

    share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Of the samples: those of which the prompt's cell sentences are permuted.",
    )
    window: int | None = Field(
        None,
        ge=2,
        description="Genes are permuted within windows of so many ranks; without it, over the whole sentence.",
    )


class PermutedStream:
    """A stream of samples, the genes of whose prompts stand in other orders now and then.

    Which sample is permuted, and how, depends on the seed, the step and the sample, not on the process that reads it.

    Parameters
    ----------
    stream
        What is permuted.
    augment
        How.
    tokenizer
        Of the samples.
    seed
        Draws samples and orders.
    """

    def __init__(
        self, stream: SampleStream, augment: AugmentRecipe, tokenizer: CellTokenizer, seed: int
    ) -> None:
        self.stream, self.augment, self.tokenizer, self.seed = stream, augment, tokenizer, seed
        self.task_names = stream.task_names
        self._finder = CellFinder(tokenizer)
        table = tokenizer.gene_tokens
        self._rows = {table.row(k).tobytes() for k in range(len(table.indptr) - 1)}

    @property
    def n_items(self) -> int:
        """Items of an epoch."""
        return self.stream.n_items

    def steps(
        self, batch_size: int, first: int, rank: int, world_size: int
    ) -> Iterator[list[TokenSample]]:
        """Yield the samples of this process, step by step; see `SampleStream`."""
        steps = self.stream.steps(batch_size, first, rank, world_size)
        for step, samples in enumerate(steps, start=first):
            yield [self._drawn(sample, step) for sample in samples]

    def _drawn(self, sample: TokenSample, step: int) -> TokenSample:
        """Return a sample as it is, or permuted."""
        draw = generator(self.seed, "gene order", step, crc32(sample.ids.tobytes()))
        return sample if draw.random() >= self.augment.share else self.permuted(sample, draw)

    def permuted(self, sample: TokenSample, draw: np.random.Generator) -> TokenSample:
        """Return a sample with the genes of its prompt's cell sentences in another order, drawn by `draw`.

        Every gene is moved as the tokens that it has behind a space. One that is written otherwise, as the first of a
        line is by many tokenizers, keeps its place ("text" mode; `genes` mode knows no such genes).
        """
        ids = sample.ids.copy()
        for spans in self._finder.sentences(ids[: sample.prompt_length]):
            genes = [sample.ids[start:stop] for start, stop in spans]
            free = np.array(
                [k for k, g in enumerate(genes) if g.astype(np.int32).tobytes() in self._rows],
                np.int64,
            )
            order = np.arange(len(genes))
            for places in _windows(free, len(genes), self.augment.window):
                order[places] = draw.permutation(places)
            ids[spans[0, 0] : spans[-1, 1]] = np.concatenate([genes[k] for k in order])
        return replace(sample, ids=ids)


def _windows(places: np.ndarray, n_genes: int, window: int | None) -> Sequence[np.ndarray]:
    """Return the places of each window of ranks, all in one without a window."""
    if window is None:
        return [places]
    return [places[places // window == k] for k in range(-(-n_genes // window))]
