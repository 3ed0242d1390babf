"""Writing answers under a constraint: cell sentences with guesses, and any other answer a token a pass.

**Guesses.** In "text" mode a gene is three or four tokens, and a pass through the network for each is most of the cost
of a cell. So the rest of the gene is guessed, all of it is fed in one pass, and the network says at every place what it
would have drawn. What is drawn there depends on the logits and on numbers that belong to (seed, sequence, step), so
the tokens are the very tokens that would have come without guesses: a guess is kept while it is what is drawn, and the
first token that differs is taken in its stead. Guesses change how many passes are needed, never what is written.

A guess is good because it uses the same numbers: it is what a model that knows nothing but frequencies would have
drawn. Where the network is as undecided as the frequencies are (which of forty `RPL` genes), both draw the same; the
most frequent one would be right once in forty times. Frequencies are counted from what is written, by stretches of
the sentence, on top of those of the training cells where the constraint has them.

**Samples** of several cells are sentences one after another over one cache. What stands between two cells is read in
the pass that begins the second, like a prompt. All samples of a batch write the same cell, and go on to the next
together.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from c2s.constraints.kernels import States, finished
from c2s.constraints.samples import CellSample, CellSampleState
from c2s.constraints.trie import GeneSentence, GeneSentenceState, TokenState, TokenTrie
from c2s.decoding.sampling import Sampling, keys_in_sample
from c2s.decoding.token_draws import draw_tokens

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from c2s.decoding.prompt_attention import PromptReader

#: Genes of a stretch of a sentence, for which frequencies are counted together.
_STRETCH = 16
#: How much less a gene counts one stretch away.
_NEAR = 0.7
#: What the frequencies of training cells weigh, in sentences that were generated.
_PRIOR_SENTENCES = 80.0
#: Every gene counts as if it had been seen so often, so that none is impossible.
_UNSEEN = 0.01
#: Finished sentences leave the batch when so much of it is left.
_SHRINK_AT = 0.8


@dataclass
class Passes:
    """What writing sentences took.

    Attributes
    ----------
    genes
        Genes that were written.
    passes
        Passes that a sentence was in, summed over sentences, without those over prompts.
    fed
        Tokens that went through the network in them, without what fills up a batch.
    """

    genes: int = 0
    passes: int = 0
    fed: int = 0

    @property
    def per_gene(self) -> float:
        """Passes of a sentence for each gene."""
        return self.passes / max(self.genes, 1)


class SentenceWriter:
    """Writes cell sentences.

    Parameters
    ----------
    network
        A causal language model.
    constraint
        What the sentences may be.
    sampling
        How tokens are drawn.
    guesses
        How many tokens are guessed at most in one pass; 0 guesses none. A network that cannot take tokens back
        (`slots.takes_slots`) gets none.
    reader
        Has the network read prompts as it was trained to; None where that is causally.

    Attributes
    ----------
    passes : Passes
        Of all batches so far.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        constraint: GeneSentence,
        sampling: Sampling,
        guesses: int,
        reader: PromptReader | None = None,
    ) -> None:
        from c2s.decoding.slots import SlotNetwork, SteadyNetwork, takes_slots

        slots = takes_slots(network)
        self.network: Any = (SlotNetwork if slots else SteadyNetwork)(network, constraint.tokens)
        self.constraint, self.sampling, self.reader = constraint, sampling, reader
        self._left = not slots  # where what fills up a batch stands
        self.temperatures = sampling.temperatures_by_rank(constraint.n_genes)
        self.guesses = min(guesses, constraint.trie.depth - 1) if slots else 0
        self.passes = Passes()
        self.counts = first_counts(constraint)

    def write(self, prompts: list[np.ndarray], keys: np.ndarray, begun: int = 0) -> States:
        """Write a sentence behind each prompt.

        Parameters
        ----------
        prompts : list of int array
            Token ids.
        keys : uint64 array, shape (n_prompts,)
            Decide the draws of each sentence.
        begun
            Tokens at the end of every prompt that are the answer's.

        Returns
        -------
        States
            The finished sentences, in the order of the prompts.
        """
        cache = self.network.new_cache()
        start = np.zeros(len(prompts), np.int64)
        return self.write_behind(prompts, start, cache, keys, begun=begun)[0]

    def write_behind(
        self, texts: list[np.ndarray], lengths: np.ndarray, cache: Any, keys: np.ndarray, *, go_on: bool = False,
        begun: int = 0,
    ) -> tuple[States, np.ndarray, np.ndarray]:  # fmt: skip
        """Write a sentence behind each text, which stands behind what a cache holds.

        Parameters
        ----------
        texts : list of int array
            Token ids, at least one each.
        lengths : int64 array, shape (n_texts,)
            Tokens of each row that are in the cache already.
        cache
            Of the network. Behind a text only a `SlotCache` can hold anything: rows get different numbers of tokens.
        keys : uint64 array, shape (n_texts,)
            Decide the draws of each sentence.
        go_on
            Keep all rows in the cache, for what is written behind the sentences.
        begun
            Of texts that are prompts, behind nothing: tokens at the end of each that are the answer's.

        Returns
        -------
        states : States
            The finished sentences, in the order of the texts.
        lengths, last : int64 arrays, shape (n_texts,)
            Tokens of each row in the cache now, and the token id behind them, with which its sentence ends. Without
            `go_on`, of the rows that were the last to finish.
        """
        states = self.constraint.start_many(n := len(texts))
        new = np.array([len(text) for text in texts], dtype=np.int64)
        ids = np.zeros((n, new.max()), np.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
        last = np.arange(ids.shape[1]) == new[:, None] - 1
        reading: AbstractContextManager[None] = nullcontext()
        if self.reader is not None and not lengths.any():
            reading = self.reader.reading(texts, ids.shape[1], begun, left=self._left)
        with reading:
            logits = self.network.logits(ids, new, lengths, cache, last)
        lengths = lengths + new

        rows, fed = np.arange(n), np.empty((n, 1 + self.guesses), np.int64)
        n_fed = np.ones(n, np.int64)
        self._take(states, rows, keys, fed, n_fed, logits)
        while (open_ := states.n_genes[rows] < self.constraint.n_genes).any():
            if not go_on and open_.sum() <= _SHRINK_AT * len(rows):
                rows, fed, lengths = rows[open_], fed[open_], lengths[open_]
                cache.keep(self._tensor(np.flatnonzero(open_)))
                open_ = open_[open_]
            self._guess(states, rows, keys, fed, n_fed := np.ones(len(rows), np.int64))
            n_fed[~open_] = 1
            width = int(n_fed.max())
            wanted = (np.arange(width) < n_fed[:, None]) & open_[:, None]
            ids = self.constraint.tokens[np.where(wanted, fed[:, :width], 0)]
            logits = self.network.logits(ids, n_fed, lengths, cache, wanted)
            at = np.flatnonzero(open_)
            part = fed[at]
            lengths[at] += self._take(states, rows[at], keys, part, n_fed[at], logits)
            fed[at] = part
            self.passes.passes += len(at)
            self.passes.fed += int(wanted.sum())
        self.passes.genes += n * self.constraint.n_genes
        return finished(states), lengths, self.constraint.tokens[fed[:, 0]]

    def _guess(
        self, states: States, rows: np.ndarray, keys: np.ndarray, fed: np.ndarray, n_fed: np.ndarray
    ) -> None:
        from c2s.decoding import kernels

        if self.guesses:
            kernels.guess(
                self.constraint.arrays, states, rows, keys[rows], self.counts, _STRETCH,
                not self.temperatures.any(), fed, n_fed,
            )  # fmt: skip

    def _take(
        self, states: States, rows: np.ndarray, keys: np.ndarray, fed: np.ndarray, n_fed: np.ndarray,
        logits: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        """Draw the next tokens of rows; return how many of each row's fed tokens were right."""
        from c2s.decoding import kernels

        n_before = states.n_genes[rows]
        n_taken = np.empty(len(rows), np.int64)
        sampling = self.sampling
        kernels.take(
            self.constraint.arrays, states, rows, keys[rows], fed, n_fed, np.cumsum(n_fed) - n_fed, logits,
            self.temperatures, int(sampling.top_k), float(sampling.top_p), n_taken,
        )  # fmt: skip
        if self.guesses:
            kernels.learn(states, rows, n_before, self.counts, _STRETCH, _NEAR)
        return n_taken

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        import torch

        return torch.from_numpy(array).to(self.network.device)


class SampleWriter:
    """Writes samples of cells: sentences one after another over one cache.

    Parameters
    ----------
    network
        One that `takes_slots`.
    constraint
        What the samples may be.
    sampling, guesses, reader
        As for `SentenceWriter`.

    Attributes
    ----------
    passes : Passes
        Of all cells so far.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        constraint: CellSample,
        sampling: Sampling,
        guesses: int,
        reader: PromptReader | None = None,
    ) -> None:
        self.constraint, self.passes = constraint, Passes()
        made: dict[GeneSentence, SentenceWriter] = {}
        counts: dict[tuple[TokenTrie, int], np.ndarray] = {}
        for sentence in constraint.sentences:
            if sentence not in made:
                writer = SentenceWriter(network, sentence, sampling, guesses, reader)
                made[sentence] = writer
                writer.passes = self.passes
                # Cells that differ by no more than how they end are guessed from one another.
                alike = sentence.trie, sentence.n_genes
                writer.counts = counts.setdefault(alike, writer.counts)
        self._writers = [made[sentence] for sentence in constraint.sentences]

    def write(
        self, prompts: list[np.ndarray], keys: np.ndarray, begun: int = 0
    ) -> list[CellSampleState]:
        """Write a sample behind each prompt.

        Parameters
        ----------
        prompts : list of int array
            Token ids.
        keys : uint64 array, shape (n_prompts,)
            Decide the draws of each sample.
        begun
            Tokens at the end of every prompt that are the answer's.

        Returns
        -------
        list of CellSampleState
            The finished samples, in the order of the prompts.
        """
        cache = self._writers[0].network.new_cache()
        cells: list[list[GeneSentenceState]] = [[] for _ in prompts]
        texts, lengths = prompts, np.zeros(len(prompts), np.int64)
        for number, writer in enumerate(self._writers):
            go_on = number + 1 < len(self._writers)
            states, lengths, last = writer.write_behind(
                texts, lengths, cache, keys_in_sample(keys, number), go_on=go_on, begun=begun
            )
            for row, sample in enumerate(cells):
                sample.append(GeneSentenceState(writer.constraint, states, row))
            if go_on:
                texts = [
                    np.array([token, *self.constraint.text_behind(number, sample[-1])])
                    for token, sample in zip(last.tolist(), cells, strict=True)
                ]
        return [CellSampleState(self.constraint, sample) for sample in cells]


def first_counts(constraint: GeneSentence) -> np.ndarray:
    """Return what guesses start from, before anything is written. float32, shape (n_stretches, n_genes)."""
    n_stretches = -(-constraint.n_genes // _STRETCH)
    counts = np.full((n_stretches, constraint.n_items), _UNSEEN, np.float32)
    if constraint.frequencies is not None:
        share = constraint.frequencies / max(constraint.frequencies.sum(), 1e-12)
        counts += np.float32(_PRIOR_SENTENCES * _STRETCH) * share.astype(np.float32)
    return counts


def write_token_by_token(
    network: PreTrainedModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    states: list[TokenState],
    keys: np.ndarray,
    sampling: Sampling,
    pad_id: int,
    reading: AbstractContextManager[None] | None = None,
) -> None:
    """Finish answers of any constraint with any network, a token a pass.

    Parameters
    ----------
    network
        A causal language model.
    ids, mask : int64 tensors, shape (batch, length)
        Prompts, filled up on the left, and where they are.
    states : list of TokenState
        The answers; they are advanced until all are done.
    keys : uint64 array, shape (batch,)
        Decide the draws of each answer.
    sampling
        How tokens are drawn.
    pad_id
        What is fed where an answer is done.
    reading
        Entered while prompts are read.
    """
    import torch

    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache, step = None, 0
    while not all(state.done for state in states):
        with (reading if step == 0 else None) or nullcontext():
            out = network(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            )  # fmt: skip
        cache = out.past_key_values
        chosen = draw_tokens(
            states, out.logits[:, -1], sampling, keys, [step] * len(states), pad_id
        )
        for state, token in zip(states, chosen.tolist(), strict=True):
            if not state.done:
                state.advance(token)
        ids = chosen[:, None]
        mask = torch.cat([mask, mask.new_ones(len(states), 1)], dim=1)
        positions = positions[:, -1:] + 1
        step += 1
