"""Evaluation of generated cells on real pancreas cells: against hand calculations, and on generators of known quality."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from c2s.cells.preprocess import log10_normalized
from c2s.cells.profiles import Profiles
from c2s.cells.ranked import rank_matrix
from c2s.cells.sentences import fit_inverse
from c2s.cells.vocabulary import GeneVocabulary
from c2s.common.errors import InputError, UsageError
from c2s.datasets import pancreas
from c2s.encoders.pca import PCAEncoder
from c2s.evaluate.compare import evaluate
from c2s.evaluate.conditions import Conditions, Control
from c2s.evaluate.floors import Responses
from c2s.evaluate.prepare import GENERATED_TIES
from c2s.evaluate.result import Evaluation, compare_evaluations
from c2s.evaluate.splits import draw, halves
from c2s.metrics import energy_distance, overlap, pearson

QUICK = ["energy_distance", "pearson", "overlap"]


@pytest.fixture(scope="module")
def parts():
    """Training, held-out and "generated" real cells of two types: 240, 240 and 200."""
    adata = pancreas()
    adata = adata[adata.obs["cell_type"].isin(["alpha", "beta"])].copy()
    order = np.random.default_rng(0).permutation(adata.n_obs)[:680]
    cells = [adata[order[a:b]].copy() for a, b in ((0, 240), (240, 480), (480, 680))]
    for part in cells:
        del part.obs["donor"]
    return cells


@pytest.fixture(scope="module")
def found(parts):
    train, real, generated = parts
    return evaluate(real, generated, ["cell_type"], train=train, n_splits=6, metrics=QUICK)


def test_figures_are_those_of_a_calculation_by_hand(parts, found):
    train, real, generated = parts
    vocabulary = GeneVocabulary.from_var(real.var)
    line = fit_inverse(train)

    def sentences(adata, seed=0):
        values = log10_normalized(sp.csr_matrix(adata.X, dtype=np.float32))
        return rank_matrix(values, vocabulary, adata.obs_names.to_numpy(), top_k=200, seed=seed)

    space = PCAEncoder(20).fit(line.expression(sentences(train)))
    told, made = sentences(real), sentences(generated, seed=GENERATED_TIES)
    real_rows = np.flatnonzero(real.obs["cell_type"] == "alpha")
    made_rows = np.flatnonzero(generated.obs["cell_type"] == "alpha")
    n = min(len(real_rows), len(made_rows)) // 2
    values = {name: [] for name in QUICK}
    ceiling = []
    for split in range(6):
        first, second = halves(real_rows, n, 0, split, 0)
        drawn = draw(made_rows, n, 0, split, 0, "generated")
        a, b = line.expression(told.take(first)), line.expression(made.take(drawn))
        values["energy_distance"].append(energy_distance(space.transform(a), space.transform(b)))
        values["pearson"].append(pearson(a.toarray().mean(0), b.toarray().mean(0)))
        pairs = [
            (told.to_columns(i), made.to_columns(j)) for i, j in zip(first, drawn, strict=True)
        ]
        values["overlap"].append(np.mean([overlap(g, t) for t, g in pairs]))
        other = space.transform(line.expression(told.take(second)))
        ceiling.append(energy_distance(space.transform(a), other))
    for name in QUICK:
        figure = found.value(name, scope="condition", condition="alpha")
        assert figure == pytest.approx(np.mean(values[name]), abs=1e-5), name
    assert found.value("energy_distance", "ceiling", "condition", "alpha") == pytest.approx(
        np.mean(ceiling), abs=1e-5
    )


def test_means_are_unweighted_over_conditions(found):
    for name in QUICK:
        single = [found.value(name, scope="condition", condition=c) for c in ("alpha", "beta")]
        assert found.value(name) == pytest.approx(np.mean(single))
    row = found.table.query("scope == 'mean' and metric == 'pearson' and candidate == 'generated'")
    assert row["n_conditions"].item() == 2


def test_real_cells_are_not_told_apart_and_independent_genes_are(found):
    together = found.summary("together")
    assert together.loc["energy_distance", "standing"].startswith("not told apart from real cells")
    rows = found.table.query("scope == 'together' and metric == 'energy_distance'")
    floor = rows[rows["candidate"] == "independent"].iloc[0]
    assert floor["difference_low"] > 0
    assert floor["value"] > 0.05


def test_the_overlap_of_the_same_cells_with_other_ties_is_about_95_percent(found):
    assert 90 < found.value("overlap", "other_ties") < 98
    assert found.value("overlap", "ceiling") < 70


def test_the_cost_of_the_round_trip_is_shown_beside_its_ceiling(found):
    assert found.value("energy_distance", "round_trip") > 10 * abs(
        found.value("energy_distance", "measured")
    )
    assert np.isnan(found.value("overlap", "round_trip"))


def test_copies_of_training_cells_are_caught(parts):
    train, real, _ = parts
    copied = train[:200].copy()
    memory = evaluate(
        real, copied, ["cell_type"], train=train, n_splits=2, metrics=["energy_distance"]
    ).facts["memorisation"]
    # Not 0: the ties of a copy are its own.
    assert memory["median_ratio"] < 0.6
    assert memory["share_below_5th"] > 0.95
    told = evaluate(real, copied, "cell_type", train=train, n_splits=2, metrics="energy_distance")
    assert told.facts["notes"][0].startswith("Probably copies: ")
    assert any("2 random halves are few" in note for note in told.facts["notes"])
    assert memory["real_median"] > 1


def test_the_memorising_check_sees_nothing_in_other_real_cells(found):
    assert 0.9 < found.facts["memorisation"]["median_ratio"] < 1.1
    assert not any(note.startswith("Probably copies") for note in found.facts["notes"])


def test_the_same_seed_repeats_and_another_draws_other_halves(parts, found):
    train, real, generated = parts
    again = evaluate(real, generated, ["cell_type"], train=train, n_splits=6, metrics=QUICK)
    pd.testing.assert_frame_equal(again.table, found.table)
    other = evaluate(real, generated, ["cell_type"], train=train, n_splits=6, metrics=QUICK, seed=1)
    assert other.value("energy_distance") != found.value("energy_distance")


def test_sentences_and_the_expression_they_come_from_measure_the_same(parts, found):
    train, real, generated = parts
    values = log10_normalized(sp.csr_matrix(generated.X, dtype=np.float32))
    vocabulary = GeneVocabulary.from_var(generated.var)
    cells = rank_matrix(
        values, vocabulary, generated.obs_names.to_numpy(), top_k=200, seed=GENERATED_TIES
    )
    told = ad.AnnData(obs=generated.obs[["cell_type"]].copy(), var=generated.var.copy())
    told.obs["cell_sentence"] = cells.to_text().to_pylist()
    result = evaluate(real, told, ["cell_type"], train=train, n_splits=6, metrics=QUICK)
    pd.testing.assert_frame_equal(result.table, found.table)
    assert result.facts["form"] == {
        "valid_fraction": 1.0, "unique_fraction": 1.0, "exact_k_fraction": 1.0, "distinct_fraction": 1.0,
    }  # fmt: skip
    told.obs.loc[told.obs_names[0], "cell_sentence"] = "INS NOTAGENE INS " + cells.sentence(0)
    form = evaluate(real, told, ["cell_type"], train=train, n_splits=2, metrics=["overlap"]).facts[
        "form"
    ]
    assert form["valid_fraction"] < 1
    assert form["unique_fraction"] < 1
    assert form["exact_k_fraction"] == pytest.approx(199 / 200)


def test_pairs_are_compared_where_cells_have_the_names_of_others(parts):
    train, real, _ = parts
    shuffled = real[np.random.default_rng(0).permutation(real.n_obs)].copy()
    kwargs = {"train": train, "n_splits": 2, "metrics": ["overlap"]}
    assert evaluate(real, shuffled, ["cell_type"], paired=True, **kwargs).value("overlap") > 88
    assert evaluate(real, shuffled, ["cell_type"], **kwargs).value("overlap") < 70
    with pytest.raises(InputError, match="no generated cell has the name of a real one"):
        evaluate(real, train, ["cell_type"], paired=True, **kwargs)


def test_a_programme_is_looked_at_after_the_round_trip(parts):
    train, real, generated = parts
    genes = ["INS", "GCG", "TTR", "IAPP", "CHGA", "NOTAGENE"]
    result = evaluate(
        real, generated, ["cell_type"], train=train, genes=genes, encoder="pca:3", n_splits=2, metrics=QUICK,
    )  # fmt: skip
    assert result.facts["n_genes_measured"] == 5
    assert result.facts["n_genes"] == 20125
    assert result.value("pearson") > 0.9
    with pytest.raises(InputError, match="none of the 1 genes"):
        evaluate(real, generated, ["cell_type"], train=train, genes=["NOTAGENE"])


def with_treatment(adata, genes, seed):
    """Return the cells with planted treatments "a" and "b", which triple forty genes each."""
    adata = adata.copy()
    rng = np.random.default_rng(seed)
    adata.obs["drug"] = rng.choice(["none", "a", "b"], size=adata.n_obs)
    counts = np.asarray(adata.X.todense() if sp.issparse(adata.X) else adata.X).astype(np.float32)
    for drug, part in (("a", genes[:40]), ("b", genes[40:])):
        rows = np.flatnonzero(adata.obs["drug"] == drug)
        counts[np.ix_(rows, part)] = counts[np.ix_(rows, part)] * 3 + 2
    adata.X = sp.csr_matrix(counts)
    return adata


@pytest.fixture(scope="module")
def treated(parts):
    genes = np.argsort(-np.asarray(parts[0].X.sum(axis=0)).ravel())[40:120]
    return [with_treatment(part, genes, i) for i, part in enumerate(parts)]


def test_floors_of_a_treatment(treated):
    train, real, generated = treated
    result = evaluate(
        real, generated, ["cell_type", "drug"], train=train, control="drug=none", n_splits=4,
        metrics=["energy_distance", "pearson_response"],
    )  # fmt: skip
    # Means are over treated conditions: two types and two drugs.
    assert result.facts["n_conditions"] == result.facts["n_compared"] == 4
    response = {
        c: result.value("pearson_response", c)
        for c in ("generated", "ceiling", "control", "mean_shift", "independent")
    }
    assert abs(response["control"]) < 0.15
    assert response["generated"] == pytest.approx(response["ceiling"], abs=0.05)
    assert response["mean_shift"] > 0.3
    assert result.value("energy_distance", "control") > result.value(
        "energy_distance", "mean_shift"
    )


def test_the_mean_response_comes_from_the_condition_or_from_other_strata():
    conditions = Conditions(
        ("type", "drug"), (("A", "c"), ("A", "x"), ("B", "x"), ("B", "y"), ("B", "z"))
    )
    genes = GeneVocabulary(["G1", "G2"])
    matrix = sp.csr_matrix(np.array([[1.0, 1], [3, 1], [1, 2], [5, 2], [0, 0]], dtype=np.float32))
    labels = [("A", "c"), ("A", "x"), ("B", "c"), ("B", "y"), ("D", "x")]
    cells = Profiles(matrix, genes, np.array(list("abcde"), dtype=object), "logged")
    responses = Responses(cells, labels, conditions, Control("drug", "c"))
    np.testing.assert_array_equal(responses.of(1), [2, 0])  # its own
    np.testing.assert_array_equal(
        responses.of(2), [2, 0]
    )  # of the same drug in type A; D has no control
    np.testing.assert_array_equal(responses.of(3), [4, 0])
    assert responses.of(4) is None


def test_donors_are_drawn_as_wholes_and_compared_with_one_another(parts):
    train, real, generated = (part.copy() for part in parts)
    rng = np.random.default_rng(0)
    real.obs["donor"] = rng.choice(["d1", "d2", "d3", "d4"], size=real.n_obs)
    result = evaluate(real, generated, ["cell_type"], train=train, n_splits=4, metrics=["pearson"])
    assert result.facts["resampled"] == {"of": "donors", "column": "donor", "n": 4}
    assert "4 values of obs['donor']" in result.facts["intervals"]
    # Donors that are no donors: cells dealt at random are as near as any.
    assert result.value("pearson", "other_donors") == pytest.approx(
        result.value("pearson", "ceiling"), abs=0.02
    )


def test_drugs_are_drawn_with_their_conditions(treated):
    train, real, generated = treated
    result = evaluate(
        real, generated, ["cell_type", "drug"], train=train, cluster="drug", n_splits=3, metrics=["pearson"],
    )  # fmt: skip
    assert result.facts["resampled"]["of"] == "conditions"
    means = result.table.query("scope == 'mean'").set_index("candidate")
    assert (means["low"] < means["value"]).all()
    assert (means["value"] < means["high"]).all()
    # Every candidate here has all conditions, so the mean difference is the difference of the means.
    expected = means["value"] - means.loc["generated", "value"]
    others = means.index != "generated"
    np.testing.assert_allclose(means["difference"][others], expected[others], atol=1e-12)


def test_what_has_too_few_cells_is_left_out_by_name(parts):
    train, real, generated = parts
    few = real[np.r_[np.flatnonzero(real.obs["cell_type"] == "alpha")[:30],
                     np.flatnonzero(real.obs["cell_type"] == "beta")]].copy()  # fmt: skip
    kwargs = {"train": train, "n_splits": 2, "encoder": "pca:10"}
    result = evaluate(few, generated, ["cell_type"], metrics=["scfid", "pearson"], **kwargs)
    rows = result.left_out
    assert rows[rows["metric"] == "scfid"]["condition"].tolist() == ["alpha"]
    assert "15 cells on each side, 40 are needed" in rows["reason"].tolist()
    assert np.isnan(result.value("scfid", scope="condition", condition="alpha"))
    wanted = evaluate(
        few, generated, ["cell_type"], metrics=["scfid"], min_cells={"scfid": 10}, **kwargs
    )
    assert wanted.value("scfid", scope="condition", condition="alpha") > 0


def test_conditions_without_partner_are_named(parts):
    train, real, generated = parts
    only = generated[generated.obs["cell_type"] == "beta"].copy()
    only.obs["cell_type"] = only.obs["cell_type"].astype(str)
    only.obs.iloc[:3, only.obs.columns.get_loc("cell_type")] = "unheard of"
    result = evaluate(real, only, ["cell_type"], train=train, n_splits=2, metrics=["pearson"])
    assert result.facts["n_compared"] == 1
    assert result.facts["n_conditions"] == 2
    reasons = " ".join(result.left_out["reason"])
    assert "3 generated cells are of conditions that no real cell has" in reasons
    assert "0 generated cells" in reasons


def test_without_training_cells_it_says_what_that_means(parts):
    _, real, generated = parts
    result = evaluate(real, generated, ["cell_type"], n_splits=2, metrics=["pearson"])
    assert result.facts["encoder_fitted_on"] == "real"
    assert result.facts["memorisation"] is None
    assert "No training cells" in result.facts["notes"][0]
    assert "memorisation" in result.left_out["metric"].tolist()


def test_it_survives_json_and_its_encoder_survives_a_file(found, tmp_path):
    text = json.dumps(found.to_dict(), allow_nan=False)
    again = Evaluation.from_dict(json.loads(text))
    pd.testing.assert_frame_equal(again.table, found.table, check_dtype=False)
    assert again.facts == json.loads(json.dumps(found.facts))
    found.encoder.save(tmp_path / "encoder.npz")
    assert PCAEncoder.load(tmp_path / "encoder.npz").digest() == found.encoder.digest()


def test_evaluations_with_one_encoder_compare_and_others_are_refused(parts, found):
    train, real, generated = parts
    kwargs = {"train": train, "n_splits": 6, "metrics": QUICK}
    worse = generated.copy()
    worse.X = worse.X.multiply(np.random.default_rng(0).random(worse.shape) < 0.5).tocsr()
    second = evaluate(real, worse, ["cell_type"], encoder=found.encoder, **kwargs)
    table = compare_evaluations({"one": found, "two": second})
    of = table[table["metric"] == "pearson"].set_index("model")["value"]
    assert of["one"] == found.value("pearson")
    assert of["two"] == second.value("pearson") != of["one"]
    assert {"ceiling", "independent"} <= set(of.index)
    other = evaluate(real, generated, ["cell_type"], encoder="pca:5", **kwargs)
    with pytest.raises(InputError, match="other genes|other encoders .encoder is 'pca-"):
        compare_evaluations({"one": found, "two": other})
    less = evaluate(real[:200].copy(), generated, ["cell_type"], encoder=found.encoder, **kwargs)
    with pytest.raises(InputError, match="other real cells"):
        compare_evaluations({"one": found, "two": less})
    fewer = evaluate(real, generated[:90].copy(), ["cell_type"], encoder=found.encoder, **kwargs)
    with pytest.raises(InputError, match="generate as many cells of each condition"):
        compare_evaluations({"one": found, "two": fewer})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"by": ["cell_typ"]}, "did you mean 'cell_type'"),
        ({"by": []}, "expected one or more columns"),
        ({"control": "drug"}, "expected COLUMN=VALUE"),
        ({"control": "drug=none"}, "'drug' is none of those"),
        (
            {"control": "cell_type=untreated"},
            "no real cell has cell_type 'untreated'; it has alpha, beta",
        ),
        ({"metrics": ["scfidd"]}, "did you mean 'scfid'"),
        ({"metrics": []}, "metrics: found none"),
        ({"metrics": ["pearson_response"]}, "say which they are"),
        ({"min_cells": {"energy": 3}}, "'energy' is not measured here"),
        ({"n_splits": 1}, "expected at least 2"),
        ({"cluster": "batch"}, "obs has no column 'batch'"),
        ({"encoder": "umap"}, "found 'umap'"),
    ],
)
def test_wrong_use_is_one_line(parts, change, message):
    _, real, generated = parts
    arguments = {"by": ["cell_type"], **change}
    with pytest.raises(UsageError, match=message) as caught:
        evaluate(real, generated, **arguments)
    assert "\n" not in str(caught.value)


def test_unusable_cells_are_refused(parts):
    _, real, generated = parts
    missing = real.copy()
    missing.obs["cell_type"] = missing.obs["cell_type"].astype(object)
    missing.obs.iloc[4, missing.obs.columns.get_loc("cell_type")] = None
    with pytest.raises(InputError, match=r"missing for 1 cells"):
        evaluate(missing, generated, ["cell_type"])
    mouse = generated.copy()
    mouse.var_names = [f"XX{i}" for i in range(mouse.n_vars)]
    mouse.var = mouse.var[[]]
    with pytest.raises(InputError, match="share no gene"):
        evaluate(real, mouse, ["cell_type"])
    other = generated.copy()
    other.obs["cell_type"] = "neuron"
    few = generated[np.flatnonzero(generated.obs["cell_type"] == "beta")[:4]].copy()
    with pytest.raises(InputError, match="nothing could be measured: .* cells on each side"):
        evaluate(real, few, ["cell_type"], metrics=["energy_distance"])
    with pytest.raises(InputError, match="no condition has at least 2 real and 2 generated"):
        evaluate(real, other, ["cell_type"])


def test_columns_may_be_called_as_those_of_the_table(parts):
    train, real, generated = (part.copy() for part in parts)
    for part in (train, real, generated):
        part.obs["condition"] = part.obs["cell_type"]
    result = evaluate(real, generated, ["condition"], train=train, n_splits=2, metrics=["pearson"])
    assert set(result.table.query("scope == 'condition'")["condition_label"]) == {"alpha", "beta"}


def test_expression_over_more_genes_than_the_real_cells_have_is_ranked_as_they_are(parts):
    train, real, generated = parts
    fewer = np.argsort(-np.asarray(real.X.sum(axis=0)).ravel())[::2][:1500]
    kwargs = {"n_splits": 4, "metrics": ["energy_distance", "overlap"]}
    small = [part[:, fewer].copy() for part in (train, real)]
    result = evaluate(small[1], generated, ["cell_type"], train=small[0], **kwargs)
    assert result.value("overlap") == pytest.approx(result.value("overlap", "ceiling"), abs=3)
    assert result.value("energy_distance", scope="together") < 0.1


def test_sentences_of_genes_that_real_cells_lack_are_told(parts):
    train, real, generated = parts
    vocabulary = GeneVocabulary.from_var(generated.var)
    cells = rank_matrix(sp.csr_matrix(generated.X), vocabulary, generated.obs_names, top_k=200)
    told = ad.AnnData(obs=generated.obs[["cell_type"]].copy(), var=generated.var.copy())
    told.obs["cell_sentence"] = cells.to_text().to_pylist()
    few = np.argsort(-np.asarray(real.X.sum(axis=0)).ravel())[:3000]
    result = evaluate(
        real[:, few].copy(),
        told,
        ["cell_type"],
        train=train[:, few].copy(),
        n_splits=2,
        metrics=["pearson"],
    )
    assert any("genes that the real cells do not have" in note for note in result.facts["notes"])


def test_real_cells_that_were_trained_on_are_told(parts):
    train, _, generated = parts
    result = evaluate(train, generated, ["cell_type"], train=train, n_splits=2, metrics=["pearson"])
    assert any(
        "real cells lie exactly where a training cell does" in note
        for note in result.facts["notes"]
    )


def test_donors_of_unequal_size_are_compared_at_one_number(parts):
    train, real, generated = (part.copy() for part in parts)
    rng = np.random.default_rng(0)
    real.obs["donor"] = rng.choice(["a", "b", "c"], p=[0.6, 0.25, 0.15], size=real.n_obs)
    result = evaluate(
        real,
        generated,
        ["cell_type"],
        train=train,
        n_splits=12,
        metrics=["wasserstein"],
        encoder="pca:5",
    )
    rows = result.table.query("scope == 'condition' and condition == 'beta'").set_index("candidate")
    assert rows.loc["other_donors", "n_cells"] < rows.loc["ceiling", "n_cells"]
    # At fewer cells Wasserstein distances are larger, and that is all that is larger.
    assert rows.loc["other_donors", "value"] > rows.loc["ceiling", "value"]
