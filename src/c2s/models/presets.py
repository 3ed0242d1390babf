"""Shapes of models that start from random weights (SPEC §5), by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from c2s.common.errors import UsageError, listing

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Preset:
    """A named shape.

    Attributes
    ----------
    name, description
        Shown by the command line.
    config
        Makes the Hugging Face configuration for a vocabulary of that many tokens.
    context
        Longest input in tokens.
    """

    name: str
    description: str
    config: Callable[[int], PretrainedConfig]
    context: int


def _pythia(layers: int, hidden: int, heads: int) -> Callable[[int], PretrainedConfig]:
    def config(vocab_size: int) -> PretrainedConfig:
        from transformers import GPTNeoXConfig

        return GPTNeoXConfig(
            vocab_size=max(vocab_size, 50304),
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * hidden,
            max_position_embeddings=2048,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.25,
            },
            tie_word_embeddings=False,
        )

    return config


def _gemma2(
    layers: int, hidden: int, mlp: int, heads: int, kv: int, head_dim: int, query: int
) -> Callable[[int], PretrainedConfig]:
    def config(vocab_size: int) -> PretrainedConfig:
        from transformers import Gemma2Config

        return Gemma2Config(
            vocab_size=max(vocab_size, 256000),
            hidden_size=hidden,
            num_hidden_layers=layers,
            intermediate_size=mlp,
            num_attention_heads=heads,
            num_key_value_heads=kv,
            head_dim=head_dim,
            query_pre_attn_scalar=query,
            sliding_window=4096,
            attn_logit_softcapping=50.0,
            final_logit_softcapping=30.0,
            max_position_embeddings=8192,
        )

    return config


def small_shape(hidden: int, layers: int, heads: int, context: int) -> Preset:
    """Return the shape of a small GPT-NeoX with rotary positions throughout and one table for input and output.

    Parameters
    ----------
    hidden, layers, heads
        Width, a multiple of twice the heads; layers; attention heads. Feed-forward layers are 4 times as wide.
    context
        Longest input in tokens.
    """

    def config(vocab_size: int) -> PretrainedConfig:
        from transformers import GPTNeoXConfig

        return GPTNeoXConfig(
            vocab_size=vocab_size,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * hidden,
            max_position_embeddings=context,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 1.0,
            },
            tie_word_embeddings=True,
        )

    text = f"GPT-NeoX, {layers} layers, hidden {hidden}"
    return Preset(f"{layers}x{hidden}", text, config, context)


#: Sizes from SPEC §5; `mini` is ours, for a laptop and one token a gene.
PRESETS: dict[str, Preset] = {
    p.name: p
    for p in (
        Preset(
            "mini",
            "GPT-NeoX, 2 layers, hidden 128: minutes on a laptop",
            small_shape(128, 2, 4, 1024).config,
            1024,
        ),
        Preset("pythia-410m", "GPT-NeoX, 24 layers, hidden 1024", _pythia(24, 1024, 16), 2048),
        Preset("pythia-1b", "GPT-NeoX, 16 layers, hidden 2048", _pythia(16, 2048, 8), 2048),
        Preset(
            "gemma-2-2b",
            "Gemma-2, 26 layers, hidden 2304",
            _gemma2(26, 2304, 9216, 8, 4, 256, 256),
            8192,
        ),
        Preset(
            "gemma-2-9b",
            "Gemma-2, 42 layers, hidden 3584",
            _gemma2(42, 3584, 14336, 16, 8, 256, 256),
            8192,
        ),
        Preset(
            "gemma-2-27b",
            "Gemma-2, 46 layers, hidden 4608",
            _gemma2(46, 4608, 36864, 32, 16, 128, 144),
            8192,
        ),
    )
}


def get_preset(name: str) -> Preset:
    """Return a preset by name.

    Raises
    ------
    UsageError
        There is none of that name.
    """
    if name not in PRESETS:
        raise UsageError(f"there is no preset {name!r}; there are: {listing(list(PRESETS))}")
    return PRESETS[name]
