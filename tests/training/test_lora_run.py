"""Recipes with `lora`: runs that leave an adapter or merged weights, go on where they stopped, or are refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from c2s.common.errors import UsageError
from c2s.models.adapters import merge, weights_checksum
from c2s.models.directory import load_model, load_network
from c2s.tokens.tokenizer import load_tokenizer
from c2s.training import base as base_module
from c2s.training.recipe import TrainingRecipe
from c2s.training.run import run_recipe


def quiet(name, total):
    return lambda n: None


@pytest.fixture(scope="module")
def place(tmp_path_factory, cut, cut_genes, make_tokenizer, make_model):
    """A base that writes genes in pieces, and a corpus with a token for each gene on its tokenizer."""
    from c2s.cells.vocabulary import GeneVocabulary
    from c2s.corpus.build import build_corpus

    folder = tmp_path_factory.mktemp("lora")
    make_model(make_tokenizer(cut_genes, "text", 900), "llama", spread=0.05).save(folder / "base")
    columns = GeneVocabulary.from_var(cut.var).columns(cut_genes.words)
    cut[:, columns].copy().write_h5ad(folder / "cells.h5ad")
    recipe = {
        "sources": [{"data": "cells.h5ad"}], "tasks": {"cell_type": {}, "cond_cell": {}}, "samples_per_cell": 1,
        "tokenizer": "base", "tokens": "genes", "quality": {"min_genes": 5, "min_cells": 1, "max_pct_mt": None},
        "single_genes": [5, 16], "context": 300,
    }  # fmt: skip
    (folder / "corpus.yaml").write_text(json.dumps(recipe))
    build_corpus(folder / "corpus.yaml", folder / "corpus", workers=1, on_stage=quiet)
    return folder


def recipe_of(**changes):
    fields = {
        "stage": "sft",
        "base": {"model": "base"},
        "data": {"corpus": "corpus", "validation": 8},
        "optimisation": {"steps": 6, "batch_size": 8, "learning_rate": 5e-3},
        "lora": {"rank": 4, "keep": "adapter"},
        "evaluation": {"every": 2},
        "save_every": 2,
    }
    for name, value in changes.items():
        both = isinstance(fields.get(name), dict) and isinstance(value, dict)
        fields[name] = {**fields[name], **value} if both else value
    return TrainingRecipe.parse(fields, "recipe")


@pytest.fixture(scope="module")
def run(place, tmp_path_factory):
    """Return a function that runs a recipe and gives its folder."""

    def make(out=None, *, resume=False, on_stage=quiet, **changes):
        out = out or tmp_path_factory.mktemp("runs") / "run"
        recipe = recipe_of(**changes)
        run_recipe(recipe, place, out, device="cpu", resume=resume, on_stage=on_stage)
        return out

    return make


@pytest.fixture(scope="module")
def adapter_run(run):
    """A finished run that kept its adapter. Not to be changed."""
    return run()


def losses(out):
    """What the log says of losses, gradients and rates; not the Trainer's mean over the steps of one process."""
    kept = ("step", "loss", "eval_loss", "grad_norm", "learning_rate")
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k.startswith(kept)} for line in lines]


def prompt_logits(model):
    ids = model.tokenizer.encode(["Cell: ", np.array([0, 4, 2]), "\nCell type: beta"])
    with torch.no_grad():
        return model.network(torch.tensor(ids[None].astype(np.int64))).logits


def test_the_base_stays_and_only_rows_of_new_tokens_change(place, adapter_run):
    base = load_network(place / "base")
    model = load_model(adapter_run / "model", device="cpu")
    state, wanted = model.network.state_dict(), base.state_dict()
    n_old = len(load_tokenizer(place / "base"))
    assert len(model.tokenizer.backend) == n_old + len(model.vocabulary)
    for name, weight in wanted.items():
        parent, _, leaf = name.rpartition(".")
        wrapped = ("base_layer", "token_adapter.base_layer")
        found = next(
            state[k] for k in (name, *(f"{parent}.{w}.{leaf}" for w in wrapped)) if k in state
        )
        assert torch.equal(found[: len(weight)] if found.shape != weight.shape else found, weight)
    deltas = {k: v for k, v in load_file(adapter_run / "model" / "adapter_model.safetensors").items()
              if "trainable_tokens_delta" in k}  # fmt: skip
    assert {k.split(".")[-3] for k in deltas} == {"embed_tokens", "lm_head"}
    for name, rows in deltas.items():
        assert len(rows) == len(model.vocabulary)
        table = base.get_input_embeddings() if "embed" in name else base.get_output_embeddings()
        own = load_tokenizer(place / "base")
        start = torch.stack(
            [
                table.weight[own(f" {w}", add_special_tokens=False)["input_ids"]].mean(0)
                for w in model.tokenizer.backend.convert_ids_to_tokens(
                    range(n_old, n_old + len(rows))
                )
            ]
        )
        moved = (rows - start).abs().max(1).values
        assert (moved > 1e-3).float().mean() > 0.5
        assert moved.max() < 0.1  # six small steps away from the mean of their pieces
    facts = json.loads((adapter_run / "run.json").read_text())
    assert 0 < facts["trained_parameters"] < facts["parameters"] / 2
    assert model.card.adapter.weights == weights_checksum(place / "base")


def test_losses_fall(adapter_run):
    found = [line["eval_loss"] for line in losses(adapter_run) if "eval_loss" in line]
    assert len(found) == 3
    assert found[0] > found[1] > found[2]


def test_merged_by_the_run_is_merged_afterwards(run, adapter_run):
    out = run(lora={"keep": "merged"})
    model = load_model(out / "model", device="cpu")
    assert model.adapted is None
    assert model.card.adapter is None
    assert losses(out) == losses(adapter_run)
    again = merge(adapter_run / "model")
    torch.testing.assert_close(prompt_logits(model), prompt_logits(again), atol=1e-5, rtol=0)


def test_stopped_and_resumed_is_never_stopped(run, adapter_run, tmp_path):
    class Stop(Exception):
        pass

    def stopping(name, total):
        done = 0

        def step(n):
            nonlocal done
            done += n
            if name == "Training" and done == 5:
                raise Stop

        return step

    with pytest.raises(Stop):
        run(tmp_path / "run", on_stage=stopping)
    kept = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert "checkpoint-4" in kept
    assert not (tmp_path / "run" / "checkpoints" / "checkpoint-4" / "model.safetensors").exists()
    run(tmp_path / "run", resume=True)
    assert losses(tmp_path / "run") == losses(adapter_run)
    weights = [load_file(o / "model" / "adapter_model.safetensors") for o in (tmp_path / "run", adapter_run)]  # fmt: skip
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_the_best_adapter_is_kept(run, adapter_run):
    out = run(evaluation={"every": 1, "best": "loss"}, save_every=1, optimisation={"learning_rate": 0.3})  # fmt: skip
    measured = {line["step"]: line["eval_loss"] for line in losses(out) if "eval_loss" in line}
    best = json.loads((out / "run.json").read_text())["best_step"]
    assert best == min(measured, key=measured.get) < 6
    kept = load_file(out / "model" / "adapter_model.safetensors")
    checkpoint = load_file(out / "checkpoints" / f"checkpoint-{best}" / "adapter_model.safetensors")
    assert all(torch.equal(kept[k], checkpoint[k]) for k in checkpoint)


def test_frozen_tokens_are_the_mean_of_their_pieces(run, place):
    out = run(lora={"gene_tokens": "frozen"}, optimisation={"steps": 1}, data={"validation": 0})
    names = load_file(out / "model" / "adapter_model.safetensors")
    assert names
    assert not any("trainable_tokens" in name for name in names)
    model, own = load_model(out / "model", device="cpu"), load_tokenizer(place / "base")
    word = model.vocabulary.words[7]
    table = model.network.get_input_embeddings().weight
    pieces = own(f" {word}", add_special_tokens=False)["input_ids"]
    row = table[model.tokenizer.backend.convert_tokens_to_ids(word)]
    torch.testing.assert_close(row, table[pieces].mean(0))


@pytest.mark.parametrize(
    "changes",
    [
        {"base": {"dtype": "bfloat16"}, "optimisation": {"steps": 1, "precision": "bfloat16"}},
        {"optimisation": {"steps": 1, "optimizer": "muon"}, "lora": {"targets": ["q_proj"]}},
        {"base": {"gradient_checkpointing": True}, "optimisation": {"steps": 1}},
        {"base": {"context": 1024}, "optimisation": {"steps": 1}, "stage": "pretrain"},
    ],
    ids=["bfloat16", "muon", "checkpointing", "context"],
)
def test_other_ways_of_training(changes, run):
    out = run(data={"validation": 0}, **changes)
    weights = load_file(out / "model" / "adapter_model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float32}
    assert any(w.any() for k, w in weights.items() if "lora_B" in k)
    model = load_model(out / "model", device="cpu")
    assert prompt_logits(model).isfinite().all()
    context = changes.get("base", {}).get("context", 512)
    assert model.network.config.max_position_embeddings == context


def test_random_weights_with_an_adapter_are_merged(run):
    out = run(
        base={"model": None, "preset": "mini"}, lora={"keep": "merged"}, optimisation={"steps": 1}
    )
    assert load_model(out / "model", device="cpu").adapted is None


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"base": {"quantize": "4bit"}, "lora": None}, "base.quantize needs lora"),
            ({"base": {"quantize": "4bit"}, "lora": {"keep": "merged"}}, "lora.keep: merged"),
            ({"base": {"quantize": "4bit", "dtype": "float32"}}, "leave out 'dtype'"),
            ({"base": {"model": None, "preset": "mini"}}, "lora.keep: adapter needs base.model"),
            ({"base": {"model": None, "preset": "mini", "dtype": "bfloat16"}}, "'dtype' is for"),
            ({"lora": {"targets": []}}, "names no layer"),
            ({"lora": {"rank": 0}}, "lora.rank"),
            ({"lora": {"targets": "some"}}, "lora.targets"),
        ],
    )
    def test_what_does_not_go_together(self, changes, said):
        with pytest.raises(UsageError) as caught:
            recipe_of(**changes)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_layers_that_are_not_there(self, run, tmp_path):
        with pytest.raises(UsageError, match="lora.targets: llama has no layer 'query'"):
            run(tmp_path / "run", lora={"targets": ["query"]})

    @pytest.mark.parametrize(
        ("missing", "base", "extra"),
        [("peft", {}, "lora"), ("bitsandbytes", {"quantize": "4bit"}, "quant")],
    )
    def test_extras_that_are_not_installed(self, missing, base, extra, run, tmp_path, monkeypatch):
        for module in ("c2s.training.base", "c2s.models.adapters"):
            monkeypatch.setattr(f"{module}.find_spec", lambda name: None if name == missing else 1)
        with pytest.raises(UsageError, match=rf"{missing}.* is not installed; .*\[{extra}\]"):
            run(tmp_path / "run", base=base)

    def test_a_base_that_is_an_adapter(self, run, adapter_run, tmp_path):
        with pytest.raises(UsageError, match=r"base.model: .* holds an adapter; merge it"):
            run(tmp_path / "run", base={"model": str(adapter_run / "model")})

    def test_a_map_of_devices_with_several_processes(self, run, tmp_path, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(UsageError, match="base.device_map"):
            run(tmp_path / "run", base={"device_map": "auto"})


@pytest.mark.parametrize(
    ("base", "wanted"),
    [
        ({}, {"dtype": "float32", "device_map": None, "quantize": None}),
        ({"dtype": "bfloat16"}, {"dtype": "bfloat16", "device_map": None, "quantize": None}),
        (
            {"quantize": "4bit"},
            {"dtype": "bfloat16", "device_map": {"": "cpu"}, "quantize": "4bit"},
        ),
        (
            {"quantize": "4bit", "device_map": {"model": 0, "lm_head": "cpu"}},
            {"dtype": "bfloat16", "device_map": {"model": 0, "lm_head": "cpu"}, "quantize": "4bit"},
        ),
    ],
)
def test_how_a_base_is_loaded_reaches_load_network(base, wanted, run, tmp_path, monkeypatch):
    """What comes of it in 4 bits needs bitsandbytes and was not run."""

    class Loaded(Exception):
        pass

    def note(path, **options):
        raise Loaded({k: options[k] for k in wanted})

    monkeypatch.setattr(base_module, "load_network", note)
    monkeypatch.setattr(base_module, "find_spec", lambda name: 1)
    with pytest.raises(Loaded) as caught:
        run(tmp_path / "run", base=base)
    assert caught.value.args == (wanted,)
