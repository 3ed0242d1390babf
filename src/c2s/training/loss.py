"""The loss of packed samples, without ever holding the logits of all tokens.

A vocabulary of 256,000 and 8,192 tokens are 8 GB of logits, and as much again for their gradients. So the output head
is applied to some tokens at a time, and the gradient of the loss by their logits, which is known as soon as the loss
is, goes straight into those of the hidden states and of the head: the idea of "cut" and "fused" cross-entropies
(Wijmans et al. 2024, arXiv:2411.09009; Hsu et al. 2024, arXiv:2410.10989), in plain PyTorch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

#: Logits that are held at a time.
_HELD = 1 << 25


class _ChunkedLoss(torch.autograd.Function):
    """Negative log-likelihoods and the gradients of their weighted sum, some tokens at a time."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, head: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor,
        weights: torch.Tensor, cap: float | None, held: int, rows: torch.Tensor | None, new: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        learn_hidden, learn_head, learn_bias = ctx.needs_input_grad[:3]
        learn_new = new is not None and ctx.needs_input_grad[-1]
        losses = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        by_hidden = torch.empty_like(hidden) if learn_hidden else None
        by_head = torch.zeros_like(head, dtype=torch.float32) if learn_head else None
        by_bias = (
            torch.zeros_like(bias, dtype=torch.float32) if learn_bias and bias is not None else None
        )
        by_new = (
            torch.zeros_like(new, dtype=torch.float32) if learn_new and new is not None else None
        )
        chunk = max(1, held // head.shape[0])
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            logits = functional.linear(hidden[part], head, bias)
            if new is not None:
                logits[:, rows] = functional.linear(
                    hidden[part], new, None if bias is None else bias[rows]
                )
            logits = logits.float()
            if cap is not None:
                logits = cap * torch.tanh_(logits.div_(cap))
            slope = None if cap is None else 1 - (logits / cap) ** 2
            # In place: a copy of all logits of a chunk costs as much as their exponentials.
            logits.sub_(logits.amax(-1, keepdim=True))
            of_target = logits.gather(1, targets[part, None])[:, 0]
            total = logits.exp_().sum(-1)
            losses[part] = total.log() - of_target
            if not (learn_hidden or learn_head or learn_new):
                continue
            gradient = logits.mul_((weights[part] / total)[:, None])  # weighted probabilities
            gradient.scatter_add_(1, targets[part, None], -weights[part, None])
            if slope is not None:
                gradient.mul_(slope)
            if by_bias is not None:
                by_bias += gradient.sum(0)
            gradient = gradient.to(hidden.dtype)
            of_new = None
            if new is not None:
                of_new = gradient[:, rows]
                gradient[:, rows] = 0  # the rows of the table that these stand for take no part
            if by_hidden is not None:
                by_hidden[part] = gradient @ head
                if new is not None and of_new is not None:
                    by_hidden[part] += of_new @ new
            if by_new is not None and of_new is not None:
                by_new += of_new.T @ hidden[part]
            if by_head is not None:
                by_head += gradient.T @ hidden[part]
        ctx.save_for_backward(
            by_hidden,
            None if by_head is None else by_head.to(head.dtype),
            None if by_bias is None or bias is None else by_bias.to(bias.dtype),
            None if by_new is None or new is None else by_new.to(new.dtype),
        )
        ctx.mark_non_differentiable(losses)
        return (losses * weights).sum(), losses

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[Any, ...]:
        scale = upstream[0]
        *gradients, new = [None if g is None else g * scale for g in ctx.saved_tensors]
        return (*gradients, None, None, None, None, None, new)


def weighted_loss(
    hidden: torch.Tensor,
    head: torch.nn.Module,
    targets: torch.Tensor,
    weights: torch.Tensor,
    *,
    cap: float | None = None,
    held: int = _HELD,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weighted sum of the negative log-likelihoods of tokens, and each of them, in nats.

    Parameters
    ----------
    hidden : shape (n_tokens, hidden_size)
        What goes into the output head.
    head
        The output head: a linear layer, one of which PEFT trains some rows (`trainable_token_indices`), or what else
        wraps one (a quantised layer).
    targets : int64, shape (n_tokens,)
    weights : float32, shape (n_tokens,)
    cap
        Logits are capped at this (Gemma-2).
    held
        Logits that are held at a time.

    Returns
    -------
    loss : float32, shape ()
        Has gradients.
    each : float32, shape (n_tokens,)
        Has none.
    """
    table, rows, new = trained_rows(head)
    if type(table) is torch.nn.Linear:
        weight: torch.Tensor = table.weight
        bias: torch.Tensor | None = table.bias
        if torch.is_autocast_enabled(hidden.device.type):
            dtype = torch.get_autocast_dtype(hidden.device.type)
            hidden, weight = hidden.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        new = None if new is None else new.to(weight.dtype)
        if not torch.is_grad_enabled():
            # PyTorch would say all the same that weights need gradients, which are taken in the forward pass here.
            hidden, weight = hidden.detach(), weight.detach()
            bias = None if bias is None else bias.detach()
            new = None if new is None else new.detach()
        loss, each = _ChunkedLoss.apply(
            hidden, weight, bias, targets, weights, cap, held, rows, new
        )
        return loss, each.detach()
    # A quantised head has a backward pass of its own; logits are made twice instead.
    vocabulary = getattr(head, "out_features", None) or targets.max().item() + 1
    parts = []
    for chunk in torch.arange(len(targets), device=targets.device).split(
        max(1, held // vocabulary)
    ):
        parts.append(
            torch.utils.checkpoint.checkpoint(
                _losses, hidden[chunk], head, targets[chunk], cap, use_reentrant=False
            )
        )
    each = torch.cat(parts)
    return (each * weights).sum(), each.detach()


def trained_rows(
    head: Any,
) -> tuple[torch.nn.Module, torch.Tensor | None, torch.Tensor | None]:
    """Return a table, and which of its rows are trained elsewhere and what they are: what PEFT wraps, taken apart.

    PEFT itself would copy the whole table for every pass, and make gradients of its size.

    Parameters
    ----------
    head
        An output head or a table of embeddings, as it is or wrapped (`trainable_token_indices`).

    Returns
    -------
    table
        What is wrapped, or `head` itself.
    rows : int64, shape (n_rows,), or None
        None where all rows are the table's.
    new : shape (n_rows, hidden_size), or None
        What stands for them.
    """
    adapter = getattr(head, "token_adapter", None)
    if adapter is None:
        return head, None, None
    if adapter.merged or adapter.disable_adapters:
        return adapter.get_base_layer(), None, None
    (name,) = adapter.active_adapters  # PEFT allows one
    new = adapter.trainable_tokens_delta[name]
    return (
        adapter.get_base_layer(),
        torch.tensor(adapter.token_indices[name], device=new.device),
        new,
    )


def _losses(
    hidden: torch.Tensor, head: torch.nn.Module, targets: torch.Tensor, cap: float | None
) -> torch.Tensor:
    logits = head(hidden).float()
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    return functional.cross_entropy(logits, targets, reduction="none")
