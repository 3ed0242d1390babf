"""Passes through a network in which every sequence of a batch stands at its own place.

Keys and values are kept in *slots*: slot `p` of a row belongs to its token at position `p`. A row's tokens that turn
out not to be wanted are forgotten by going on at their slots; nothing is moved, and no row waits for another. A
sliding window is a mask, so Gemma-2 takes back tokens like any other network.

`SteadyNetwork` is for networks that are not known to work so, with their own cache and one token of each row a pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Model types whose network and output head are known to be no more than what `SlotNetwork` does with them.
_KNOWN = ("gpt_neox", "gpt2", "llama", "gemma2")
#: Attention that takes a mask for each query.
_MASKED_ATTENTION = ("sdpa", "eager")
#: Slots that are added at once, where more are needed.
_MORE_SLOTS = 128


def takes_slots(network: PreTrainedModel) -> bool:
    """Whether `SlotNetwork` can run a network; others are a `SteadyNetwork`.

    Of one that is spread over several devices (`device_map`) the head may lie elsewhere, and be loaded only where the
    network itself asks for it.
    """
    devices = getattr(network, "hf_device_map", {})
    return (
        network.config.model_type in _KNOWN
        and network.config._attn_implementation in _MASKED_ATTENTION
        and len({str(device) for device in devices.values()}) < 2
    )


class SlotCache:
    """Keys and values of all layers, with what the networks ask of a cache.

    Attributes
    ----------
    keys, values : list of tensor
        Of each layer, shape (n_rows, n_heads, n_slots, head_dim).
    """

    def __init__(self) -> None:
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self._rows = self._slots = torch.empty(0)
        self._reach = 0

    def aim(self, slots: torch.Tensor, reach: int) -> None:
        """Say where the next pass writes.

        Parameters
        ----------
        slots : int64 tensor, shape (n_rows, n_tokens)
        reach
            How many slots the pass may look at.
        """
        self._rows = torch.arange(len(slots), device=slots.device)[:, None]
        self._slots, self._reach = slots, reach

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's keys and values, shape (n_rows, n_heads, n_tokens, head_dim); return all up to the reach."""
        if layer == len(self.keys):
            self.keys.append(keys[:, :, :0])
            self.values.append(values[:, :, :0])
        for kept, given in ((self.keys, keys), (self.values, values)):
            if kept[layer].shape[2] < self._reach:
                kept[layer] = _longer(kept[layer], self._reach + _MORE_SLOTS)
            kept[layer][self._rows, :, self._slots] = given.transpose(1, 2)
        return self.keys[layer][:, :, : self._reach], self.values[layer][:, :, : self._reach]

    def get_seq_length(self) -> int:
        """Return the number of slots that the next pass looks at."""
        return self._reach

    def keep(self, rows: torch.Tensor) -> None:
        """Forget all rows but these."""
        for kept in (self.keys, self.values):
            for layer, tensor in enumerate(kept):
                kept[layer] = tensor[rows]


def _longer(tensor: torch.Tensor, n_slots: int) -> torch.Tensor:
    n_rows, n_heads, before, width = tensor.shape
    # Zeros, since attention multiplies what it does not look at by 0, and 0 times what lies about may be nan.
    longer = tensor.new_zeros(n_rows, n_heads, n_slots, width)
    longer[:, :, :before] = tensor
    return longer


class SlotNetwork:
    """A network, and the rows of its output head that answers can use.

    Parameters
    ----------
    network
        One that `takes_slots`.
    tokens : int64 array, shape (n_columns,)
        The token ids whose logits are wanted.
    """

    def __init__(self, network: PreTrainedModel, tokens: np.ndarray) -> None:
        self.network = network
        self.device = network.device
        head: Any = network.get_output_embeddings()
        rows = torch.from_numpy(tokens).to(head.weight.device)
        self._weight = head.weight[rows].to(self.device)
        bias = getattr(head, "bias", None)
        self._bias = None if bias is None else bias[rows].to(self.device)
        self._cap: float | None = getattr(network.config, "final_logit_softcapping", None)
        kinds = getattr(network.config, "layer_types", None) or []
        self._window: int | None = (
            network.config.sliding_window if "sliding_attention" in kinds else None
        )

    def new_cache(self) -> SlotCache:
        """Return an empty cache."""
        return SlotCache()

    def logits(
        self, ids: np.ndarray, n_fed: np.ndarray, lengths: np.ndarray, cache: SlotCache, wanted: np.ndarray
    ) -> np.ndarray:  # fmt: skip
        """Feed tokens behind what is in the cache, and return the logits behind the wanted ones.

        Parameters
        ----------
        ids : int64, shape (n_rows, n_tokens)
            What is fed, filled up at the end of a row with any token.
        n_fed : int64, shape (n_rows,)
            How many tokens of each row count.
        lengths : int64, shape (n_rows,)
            Tokens of each row that are in the cache already; what lies behind them is overwritten.
        cache
            Of these rows.
        wanted : bool, shape (n_rows, n_tokens)

        Returns
        -------
        float32 array, shape (n_wanted, n_columns)
            Row by row.
        """
        slots = lengths[:, None] + np.arange(ids.shape[1])
        # What fills up is written behind a row's end, where nothing looks; its position must only exist.
        positions = np.minimum(slots, (lengths + n_fed)[:, None] - 1)
        at = torch.from_numpy(slots).to(self.device)
        reach = int(slots.max()) + 1
        cache.aim(at, reach)
        hidden = self.network.base_model(
            input_ids=torch.from_numpy(ids).to(self.device),
            attention_mask=self._masks(at, reach),
            position_ids=torch.from_numpy(positions).to(self.device),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        hidden = hidden[torch.from_numpy(wanted).to(self.device)]
        logits = torch.nn.functional.linear(hidden, self._weight, self._bias)
        if self._cap is not None:
            logits = torch.tanh(logits / self._cap) * self._cap
        return logits.float().cpu().numpy()

    def _masks(self, slots: torch.Tensor, reach: int) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return what each token may look at, as numbers added to attention, (n_rows, 1, n_tokens, reach)."""
        behind = slots[:, None, :, None] - torch.arange(reach, device=self.device)
        full = self._added(behind >= 0)
        if self._window is None:
            return full
        near = self._added((behind >= 0) & (behind < self._window))
        return {"full_attention": full, "sliding_attention": near}

    def _added(self, seen: torch.Tensor) -> torch.Tensor:
        dtype = self.network.dtype
        zero = torch.zeros((), dtype=dtype, device=self.device)
        return torch.where(seen, zero, torch.finfo(dtype).min)


class SteadyCache:
    """A network's own cache, and where its rows, filled up on the left, have tokens.

    Attributes
    ----------
    past : transformers.Cache or None
        None before the prompts.
    mask : int64 tensor, shape (n_rows, length)
    """

    def __init__(self) -> None:
        self.past: Any = None
        self.mask = torch.empty(0)

    def keep(self, rows: torch.Tensor) -> None:
        """Forget all rows but these."""
        self.past.batch_select_indices(rows)
        self.mask = self.mask[rows]


class SteadyNetwork:
    """Any causal language model; behind the prompts every row is fed one token a pass, and none is taken back.

    Parameters
    ----------
    network, tokens
        As for `SlotNetwork`.
    """

    def __init__(self, network: PreTrainedModel, tokens: np.ndarray) -> None:
        self.network = network
        self.device = network.device
        self._columns = torch.from_numpy(tokens).to(self.device)

    def new_cache(self) -> SteadyCache:
        """Return an empty cache."""
        return SteadyCache()

    def logits(
        self, ids: np.ndarray, n_fed: np.ndarray, lengths: np.ndarray, cache: SteadyCache, wanted: np.ndarray
    ) -> np.ndarray:  # fmt: skip
        """Feed prompts, then one token of each row at a time; parameters and result are those of `SlotNetwork`.

        A row's last token is the only one whose logits can be wanted.
        """
        at = np.arange(ids.shape[1]) - (ids.shape[1] - n_fed)[:, None]  # filled up on the left
        fed = torch.from_numpy(np.take_along_axis(ids, np.maximum(at, 0), 1)).to(self.device)
        new = torch.from_numpy((at >= 0).astype(np.int64)).to(self.device)
        cache.mask = new if cache.past is None else torch.cat([cache.mask, new], dim=1)
        positions = torch.from_numpy(np.maximum(at, 0) + lengths[:, None]).to(self.device)
        out = self.network(
            input_ids=fed, attention_mask=cache.mask, position_ids=positions, past_key_values=cache.past,
            use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        cache.past = out.past_key_values
        rows = torch.from_numpy(wanted.any(1)).to(self.device)
        return out.logits[rows, -1][:, self._columns].float().cpu().numpy()
