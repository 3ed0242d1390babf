"""`c2s study` as a person meets it: a list, a recipe to change, a run, one clear line on failure."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import yaml

RECIPE = {
    "kind": "annotation",
    "title": "My cells",
    "data": "cells.h5ad",
    "baselines": ["knn", "logistic_regression"],
    "pseudo_donors": 4,
    "resamples": 20,
}


@pytest.fixture
def c2s(c2s, monkeypatch):
    """Return a function that runs `c2s study ARGS` and gives (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *args: c2s("study", *args)


@pytest.fixture
def home(cut, tmp_path):
    """A folder with a recipe and its cells, which is the working folder too."""
    cut.write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(RECIPE))
    return tmp_path


def test_the_list_names_every_study_and_where_its_cells_come_from(c2s):
    code, out, _ = c2s("list")
    assert code == 0
    assert "pancreas-annotation" in out
    assert "to be given with --data" in out
    code, out, _ = c2s("list", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["immune-ood"] == {
        "name": "immune-ood", "kind": "ood", "title": "Immune cells of tissues that were held out", "data": None,
    }  # fmt: skip


def test_a_packaged_recipe_is_shown_and_runs_after_a_change(c2s, home):
    code, out, _ = c2s("show", "pancreas-annotation")
    assert code == 0
    content = yaml.safe_load(out)
    code, _, _ = c2s("show", "pancreas-annotation", "--out", "shown.yaml")
    assert (home / "shown.yaml").read_text() == out
    code, _, _ = c2s("show", "pancreas-ood", "--out", "shown.yaml")
    assert (code, (home / "shown.yaml").read_text()) == (2, out)
    content.update(data="cells.h5ad", baselines=["knn"], resamples=20)
    del content["train"]
    (home / "changed.yaml").write_text(yaml.safe_dump(content))
    code, out, _ = c2s("run", "changed.yaml", "-o", "out")
    assert code == 0
    assert out.startswith("# Annotation of the packaged pancreas cells\n")
    assert "published, on" in out


def test_a_run_prints_its_summary_or_its_results(c2s, home):
    code, out, err = c2s("run", "mine.yaml", "--out", "out", "--seed", 3)
    assert code == 0
    assert "Reading cells" in err
    assert (home / "out" / "summary.md").read_text() in out
    code, out, _ = c2s("run", "mine.yaml", "-o", "out", "--seed", 3, "--json")
    found = json.loads(out)
    assert (found["study"], found["kind"], found["published"]) == ("mine", "annotation", None)
    assert found["cells"]["parts"]["test"]["cells"] == 30
    assert pd.read_csv(home / "out" / "results.csv")["value"].notna().all()


def test_other_cells_and_a_model_are_taken_from_options(c2s, home, model_folder, cut):
    cut[:90].write_h5ad(home / "fewer.h5ad")
    code, out, _ = c2s(
        "run", "mine.yaml", "--data", "fewer.h5ad", "--model", model_folder, "--dry-run", "--json"
    )
    facts = json.loads(out)
    assert code == 0
    assert (
        facts["cells"]["parts"]["train"]["cells"] + facts["cells"]["parts"]["test"]["cells"] == 90
    )
    assert facts["model"]["source"] == str(model_folder)
    assert not (home / "out").exists()
    code, out, _ = c2s("run", "mine.yaml", "--dry-run")
    assert "train: 120 cells, 5 labels, 4 donors" in out
    assert "model: none" in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run", "immune-annotation", "-o", "out"], "immune-annotation: give --data FILE"),
        (["run", "imune-annotation", "-o", "out"], "did you mean 'immune-annotation'"),
        (["run", "gone.yaml", "-o", "out"], "gone.yaml: cannot be read"),
        (["run", "mine.yaml"], "--out is missing"),
        (["run", "mine.yaml", "-o", "out", "--data", "gone.h5ad"], "gone.h5ad"),
        (["run", "mine.yaml", "-o", "out", "--model", "gone"], "gone"),
        (["run", "mine.yaml", "-o", "out", "--layer", "raw"], "has no layer 'raw'"),
        (["run", "pancreas-ood", "-o", "out", "--data", "other.h5ad"], "obs has no column 'cell_type'"),
        (["show", "immune"], "there is no study 'immune'"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_one_line_before_any_work(c2s, home, cut, arguments, line):
    bare = cut.copy()
    bare.obs = bare.obs[["organism"]]
    bare.write_h5ad(home / "other.h5ad")
    code, _, err = c2s(*arguments)
    assert code in (1, 2)
    last = err.strip().splitlines()[-1]
    assert last.startswith("c2s: ")
    assert line in last
    assert "Traceback" not in err
    assert "Training" not in err
    assert not (home / "out").exists()
