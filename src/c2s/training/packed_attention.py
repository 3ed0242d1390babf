"""Attention over samples that stand one behind another in one row: each sees itself only.

Registered with transformers as the attention implementation `c2s_packed`, so every decoder that takes its attention
from there can be trained on packed rows, also where no flash-attention exists. Samples of like length are attended to
together, padded on the right, which a causal mask hides by itself: so PyTorch's fused attention does the work without
a mask, on the CPU and on a GPU, and the work is the sum of the squares of the lengths of the samples instead of the
square of the row's.

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
    """

    places: torch.Tensor
    real: torch.Tensor | None


@dataclass
class PackedLayout:
    """Where the samples of a row begin and end.

    Parameters
    ----------
    lengths
        Tokens of each sample, in the order of the row.
    device
        Where attention is computed.
    """

    lengths: Sequence[int]
    device: torch.device | str = "cpu"
    groups: list[_Group] = field(init=False)

    def __post_init__(self) -> None:
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
            self.groups.append(
                _Group(places.to(self.device), None if real.all() else real.to(self.device))
            )

    def to(self, device: torch.device | str) -> PackedLayout:
        """Return the layout on another device: accelerate asks for it where layers lie on several."""
        return (
            self
            if torch.device(device) == torch.device(self.device)
            else replace(self, device=device)
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
    for group in packed_layout.groups:
        q, k, v = (x[group.places].transpose(1, 2) for x in rows)  # (n, heads, longest, head_dim)
        window = sliding_window if sliding_window and sliding_window < q.shape[2] else None
        if softcap is None:
            attended = _fused(q, k, v, scale, rate, window)
        else:
            attended = _capped(q, k, v, scale, rate, window, softcap)
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
) -> torch.Tensor:
    """Attend with PyTorch's own attention."""
    mask = None if window is None else _visible(0, q.shape[2], window, q.device)
    return functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip


def _capped(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, dropout: float, window: int | None, softcap: float
) -> torch.Tensor:  # fmt: skip
    """Attend with capped scores, a stretch of the queries at a time."""
    n, heads, longest, _ = q.shape
    if k.shape[1] != heads:
        k, v = (x.repeat_interleave(heads // x.shape[1], 1) for x in (k, v))

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, start: int) -> torch.Tensor:
        scores = softcap * torch.tanh((q @ k.transpose(-1, -2)) * (scale / softcap))
        seen = _visible(start, q.shape[2], window, q.device, k.shape[2])
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1, dtype=torch.float32)
        return functional.dropout(weights.to(v.dtype), dropout) @ v

    stretch = max(_FEWEST_QUERIES, _STRETCH_SCORES // (n * heads * longest))
    if stretch >= longest:
        return attend(q, k, v, 0)
    parts = []
    for start in range(0, longest, stretch):
        stop = min(start + stretch, longest)
        first = 0 if window is None else max(0, start - window + 1)
        # Keys behind the last query are seen by none of the stretch, nor those before the first one's window.
        part = (q[:, :, start:stop], k[:, :, first:stop], v[:, :, first:stop], start - first)
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
