"""Asking a model: constrained generation, exact scores of given answers, embeddings.

`Engine` is the small protocol; `TransformersEngine` is the plain implementation on Hugging Face models. An
engine knows token ids and constraints, nothing of genes, labels or AnnData.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from c2s.common.errors import UsageError
from c2s.common.seeds import cell_keys, mix64
from c2s.constraints.answers import AnswerTree, answer_trees
from c2s.constraints.trie import Constraint, TokenState

if TYPE_CHECKING:
    import torch
    from transformers import Cache

    from c2s.models.directory import Model

#: Called with the number of prompts that were just finished.
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn from what the constraint allows.

    Attributes
    ----------
    temperature
        Divides the logits; 0 takes the most probable token.
    top_k, top_p
        Keep only the most probable tokens: at most so many, or the fewest that reach this probability.
        0 and 1 keep all. The public tutorials use 50 and 0.95 (SPEC §6); a constraint needs neither.
    seed
        With the position of a prompt in the request it decides every draw, whatever the batch size.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise UsageError(f"temperature={self.temperature} is below 0")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p={self.top_p} is outside (0, 1]")
        if self.top_k < 0:
            raise UsageError(f"top_k={self.top_k} is below 0")


#: Bytes of keys and values that the prompts of a batch may take while their answers are scored.
_CACHE_BUDGET = 1 << 30

#: Bytes of logits behind the prompts of a batch.
_LOGITS_BUDGET = 1 << 28

#: Tokens that a CPU reads at once while answers are scored; more only leave its caches.
_CPU_TOKENS = 3_000

#: Rows of a tree of answers; longer lists are scored in several.
_TREE_ROWS = 128


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
    """

    def __init__(self, model: Model, batch_size: int | None = None) -> None:
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"batch_size={batch_size} is not possible; it is at least 1")
        self.network = model.network
        self.pad_id = model.tokenizer.pad_id
        self.batch_size = batch_size

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

        states: list[TokenState] = [constraint.start() for _ in prompts]
        keys = cell_keys([str(i) for i in range(len(prompts))], sampling.seed)
        self._check_context(max(map(len, prompts), default=0) + constraint.max_tokens)
        for rows in self._batches(prompts, extra=constraint.max_tokens):
            with torch.inference_mode():
                self._generate_batch(
                    [prompts[i] for i in rows], [states[i] for i in rows], keys[rows], sampling
                )
            if progress:
                progress(len(rows))
        return states

    def _generate_batch(
        self,
        prompts: list[np.ndarray],
        states: list[TokenState],
        keys: np.ndarray,
        sampling: Sampling,
    ) -> None:
        import torch

        ids, mask = self._left_padded(prompts)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache, step = None, 0
        while not all(state.done for state in states):
            out = self.network(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            )  # fmt: skip
            cache = out.past_key_values
            logits = out.logits[:, -1].float()
            allowed = np.zeros(logits.shape, dtype=bool)
            for row, state in enumerate(states):
                if state.done:
                    allowed[row, self.pad_id] = True
                else:
                    allowed[row, state.allowed()] = True
            logits = logits.masked_fill(~torch.from_numpy(allowed).to(logits.device), -torch.inf)
            chosen = choose(logits, sampling, _uniforms(keys, step))
            for state, token in zip(states, chosen.tolist(), strict=True):
                if not state.done:
                    state.advance(token)
            ids = chosen[:, None]
            mask = torch.cat([mask, mask.new_ones(len(states), 1)], dim=1)
            positions = positions[:, -1:] + 1
            step += 1

    def score(
        self,
        prompts: Sequence[np.ndarray],
        answers: Sequence[Sequence[int]],
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Return the exact log-probability of every answer behind every prompt.

        A prompt is read once. The answers, which include their end token, are then read behind it in one pass as
        a tree (`AnswerTree`): each row sees the prompt and its own way from there, and what answers share is
        read once. No copy of a prompt is made for an answer.

        Returns
        -------
        float64 array, shape (n_prompts, n_answers)

        Raises
        ------
        UsageError
            Prompt and answer do not fit into the model's context, or the network has layers other than full
            or sliding attention.
        InputError
            Two answers have the same tokens, or one has none.
        """
        import torch

        trees = answer_trees(answers, _TREE_ROWS)
        self._check_context(max(map(len, prompts), default=0) + max(map(len, answers)))
        kinds = self._attention_kinds()
        n_rows = max(len(tree) for _, tree in trees)
        tokens = max(map(len, prompts), default=0) + n_rows
        logits_bytes = 4 * n_rows * self.network.get_output_embeddings().weight.shape[0]
        most = min(_LOGITS_BUDGET // logits_bytes, _CACHE_BUDGET // (tokens * self._cache_bytes()))
        if self.network.device.type == "cpu":
            most = min(most, _CPU_TOKENS // tokens)
        scores = np.empty((len(prompts), len(answers)))
        for rows in self._batches(prompts, extra=n_rows, most=max(1, most)):
            with torch.inference_mode():
                batch = self._score_batch([prompts[i] for i in rows], trees, kinds)
            for (which, _), found in zip(trees, batch, strict=True):
                scores[np.ix_(rows, which)] = found
            if progress:
                progress(len(rows))
        return scores

    def _score_batch(
        self,
        prompts: list[np.ndarray],
        trees: Sequence[tuple[np.ndarray, AnswerTree]],
        kinds: Mapping[str, int | None],
    ) -> list[np.ndarray]:
        """Return log p of the answers of each tree, float64 arrays of shape (n_prompts, n_answers of it)."""
        import torch

        from c2s.decoding.prompt_cache import read_prompts

        device = self.network.device
        lengths = torch.tensor([len(p) for p in prompts], device=device)
        # The last token of a prompt is row 0 of every tree.
        ids = np.full((len(prompts), max(map(len, prompts)) - 1), self.pad_id, dtype=np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt) - 1] = prompt[:-1]
        last = torch.tensor([int(p[-1]) for p in prompts], device=device)
        cache = read_prompts(self.network, torch.from_numpy(ids).to(device))
        found = []
        for _, tree in trees:
            steps = self._score_tree(tree, last, lengths, cache, ids.shape[1], kinds)
            found.append(tree.totals(steps))
            cache.crop(-len(tree))
        return found

    def _score_tree(
        self,
        tree: AnswerTree,
        last: torch.Tensor,
        lengths: torch.Tensor,
        cache: Cache,
        n_cached: int,
        kinds: Mapping[str, int | None],
    ) -> np.ndarray:
        """Return log p of each step of a tree behind each prompt. float64, shape (n_prompts, n_steps)."""
        import torch

        device = last.device
        ids = torch.as_tensor(tree.token, device=device).repeat(len(last), 1)
        ids[:, 0] = last
        positions = lengths[:, None] - 1 + torch.as_tensor(tree.depth, device=device)
        sees = torch.as_tensor(tree.sees, device=device)
        masks = {
            kind: _tree_mask(positions, sees, n_cached, window, self.network.dtype)
            for kind, window in kinds.items()
        }
        logits = self.network(
            input_ids=ids,
            # Networks with one kind of layer take a tensor, those with several a mask for each kind.
            attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).logits.float()  # (n_prompts, n_rows, vocabulary)
        at = torch.as_tensor(tree.step_row), torch.as_tensor(tree.step_token)
        # One prompt after the other, so that its logits are still at hand.
        steps = torch.stack([prompt.log_softmax(-1)[at] for prompt in logits])
        return np.asarray(steps.cpu().double().numpy())

    def _attention_kinds(self) -> dict[str, int | None]:
        """Return the window of each kind of attention that the layers have, None where it is unlimited."""
        config: Any = self.network.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        either = "full_attention" if window is None else "sliding_attention"
        kinds = set(getattr(config, "layer_types", None) or [either])
        if other := kinds - {"full_attention", "sliding_attention"}:
            raise UsageError(
                f"labels cannot be scored by a network with layers of {min(other)};"
                " full and sliding attention are known"
            )
        return {kind: window if kind == "sliding_attention" else None for kind in kinds}

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


def _tree_mask(
    positions: torch.Tensor,
    sees: torch.Tensor,
    n_cached: int,
    window: int | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return what the rows of a tree may look at: 0 where they may, a huge negative number where not.

    Parameters
    ----------
    positions : int64 tensor, shape (n_prompts, n_rows)
        Where each row stands in its text; row 0 is the last token of the prompt.
    sees : bool tensor, shape (n_rows, n_rows)
    n_cached
        Tokens of the longest prompt without its last one; shorter prompts have padding behind them.
    window
        How many tokens, itself among them, a row reaches back to; None for all.

    Returns
    -------
    tensor of `dtype`, shape (n_prompts, 1, n_rows, n_cached + n_rows)
    """
    import torch

    before = torch.arange(n_cached, device=positions.device)
    real = (before < positions[:, :1])[:, None].expand(-1, positions.shape[1], -1)
    visible = torch.cat([real, sees.expand(len(positions), -1, -1)], dim=-1)
    if window is not None:
        at = torch.cat([before.expand(len(positions), -1), positions], dim=-1)
        visible = visible & (at[:, None] > positions[..., None] - window)
    mask = torch.zeros(visible.shape, dtype=dtype, device=positions.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]


def choose(logits: torch.Tensor, sampling: Sampling, uniforms: np.ndarray) -> torch.Tensor:
    """Draw one token a row by inverting the cumulative distribution at given uniform numbers.

    Parameters
    ----------
    logits : float tensor, shape (batch, vocabulary)
        −inf where a token is not allowed.
    sampling
        Temperature, top-k, top-p.
    uniforms : float64 array, shape (batch,)
        In [0, 1).

    Returns
    -------
    int64 tensor, shape (batch,)
    """
    import torch

    if sampling.temperature == 0:
        return logits.argmax(-1)
    logits = logits.double() / sampling.temperature
    if sampling.top_k and sampling.top_k < logits.shape[-1]:
        lowest = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < lowest, -torch.inf)
    probabilities = logits.softmax(-1)
    if sampling.top_p < 1:
        ordered, which = probabilities.sort(dim=-1, descending=True)
        # A token stays if those before it have not yet reached top_p.
        ordered = ordered * (ordered.cumsum(-1) - ordered < sampling.top_p)
        probabilities = torch.zeros_like(probabilities).scatter(-1, which, ordered)
    cumulative = probabilities.cumsum(-1)
    at = torch.as_tensor(uniforms, device=logits.device)[:, None] * cumulative[:, -1:]
    # The first token whose cumulative probability exceeds the draw; one of probability 0 never does so first.
    return (cumulative <= at).sum(-1).clamp(max=logits.shape[-1] - 1)


def _uniforms(keys: np.ndarray, step: int) -> np.ndarray:
    """Return one uniform number in [0, 1) per sequence for a step, from hashes of (sequence, step)."""
    # Reduced by Python: NumPy warns where the product of two scalars overflows.
    offset = np.uint64((step + 1) * 0x9E3779B97F4A7C15 % 2**64)
    bits = mix64(keys + offset)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
