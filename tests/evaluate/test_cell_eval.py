"""Files for cell-eval: what they hold, and that cell-eval itself takes them."""

from __future__ import annotations

import argparse
import shlex

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import c2s
from c2s.cells.inverse import RankExpressionModel
from c2s.common.errors import InputError, UsageError
from c2s.evaluate.cell_eval import write_cell_eval

TOP_K = 60


@pytest.fixture(scope="module")
def cells():
    """Alpha and beta cells, 500 common genes; drug "up" has 20 genes planted eightfold, "down" 20 others."""
    adata = c2s.datasets.pancreas()
    adata = adata[adata.obs["cell_type"].isin(["alpha", "beta"])].copy()
    counts = np.asarray(adata.X.sum(axis=0)).ravel()
    adata = adata[:300, np.sort(np.argsort(-counts)[:500])].copy()
    rng = np.random.default_rng(0)
    adata.obs["drug"] = rng.choice(["none", "up", "down"], adata.n_obs)
    dense = adata.X.toarray()
    for drug, genes in (("up", slice(0, 20)), ("down", slice(20, 40))):
        of_drug = (adata.obs["drug"] == drug).to_numpy()
        dense[of_drug, genes] = 8 * dense[of_drug, genes] + 3
    return ad.AnnData(dense.astype(np.float32), obs=adata.obs, var=adata.var[[]])


@pytest.fixture(scope="module")
def line():
    return RankExpressionModel(slope=-0.6, intercept=2.4, target_sum=1e4)


@pytest.fixture(scope="module")
def halves(cells):
    """Real cells, and as generated ones the other half."""
    even = np.arange(cells.n_obs) % 2 == 0
    return cells[even].copy(), cells[~even].copy()


@pytest.fixture(scope="module")
def written(halves, line, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cell-eval") / "new"
    return write_cell_eval(
        folder, *halves, by=["drug"], control="drug=none", inverse=line, top_k=TOP_K
    )


def read(found, name):
    return ad.read_h5ad(found.folder / f"{name}.h5ad")


def test_both_files_hold_the_cells_and_the_real_control_cells(halves, written):
    real, generated = halves
    truth, predicted = read(written, "real"), read(written, "predicted")
    assert list(truth.obs_names) == list(real.obs_names)
    treated = generated.obs_names[generated.obs["drug"] != "none"]
    control = real.obs_names[real.obs["drug"] == "none"]
    assert list(predicted.obs_names) == [*treated, *control]
    assert list(truth.var_names) == list(predicted.var_names)
    assert (truth.obs["drug"].astype(str) == real.obs["drug"]).all()
    expected = pd.concat([generated.obs["drug"][treated], real.obs["drug"][control]])
    assert (predicted.obs["drug"].astype(str) == expected).all()
    np.testing.assert_array_equal(
        truth[control].X.toarray(), predicted[control].X.toarray()
    )  # the same form in both


def test_values_are_the_natural_log_of_the_line_over_ranks(halves, written):
    real, _ = halves
    values = np.sort(read(written, "real").X.toarray(), axis=1)[:, ::-1]
    # ln(1 + x) with log10(1 + x) = 2.4 - 0.6 log10(1 + rank), whatever the genes.
    expected = np.log(10) * (2.4 - 0.6 * np.log10(1 + np.arange(TOP_K)))
    full = (np.asarray(real.X > 0).sum(axis=1) >= TOP_K).ravel()
    assert full.sum() > 100
    np.testing.assert_allclose(
        values[full][:, :TOP_K], np.tile(expected, (full.sum(), 1)), rtol=1e-6
    )
    assert not values[:, TOP_K:].any()


def test_scales_are_those_of_scanpy(halves, line, tmp_path):
    """A gene's value is about ln(1 + counts per 10,000), as scanpy has it: the units are not log10."""
    real, generated = halves
    fitted = c2s.pp.fit_inverse(real)
    found = write_cell_eval(
        tmp_path, real, generated, by=["drug"], control="drug=none", inverse=fitted, top_k=TOP_K
    )
    usual = real.copy()
    sc.pp.normalize_total(usual, target_sum=1e4)
    sc.pp.log1p(usual)
    ours = read(found, "real").X.toarray()
    named = ours > 0
    assert np.mean(ours[named] / usual.X[named]) == pytest.approx(1, abs=0.1)


def run_cell_eval(found, monkeypatch, **more):
    """Run the command line of the README, with fewer metrics."""
    pytest.importorskip("cell_eval")
    from cell_eval._cli import parse_args_run, run_evaluation

    parser = argparse.ArgumentParser()
    parse_args_run(parser)
    program, verb, *words = shlex.split(found.command)
    assert (program, verb) == ("cell-eval", "run")
    monkeypatch.chdir(found.folder)
    run_evaluation(parser.parse_args([*words, "--profile", "minimal"]))
    return {
        path.name: pd.read_csv(path).set_index("perturbation")
        for path in (found.folder / "results").glob("*results.csv")
        if "agg" not in path.name
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_cell_eval_finds_the_planted_response(halves, written, line, tmp_path, monkeypatch):
    real, generated = halves
    (right,) = run_cell_eval(written, monkeypatch).values()
    assert sorted(right.index) == ["down", "up"]
    assert (right["pearson_delta"] > 0.9).all()
    # Cells whose drugs are exchanged are a prediction that cell-eval must find worse.
    swapped = generated.copy()
    swapped.obs["drug"] = swapped.obs["drug"].map({"up": "down", "down": "up", "none": "none"})
    found = write_cell_eval(
        tmp_path, real, swapped, by=["drug"], control="drug=none", inverse=line, top_k=TOP_K
    )
    (wrong,) = run_cell_eval(found, monkeypatch).values()
    assert (wrong["pearson_delta"] < 0.5).all()
    assert (wrong["mae"] > right["mae"]).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_cell_eval_runs_by_cell_type(halves, line, tmp_path, monkeypatch):
    found = write_cell_eval(
        tmp_path,
        *halves,
        by=["cell_type", "drug"],
        control="drug=none",
        inverse=line,
        top_k=TOP_K,
    )
    results = run_cell_eval(found, monkeypatch)
    assert sorted(results) == ["alpha_results.csv", "beta_results.csv"]
    for table in results.values():
        assert sorted(table.index) == ["down", "up"]


def test_conditions_that_one_side_lacks_are_left_out_by_name(halves, line, tmp_path):
    real, generated = halves
    # No untreated alpha cells, and no generated beta cells of "up".
    real = real[~((real.obs["cell_type"] == "alpha") & (real.obs["drug"] == "none"))].copy()
    generated = generated[
        ~((generated.obs["cell_type"] == "beta") & (generated.obs["drug"] == "up"))
    ].copy()
    found = write_cell_eval(
        tmp_path,
        real,
        generated,
        by=["drug", "cell_type"],
        control="drug=none",
        inverse=line,
        top_k=TOP_K,
    )
    assert found.left_out == ["alpha · down", "alpha · up", "beta · up"]
    for name in ("real", "predicted"):
        obs = read(found, name).obs.astype(str)
        assert set(zip(obs["cell_type"], obs["drug"], strict=True)) == {
            ("beta", "none"),
            ("beta", "down"),
        }
    assert "alpha · down, alpha · up, beta · up" in (found.folder / "README.txt").read_text()


def test_several_labels_beside_the_treatment_are_joined(halves, line, tmp_path):
    real, generated = (half.copy() for half in halves)
    for half in (real, generated):
        half.obs["dose"] = "10"
    found = write_cell_eval(
        tmp_path,
        real,
        generated,
        by=["cell_type", "drug", "dose"],
        control="drug=none",
        inverse=line,
        top_k=TOP_K,
    )
    assert set(read(found, "real").obs["stratum"]) == {"alpha · 10", "beta · 10"}
    assert "--celltype-col stratum" in found.command


def test_sentences_are_read_as_generated(halves, line, tmp_path):
    real, _ = halves
    words = list(real.var_names[:3])
    made = ad.AnnData(
        np.zeros((2, real.n_vars), np.float32),
        obs=pd.DataFrame(
            {"drug": ["up", "down"], "cell_sentence": [" ".join(words), " ".join(words[::-1])]},
            index=[real.obs_names[0], "made"],
        ),
        var=real.var,
    )
    # The first generated cell has the name of a control cell.
    control = real[real.obs["drug"] == "none"].obs_names[0]
    made.obs_names = [control, "made"]
    found = write_cell_eval(
        tmp_path, real, made, by=["drug"], control="drug=none", inverse=line, seed=3
    )
    predicted = read(found, "predicted")
    assert predicted.obs_names.is_unique
    up = predicted[0].to_df()[words].to_numpy().ravel()
    np.testing.assert_allclose(up, np.log(10) * (2.4 - 0.6 * np.log10([1, 2, 3])), rtol=1e-6)
    np.testing.assert_allclose(predicted[1].to_df()[words].to_numpy().ravel(), up[::-1])
    # Without top_k, real cells get sentences of the same length.
    assert (np.asarray((read(found, "real").X > 0).sum(axis=1)) == 3).all()


def test_values_of_the_command_line_are_quoted(halves, line, tmp_path):
    real, generated = (half.copy() for half in halves)
    for half in (real, generated):
        half.obs["the drug"] = half.obs["drug"].replace({"none": "no drug; rm"})
    found = write_cell_eval(
        tmp_path,
        real,
        generated,
        by=["the drug"],
        control="the drug=no drug; rm",
        inverse=line,
        top_k=TOP_K,
    )
    words = shlex.split(found.command)
    assert words[words.index("--control-pert") + 1] == "no drug; rm"
    assert words[words.index("--pert-col") + 1] == "the drug"
    assert found.command in (found.folder / "README.txt").read_text()


def test_without_control_it_says_why_there_are_none(halves, line, tmp_path):
    with pytest.raises(UsageError, match="none were named: give control") as error:
        write_cell_eval(tmp_path / "out", *halves, by=["cell_type"], control=None, inverse=line)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_no_common_treatment_is_refused(halves, line, tmp_path):
    real, generated = halves
    with pytest.raises(InputError, match="no treatment has real, generated and control cells"):
        write_cell_eval(
            tmp_path / "out",
            real[real.obs["drug"] != "down"].copy(),
            generated[generated.obs["drug"] == "down"].copy(),
            by=["drug"],
            control="drug=none",
            inverse=line,
        )
    assert not (tmp_path / "out").exists()
