"""Asking a model: constrained generation, exact scores of given answers, embeddings.

`Engine` is the small protocol; `TransformersEngine` is the plain implementation on Hugging Face models. An
engine knows token ids and constraints, nothing of genes, labels or AnnData.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from c2s.common.errors import UsageError
from c2s.common.seeds import cell_keys
from c2s.constraints.answers import AnswerTree, answer_trees, common_beginning
from c2s.constraints.samples import CellSample
from c2s.constraints.trie import Constraint, GeneSentence, GeneSentenceState, TokenState
from c2s.decoding.generation import Passes, SampleWriter, SentenceWriter, write_token_by_token
from c2s.decoding.gradients import GradientPath, frozen, mean_slope, path_delta
from c2s.decoding.prompt_attention import Begun, PromptReader
from c2s.decoding.sampling import Sampling, in_double
from c2s.decoding.tree_scores import attention_kinds, score_tree

if TYPE_CHECKING:
    import torch

    from c2s.models.directory import Model

__all__ = ["Engine", "GradientPath", "Progress", "TransformersEngine", "Writer", "check_context"]

#: Called with the number of prompts that were just finished.
Progress = Callable[[int], None]
#: Finishes an answer to each prompt of a batch, given the keys of their draws.
Writer = Callable[[list[np.ndarray], np.ndarray], Sequence[TokenState]]
#: Most tokens that are guessed at once. A processor pays for every token that is fed, a GPU for every pass.
_GUESSES_CPU, _GUESSES_GPU = 2, 8
#: Bytes of keys and values that the prompts of a batch may take while their answers are scored.
_CACHE_BUDGET = 1 << 30

#: Bytes of logits behind the prompts of a batch.
_LOGITS_BUDGET = 1 << 28

#: Tokens that a CPU reads at once where answers are scored or cells embedded; more only leave its caches.
_CPU_TOKENS = 3_000

#: Tokens that are read at once while gradients are taken: what each layer made of them is kept for the way back.
_GRADIENT_TOKENS = 4_000

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
        begun: int = 0,
    ) -> list[TokenState]:
        """Return the finished state of each prompt's answer, of which `begun` tokens stand in the prompt already."""

    def score(
        self,
        prompts: Sequence[np.ndarray],
        answers: Sequence[Sequence[int]],
        progress: Progress | None = None,
        *,
        begun: Begun = 0,
    ) -> np.ndarray:
        """Return log p(answer | prompt). float64, shape (n_prompts, n_answers)."""

    def embed(
        self,
        prompts: Sequence[np.ndarray],
        progress: Progress | None = None,
        over: Sequence[np.ndarray] | None = None,
    ) -> np.ndarray:
        """Return the mean of the last hidden states over each prompt. float32, (n_prompts, hidden)."""

    def close(self) -> None:
        """Give back what it holds; it cannot be used any more."""


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
        What the latest `generate` of cells took.
    """

    def __init__(
        self, model: Model, batch_size: int | None = None, guesses: int | None = None
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"batch_size={batch_size} is not possible; it is at least 1")
        if guesses is not None and guesses < 0:
            raise UsageError(f"guesses={guesses} is below 0")
        self.network = model.network
        self._reader = PromptReader(model)
        self.pad_id = model.tokenizer.pad_id
        self.batch_size = batch_size
        self._guesses = guesses
        self.passes = Passes()

    @property
    def guesses(self) -> int:
        """Tokens of a gene that are guessed at most; by default what fits the device that the network is on now."""
        if self._guesses is not None:
            return self._guesses
        return _GUESSES_CPU if self.network.device.type == "cpu" else _GUESSES_GPU

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        constraint: Constraint,
        sampling: Sampling,
        progress: Progress | None = None,
        begun: int = 0,
        keys: np.ndarray | None = None,
    ) -> list[TokenState]:
        """Draw an answer to each prompt from the model's distribution renormalised to what is allowed.

        Parameters
        ----------
        prompts
            Token ids.
        constraint
            What the answers may be.
        sampling
            How tokens are drawn.
        progress
            Told how many prompts are done.
        begun
            Tokens at the end of every prompt that are the answer's; only models with another attention over
            prompts than the causal one care.
        keys : uint64 array, shape (n_prompts,)
            Decide the draws of each prompt; by default hashed from its place in the call and the seed.

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
        if keys is None:
            keys = cell_keys([str(i) for i in range(len(prompts))], sampling.seed)
        self._check_context(max(map(len, prompts), default=0) + constraint.max_tokens)
        write = self._writer(constraint, sampling, begun)
        # Cells take room as they grow, and very seldom the longest genes.
        usual = (
            constraint.usual_tokens if isinstance(constraint, GeneSentence | CellSample) else None
        )
        for rows in self._batches(prompts, extra=usual or constraint.max_tokens):
            with torch.inference_mode():
                states = write([prompts[i] for i in rows], keys[rows])
            for row, state in zip(rows, states, strict=True):
                finished[row] = state
            if progress:
                progress(len(rows))
        return [state for state in finished if state is not None]

    def _writer(self, constraint: Constraint, sampling: Sampling, begun: int) -> Writer:
        """Return what finishes the answers of a batch: compiled for cells, for others a token a pass."""
        from c2s.decoding.slots import takes_slots

        if isinstance(constraint, GeneSentence):
            writer = SentenceWriter(self.network, constraint, sampling, self.guesses, self._reader)
            self.passes = writer.passes

            def write(prompts: list[np.ndarray], keys: np.ndarray) -> list[TokenState]:
                states = writer.write(prompts, keys, begun)
                return [GeneSentenceState(constraint, states, row) for row in range(len(prompts))]

            return write

        if isinstance(constraint, CellSample) and takes_slots(self.network):
            samples = SampleWriter(self.network, constraint, sampling, self.guesses, self._reader)
            self.passes = samples.passes
            return partial(samples.write, begun=begun)

        def write_plainly(prompts: list[np.ndarray], keys: np.ndarray) -> list[TokenState]:
            states = [constraint.start() for _ in prompts]
            ids, mask = self._left_padded(prompts)
            write_token_by_token(
                self.network, ids, mask, states, keys, sampling, self.pad_id,
                self._reader.reading(prompts, ids.shape[1], begun, left=True),
            )  # fmt: skip
            return states

        return write_plainly

    def score(
        self,
        prompts: Sequence[np.ndarray],
        answers: Sequence[Sequence[int]],
        progress: Progress | None = None,
        *,
        begun: Begun = 0,
        alike: bool = False,
    ) -> np.ndarray:
        """Return the exact log-probability of every answer behind every prompt.

        A prompt is read once. The answers, which include their end token, are then read behind it in one pass as
        a tree (`AnswerTree`): each row sees the prompt and its own way from there, and what answers share is
        read once. No copy of a prompt is made for an answer.

        Parameters
        ----------
        prompts, answers
            Token ids.
        progress
            Told how many prompts are done.
        begun
            Of each prompt the tokens at its end that are the answer's, or one number for all.
        alike
            Neighbours among the prompts begin alike, as variants of one cell do. Batches are then of neighbours instead
            of prompts of similar length, and what the prompts of a batch begin with is read once for all of them.

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
        kinds = attention_kinds(self.network)
        n_rows = max(len(tree) for _, tree in trees)
        tokens = max(map(len, prompts), default=0) + n_rows
        logits_bytes = 4 * n_rows * self.network.get_output_embeddings().weight.shape[0]
        most = min(_LOGITS_BUDGET // logits_bytes, _CACHE_BUDGET // (tokens * self._cache_bytes()))
        if self.network.device.type == "cpu":
            most = min(most, _CPU_TOKENS // tokens)
        scores = np.empty((len(prompts), len(answers)))
        for rows in self._batches(prompts, extra=n_rows, most=max(1, most), in_order=alike):
            batch_prompts = [prompts[i] for i in rows]
            # Where tokens see what stands behind them, prompts that begin alike are not read alike.
            shared = common_beginning(batch_prompts) if alike and self._reader.causal else 0
            answered = np.broadcast_to(begun, len(prompts))[rows].tolist()
            with torch.inference_mode():
                batch = self._score_batch(batch_prompts, trees, kinds, shared, answered)
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
        shared: int,
        begun: Begun,
    ) -> list[np.ndarray]:
        """Return log p of the answers of each tree, float64 arrays of shape (n_prompts, n_answers of it).

        With `shared` tokens all prompts begin alike.
        """
        import torch

        from c2s.decoding.prompt_cache import read_prompts

        ids, lengths = self._right_padded(prompts)
        # The last token of a prompt is row 0 of every tree.
        last = ids[torch.arange(len(ids), device=ids.device), lengths - 1]
        n_read = self._n_read(ids.shape[1])
        with self._reader.reading(prompts, n_read, begun):
            cache = read_prompts(self.network, ids[:, :n_read], shared)
        found = []
        for _, tree in trees:
            steps = score_tree(self.network, tree, last, lengths, cache, n_read, kinds)
            found.append(tree.totals(steps.cpu().double().numpy()))
            cache.crop(-len(tree))
        return found

    def _n_read(self, longest: int) -> int:
        """Return how many tokens of the longest prompt of a batch are read before its answers.

        The last token of a prompt is read with the answers. Where others see it, it is read with the prompt too, and
        the mask of the tree hides what that leaves in the cache, so that it is seen once.
        """
        return longest - 1 if self._reader.causal else longest

    def input_gradients(
        self,
        prompts: Sequence[np.ndarray],
        answers: Sequence[Sequence[int]],
        asked: np.ndarray,
        temperature: float = 1.0,
        path: GradientPath | None = None,
        progress: Progress | None = None,
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return what each token of a prompt adds to an answer's log-probability.

        Without a path that is gradient × input: the derivative of log p of the answer, normalised over all answers,
        when the token's input embedding is stretched. With one, what log p gains while all embeddings move along it
        together, shared out among the tokens (integrated gradients). One pass forward and one back a prompt and step;
        no gradient of a parameter is taken.

        Parameters
        ----------
        prompts, answers
            Token ids, as in `score`.
        asked : int array, shape (n_prompts,)
            Which answer; −1 for the most probable one.
        temperature
            Divides log p of every answer before they are normalised.
        path
            From where the embeddings come.
        progress
            Told how many prompts are done.

        Returns
        -------
        asked : int64 array, shape (n_prompts,)
            With the most probable answer in the place of −1.
        values : list of float64 array, shape (n_tokens,)
            Of each prompt, in nats.

        Raises
        ------
        UsageError, InputError
            As `score`; or parts of the network are left on the disk or in main memory (`device_map`).

        References
        ----------
        Shrikumar et al. 2016, "Not just a black box" (arXiv:1605.01713). Sundararajan et al. 2017, "Axiomatic
        attribution for deep networks" (ICML).
        """
        if any(parameter.is_meta for parameter in self.network.parameters()):
            raise UsageError(
                "gradients cannot be taken through a network of which parts are not on a device (device_map);"
                " use method='leave_one_out'"
            )
        trees = answer_trees(answers, _TREE_ROWS)
        self._check_context(max(map(len, prompts), default=0) + max(map(len, answers)))
        kinds = attention_kinds(self.network)
        n_rows = max(len(tree) for _, tree in trees)
        asked = np.array(asked, dtype=np.int64)
        if path is not None and (asked < 0).any():
            best = self.score(prompts, answers).argmax(
                1
            )  # where the path ends, which is no step of it
            asked = np.where(asked < 0, best, asked)
        values = [np.empty(0)] * len(prompts)
        most = max(1, _GRADIENT_TOKENS // (max(map(len, prompts), default=0) + n_rows))
        with frozen(self.network):
            for rows in self._batches(prompts, extra=n_rows, most=most):
                batch_prompts = [prompts[i] for i in rows]
                ids, lengths = self._right_padded(batch_prompts)
                whole = self.network.get_input_embeddings()(ids).detach()
                delta = whole if path is None else path_delta(self.network, whole, path, rows)
                slope, asked[rows] = mean_slope(
                    self.network, whole, delta, lengths, trees, kinds, asked[rows], temperature, path,
                    partial(self._reader.reading, batch_prompts), self._n_read(ids.shape[1]),
                )  # fmt: skip
                batch = (in_double(slope) * in_double(delta)).sum(-1).cpu().numpy()
                for row, each in zip(rows, batch, strict=True):
                    values[row] = each[: len(prompts[row])]
                if progress:
                    progress(len(rows))
        return asked, values

    def _cache_bytes(self) -> int:
        """Return an upper bound for the bytes of keys and values of one token."""
        config = self.network.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        return int(2 * config.num_hidden_layers * heads * width * self.network.dtype.itemsize)

    def embed(
        self,
        prompts: Sequence[np.ndarray],
        progress: Progress | None = None,
        over: Sequence[np.ndarray] | None = None,
    ) -> np.ndarray:
        """Return the mean of the last hidden states over tokens of each prompt (SPEC §8).

        Padding stands behind the prompts, where no token sees it, and is left out of the mean (SPEC §21d); so a
        cell's embedding does not depend on its batch.

        Parameters
        ----------
        prompts
            Token ids; none is empty.
        progress
            Told how many are done.
        over : sequence of bool arrays
            Of each prompt the tokens that are averaged, at least one; by default all.

        Returns
        -------
        float32 array, shape (n_prompts, hidden)

        Raises
        ------
        UsageError
            A prompt does not fit into the model's context.
        """
        import torch

        self._check_context(max(map(len, prompts), default=0))
        most = None
        if self.network.device.type == "cpu":
            most = max(1, _CPU_TOKENS // max(map(len, prompts), default=1))
        width = self.network.config.get_text_config().hidden_size
        embedded = np.empty((len(prompts), width), np.float32)
        for rows in self._batches(prompts, most=most):
            longest = len(prompts[rows[0]])  # the longest comes first
            ids = np.full((len(rows), longest), self.pad_id, dtype=np.int64)
            share = np.zeros((len(rows), 1, longest), dtype=np.float32)
            for row, which in enumerate(rows):
                n = len(prompts[which])
                ids[row, :n] = prompts[which]
                share[row, 0, :n] = 1 / n if over is None else over[which] / over[which].sum()
            reading = self._reader.reading([prompts[i] for i in rows], longest)
            with torch.inference_mode(), reading:
                # Without a mask attention takes its fastest path; a causal token sees only those before it.
                hidden = self.network.base_model(
                    input_ids=torch.from_numpy(ids).to(self.network.device), use_cache=False
                ).last_hidden_state.float()  # (batch, length, hidden)
                means = torch.from_numpy(share).to(hidden.device) @ hidden
                embedded[rows] = means[:, 0].cpu().numpy()
            if progress:
                progress(len(rows))
        return embedded

    def close(self) -> None:
        """Give back nothing: the network stays with its model."""

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

    def _right_padded(self, prompts: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return token ids, int64, shape (n_prompts, longest), and how many there are of each prompt."""
        import torch

        ids = np.full((len(prompts), max(map(len, prompts))), self.pad_id, dtype=np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = prompt
        lengths = torch.tensor([len(p) for p in prompts])
        device = self.network.device
        return torch.from_numpy(ids).to(device), lengths.to(device)

    def _batches(
        self,
        prompts: Sequence[np.ndarray],
        extra: int = 0,
        most: int | None = None,
        in_order: bool = False,
    ) -> Iterator[np.ndarray]:
        """Yield rows of prompts of similar length, the longest first: what does not fit fails at once.

        With `in_order`, of neighbours.
        """
        lengths = np.array([len(p) for p in prompts], dtype=np.int64)
        if in_order:
            lengths[:] = lengths.max(initial=0)  # room for the longest everywhere
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
            "ask for fewer genes (top_k=…)"
        )
