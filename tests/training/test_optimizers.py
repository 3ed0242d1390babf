"""Muon joined with AdamW: who trains what, equal to the two on their own, and restored exactly."""

from __future__ import annotations

import copy

import pytest
import torch

from c2s.training.optimizers import MuonWithAdamW


@pytest.fixture
def network(make_network, gene_tokenizer):
    return make_network("gpt_neox", gene_tokenizer)


def settings(**changes):
    return {"muon_lr": 0.02, "lr": 1e-3, "betas": (0.9, 0.95), "weight_decay": 0.1, **changes}


def give_gradients(network, seed):
    rng = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=rng)


def test_hidden_matrices_go_to_muon_and_the_rest_to_adamw(network):
    muon, adamw = MuonWithAdamW(network, **settings()).parts
    names = {id(p): name for name, p in network.named_parameters()}
    by_muon = {names[id(p)] for g in muon.param_groups for p in g["params"]}
    assert by_muon == {n for n, p in network.named_parameters() if p.ndim == 2 and ".layers." in n}
    tables, rest = adamw.param_groups
    assert {names[id(p)] for p in tables["params"]} == {
        "gpt_neox.embed_in.weight",
        "lm_head.weight",
    }
    assert rest["weight_decay"] == 0
    assert len(by_muon) + len(tables["params"]) + len(rest["params"]) == len(names)


def test_it_steps_as_the_two_would_on_their_own(network):
    alone = copy.deepcopy(network)
    joined = MuonWithAdamW(network, **settings())
    parts = MuonWithAdamW(alone, **settings()).parts
    for seed in range(3):
        for n in (network, alone):
            give_gradients(n, seed)
        joined.step()
        for part in parts:
            part.step()
    for a, b in zip(network.parameters(), alone.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_schedule_reaches_both(network):
    optimizer = MuonWithAdamW(network, **settings())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    give_gradients(network, 0)
    optimizer.step()
    schedule.step()
    muon, adamw = optimizer.parts
    assert muon.param_groups[0]["lr"] == pytest.approx(0.01)
    assert [g["lr"] for g in adamw.param_groups] == pytest.approx([5e-4, 5e-4])


def test_state_is_restored_and_goes_on_the_same(network):
    other = copy.deepcopy(network)
    first, second = MuonWithAdamW(network, **settings()), MuonWithAdamW(other, **settings())
    give_gradients(network, 0)
    first.step()
    other.load_state_dict(network.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for n, optimizer in ((network, first), (other, second)):
        give_gradients(n, 1)
        optimizer.step()
    for a, b in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
