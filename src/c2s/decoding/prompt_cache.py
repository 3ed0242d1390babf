"""Keys and values of prompts, made without the part of the network that only a next token would need.

Imported when used: it needs transformers.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel


class _PromptRead(Exception):
    """The last layer has put down its keys and values."""


class _PromptCache(DynamicCache):
    """A cache that ends the network's pass as soon as it holds keys and values of every layer."""

    def __init__(self, n_layers: int) -> None:
        # Not made for a configuration: sliding layers would throw away what padding on the right pushes out.
        super().__init__()
        self.reading = True
        self._last = n_layers - 1

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Put down a layer's keys and values, and return all that there are for the layer."""
        held = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if self.reading and layer_idx == self._last:
            raise _PromptRead
        return held


def read_prompts(network: PreTrainedModel, ids: torch.Tensor, shared: int = 0) -> DynamicCache:
    """Return the keys and values of prompts.

    What stands behind a prompt sees nothing of it but these, so the attention and the feed-forward part of the last
    layer are left out: a sixth of a network of six layers. Where the last layers share the keys of earlier ones,
    the whole network is run.

    Parameters
    ----------
    network
        A decoder whose layers are full or sliding attention.
    ids : int64 tensor, shape (n_prompts, length)
        Padded on the right: a token of a prompt sees no padding, so that needs no mask, and attention can take
        its fastest path. The length may be 0. Or their embeddings, float tensor, shape (n_prompts, length, hidden);
        gradients then flow back to these.
    shared
        With how many equal tokens all prompts begin: these are read once.

    Returns
    -------
    DynamicCache
        Of every layer all keys and values, also outside a sliding window and of padding; what reads on must mask them.
    """
    cache = _PromptCache(network.config.get_text_config().num_hidden_layers)
    if shared:
        _read(network, ids[:1, :shared], cache)
        cache.batch_repeat_interleave(len(ids))
    if ids.shape[1] > shared:
        _read(network, ids[:, shared:], cache)
    cache.reading = False
    return cache


def _read(network: PreTrainedModel, ids: torch.Tensor, cache: _PromptCache) -> None:
    """Put down keys and values of token ids, or of embeddings, behind what the cache holds."""
    name = "inputs_embeds" if ids.is_floating_point() else "input_ids"
    with suppress(_PromptRead):
        network.base_model(**{name: ids}, past_key_values=cache, use_cache=True)
