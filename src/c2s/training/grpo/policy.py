"""Log-probabilities of answers under the constraint that they were written with.

The policy is not the network's distribution but what is left of it when all that the constraint forbids is taken out:
rollouts are drawn from that, so importance ratios, KL and entropy are of that too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch.nn import functional

from c2s.constraints.replay import Choices, choices_of
from c2s.constraints.trie import Constraint
from c2s.training.loss import trained_rows

#: Scores that are held at a time; a processor's caches want fewer.
_HELD_CPU, _HELD = 1 << 23, 1 << 26


@dataclass(frozen=True)
class Places:
    """The places of answers in a batch of rows, on the network's device: `Choices` as tensors.

    Attributes
    ----------
    tokens : int64, shape (n_columns,)
    sets : bool, shape (n_sets, n_columns)
    which, taken : int64, shape (n_rows, longest)
    """

    tokens: torch.Tensor
    sets: torch.Tensor
    which: torch.Tensor
    taken: torch.Tensor

    @classmethod
    def of(cls, choices: Choices, longest: int, device: torch.device) -> Places:
        """Return choices as tensors, with room for answers of `longest` tokens."""
        n_rows, given = choices.which.shape
        which = torch.full((n_rows, longest), -1, dtype=torch.int64)
        which[:, :given] = torch.from_numpy(choices.which)
        taken = torch.zeros(n_rows, longest, dtype=torch.int64)
        taken[:, :given] = torch.from_numpy(choices.taken)
        tokens, sets = torch.from_numpy(choices.tokens), torch.from_numpy(choices.sets)
        return cls(tokens.to(device), sets.to(device), which.to(device), taken.to(device))

    def without_constraint(self, n_tokens: int) -> Places:
        """Return the same answers where every token of a vocabulary is allowed at every place."""
        tokens = torch.arange(n_tokens, device=self.tokens.device)
        everything = torch.ones(1, n_tokens, dtype=torch.bool, device=self.tokens.device)
        return Places(tokens, everything, self.which.clamp(max=0), self.tokens[self.taken])


def add_policy_head(network: Any, temperature: float) -> None:
    """Let a network return log-probabilities of constrained answers from its forward pass: `network(…, places=…)`.

    They go through `forward`, because DDP sees nothing else. Without `places` the forward pass is what it was. With
    `unconstrained=True` it also says how probable what is allowed is to the network itself.

    Parameters
    ----------
    network
        A causal language model, not wrapped by PEFT.
    temperature
        Divides the logits, as it did when the answers were drawn.
    """
    plain = network.forward

    @functools.wraps(type(network).forward)
    def forward(
        self: Any,
        *args: Any,
        places: Places | None = None,
        unconstrained: bool = False,
        **kwargs: Any,
    ) -> Any:
        if places is None:
            return plain(*args, **kwargs)
        hidden = self.base_model(*args, **kwargs, use_cache=False).last_hidden_state
        longest = places.taken.shape[1]
        cap = getattr(self.config.get_text_config(), "final_logit_softcapping", None)
        # A token is predicted at the place before it.
        hidden, head = hidden[:, -longest - 1 : -1], self.get_output_embeddings()
        chosen, entropy = constrained_log_probabilities(hidden, head, places, temperature, cap)
        if not unconstrained:
            return chosen, entropy, None
        # p under the constraint is p without it, divided by that of all that is allowed. In two passes over the head,
        # since the allowed columns are few where the vocabulary is large.
        table: Any = trained_rows(head)[0]
        whole = places.without_constraint(len(table.weight))
        free = constrained_log_probabilities(hidden, head, whole, temperature, cap)[0]
        return chosen, entropy, free - chosen

    network.forward = MethodType(forward, network)


def log_probabilities_of(
    network: Any,
    ids: torch.Tensor,
    there: torch.Tensor,
    longest: int,
    constraint: Constraint,
    size: int,
    *,
    unconstrained: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Walk through answers behind their prompts, some rows at a time.

    Parameters
    ----------
    network
        With the head of the policy (`add_policy_head`).
    ids, there : int64, shape (n_rows, n_tokens)
        Prompts, padded on the left, and answers, padded on the right; 1 where there is a token.
    longest
        Room for answers, at the end of each row.
    constraint
        What the answers were kept to.
    size
        Rows at a time.
    unconstrained
        Whether to say how probable what is allowed is without the constraint.

    Returns
    -------
    tuple of float32, shape (n_rows, longest)
        log p of each token among what was allowed; the entropy of that choice; and log of the probability that the
        network itself gives to all that was allowed, or None. In nats, 0 behind the end of an answer.
    """
    lengths = there[:, -longest:].sum(1).tolist()
    answers = ids[:, -longest:].cpu().numpy()
    found = []
    for start in range(0, len(ids), size):
        rows = slice(start, start + size)
        written = [a[:n] for a, n in zip(answers[rows], lengths[rows], strict=True)]
        places = Places.of(choices_of(constraint, written), longest, ids.device)
        positions = (there[rows].cumsum(1) - 1).clamp(min=0)
        found.append(
            network(
                input_ids=ids[rows], attention_mask=there[rows], position_ids=positions, places=places,
                unconstrained=unconstrained,
            )
        )  # fmt: skip
    chosen, entropy, log_allowed = zip(*found, strict=True)
    return (
        torch.cat(chosen),
        torch.cat(entropy),
        torch.cat(log_allowed) if unconstrained else None,
    )


def constrained_log_probabilities(
    hidden: torch.Tensor,
    head: torch.nn.Module,
    places: Places,
    temperature: float = 1.0,
    cap: float | None = None,
    held: int | None = None,
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
        Scores that are held at a time; by default what fits the device.

    Returns
    -------
    tuple of float32, shape (n_rows, longest)
        Both have gradients; both are 0 behind the end of an answer.
    """
    weight, bias = head_rows(head, places.tokens)
    hidden = hidden.to(weight.device)
    rows, at = (places.which >= 0).nonzero(as_tuple=True)
    inputs, which, taken = hidden[rows, at], places.which[rows, at], places.taken[rows, at]
    held = held or (_HELD_CPU if hidden.device.type == "cpu" else _HELD)
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        inputs, weight, bias = (
            inputs.to(dtype),
            weight.to(dtype),
            None if bias is None else bias.to(dtype),
        )
    chosen, entropy = _Choice.apply(
        inputs, weight, bias, places.sets, which, taken, temperature, cap, held
    )
    zeros = torch.zeros(places.which.shape, device=hidden.device)
    return zeros.index_put((rows, at), chosen), zeros.index_put((rows, at), entropy)


def allowed_divergence(log_allowed: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return KL(p‖q) of two choices between what is allowed and what is not, in nats.

    By the chain rule it is the part of the divergence of the networks' own distributions that is not within what is
    allowed, nor within what is not.

    Parameters
    ----------
    log_allowed, reference : float32, same shape
        log p and log q of all that is allowed. Certainty counts as 1 − 1e-6.

    Returns
    -------
    float32, of that shape
        At least 0.
    """
    p, q = log_allowed.clamp(max=-1e-6), reference.clamp(max=-1e-6)
    rest, other = torch.log(-torch.expm1(p)), torch.log(-torch.expm1(q))
    return p.exp() * (p - q) + rest.exp() * (rest - other)


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


class _Choice(torch.autograd.Function):
    """log p of what was taken and the entropy at each place, some places at a time.

    Only the hidden states are kept, and scores are made again on the way back: scores of all places, and what autograd
    would keep of each operation on them, are many times that.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, sets: torch.Tensor,
        which: torch.Tensor, taken: torch.Tensor, temperature: float, cap: float | None, held: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        chosen = torch.empty(len(taken), dtype=torch.float32, device=hidden.device)
        entropy = torch.empty_like(chosen)
        for part in _parts(len(taken), len(weight), held):
            scores, _ = _scores(hidden[part], weight, bias, sets[which[part]], temperature, cap)
            chosen[part] = scores.gather(1, taken[part, None])[:, 0]
            entropy[part] = _entropy(scores.exp(), scores)
        ctx.save_for_backward(hidden, weight, bias, sets, which, taken, entropy)
        ctx.settings = (temperature, cap, held)
        ctx.set_materialize_grads(False)
        return chosen, entropy

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor | None) -> tuple[Any, ...]:
        hidden, weight, bias, sets, which, taken, entropy = ctx.saved_tensors
        temperature, cap, held = ctx.settings
        by_chosen, by_entropy = upstream
        by_hidden = torch.empty_like(hidden)
        by_weight = torch.zeros_like(weight, dtype=torch.float32)
        by_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        for part in _parts(len(taken), len(weight), held):
            allowed = sets[which[part]]
            scores, slope = _scores(hidden[part], weight, bias, allowed, temperature, cap)
            p = scores.exp()
            gradient = torch.zeros_like(p)
            if by_chosen is not None:
                gradient -= p * by_chosen[part, None]
                gradient.scatter_add_(1, taken[part, None], by_chosen[part, None])
            if by_entropy is not None:
                # d entropy / d score = −p (log p + entropy); a score of −inf has no part in it.
                known = scores.masked_fill_(~allowed, 0.0).add_(entropy[part, None])
                gradient -= p * known * by_entropy[part, None]
            gradient = (
                gradient / temperature if slope is None else gradient * slope / temperature
            ).to(hidden.dtype)
            by_hidden[part] = gradient @ weight
            by_weight += gradient.T @ hidden[part]
            if by_bias is not None:
                by_bias += gradient.sum(0)
        by_bias = None if by_bias is None else by_bias.to(bias.dtype)
        return by_hidden, by_weight.to(weight.dtype), by_bias, None, None, None, None, None, None


def _parts(n_places: int, n_columns: int, held: int) -> Iterator[slice]:
    """Yield the places in parts of at most so many scores."""
    size = max(1, held // max(n_columns, 1))
    for start in range(0, n_places, size):
        yield slice(start, start + size)


def _scores(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, allowed: torch.Tensor, temperature: float,
    cap: float | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """Return log p of every column, −inf where it is not allowed, and the slope of the cap."""
    logits = functional.linear(hidden, weight, bias).float()
    slope = None
    if cap is not None:
        logits = torch.tanh(logits / cap)
        slope = 1 - logits**2
        logits = logits * cap
    scores = logits.div_(temperature).masked_fill_(~allowed, -torch.inf)
    return scores.sub_(scores.logsumexp(-1, keepdim=True)), slope


def _entropy(p: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Return the entropy of each row; 0 · −inf counts as 0."""
    return -(p * scores).nansum(-1)
