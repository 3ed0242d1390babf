"""Training on several processes, stopped and gone on with, is the training of one process that nobody stopped."""

import copy
import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
import yaml

from c2s.common.errors import C2SWarning, InputError, UsageError
from c2s.common.progress import no_progress
from c2s.corpus.build import build_from
from c2s.corpus.reader import ShardReader
from c2s.corpus.recipe import CorpusRecipe
from c2s.corpus.redrawn import RedrawnCorpus
from c2s.models.directory import Model
from c2s.training.data import RedrawnStream
from c2s.training.launch import configurations, launch
from c2s.training.loop import COMPLETE, complete_checkpoints
from c2s.training.processes import check_sharding, only_run
from c2s.training.recipe import TrainingRecipe
from c2s.training.run import run_recipe
from c2s.training.samples import CorpusStream


@pytest.fixture(scope="module")
def whole(runs, start):
    """Return a function that gives the folder of a run that one process made without a stop."""

    @cache
    def whole(name):
        out = runs / f"whole-{name}"
        start("train", runs / f"{name}.yaml", "-o", out, "--device", "cpu").finish()
        return out

    return whole


@pytest.fixture(scope="module")
def runs(tmp_path_factory, cut, gene_tokenizer, make_model):
    """A folder with small cells, a base model with dropout and one without, and recipes that train them."""
    folder = tmp_path_factory.mktemp("runs")
    cut.write_h5ad(folder / "cells.h5ad")
    model = make_model(gene_tokenizer, hidden=16, spread=0.02, context=256)
    model.save(folder / "plain")
    config = model.network.config
    tied = copy.deepcopy(config)
    tied.tie_word_embeddings = True
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = transformers.AutoModelForCausalLM.from_config(tied)
    Model(network, model.tokenizer, model.card).save(folder / "tied")
    config.hidden_dropout = config.attention_dropout = 0.1
    model.save(folder / "dropping")
    corpus = {
        "sources": [{"data": "cells.h5ad"}],
        "tasks": {"cell_type": None, "cond_cell": None},
        "samples_per_cell": 1,
        "single_genes": [8, 16],
        "tokens": "genes",
        "context": 256,
        "unit_cells": 64,
    }
    with_model = CorpusRecipe.parse({**corpus, "tokenizer": "plain"}, "corpus")
    build_from(with_model, folder, folder / "corpus", workers=1, on_stage=no_progress)
    recipe = {
        "stage": "sft",
        "data": {"corpus": "corpus", "validation": 12},
        "optimisation": {
            "steps": 24, "batch_size": 8, "tokens_per_pass": 200, "learning_rate": 0.001, "warmup": 2, "clip": 0.5,
        },
        "evaluation": {"every": 5},
        "save_every": 4,
        "seed": 3,
    }  # fmt: skip

    def write(name, base="plain", **changes):
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**recipe, "base": {"model": base}, **changes}))
        return path

    write("plain", evaluation={"every": 4, "best": "loss"})
    write("tied", "tied")
    write("dropping", "dropping")
    write("redrawn", data={"recipe": corpus, "validation": 12})
    write("uneven", optimisation={**recipe["optimisation"], "batch_size": 9})
    return folder


def losses(out: Path):
    """What a run logged at each step, without what depends on the clock."""
    clock = {
        "seconds",
        "seconds_left",
        "tokens",
        "tokens_per_second",
        "flop_utilisation",
        "train_runtime",
    }
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in clock}
        for line in lines
        if "train_runtime" not in line
    ]


def weights(folder: Path):
    """The weights of a model directory."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def assert_same(found, expected, tolerance=0.0):
    """The losses that were logged and the final weights are the same."""
    a, b = losses(found), losses(expected)
    assert [x["step"] for x in a] == [x["step"] for x in b]
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for key, value in y.items():
            assert x[key] == pytest.approx(value, rel=tolerance, abs=0), (y["step"], key)
    a, b = weights(found / "model"), weights(expected / "model")
    assert a.keys() == b.keys()
    for name, weight in b.items():
        torch.testing.assert_close(a[name], weight, atol=tolerance, rtol=0, msg=name)


def assert_best_is_kept(out):
    """A checkpoint is what transformers reads, and the model directory holds the best one."""
    best = json.loads((out / "run.json").read_text())["best_step"]
    read = transformers.AutoModelForCausalLM.from_pretrained
    kept = read(out / "checkpoints" / f"checkpoint-{best}").state_dict()
    final = read(out / "model").state_dict()
    assert final.keys() == kept.keys()
    assert all(torch.equal(v, kept[k]) for k, v in final.items())


def logged(out):
    """The last step that a run has logged."""
    log = out / "log.jsonl"
    return losses(out)[-1]["step"] if log.is_file() and log.stat().st_size else 0


def cut_checkpoints(out):
    return {p.name for p in (out / "checkpoints").glob("checkpoint-*")} - {
        p.name for p in complete_checkpoints(out / "checkpoints")
    }


@pytest.mark.slow
class TestSeveralProcesses:
    @pytest.mark.parametrize(
        ("name", "config"),
        [("plain", "ddp-cpu-2"), ("plain", "fsdp2-cpu-2"), ("tied", "fsdp2-gpus")],
    )
    def test_two_are_as_one(self, name, config, runs, start, whole, environment):
        out = runs / f"{name}-{config}"
        run = start(
            "train", runs / f"{name}.yaml", "-o", out, "--device", "cpu", world=2, **environment(config)
        )  # fmt: skip
        first, other = run.finish()
        assert_same(out, whole(name), 1e-5)
        assert first.startswith("Training …\nmodel in ")
        assert other == ""
        if name == "plain":
            assert_best_is_kept(out)
            assert_best_is_kept(whole(name))
        facts = [json.loads((o / "run.json").read_text()) for o in (out, whole(name))]
        assert [f["processes"] for f in facts] == [2, 1]
        assert facts[0]["best_step"] == facts[1]["best_step"]
        assert facts[0]["tokens"] == facts[1]["tokens"]

    def test_a_run_changes_between_one_process_and_two(self, runs, start, whole, environment):
        out = runs / "changing"
        command = ("train", runs / "plain.yaml", "-o", out, "--device", "cpu")

        def after(step):
            return lambda: (out / "checkpoints" / f"checkpoint-{step}" / COMPLETE).is_file()

        start(*command, world=2, **environment("fsdp2-cpu-2")).kill_when(after(4))
        start(*command, "--resume").kill_when(after(8))
        start(*command, "--resume", world=2, **environment("fsdp2-cpu-2")).kill_when(after(16))
        start(*command, "--resume", world=2, **environment("ddp-cpu-2")).finish()
        assert_same(out, whole("plain"), 1e-5)

    def test_a_failure_is_one_line(self, runs):
        """Through the launcher itself; both processes fail."""
        done = subprocess.run(
            [sys.executable, "-m", "c2s.cli.main", "train", runs / "uneven.yaml", "-o", runs / "uneven",
             "--device", "cpu", "--launch", "ddp-cpu-2"],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr.splitlines() == [
            "c2s: optimisation.batch_size = 9 cannot be shared out evenly to 2 processes; give a multiple of it"
        ]

    def test_what_cannot_work_is_refused(self, monkeypatch, environment):
        check_sharding("muon")
        monkeypatch.setenv("WORLD_SIZE", "2")
        for name, value in environment("fsdp2-gpus").items():
            monkeypatch.setenv(name, value)
        check_sharding("adamw")
        with pytest.raises(UsageError, match=r"optimisation.optimizer: muon needs whole"):
            check_sharding("muon")
        monkeypatch.setenv("FSDP_VERSION", "1")
        with pytest.raises(UsageError, match="fsdp_version: 2"):
            check_sharding("adamw")
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        with pytest.raises(UsageError, match="DeepSpeed"):
            check_sharding("adamw")

    def test_configurations(self, monkeypatch, tmp_path, environment):
        assert {"ddp-cpu-2", "ddp-gpus", "fsdp2-gpus", "fsdp2-nodes"} <= set(configurations())
        for name in configurations():
            nodes = "--num_machines 2 --machine_rank 0 --main_process_ip 127.0.0.1".split()
            told = environment(name, *(nodes if "nodes" in name else ()))
            assert told.get("FSDP_VERSION") == ("2" if "fsdp2" in name else None)
        with pytest.raises(InputError, match="nothing: neither a file nor one of ddp-cpu-2"):
            launch("nothing", [])
        with pytest.raises(UsageError, match="for several machines"):
            launch("fsdp2-nodes", [])
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        with pytest.raises(UsageError, match="no GPU here"):
            launch("ddp-gpus", [])
        (tmp_path / "odd.yaml").write_text("- a\n")
        with pytest.raises(InputError, match="not a configuration"):
            launch(str(tmp_path / "odd.yaml"), [])


class TestStreams:
    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("kind", ["corpus", "redrawn"])
    def test_processes_share_out_what_one_reads(self, kind, packed, runs, tmp_path):
        """Also where an epoch ends within a step, and its items do not come out even."""
        folder = runs / "corpus"
        if kind == "corpus":
            stream = CorpusStream(
                lambda rank, world: ShardReader(
                    folder, "train", packed=packed, seed=1, rank=rank, world_size=world
                )
            )
        else:
            redrawn = RedrawnCorpus(CorpusRecipe.parse(
                json.loads((folder / "manifest.json").read_text())["recipe"], "recipe"
            ), runs, tmp_path, workers=1)  # fmt: skip
            stream = RedrawnStream(redrawn, packed, 1)
        size = 12
        n_steps = stream.n_items // size + 2

        def read(first, n, rank, world):
            steps = stream.steps(size, first, rank, world)
            return [[s.ids.tobytes() for s in next(steps)] for _ in range(n)]

        one = read(0, n_steps, 0, 1)
        four = [read(0, n_steps, rank, 4) for rank in range(4)]
        for whole, *parts in zip(one, *four, strict=True):
            assert sorted(whole) == sorted(s for part in parts for s in part)
            assert len(set(whole)) > 1
        # And from any step on.
        assert read(n_steps - 2, 2, 1, 3) == read(0, n_steps, 1, 3)[-2:]
        if not packed:
            assert stream.n_items % 4
            epoch = [s for step in one for s in step][: stream.n_items]
            assert len(set(epoch)) == stream.n_items


@pytest.mark.slow
class TestStopped:
    def test_kill_9_at_any_moment(self, runs, start, whole):
        """The same losses and weights to the last bit, dropout among them; checkpoints that were cut are not used."""
        out = runs / "killed"
        command = ("train", runs / "dropping.yaml", "-o", out, "--device", "cpu")
        start(*command).kill_when(lambda: logged(out) >= 2)  # before the first checkpoint
        start(*command, "--resume").kill_when(lambda: cut_checkpoints(out))
        rng = random.Random()
        moment = rng.randint(5, 15)
        start(*command, "--resume").kill_when(lambda: logged(out) >= moment)
        # Here the checkpoint holds sums of losses since the last measurement.
        start(*command, "--resume").kill_when(
            lambda: [p.name for p in complete_checkpoints(out / "checkpoints")][-1:] == ["checkpoint-16"]
        )  # fmt: skip
        start(*command, "--resume").kill_when(lambda: cut_checkpoints(out))
        # All steps are taken, and the model is not written.
        start(*command, "--resume").kill_when(
            lambda: (out / "checkpoints" / "checkpoint-24" / COMPLETE).is_file()
        )
        start(*command, "--resume").finish()
        assert_same(out, whole("dropping"))
        assert not cut_checkpoints(out)

    def test_a_corpus_half_drawn_is_drawn_to_its_end(self, runs, start, whole, environment):
        out = runs / "drawing"
        command = ("train", runs / "redrawn.yaml", "-o", out, "--device", "cpu")
        start(*command).kill_when(lambda: list(out.glob("data/epoch-00000/*")), training=False)
        assert not (out / "data" / "epoch-00000" / "manifest.json").is_file()
        start(*command, "--resume", world=2, **environment("ddp-cpu-2")).finish()
        assert_same(out, whole("redrawn"), 1e-5)
        assert (out / "data" / "epoch-00001" / "manifest.json").is_file()

    def test_an_interrupt_says_how_to_go_on(self, runs, start):
        out, recipe = runs / "interrupted", runs / "dropping.yaml"
        run = start("train", recipe, "-o", out, "--device", "cpu")
        until = time.monotonic() + 60
        while logged(out) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(run.processes[0].pid, signal.SIGINT)
        codes, said = run.join()
        assert codes == [130]
        assert said[0].splitlines() == [
            "Training …",
            f"c2s: stopped; go on with: c2s train {recipe} --out {out} --device cpu --resume",
        ]

    def test_a_finished_run_is_left_as_it_is(self, runs, whole):
        out = whole("plain")
        recipe = TrainingRecipe.parse(
            yaml.safe_load((runs / "plain.yaml").read_text()), "plain.yaml"
        )
        before = {p: p.stat().st_mtime_ns for p in sorted(out.rglob("*")) if p.name != ".lock"}
        with pytest.warns(C2SWarning, match="the run is finished; nothing was done"):
            facts = run_recipe(recipe, runs, out, resume=True, device="cpu")
        assert facts == json.loads((out / "run.json").read_text())
        after = {p: p.stat().st_mtime_ns for p in sorted(out.rglob("*")) if p.name != ".lock"}
        assert after == before
        with pytest.raises(UsageError, match="holds a finished run"):
            run_recipe(recipe, runs, out, device="cpu")

    def test_a_second_run_in_the_same_folder_is_refused(self, runs, tmp_path):
        recipe = TrainingRecipe.parse(
            yaml.safe_load((runs / "plain.yaml").read_text()), "plain.yaml"
        )
        with only_run(tmp_path), pytest.raises(UsageError, match="a run is going on there"):
            run_recipe(recipe, runs, tmp_path, device="cpu")
        assert not (tmp_path / "recipe.yaml").exists()
