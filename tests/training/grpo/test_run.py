"""Runs of alignment, from a recipe to a model directory, and what is refused (SPEC §7)."""

import importlib.util
import json
import warnings

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from c2s.cli.main import app
from c2s.common.errors import C2SError, C2SWarning, InputError, UsageError
from c2s.models.directory import load_model
from c2s.training.grpo.opening import open_trainer
from c2s.training.grpo.questions import CorpusCells, read_cells
from c2s.training.grpo.run import plan_alignment, run_alignment
from c2s.training.grpo.signs import signs_of_hacking


@pytest.fixture(scope="module")
def aligned(recipe, tmp_path_factory):
    """The facts and the folder of a run. Not to be changed."""
    folder = tmp_path_factory.mktemp("aligned")
    return run_alignment(recipe(), folder, folder / "run", device="cpu"), folder / "run"


@pytest.fixture(scope="module")
def adapted(recipe, tmp_path_factory):
    """Return the folders of two runs with an adapter: one merges it, one keeps it. Not to be changed."""
    folder = tmp_path_factory.mktemp("adapted")
    for keep in ("merged", "adapter"):
        made = recipe(lora={"rank": 4, "keep": keep}, optimisation={"learning_rate": 0.02})
        run_alignment(made, folder, folder / keep, device="cpu")
    return folder / "merged", folder / "adapter"


def logged(out):
    """The lines of a run's log that are steps."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def first_genes(folder):
    """Return log-probabilities of the first gene of a cell, and cells that a model generates."""
    import c2s

    model = load_model(folder, device="cpu")
    ids = model.tokenizer.encode(["Cell type: beta. Cell: "])
    with torch.no_grad():
        logits = model.network(torch.tensor(ids[None].astype(np.int64))).logits[0, -1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells = c2s.tl.generate(model, cell_type="beta", n=3, seed=0)
    return logits.log_softmax(0), cells


class TestRun:
    def test_leaves_a_model_and_says_what_changed(self, aligned, model_folder):
        facts, out = aligned
        assert json.loads((out / "run.json").read_text()) == json.loads(json.dumps(facts))
        assert {p.name for p in out.iterdir() if p.name[0] != "."} == {
            "model", "recipe.yaml", "corpus.json", "log.jsonl", "run.json", "checkpoints"
        }  # fmt: skip
        assert facts["rewards"] == {"energy_distance": 1.0}
        assert facts["before"].keys() == facts["after"].keys() >= {"scfid", "valid", "diversity"}
        assert facts["before"]["scfid"] != facts["after"]["scfid"]
        now, before = (load_model(f, device="cpu") for f in (out / "model", model_folder))
        assert now.card.tasks == before.card.tasks
        assert now.card.inverse == before.card.inverse
        assert now.card.generation["temperature"] == 1.0
        changed = [
            (a - b).abs().max() for a, b in zip(now.network.parameters(), before.network.parameters(), strict=True)
        ]  # fmt: skip
        assert max(changed) > 1e-3
        assert "aligned on the task `cond_cell`" in (out / "model" / "README.md").read_text()
        assert len(first_genes(out / "model")[1]) == 3

    def test_logs_each_step_with_what_is_rewarded_and_what_is_not(self, aligned):
        steps = logged(aligned[1])
        assert [s["step"] for s in steps] == [1, 2, 3, 4]
        names = {
            "reward",
            "rewards/energy_distance/mean",
            "kl",
            "entropy",
            "watch/scfid",
            "time/rollout",
        }
        assert all(names <= s.keys() for s in steps)
        assert steps[0]["kl"] == 0
        assert steps[-1]["kl"] > 0
        last = json.loads((aligned[1] / "log.jsonl").read_text().splitlines()[-1])
        assert "train_runtime" in last
        assert not any(k.startswith(("reward", "watch", "kl")) for k in last)

    def test_an_adapter_changes_alone_and_is_merged_or_kept(self, adapted, model_folder):
        merged, kept = adapted
        for out in adapted:
            steps = logged(out)
            assert steps[0]["kl"] == 0
            assert steps[-1]["kl"] > 1e-4
        assert [s["loss"] for s in logged(merged)] == [s["loss"] for s in logged(kept)]
        assert not list((kept / "model").glob("model*.safetensors"))
        base = load_model(model_folder, device="cpu").network.state_dict()
        within = load_model(merged / "model", device="cpu").network.state_dict()
        moved = {k for k, v in base.items() if not torch.equal(v, within[k])}
        linear = {f"gpt_neox.layers.{n}.{p}.weight" for n in range(2) for p in (
            "attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"
        )}  # fmt: skip
        assert moved == linear
        (one, cells), (two, same) = first_genes(merged / "model"), first_genes(kept / "model")
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
        assert (one - first_genes(model_folder)[0]).abs().max() > 1e-3
        assert list(cells.obs["cell_sentence"]) == list(same.obs["cell_sentence"])
        facts = json.loads((kept / "run.json").read_text())
        assert 0 < facts["trained_parameters"] < facts["parameters"] / 5

    def test_without_validation_cells_a_run_goes_on(self, recipe, small_corpus, tmp_path):
        from shutil import copytree, rmtree

        copytree(small_corpus / "corpus", tmp_path / "corpus")
        rmtree(tmp_path / "corpus" / "cells" / "val")
        made = recipe(data={"corpus": "corpus"}, optimisation={"steps": 1}, save_every=1)
        with pytest.warns(
            C2SWarning, match=r"evaluation.cells: the corpus has no validation cells"
        ):
            facts = run_alignment(made, tmp_path, tmp_path / "run", device="cpu")
        assert facts["after"] == {}
        assert "Nothing was measured" in (tmp_path / "run" / "model" / "README.md").read_text()


def test_a_base_that_other_cells_were_held_out_from_is_noticed(recipe, model_folder, tmp_path):
    """What a run notes of its split is what the next one is compared with."""
    from shutil import copytree

    from c2s.models.directory import C2S_JSON

    facts = run_alignment(recipe(optimisation={"steps": 1}, save_every=1), tmp_path, tmp_path / "run", device="cpu")  # fmt: skip
    base, (study,) = tmp_path / "base", facts["split"]
    other = {"another study": "0" * 16}
    for split, is_told in (
        (facts["split"], False), (facts["split"] | other, False), (other, False), ({study: "0" * 16}, True)
    ):  # fmt: skip
        copytree(model_folder, base, dirs_exist_ok=True)
        card = json.loads((base / C2S_JSON).read_text())
        (base / C2S_JSON).write_text(json.dumps({**card, "training": {"split": split}}))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            plan_alignment(recipe(base={"model": str(base)}), tmp_path)
        assert any("another split of" in str(w.message) for w in told) == is_told


def test_cells_too_few_for_a_space_stop_only_rewards_that_need_it(
    recipe, small_corpus, model_folder, tmp_path
):
    def opened(**changes):
        model = load_model(model_folder, device="cpu")
        whole = read_cells(small_corpus / "corpus", "train", model.vocabulary, 0)
        few = CorpusCells(
            whole.cells.take(np.arange(15)), {k: v[:15] for k, v in whole.fields.items()}
        )
        return open_trainer(recipe(**changes), model, few, few, tmp_path, device="cpu")

    with pytest.raises(InputError, match="pca:14 or fewer"):
        opened()
    form = {"rewards": ["validity", "diversity"], "evaluation": {"cells": 20, "labels": 0}}
    with pytest.warns(C2SWarning, match=r"pca:14 or fewer.*not compared with real ones"):
        trainer = opened(**form)
    found = trainer.measure()
    assert found["valid"] == 1
    assert "scfid" not in found
    # Copies need no space to be seen.
    assert 0 < found["nearest_overlap"] < found["nearest_overlap_real"] == 1


@pytest.mark.parametrize("task", ["cond_cell", "cell_type"])
def test_a_function_of_ones_own_rewards_cells_and_labels(task, recipe, tmp_path):
    (tmp_path / "own.py").write_text(
        "def letters(rollouts):\n    return [len(t) for t in rollouts.texts]\n"
    )
    own = {"name": "function", "file": "own.py", "function": "letters", "weight": 0.5}
    made = recipe(
        policy={"task": task}, rewards=[own, "diversity"] if task == "cond_cell" else [own, "match"],
        optimisation={"steps": 1}, save_every=1, evaluation={"cells": 0, "labels": 0},
    )  # fmt: skip
    run_alignment(made, tmp_path, tmp_path / "run", device="cpu")
    (step,) = logged(tmp_path / "run")
    assert step["rewards/function/mean"] > 3
    other = step["rewards/diversity/mean" if task == "cond_cell" else "rewards/match/mean"]
    assert step["reward"] == pytest.approx(0.5 * step["rewards/function/mean"] + other, rel=1e-5)


def test_copied_training_cells_are_seen(open_run):
    """Cells of validation are as near to training cells as any; a policy that recites training cells is nearer."""
    opened = open_run(evaluation={"cells": 40, "labels": 0})
    measure, questions = opened.trainer.measure, opened.trainer.questions
    own = measure()
    tokenizer, real, asked = questions.model.tokenizer, questions.real, measure.questions

    def recite(numbers, copies, temperature):
        """Write a training cell of the condition that is asked for."""
        names = [asked.real.conditions[asked.question(n).condition] for n in numbers]
        rows = [real.rows(real.conditions.index(name))[0] for name in names]
        cells = [real.cells.to_columns(row)[: questions.n_genes] for row in rows]
        return [
            np.array([t for c in cell for t in tokenizer.gene_pieces(int(c))]) for cell in cells
        ]

    asked.write = recite
    found = measure()
    assert found["nearest_overlap"] == 1.0
    assert found["nearest_overlap_real"] == own["nearest_overlap_real"] < 0.95
    assert any("copied" in sign for sign in signs_of_hacking(own, found, []))


class TestDryRun:
    def test_says_what_would_be_done_and_leaves_nothing(self, recipe, tmp_path, monkeypatch):
        work = tmp_path / "work"
        work.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(work))
        made = recipe().model_dump(mode="json", exclude_none=True)
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(made))
        arguments = ["train", str(tmp_path / "r.yaml"), "-o", str(tmp_path / "run"), "--dry-run", "--json"]  # fmt: skip
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        facts = json.loads(done.stdout)
        assert {p.name for p in tmp_path.iterdir()} == {"work", "r.yaml"}
        assert not list(work.iterdir())
        assert facts["cells"] == 112
        assert facts["conditions"] == 5
        assert facts["answers_a_step"] == facts["answers_a_pass"] == 8
        assert facts["steps"] == 4
        assert facts["rewards"] == {"energy_distance": 1.0}
        assert facts["trained_parameters"] == facts["parameters"]
        adapted = plan_alignment(recipe(lora={"rank": 4}), tmp_path)
        assert adapted["parameters"] == facts["parameters"]
        assert 0 < adapted["trained_parameters"] < facts["parameters"] / 5

    def test_an_epoch_asks_for_everything_once(self, recipe, tmp_path):
        epochs = {"steps": None, "epochs": 2, "batch_size": 2}
        # 2 · 5 conditions, 2 a step, and whole pairs of steps that learn from the same answers.
        assert plan_alignment(recipe(optimisation=epochs), tmp_path)["steps"] == 5
        twice = {"policy": {"iterations": 2}, "optimisation": epochs}
        assert plan_alignment(recipe(**twice), tmp_path)["steps"] == 10
        cells = {"policy": {"prompts": "cells"}, "optimisation": epochs}
        assert plan_alignment(recipe(**cells), tmp_path)["steps"] == 112


class TestRefusals:
    """Each in one line that names the field."""

    @pytest.mark.parametrize(
        ("changes", "line"),
        [
            ({"base": {"model": None, "preset": "mini"}}, r"base.model is missing"),
            ({"base": {"quantize": "4bit"}}, r"base.quantize: models in 4 bits"),
            ({"base": {"device_map": "auto"}}, r"base.device_map: alignment runs on whole devices"),
            ({"policy": {"task": "tissue"}}, r"policy.task.*'tissue' is no task that can be rewarded"),
            ({"policy": {"preset": "donk"}}, r"policy: .*'donk'.*did you mean 'dong'"),
            ({"policy": {"loss": "gpro"}}, r"policy.loss"),
            ({"policy": {"betta": 1}}, r"unknown field 'policy.betta'; did you mean 'beta'"),
            ({"lora": {"rnak": 1}}, r"unknown field 'lora.rnak'; did you mean 'rank'"),
            ({"rewards": "energy_distance"}, r"rewards = 'energy_distance': a list of values is expected"),
            ({"policy": {"group": 1}}, r"policy.group"),
            ({"policy": {"beta_allowed": 1, "constrained": False}}, r"policy: beta_allowed = 1 does nothing without a constraint"),
            ({"policy": {"beta_allowed": 1, "beta": 0}}, r"policy: beta_allowed = 1 needs the reference"),
            ({"policy": {"iterations": 3}}, r"save_every = 2 must be a multiple of policy.iterations = 3"),
            ({"rewards": ["energy_distanse"]}, r"rewards.*'energy_distanse'.*did you mean 'energy_distance'"),
            ({"rewards": []}, r"rewards = \[\]: at least one is expected"),
            ({"base": {"context": 256}}, r"base.context = 256 does nothing in alignment"),
            ({"optimisation": {"tokens_per_pass": 64}}, r"optimisation.tokens_per_pass = 64 does nothing"),
        ],
    )  # fmt: skip
    def test_of_what_a_recipe_says(self, changes, line, recipe):
        with pytest.raises(UsageError, match=line) as caught:
            recipe(**changes)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("changes", "line"),
        [
            ({"base": {"model": "./nowhere"}}, r"base.model: .*nowhere: no model directory there"),
            ({"base": {"model": "adapter"}}, r"base.model: .*adapter holds an adapter; merge it with c2s model merge"),
            ({"base": {"model": "plain"}}, r"base.model = plain: is no model directory of ours"),
            ({"base": {"model": "prefix"}}, r"base.model: prompts of the model are not read causally"),
            ({"base": {"model": "labels"}}, r"policy.task = cond_cell: .*not trained on it; it knows: cell_type"),
            ({"data": {"corpus": "nowhere"}}, r"data.corpus: .*nowhere: is no corpus"),
            ({"policy": {"genes": 5000}}, r"policy.genes = 5,000: the model knows \d+ genes"),
            ({"policy": {"task": "cell_type"}}, r"rewards.0 \(energy_distance\): it reads cells, and policy.task = cell_type"),
            ({"lora": {"targets": ["nothing"]}}, r"lora.targets"),
            ({"policy": {"group": 2}}, r"policy.group = 2: rewards.0 \(energy_distance\) .* at least 3 answers"),
            ({"rewards": [{"name": "validity", "weight": 0}]}, r"rewards: all have weight 0"),
            ({"base": {"model": "short"}, "policy": {"genes": 100}}, r"policy.genes: prompt and answer take up to \d+ tokens"),
        ],
    )  # fmt: skip
    def test_of_what_lies_there(self, changes, line, recipe, model_folder, tmp_path):
        from shutil import copytree

        from c2s.models.directory import C2S_JSON

        card = json.loads((model_folder / C2S_JSON).read_text())
        for name, other in (
            ("plain", None), ("prefix", {"attention": {"kind": "prefix"}}), ("labels", {"tasks": ["cell_type"]})
        ):  # fmt: skip
            copytree(model_folder, tmp_path / name)
            (tmp_path / name / C2S_JSON).unlink()
            if other is not None:
                (tmp_path / name / C2S_JSON).write_text(json.dumps({**card, **other}))
        copytree(model_folder, tmp_path / "adapter")
        (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
        copytree(model_folder, tmp_path / "short")
        shape = json.loads((model_folder / "config.json").read_text())
        shape["max_position_embeddings"] = 64
        (tmp_path / "short" / "config.json").write_text(json.dumps(shape))
        with pytest.raises(C2SError, match=line) as caught:
            run_alignment(recipe(**changes), tmp_path, tmp_path / "run", device="cpu")
        assert isinstance(caught.value, UsageError | InputError)
        assert "\n" not in str(caught.value)
        with pytest.raises(C2SError, match=line):
            plan_alignment(recipe(**changes), tmp_path)

    def test_of_answers_that_processes_cannot_share(self, recipe, tmp_path, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "3")
        with pytest.raises(UsageError, match=r"optimisation.batch_size = 2 prompts of 4 answers cannot be shared"):  # fmt: skip
            run_alignment(recipe(), tmp_path, tmp_path / "run", device="cpu")

    def test_of_weights_that_fsdp_divides(self, recipe, tmp_path, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        with pytest.raises(UsageError, match="stage: grpo does not run on weights that FSDP"):
            run_alignment(recipe(), tmp_path, tmp_path / "run", device="cpu")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("changes", "line"),
        [
            ({"trackers": ["wandb"]}, r"trackers: .*wandb"),
            ({"push_to_hub": "somebody/cells"}, r"push_to_hub = somebody/cells: there is no token for the hub"),
        ],
    )  # fmt: skip
    def test_of_what_the_place_lacks(self, changes, line, recipe, tmp_path, monkeypatch):
        """Before anything is drawn, and by the dry run."""
        monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
        found = importlib.util.find_spec
        monkeypatch.setattr(
            "c2s.training.checks.find_spec", lambda name: None if name == "wandb" else found(name)
        )
        for run in (
            lambda made: run_alignment(made, tmp_path, tmp_path / "run", device="cpu"),
            lambda made: plan_alignment(made, tmp_path),
        ):
            with pytest.raises(UsageError, match=line):
                run(recipe(**changes))
        assert not (tmp_path / "run").exists()

    def test_without_trl(self, recipe, tmp_path, monkeypatch):
        found = importlib.util.find_spec
        monkeypatch.setattr(
            "c2s.training.grpo.run.find_spec", lambda name: None if name == "trl" else found(name)
        )
        with pytest.raises(UsageError, match=r"stage = grpo: trl is not installed.*c2s-toolkit\[grpo\]"):  # fmt: skip
            run_alignment(recipe(), tmp_path, tmp_path / "run", device="cpu")

    def test_of_a_loss_that_is_no_number(self, open_run):
        opened = open_run()
        inputs = opened.draw()
        inputs["advantages"][0] = float("nan")
        with pytest.raises(C2SError, match=r"step 1: the loss is no longer a number; use a lower"):
            opened.loss(inputs)
