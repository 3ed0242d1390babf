"""Drawing the next token of answers whose states are objects: of any constraint, a token of each at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from c2s.constraints.samples import CellSampleState
from c2s.constraints.trie import GeneSentenceState, TokenState
from c2s.decoding.sampling import Sampling, choose, keys_in_sample, uniform_numbers

if TYPE_CHECKING:
    import torch


def draw_tokens(
    states: Sequence[TokenState],
    logits: torch.Tensor,
    sampling: Sampling,
    keys: np.ndarray,
    steps: Sequence[int],
    no_token: int,
) -> torch.Tensor:
    """Draw the next token of each answer, without taking it.

    Parameters
    ----------
    states
        Where the answers stand.
    logits : float tensor, shape (n_answers, vocabulary)
    sampling
        How tokens are drawn.
    keys : uint64 array, shape (n_answers,)
        Decide the draws of each answer.
    steps
        Tokens of each answer so far.
    no_token
        Drawn for an answer that is done.

    Returns
    -------
    int64 tensor, shape (n_answers,)
    """
    import torch

    logits = logits.float()
    allowed = np.zeros(logits.shape, dtype=bool)
    for row, state in enumerate(states):
        if state.done:
            allowed[row, no_token] = True
        elif isinstance(state, CellSampleState) and (cell := state.open_cell):
            # The cells of a sample are drawn as `SentenceWriter` draws them.
            key = keys_in_sample(keys[row : row + 1], state.number)
            allowed[row, _token_in_cell(cell, logits[row], sampling, key)] = True
        else:
            allowed[row, state.allowed()] = True
    masked = logits.masked_fill(~torch.from_numpy(allowed).to(logits.device), -torch.inf)
    uniforms = [uniform_numbers(keys[row : row + 1], step)[0] for row, step in enumerate(steps)]
    progress = np.array([state.progress for state in states])
    return choose(masked, sampling, np.array(uniforms), progress)


def _token_in_cell(
    cell: GeneSentenceState, logits: torch.Tensor, sampling: Sampling, key: np.ndarray
) -> int:
    """Return the next token of a cell with this key, shape (1,)."""
    import torch

    from c2s.decoding import step_kernels

    constraint, (states, row) = cell.constraint, cell.place
    wanted = logits[torch.from_numpy(constraint.tokens).to(logits.device)].cpu().numpy()
    drawn = np.empty(1, np.int64)
    step_kernels.draw(
        constraint.arrays, states, np.array([row]), key, wanted[None],
        sampling.temperatures_by_rank(constraint.n_genes), int(sampling.top_k), float(sampling.top_p), drawn,
    )  # fmt: skip
    return int(constraint.tokens[drawn[0]])
