"""A network with its loss on packed samples, as one module: what the Trainer wraps for several processes."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from c2s.training.loss import weighted_loss
from c2s.training.packed_attention import PackedLayout
from c2s.training.samples import IGNORE, PackedBatch

#: What every one of weighs the same: samples, so that a label of two tokens is not drowned by a sentence of a hundred;
#: or tokens, as in pre-training.
Weigh = Literal["sample", "token"]


class PackedNetwork(nn.Module):
    """A causal language model that takes packed batches and returns their loss.

    Its forward pass is the whole of what has gradients, because DDP and FSDP see only what goes through `forward`.
    Other attributes are those of the network, which the Trainer asks for.

    Parameters
    ----------
    network
        Attends packed (`attending_packed`).
    weigh
        Whether every sample weighs the same, or every token.
    """

    def __init__(self, network: PreTrainedModel, weigh: Weigh = "sample") -> None:
        super().__init__()
        self.network = network
        self.weigh = weigh

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def get_input_embeddings(self) -> None:
        """Return none: FSDP must keep the table and the head, which is used without its forward pass, together."""

    def get_output_embeddings(self) -> None:
        """Return none; see `get_input_embeddings`."""

    @property
    def n_body(self) -> int:
        """Weights that every token goes through: all but the table of input embeddings, where the head has its own."""
        table: Any = self.network.get_input_embeddings()
        head: Any = self.network.get_output_embeddings()
        tied = head is not None and head.weight is table.weight
        return sum(p.numel() for p in self.network.parameters()) - (
            0 if tied else table.weight.numel()
        )

    def total_weight(self, batch: PackedBatch) -> float:
        """Return what the losses of a batch weigh together, before they are divided by that of the step."""
        return float(len(batch.lengths) if self.weigh == "sample" else batch.n_learned.sum())

    def forward(self, batch: PackedBatch, total: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of a batch as its part in that of a step, and the mean loss of each sample.

        Parameters
        ----------
        batch
            Its tokens on the network's device.
        total
            The weight of all batches of the step.

        Returns
        -------
        loss : float32, shape ()
            The losses of the step's batches add up to the mean over its samples, or its tokens, in nats.
        by_sample : float32, shape (n_samples,)
            Without gradients.
        """
        device = batch.ids.device
        network: Any = self.network
        base = network.get_base_model() if hasattr(network, "peft_config") else network
        hidden = base.base_model(
            input_ids=batch.ids, position_ids=batch.positions, use_cache=False,
            packed_layout=PackedLayout(batch.lengths.tolist(), device),
        ).last_hidden_state[0]  # fmt: skip
        sample = torch.repeat_interleave(torch.arange(len(batch.lengths)), batch.lengths).to(device)
        learned = batch.labels[0] != IGNORE
        of_sample = sample[learned]
        n_learned = batch.n_learned.to(device, torch.float32)
        each = 1 / n_learned if self.weigh == "sample" else torch.ones_like(n_learned)
        loss, by_token = weighted_loss(
            hidden[learned], base.get_output_embeddings(), batch.labels[0][learned], each[of_sample] / total,
            cap=getattr(base.config, "final_logit_softcapping", None),
        )  # fmt: skip
        by_sample = torch.zeros_like(n_learned).index_add_(0, of_sample, by_token) / n_learned
        return loss, by_sample
