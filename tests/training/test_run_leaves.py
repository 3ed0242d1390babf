"""What a run leaves beside weights: best weights by accuracy, early stopping, speed, the model card, an upload."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from c2s.common.errors import C2SError, C2SWarning, UsageError
from c2s.decoding.prompts import label_answers
from c2s.models.directory import load_model
from c2s.tasks.pathways import PathwayLine, line
from c2s.tasks.registry import get_task
from c2s.training.card import model_card
from c2s.training.data import TrainingData
from c2s.training.measure import LabelAccuracy, best_measure, intervals, sample_losses
from c2s.training.packed_attention import NAME, attending_packed
from c2s.training.recipe import TrainingRecipe
from c2s.training.run import run_recipe
from c2s.training.samples import IGNORE, TokenSample
from c2s.training.speed import matrix_rate, training_flops

RECIPE = {
    "stage": "sft",
    "base": {"preset": "mini"},
    "data": {"corpus": "corpus", "validation": 12},
    "optimisation": {"steps": 12, "batch_size": 8, "learning_rate": 2e-3},
    "evaluation": {"every": 2, "best": "accuracy_cell_type"},
    "save_every": 2,
}


def run(folder, out, **change):
    return run_recipe(
        TrainingRecipe.parse({**RECIPE, **change}, "r.yaml"), folder, out, device="cpu"
    )


def lines(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(small_corpus, tmp_path_factory):
    """A finished run and its facts."""
    out = tmp_path_factory.mktemp("run") / "out"
    return out, run(small_corpus, out)


@pytest.fixture(scope="module")
def validation(small_corpus):
    data = TrainingData(small_corpus / "corpus", False, 0)
    return data, data.validation(12)


@pytest.fixture
def model(finished):
    return load_model(finished[0] / "model", device="cpu")


def brute_force(model, samples, labels):
    """Whether the label with the highest log-probability is the true one, by plain forward passes."""
    right = []
    for sample in samples:
        prompt, scores = sample.ids[: sample.prompt_length].tolist(), []
        response = model.prompts.wording("cell_type").response
        filled = [response.fill({"cell_type": label}) for label in labels]
        answers = [model.tokenizer.encode(parts).tolist() for parts in filled]
        answers = [[*a, model.tokenizer.eos_id] for a in answers]
        true = [a == sample.ids[sample.prompt_length :].tolist() for a in answers]
        assert sum(true) == 1  # the wording of the response is the label
        for answer in answers:
            ids = torch.tensor([prompt + answer])
            wanted = torch.tensor([[IGNORE] * len(prompt) + answer])
            with torch.no_grad():
                scores.append(-model.network(ids, labels=wanted).loss.item() * len(answer))
        right.append(true[int(np.argmax(scores))])
    return right


class TestAccuracy:
    def test_it_is_that_of_plain_forward_passes(self, model, validation):
        data, samples = validation
        measure = LabelAccuracy(model, samples, data.conditions)
        assert measure.tasks == ["cell_type"]
        labels = data.conditions["cell_type"]
        expected = brute_force(model, samples, labels)
        assert 0 < sum(expected) < len(expected)
        assert measure.right()["cell_type"].tolist() == expected
        # In training the network attends in another way, and drops; both are set back meanwhile, and come again.
        model.network.train()
        with attending_packed(model.network):
            assert measure() == {"accuracy_cell_type": np.mean(expected)}
            assert model.network.config._attn_implementation == NAME
            assert model.network.training
        model.network.eval()

    def test_a_label_that_is_not_trained_on_counts_as_wrong(self, model, validation):
        data, samples = validation
        sample = samples[0]
        strange = TokenSample(
            np.append(sample.ids[:-1], [5, sample.ids[-1]]), sample.prompt_length, sample.task
        )
        measure = LabelAccuracy(model, [strange], data.conditions)
        assert measure() == {"accuracy_cell_type": 0.0}

    def test_losses_of_samples_are_those_of_hugging_face(self, model, validation):
        _, samples = validation
        found = sample_losses(model, samples, "response", 200)["cell_type"]
        for sample, loss in zip(samples, found, strict=True):
            ids = torch.from_numpy(sample.ids)[None]
            wanted = ids.clone()
            wanted[0, : sample.prompt_length] = IGNORE
            with torch.no_grad():
                expected = model.network(ids, labels=wanted).loss.item()
            assert loss == pytest.approx(expected, abs=1e-4)

    def test_samples_without_room_for_the_longest_label_are_left_out(
        self, model, validation, monkeypatch
    ):
        data, samples = validation
        labels = data.conditions["cell_type"]
        longest = max(map(len, label_answers(model, get_task("cell_type"), labels)))
        lengths = sorted(s.prompt_length for s in samples)
        assert lengths[5] < lengths[6]
        monkeypatch.setattr(model.network.config, "max_position_embeddings", lengths[5] + longest)
        with pytest.warns(C2SWarning, match=r"6 of 12 samples left out of the accuracy of labels: "):  # fmt: skip
            measure = LabelAccuracy(model, samples, data.conditions)
        fit = [s for s in samples if s.prompt_length <= lengths[5]]
        assert measure.right()["cell_type"].tolist() == brute_force(model, fit, labels)
        monkeypatch.setattr(model.network.config, "max_position_embeddings", lengths[0])
        with pytest.warns(C2SWarning, match="12 of 12"):
            assert LabelAccuracy(model, samples, data.conditions).tasks == []
        with pytest.warns(C2SWarning), pytest.raises(UsageError, match="leaves room for its labels"):  # fmt: skip
            best_measure(model, "accuracy_cell_type", samples, data.conditions)

    def test_pathways_before_the_label_need_room_too(self, model, validation, monkeypatch):
        data, samples = validation
        names = ["islet", "digestive enzymes"]
        named = PathwayLine(names=names, number=2, tasks=["cell_type"])
        model.card = model.card.model_copy(update={"pathways": named})
        encode = model.tokenizer.encode_english
        lined = [
            TokenSample(np.insert(s.ids, s.prompt_length, encode(line(names))), s.prompt_length, s.task)
            for s in samples
        ]  # fmt: skip
        answers = label_answers(model, get_task("cell_type"), data.conditions["cell_type"])
        needed = max(len(encode(line(n))) for n in (names, names[::-1])) + max(map(len, answers))
        lengths = sorted(s.prompt_length for s in lined)
        # The bound on the tokens of a line is that of the longest names, here one of them twice.
        bound = len(encode(line([names[1]] * 2))) - len(encode(line(names)))
        context = lengths[5] + needed + bound
        monkeypatch.setattr(model.network.config, "max_position_embeddings", context)
        with pytest.warns(C2SWarning, match="6 of 12"):
            measure = LabelAccuracy(model, lined, data.conditions)
        assert len(measure.right()["cell_type"]) == 6


def test_best_weights_are_kept_and_measured(finished, small_corpus, validation):
    out, facts = finished
    curve = {
        x["step"]: x["eval_accuracy_cell_type"]
        for x in lines(out)
        if "eval_accuracy_cell_type" in x
    }
    assert list(curve) == [2, 4, 6, 8, 10, 12]
    assert curve[facts["best_step"]] == max(curve.values())
    found = facts["metrics"]["accuracy_cell_type"]
    assert found["value"] == pytest.approx(max(curve.values()))
    assert found["n"] == 12
    assert found["low"] <= found["value"] <= found["high"]
    # The model directory has those weights.
    model = load_model(out / "model", device="cpu")
    data, samples = validation
    assert LabelAccuracy(model, samples, data.conditions)()["accuracy_cell_type"] == found["value"]


def test_a_measurement_that_fails_leaves_the_model(small_corpus, tmp_path, monkeypatch):
    settings = {"optimisation": {"steps": 2, "batch_size": 2}, "evaluation": {}}

    def fail(*_):
        raise C2SError("cannot be measured")

    monkeypatch.setattr("c2s.training.run._measured", fail)
    with pytest.raises(C2SError, match="cannot be measured"):
        run(small_corpus, tmp_path / "out", **settings)
    before = (tmp_path / "out" / "model" / "model.safetensors").read_bytes()
    assert load_model(tmp_path / "out" / "model", device="cpu").card.tasks == ["cell_type"]
    monkeypatch.undo()
    recipe = TrainingRecipe.parse({**RECIPE, **settings}, "r.yaml")
    facts = run_recipe(recipe, small_corpus, tmp_path / "out", device="cpu", resume=True)
    model = load_model(tmp_path / "out" / "model", device="cpu")
    assert model.card.training["metrics"] == facts["metrics"] != {}
    assert (tmp_path / "out" / "model" / "model.safetensors").read_bytes() == before


def test_the_best_weights_are_found_where_the_folder_was_moved_to(finished, small_corpus, tmp_path):
    out = tmp_path / "moved"
    shutil.copytree(finished[0], out)
    (out / "run.json").unlink()
    shutil.rmtree(out / "model")
    # What is left where it was is of no use.
    state = json.loads((out / "checkpoints" / "checkpoint-12" / "trainer_state.json").read_text())
    state["best_model_checkpoint"] = str(tmp_path / "nowhere")
    (out / "checkpoints" / "checkpoint-12" / "trainer_state.json").write_text(json.dumps(state))
    recipe = TrainingRecipe.parse(RECIPE, "r.yaml")
    facts = run_recipe(recipe, small_corpus, out, device="cpu", resume=True)
    assert facts["best_step"] == finished[1]["best_step"]
    before, after = (
        (place / "model" / "model.safetensors").read_bytes() for place in (finished[0], out)
    )
    assert before == after


def test_a_run_ends_when_nothing_gets_better(small_corpus, tmp_path):
    # So small a rate changes no answer: the first measurement stays the best.
    settings = {"steps": 12, "batch_size": 2, "learning_rate": 1e-12}
    evaluation = {"every": 2, "best": "accuracy_cell_type", "patience": 2}
    facts = run(small_corpus, tmp_path / "out", optimisation=settings, evaluation=evaluation)
    assert facts["steps"] == 6
    assert facts["best_step"] == 2


def test_speed_stands_in_the_log(finished):
    out, facts = finished
    steps = [x for x in lines(out) if "loss" in x]
    assert {"tokens_per_second", "flop_utilisation", "seconds_left"} <= steps[0].keys()
    assert steps[-1]["step"] == 12
    assert steps[-1]["seconds_left"] == 0 < steps[0]["seconds_left"]
    assert all(0 < x["flop_utilisation"] < 2 for x in steps)
    assert facts["matrix_rate"] > 1e8
    assert facts["device"].startswith("CPU")


def test_operations_are_counted_as_by_hand(make_network, gene_tokenizer):
    network = make_network("llama", gene_tokenizer, hidden=16)
    inner = sum(p.numel() for p in network.model.layers.parameters()) + 16  # and the last norm
    head = 16 * len(gene_tokenizer.backend)
    # Two layers; a pair of tokens is a product of 16 numbers for the score and one for the value, half of them seen.
    pairs = 2 * 3 * (2 * 16 + 2 * 16) / 2
    found = training_flops(network, tokens=10, learned=4, pairs=100)
    assert found == 6 * inner * 10 + 6 * head * 4 + pairs * 100
    network.model.layers.requires_grad_(False)
    found = training_flops(network, tokens=10, learned=0, pairs=0)
    assert found == 4 * inner * 10 + 2 * 16 * 10
    assert matrix_rate("cpu", seconds=0.01) > 1e8


class TestCard:
    def test_it_is_written_from_the_facts(self, finished, small_corpus):
        out, facts = finished
        text = (out / "model" / "README.md").read_text("utf-8")
        head = yaml.safe_load(text.split("---")[1])
        assert head["library_name"] == "transformers"
        assert "license" not in head
        manifest = json.loads((small_corpus / "corpus" / "manifest.json").read_text())
        found = facts["metrics"]["accuracy_cell_type"]
        for said in (
            "random weights (shape `mini`)",
            f"{facts['parameters']:,} weights",
            manifest["sources"][0]["sha256"],
            "cut.h5ad",
            f"{manifest['cells']['train']:,} in train",
            manifest["digest"],
            f"12 steps of 8 items: 96 samples, {facts['tokens']:,} tokens",
            f"those of step {facts['best_step']}",
            f"| `accuracy_cell_type` | {found['value']:.4f} | {found['low']:.4f} to {found['high']:.4f} | 12 |",
            "c2s.load_model",
            manifest["notes"][0],
        ):
            assert said in text, said
        assert str(small_corpus) not in text  # no path of this machine

    def test_it_names_base_and_licence(self, finished, small_corpus, tmp_path):
        base = tmp_path / "base"
        shutil.copytree(finished[0] / "model", base)
        (base / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# A base\n")
        known = json.loads((base / "c2s.json").read_text())
        line = {"slope": -1.0, "intercept": 2.0}
        (base / "c2s.json").write_text(json.dumps({**known, "inverse": {"old": line}}))
        out = tmp_path / "out"
        settings = {"steps": 2, "batch_size": 2}
        run(
            small_corpus, out, base={"model": str(base)}, optimisation=settings, evaluation={},
            data={**RECIPE["data"], "inverse": "cut.h5ad"},
        )  # fmt: skip
        # The new line first, which is taken where none is named; the base's other lines stay.
        inverse = json.loads((out / "model" / "c2s.json").read_text())["inverse"]
        assert list(inverse) == ["cut", "old"]
        assert inverse["old"] == line
        text = (out / "model" / "README.md").read_text("utf-8")
        assert yaml.safe_load(text.split("---")[1])["license"] == "cc-by-4.0"
        assert "Fine-tuned from the weights of" in text
        assert str(tmp_path) not in text

    def test_it_says_what_was_not_measured_and_names_the_pathways_of_the_model(
        self, finished, small_corpus
    ):
        facts = finished[1]
        recipe = TrainingRecipe.parse(RECIPE, "r").model_dump(mode="json")
        manifest = json.loads((small_corpus / "corpus" / "manifest.json").read_text())
        kept = PathwayLine(names=["a", "b", "c"], number=2, tasks=["cond_cell"])

        def text(manifest=manifest, **changes):
            return model_card(
                {**facts, **changes}, recipe, manifest, genes=5, top_k=3, tasks=["cond_cell"], pathways=kept
            )  # fmt: skip

        assert "`cond_cell` it names 2 of 3 pathways (known to its base)." in text()
        drawn = {"names": ["a", "b", "c"], "number": 2, "tasks": ["x"], "path": "d/s.gmt"}
        drawn["sha256"] = "0f"
        found = text({**manifest, "pathways": drawn})
        assert "`cond_cell` it names 2 of 3 pathways (gene sets of s.gmt, SHA-256 `0f`)." in found
        found = text(metrics={}, divided=True, validation={"loss": 1.25})
        assert "because FSDP divided the weights" in found
        assert "`loss` 1.2500." in found
        assert "no validation samples" in text(metrics={})

    def test_it_says_how_prompts_are_read_and_what_was_permuted(self, finished, small_corpus):
        recipe = TrainingRecipe.parse(
            {**RECIPE, "attention": "prefix", "augment": {"share": 0.25, "window": 8}}, "r"
        )
        assert recipe.attention.kind == "prefix"  # by its name alone
        manifest = json.loads((small_corpus / "corpus" / "manifest.json").read_text())
        found = model_card(
            finished[1], recipe.model_dump(mode="json"), manifest, genes=5, top_k=3, tasks=["cell_type"],
            attention=recipe.attention,
        )  # fmt: skip
        assert "attention of kind `prefix`" in found
        assert "genes of 25% of the samples were permuted, in windows of 8" in found


class TestHub:
    def test_the_model_directory_is_uploaded_at_the_end(
        self, small_corpus, tmp_path, monkeypatch, capfd
    ):
        import huggingface_hub

        sent = []

        class Hub:
            def create_repo(self, repository, **options):
                sent.append((repository, options))
                return "https://hub/owner/name"

            def upload_folder(self, *, repo_id, folder_path, **options):
                names = sorted(p.name for p in Path(folder_path).iterdir())
                sent.append((repo_id, names))

        monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: "token")
        out = tmp_path / "out"
        settings = {"steps": 2, "batch_size": 2}
        facts = run(
            small_corpus,
            out,
            optimisation=settings,
            push_to_hub="owner/name",
            trackers=["tensorboard"],
        )
        assert facts["hub"] == "https://hub/owner/name"
        (created, options), (repository, names) = sent
        assert (created, repository) == ("owner/name", "owner/name")
        assert options["private"] is True
        assert {"README.md", "c2s.json", "config.json", "model.safetensors"} <= set(names)
        assert not any("checkpoint" in n or "log" in n for n in names)
        # Nothing of transformers is drawn on the terminal, and the tracker has the losses.
        shown = capfd.readouterr()
        assert "shards" not in shown.err + shown.out
        accumulator = pytest.importorskip(
            "tensorboard.backend.event_processing.event_accumulator"
        ).EventAccumulator
        events = next(out.rglob("events.out.tfevents*"))
        assert "eval/loss" in accumulator(str(events.parent)).Reload().Tags()["scalars"]

    def test_a_hub_that_refuses_leaves_the_model(self, finished, monkeypatch):
        import huggingface_hub

        from c2s.training.hub import push_model

        class Hub:
            def create_repo(self, repository, **options):
                raise OSError("no way\nthere")

        monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
        with pytest.raises(C2SError, match=r"push_to_hub = o/n: .*\(no way\); it is in"):
            push_model(finished[0] / "model", "o/n")


def test_intervals_hold_the_mean():
    found = intervals({"x": np.array([0.0, 1.0] * 200)}, "accuracy", 0)["accuracy_x"]
    assert found["value"] == 0.5
    # Normal approximation: 0.5 ± 1.96 · 0.5 / √400
    assert found["low"] == pytest.approx(0.451, abs=0.01)
    assert found["high"] == pytest.approx(0.549, abs=0.01)
