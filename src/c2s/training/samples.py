"""What training reads: streams of tokenised samples, and batches of them without padding.

A stream gives, for any optimiser step, the samples of this process: a pure function of the step, so that a run goes
on from a checkpoint, or on another number of processes, with the same samples. A batch lays its samples one behind
another in one row; where each begins is said beside it, and attention and loss keep to it (`packed_attention`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from c2s.common.errors import UsageError
from c2s.corpus.online import OnlineExamples
from c2s.corpus.reader import ShardReader
from c2s.tokens.tokenizer import CellTokenizer

if TYPE_CHECKING:
    from c2s.training.recipe import Learn

#: Says of each token of a sample, given how many are its prompt, which is the last one that it sees; see `PromptReach`.
Reach = Callable[[np.ndarray, int], np.ndarray]

#: Label of tokens that are not learned, as in Hugging Face and PyTorch.
IGNORE = -100


@dataclass(frozen=True)
class TokenSample:
    """A sample as tokens.

    Attributes
    ----------
    ids : int64 array, shape (n_tokens,)
        Prompt, response, end-of-text.
    prompt_length
        Tokens before the response, at least one.
    task
        Id of its task, or None where that is not known.
    """

    ids: np.ndarray
    prompt_length: int
    task: str | None = None


class SampleStream(Protocol):
    """Samples in an endless order of their own."""

    @property
    def task_names(self) -> Sequence[str]:
        """What the tasks of batches count in."""

    @property
    def n_items(self) -> int:
        """Items of an epoch; an item is a sample, or a packed sequence of several."""

    def steps(
        self, batch_size: int, first: int, rank: int, world_size: int
    ) -> Iterator[list[TokenSample]]:
        """Yield the samples of this process of one optimiser step after another, without end.

        Parameters
        ----------
        batch_size
            Items of a step over all processes; a multiple of `world_size`.
        first
            The step to begin with.
        rank, world_size
            This process, and the number of processes that share the items of a step.
        """


class CorpusStream:
    """The samples of a corpus that `c2s corpus build` made; epoch follows epoch, each in its own order.

    Parameters
    ----------
    reader
        Opens the corpus for a rank and a number of ranks; see `ShardReader`. What falls to a process is dealt out here.

    Raises
    ------
    InputError, UsageError
        The corpus cannot be read.
    """

    def __init__(self, reader: Callable[[int, int], ShardReader]) -> None:
        self._open = reader
        whole = reader(0, 1)
        self._n_items = whole.n_items
        self.task_names = whole.task_names

    @property
    def n_items(self) -> int:
        """Packed sequences, or samples, of an epoch."""
        return self._n_items

    def steps(
        self, batch_size: int, first: int, rank: int, world_size: int
    ) -> Iterator[list[TokenSample]]:
        """Yield the samples of this process, step by step; see `SampleStream`."""
        # The order is that of one process, of which each takes its part: an odd item would shift it otherwise.
        reader = self._open(0, 1)
        for step in itertools.count(first):
            places = np.arange(step * batch_size + rank, (step + 1) * batch_size, world_size)
            yield [s for item in reader.at(places) for s in samples_of(item, self.task_names)]


def samples_of(item: dict[str, torch.Tensor], task_names: Sequence[str]) -> list[TokenSample]:
    """Return the samples of an item of a `ShardReader`, packed sequence or sample."""
    ids, labels = item["input_ids"].numpy(), item["labels"].numpy()
    lengths = item["seq_lengths"].tolist() if "seq_lengths" in item else [len(ids)]
    tasks = item["task_ids"].reshape(-1).tolist()
    samples, start = [], 0
    for length, task in zip(lengths, tasks, strict=True):
        stop = start + length
        prompt = int(np.argmax(labels[start:stop] != IGNORE))
        samples.append(
            TokenSample(ids[start:stop], prompt, task_names[task] if task >= 0 else None)
        )
        start = stop
    return samples


class CellStream:
    """Examples drawn from cells in memory, ranked anew each time.

    Parameters
    ----------
    examples
        The stream of examples; it begins again at its end.
    tokenizer
        Makes tokens of their segments.
    """

    def __init__(self, examples: OnlineExamples, tokenizer: CellTokenizer) -> None:
        self.examples, self.tokenizer = examples, tokenizer
        self.task_names = tuple(examples.task_ids)

    @property
    def n_items(self) -> int:
        """Examples of the stream."""
        return len(self.examples)

    def steps(
        self, batch_size: int, first: int, rank: int, world_size: int
    ) -> Iterator[list[TokenSample]]:
        """Yield the samples of this process, step by step; see `SampleStream`."""
        step = first
        while True:
            positions = np.arange(step * batch_size + rank, (step + 1) * batch_size, world_size)
            yield self.at(positions % len(self.examples))
            step += 1

    def at(self, positions: np.ndarray) -> list[TokenSample]:
        """Return the samples at positions of the stream."""
        samples = []
        for example in self.examples.draw(positions):
            prompt = self.tokenizer.encode(example.prompt)
            ids = np.concatenate(
                [prompt, self.tokenizer.encode(example.response), [self.tokenizer.eos_id]]
            ).astype(np.int64)
            samples.append(TokenSample(ids, len(prompt), example.task))
        return samples


def split_into_passes(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Divide the samples of a step into passes through the network of at most so many tokens.

    Longest first into the pass with the fewest tokens (Graham 1969), for as few passes as that allows, so that passes
    are of even size.

    Parameters
    ----------
    lengths
        Tokens of each sample.
    most_tokens
        Of a pass; a longer sample is one by itself.

    Returns
    -------
    list of list of int
        The samples of each pass, each in ascending order. No pass is empty.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    n_passes = max(1, -(-sum(lengths) // most_tokens))
    while True:
        passes: list[list[int]] = [[] for _ in range(n_passes)]
        loads = [0] * n_passes
        for i in order:
            at = loads.index(min(loads))
            passes[at].append(i)
            loads[at] += lengths[i]
        alone = all(
            len(p) == 1 for p, load in zip(passes, loads, strict=True) if load > most_tokens
        )
        if alone or n_passes >= len(lengths):
            return [sorted(p) for p in passes if p]
        n_passes += 1


@dataclass(frozen=True)
class PackedBatch:
    """Samples one behind another in one row.

    Attributes
    ----------
    ids, positions : int64 tensor, shape (1, n_tokens)
        Tokens, and their places within their sample.
    labels : int64 tensor, shape (1, n_tokens)
        What each token's successor is, where that is learned; else `IGNORE`. Already shifted, because the last token of
        a sample has no successor.
    lengths, prompt_lengths : int64 tensor, shape (n_samples,)
        Tokens of each sample, and those before its response.
    n_learned : int64 tensor, shape (n_samples,)
        Tokens of each sample that are learned.
    tasks : int64 tensor, shape (n_samples,)
        Places in `task_names` of the stream; −1 where the task is not known.
    reach : int64 tensor, shape (1, n_tokens), or None
        The last place of its sample that each token sees; None where that is its own everywhere.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    lengths: torch.Tensor
    prompt_lengths: torch.Tensor
    n_learned: torch.Tensor
    tasks: torch.Tensor
    reach: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> PackedBatch:
        """Return the batch with its tokens on a device; lengths stay where they are read, on the CPU."""
        names = ("ids", "positions", "labels", *(["reach"] if self.reach is not None else []))
        moved = {n: getattr(self, n).to(device) for n in names}
        return replace(self, **moved)


def flatten(
    samples: Sequence[TokenSample],
    learn: Learn = "response",
    *,
    task_names: Sequence[str] = (),
    context: int | None = None,
    reach: Reach | None = None,
) -> PackedBatch:
    """Lay samples one behind another; nothing is cut.

    Parameters
    ----------
    samples
        At least one, each with a prompt and something behind it.
    learn
        "response": the tokens behind the prompt, end-of-text included; "all": every token but the first of a sample.
    task_names
        Number the tasks.
    context
        Longest sample that the network takes; None for no limit.
    reach
        Of a network whose prompts are not read causally.

    Raises
    ------
    UsageError
        A sample is longer than the context, or has nothing to learn; or prompts are learned whose tokens see what
        stands behind them.
    """
    if reach is not None and learn == "all":
        raise UsageError(
            "prompts whose tokens see what stands behind them cannot be learned; set learn: response, or "
            "attention.kind: causal"
        )
    number = {name: k for k, name in enumerate(task_names)}
    lengths = np.array([len(s.ids) for s in samples], np.int64)
    prompts = np.array([s.prompt_length for s in samples], np.int64)
    if context is not None and lengths.max() > context:
        raise UsageError(
            f"a sample takes {int(lengths.max()):,} tokens, the model's context is {context:,}; use fewer genes or "
            "cells a sample, or a model with a longer context"
        )
    if (prompts >= lengths).any() or (prompts < 1).any():
        raise UsageError(
            "a sample has no prompt, or nothing behind its prompt that could be learned"
        )
    ids = np.concatenate([s.ids for s in samples])
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(len(ids)) - np.repeat(starts, lengths)
    first = np.repeat(prompts if learn == "response" else np.ones_like(prompts), lengths)
    labels = np.where(
        (positions + 1 >= first) & (positions + 1 < np.repeat(lengths, lengths)),
        np.roll(ids, -1),
        IGNORE,
    )
    learned = lengths - (prompts if learn == "response" else 1)
    tasks = np.array([number.get(s.task or "", -1) for s in samples], np.int64)
    row = [torch.from_numpy(x.astype(np.int64))[None] for x in (ids, positions, labels)]
    rest = [torch.from_numpy(x) for x in (lengths, prompts, learned, tasks)]
    batch = PackedBatch(*row, *rest)
    if reach is None:
        return batch
    seen = np.concatenate([reach(s.ids, s.prompt_length) for s in samples])
    return replace(batch, reach=torch.from_numpy(seen)[None])
