"""Adapters in training: the losses and gradients of PEFT's own forward pass, and a base that stays as it was."""

import numpy as np
import pytest
import torch
import transformers

from c2s.common.errors import UsageError
from c2s.models.adapters import add_lora, check_targets
from c2s.training.packed_attention import attending_packed
from c2s.training.packed_network import PackedNetwork, _read
from c2s.training.samples import IGNORE, CellStream, flatten, split_into_passes

ARCHITECTURES = ["gpt_neox", "llama", "gemma2"]


@pytest.fixture(scope="module")
def samples(gene_tokenizer, make_stream):
    return CellStream(make_stream(10, seed=3), gene_tokenizer).at(np.arange(10))


@pytest.fixture(scope="module")
def rows(gene_tokenizer, cut_genes):
    """Tokens of genes, some of which the samples have."""
    return gene_tokenizer.backend.convert_tokens_to_ids(list(cut_genes.words[:60]))


@pytest.fixture
def adapted(make_network, gene_tokenizer, rows):
    """Return a function that makes a network with an adapter that does something already."""

    def make(architecture, *, tied=False, dtype=torch.float32):
        network = make_network(architecture, gene_tokenizer)
        if tied:
            network.config.tie_word_embeddings = True
            torch.manual_seed(0)
            network = transformers.AutoModelForCausalLM.from_config(network.config)
            assert network.get_output_embeddings().weight is network.get_input_embeddings().weight
        found = add_lora(
            network.to(dtype), rank=4, alpha=8, dropout=0.0, targets="all-linear", rows=rows
        )
        torch.manual_seed(1)
        for parameter in found.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn_like(parameter)
        return found.eval()

    return make


def gradients(network):
    found = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    return found


def packed_step(network, samples, most_tokens=10**9):
    wrapped = PackedNetwork(network, "sample")
    loss, each = 0.0, torch.zeros(len(samples))
    with attending_packed(network.get_base_model()):
        for part in split_into_passes([len(s.ids) for s in samples], most_tokens):
            value, by_sample = wrapped(flatten([samples[i] for i in part]), len(samples))
            value.backward()
            loss += value.item()
            each[part] = by_sample
    return loss, each


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_losses_and_gradients_are_those_of_peft_on_each_sample_alone(
    architecture, tied, adapted, samples
):
    network = adapted(architecture, tied=tied)
    network.get_base_model().set_attn_implementation("eager")
    losses = []
    for sample in samples:
        ids = torch.from_numpy(sample.ids)[None]
        labels = ids.clone()
        labels[0, : sample.prompt_length] = IGNORE
        losses.append(network(input_ids=ids, labels=labels).loss)
    torch.stack(losses).mean().backward()
    expected = gradients(network)
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    assert expected.keys() == trained
    assert sum("trainable_tokens_delta" in n for n in trained) == (1 if tied else 2)
    for most in (10**9, 100):
        loss, each = packed_step(network, samples, most)
        assert each.tolist() == pytest.approx([x.item() for x in losses], abs=2e-5)
        assert loss == pytest.approx(float(np.mean([x.item() for x in losses])), abs=2e-5)
        found = gradients(network)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=2e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_steps_change_nothing_of_the_base_but_rows_of_new_tokens(
    architecture, tied, adapted, samples, rows
):
    network = adapted(architecture, tied=tied)
    base = network.get_base_model()
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    tables = (base.get_input_embeddings(), base.get_output_embeddings())
    old = [t.weight.detach().clone() for t in tables]
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        packed_step(network, samples)
        optimizer.step()
        optimizer.zero_grad()
    changed = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {n for n, p in network.named_parameters() if p.requires_grad}
    seen = np.unique(np.concatenate([s.ids for s in samples]))
    others = np.setdiff1d(np.arange(len(old[0])), rows)
    for table, weight in zip(tables, old, strict=True):
        assert torch.equal(table.weight[others], weight[others])
    moved = (tables[0].weight != old[0]).any(1).nonzero().flatten().numpy()
    # The head learns of every token, the table of embeddings only of those that are read.
    assert set(np.intersect1d(seen, rows)) <= set(moved) <= set(rows)
    assert len(moved) > 3


def test_rows_of_a_base_in_16_bits_are_trained_in_32(adapted, samples):
    network = adapted("llama", dtype=torch.bfloat16)
    kinds = {p.requires_grad: p.dtype for p in network.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    with torch.autocast("cpu", torch.bfloat16):
        packed_step(network, samples)
    found = gradients(network)
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in found.values())
    exact = adapted("llama")
    packed_step(exact, samples)
    for name, gradient in gradients(exact).items():
        cosine = torch.nn.functional.cosine_similarity(gradient.flatten(), found[name].flatten(), 0)
        assert cosine > 0.95, name


@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_adds_its_matrices_and_rows_and_no_more(tied, adapted, rows):
    network = adapted("llama", tied=tied)
    lora = sum(p.numel() for n, p in network.named_parameters() if "lora_" in n)
    whole = sum(p.numel() for p in network.get_base_model().parameters()) - lora
    base = transformers.AutoModelForCausalLM.from_config(network.config)
    assert whole - sum(p.numel() for p in base.parameters()) == (1 if tied else 2) * len(rows) * 32


def test_a_network_whose_layers_lie_on_devices_of_their_own_gives_the_same(adapted, samples):
    """The hooks of accelerate move what a layer is given, the layout of the samples among it."""
    from accelerate import dispatch_model

    network = adapted("gemma2")
    loss, _ = packed_step(network, samples)
    expected = gradients(network)
    parts = {"model.layers.0": "cpu", "model.layers.1": "cpu", "model": "cpu", "lm_head": "cpu"}
    dispatch_model(network.get_base_model(), parts, main_device="cpu", force_hooks=True)
    again, _ = packed_step(network, samples)
    assert again == pytest.approx(loss, abs=1e-6)
    for name, gradient in gradients(network).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4)


def test_a_layout_goes_to_another_device():
    from c2s.training.packed_attention import PackedLayout

    layout = PackedLayout([3, 3, 9])
    moved = layout.to("meta")
    assert layout.to("cpu") is layout
    assert {g.places.device.type for g in moved.groups} == {"meta"}


class TestTargets:
    def test_names_of_layers(self, make_network, gene_tokenizer):
        network = make_network("llama", gene_tokenizer)
        check_targets(network.config, ["q_proj", "v_proj"])
        found = add_lora(network, rank=2, alpha=2, dropout=0, targets=["q_proj", "v_proj"])
        layers = {n.split(".lora_")[0] for n, p in found.named_parameters() if p.requires_grad}
        assert {n.rpartition(".")[2] for n in layers} == {"q_proj", "v_proj"}
        assert len(layers) == 4

    @pytest.mark.parametrize("target", ["query", "lm_head", "embed_tokens", "proj"])
    def test_what_takes_no_adapter_is_named(self, target, make_network, gene_tokenizer):
        config = make_network("llama", gene_tokenizer).config
        with pytest.raises(UsageError, match=r"lora.targets: llama has no layer .*q_proj"):
            check_targets(config, ["q_proj", target])


def test_a_table_that_multiplies_what_it_gives(rows, gene_tokenizer):
    """Gemma-3 scales its embeddings inside of the table; what is read are those of PEFT's own table."""
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        vocab_size=len(gene_tokenizer.backend), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, pad_token_id=0,
    )  # fmt: skip
    network = transformers.AutoModelForCausalLM.from_config(config)
    base = add_lora(
        network, rank=2, alpha=2, dropout=0, targets="all-linear", rows=rows
    ).get_base_model()
    table = base.get_input_embeddings()
    for parameter in table.parameters():
        parameter.data += torch.randn_like(parameter)
    ids = torch.tensor([[1, rows[3], 2, rows[0], 5]])
    assert table.token_adapter.base_layer.embed_scale != 1
    torch.testing.assert_close(_read(base, ids)["inputs_embeds"], table(ids), atol=1e-6, rtol=0)
