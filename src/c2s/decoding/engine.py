"""Asking a model: constrained generation, exact scores of given answers, embeddings.

`Engine` is the small protocol; `TransformersEngine` is the plain implementation on Hugging Face models. An
engine knows token ids and constraints, nothing of genes, labels or AnnData.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from c2s.common.errors import UsageError
from c2s.common.seeds import cell_keys
from c2s.constraints.trie import Constraint, GeneSentence, GeneSentenceState, TokenState
from c2s.decoding.generation import Passes, SentenceWriter, write_token_by_token
from c2s.decoding.sampling import Sampling, choose

__all__ = ["Engine", "Sampling", "TransformersEngine", "choose"]

if TYPE_CHECKING:
    import torch

    from c2s.models.directory import Model

#: Called with the number of prompts that were just finished.
Progress = Callable[[int], None]
#: Finishes an answer to each prompt of a batch, given the keys of their draws.
Writer = Callable[[list[np.ndarray], np.ndarray], list[TokenState]]
#: Most tokens that are guessed at once. A processor pays for every token that is fed, a GPU for every pass.
_GUESSES_CPU, _GUESSES_GPU = 2, 8
#: Bytes of keys and values that copies of a prompt for its answers may take.
_CACHE_BUDGET = 1 << 30


class Engine(Protocol):
    """What decoding offers to the verbs."""

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        constraint: Constraint,
        sampling: Sampling,
        progress: Progress | None = None,
    ) -> list[TokenState]:
        """Return the finished state of each prompt's answer."""

    def score(
        self,
        prompts: Sequence[np.ndarray],
        answers: Sequence[Sequence[int]],
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Return log p(answer | prompt). float64, shape (n_prompts, n_answers)."""

    def embed(self, prompts: Sequence[np.ndarray], progress: Progress | None = None) -> np.ndarray:
        """Return the mean of the last hidden states over each prompt. float32, (n_prompts, hidden)."""


class TransformersEngine:
    """The engine on a Hugging Face causal language model.

    Parameters
    ----------
    model
        Network and tokenizer.
    batch_size
        Prompts in a batch; by default as many as hold about 16,000 tokens on a CPU, 64,000 on a GPU.
    guesses
        How many tokens of a gene are guessed at most and checked in one pass, where a gene is several tokens; by
        default 2 on a CPU, 8 elsewhere. It changes how long generation takes, not what is generated. 0 guesses none.

    Attributes
    ----------
    passes : Passes
        What the latest `generate` of cell sentences took.
    """

    def __init__(
        self, model: Model, batch_size: int | None = None, guesses: int | None = None
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"batch_size={batch_size} is not possible; it is at least 1")
        if guesses is None:
            guesses = _GUESSES_CPU if model.network.device.type == "cpu" else _GUESSES_GPU
        if guesses < 0:
            raise UsageError(f"guesses={guesses} is below 0")
        self.network = model.network
        self.pad_id = model.tokenizer.pad_id
        self.batch_size = batch_size
        self.guesses = guesses
        self.passes = Passes()

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        constraint: Constraint,
        sampling: Sampling,
        progress: Progress | None = None,
    ) -> list[TokenState]:
        """Draw an answer to each prompt from the model's distribution renormalised to what is allowed.

        Returns
        -------
        list of TokenState
            The finished states, one a prompt.

        Raises
        ------
        UsageError
            Prompt and answer do not fit into the model's context.
        """
        import torch

        finished: list[TokenState | None] = [None] * len(prompts)
        keys = cell_keys([str(i) for i in range(len(prompts))], sampling.seed)
        self._check_context(max(map(len, prompts), default=0) + constraint.max_tokens)
        write = self._writer(constraint, sampling)
        # Cell sentences take room as they grow, and very seldom the longest genes.
        usual = constraint.usual_tokens if isinstance(constraint, GeneSentence) else None
        for rows in self._batches(prompts, extra=usual or constraint.max_tokens):
            with torch.inference_mode():
                states = write([prompts[i] for i in rows], keys[rows])
            for row, state in zip(rows, states, strict=True):
                finished[row] = state
            if progress:
                progress(len(rows))
        return [state for state in finished if state is not None]

    def _writer(self, constraint: Constraint, sampling: Sampling) -> Writer:
        """Return what finishes the answers of a batch: compiled for cell sentences, for others a token a pass."""
        if isinstance(constraint, GeneSentence):
            writer = SentenceWriter(self.network, constraint, sampling, self.guesses)
            self.passes = writer.passes

            def write(prompts: list[np.ndarray], keys: np.ndarray) -> list[TokenState]:
                states = writer.write(prompts, keys)
                return [GeneSentenceState(constraint, states, row) for row in range(len(prompts))]

            return write

        def write_plainly(prompts: list[np.ndarray], keys: np.ndarray) -> list[TokenState]:
            states = [constraint.start() for _ in prompts]
            ids, mask = self._left_padded(prompts)
            write_token_by_token(self.network, ids, mask, states, keys, sampling, self.pad_id)
            return states

        return write_plainly

    def score(
        self,
        prompts: Sequence[np.ndarray],
        answers: Sequence[Sequence[int]],
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Return the exact log-probability of every answer behind every prompt.

        The prompt is computed once; the answers, which include their end token, share its cache.

        Returns
        -------
        float64 array, shape (n_prompts, n_answers)
        """
        import torch

        self._check_context(max(map(len, prompts), default=0) + max(map(len, answers)))
        scores = np.empty((len(prompts), len(answers)))
        # Each answer gets a copy of its prompt's cache: that decides how many fit at once.
        per_answer = self._cache_bytes() * (
            max(map(len, prompts), default=0) + max(map(len, answers))
        )
        together = max(1, min(len(answers), _CACHE_BUDGET // per_answer))
        prompts_at_once = max(1, _CACHE_BUDGET // (per_answer * together))
        for rows in self._batches(prompts, extra=4 * len(answers), most=prompts_at_once):
            batch = [prompts[i] for i in rows]
            with torch.inference_mode():
                for first in range(0, len(answers), together):
                    part = slice(first, first + together)
                    scores[rows, part] = self._score_batch(batch, answers[part])
            if progress:
                progress(len(rows))
        return scores

    def _score_batch(
        self, prompts: list[np.ndarray], answers: Sequence[Sequence[int]]
    ) -> np.ndarray:
        import torch

        ids, mask = self._left_padded(prompts)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        out = self.network(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
        )
        n, m = len(prompts), len(answers)
        longest = max(map(len, answers))
        tokens = torch.full((m, longest), self.pad_id, device=ids.device)
        real = torch.zeros((m, longest), dtype=torch.bool, device=ids.device)
        for row, answer in enumerate(answers):
            tokens[row, : len(answer)] = torch.as_tensor(answer, device=ids.device)
            real[row, : len(answer)] = True
        first = out.logits[:, -1].float().log_softmax(-1)[:, tokens[:, 0]]  # (n, m)
        if longest == 1:
            return first.double().cpu().numpy()
        cache = out.past_key_values
        cache.batch_repeat_interleave(m)  # row i·m + j: prompt i, answer j
        follow = self.network(
            input_ids=tokens[:, :-1].repeat(n, 1),
            attention_mask=torch.cat([mask.repeat_interleave(m, 0), mask.new_ones(n * m, longest - 1)], dim=1),
            position_ids=positions[:, -1:].repeat_interleave(m, 0) + torch.arange(1, longest, device=ids.device),
            past_key_values=cache,
            use_cache=True,
        ).logits.float().log_softmax(-1)  # fmt: skip
        wanted = tokens[:, 1:].repeat(n, 1)
        each = follow.gather(-1, wanted[..., None])[..., 0] * real[:, 1:].repeat(n, 1)
        return (first.double() + each.double().sum(-1).view(n, m)).cpu().numpy()

    def _cache_bytes(self) -> int:
        """Return an upper bound for the bytes of keys and values of one token."""
        config = self.network.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        return int(2 * config.num_hidden_layers * heads * width * self.network.dtype.itemsize)

    def embed(self, prompts: Sequence[np.ndarray], progress: Progress | None = None) -> np.ndarray:
        """Return the mean of the last hidden states over the tokens of each prompt (SPEC §8).

        Padding is left out of the mean (SPEC §21d), so a cell's embedding does not depend on its batch.

        Returns
        -------
        float32 array, shape (n_prompts, hidden)
        """
        import torch

        self._check_context(max(map(len, prompts), default=0))
        embedded = np.empty((len(prompts), self.network.config.hidden_size), np.float32)
        for rows in self._batches(prompts):
            with torch.inference_mode():
                ids, mask = self._left_padded([prompts[i] for i in rows])
                hidden = self.network.base_model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                    use_cache=False,
                ).last_hidden_state.float()  # (batch, length, hidden)
                weight = mask[..., None].float()
                embedded[rows] = ((hidden * weight).sum(1) / weight.sum(1)).cpu().numpy()
            if progress:
                progress(len(rows))
        return embedded

    def _left_padded(self, prompts: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        longest = max(map(len, prompts))
        ids = np.full((len(prompts), longest), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(prompts), longest), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = prompt
            mask[row, longest - len(prompt) :] = 1
        device = self.network.device
        return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)

    def _batches(
        self, prompts: Sequence[np.ndarray], extra: int = 0, most: int | None = None
    ) -> Iterator[np.ndarray]:
        """Yield rows of prompts of similar length, the longest first: what does not fit fails at once."""
        lengths = np.array([len(p) for p in prompts], dtype=np.int64)
        order = np.argsort(-lengths, kind="stable")
        budget = 64_000 if self.network.device.type == "cuda" else 16_000
        start = 0
        while start < len(order):
            size = self.batch_size or max(1, budget // int(lengths[order[start]] + extra))
            size = min(size, most) if most else size
            yield order[start : start + size]
            start += size

    def _check_context(self, n_tokens: int) -> None:
        config: Any = self.network.config
        context = getattr(config, "max_position_embeddings", None)
        if context is not None and n_tokens > context:
            raise UsageError(
                f"prompt and answer take up to {n_tokens:,} tokens, and the model's context is {context:,}; "
                "ask for fewer genes (top_k)"
            )
