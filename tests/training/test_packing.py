"""Packed training is the same as training on each sample alone: losses, gradients, nothing cut, nothing seen of others."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from c2s.common.errors import UsageError
from c2s.training import packed_attention as attention
from c2s.training.loss import weighted_loss
from c2s.training.packed_attention import PackedLayout, attending_packed
from c2s.training.packed_network import PackedNetwork
from c2s.training.samples import IGNORE, CellStream, TokenSample, flatten, split_into_passes

ARCHITECTURES = ["gpt_neox", "gpt2", "llama", "gemma2"]


@pytest.fixture(scope="module")
def samples(gene_tokenizer, make_stream):
    """Samples of both tasks, of many lengths."""
    drawn = CellStream(make_stream(16, seed=3), gene_tokenizer).at(np.arange(16))
    assert {s.task for s in drawn} == {"cell_type", "cond_cell"}
    short = [TokenSample(s.ids[:k], 1, s.task) for s, k in zip(drawn, (2, 3, 7, 9), strict=False)]
    return [*drawn[:8], *short, *drawn[8:]]


def alone(network, sample, learn):
    """The mean loss of one sample, by Hugging Face's own forward pass and labels."""
    ids = torch.from_numpy(sample.ids)[None]
    labels = ids.clone()
    if learn == "response":
        labels[0, : sample.prompt_length] = IGNORE
    network.set_attn_implementation("eager")
    return network(input_ids=ids, labels=labels).loss


def gradients(network):
    found = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    return found


def packed_step(network, samples, *, learn="response", weigh="sample", most_tokens=10**9):
    """Losses of all samples and the loss of the step, with gradients left in the network."""
    wrapped = PackedNetwork(network, weigh)
    passes = split_into_passes([len(s.ids) for s in samples], most_tokens)
    batches = [flatten([samples[i] for i in p], learn) for p in passes]
    total = sum(wrapped.total_weight(b) for b in batches)
    loss, each = 0.0, torch.zeros(len(samples))
    with attending_packed(network):
        for batch, part in zip(batches, passes, strict=True):
            value, by_sample = wrapped(batch, total)
            value.backward()
            loss += value.item()
            each[part] = by_sample
    return loss, each


@pytest.mark.parametrize("learn", ["response", "all"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
class TestPacked:
    def test_losses_and_gradients_are_those_of_each_sample_alone(
        self, architecture, learn, gene_tokenizer, make_network, samples
    ):
        network = make_network(architecture, gene_tokenizer).train()
        network.config.attention_dropout = 0.0
        network.eval()
        losses = [alone(network, s, learn) for s in samples]
        torch.stack(losses).mean().backward()
        expected = gradients(network)
        loss, each = packed_step(network, samples, learn=learn)
        assert each.tolist() == pytest.approx([x.item() for x in losses], abs=2e-5)
        assert loss == pytest.approx(float(np.mean([x.item() for x in losses])), abs=2e-5)
        found = gradients(network)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=2e-5, rtol=1e-3, msg=name)

    def test_any_division_into_passes_gives_the_same(
        self, architecture, learn, gene_tokenizer, make_network, samples
    ):
        network = make_network(architecture, gene_tokenizer)
        whole, each = packed_step(network, samples, learn=learn, weigh="token")
        expected = gradients(network)
        for most in (1, 60, 200):
            loss, parts = packed_step(
                network, samples, learn=learn, weigh="token", most_tokens=most
            )
            assert loss == pytest.approx(whole, abs=1e-5)
            torch.testing.assert_close(parts, each, atol=1e-5, rtol=1e-5)
            for name, gradient in gradients(network).items():
                torch.testing.assert_close(gradient, expected[name], atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
class TestIsolation:
    def test_another_sample_changes_nothing(
        self, architecture, gene_tokenizer, make_network, samples
    ):
        network = make_network(architecture, gene_tokenizer)
        changed = [
            s if k != 3 else TokenSample((s.ids + 5) % 90, s.prompt_length)
            for k, s in enumerate(samples)
        ]
        before = packed_step(network, samples)[1]
        after = packed_step(network, changed)[1]
        same = np.arange(len(samples)) != 3
        assert (after[same] - before[same]).abs().max() <= 2e-7 * before.max()
        assert abs(after[3] - before[3]) > 1e-2


def test_capped_scores_a_stretch_at_a_time_are_the_same(
    gene_tokenizer, make_network, samples, monkeypatch
):
    network = make_network("gemma2", gene_tokenizer)
    loss, each = packed_step(network, samples)
    expected = gradients(network)
    monkeypatch.setattr(attention, "_STRETCH_SCORES", 1)
    monkeypatch.setattr(attention, "_FEWEST_QUERIES", 11)
    assert max(len(s.ids) for s in samples) > 2 * 11 > 2 * network.config.sliding_window
    again, parts = packed_step(network, samples)
    assert again == pytest.approx(loss, abs=1e-6)
    torch.testing.assert_close(parts, each, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients(network).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4)


class TestFlatten:
    def test_by_hand(self):
        a, b = TokenSample(np.array([5, 6, 7, 2]), 2, "x"), TokenSample(np.array([8, 9]), 1, "y")
        batch = flatten([a, b], task_names=["y", "x"])
        assert batch.ids.tolist() == [[5, 6, 7, 2, 8, 9]]
        assert batch.positions.tolist() == [[0, 1, 2, 3, 0, 1]]
        assert batch.labels.tolist() == [[IGNORE, 7, 2, IGNORE, 9, IGNORE]]
        assert batch.lengths.tolist() == [4, 2]
        assert batch.n_learned.tolist() == [2, 1]
        assert batch.tasks.tolist() == [1, 0]
        everything = flatten([a, b], "all")
        assert everything.labels.tolist() == [[6, 7, 2, IGNORE, 9, IGNORE]]
        assert everything.n_learned.tolist() == [3, 1]
        assert everything.tasks.tolist() == [-1, -1]

    def test_nothing_is_cut(self):
        sample = TokenSample(np.arange(9), 2)
        assert flatten([sample], context=9).ids.shape == (1, 9)
        with pytest.raises(UsageError, match="takes 9 tokens, the model's context is 8"):
            flatten([sample], context=8)

    def test_a_sample_without_a_response_is_refused(self):
        with pytest.raises(UsageError, match="nothing behind its prompt"):
            flatten([TokenSample(np.arange(4), 4)])


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 120))
def test_passes_hold_every_sample_once_and_are_not_too_long(lengths, most):
    passes = split_into_passes(lengths, most)
    assert sorted(i for p in passes for i in p) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in p) <= most or len(p) == 1 for p in passes)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12))
def test_a_layout_holds_every_token_once(lengths):
    layout = PackedLayout(lengths)
    places = [(g.places if g.real is None else g.places[g.real]).flatten() for g in layout.groups]
    assert sorted(torch.cat(places).tolist()) == list(range(sum(lengths)))


def test_measuring_makes_no_gradient_of_the_head():
    head = torch.nn.Linear(6, 17)
    hidden, targets, weights = torch.randn(5, 6), torch.arange(5), torch.ones(5)
    made = []
    zeros = torch.zeros_like
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch, "zeros_like", lambda *a, **k: made.append(1) or zeros(*a, **k))
        loss, _ = weighted_loss(hidden, head, targets, weights)
    assert not made
    expected = torch.nn.functional.cross_entropy(head(hidden), targets, reduction="sum")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("held", [1, 70, 10**6])
def test_chunked_loss_is_pytorchs_own(cap, bias, held):
    torch.manual_seed(0)
    hidden = torch.randn(11, 6, dtype=torch.float64, requires_grad=True)
    head = torch.nn.Linear(6, 17, bias=bias, dtype=torch.float64)
    targets, weights = torch.randint(17, (11,)), torch.rand(11)
    logits = head(hidden)
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    each = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    (3 * (each * weights).sum()).backward()
    wanted = [hidden.grad.clone(), *(p.grad.clone() for p in head.parameters())]
    hidden.grad = None
    head.zero_grad()

    class Wrapped(torch.nn.Module):
        """A head that is not plainly linear takes the other path."""

        def __init__(self):
            super().__init__()
            self.inner, self.out_features = head, 17

        def forward(self, x):
            return self.inner(x)

    for module in (head, Wrapped()):
        loss, found = weighted_loss(hidden, module, targets, weights, cap=cap, held=held)
        (3 * loss).backward()
        torch.testing.assert_close(found.double(), each.detach(), atol=1e-5, rtol=1e-5)
        for gradient, expected in zip(
            [hidden.grad, *(p.grad for p in head.parameters())], wanted, strict=True
        ):
            torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-5)
        hidden.grad = None
        head.zero_grad()


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama", "gemma2"])
class TestAlike:
    """Padded, accumulated, computed again, in half precision: the same as packed."""

    def test_padded_batches_give_the_same(
        self, architecture, gene_tokenizer, make_network, samples
    ):
        network = make_network(architecture, gene_tokenizer)
        loss, _ = packed_step(network, samples)
        expected = gradients(network)
        network.set_attn_implementation("eager")
        longest = max(len(s.ids) for s in samples)
        total = 0.0
        for start in range(0, len(samples), 5):
            batch = samples[start : start + 5]
            ids, labels = torch.zeros(len(batch), longest, dtype=torch.long), None
            mask = torch.zeros_like(ids)
            for row, s in enumerate(batch):
                ids[row, : len(s.ids)] = torch.from_numpy(s.ids)
                mask[row, : len(s.ids)] = 1
            logits = network(input_ids=ids, attention_mask=mask).logits.float()
            for row, s in enumerate(batch):
                labels = ids[row, s.prompt_length : len(s.ids)]
                scores = logits[row, s.prompt_length - 1 : len(s.ids) - 1]
                part = torch.nn.functional.cross_entropy(scores, labels) / len(samples)
                part.backward(retain_graph=True)
                total += part.item()
        assert total == pytest.approx(loss, abs=2e-5)
        for name, gradient in gradients(network).items():
            torch.testing.assert_close(gradient, expected[name], atol=2e-5, rtol=1e-3)

    def test_gradient_checkpointing_gives_the_same(
        self, architecture, gene_tokenizer, make_network, samples
    ):
        network = make_network(architecture, gene_tokenizer)
        loss, each = packed_step(network, samples)
        expected = gradients(network)
        network.activation_checkpointing_enable({"use_reentrant": False})
        network.train()
        again, parts = packed_step(network, samples)
        assert again == pytest.approx(loss, abs=1e-6)
        torch.testing.assert_close(parts, each)
        for name, gradient in gradients(network).items():
            torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-5)

    def test_half_precision_is_near(self, architecture, gene_tokenizer, make_network, samples):
        network = make_network(architecture, gene_tokenizer, spread=0.05)
        loss, each = packed_step(network, samples)
        with torch.autocast("cpu", torch.bfloat16):
            half, parts = packed_step(network, samples)
        assert half == pytest.approx(loss, rel=0.01)
        torch.testing.assert_close(parts, each, atol=0.05, rtol=0.02)
        assert {g.dtype for g in gradients(network).values()} == {torch.float32}


def test_the_end_of_text_is_learned(gene_tokenizer, make_stream):
    drawn = CellStream(make_stream(8, seed=1), gene_tokenizer).at(np.arange(8))
    batch = flatten(drawn)
    ends = torch.cumsum(batch.lengths, 0) - 2  # the token before the last says it
    assert batch.labels[0][ends].tolist() == [gene_tokenizer.eos_id] * 8


def test_long_samples_need_no_square_of_memory(gene_tokenizer, make_network):
    """A mask over 8,192 positions is 256 MB in float32, and one of all scores a head as much again."""
    network = make_network("llama", gene_tokenizer, context=8192)
    rng = np.random.default_rng(0)
    sample = TokenSample(rng.integers(0, 90, 8192), 4000)
    largest = 0

    def look(tensor):
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(look, lambda x: x):
        packed_step(network, [sample])
    assert largest < 8192 * 1024
