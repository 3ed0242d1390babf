"""What the tokens of a prompt may see: those before them, as a causal model, or some behind them too (SPEC §17).

Whatever the kind, a token sees all that stand before it and, of what stands behind, a stretch that begins right there.
So one number a token says it all: the last token that it sees. A token of the response sees itself last, always:
the response is what is learned, and a token that sees its successor would be taught to copy it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from c2s.common.config import Config
from c2s.common.errors import UsageError
from c2s.tokens.positions import CellFinder

if TYPE_CHECKING:
    import torch

    from c2s.tokens.tokenizer import CellTokenizer


class PromptAttention(Config):
    """Attention over prompts. The response is causal in every kind (SPEC §17, rows 1 and 3)."""

    kind: Literal["causal", "prefix", "blocks", "hybrid"] = Field(
        "causal",
        description="'causal': tokens see what stands before them; 'prefix': tokens of the prompt see all of the "
        "prompt; 'blocks': genes of a cell sentence in the prompt see those of their block, both ways; 'hybrid': as "
        "'prefix' in some layers, as 'causal' in the others. In a block that is learned a token would see its own "
        "answer, so the response is causal always.",
    )
    block_genes: int = Field(
        16,
        ge=2,
        description="Genes of a block, with 'blocks' (not specified by the paper).",
    )
    layers: list[int] | None = Field(
        None,
        description="Layers that see all of the prompt, counted from 0, with 'hybrid'; by default every second one "
        "from the first on, without the last (not specified by the paper): what tokens of the prompt see in the last "
        "layer, no token of the response reads.",
    )

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        """Take a kind by its name alone."""
        return {"kind": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _layers_belong_to_hybrid(self) -> Self:
        if self.layers is None:
            return self
        if self.kind != "hybrid":
            raise ValueError(f"'layers' belongs to kind: hybrid; the kind is {self.kind!r}")
        if not self.layers or len(set(self.layers)) < len(self.layers) or min(self.layers) < 0:
            raise ValueError("'layers' are different numbers from 0 on, at least one")
        return self

    @property
    def is_causal(self) -> bool:
        """Whether no token sees one behind it."""
        return self.kind == "causal"

    def open_layers(self, n_layers: int) -> frozenset[int]:
        """Return the layers of a network in which tokens of the prompt see what stands behind them.

        Raises
        ------
        UsageError
            The network has no such layer.
        """
        if self.is_causal:
            return frozenset()
        if self.kind != "hybrid":
            return frozenset(range(n_layers))
        layers = range(0, max(1, n_layers - 1), 2) if self.layers is None else self.layers
        if max(layers) >= n_layers:
            raise UsageError(
                f"attention.layers: the network has {n_layers:,} layers, and no layer {max(layers):,} (they are "
                "counted from 0)"
            )
        return frozenset(layers)


class PromptReach:
    """How far each token of a sample sees.

    Parameters
    ----------
    attention
        The kind.
    tokenizer
        Of the model.
    """

    def __init__(self, attention: PromptAttention, tokenizer: CellTokenizer) -> None:
        self.attention = attention
        self._finder = CellFinder(tokenizer) if attention.kind == "blocks" else None

    def __call__(self, ids: np.ndarray, prompt_length: int) -> np.ndarray:
        """Return the last token that each token sees, itself or one behind it, in the layers that are open.

        Parameters
        ----------
        ids : int array, shape (n_tokens,)
            A prompt, and what there is of its response.
        prompt_length
            Tokens of the prompt.

        Returns
        -------
        int64 array, shape (n_tokens,)
        """
        reach = np.arange(len(ids))
        if self.attention.kind in ("prefix", "hybrid"):
            reach[:prompt_length] = prompt_length - 1
        elif self._finder is not None:
            size = self.attention.block_genes
            for genes in self._finder.sentences(ids[:prompt_length]):
                for first in range(0, len(genes), size):
                    start, stop = genes[first, 0], genes[min(first + size, len(genes)) - 1, 1]
                    reach[start:stop] = stop - 1
        return reach


def visible(
    reach: torch.Tensor,
    n_keys: int,
    window: int | None = None,
    *,
    first_query: int = 0,
    first_key: int = 0,
) -> torch.Tensor:
    """Return which keys each query sees.

    Parameters
    ----------
    reach : int64 tensor, shape (n, n_queries)
        The place of the last key that each query sees.
    n_keys
        How many keys there are from `first_key` on.
    window
        Of a sliding window: keys nearer than this are seen, before and behind.
    first_query, first_key
        Places of the first of each.

    Returns
    -------
    bool tensor, shape (n, n_queries, n_keys)
    """
    import torch

    keys = torch.arange(first_key, first_key + n_keys, device=reach.device)
    seen = keys <= reach[..., None]
    if window is None:
        return seen
    at = torch.arange(first_query, first_query + reach.shape[1], device=reach.device)
    return seen & ((keys - at[:, None]).abs() < window)
