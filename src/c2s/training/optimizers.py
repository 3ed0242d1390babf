"""Optimisers beside the Trainer's own.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/), which PyTorch has, orthogonalises the
update of each weight matrix. On cell sentences it needs about a third of AdamW's steps for the same loss. It is
made for the matrices of hidden layers only, so embeddings, norms and biases stay with AdamW; this joins the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the matrices of hidden layers, AdamW for everything else, as one optimiser.

    Parameters
    ----------
    network
        A causal language model of Hugging Face.
    muon_lr
        Learning rate of Muon.
    lr, betas
        Of AdamW.
    weight_decay
        Of Muon's matrices and of the embeddings; norms and biases have none.
    """

    def __init__(
        self,
        network: Any,
        *,
        muon_lr: float,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        embeddings = {id(p) for p in network.get_input_embeddings().parameters()}
        head = network.get_output_embeddings()
        embeddings |= {id(p) for p in head.parameters()} if head is not None else set()
        matrices, tables, rest = [], [], []
        for parameter in network.parameters():
            if not parameter.requires_grad:
                continue
            if id(parameter) in embeddings:
                tables.append(parameter)
            elif parameter.ndim == 2:
                matrices.append(parameter)
            else:
                rest.append(parameter)
        self.parts = [
            torch.optim.Muon(matrices, lr=muon_lr, weight_decay=weight_decay),
            torch.optim.AdamW(
                [
                    {"params": tables, "weight_decay": weight_decay},
                    {"params": rest, "weight_decay": 0.0},
                ],
                lr=lr,
                betas=betas,
            ),
        ]
        # The base class wants groups of its own; schedulers change the dictionaries of the parts, shared here.
        super().__init__([p for p in network.parameters() if p.requires_grad], {})
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step with both parts."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of both parts."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]
