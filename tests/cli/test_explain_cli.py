"""`c2s explain` as a person meets it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import c2s as package
from c2s.common.errors import C2SWarning


@pytest.fixture
def explain(c2s, cut, model_folder, tmp_path):
    """Return a function that explains ten cells with options, and gives (exit code, stdout, stderr)."""
    cut[::15].copy().write_h5ad(tmp_path / "cut.h5ad")
    return lambda *options: c2s("explain", "cut.h5ad", "--model", model_folder, *options)


def test_writes_the_table_and_prints_the_top_genes(explain, cut, model):
    code, out, err = explain("-o", "e.csv", "--top-n", 2)
    assert code == 0, err
    wanted = package.tl.explain(cut[::15].copy(), model)
    pd.testing.assert_frame_equal(pd.read_csv("e.csv"), wanted, atol=1e-6)
    top = package.tl.top_genes(wanted, 2)
    assert out.startswith("10 cells, 160 genes of cells in e.csv (leave_one_out, nats)")
    for label, part in top.groupby("label"):
        (line,) = (line for line in out.splitlines() if line.startswith(f"{label} ("))
        assert line.endswith(", ".join(f"{r.gene} {r.value:+.3g}" for r in part.itertuples()))


def test_json_and_parquet_and_the_deletion_test(explain, cut, model):
    options = ["--method", "integrated_gradient", "--label-key", "cell_type", "--cells", 6]
    options += ["--candidate", "alpha", "--candidate", "beta", "--candidate", "ductal"]
    options += ["--candidate", "acinar", "--candidate", "delta"]
    code, out, err = explain("-o", "e.parquet", "--json", "--deletion-test", 3, *options)
    assert code == 0, err
    table, facts = pd.read_parquet("e.parquet"), json.loads(out)
    truth = cut.obs["cell_type"].astype(str)
    assert (table["label"].to_numpy() == truth[table["cell"]].to_numpy()).all()
    assert set(table["method"]) == {"integrated_gradient"}
    assert facts["cells"] == table["cell"].nunique() == 6
    assert sum(entry["cells"] for entry in facts["labels"].values()) == 6
    labels = ["alpha", "beta", "ductal", "acinar", "delta"]
    test = package.tl.deletion_test(cut, model, table, n_genes=3, labels=labels)
    line = test.summary.loc["probability"]
    assert facts["deletion_test"]["genes"] == 3
    assert facts["deletion_test"]["without_named"] == pytest.approx(line["without_named"], abs=1e-5)
    code, out, _ = explain("-o", "e.csv", "--deletion-test", 3, *options)
    assert "without its top 3 genes" in out.splitlines()[-1]


def test_one_cell_has_no_interval(explain):
    code, out, err = explain("-o", "e.csv", "--cells", 1, "--deletion-test", 3, "--json")
    assert code == 0, err
    found = json.loads(out, parse_constant=pytest.fail)["deletion_test"]
    assert (found["low"], found["high"]) == (None, None)
    assert 0 <= found["without_named"] <= 1
    code, out, _ = explain("-o", "e.csv", "--cells", 1, "--deletion-test", 3)
    assert out.strip().endswith(f"difference {found['difference']:.3f}")


def test_the_prompt_names_the_organism_that_was_given(explain, cut, model):
    options = ["--organism", "Mus musculus", "--deletion-test", 3, "--json"]
    code, out, err = explain("-o", "e.csv", *options)
    assert code == 0, err
    assert "never saw organism 'Mus musculus'" in err
    part, given = cut[::15].copy(), {"organism": "Mus musculus"}
    with pytest.warns(C2SWarning, match="Mus musculus"):
        table = package.tl.explain(part, model, **given)
    with pytest.warns(C2SWarning, match="Mus musculus"):
        test = package.tl.deletion_test(part, model, table, n_genes=3, **given)
    np.testing.assert_allclose(pd.read_csv("e.csv")["value"], table["value"], atol=1e-6)
    whole = test.summary.loc["probability", "all_genes"]
    assert json.loads(out)["deletion_test"]["all_genes"] == pytest.approx(whole, abs=1e-6)


def test_a_deletion_test_of_too_many_genes_names_its_option(explain):
    code, _, err = explain("-o", "e.csv", "--method", "gradient", "--deletion-test", 500)
    assert code == 2
    assert err.endswith("give a smaller --deletion-test\n")


def test_one_cell_is_singular_and_what_speaks_against_the_label_carried_nothing(explain):
    code, out, err = explain("-o", "e.csv", "--cells", 1, "--top-n", 100, "--json")
    assert code == 0, err
    ((label, found),) = json.loads(out)["labels"].items()
    table = pd.read_csv("e.csv")
    assert set(found["genes"]) == set(table["gene"][table["value"] > 0])
    assert (table["value"] <= 0).any()
    _, out, _ = explain("-o", "e.csv", "--cells", 1, "--label", label)
    assert out.startswith("1 cell, 16 genes")
    assert f"\n{label} (1 cell): " in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-o", "e.xlsx"], "must end in .csv or .parquet"),
        (["-o", "e.csv", "--label", "neuron"], "add it to --candidate"),
        (["-o", "e.csv", "--candidate", "beta"], "give at least two labels: --candidate"),
        (
            ["-o", "e.csv", "--candidate", "beta", "--candidate", "Beta"],
            "--candidate must be different",
        ),
        (
            ["-o", "e.csv", "--label", "beta", "--label-key", "cell_type"],
            "either it or --label-key",
        ),
        (["-o", "e.csv", "--label-key", "type"], "obs has no column 'type'"),
        (["-o", "e.csv", "--method", "magic"], "--method 'magic' is unknown"),
    ],
)
def test_wrong_use_is_one_line(explain, tmp_path, options, said):
    code, _, err = explain(*options)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert said in err
    assert not list(tmp_path.glob("e.*"))
