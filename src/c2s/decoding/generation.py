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
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from c2s.constraints.kernels import States, finished
from c2s.constraints.trie import GeneSentence, TokenState
from c2s.decoding.sampling import Sampling, choose, uniform_numbers

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
        Has the network read prompts as it was trained to.

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
        reader: PromptReader,
    ) -> None:
        from c2s.decoding.slots import SlotNetwork, SteadyNetwork, takes_slots

        slots = takes_slots(network)
        self.network: Any = (SlotNetwork if slots else SteadyNetwork)(network, constraint.tokens)
        self.constraint, self.sampling, self.reader = constraint, sampling, reader
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
        from c2s.decoding.slots import SlotNetwork

        n = len(prompts)
        states = self.constraint.start_many(n)
        lengths = np.array([len(p) for p in prompts], dtype=np.int64)
        ids = np.zeros((n, lengths.max()), np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = prompt
        last = np.arange(ids.shape[1]) == lengths[:, None] - 1
        cache = self.network.new_cache()
        left = not isinstance(self.network, SlotNetwork)
        with self.reader.reading(prompts, ids.shape[1], begun, left=left):
            logits = self.network.logits(ids, lengths, np.zeros(n, np.int64), cache, last)

        rows, fed = np.arange(n), np.empty((n, 1 + self.guesses), np.int64)
        n_fed = np.ones(n, np.int64)
        self._take(states, rows, keys, fed, n_fed, logits)
        while (open_ := states.n_genes[rows] < self.constraint.n_genes).any():
            if open_.sum() <= _SHRINK_AT * len(rows):
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
        return finished(states)

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
        logits = out.logits[:, -1].float()
        allowed = np.zeros(logits.shape, dtype=bool)
        for row, state in enumerate(states):
            allowed[row, [pad_id] if state.done else state.allowed()] = True
        logits = logits.masked_fill(~torch.from_numpy(allowed).to(logits.device), -torch.inf)
        progress = np.array([state.progress for state in states])
        chosen = choose(logits, sampling, uniform_numbers(keys, step), progress)
        for state, token in zip(states, chosen.tolist(), strict=True):
            if not state.done:
                state.advance(token)
        ids = chosen[:, None]
        mask = torch.cat([mask, mask.new_ones(len(states), 1)], dim=1)
        positions = positions[:, -1:] + 1
        step += 1
