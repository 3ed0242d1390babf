"""`c2s evaluate` and `c2s compare` as a user calls them."""

import json
import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from c2s.datasets import pancreas
from c2s.encoders.pca import PCAEncoder

RUN = "import sys; from c2s.cli.main import main; sys.argv[0] = 'c2s'; main()"


def c2s(*arguments, folder):
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], cwd=folder, capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with real, generated and training cells of two types, and one file with all of the first."""
    folder = tmp_path_factory.mktemp("evaluate")
    adata = pancreas()
    adata = adata[adata.obs["cell_type"].isin(["alpha", "beta"])].copy()
    order = np.random.default_rng(0).permutation(adata.n_obs)[:360]
    adata = adata[order].copy()
    adata.obs["split"] = np.repeat(["train", "test", "made"], 120)
    adata.obs["drug"] = np.tile(["none", "a"], 180)
    adata[adata.obs["split"] != "made"].write_h5ad(folder / "cells.h5ad")
    for part, name in (("train", "train"), ("test", "real"), ("made", "made")):
        adata[adata.obs["split"] == part].write_h5ad(folder / f"{name}.h5ad")
    (folder / "none.txt").touch()
    return folder


QUICK = ("--by", "cell_type", "--splits", "3", "--metrics", "energy_distance,overlap")


@pytest.fixture(scope="module")
def first(home):
    code, out, err = c2s(
        "evaluate",
        "real.h5ad",
        "made.h5ad",
        "--train",
        "train.h5ad",
        *QUICK,
        "-o",
        "one",
        folder=home,
    )
    assert code == 0, err
    return out


def test_a_folder_with_everything_is_left(home, first):
    left = {path.name for path in (home / "one").iterdir()}
    assert left == {
        "evaluation.json",
        "table.csv",
        "left_out.csv",
        "report.html",
        "plots",
        "encoder.npz",
    }
    facts = json.loads((home / "one" / "evaluation.json").read_text())
    assert facts["encoder"] == f"pca-{PCAEncoder.load(home / 'one' / 'encoder.npz').digest()[:16]}"
    assert facts["files"]["real"]["name"] == "real.h5ad"
    assert len(facts["files"]["train"]["sha256"]) == 64
    table = pd.read_csv(home / "one" / "table.csv")
    assert set(table["metric"]) == {"energy_distance", "overlap"}
    assert {"generated", "ceiling", "independent"} <= set(table["candidate"])
    assert "<html" in (home / "one" / "report.html").read_text()
    pictures = {path.name for path in (home / "one" / "plots").iterdir()}
    assert {"mean.png", "together.png", "map.png", "conditions_overlap.png"} <= pictures
    assert "Energy" in first
    assert "Report:" in first


def test_test_and_training_cells_may_come_in_one_file(home, first):
    code, out, err = c2s(
        "evaluate",
        "cells.h5ad",
        "made.h5ad",
        "--split",
        "split",
        *QUICK,
        "-o",
        "two",
        "--json",
        folder=home,
    )
    assert code == 0, err
    one = json.loads((home / "one" / "evaluation.json").read_text())
    assert json.loads(out)["table"] == one["table"]


def test_evaluations_are_compared_or_refused(home, first):
    encoder = "pca:one/encoder.npz"
    code, _, err = c2s(
        "evaluate",
        "real.h5ad",
        "train.h5ad",
        "--train",
        "train.h5ad",
        "--encoder",
        encoder,
        *QUICK,
        "-o",
        "copies",
        folder=home,
    )
    assert code == 0, err
    code, _, err = c2s("compare", "one", "copies", folder=home)
    assert code == 1
    assert "generate as many cells of each condition with every model" in err
    code, out, err = c2s("compare", "a=one", "b=one", "--json", "-o", "table.csv", folder=home)
    assert code == 0, err
    rows = json.loads(out)
    assert {"a", "b", "ceiling"} <= {row["model"] for row in rows}
    assert len(pd.read_csv(home / "table.csv")) == len(rows)
    c2s(
        "evaluate",
        "real.h5ad",
        "made.h5ad",
        "--encoder",
        "pca:5",
        *QUICK,
        "-o",
        "five",
        folder=home,
    )
    code, _, err = c2s("compare", "one", "five", folder=home)
    assert code == 1
    assert err.startswith("c2s: one and five cannot be compared: other ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("one",), "found only one, expected two or more"),
        (("one", "ceiling=one"), "'ceiling' already stands in the table"),
        (("a=one", "=one"), "found '=one', expected FOLDER or NAME=FOLDER"),
        (("one", "one"), "two evaluations are called 'one'"),
        (("one", "nowhere"), "nowhere: cannot be read as an evaluation"),
    ],
)
def test_comparing_what_cannot_be_compared_is_one_line(home, first, arguments, message):
    code, _, err = c2s("compare", *arguments, folder=home)
    assert code in (1, 2)
    assert message in err
    assert err.count("\n") == 1


def test_a_folder_may_have_an_equals_sign_and_no_number_is_cut_off(home, first):
    (home / "lr=0.1").symlink_to(home / "one")
    code, out, err = c2s("compare", "lr=0.1", "b=one", folder=home)
    assert code == 0, err
    table = pd.read_csv(home / "one" / "table.csv")
    value = table.query("scope == 'mean' and candidate == 'generated' and metric == 'overlap'")
    assert "…" not in out
    assert f"{value['value'].item():.3g}" in out


def test_a_value_of_fewer_conditions_says_how_many(home, first, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    adata = ad.read_h5ad(home / "train.h5ad")
    adata[adata.obs["cell_type"] == "beta"].copy().write_h5ad(home / "beta.h5ad")
    arguments = ("real.h5ad", "made.h5ad", "--train", "beta.h5ad", *QUICK)
    code, out, err = c2s("evaluate", *arguments, "-o", "of_beta", folder=home)
    assert code == 0, err
    assert "of 2)" not in first
    assert "(1 of 2)" in out


def test_an_evaluation_like_another_can_be_compared_with_it(home, first):
    made = ad.read_h5ad(home / "made.h5ad")
    one = made[:, np.asarray(made.X.sum(axis=0)).ravel() > 2].copy()
    one.write_h5ad(home / "fewer.h5ad")
    arguments = ("--train", "train.h5ad", *QUICK)
    code, _, err = c2s(
        "evaluate",
        "real.h5ad",
        "fewer.h5ad",
        *arguments,
        "--top-k",
        "80",
        "-o",
        "base",
        folder=home,
    )
    assert code == 0, err
    code, _, err = c2s("compare", "base", "one", folder=home)
    assert code == 1
    assert "other sentence lengths" in err
    assert "--like" in err
    code, _, err = c2s(
        "evaluate",
        "real.h5ad",
        "made.h5ad",
        *arguments,
        "--like",
        "base",
        "-o",
        "same",
        folder=home,
    )
    assert code == 0, err
    code, out, err = c2s("compare", "base", "same", "--json", folder=home)
    assert code == 0, err
    values = {(r["model"], r["metric"]): r["value"] for r in json.loads(out)}
    assert values["base", "overlap"] == values["same", "overlap"]
    code, _, err = c2s(
        "evaluate", "real.h5ad", "fewer.h5ad", *arguments, "--like", "one", "-o", "x", folder=home
    )
    assert code == 2
    assert "lacks" in err


def test_files_in_the_wrong_order_are_refused(home):
    code, _, err = c2s("evaluate", "real.h5ad", "real.h5ad", *QUICK, "-o", "x", folder=home)
    assert (code, err.count("\n")) == (2, 1)
    assert "are the same file" in err
    written = ad.read_h5ad(home / "made.h5ad")
    written.uns["c2s"] = {"generate": {"model": "demo"}}
    written.write_h5ad(home / "written.h5ad")
    code, _, err = c2s("evaluate", "written.h5ad", "real.h5ad", *QUICK, "-o", "x", folder=home)
    assert code == 2
    assert "REAL comes first" in err


def test_cell_eval_files_are_written_on_request(home):
    code, _, err = c2s(
        "evaluate", "real.h5ad", "made.h5ad", "--by", "cell_type,drug", "--control", "drug=none", "--cell-eval",
        "--splits", "2", "--metrics", "pearson_response", "--encoder", "pca:5", "-o", "treated", folder=home,
    )  # fmt: skip
    assert code == 0, err
    assert {"real.h5ad", "predicted.h5ad"} <= {
        p.name for p in (home / "treated" / "cell-eval").iterdir()
    }
    code, _, err = c2s(
        "evaluate", "real.h5ad", "made.h5ad", *QUICK, "--cell-eval", "-o", "x", folder=home
    )
    assert code == 2
    assert "--control perturbation=control" in err
    assert not (home / "x").exists()


def test_genes_of_a_set_are_looked_at(home):
    (home / "sets.gmt").write_text("HORMONES\tx\tINS\tGCG\tTTR\tIAPP\n")
    arguments = ["evaluate", "real.h5ad", "made.h5ad", *QUICK, "--encoder", "pca:2", "-o", "genes"]
    code, _, err = c2s(*arguments, "--genes", "sets.gmt:HORMONES", folder=home)
    assert code == 0, err
    assert json.loads((home / "genes" / "evaluation.json").read_text())["n_genes_measured"] == 4
    code, _, err = c2s(*arguments, "--genes", "sets.gmt:HORMONE", folder=home)
    assert (code, err.count("\n")) == (2, 1)
    assert "has no set 'HORMONE'; it has HORMONES" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--by", "cell_typ", "-o", "x"), "did you mean 'cell_type'"),
        (
            ("--by", "cell_type", "-o", "x", "--train", "train.h5ad", "--split", "split"),
            "either --train or --split",
        ),
        (("--by", "cell_type", "-o", "x", "--split", "drug"), "no cell has obs['drug'] = 'test'"),
        (("--by", "cell_type", "-o", "x", "--min-cells", "scfid"), "expected METRIC=NUMBER"),
        (("--by", "cell_type", "-o", "x", "--encoder", "umap"), "found 'umap'"),
        (("--by", "cell_type", "-o", "x", "--encoder", "scgpt:nowhere"), "nowhere"),
        (("--by", "cell_type", "-o", "x", "--metrics", ","), "metrics: found none"),
        (("--by", "cell_type", "-o", "x", "--genes", "none.txt"), "the file is empty"),
        (("--by", "cell_type", "-o", "."), "holds something that is not an earlier run"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_nothing(home, arguments, message):
    code, _, err = c2s("evaluate", "real.h5ad", "made.h5ad", *arguments, folder=home)
    assert code in (1, 2)
    assert message in err
    assert err.count("\n") == 1
    assert not (home / "x").exists()
