"""Asking a model: constrained generation, exact scores of given answers, embeddings.

`Engine` is the small protocol; `TransformersEngine` is the plain implementation on Hugging Face models. An
engine knows token ids and constraints, nothing of genes, labels or AnnData.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from c2s.common.errors import UsageError
from c2s.common.seeds import cell_keys
from c2s.constraints.answers import AnswerTree, answer_trees
from c2s.constraints.trie import Constraint, GeneSentence, GeneSentenceState, TokenState
from c2s.decoding.generation import Passes, SentenceWriter, write_token_by_token
from c2s.decoding.sampling import Sampling, choose

__all__ = ["Engine", "Sampling", "TransformersEngine", "choose"]

if TYPE_CHECKING:
    import torch
    from transformers import Cache

    from c2s.models.directory import Model

#: Called with the number of prompts that were just finished.
Progress = Callable[[int], None]
#: Finishes an answer to each prompt of a batch, given the keys of their draws.
Writer = Callable[[list[np.ndarray], np.ndarray], list[TokenState]]
#: Most tokens that are guessed at once. A processor pays for every token that is fed, a GPU for every pass.
_GUESSES_CPU, _GUESSES_GPU = 2, 8
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
        check_context(getattr(config, "max_position_embeddings", None), n_tokens)


def check_context(context: int | None, n_tokens: int) -> None:
    """Refuse what does not fit into a model's context.

    Raises
    ------
    UsageError
        It is longer.
    """
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
