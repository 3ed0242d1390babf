"""Attention over samples that stand one behind another in one row: each sees itself only.

Registered with transformers as the attention implementation `c2s_packed`, so every decoder that takes its attention
from there can be trained on packed rows, also where no flash-attention exists. Samples of like length are attended to
together, padded on the right, which a causal mask hides by itself: so PyTorch's fused attention does the work without
a mask, on the CPU and on a GPU, and the work is the sum of the squares of the lengths of the samples instead of the
square of the row's.

Where tokens of prompts see what stands behind them (`c2s.models.attention`), a mask says so; layers that are causal do
without.

Where scores are capped (Gemma-2), which the fused attention does not do, they are computed here for a stretch of the
queries at a time and again when gradients are, so that no matrix of all scores is ever held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from c2s.common.errors import UsageError
from c2s.models.attention import visible

#: Name of the implementation in transformers.
NAME = "c2s_packed"

#: Samples are attended to together where the shortest is at least this share of the longest.
_ALIKE = 0.8

#: Scores of one stretch of queries, at most, where they are held.
_STRETCH_SCORES = 1 << 24

#: Queries of a stretch, at least.
_FEWEST_QUERIES = 64


@dataclass(frozen=True)
class _Group:
    """Samples of like length.

    Attributes
    ----------
    places : int64 tensor, shape (n_samples, longest)
        Where each token stands in the row; what fills up shorter samples stands anywhere.
    real : bool tensor, shape (n_samples, longest)
        Which places are tokens of the sample; None where all are.
    reach : int64 tensor, shape (n_samples, longest)
        The last token of its sample that each token sees; None where that is the token itself everywhere.
    """

    places: torch.Tensor
    real: torch.Tensor | None
    reach: torch.Tensor | None = None
    _masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def mask(self, window: int | None) -> torch.Tensor:
        """Return which keys each query sees, made once for all layers. bool, (n_samples, 1, longest, longest)."""
        if window not in self._masks and self.reach is not None:
            self._masks[window] = visible(self.reach, self.reach.shape[1], window)[:, None]
        return self._masks[window]


@dataclass
class PackedLayout:
    """Where the samples of a row begin and end.

    Parameters
    ----------
    lengths
        Tokens of each sample, in the order of the row.
    device
        Where attention is computed.
    reach : int64 tensor, shape (n_tokens,)
        The last token of its sample that each token sees in layers that are open; None where all are causal.
    open_layers
        The layers in which tokens see that far.

    Raises
    ------
    UsageError
        Layers are open, and no reach is given.
    """

    lengths: Sequence[int]
    device: torch.device | str = "cpu"
    reach: torch.Tensor | None = None
    open_layers: frozenset[int] = frozenset()
    groups: list[_Group] = field(init=False)

    def __post_init__(self) -> None:
        if self.open_layers and self.reach is None:
            raise UsageError(
                "the network's prompts are not read causally, and the batch does not say how far its tokens see; make "
                "it with flatten(…, reach=…)"
            )
        starts = torch.tensor([0, *self.lengths]).cumsum(0).tolist()
        order = sorted(range(len(self.lengths)), key=lambda i: -self.lengths[i])
        self.groups = []
        while order:
            longest = self.lengths[order[0]]
            n = sum(1 for i in order if self.lengths[i] >= _ALIKE * longest)
            together, order = order[:n], order[n:]
            begin = torch.tensor([starts[i] for i in together])
            length = torch.tensor([self.lengths[i] for i in together])
            at = torch.arange(longest)
            real = at < length[:, None]
            places = torch.where(real, begin[:, None] + at, begin[:, None])
            whole = bool(real.all())
            real, places = real.to(self.device), places.to(self.device)
            reach = None
            if self.reach is not None:
                # What fills up sees what stands before it: some token must be seen.
                reach = torch.where(real, self.reach[places], at.to(self.device))
            self.groups.append(_Group(places, None if whole else real, reach))

    def to(self, device: torch.device | str) -> PackedLayout:
        """Return the layout on another device: accelerate asks for it where layers lie on several."""
        return (
            self
            if torch.device(device) == torch.device(self.device)
            else replace(
                self, device=device, reach=None if self.reach is None else self.reach.to(device)
            )
        )


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    packed_layout: PackedLayout | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within samples; called by transformers.

    Parameters
    ----------
    query, key, value : shape (1, heads, n_tokens, head_dim)
        Keys and values may have fewer heads.
    scaling
        Factor of the scores.
    sliding_window
        How many tokens back a token sees, itself included.
    softcap
        Scores are capped at this.
    packed_layout
        The samples of the row, which the caller passes to the network.

    Returns
    -------
    tensor, shape (1, n_tokens, heads, head_dim)
    None
        Instead of weights.

    Raises
    ------
    UsageError
        No layout was given.
    """
    del attention_mask
    if packed_layout is None:
        raise UsageError(
            "packed attention needs the layout of the row: network(…, packed_layout=…)"
        )
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    rate = dropout if module.training else 0.0
    rows = [x[0].transpose(0, 1) for x in (query, key, value)]  # (n_tokens, heads, head_dim)
    out = torch.empty_like(rows[0])
    parts, places = [], []
    is_open = getattr(module, "layer_idx", None) in packed_layout.open_layers
    for group in packed_layout.groups:
        q, k, v = (x[group.places].transpose(1, 2) for x in rows)  # (n, heads, longest, head_dim)
        window = sliding_window if sliding_window and sliding_window < q.shape[2] else None
        if softcap is None:
            mask = group.mask(window) if is_open else None
            attended = _fused(q, k, v, scale, rate, window, mask)
        else:
            reach = group.reach if is_open else None
            attended = _capped(q, k, v, scale, rate, window, softcap, reach)
        attended = attended.transpose(1, 2)
        if group.real is None:
            parts.append(attended.flatten(0, 1))
            places.append(group.places.flatten())
        else:
            parts.append(attended[group.real])
            places.append(group.places[group.real])
    out = out.index_copy(0, torch.cat(places), torch.cat(parts))
    return out[None], None


def _fused(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    dropout: float,
    window: int | None,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """Attend with PyTorch's own attention; causally where no mask is given."""
    if mask is None and window is not None:
        mask = _visible(0, q.shape[2], window, q.device)
    return functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip


def _capped(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, dropout: float, window: int | None, softcap: float,
    reach: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """Attend with capped scores, a stretch of the queries at a time; causally where no reach is given."""
    n, heads, longest, _ = q.shape
    if k.shape[1] != heads:
        k, v = (x.repeat_interleave(heads // x.shape[1], 1) for x in (k, v))

    def attend(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, start: int, first: int
    ) -> torch.Tensor:
        scores = softcap * torch.tanh((q @ k.transpose(-1, -2)) * (scale / softcap))
        if reach is None:
            seen = _visible(start - first, q.shape[2], window, q.device, k.shape[2])
        else:
            far = reach[:, start : start + q.shape[2]]
            seen = visible(far, k.shape[2], window, first_query=start, first_key=first)[:, None]
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1, dtype=torch.float32)
        return functional.dropout(weights.to(v.dtype), dropout) @ v

    stretch = max(_FEWEST_QUERIES, _STRETCH_SCORES // (n * heads * longest))
    if stretch >= longest:
        return attend(q, k, v, 0, 0)
    parts = []
    for start in range(0, longest, stretch):
        stop = min(start + stretch, longest)
        first = 0 if window is None else max(0, start - window + 1)
        # Keys outside of what the stretch can see: before its first query's window, and behind its last query.
        end = stop
        if reach is not None:
            end = longest if window is None else min(longest, stop + window - 1)
        part = (q[:, :, start:stop], k[:, :, first:end], v[:, :, first:end], start, first)
        parts.append(checkpoint(attend, *part, use_reentrant=False))
    return torch.cat(parts, 2)


def _visible(
    start: int, n_queries: int, window: int | None, device: torch.device, n_keys: int | None = None
) -> torch.Tensor:
    """Return which keys each query sees, the first query standing at `start`. bool, shape (n_queries, n_keys)."""
    at = torch.arange(start, start + n_queries, device=device)[:, None]
    keys = torch.arange(n_keys or start + n_queries, device=device)
    seen = keys <= at
    return seen if window is None else seen & (keys > at - window)


AttentionInterface.register(NAME, packed_attention)
# No mask is made: the layout says all there is to say.
AttentionMaskInterface.register(NAME, lambda *_, **__: None)


@contextmanager
def attending_packed(network: PreTrainedModel) -> Iterator[None]:
    """Have a network attend within samples of packed rows, as it is trained here; afterwards as before.

    Raises
    ------
    UsageError
        The architecture does not take its attention from transformers' registry.
    """
    before = network.config._attn_implementation
    network.set_attn_implementation(NAME)
    if network.config._attn_implementation != NAME:
        raise UsageError(
            f"{type(network).__name__} cannot be trained on packed samples: it does not take its attention from "
            "transformers' registry"
        )
    try:
        yield
    finally:
        network.set_attn_implementation(before)
