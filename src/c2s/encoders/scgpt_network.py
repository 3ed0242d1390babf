"""The part of scGPT's network that places cells, in plain PyTorch, with the names of its published weights.

Source: Cui et al. 2024, "scGPT: toward building a foundation model for single-cell multi-omics using generative AI",
Nature Methods 21:1470.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

#: Bins above this are read as this.
_LARGEST_VALUE = 512.0


class ScGPTNetwork(nn.Module):
    """Genes and their binned values to the output of the last layer at the first place, which is <cls>.

    Parameters
    ----------
    n_tokens
        Genes and special tokens of the vocabulary.
    n_dimensions, n_heads, n_hidden, n_layers
        Width of the tokens, attention heads, width inside the feed-forward parts, layers.
    dropout
        Share dropped in training; published checkpoints have 0.2.
    pad_id
        Token that fills up shorter cells, and is not attended to.
    """

    def __init__(
        self,
        *,
        n_tokens: int,
        n_dimensions: int,
        n_heads: int,
        n_hidden: int,
        n_layers: int,
        dropout: float,
        pad_id: int,
    ) -> None:
        super().__init__()
        self.pad_id = pad_id
        self.encoder = _GeneEncoder(n_tokens, n_dimensions, pad_id)
        self.value_encoder = _ValueEncoder(n_dimensions, dropout)
        self.transformer_encoder = _Layers(n_layers, n_dimensions, n_heads, n_hidden, dropout)

    def forward(self, tokens: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return the cells' places.

        Parameters
        ----------
        tokens : int64 tensor, shape (n, length)
            <cls> first, then genes in any order, then padding.
        values : float32 tensor, shape (n, length)
            Bins of the genes.

        Returns
        -------
        float32 tensor, shape (n, n_dimensions)
        """
        real = tokens != self.pad_id
        # Without a mask, attention has faster kernels.
        mask = None if bool(real.all()) else real[:, None, None, :]
        states = self.encoder(tokens) + self.value_encoder(values)
        return self.transformer_encoder(states, mask)[:, 0]


class _GeneEncoder(nn.Module):
    def __init__(self, n_tokens: int, n_dimensions: int, pad_id: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, n_dimensions, padding_idx=pad_id)
        self.enc_norm = nn.LayerNorm(n_dimensions)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.enc_norm(self.embedding(tokens))


class _ValueEncoder(nn.Module):
    def __init__(self, n_dimensions: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(1, n_dimensions)
        self.linear2 = nn.Linear(n_dimensions, n_dimensions)
        self.norm = nn.LayerNorm(n_dimensions)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        inner = functional.relu(self.linear1(values.clamp(max=_LARGEST_VALUE).unsqueeze(-1)))
        return self.dropout(self.norm(self.linear2(inner)))


class _Attention(nn.Module):
    def __init__(self, n_dimensions: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        # Rows: all queries, all keys, all values.
        self.in_proj_weight = nn.Parameter(torch.empty(3 * n_dimensions, n_dimensions))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * n_dimensions))
        self.out_proj = nn.Linear(n_dimensions, n_dimensions)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        n, length, width = states.shape
        joined = functional.linear(states, self.in_proj_weight, self.in_proj_bias)
        # (3, n, heads, length, width / heads)
        query, key, value = joined.view(n, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out_proj(mixed.transpose(1, 2).reshape(n, length, width))


class _Layer(nn.Module):
    """A transformer layer that normalises after each part, as scGPT's published checkpoints were trained."""

    def __init__(self, n_dimensions: int, n_heads: int, n_hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = _Attention(n_dimensions, n_heads, dropout)
        self.linear1 = nn.Linear(n_dimensions, n_hidden)
        self.linear2 = nn.Linear(n_hidden, n_dimensions)
        self.norm1 = nn.LayerNorm(n_dimensions)
        self.norm2 = nn.LayerNorm(n_dimensions)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        states = self.norm1(states + self.dropout(self.self_attn(states, mask)))
        inner = self.dropout(functional.relu(self.linear1(states)))
        return self.norm2(states + self.dropout(self.linear2(inner)))


class _Layers(nn.Module):
    def __init__(
        self, n_layers: int, n_dimensions: int, n_heads: int, n_hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _Layer(n_dimensions, n_heads, n_hidden, dropout) for _ in range(n_layers)
        )

    def forward(self, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        for layer in self.layers:
            states = layer(states, mask)
        return states
