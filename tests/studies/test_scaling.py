"""A scaling study: its grid, that nothing finished is trained again, what it measures, its intervals, its figures."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import c2s
from c2s.common.errors import C2SWarning, UsageError
from c2s.corpus.show import corpus_tokenizer, read_manifest
from c2s.decoding.engine import TransformersEngine
from c2s.decoding.prompts import label_answers
from c2s.studies import scaling
from c2s.studies.scaling import grid, run_scaling, training_recipe
from c2s.studies.scaling_measures import (
    gene_overlaps,
    held_out_samples,
    label_answered,
    measure,
)
from c2s.studies.scaling_recipe import ScalingRecipe, find_scaling
from c2s.studies.scaling_results import Result, summarise
from c2s.tasks.registry import TASKS
from c2s.training.measure import sample_losses
from c2s.training.run import run_recipe
from c2s.training.samples import CellStream

CORPUS = {
    "sources": [{"data": "cells.h5ad", "values": {"organism": "Homo sapiens"}}],
    "tasks": {"cell_type": None, "cond_cell": None},
    "samples_per_cell": 4,
    "single_genes": [10, 20],
    "sentence_genes": 20,
    "tokens": "genes",
    "small_tokens": 400,
    "context": 128,
    "quality": {"min_genes": 1, "max_pct_mt": None, "min_cells": 20},
    "split": {"fractions": [0.6, 0.1, 0.3]},
}
SIZES = [
    {"name": "xs", "hidden": 16, "layers": 1, "heads": 1},
    {"name": "s", "hidden": 16, "layers": 2, "heads": 2},
    {"name": "m", "hidden": 32, "layers": 2, "heads": 2},
]


def recipe(**changes):
    content = {
        "corpus": CORPUS,
        "sizes": SIZES,
        "fractions": [0.5, 1.0],
        "optimisation": {"steps": 8, "batch_size": 8, "learning_rate": 0.01},
        "held_out": 30,
        "generated": 6,
        "resamples": 50,
    }
    return ScalingRecipe.parse({**content, **changes}, "test")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cut, cut_genes):
    place = tmp_path_factory.mktemp("scaling")
    cut[:, cut_genes.words].write_h5ad(place / "cells.h5ad")
    return place


@pytest.fixture(scope="module")
def finished(folder):
    out = folder / "out"
    return out, run_scaling(recipe(), folder, out, device="cpu", workers=1)


@pytest.fixture(scope="module")
def trained(finished):
    """A model of the study, and the samples that it is measured on."""
    out, _ = finished
    model = c2s.load_model(out / "cells" / "m-1-full-seed0" / "training" / "model", device="cpu")
    return model, held_out_samples(out / "data" / "1", 30, 0)


class TestGrid:
    def test_every_size_share_and_seed_once(self):
        names = [c.name for c in grid(recipe(seeds=2))]
        assert len(set(names)) == len(names) == 3 * 2 * 2
        assert "m-0.5-full-seed1" in names

    def test_an_adapter_stands_behind_its_base(self, folder):
        study = recipe(adapters={"settings": {"rank": 2}}, fractions=[0.25, 0.5, 1.0])
        cells = grid(study)
        names = [c.name for c in cells]
        assert [c.fraction for c in cells if c.method == "lora"] == [0.5, 1.0] * 3
        for cell in cells:
            if cell.method == "lora":
                base = scaling._base(study, cell, folder)["model"]
                assert names.index(base.split("/")[1]) < names.index(cell.name)
                assert base.startswith(f"cells/{cell.size.name}-0.25-full")

    def test_trained_weights_are_their_own_base_of_adapters(self, folder):
        sizes = [{"name": "big", "model": "somebody/model"}]
        study = recipe(sizes=sizes, fractions=[1.0], adapters={})
        methods = [c.method for c in grid(study)]
        assert methods == ["full", "lora"]
        assert scaling._base(study, grid(study)[1], folder) == {"model": "somebody/model"}

    def test_a_size_may_have_its_own_learning_rate(self, folder):
        study = recipe(sizes=[{**SIZES[0], "learning_rate": 0.5}, SIZES[1]])
        rates = {c.size.name: training_recipe(study, c, folder).optimisation for c in grid(study)}
        assert rates["xs"].learning_rate == 0.5
        assert rates["s"].learning_rate == 0.01

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"sizes": [{"name": "x", "hidden": 16}]}, "give 'hidden', 'layers' and 'heads'"),
            ({"sizes": [{**SIZES[0], "heads": 3}]}, "multiple of twice its heads"),
            ({"sizes": [{**SIZES[0], "name": "a/b"}]}, "cannot name a folder"),
            ({"sizes": [SIZES[0], SIZES[0]]}, "sizes: 'xs' stands there twice"),
            ({"fractions": [0.5, 2.0]}, "2.0 is not above 0"),
            ({"adapters": {}, "fractions": [1.0]}, "fraction above that of their base"),
            ({"adapters": {"base": 0.3}}, "adapters.base 0.3 is not one of the fractions"),
            ({"evaluation": {"best": "loss"}}, "validation is 0"),
        ],
    )
    def test_what_cannot_work_is_refused(self, changes, said):
        with pytest.raises(UsageError, match=said) as error:
            recipe(**changes)
        assert "\n" not in str(error.value)

    def test_the_packaged_study_is_a_grid_of_five_sizes(self):
        study, _ = find_scaling("pancreas-scaling")
        weights = [12 * s.layers * s.hidden**2 for s in study.sizes]
        assert min(weights) < 1.2e5
        assert max(weights) > 4.5e6
        with pytest.raises(UsageError, match="the packaged ones are pancreas-scaling"):
            find_scaling("pancreas")


class TestRun:
    def test_leaves_points_fits_and_figures(self, finished):
        out, summary = finished
        told = json.loads((out / "results.json").read_text("utf-8"))
        assert len(told["points"]) == len(summary["points"]) == 3 * 2 * 4
        table = pd.read_csv(out / "results.csv")
        assert set(zip(table.task, table.metric, strict=True)) == {
            ("cell_type", "loss"), ("cell_type", "accuracy"), ("cond_cell", "loss"), ("cond_cell", "overlap"),
        }  # fmt: skip
        assert (table.low <= table.value).all()
        assert (table.value <= table.high).all()
        assert sorted(p.name for p in (out / "figures").iterdir()) == [
            "data.png", "data.svg", "size.png", "size.svg",
        ]  # fmt: skip
        axes = [(f["axis"], f["power"] is not None) for f in summary["fits"]]
        assert axes.count(("size", True)) == 4 * 2  # three sizes for each share
        assert axes.count(("data", False)) == 4 * 3  # two shares for each size

    def test_facts_are_those_of_a_count_by_hand(self, finished):
        out, summary = finished
        point = next(p for p in summary["points"] if (p["size"], p["fraction"]) == ("s", 1.0))
        # Two layers of attention (4 matrices) and feed-forward (8) with biases and two norms, and the last norm.
        layer = 12 * 16**2 + (3 + 1 + 4 + 1) * 16 + 4 * 16
        assert point["body"] == 2 * layer + 2 * 16
        assert point["steps"] == 8
        manifest = read_manifest(out / "data" / "1")
        samples = sum(manifest["samples"]["train"].values())
        per_sample = sum(manifest["tokens"]["train"].values()) / samples
        assert point["train_samples"] == samples
        assert point["tokens"] == pytest.approx(64 * per_sample, abs=1)
        assert point["flops"] == 6 * point["body"] * point["tokens"]

    def test_shares_have_their_share_of_samples_of_the_same_split(self, finished):
        out, _ = finished
        whole, half = (read_manifest(out / "data" / name) for name in ("1", "0.5"))
        ratio = sum(half["samples"]["train"].values()) / sum(whole["samples"]["train"].values())
        assert ratio == pytest.approx(0.5, abs=0.02)
        assert half["cells"] == whole["cells"]
        tokens = [
            corpus_tokenizer(out / "data" / n, m).backend.get_vocab()
            for n, m in (("1", whole), ("0.5", half))
        ]
        assert tokens[0] == tokens[1]

    def test_finished_trainings_are_not_run_again(self, finished, folder, monkeypatch):
        out, summary = finished

        def refuse(*_, **__):
            raise AssertionError("trained or measured again")

        with monkeypatch.context() as patched:
            patched.setattr("c2s.training.run.run_recipe", refuse)
            patched.setattr(scaling, "measure", refuse)
            again = run_scaling(recipe(), folder, out, device="cpu", workers=1)
            # A version before such fields wrote these.
            for path, names in (
                (out / "recipe.yaml", ("corpus", "pathways")),
                (out / "cells" / "xs-1-full-seed0" / "training" / "recipe.yaml", ("base", "dtype")),
            ):
                content = yaml.safe_load(path.read_text("utf-8"))
                del content[names[0]][names[1]]
                path.write_text(yaml.safe_dump(content), "utf-8")
            fewer = run_scaling(recipe(sizes=SIZES[:2]), folder, out, device="cpu", workers=1)
        assert again == summary
        of_two = [p for p in summary["points"] if p["size"] != "m"]
        assert fewer["points"] == of_two
        written = (out / "recipe.yaml").read_text("utf-8")
        with pytest.raises(UsageError, match="holds a training with other settings"):
            run_scaling(recipe(optimisation={"steps": 9}), folder, out, device="cpu", workers=1)
        assert (out / "recipe.yaml").read_text("utf-8") == written
        with pytest.raises(UsageError, match="a study with another 'corpus'"):
            run_scaling(
                recipe(corpus={**CORPUS, "samples_per_cell": 3}),
                folder,
                out,
                device="cpu",
                workers=1,
            )

    def test_a_stopped_study_comes_to_the_same(self, finished, folder, monkeypatch):
        from c2s.training import loop

        out, summary = folder / "stopped", finished[1]
        step = loop.PackedTrainer.training_step

        def stop(self, *arguments):
            if self.state.global_step == 5:
                raise KeyboardInterrupt
            return step(self, *arguments)

        study = recipe(sizes=SIZES[:1], fractions=[1.0], evaluation={"every": 4})
        monkeypatch.setattr(loop.PackedTrainer, "training_step", stop)
        with pytest.raises(KeyboardInterrupt):
            run_scaling(study, folder, out, device="cpu", workers=1)
        monkeypatch.undo()
        assert not (out / "results.json").exists()
        resumed = run_scaling(study, folder, out, device="cpu", workers=1)
        whole = [p for p in summary["points"] if (p["size"], p["fraction"]) == ("xs", 1.0)]
        for mine, theirs in zip(resumed["points"], whole, strict=True):
            assert mine["value"] == pytest.approx(theirs["value"], abs=1e-6)
            assert mine["tokens"] == theirs["tokens"]
        assert not (out / "cells" / "xs-1-full-seed0" / "training" / "checkpoints").exists()

    def test_adapters_are_trained_on_their_base_and_anew_on_another(self, folder, monkeypatch):
        study = recipe(sizes=SIZES[:1], adapters={"settings": {"rank": 2}})
        out = folder / "adapters"
        summary = run_scaling(study, folder, out, device="cpu", workers=1)
        lora = [p for p in summary["points"] if p["method"] == "lora"]
        full = [p for p in summary["points"] if p["method"] == "full"]
        assert {p["fraction"] for p in lora} == {1.0}
        assert lora[0]["body"] == full[0]["body"]  # merged
        assert lora[0]["flops"] == 4 * lora[0]["body"] * lora[0]["tokens"]
        trained, measured = [], []

        def train(training, place, into, **options):
            trained.append(into.parent.name)
            assert not (into.parent / "measured").exists()
            return run_recipe(training, place, into, **options)

        def measure_it(*arguments, **options):
            measured.append(1)
            return measure(*arguments, **options)

        monkeypatch.setattr("c2s.training.run.run_recipe", train)
        monkeypatch.setattr(scaling, "measure", measure_it)
        shutil.rmtree(out / "cells" / "xs-0.5-full-seed0" / "training")
        run_scaling(study, folder, out, device="cpu", workers=1)
        assert trained == ["xs-0.5-full-seed0", "xs-1-lora-seed0"]
        assert len(measured) == 2


class TestMeasures:
    def test_samples_are_of_the_test_split_and_of_their_task(self, trained, finished):
        _, samples = trained
        assert {t: {s.task for s in own} for t, own in samples.items()} == {
            "cell_type": {"cell_type"}, "cond_cell": {"cond_cell"},
        }  # fmt: skip
        again = held_out_samples(finished[0] / "data" / "1", 10, 0)
        for task, own in again.items():
            assert len(own) == 10
            assert all(
                np.array_equal(a.ids, b.ids) for a, b in zip(own, samples[task], strict=False)
            )

    def test_losses_are_those_of_transformers(self, trained):
        model, samples = trained
        own = samples["cell_type"][:5] + samples["cond_cell"][:5]
        by_task = sample_losses(model, own, "response", 100)
        found = np.concatenate([by_task["cell_type"], by_task["cond_cell"]])
        for sample, loss in zip(own, found, strict=True):
            ids = torch.from_numpy(np.asarray(sample.ids, np.int64))[None]
            labels = ids.clone()
            labels[0, : sample.prompt_length] = -100
            with torch.no_grad():
                assert loss == pytest.approx(
                    model.network(input_ids=ids, labels=labels).loss.item(), abs=1e-4
                )

    def test_the_answered_label_is_the_most_probable_answer(self, trained):
        model, samples = trained
        own = samples["cell_type"][:6]
        answered, true = label_answered(model, TASKS["cell_type"], own)
        labels = model.known("cell_type")
        assert set(true) <= set(labels)
        response = model.prompts.wording("cell_type").response
        for sample, label, truth in zip(own, answered, true, strict=True):
            prompt = sample.ids[: sample.prompt_length].tolist()
            tails = {
                t: [
                    *model.tokenizer.encode(response.fill({"cell_type": t})).tolist(),
                    model.tokenizer.eos_id,
                ]
                for t in labels
            }
            assert sample.ids[sample.prompt_length :].tolist() == tails[truth]
            scores = {}
            for t, tail in tails.items():
                ids = torch.tensor([[*prompt, *tail]])
                with torch.no_grad():
                    steps = model.network(ids).logits[0].log_softmax(-1)
                scores[t] = sum(
                    steps[len(prompt) - 1 + k, token].item() for k, token in enumerate(tail)
                )
            assert scores[label] == pytest.approx(max(scores.values()), abs=1e-4)

    def test_overlaps_are_those_of_a_count_by_hand(self, trained, monkeypatch):
        model, samples = trained
        own = samples["cond_cell"][:8]
        answers = {tuple(s.ids[: s.prompt_length].tolist()): s.ids.tolist() for s in own}
        columns = model.tokenizer.gene_columns()

        def generate(self, prompts, constraint, sampling, progress=None):
            """Write the true cell behind each prompt, which the prompt's own tokens must lead to."""
            states = []
            for prompt in prompts:
                whole = next(
                    ids for own, ids in answers.items() if tuple(prompt[: len(own)]) == own
                )
                assert whole[: len(prompt)] == list(prompt)
                genes = [columns[t] for t in whole[len(prompt) :] if t in columns]
                others = [c for c in range(len(model.vocabulary)) if c not in genes]
                # All but two genes, in another order; what stands behind as many genes counts for nothing.
                written = [*others[:2], *genes[:1:-1], *genes[:2]]
                states.append(type("State", (), {"genes": written})())
            return states

        monkeypatch.setattr(TransformersEngine, "generate", generate)
        found = gene_overlaps(model, TASKS["cond_cell"], own, temperature=1.0, seed=0)
        sizes = [sum(t in columns for t in s.ids[s.prompt_length :].tolist()) for s in own]
        assert len(set(sizes)) > 1
        assert found.tolist() == pytest.approx([100 * (n - 2) / n for n in sizes])

    def test_generated_cells_have_genes_of_the_true_ones(self, model, make_stream):
        own = CellStream(make_stream(40, tasks=("cond_cell",), seed=5), model.tokenizer).at(
            np.arange(40)
        )
        found = gene_overlaps(model, TASKS["cond_cell"], own, temperature=0.5, seed=0)
        again = gene_overlaps(model, TASKS["cond_cell"], own, temperature=0.5, seed=0)
        assert found.tolist() == again.tolist()
        # A cell has 16 of some 130 genes: 12 % by chance.
        assert 30 < found.mean() < 100

    def test_samples_without_room_are_left_out(self, model, make_stream, monkeypatch):
        stream = make_stream(40, tasks=("cell_type", "cond_cell"), seed=5)
        drawn = CellStream(stream, model.tokenizer).at(np.arange(40))
        own = {t: [s for s in drawn if s.task == t] for t in ("cell_type", "cond_cell")}
        longest = max(map(len, label_answers(model, TASKS["cell_type"], model.known("cell_type"))))
        lengths = np.array([s.prompt_length for s in own["cell_type"]])
        context = int(np.median(lengths)) + longest
        monkeypatch.setattr(model.network.config, "max_position_embeddings", context)
        # Prompts of cells are short: behind all but the longest there is room.
        with pytest.warns(C2SWarning, match="samples left out of the accuracy of cell_type"):
            found = measure(model, own, generated=9, temperature=1.0, seed=0)
        assert (
            np.isnan(found["cell_type", "accuracy"]).tolist()
            == (lengths > context - longest).tolist()
        )
        assert 0 < np.isnan(found["cell_type", "accuracy"]).sum() < len(lengths)
        assert not np.isnan(found["cell_type", "loss"]).any()
        # A cell of 16 genes, each one token, and what stands around them.
        shortest = min(s.prompt_length for s in own["cond_cell"][:9])
        monkeypatch.setattr(model.network.config, "max_position_embeddings", shortest)
        with pytest.warns(C2SWarning, match="9 of 9 samples left out of the overlap of cond_cell"):
            assert np.isnan(
                measure(
                    model, {"cond_cell": own["cond_cell"]}, generated=9, temperature=1.0, seed=0
                )["cond_cell", "overlap"]
            ).all()

    def test_texts_are_scored_where_a_label_answers(self, trained):
        model, samples = trained
        labels = model.known("cell_type")

        def encoder(texts):
            """One direction a label, so that a pair of texts scores 1 if they are the same and 0 if not."""
            return [np.eye(len(labels))[[labels.index(t)]] for t in texts]

        own = {task: values[:20] for task, values in samples.items()}
        found = measure(model, own, generated=0, temperature=1.0, seed=0, encoder=encoder)
        assert set(found) == {
            ("cell_type", "loss"), ("cell_type", "accuracy"), ("cell_type", "bertscore"), ("cond_cell", "loss"),
        }  # fmt: skip
        np.testing.assert_allclose(found["cell_type", "bertscore"], found["cell_type", "accuracy"])
        assert 0 < found["cell_type", "accuracy"].mean() < 100


class TestIntervals:
    def planted(self, seed, n=200, seeds=1):
        """Results of five sizes whose losses follow 1.5 + 60·N^(−0.4), samples varying together."""
        rng = np.random.default_rng(seed)
        shared = rng.normal(0, 0.5, n)  # what makes a sample hard is hard for every model
        results = []
        for k, size in enumerate((1e5, 3e5, 9e5, 2.7e6, 8.1e6)):
            for s in range(seeds):
                loss = 1.5 + 60 * size**-0.4 + shared + rng.normal(0, 0.05, n)
                facts = {"body": int(size), "train_samples": 100}
                results.append(Result(f"n{k}", 1.0, "full", s, facts, {("t", "loss"): loss}))
        return results

    def test_they_cover_what_was_planted(self):
        study, covered, runs = recipe(resamples=200), {"c": 0, "a": 0}, 30
        for seed in range(runs):
            (fit,) = summarise(study, self.planted(seed))["fits"]
            for name, true in (("c", 0.4), ("a", 1.5)):
                law = fit["power"][name]
                covered[name] += law["low"] <= true <= law["high"]
        assert covered["c"] >= 0.8 * runs
        assert covered["a"] >= 0.8 * runs

    def test_samples_are_drawn_together(self):
        # The spread that samples share moves all sizes alike, so it is in the interval of a point, not in that of c.
        (fit,) = summarise(recipe(resamples=200), self.planted(0))["fits"]
        assert fit["power"]["c"]["high"] - fit["power"]["c"]["low"] < 0.25
        points = summarise(recipe(resamples=200), self.planted(0))["points"]
        assert points[0]["high"] - points[0]["low"] == pytest.approx(4 * 0.5 / 200**0.5, rel=0.3)

    def test_samples_that_one_training_was_not_measured_on_count_for_none(self):
        whole = self.planted(0)
        holed, cut = [], []
        for k, r in enumerate(whole):
            values = r.values["t", "loss"].copy()
            cut.append(replace(r, values={("t", "loss"): np.delete(values, [3, 7])}))
            values[[3, 7][k % 2]] = np.nan
            holed.append(replace(r, values={("t", "loss"): values, ("t", "x"): values * np.nan}))
        study = recipe(resamples=50)
        assert summarise(study, holed) == summarise(study, cut)

    def test_seeds_widen_them(self):
        results = self.planted(0, seeds=3)
        moved = [
            Result(r.size, r.fraction, r.method, r.seed, r.facts, {("t", "loss"): r.values["t", "loss"] + r.seed})
            for r in results
        ]  # fmt: skip
        still, wide = (summarise(recipe(resamples=200), r)["points"][0] for r in (results, moved))
        assert wide["sd_seeds"] == pytest.approx(1.0, abs=0.05)
        assert wide["high"] - wide["low"] > 5 * (still["high"] - still["low"])
        assert wide["trainings"] == 3


def test_the_command_lists_and_runs(folder, finished, capsys, monkeypatch):
    from c2s.cli import main

    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(recipe().model_dump(mode="json")), "utf-8")

    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["c2s", "scaling", *map(str, arguments)])
        code = 0
        try:
            main.main()
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    code, out, _ = command(path, "-o", folder / "nowhere", "--dry-run")
    assert code == 0
    assert "xs-0.5-full-seed0: from bases/xs-16x1x1-seed0" in out
    assert not (folder / "nowhere").exists()
    code, out, _ = command(path, "-o", finished[0], "--device", "cpu")  # nothing is left to do
    assert code == 0
    assert "cell_type loss by size (1 of the data, full)" in out
    code, _, err = command("no-such", "-o", folder / "x")
    assert code == 2
    assert "no scaling study of that name" in err
