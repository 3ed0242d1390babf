"""`c2s train` for recipes with a stage: by name, and what would be done."""

import json

import pytest
import yaml


@pytest.fixture
def recipe(tmp_path, cut):
    """A recipe over a few cells."""
    cut.write_h5ad(tmp_path / "cut.h5ad")
    content = {
        "stage": "sft",
        "base": {"preset": "mini"},
        "data": {
            "recipe": {
                "sources": [{"data": "cut.h5ad"}], "tasks": {"cell_type": {}}, "single_genes": [20, 30],
                "tokens": "genes", "context": 128, "samples_per_cell": 1, "quality": {"min_cells": 10},
            }
        },
        "optimisation": {"preset": "l1000", "batch_size": 8, "tokens_per_pass": 128},
    }  # fmt: skip
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_dry_run_says_what_would_be_done_and_leaves_nothing(c2s, recipe, tmp_path):
    code, out, err = c2s("train", recipe, "-o", tmp_path / "out", "--dry-run", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["steps"] == 3500
    assert facts["epochs"] == pytest.approx(3500 * 8 / facts["samples"]["cell_type"], abs=0.01)
    assert facts["tokens_a_pass"] <= 128
    assert facts["passes_a_step"] >= 4
    memory = facts["memory"]
    assert memory["no_checkpointing"]["optimiser"] == 8 * facts["trainable_parameters"]
    assert not (tmp_path / "out").exists()
    assert not any("epoch" in p.name for p in tmp_path.iterdir())


def test_what_a_run_would_be_refused_for_a_dry_run_is_too(c2s, recipe, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    code, _, err = c2s("train", recipe, "-o", tmp_path / "out", "--dry-run")
    assert code == 2
    assert "holds 'notes.txt', which no training run wrote" in err


def test_a_packaged_recipe_is_printed_to_be_copied(c2s):
    from c2s.training.shipped import recipe_names, shipped_recipe

    for name in recipe_names():
        code, out, _ = c2s("train", "--show", name)
        assert code == 0
        assert out.startswith("# ")
        assert yaml.safe_load(out) == shipped_recipe(name)
    code, _, err = c2s("train", "--show", "align-generatoin")
    assert code == 2
    assert "did you mean 'align-generation'?" in err


def test_names_that_recipes_may_use_are_listed(c2s):
    from c2s.training.rewards import REWARDS

    code, out, _ = c2s("train", "--list")
    assert code == 0
    assert out.startswith("recipes: align-generation, cell-generation, cell-type, pretrain\n")
    assert "policy.preset: scqa, dong, l1000" in out
    listed = out.split("rewards:\n")[1].splitlines()
    assert [line.split()[0] for line in listed] == list(REWARDS)


def test_a_mistyped_stage_is_answered_with_the_nearest(c2s, recipe, tmp_path):
    recipe.write_text(recipe.read_text().replace("stage: sft", "stage: gpro"))
    code, _, err = c2s("train", recipe, "-o", tmp_path / "out")
    assert code == 2
    assert err.strip().endswith(
        "stage = 'gpro': expected pretrain, sft or grpo; did you mean 'grpo'?"
    )


def test_a_forgotten_stage_is_named(c2s, recipe, tmp_path):
    content = yaml.safe_load(recipe.read_text())
    del content["stage"]
    recipe.write_text(yaml.safe_dump(content))
    code, _, err = c2s("train", recipe, "-o", tmp_path / "out")
    assert code == 2
    assert err.strip().endswith("train.yaml: the field 'stage' is missing: pretrain, sft or grpo")


def test_a_dry_run_as_a_table():
    from c2s.cli.training_plan import in_words, memory_table

    parts = ("weights", "gradients", "optimiser", "activations", "loss")
    kept = {**dict.fromkeys(parts, 1024), "peak": 3 * 1024**3}
    memory = {
        "chosen": "no_checkpointing",
        "no_checkpointing": kept,
        "gradient_checkpointing": {**kept, "peak": 5},
    }
    table = memory_table(memory)
    assert table[0].split() == ["memory", "of", "a", "device", "all", "kept", "*", "checkpointing"]
    assert table[1].split() == ["weights", "1.0", "KiB", "1.0", "KiB"]
    assert table[-2].split() == ["most", "at", "a", "time", "3.0", "GiB", "5", "B"]
    assert in_words(1536) == "1.5 KiB"


def test_a_name_that_is_no_recipe(c2s, tmp_path):
    code, _, err = c2s("train", "cell-typ", "-o", tmp_path / "out")
    assert code == 2
    assert (
        "those that come with the package: align-generation, cell-generation, cell-type, pretrain; did you mean 'cell-type'?"
        in err
    )
    code, _, err = c2s("train", "missing.yaml", "-o", tmp_path / "out")
    assert code == 1
    assert "missing.yaml: cannot be read" in err


def test_a_name_is_the_packaged_recipe(c2s, tmp_path, monkeypatch):
    from c2s.training import run

    asked = []

    def note(recipe, folder, out, **_):
        asked.append(recipe)
        return {"validation": {}}

    monkeypatch.setattr(run, "run_recipe", note)
    code, _, err = c2s("train", "cell-generation", "-o", tmp_path / "out", "--seed", 7)
    assert code == 0, err
    assert list(asked[0].data.recipe.tasks) == ["cond_cell"]
    assert asked[0].seed == 7
