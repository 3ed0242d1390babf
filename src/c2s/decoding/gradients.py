"""What each token of a prompt adds to an answer's log-probability: gradients through the scores of an answer tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from c2s.decoding.sampling import in_double
from c2s.decoding.tree_scores import score_tree

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from c2s.constraints.answers import AnswerTree


#: Has a network read the prompts of a batch, filled up to a length.
Reading = Callable[[int], AbstractContextManager[None]]


@dataclass(frozen=True)
class GradientPath:
    """A straight way on which embeddings come to where they are, for `TransformersEngine.input_gradients`.

    Attributes
    ----------
    start : int array
        Token ids; the mean of their embeddings is where the way begins.
    moving : sequence of bool array, shape (n_tokens,)
        Of each prompt which tokens move; the others are in place from the beginning.
    steps
        Points on the way at which the gradient is taken.
    """

    start: np.ndarray
    moving: Sequence[np.ndarray]
    steps: int


def path_delta(
    network: PreTrainedModel, whole: torch.Tensor, path: GradientPath, rows: np.ndarray
) -> torch.Tensor:
    """Return how far the embeddings of the prompts in `rows` come. As `whole`, (n_prompts, longest, hidden)."""
    import torch

    ids = torch.as_tensor(np.unique(path.start).astype(np.int64), device=whole.device)
    start = network.get_input_embeddings()(ids).detach().mean(0)
    moving = np.zeros(whole.shape[:2], dtype=bool)
    for place, row in enumerate(rows):
        moving[place, : len(path.moving[row])] = path.moving[row]
    return (whole - start) * torch.as_tensor(moving, device=whole.device)[..., None]


def mean_slope(
    network: PreTrainedModel,
    whole: torch.Tensor,
    delta: torch.Tensor,
    lengths: torch.Tensor,
    trees: Sequence[tuple[np.ndarray, AnswerTree]],
    kinds: Mapping[str, int | None],
    asked: np.ndarray,
    temperature: float,
    path: GradientPath | None,
    reading: Reading,
    n_read: int,
) -> tuple[torch.Tensor, np.ndarray]:
    """Return the gradient of log p of an answer to each prompt, the mean over the steps of a path, and which answers.

    Parameters
    ----------
    network, kinds
        As in `score_tree`.
    whole, delta : float tensor, shape (n_prompts, longest, hidden)
        Embeddings of the prompts at the end of the path, and how far they come (`path_delta`).
    lengths : int64 tensor, shape (n_prompts,)
        Tokens of each prompt.
    trees
        The answers, as `answer_trees` gives them.
    asked : int64 array, shape (n_prompts,)
        Which answer; −1 for the most probable one.
    temperature
        Divides log p of every answer before they are normalised.
    path
        None for the end of the path alone.
    reading, n_read
        Has the network read the prompts, and so many tokens of them are read before the answers.

    Returns
    -------
    slope : float32 tensor, shape (n_prompts, longest, hidden)
    asked : int64 array, shape (n_prompts,)
        With the most probable answer in the place of −1.
    """
    import torch

    # What is still to come in the middle of each step; without a path, nothing.
    n_steps = 1 if path is None else path.steps
    to_come = [0.0] if path is None else [1 - (i + 0.5) / n_steps for i in range(n_steps)]
    which = torch.as_tensor(asked)
    every = torch.arange(len(whole))
    slope = torch.zeros_like(whole, dtype=torch.float32)
    for rest in to_come:
        embedded = (whole - rest * delta).requires_grad_()
        scores = _scores_behind(network, embedded, lengths, trees, kinds, reading, n_read)
        scores = scores / temperature
        which = torch.where(which < 0, scores.argmax(1).cpu(), which)
        log_p = scores.log_softmax(-1)[every, which]
        slope += torch.autograd.grad(log_p.sum(), embedded)[0].float() / n_steps
    return slope, which.numpy()


def _scores_behind(
    network: PreTrainedModel,
    embedded: torch.Tensor,
    lengths: torch.Tensor,
    trees: Sequence[tuple[np.ndarray, AnswerTree]],
    kinds: Mapping[str, int | None],
    reading: Reading,
    n_read: int,
) -> torch.Tensor:
    """Return log p of every answer behind embeddings, to which gradients flow back.

    float64, shape (n_prompts, n_answers); on the CPU where the network's device has no float64.
    """
    import torch

    from c2s.decoding.prompt_cache import read_prompts

    device = embedded.device
    with reading(n_read):
        cache = read_prompts(network, embedded[:, :n_read])
    last = embedded[torch.arange(len(embedded), device=device), lengths - 1]
    totals = []
    for _, tree in trees:
        steps = score_tree(network, tree, last, lengths, cache, n_read, kinds)
        # Which steps make up which answer: totals are linear.
        steps = in_double(steps)
        share = torch.as_tensor(tree.totals(np.eye(steps.shape[1])), device=steps.device)
        totals.append(steps @ share)
        cache.crop(-len(tree))
    back = np.argsort(np.concatenate([which for which, _ in trees]))
    return torch.cat(totals, dim=1)[:, torch.as_tensor(back)]


@contextmanager
def frozen(network: torch.nn.Module) -> Iterator[None]:
    """Keep gradients of parameters from being taken, which would need memory for each layer's input."""
    trained = [p for p in network.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
