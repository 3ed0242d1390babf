"""The demo end to end with few steps: what it leaves, that it repeats, and that nothing leaks from held-out cells."""

from __future__ import annotations

import json
import re
from collections import Counter

import anndata as ad
import numpy as np
import pytest

from c2s.common.errors import UsageError
from c2s.models.directory import find_model, load_model
from c2s.studies.demo import demo_recipe, run_demo
from c2s.studies.train import build_model, prepare


def short_recipe(steps=2, seed=0):
    recipe = demo_recipe(seed=seed)
    optimisation = recipe.optimisation.model_copy(
        update={"steps": steps, "batch_size": 8, "eval_every": 1}
    )
    return recipe.model_copy(
        update={"optimisation": optimisation, "top_k": 24, "temperatures": [1.0]}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("demo")
        patch.setenv("XDG_DATA_HOME", str(place / "home"))
        run_demo(place / "demo", short_recipe(), device="cpu")
        patch.chdir(place)
        assert load_model(find_model()).card.top_k == 24  # it was left where commands look
    return place / "demo"


def keys(metrics, path):
    for key in path.split("."):
        metrics = metrics[key]
    return metrics


@pytest.mark.slow
def test_it_leaves_what_others_rely_on(folder, pancreas):
    assert {"model", "annotated.h5ad", "generated.h5ad", "metrics.json", "report.html"} <= {
        p.name for p in folder.iterdir()
    }
    metrics = json.loads((folder / "metrics.json").read_text())
    for path in (
        "annotation.accuracy", "annotation.macro_f1", "annotation.baselines.logistic_regression.accuracy",
        "generation.valid_fraction", "generation.unique_fraction", "generation.exact_k_fraction", "generation.scfid",
        "generation.scfid_ceiling", "generation.nearest_training_distance", "generation.baselines.independent.scfid",
        "inverse.r2", "seconds",
    ):  # fmt: skip
        assert isinstance(keys(metrics, path), float), path
    annotated = ad.read_h5ad(folder / "annotated.h5ad")
    assert set(annotated.obs["split"]) == {"train", "val", "test"}
    test = annotated.obs[annotated.obs["split"] == "test"]
    right = (test["cell_type"].astype(str) == test["c2s_cell_type"].astype(str)).mean()
    assert metrics["annotation"]["accuracy"] == pytest.approx(right)
    assert annotated.obsm["X_c2s"].shape[0] == annotated.n_obs == 1937
    assert (annotated.X != pancreas.X).nnz == 0  # the verbs changed nothing
    assert {"cell_type", "c2s_cell_type", "c2s_confidence"} <= set(annotated.obs)


@pytest.mark.slow
def test_generated_cells_are_valid_match_the_held_out_types_and_cover_every_type(folder):
    made = ad.read_h5ad(folder / "generated.h5ad")
    annotated = ad.read_h5ad(folder / "annotated.h5ad", backed="r").obs
    sentences = [s.split() for s in made.obs["cell_sentence"]]
    assert all(len(s) == len(set(s)) == 24 for s in sentences)
    assert set().union(*sentences) <= set(made.var_names)
    assert set(made.var["symbol"]) <= set(ad.read_h5ad(folder / "annotated.h5ad").var_names)
    assert "C10orf10" in set(made.var["symbol"])
    assert made.var_names.tolist() == made.var["symbol"].str.upper().tolist()
    matched = made.obs[made.obs["matched"]]["cell_type"].value_counts()
    test = annotated[annotated["split"] == "test"]["cell_type"].value_counts()
    assert {k: v for k, v in matched.items() if v} == {k: v for k, v in test.items() if v}
    assert set(made.obs["cell_type"]) == set(annotated["cell_type"])


@pytest.mark.slow
def test_the_report_needs_no_network_and_says_the_numbers(folder):
    page = (folder / "report.html").read_text("utf-8")
    assert not re.search(r"""(src|href)=["']https?://""", page)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert f"{100 * metrics['annotation']['accuracy']:.1f}" in page


@pytest.mark.slow
def test_a_second_run_gives_the_same_numbers_and_replaces_the_first(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    first = json.loads((folder / "metrics.json").read_text())
    run_demo(folder, short_recipe(), device="cpu", keep_model=False)
    second = json.loads((folder / "metrics.json").read_text())
    for part in ("annotation", "generation", "inverse"):
        assert first[part] == second[part]


def test_a_folder_that_is_no_demo_is_refused_and_kept(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not an earlier run"):
        run_demo(tmp_path, short_recipe())
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_held_out_cells_decide_nothing_before_they_are_measured(pancreas):
    """Other counts in the test cells leave split, genes, inverse and training counts as they are."""
    recipe = short_recipe()
    before = prepare(pancreas, recipe)
    changed = pancreas.copy()
    test = before.rows("test")
    rng = np.random.default_rng(0)
    dense = changed.X.tolil()
    dense[test[:50]] = rng.poisson(3, size=(50, changed.n_vars))
    changed.X = dense.tocsr().astype(np.float32)
    after = prepare(changed, recipe)
    assert (before.split == after.split).all()
    assert before.vocabulary == after.vocabulary
    assert before.inverse.to_dict() == after.inverse.to_dict()
    train = before.rows("train")
    assert (before.counts[train] != after.counts[train]).nnz == 0
    assert (before.counts[test] != after.counts[test]).nnz > 0


def test_the_card_counts_training_cells_by_gene(pancreas):
    """By the text of the sentences of the training cells; cells of other parts are not counted."""
    recipe = short_recipe()
    cells = prepare(pancreas, recipe)
    card = build_model(cells, recipe, "pancreas", shape_only=True).card
    sentences = cells.ranked(cells.rows("train"), 24, recipe.seed).to_text().to_pylist()
    written = Counter(word for sentence in sentences for word in sentence.split(" "))
    assert card.gene_frequencies == [written[word] for word in card.vocabulary]
    assert sum(card.gene_frequencies) == 24 * len(cells.rows("train"))
    assert card.model_validate(card.model_dump()).gene_frequencies == card.gene_frequencies


def test_a_model_may_learn_cells_of_no_condition(pancreas):
    import c2s
    from c2s.corpus.online import TaskMix

    recipe = short_recipe().model_copy(update={"tasks": {"sc_lm": TaskMix()}})
    recipe = type(recipe).model_validate(recipe.model_dump())
    model = build_model(prepare(pancreas, recipe), recipe, "pancreas")
    made = c2s.tl.generate(model, n=3, top_k=5)
    assert made.uns["c2s"]["generate"]["parameters"]["task"] == "sc_lm"
    assert made.obs["organism"].tolist() == ["Homo sapiens"] * 3
