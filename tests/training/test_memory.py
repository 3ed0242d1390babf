"""The estimate of memory beside what real steps on real samples hold, tensor by tensor."""

import gc

import numpy as np
import pytest
import torch

from c2s.training.memory import LiveBytes, PassShape, estimate_memory
from c2s.training.packed_attention import attending_packed
from c2s.training.packed_network import PackedNetwork
from c2s.training.samples import CellStream, flatten, split_into_passes


def measured(network, samples, tokens_per_pass):
    """Bytes that two steps hold at most, weights included, and what the passes were."""
    network.train()
    passes = split_into_passes([len(s.ids) for s in samples], tokens_per_pass)
    batches = [flatten([samples[i] for i in p]) for p in passes]
    packed = PackedNetwork(network)
    total = sum(packed.total_weight(b) for b in batches)
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)
    live = LiveBytes()
    gc.collect()
    with attending_packed(network), live:
        for _ in range(2):
            for batch in batches:
                packed(batch, total)[0].backward()
            optimiser.step()
            optimiser.zero_grad()
    weights = sum(t.numel() * t.element_size() for t in [*network.parameters(), *network.buffers()])
    largest = max(batches, key=lambda b: b.ids.numel())
    return weights + live.peak, largest, len(batches)


@pytest.fixture(scope="module")
def samples(gene_tokenizer, make_stream):
    return CellStream(make_stream(48, seed=3), gene_tokenizer).at(np.arange(48))


CASES = [
    *[(a, c, 400) for a in ("gpt_neox", "llama", "gemma2") for c in (False, True)],
    ("gpt_neox", False, 10**6),
]


@pytest.mark.parametrize(("architecture", "checkpointing", "tokens_per_pass"), CASES)
def test_estimate_is_near_what_real_steps_hold(
    architecture, checkpointing, tokens_per_pass, gene_tokenizer, make_network, samples
):
    network = make_network(architecture, gene_tokenizer)
    if checkpointing:
        network.activation_checkpointing_enable({"use_reentrant": False})
    peak, largest, n_passes = measured(network, samples, tokens_per_pass)
    shape = PassShape.of_lengths(
        largest.lengths.tolist(), int(largest.n_learned.sum()), several=n_passes > 1
    )
    assert abs(shape.n_tokens / largest.ids.numel() - 1) < 0.05
    found = estimate_memory(network.config, shape, checkpointing=checkpointing)
    n_weights = sum(p.numel() for p in network.parameters())
    assert found.gradients == 4 * n_weights
    assert found.optimiser == 8 * n_weights
    assert 0 <= found.weights - 4 * n_weights < 1000  # buffers
    # Weights and optimiser are known; what is estimated is the rest.
    known = found.weights + found.optimiser
    assert peak - known > 0.4 * known
    assert 0.85 < (found.peak - known) / (peak - known) < 1.15


def test_checkpointing_keeps_less_and_more_layers_lie_on_the_line(gene_tokenizer, make_network):
    from c2s.training import memory

    config = make_network("gemma2", gene_tokenizer).config
    config.num_hidden_layers, config.layer_types = 6, ["sliding_attention", "full_attention"] * 3
    shape = PassShape(8, 64, 300)
    by_line = estimate_memory(config, shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "_MORE", 6)
        whole = estimate_memory(config, shape)
    assert by_line.activations == pytest.approx(whole.activations, rel=0.01)
    assert by_line.peak == pytest.approx(whole.peak, rel=0.01)
    less = estimate_memory(config, shape, checkpointing=True, precision="bfloat16")
    assert less.activations < 0.3 * by_line.activations
    assert less.weights == by_line.weights


def test_adapters_have_gradients_of_their_own_weights_only(gene_tokenizer, make_network):
    peft = pytest.importorskip("peft")

    def adapted(network):
        return peft.get_peft_model(
            network, peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
        )

    network = make_network("llama", gene_tokenizer)
    found = estimate_memory(network.config, PassShape(4, 64, 100), change=adapted)
    trained = sum(p.numel() for p in adapted(network).parameters() if p.requires_grad)
    assert found.gradients == 4 * trained
    assert found.optimiser == 8 * trained


def test_muon_keeps_one_number_a_weight_of_matrices(gene_tokenizer, make_network):
    network = make_network("gpt_neox", gene_tokenizer)
    found = estimate_memory(network.config, PassShape(2, 32, 20), optimizer="muon")
    layers = network.base_model.layers.parameters()
    matrices = sum(p.numel() for p in layers if p.ndim == 2)
    rest = sum(p.numel() for p in network.parameters()) - matrices
    assert found.optimiser == 4 * matrices + 8 * rest


def test_counting_sees_what_is_given_back():
    live = LiveBytes()
    with live:
        a = torch.ones(100)
        b = a.view(10, 10)  # no memory of its own
        c = a + 1
        del c
        b.add_(1)
    assert (live.live, live.peak) == (400, 800)
    del a, b
    assert live.live == 0
