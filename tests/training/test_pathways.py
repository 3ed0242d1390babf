"""Recipes whose data name pathways before answers: what the model's card says, and what is refused."""

import dataclasses

import pytest

import c2s
from c2s.common.errors import UsageError
from c2s.tasks.pathways import PathwayLine
from c2s.training.base import pathways_named
from c2s.training.recipe import TrainingRecipe
from c2s.training.run import run_recipe

SETS = "S_HORMONES\tx\tINS\tGCG\tSST\tTTR\tIAPP\nS_ENZYMES\tx\tPRSS1\tPRSS2\tCTRB1\tCTRB2\tCPA1\nS_KERATINS\tx\tKRT7\tKRT8\tKRT18\tKRT19\tSPP1\n"  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cut):
    place = tmp_path_factory.mktemp("training")
    cut.write_h5ad(place / "cells.h5ad")
    (place / "sets.gmt").write_text(SETS)
    return place


def recipe(pathways, task="cell_type", **changes):
    content = {
        "stage": "sft",
        "base": {"preset": "mini"},
        "data": {
            "recipe": {
                "sources": [{"data": "cells.h5ad"}],
                "tasks": {task: None},
                "single_genes": [10, 20],
                "tokens": "genes",
                "small_tokens": 400,
                "quality": {"min_genes": 1, "max_pct_mt": None, "min_cells": 20},
                "split": {"fractions": [0.7, 0.2, 0.1]},
                "pathways": pathways,
            },
            "validation": 12,
        },
        "optimisation": {"steps": 2, "batch_size": 4, "learning_rate": 0.003},
        "evaluation": {"every": 2, "best": "accuracy_cell_type"},
        "save_every": 2,
        **changes,
    }
    return TrainingRecipe.parse(content, "test")


NAMED = {"gene_sets": "sets.gmt", "number": 2, "tasks": ["cell_type"]}


def test_a_run_keeps_what_is_named_and_measures_behind_it(folder, tmp_path, cut, monkeypatch):
    facts = run_recipe(recipe(NAMED), folder, tmp_path / "out", device="cpu")
    assert set(facts["metrics"]) == {"loss_cell_type", "accuracy_cell_type"}
    model = c2s.load_model(tmp_path / "out" / "model", device="cpu")
    names = ["hormones", "enzymes", "keratins"]
    assert model.card.pathways == PathwayLine(names=names, number=2, tasks=["cell_type"])
    card = (tmp_path / "out" / "model" / "README.md").read_text("utf-8")
    assert "Before the answers of `cell_type` it names 2 of 3 pathways (gene sets of sets.gmt" in card  # fmt: skip
    adata = cut[:3].copy()
    c2s.tl.annotate(adata, model)
    for text in adata.obs["c2s_pathways"]:
        assert len(set(text.split("; ")) & set(names)) == 2
    # It would go on naming them before labels, and then prompts must be read causally.
    further = recipe(
        None, "cond_cell", base={"model": str(tmp_path / "out" / "model")},
        attention={"kind": "prefix"}, evaluation={"every": 2},
    )  # fmt: skip
    monkeypatch.setattr("c2s.training.run.open_base", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(UsageError, match="attention.kind = 'prefix': the base names pathways before answers"):  # fmt: skip
        run_recipe(further, folder, tmp_path / "further", device="cpu")


def test_attention_that_is_not_causal_is_refused(folder, tmp_path):
    wrong = recipe(NAMED, attention={"kind": "prefix"})
    with pytest.raises(UsageError, match="attention.kind = 'prefix' does not go together with data.recipe.pathways"):  # fmt: skip
        run_recipe(wrong, folder, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out" / "data").exists()  # before anything is drawn


@dataclasses.dataclass
class Data:
    """What a card takes of training data."""

    pathways: PathwayLine | None
    tasks: list[str]


def test_what_a_base_names_stays_for_tasks_that_are_not_trained_on():
    base = PathwayLine(names=["a", "b"], number=1, tasks=["cell_type", "cond_cell"])
    own = base.model_copy(update={"tasks": ["sc_lm"]})
    other = PathwayLine(names=["a", "c"], number=1, tasks=["cell_type"])
    assert pathways_named(Data(None, ["cell_type"]), None) is None
    assert pathways_named(Data(own, ["sc_lm"]), None) == own
    assert pathways_named(Data(None, ["cell_type", "cond_cell"]), base) is None
    assert pathways_named(Data(None, ["cell_type"]), base).tasks == ["cond_cell"]
    assert pathways_named(Data(own, ["sc_lm"]), base).tasks == ["cell_type", "cond_cell", "sc_lm"]
    assert pathways_named(Data(other, ["cell_type", "cond_cell"]), base) == other
    with pytest.raises(UsageError, match="pathways: the base names others before the answers of cond_cell"):  # fmt: skip
        pathways_named(Data(other, ["cell_type"]), base)
