"""Studies: cells dealt honestly, figures that others compute too, and a folder that says what was done."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import yaml
from sklearn.metrics import accuracy_score, f1_score

from c2s.common.errors import InputError, UsageError
from c2s.metrics import knn_accuracy
from c2s.studies import annotation, embedding, generation
from c2s.studies import model as study_models
from c2s.studies.cells import PSEUDO_DONOR, TEST, TRAIN, lowest_depth, study_cells
from c2s.studies.embedding import votes
from c2s.studies.encoders import StudyEncoders
from c2s.studies.findings import markdown_table, with_interval
from c2s.studies.recipe import (
    KINDS,
    find_study,
    packaged_names,
    packaged_studies,
    packaged_study,
    read_study,
    with_changes,
)
from c2s.studies.run import run_study
from c2s.studies.train import TrainRecipe

TRAINING = {
    "top_k": 16,
    "tasks": {"cell_type": {}, "cond_cell": {}},
    "optimisation": {"steps": 2, "batch_size": 4},
}


HALF = {"split": {"fractions": [0.5, 0.5]}}  # enough test cells of each type for two halves


def recipe(kind, **fields):
    return KINDS[kind].parse({"kind": kind, "title": "A test", **fields}, "test")


def quiet(name, total):
    return lambda steps: None


def deal(adata, kind="annotation", **fields):
    return study_cells(adata, recipe(kind, **fields), "cut")


@pytest.fixture(scope="module")
def donors(cut):
    """The 150 cells of `cut`, of six donors in turn. Not to be changed."""
    cells = cut.copy()
    cells.obs["donor"] = pd.Categorical([f"d{i % 6}" for i in range(cells.n_obs)])
    return cells


# --- recipes ----------------------------------------------------------------------------------


def test_every_packaged_recipe_can_be_read_and_those_with_cells_run_on_them():
    studies = packaged_studies()
    assert {"pancreas-annotation", "pancreas-generation", "pancreas-embedding", "pancreas-ood",
            "immune-annotation", "lung-annotation", "dong-ood"} <= set(studies)  # fmt: skip
    for name, study in studies.items():
        assert (study.data == "pancreas") == name.startswith("pancreas-"), name
        assert study.published is not None, name
        assert study.published.missing, name  # what it cannot repeat stays visible


def test_the_published_immune_numbers_are_those_of_the_sheet():
    numbers = packaged_study("immune-annotation").published.numbers
    assert {(n.method, n.value) for n in numbers} == {
        ("C2S-Scale", "95.43 %"), ("scGPT", "93.1 %"), ("Geneformer", "94.0 %"),
    }  # fmt: skip
    assert all("Domínguez Conde" in n.dataset and n.source for n in numbers)


@pytest.mark.parametrize("name", [n for n in packaged_names() if not n.startswith("pancreas-")])
def test_a_published_study_without_cells_says_which_ones_to_fetch(name, tmp_path):
    study = packaged_study(name)
    with pytest.raises(UsageError) as failure:
        run_study(name, study, tmp_path / "out")
    message = str(failure.value)
    assert message.startswith(f"{name}: give --data FILE")
    assert study.published.citation in message
    assert "\n" not in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("annotation", {"baseline": []}, "unknown field 'baseline'; did you mean 'baselines'"),
        ("annotation", {"model": "m", "train": TRAINING}, "both given"),
        ("annotation", {"split": {"fractions": [0.8, 0.3]}}, "sum to 1"),
        ("annotation", {"train": {**TRAINING, "data": "x"}}, "unknown field 'train.data'"),
        ("generation", {"generators": ["copier"]}, "generators.0 = 'copier'"),
        ("ood", {"hold_out": [{"name": "a", "lowest_depth": 0.2}]}, "neither 'annotation' nor"),
        ("ood", {"hold_out": [{"name": "a"}], "annotation": {}}, "either 'where' or"),
        (
            "ood",
            {"hold_out": [{"name": "test", "lowest_depth": 0.2}], "annotation": {}},
            "cannot be called 'test'",
        ),
        (
            "ood",
            {
                "hold_out": [{"name": "a", "lowest_depth": 0.2}],
                "annotation": {},
                "conditions": ["a", "b"],
            },
            "cell types only",
        ),
    ],
)
def test_a_recipe_that_cannot_work_names_the_field(kind, fields, message):
    with pytest.raises(UsageError, match=message):
        recipe(kind, **fields)


def test_the_kind_decides_who_reads_the_rest(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("title: A\nkind: annotations\n")
    with pytest.raises(UsageError, match=r"mine.yaml: kind = 'annotations'"):
        read_study(path)
    path.write_text("title: A\nkind: embedding\nneighbors: 3\n")
    assert find_study(str(path)) == ("mine", read_study(path))
    assert read_study(path).neighbors == 3
    with pytest.raises(UsageError, match="did you mean 'pancreas-ood'"):
        find_study("pancreas-odd")


def test_options_replace_fields_and_a_model_takes_the_place_of_training():
    study = recipe("annotation", train=TRAINING, data="a.h5ad", seed=3)
    changed = with_changes(study, {"model": "folder", "data": None, "seed": 5})
    assert (changed.model, changed.train, changed.data, changed.seed) == (
        "folder", None, "a.h5ad", 5,
    )  # fmt: skip
    assert with_changes(study, {"data": None}) == study
    with pytest.raises(UsageError, match="seed"):
        with_changes(study, {"seed": -1})


# --- cells ------------------------------------------------------------------------------------


def test_cells_are_split_eighty_to_twenty_within_each_type(cut):
    cells = deal(cut)
    types = cells.labels[cells.rows(TEST)]
    assert {t: int((types == t).sum()) for t in set(types)} == dict.fromkeys(set(cells.labels), 6)
    assert sorted([*cells.rows(TRAIN), *cells.rows(TEST)]) == list(range(150))


def test_donors_are_split_as_wholes(donors):
    cells = deal(donors, split={"by": "donor"})
    train, test = (set(cells.donors.names[cells.rows(p)]) for p in (TRAIN, TEST))
    assert not train & test
    assert (len(train), len(test)) == (5, 1)
    assert not cells.donors.pseudo
    assert "all are of one donor" in cells.intervals(cells.rows(TEST))
    assert "5 donors, drawn as wholes" in cells.intervals(cells.rows(TRAIN))


def test_one_donor_cannot_be_split_by_donor_and_pseudo_donors_can(cut):
    with pytest.raises(UsageError, match="pseudo_donors, or split by 'cell'"):
        deal(cut, split={"by": "donor"})
    cells = deal(cut, split={"by": "donor"}, pseudo_donors=5)
    assert len(set(cells.donors.names[cells.rows(TEST)])) == 1
    with pytest.raises(UsageError, match="2 donors are too few"):
        deal(cut, split={"by": "donor"}, pseudo_donors=2)


def test_pseudo_donors_are_random_parts_of_equal_size_and_the_result_says_what_they_are(cut):
    cells = deal(cut, pseudo_donors=7, seed=1)
    sizes = pd.Series(cells.donors.names).value_counts()
    assert len(sizes) == 7
    assert sizes.max() - sizes.min() <= 1
    other = deal(cut, pseudo_donors=7, seed=2)
    assert (cells.donors.names != other.donors.names).any()
    assert "chance alone" in cells.notes[0]
    sentence = cells.intervals(cells.rows(TEST))
    assert "pseudo-donors" in sentence
    assert "say nothing of other donors" in sentence
    assert cells.adata(cells.rows(TEST)).obs[PSEUDO_DONOR].nunique() == 7


def test_real_donors_are_never_replaced(donors):
    cells = deal(donors, pseudo_donors=4)
    assert cells.donors.column == "donor"
    assert not cells.donors.pseudo
    assert cells.notes == ("Pseudo-donors were not needed: the data name donors.",)


def test_the_shallowest_cells_of_each_type_are_those_with_fewest_counts():
    counts = sp.csr_matrix(np.array([[5], [1], [3], [100], [90], [80], [70], [7]], np.float32))
    labels = np.array(["a", "a", "a", "b", "b", "b", "b", "a"], dtype=object)
    assert lowest_depth(counts, labels, 0.5).tolist() == [1, 2, 5, 6]
    assert lowest_depth(counts, labels, 0.25).tolist() == [1, 6]


def tiers(*hold_out, **fields):
    return {"kind": "ood", "hold_out": list(hold_out), "annotation": {}, **fields}


def test_tiers_are_kept_from_training_and_a_cell_is_of_the_first_that_matches(donors):
    cells = deal(
        donors,
        **tiers(
            {"name": "some", "where": [{"donor": "d1", "cell_type": ["beta", "alpha"]}]},
            {"name": "all of it", "where": [{"donor": "d1"}, {"donor": "d2"}]},
        ),
    )
    obs = donors.obs
    some = (obs["donor"] == "d1") & obs["cell_type"].isin(["beta", "alpha"])
    assert (cells.part == "some").tolist() == some.tolist()
    rest = obs["donor"].isin(["d1", "d2"]) & ~some
    assert (cells.part == "all of it").tolist() == rest.tolist()
    assert set(cells.donors.names[cells.rows(TRAIN)]) == {"d0", "d3", "d4", "d5"}
    assert cells.measured_parts == ("test", "some", "all of it")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"donors": "d1"}, "did you mean 'donor'"),
        ({"donor": "d9"}, "no cell has donor = 'd9'; there are d0, d1"),
        ({"cell_type": ["acinar", "alpha", "beta", "delta", "ductal"]}, "all cells are held out"),
    ],
)
def test_a_tier_that_no_cell_or_every_cell_is_in_is_refused(donors, where, message):
    with pytest.raises(UsageError, match=message):
        deal(donors, **tiers({"name": "x", "where": [where]}))


def test_a_tier_whose_cells_an_earlier_one_has_is_refused(donors):
    with pytest.raises(UsageError, match="no cell is left for 'again'"):
        deal(
            donors,
            **tiers(
                {"name": "once", "where": [{"donor": "d1"}]},
                {"name": "again", "where": [{"donor": "d1"}]},
            ),
        )


def test_what_is_missing_in_the_data_is_said_before_any_work(cut):
    with pytest.raises(UsageError, match="obs has no column 'celltype'.*did you mean 'cell_type'"):
        deal(cut, columns={"cell_type": "celltype"})
    with pytest.raises(UsageError, match="obs has no column 'subject'"):
        deal(cut, columns={"donor": "subject"})
    with pytest.raises(UsageError, match="no layer 'counts'"):
        deal(cut, layer="counts")
    logged = cut.copy()
    logged.X = np.log1p(logged.X.multiply(0.37)).tocsr()
    with pytest.raises(InputError, match="whole counts"):
        deal(logged)
    one = cut[cut.obs["cell_type"] == "beta"].copy()
    with pytest.raises(InputError, match="at least 2 different labels"):
        deal(one)


def test_counts_may_lie_in_a_layer(cut):
    moved = cut.copy()
    moved.layers["umi"] = moved.X.copy()
    moved.X = np.log1p(moved.X.multiply(0.37)).tocsr()
    assert (deal(moved, layer="umi").counts != deal(cut, layer="X").counts).nnz == 0


# --- annotation -------------------------------------------------------------------------------


def annotated(cells, model=None, **fields):
    fields = {"baselines": ["logistic_regression", "knn"], **fields}
    study = recipe("annotation", **fields)
    return annotation.run_annotation(
        cells, study, model, StudyEncoders(cells, "cpu", 0), resamples=200, seed=0, on_stage=quiet
    )


@pytest.fixture(scope="module")
def by_donor(donors):
    """Annotation of two held-out donors by two baselines."""
    cells = deal(donors, split={"by": "donor", "fractions": [0.6, 0.4]})
    return cells, annotated(cells)


def test_figures_are_those_of_scikit_learn_on_the_predictions_that_were_kept(by_donor):
    cells, found = by_donor
    table = found.tables["predictions.csv"]
    assert table["cell_id"].tolist() == cells.obs.index[cells.rows(TEST)].tolist()
    for name in ("logistic_regression", "knn"):
        assert found.value("accuracy", name) == pytest.approx(
            accuracy_score(table["truth"], table[name])
        )
        assert found.value("macro_f1", name) == pytest.approx(
            f1_score(table["truth"], table[name], average="macro")
        )
        f1 = f1_score(table["truth"], table[name], average=None, labels=["beta"])[0]
        assert found.value("f1", name, label="beta") == pytest.approx(f1)


def test_intervals_are_over_donors_and_differences_are_paired(by_donor):
    """With two test donors each resample is one donor twice or both: the interval ends at the worse and the better."""
    cells, found = by_donor
    table = found.tables["predictions.csv"]
    donor = cells.donors.names[cells.rows(TEST)]
    right = {n: (table[n] == table["truth"]).to_numpy() for n in ("logistic_regression", "knn")}
    each = {n: [r[donor == d].mean() for d in sorted(set(donor))] for n, r in right.items()}
    for row in found.rows:
        if row["metric"] != "accuracy":
            continue
        values = each[row["method"]]
        if row.get("against"):
            values = np.subtract(values, each[row["against"]])
            assert row["value"] == pytest.approx(
                right[row["method"]].mean() - right[row["against"]].mean()
            )
        assert (row["low"], row["high"]) == pytest.approx((min(values), max(values)))


def test_the_verdict_follows_the_interval_of_the_difference(cut, monkeypatch):
    class Planted:
        name, classes_ = "planted", np.array(["acinar", "alpha", "beta", "delta", "ductal"])

        def __init__(self, truth, wrong):
            self.truth, self.wrong = truth, wrong

        def fit(self, matrix, labels):
            return self

        def predict_proba(self, matrix):
            codes = np.searchsorted(self.classes_, self.truth.astype(str))
            codes[: self.wrong] = (codes[: self.wrong] + 1) % 5
            return np.eye(5)[codes] * 0.8 + 0.04

    cells = deal(cut)
    truth = cells.labels[cells.rows(TEST)]
    for wrong, verdict in ((0, "cannot be told apart from"), (20, "is better than")):
        monkeypatch.setattr(
            annotation,
            "_PLAIN",
            {"logistic_regression": lambda s: Planted(truth, 0), "knn": lambda s, w=wrong: Planted(truth, w)},
        )  # fmt: skip
        found = annotated(cells)
        text = found.sections[0].paragraphs[1]
        assert verdict in text
        assert found.value("accuracy", "knn") == pytest.approx(1 - wrong / 30)
        assert found.value("ece", "logistic_regression") == pytest.approx(0.16)  # right, at 0.84


def test_types_that_nobody_trained_on_count_as_wrong_and_are_named(donors):
    cells = deal(
        donors, **tiers({"name": "mixed", "where": [{"cell_type": "beta"}, {"donor": "d0"}]})
    )
    found = annotated(cells)
    table = found.tables["predictions.csv"]
    mixed = table[table["part"] == "mixed"]
    known = mixed["truth"] != "beta"
    right = mixed["knn"] == mixed["truth"]
    assert found.value("accuracy", "knn", "mixed") == pytest.approx(right.mean())
    assert found.value("accuracy_known", "knn", "mixed") == pytest.approx(right[known].mean())
    assert "beta" not in set(mixed["knn"])
    assert any("types that no training cell has (beta)" in s for s in found.sections[1].paragraphs)
    assert np.isnan(found.value("accuracy_known", "knn"))  # the test part has no such type


def test_baselines_see_training_cells_only(cut, monkeypatch):
    seen = {}

    class Recorder:
        name, classes_ = "recorder", np.array(["alpha"])

        def fit(self, matrix, labels):
            seen["matrix"], seen["labels"] = matrix, labels
            return self

        def predict_proba(self, matrix):
            return np.ones((matrix.shape[0], 1))

    cells = deal(cut)
    monkeypatch.setattr(annotation, "_PLAIN", {"knn": lambda seed: Recorder()})
    annotated(cells, baselines=["knn"])
    assert (seen["matrix"] != cells.values[cells.rows(TRAIN)]).nnz == 0
    assert seen["labels"].tolist() == cells.labels[cells.rows(TRAIN)].tolist()


def test_names_of_baselines_and_encoders_are_checked(cut):
    cells = deal(cut)
    with pytest.raises(UsageError, match="did you mean 'celltypist'"):
        annotation.encoder_specs(recipe("annotation", baselines=["celltypists"]))
    with pytest.raises(UsageError, match="named twice"):
        annotation.encoder_specs(recipe("annotation", baselines=["knn", "knn"]))
    study = recipe("annotation", baselines=["head:pca:20", "finetuned:scgpt:f", "head:scgpt:f"])
    assert annotation.encoder_specs(study) == ["pca:20", "scgpt:f"]
    with pytest.raises(UsageError, match="use head:pca:20"):
        annotation.encoder_specs(recipe("annotation", baselines=["finetuned:pca:20"]))
    encoders = StudyEncoders(cells, "cpu", 0)
    with pytest.raises(UsageError, match="expected one of"):
        encoders.check(["umap:2"])
    with pytest.raises(UsageError, match="components must be fewer"):
        encoders.check(["pca:120"])
    with pytest.raises(InputError, match="nowhere"):
        encoders.check(["scgpt:nowhere"])
    encoders.check(["pca:119", "pca"])


def test_a_head_stands_on_an_encoder_of_the_training_cells(cut):
    cells = deal(cut)
    found = annotated(cells, baselines=["head:pca:10"])
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from c2s.encoders.pca import PCAEncoder

    train, test = cells.rows(TRAIN), cells.rows(TEST)
    space = PCAEncoder(10, 0).fit(cells.values[train])
    head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    head.fit(space.transform(cells.values[train]), cells.labels[train].astype(str))
    expected = head.score(space.transform(cells.values[test]), cells.labels[test].astype(str))
    assert found.value("accuracy", "head:pca:10") == pytest.approx(expected)


@pytest.fixture(scope="module")
def loaded(model, model_folder):
    facts = {"source": str(model_folder), "parameters": model.n_parameters, "trained": False}
    return study_models.StudyModel(model, 1, False, facts)


def test_the_model_answers_as_the_verb_does(cut, loaded, model):
    from c2s.analysis.annotate import annotate

    cells = deal(cut)
    found = annotated(cells, loaded)
    test = cut[cells.rows(TEST)].copy()
    annotate(test, model)
    table = found.tables["predictions.csv"]
    assert table["model"].tolist() == test.obs["c2s_cell_type"].tolist()
    assert table["model confidence"].to_numpy() == pytest.approx(test.obs["c2s_confidence"])
    assert "Nothing here can tell whether it has seen" in loaded.sentence()


# --- the model --------------------------------------------------------------------------------


def test_the_model_is_trained_on_training_cells_alone(cut, monkeypatch):
    handed = {}

    class Stop(Exception):
        pass

    def record(adata, training, dataset, **options):
        handed.update(adata=adata, training=training)
        raise Stop

    monkeypatch.setattr(study_models, "train_model", record)
    cells = deal(cut)
    study = recipe("annotation", train={**TRAINING, "validation": 0.25}, seed=4)
    with pytest.raises(Stop):
        study_models.train_on(cells, study, "cpu", quiet)
    assert handed["adata"].obs_names.tolist() == cells.obs.index[cells.rows(TRAIN)].tolist()
    assert (cells.counts[cells.rows(TRAIN)] != handed["adata"].X).nnz == 0
    assert handed["adata"].obs["cell_type"].tolist() == cells.labels[cells.rows(TRAIN)].tolist()
    training = handed["training"]
    assert isinstance(training, TrainRecipe)
    assert (training.split, training.seed, training.top_k) == ((0.75, 0.25, 0.0), 4, 16)


def test_a_model_that_is_not_trained_on_the_task_is_refused_before_training(tmp_path):
    tasks = {**TRAINING, "tasks": {"cell_type": {}}}
    study = recipe("generation", data="pancreas", train=tasks)
    with pytest.raises(UsageError, match="measures 'cond_cell'.*cell_type only"):
        run_study("x", study, tmp_path / "out")


def test_a_study_without_any_method_is_refused(tmp_path):
    for kind, field in (("annotation", "baselines"), ("generation", "generators"), ("embedding", "encoders")):  # fmt: skip
        with pytest.raises(UsageError, match=f"{field}: none is named"):
            run_study("x", recipe(kind, data="pancreas", **{field: []}), tmp_path / "out")


# --- generation -------------------------------------------------------------------------------


def generated(cells, model=None, control=None, **fields):
    fields = {"splits": 2, "generators": ["independent"], "encoders": ["pca:5"], **fields}
    study = recipe("generation", **fields)
    return generation.run_generation(
        cells,
        study,
        model,
        StudyEncoders(cells, "cpu", 0),
        control=control,
        device="cpu",
        seed=0,
        on_stage=quiet,
    )


def test_all_generators_are_measured_on_the_same_genes_in_the_same_space(donors, loaded, model):
    cells = deal(donors, "generation", **HALF)
    found = generated(cells, loaded, generators=["independent", "copula"], metrics=["energy_distance", "overlap"])  # fmt: skip
    assert len({row["encoder"] for row in found.rows}) == 1
    methods = {row["method"] for row in found.rows if row["scope"] == "mean"}
    assert {"model", "independent", "copula", "ceiling"} <= methods
    ours = [r for r in found.rows if r["method"] == "independent"]
    figures = {(r["scope"], r["label"], r["metric"]) for r in ours}
    assert len(figures) == len(ours)  # the generator, and not the floor of the same name besides
    assert found.facts["top_k"] == model.card.top_k == 16
    assert found.facts["genes_generated"] == len(model.vocabulary)
    assert all(r["n_labels"] == 5 for r in found.rows if r["scope"] == "mean")


def test_generated_cells_have_the_labels_of_the_real_ones_and_floors_the_right_means(cut):
    """Resampled cells have their genes' means in training cells; they lie near real cells, and not on them."""
    cells = deal(cut, "generation", **HALF)
    found = generated(cells, top_k=40, metrics=["pearson", "energy_distance"])
    for kind in set(cells.labels):
        assert found.value("pearson", "independent", scope="label", label=str(kind)) > 0.5
    assert found.value("energy_distance", "ceiling", scope="mean") < found.value(
        "energy_distance", "independent", scope="mean"
    )


def test_labels_that_a_baseline_never_saw_are_left_out_for_all(donors):
    cells = deal(
        donors,
        **tiers({"name": "mixed", "where": [{"cell_type": "beta"}, {"donor": ["d0", "d1"]}]}),
    )
    found = generated(cells, metrics=["energy_distance"])
    labels = {r["label"] for r in found.rows if r["part"] == "mixed" and r["scope"] == "label"}
    assert labels == {"acinar", "alpha", "delta", "ductal"}
    assert any(x["label"] == "beta" and x["part"] == "mixed" for x in found.left_out)


def test_where_all_labels_are_unseen_only_the_model_takes_part(cut, loaded):
    cells = deal(cut, **tiers({"name": "beta", "where": [{"cell_type": "beta"}]}))
    found = generated(cells, loaded, metrics=["energy_distance"])
    methods = {r["method"] for r in found.rows if r["part"] == "beta" and r["scope"] == "mean"}
    assert "model" in methods
    assert "independent" not in methods
    assert {"part": "beta", "method": "independent", "label": "", "metric": "",
            "reason": "no training cell has any of these labels"} in found.left_out  # fmt: skip
    alone = generated(cells, None, metrics=["energy_distance"])
    assert not [r for r in alone.rows if r["part"] == "beta"]
    said = [line for section in alone.sections for line in section.paragraphs]
    assert any("nothing was compared" in line for line in said)


def test_held_out_combinations_stand_beside_control_and_mean_shift(donors):
    """Planted responses: the same genes rise in every type, so the mean shift of others predicts what was held out."""
    treated = donors.copy()
    gene = np.argsort(-np.asarray(treated.X.mean(axis=0)).ravel())[50:80]
    counts = treated.X.tolil()
    counts[:, gene] = counts[:, gene].toarray() + 30
    treated.X = counts.tocsr().astype(np.float32)
    treated.obs_names = [f"{n}-treated" for n in treated.obs_names]
    both = ad.concat([donors, treated])
    both.obs["perturbation"] = ["control"] * 150 + ["IFN"] * 150
    fields = {
        "conditions": ["cell_type", "perturbation"],
        "control": "perturbation=control",
        "hold_out": [{"name": "tier", "where": [{"cell_type": "beta", "perturbation": "IFN"}]}],
        "generation": {},
        **HALF,
    }
    cells = study_cells(both, recipe("ood", **fields), "planted")
    assert len(cells.rows("tier")) == 30
    found = generated(cells, None, "perturbation=control", metrics=["pearson", "energy_distance"], top_k=100)  # fmt: skip
    # Nothing but a model can make unseen combinations, and there is none here.
    assert not [r for r in found.rows if r["part"] == "tier"]
    test = [r for r in found.rows if r["part"] == "test" and r["scope"] == "label"]
    assert {r["label"].split(" · ")[1] for r in test} == {"IFN"}
    assert found.value("energy_distance", "mean_shift", scope="mean") < found.value(
        "energy_distance", "control", scope="mean"
    )


# --- embedding --------------------------------------------------------------------------------


def test_votes_are_those_of_the_metric():
    rng = np.random.default_rng(0)
    points, codes = rng.normal(size=(80, 3)), rng.integers(4, size=80)
    points += codes[:, None]
    share = np.mean(votes(points, codes, 4, 7) == codes)
    assert share == pytest.approx(knn_accuracy(points, codes, n_neighbors=7))


def test_embeddings_are_measured_and_donors_that_mix_are_not_recovered(donors, loaded):
    study = recipe("embedding", encoders=["pca:5"], neighbors=3, resamples=20)
    cells = study_cells(donors, with_changes(study, HALF), "cut")  # fmt: skip
    found = embedding.run_embedding(
        cells, study, loaded, StudyEncoders(cells, "cpu", 0), on_stage=quiet
    )
    assert set(found.facts["encoders"]) == {"pca:5", "model"}
    assert found.facts["encoders"]["model"].startswith("c2s-")
    for metric in ("label_transfer", "knn_accuracy", "ari", "nmi"):
        assert 0.3 < found.value(metric, "pca:5") <= 1
    # Donors were dealt in turn, so neighbours tell nothing of them.
    common = found.value("donor_recovered", "commonest donor")
    assert found.value("donor_recovered", "pca:5") < common + 0.15


def test_a_donor_of_its_own_corner_is_recovered():
    rng = np.random.default_rng(0)
    n = 60
    counts = rng.poisson(3, size=(n, 40))
    counts[::2, :20] += 40  # donors differ
    counts[: n // 2, 30:] += 20  # types differ
    obs = pd.DataFrame(
        {
            "cell_type": ["a"] * (n // 2) + ["b"] * (n // 2),
            "donor": ["d0", "d1"] * (n // 2),
        },
        index=[f"c{i}" for i in range(n)],
    )
    adata = ad.AnnData(
        sp.csr_matrix(counts.astype(np.float32)),
        obs,
        pd.DataFrame(index=[f"G{i}" for i in range(40)]),
    )
    study = recipe("embedding", encoders=["pca:3"], neighbors=3, resamples=20)
    cells = study_cells(adata, with_changes(study, HALF), "planted")
    found = embedding.run_embedding(
        cells, study, None, StudyEncoders(cells, "cpu", 0), on_stage=quiet
    )
    assert found.value("donor_recovered", "pca:3") == 1.0
    assert found.value("donor_recovered", "commonest donor") < 0.8
    assert found.value("label_transfer", "pca:3") > 0.9


# --- the folder -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(cut, tmp_path_factory):
    """An out-of-distribution study with a model that was trained for two steps."""
    place = tmp_path_factory.mktemp("study")
    cut.write_h5ad(place / "cells.h5ad")
    study = recipe(
        "ood",
        data=str(place / "cells.h5ad"),
        pseudo_donors=5,
        train=TRAINING,
        resamples=20,
        hold_out=[{"name": "low depth", "lowest_depth": 0.3}],
        annotation={"baselines": ["knn"]},
        generation={"generators": ["independent"], "encoders": ["pca:5"], "splits": 2, "metrics": ["energy_distance"]},
        published={
            "dataset": "Other cells", "citation": "Somebody 2020", "get": "from them",
            "numbers": [{"what": "accuracy", "method": "C2S", "value": "12.34 %", "dataset": "their cells", "source": "a note"}],
            "missing": ["their weights"],
        },
    )  # fmt: skip
    run_study("mine", study, place / "out", device="cpu")
    return place / "out"


def test_a_study_leaves_what_others_read(folder, cut):
    assert {p.name for p in folder.iterdir()} == {
        "recipe.yaml", "manifest.json", "results.json", "results.csv", "summary.md", "split.csv", "left_out.csv",
        "predictions.csv", "figures", "model",
    }  # fmt: skip
    table = pd.read_csv(folder / "results.csv", keep_default_na=False)
    assert set(table["part"]) == {"test", "low depth"}
    assert set(table["task"]) == {"annotation", "generation"}
    results = json.loads((folder / "results.json").read_text())
    assert {"annotation by knn", "fitting independent"} <= set(results["seconds"])  # of both tasks
    assert len(results["results"]) == len(table)
    assert results["model"]["trained"] is True
    manifest = json.loads((folder / "manifest.json").read_text())
    import hashlib

    data = folder.parent / "cells.h5ad"
    assert manifest["data"]["sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert {"torch", "c2s-toolkit"} <= set(manifest["versions"])
    split = pd.read_csv(folder / "split.csv")
    depth = np.asarray(cut.X.sum(axis=1)).ravel()
    low = (split["part"] == "low depth").to_numpy()
    for kind in cut.obs["cell_type"].unique():
        own = (cut.obs["cell_type"] == kind).to_numpy()
        assert depth[own & low].max() <= depth[own & ~low].min()
    assert all((folder / "figures" / p.name).stat().st_size > 1000 for p in (folder / "figures").iterdir())  # fmt: skip


def test_published_numbers_never_stand_among_ours(folder):
    text = (folder / "summary.md").read_text()
    before, after = text.split("## Published")
    assert "12.34 %" not in before
    assert "| accuracy | C2S | 12.34 % | their cells | a note |" in after
    assert "- their weights" in after
    assert "12.34" not in (folder / "results.csv").read_text()
    table = [line for line in before.splitlines() if line.startswith("| knn")]
    assert table
    assert "pseudo-donors" in before
    assert "say nothing of other donors" in before


def test_the_resolved_recipe_runs_again_to_the_same_figures(folder, tmp_path):
    again = read_study(folder / "recipe.yaml")
    written = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert written["split"] == {"by": "cell", "fractions": [0.8, 0.2]}
    run_study("mine", again, tmp_path / "again", device="cpu")
    for name in ("results.csv", "split.csv", "predictions.csv"):
        assert (tmp_path / "again" / name).read_text() == (folder / name).read_text()


def test_a_folder_that_is_no_study_is_refused_and_kept(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not an earlier run"):
        run_study("x", recipe("annotation", data="pancreas"), tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_numbers_are_written_as_they_are_meant():
    assert with_interval({"value": 0.98, "low": 0.9, "high": 1.0}) == "0.980 [0.900, 1.000]"
    assert with_interval({"value": 1e-5, "low": None, "high": None}) == "1.0e-05"
    assert with_interval({"value": float("nan")}) == "–"
    assert markdown_table([["a", "b"], ["x|y", "1\n2"]]) == (
        "| a | b |\n| --- | --- |\n| x\\|y | 1 2 |"
    )
