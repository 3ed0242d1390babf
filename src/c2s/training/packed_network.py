"""A network with its loss on packed samples, as one module: what the Trainer wraps for several processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from c2s.models.attention import PromptAttention
from c2s.training.loss import trained_rows, weighted_loss
from c2s.training.packed_attention import PackedLayout
from c2s.training.samples import IGNORE, PackedBatch

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from c2s.training.recipe import Weigh


class PackedNetwork(nn.Module):
    """A causal language model that takes packed batches and returns their loss.

    Its forward pass is the whole of what has gradients, because DDP and FSDP see only what goes through `forward`.
    Other attributes are those of the network, which the Trainer asks for.

    Parameters
    ----------
    network
        Attends packed (`attending_packed`); with an adapter, the network of PEFT.
    weigh
        Whether every sample weighs the same, or every token.
    attention
        What tokens of prompts see; where that is not only what stands before them, batches have their reach.
    """

    def __init__(
        self,
        network: PreTrainedModel | PeftModel,
        weigh: Weigh = "sample",
        attention: PromptAttention | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.weigh = weigh
        n_layers = network.config.get_text_config().num_hidden_layers
        self.open_layers = (attention or PromptAttention()).open_layers(n_layers)

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
    def _hf_peft_config_loaded(self) -> bool:
        """Whether there is an adapter: without one the Trainer refuses a base in 4 bits."""
        return hasattr(self.network, "peft_config")

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
        network: Any = self.network
        base = network.get_base_model() if hasattr(network, "get_base_model") else network
        reach = None if batch.reach is None else batch.reach[0]
        hidden = base.base_model(
            **_read(base, batch.ids), position_ids=batch.positions, use_cache=False,
            packed_layout=PackedLayout(batch.lengths.tolist(), batch.ids.device, reach, self.open_layers),
        ).last_hidden_state[0]  # fmt: skip
        head = base.get_output_embeddings()
        device = next(
            head.parameters()
        ).device  # of a network on several devices not that of the input
        hidden = hidden.to(device)
        sample = torch.repeat_interleave(torch.arange(len(batch.lengths)), batch.lengths).to(device)
        labels = batch.labels[0].to(device)
        learned = labels != IGNORE
        of_sample = sample[learned]
        n_learned = batch.n_learned.to(device, torch.float32)
        each = 1 / n_learned if self.weigh == "sample" else torch.ones_like(n_learned)
        loss, by_token = weighted_loss(
            hidden[learned], head, labels[learned], each[of_sample] / total,
            cap=getattr(base.config, "final_logit_softcapping", None),
        )  # fmt: skip
        by_sample = torch.zeros_like(n_learned).index_add_(0, of_sample, by_token) / n_learned
        return loss, by_sample


def _read(base: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what a network is given: token ids, or their embeddings where some rows of the table are trained alone."""
    table, rows, new = trained_rows(base.get_input_embeddings())
    if rows is None or new is None:
        return {"input_ids": ids}
    known: Any = table
    place = torch.full((known.weight.shape[0],), -1, device=ids.device)
    place[rows.to(ids.device)] = torch.arange(len(rows), device=ids.device)
    place = place[ids]
    embedded = known(ids)
    fresh = functional.embedding(place.clamp(min=0), new.to(embedded.dtype))
    scale = getattr(known, "embed_scale", None)  # of Gemma-3, whose table multiplies what it gives
    if scale is not None:
        fresh = fresh * torch.as_tensor(scale).to(fresh)
    return {"inputs_embeds": torch.where((place >= 0)[..., None], fresh, embedded)}
