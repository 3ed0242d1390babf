"""A run from a recipe: the model it leaves works, a stopped run goes on as if it had not been, cells are drawn anew."""

import json
import os
import shutil

import numpy as np
import pytest
import torch

import c2s
from c2s.common.errors import UsageError
from c2s.corpus.recipe import CorpusRecipe
from c2s.corpus.redrawn import RedrawnCorpus
from c2s.corpus.show import read_manifest
from c2s.training import loop
from c2s.training.data import TrainingData, open_data
from c2s.training.folder import keep_corpus
from c2s.training.recipe import TrainingRecipe
from c2s.training.run import prepare, run_recipe

SOURCES = [{"data": "cells.h5ad", "values": {"organism": "Homo sapiens", "tissue": "pancreas"}}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cut):
    place = tmp_path_factory.mktemp("training")
    cut.write_h5ad(place / "cells.h5ad")
    return place


def recipe(**changes):
    content = {
        "stage": "sft",
        "base": {"preset": "mini"},
        "data": {
            "recipe": {
                "sources": SOURCES,
                "tasks": {"cell_type": None, "cond_cell": None},
                "single_genes": [10, 20],
                "tokens": "genes",
                "small_tokens": 400,
                "quality": {"min_genes": 1, "max_pct_mt": None, "min_cells": 20},
                "split": {"fractions": [0.7, 0.2, 0.1]},
            },
            "validation": 24,
        },
        "optimisation": {"steps": 6, "batch_size": 8, "learning_rate": 0.003},
        "evaluation": {"every": 3},
        "save_every": 2,
    }
    for key, value in changes.items():
        part, _, name = key.partition("__")
        if name:
            content[part] = {**content[part], name: value}
        else:
            content[part] = value
    return TrainingRecipe.parse(content, "test")


def logged(out, name="loss"):
    lines = [json.loads(x) for x in (out / "log.jsonl").read_text("utf-8").splitlines()]
    return {x["step"]: x[name] for x in lines if name in x}


def weights(out):
    network = c2s.load_model(out / "model", device="cpu").network
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums round differently on other numbers of threads, which tests before may have left."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def again_one_thread(one_thread):
    """Compiled kernels of verbs set another number."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def finished(folder, one_thread):
    out = folder / "whole"
    return out, run_recipe(recipe(), folder, out, device="cpu")


class TestRun:
    def test_leaves_a_model_that_can_be_asked(self, finished, cut):
        out, facts = finished
        model = c2s.load_model(out / "model", device="cpu")
        cells = cut[:6].copy()
        c2s.tl.annotate(cells, model, organism="Homo sapiens")
        assert set(cells.obs["c2s_cell_type"]) <= set(cut.obs["cell_type"])
        assert model.known("cell_type") == sorted(set(cut.obs["cell_type"]))
        assert model.card.tasks == ["cell_type", "cond_cell"]
        made = c2s.tl.generate(model, "beta", n=2, organism="Homo sapiens", top_k=5)
        assert made.n_obs == 2
        assert "cells" in model.card.inverse
        assert facts["steps"] == 6
        assert facts["samples"] == 48

    def test_the_loss_falls(self, finished):
        losses = logged(finished[0])
        assert losses[6] < losses[1] - 0.5

    def test_a_stopped_run_goes_on_as_if_it_had_not_been(
        self, finished, folder, monkeypatch, again_one_thread
    ):
        whole, _ = finished
        out = folder / "stopped"
        step = loop.PackedTrainer.training_step

        def stop_at_five(self, *arguments):
            if self.state.global_step == 4:
                raise KeyboardInterrupt
            return step(self, *arguments)

        monkeypatch.setattr(loop.PackedTrainer, "training_step", stop_at_five)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe(), folder, out, device="cpu")
        monkeypatch.undo()
        assert not (out / "model").exists()
        with pytest.raises(UsageError, match="begun; go on with --resume"):
            run_recipe(recipe(), folder, out, device="cpu")
        with pytest.raises(UsageError, match="of another recipe"):
            run_recipe(recipe(seed=1), folder, out, device="cpu", resume=True)
        # A checkpoint that was cut has no mark.
        shutil.copytree(out / "checkpoints" / "checkpoint-4", out / "checkpoints" / "checkpoint-5")
        (out / "checkpoints" / "checkpoint-5" / loop.COMPLETE).unlink()
        # Time that was spent before counts as well.
        mark = out / "checkpoints" / "checkpoint-4" / loop.COMPLETE
        mark.write_text(json.dumps({**json.loads(mark.read_text()), "seconds": 1000.0}))
        facts = run_recipe(recipe(), folder, out, device="cpu", resume=True)
        assert 1000 < facts["seconds"] < 1300
        card = json.loads((out / "model" / "c2s.json").read_text())
        assert card["training"]["split"] == facts["split"]
        assert list(facts["split"]) == ["cells"]
        assert logged(out) == logged(whole)
        assert logged(out, "eval_loss") == logged(whole, "eval_loss")
        assert torch.equal(weights(out), weights(whole))

    def test_passes_decide_nothing(self, finished, folder):
        whole, _ = finished
        out = folder / "short passes"
        run_recipe(recipe(optimisation__tokens_per_pass=64), folder, out, device="cpu")
        expected = logged(whole)
        assert logged(out) == pytest.approx(expected, abs=2e-4)

    def test_the_best_weights_are_kept(self, folder):
        out = folder / "best"
        changed = recipe(
            evaluation={"every": 2, "best": "loss"}, optimisation__learning_rate=0.03,
            optimisation__steps=8,
        )  # fmt: skip
        facts = run_recipe(changed, folder, out, device="cpu")
        measured = logged(out, "eval_loss")
        best = min(measured, key=measured.get)
        assert facts["best_step"] == best
        network = c2s.load_model(out / "model", device="cpu").network
        loop.load_weights(network, out / "checkpoints" / f"checkpoint-{best}")
        at_best = torch.cat([p.detach().flatten() for p in network.parameters()])
        assert torch.equal(weights(out), at_best)

    def test_what_was_drawn_for_another_recipe_is_not_taken(self, folder, monkeypatch):
        out = folder / "changed"

        def stop(self, *arguments):
            raise KeyboardInterrupt

        monkeypatch.setattr(loop.PackedTrainer, "training_step", stop)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe(), folder, out, device="cpu")
        monkeypatch.undo()
        data = recipe().data.model_dump(mode="json")
        data["recipe"]["tasks"] = {"cell_type": None}
        changed = recipe(data=data, optimisation__steps=1)
        run_recipe(changed, folder, out, device="cpu")
        assert c2s.load_model(out / "model", device="cpu").card.tasks == ["cell_type"]

    def test_a_loss_that_is_no_number_leaves_no_checkpoint(self, folder, monkeypatch):
        from c2s.common.errors import C2SError

        out = folder / "lost"
        forward = loop.PackedNetwork.forward

        def lose(self, *arguments):
            loss, each = forward(self, *arguments)
            return loss, each * float("nan")

        monkeypatch.setattr(loop.PackedNetwork, "forward", lose)
        with pytest.raises(C2SError, match="is nan at step 2; lower the learning rate"):
            run_recipe(recipe(data__validation=0), folder, out, device="cpu")
        assert not loop.complete_checkpoints(out / "checkpoints")


class TestData:
    def test_epochs_differ_and_repeat(self, folder):
        data = open_data(
            recipe().data, folder, folder / "drawn", packed=False, seed=0, context=1024
        )
        first, second = (data.redrawn.epoch(k) for k in (0, 1))
        again = open_data(
            recipe().data, folder, folder / "drawn again", packed=False, seed=0, context=1024
        ).redrawn.epoch(1)
        files = [read_manifest(x)["files"] for x in (first, second, again)]
        assert files[1] == files[2]
        tokens = [{v["sha256"] for k, v in f.items() if k.startswith("tokens")} for f in files]
        assert not tokens[0] & tokens[1]
        # The same cells are trained on.
        cells = [sorted(p.name for p in (x / "cells" / "train").iterdir()) for x in (first, second)]
        assert cells[0] == cells[1]
        assert read_manifest(first)["cells"] == read_manifest(second)["cells"]

    def test_a_corpus_of_other_files_or_another_recipe_is_not_taken(self, cut, tmp_path):
        def drawn(begun=False, **changes):
            content = {
                "sources": [{"data": "cells.h5ad"}], "tasks": {"cell_type": None}, "single_genes": [5, 8],
                "sentence_genes": 8, "tokens": "genes", "small_tokens": 400, "quality": {"min_genes": 1},
                "pathways": {"gene_sets": "sets.gmt", "number": 1, "tasks": ["cell_type"], "min_genes": 1},
            }  # fmt: skip
            corpus = CorpusRecipe.parse({**content, **changes}, "test")
            return RedrawnCorpus(corpus, tmp_path, tmp_path / "drawn", workers=1, begun=begun)

        def written(path):
            return (path / "manifest.json").stat().st_mtime_ns

        cells, sets = tmp_path / "cells.h5ad", tmp_path / "sets.gmt"
        some = cut[::3, np.sort(np.argsort(-np.asarray(cut.X.sum(0)).ravel())[:40])].copy()
        some.write_h5ad(cells)
        words = list(some.var_names)
        sets.write_text(f"S_A\tx\t{words[0]}\t{words[1]}\nS_B\tx\t{words[2]}\t{words[3]}\n")
        first = written(drawn().epoch(0))
        os.utime(cells)  # another time, the same cells
        assert written(drawn(begun=True).epoch(0)) == first
        assert drawn().n_items(0, packed=False) == drawn().n_items(0, packed=False)

        sets.write_text(sets.read_text().replace(words[3], words[4]))
        with pytest.raises(UsageError, match=r"data.recipe: what was trained on .* put them back"):
            drawn(begun=True).epoch(0)
        assert written(drawn().epoch(0)) > first

        n_cells = sum(read_manifest(drawn().epoch(0))["cells"].values())
        some[: len(some) // 2].copy().write_h5ad(tmp_path / "new.h5ad")
        os.replace(tmp_path / "new.h5ad", cells)
        with pytest.raises(UsageError, match="data.recipe: what was trained on"):
            drawn(begun=True).epoch(0)
        assert sum(read_manifest(drawn().epoch(0))["cells"].values()) < n_cells

        other = {"single_genes": [5, 6]}
        with pytest.raises(UsageError, match="data.recipe: what was trained on"):
            drawn(begun=True, **other).epoch(0)
        manifest = read_manifest(drawn(**other).epoch(0))
        assert manifest["recipe"]["single_genes"] == [5, 6]

    def test_a_run_does_not_go_on_with_another_corpus(self, small_corpus, tmp_path):
        folder = small_corpus / "corpus"
        digest = TrainingData(folder, False, 0).manifest["digest"]
        keep_corpus(tmp_path, folder, digest, begun=True)  # of a version that kept no note
        keep_corpus(tmp_path, folder, digest, begun=True)
        with pytest.raises(UsageError, match="data: .* holds another corpus than the run in"):
            keep_corpus(tmp_path, folder, "other", begun=True)
        keep_corpus(tmp_path, folder, "other", begun=False)
        keep_corpus(tmp_path, folder, "other", begun=True)

    def test_a_stream_goes_on_anywhere_and_is_shared_out(self, folder):
        data = open_data(
            recipe().data, folder, folder / "drawn", packed=False, seed=0, context=1024
        )
        n = data.stream.n_items
        batch = 12
        last = n // batch + 1  # the step in which a new epoch begins

        def take(first, steps, rank=0, world=1):
            found = data.stream.steps(batch, first, rank, world)
            return [[s.ids.tolist() for s in next(found)] for _ in range(steps)]

        whole = take(0, last + 2)
        assert take(last - 1, 3) == whole[last - 1 :]
        halves = [take(last - 1, 3, rank, 2) for rank in (0, 1)]
        for step, (a, b) in enumerate(zip(*halves, strict=True)):
            assert len(a) == len(b) == batch // 2
            assert [x for pair in zip(a, b, strict=True) for x in pair] == whole[last - 1 + step]
        epoch = [x for step in whole for x in step][:n]
        assert len({tuple(x) for x in epoch}) == n


def test_a_base_by_its_hub_id_keeps_mode_and_attention(small_corpus, tmp_path, monkeypatch):
    base = tmp_path / "snapshot"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 1}))
    (base / "c2s.json").write_text(json.dumps({"mode": "genes", "attention": {"kind": "prefix"}}))
    TrainingData(small_corpus / "corpus", False, 0).tokenizer.save(base)
    monkeypatch.setattr("c2s.models.places.from_hub", {"owner/name": base}.__getitem__)
    opened = {}

    def open_corpus(*_, **options):
        opened.update(options)
        return TrainingData(small_corpus / "corpus", False, 0)

    monkeypatch.setattr("c2s.training.run.open_data", open_corpus)
    found = prepare(recipe(base={"model": "owner/name"}), small_corpus, tmp_path / "w")
    assert found.attention.kind == "prefix"
    assert (opened["mode"], opened["tokenizer"]) == ("genes", "owner/name")
    # Tokens of another tokenizer are refused before weights are read, and so by a dry run.
    tokens = json.loads((base / "tokenizer.json").read_text())
    words = tokens["model"]["vocab"]
    one, two = sorted(words, key=words.get)[-2:]
    words[one], words[two] = words[two], words[one]
    (base / "tokenizer.json").write_text(json.dumps(tokens))
    with pytest.raises(
        UsageError, match=r"data: its tokenizer is not that of base\.model .* tokenizer: owner/name"
    ):
        prepare(recipe(base={"model": "owner/name"}), small_corpus, tmp_path / "w")


def test_a_corpus_with_samples_too_long_is_refused(folder):
    drawn = recipe().data
    built = open_data(drawn, folder, folder / "drawn", packed=False, seed=0, context=1024)
    data = recipe(data={"corpus": str(built.folder)}).data
    with pytest.raises(UsageError, match="base.context"):
        open_data(data, folder, folder / "x", packed=True, seed=0, context=64)


def test_more_context_extends_rotary_positions():
    from c2s.models.presets import get_preset
    from c2s.training.base import set_context

    config = get_preset("pythia-410m").config(100)
    set_context(config, 8192, "linear")
    assert config.max_position_embeddings == 8192
    assert config.rope_parameters["rope_type"] == "linear"
    assert config.rope_parameters["factor"] == 4.0
    with torch.device("meta"):
        from transformers import AutoModelForCausalLM

        config.num_hidden_layers = 1
        network = AutoModelForCausalLM.from_config(config)
    inverse = 1 / 10000 ** (np.arange(0, 16, 2) / 16)
    rotary = type(network.gpt_neox.rotary_emb)(config)
    np.testing.assert_allclose(rotary.inv_freq.numpy(), inverse / 4, rtol=1e-5)
    with pytest.raises(UsageError, match="already"):
        set_context(config, 16384, "linear")
