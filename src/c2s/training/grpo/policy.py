"""Log-probabilities of answers under the constraint that they were written with.

The policy is not the network's distribution but what is left of it when all that the constraint forbids is taken out:
rollouts are drawn from that, so importance ratios, KL and entropy are of that too.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch.nn import functional

from c2s.constraints.replay import Choices
from c2s.training.loss import trained_rows

#: Scores that are held at a time; more are made in parts, and again on the way back.
_HELD = 1 << 26


@dataclass(frozen=True)
class Places:
    """The places of answers in a batch of rows, on the network's device: `Choices` as tensors.

    Attributes
    ----------
    tokens : int64, shape (n_columns,)
    allowed : bool, shape (n_rows, longest, n_columns)
    taken : int64, shape (n_rows, longest)
    """

    tokens: torch.Tensor
    allowed: torch.Tensor
    taken: torch.Tensor

    @classmethod
    def of(cls, choices: Choices, longest: int, device: torch.device) -> Places:
        """Return choices as tensors, with room for answers of `longest` tokens."""
        n_rows, given, n_columns = choices.allowed.shape
        allowed = torch.zeros(n_rows, longest, n_columns, dtype=torch.bool)
        allowed[:, :given] = torch.from_numpy(choices.allowed)
        taken = torch.zeros(n_rows, longest, dtype=torch.int64)
        taken[:, :given] = torch.from_numpy(choices.taken)
        tokens = torch.from_numpy(choices.tokens)
        return cls(tokens.to(device), allowed.to(device), taken.to(device))


def add_policy_head(network: Any, temperature: float) -> None:
    """Let a network return log-probabilities of constrained answers from its forward pass: `network(…, places=…)`.

    They go through `forward`, because DDP sees nothing else. Without `places` the forward pass is what it was.

    Parameters
    ----------
    network
        A causal language model, not wrapped by PEFT.
    temperature
        Divides the logits, as it did when the answers were drawn.
    """
    plain = network.forward

    @functools.wraps(type(network).forward)
    def forward(self: Any, *args: Any, places: Places | None = None, **kwargs: Any) -> Any:
        if places is None:
            return plain(*args, **kwargs)
        hidden = self.base_model(*args, **kwargs, use_cache=False).last_hidden_state
        longest = places.taken.shape[1]
        cap = getattr(self.config.get_text_config(), "final_logit_softcapping", None)
        # A token is predicted at the place before it.
        return constrained_log_probabilities(
            hidden[:, -longest - 1 : -1], self.get_output_embeddings(), places, temperature, cap
        )

    network.forward = MethodType(forward, network)


def constrained_log_probabilities(
    hidden: torch.Tensor,
    head: torch.nn.Module,
    places: Places,
    temperature: float = 1.0,
    cap: float | None = None,
    held: int = _HELD,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log p of each token of answers among what was allowed there, and the entropy of that choice, in nats.

    Parameters
    ----------
    hidden : shape (n_rows, longest, hidden_size)
        What goes into the output head before each place.
    head
        The output head; only its rows of allowed tokens are used.
    places
        What was allowed, and what was taken.
    temperature
        Divides the logits.
    cap
        Logits are capped at this (Gemma-2).
    held
        Scores that are held at a time.

    Returns
    -------
    tuple of float32, shape (n_rows, longest)
        Both have gradients; both are 0 behind the end of an answer.
    """
    weight, bias = head_rows(head, places.tokens)
    hidden = hidden.to(weight.device)
    there = places.allowed.any(-1)  # an answer has something to choose at each of its places
    rows, at = there.nonzero(as_tuple=True)
    inputs, taken = hidden[rows, at], places.taken[rows, at]
    part = max(1, held // len(places.tokens))
    found = []
    for start in range(0, len(rows), part):
        piece = slice(start, start + part)
        given = (
            inputs[piece], weight, bias, places.allowed[rows[piece], at[piece]], taken[piece], temperature, cap
        )  # fmt: skip
        if len(rows) > part and torch.is_grad_enabled():
            found.append(torch.utils.checkpoint.checkpoint(_choose, *given, use_reentrant=False))
        else:
            found.append(_choose(*given))
    chosen, entropy = (torch.cat(parts) for parts in zip(*found, strict=True))
    zeros = torch.zeros(there.shape, device=hidden.device)
    return zeros.index_put((rows, at), chosen), zeros.index_put((rows, at), entropy)


def head_rows(
    head: torch.nn.Module, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the rows of an output head that belong to some tokens, also where PEFT trains some of them alone.

    Returns
    -------
    weight : shape (n_tokens, hidden_size)
    bias : shape (n_tokens,), or None
    """
    table: Any
    table, own, new = trained_rows(head)
    weight = table.weight[tokens]
    if own is not None and new is not None:
        place = torch.full((table.weight.shape[0],), -1, device=tokens.device)
        place[own.to(tokens.device)] = torch.arange(len(own), device=tokens.device)
        place = place[tokens]
        weight = torch.where((place >= 0)[:, None], new[place.clamp(min=0)].to(weight), weight)
    return weight, None if table.bias is None else table.bias[tokens]


def _choose(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, allowed: torch.Tensor,
    taken: torch.Tensor, temperature: float, cap: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return log p of the token that was taken at each place, and the entropy."""
    logits = functional.linear(hidden, weight, bias).float()
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    scores = (logits / temperature).masked_fill(~allowed, -torch.inf).log_softmax(-1)
    known = scores.masked_fill(~allowed, 0.0)  # 0 · −inf is no number
    entropy = -(scores.exp() * known).sum(-1)
    return scores.gather(1, taken[:, None])[:, 0], entropy
