"""Presets have the published shapes and sizes; only `mini` is ever filled with weights here."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from c2s.common.errors import UsageError
from c2s.models.presets import PRESETS, get_preset

# SPEC §5, and the sizes of the released checkpoints of these shapes.
PYTHIA = {
    "pythia-410m": (24, 1024, 4096, 16, 405_334_016),
    "pythia-1b": (16, 2048, 8192, 8, 1_011_781_632),
}
GEMMA = {
    "gemma-2-2b": (26, 2304, 9216, 8, 4, 256, 256, 2_614_341_888),
    "gemma-2-9b": (42, 3584, 14336, 16, 8, 256, 256, 9_241_705_984),
    "gemma-2-27b": (46, 4608, 36864, 32, 16, 128, 144, 27_227_128_320),
}


def on_meta(config):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", PYTHIA)
def test_pythia(name):
    layers, hidden, mlp, heads, size = PYTHIA[name]
    config = get_preset(name).config(50277)
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (
        layers,
        hidden,
        mlp,
    )
    assert config.num_attention_heads == heads
    assert (config.vocab_size, config.max_position_embeddings) == (50304, 2048)
    assert config.rope_parameters["partial_rotary_factor"] == 0.25
    assert config.rope_parameters["rope_theta"] == 10000
    assert config.use_parallel_residual
    assert not config.tie_word_embeddings
    network = on_meta(config)
    assert type(network).__name__ == "GPTNeoXForCausalLM"
    # A quarter of each head turns with the position.
    assert len(network.base_model.rotary_emb.inv_freq) == hidden // heads // 4 // 2
    assert count(network) == size


@pytest.mark.parametrize("name", GEMMA)
def test_gemma(name):
    layers, hidden, mlp, heads, kv, head_dim, query, size = GEMMA[name]
    config = get_preset(name).config(256000)
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (
        layers,
        hidden,
        mlp,
    )
    assert (config.num_attention_heads, config.num_key_value_heads) == (heads, kv)
    assert (config.head_dim, config.query_pre_attn_scalar) == (head_dim, query)
    assert (config.vocab_size, config.max_position_embeddings) == (256000, 8192)
    assert (config.attn_logit_softcapping, config.final_logit_softcapping) == (50, 30)
    assert config.sliding_window == 4096
    assert config.layer_types[:4] == ["sliding_attention", "full_attention"] * 2
    network = on_meta(config)
    assert type(network).__name__ == "Gemma2ForCausalLM"
    # Only the plain attention caps its scores.
    assert network.config._attn_implementation == "eager"
    assert count(network) == size


def test_mini_is_small_and_runs():
    config = get_preset("mini").config(700)
    network = AutoModelForCausalLM.from_config(config).eval()
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (700, 128, 2)
    # Tied embeddings; per layer 12 h² weights, 13 h biases and norms; a final norm.
    assert count(network) == 700 * 128 + 2 * (12 * 128**2 + 13 * 128) + 2 * 128
    ids = torch.arange(40)[None]
    with torch.no_grad():
        logits = network(ids).logits
    assert logits.shape == (1, 40, 700)
    assert logits.isfinite().all()


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_the_context_is_that_of_the_configuration(preset):
    assert preset.config(1000).max_position_embeddings == preset.context
    assert get_preset(preset.name) is preset


@pytest.mark.parametrize("name", ["pythia-410m", "gemma-2-2b"])
def test_added_gene_tokens_enlarge_the_vocabulary(name):
    assert get_preset(name).config(300_000).vocab_size == 300_000


def test_an_unknown_preset_is_answered_with_those_there_are():
    with pytest.raises(UsageError, match="no preset 'pythia'; there are: mini, pythia-410m"):
        get_preset("pythia")
