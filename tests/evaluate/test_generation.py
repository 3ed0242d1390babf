"""The generation table on real cells: real beats the baseline, copies are caught, broken generators lose."""

from __future__ import annotations

import numpy as np
import pytest

from c2s.baselines.generation import copy_training
from c2s.cells.inverse import RankExpressionModel
from c2s.cells.ranked import RankedCells, rank_matrix
from c2s.cells.vocabulary import GeneVocabulary
from c2s.corpus.splits import split_cells
from c2s.evaluate.generation import Space, evaluate_generation, independent_cells
from c2s.metrics import median_gamma, mmd2

TOP_K = 60


@pytest.fixture(scope="module")
def setting(pancreas):
    vocabulary = GeneVocabulary.from_var(pancreas.var)
    counts = pancreas.X.tocsr()
    labels = pancreas.obs["cell_type"].astype(str).to_numpy(dtype=object)
    split = split_cells(labels, (0.6, 0.2, 0.2), seed=1)
    ids = pancreas.obs_names.to_numpy()
    rows = {part: np.flatnonzero(split == part) for part in ("train", "val", "test")}

    def ranked(part, seed=0):
        return rank_matrix(counts[rows[part]], vocabulary, ids[rows[part]], top_k=TOP_K, seed=seed)

    line = RankExpressionModel(slope=-0.68, intercept=2.24, vocabulary=vocabulary)
    space = Space.fit(ranked("train"), line)
    test_labels = labels[rows["test"]]
    baseline = independent_cells(
        counts[rows["train"]], vocabulary, labels[rows["train"]], test_labels, TOP_K, 0
    )

    def evaluate(generated):
        return evaluate_generation(
            space=space, training=ranked("train"), training_labels=labels[rows["train"]], real=ranked("test"),
            real_labels=test_labels, generated=generated, baseline=baseline, top_k=TOP_K,
        )  # fmt: skip

    return {
        "evaluate": evaluate,
        "ranked": ranked,
        "labels": labels,
        "rows": rows,
        "counts": counts,
        "vocabulary": vocabulary,
        "test_labels": test_labels,
        "baseline": baseline,
    }


def other_real_cells(setting):
    """Validation cells of the types of the test cells: as good as a generator can be."""
    ranked, labels = setting["ranked"]("val", seed=5), setting["labels"][setting["rows"]["val"]]
    rng = np.random.default_rng(0)
    rows = [
        rng.choice(np.flatnonzero(labels == t)) if (labels == t).any() else 0
        for t in setting["test_labels"]
    ]
    return ranked.take(np.array(rows))


def test_real_cells_beat_independent_resampling(setting):
    found = setting["evaluate"](other_real_cells(setting)).metrics
    independent = found["baselines"]["independent"]
    for metric in ("scfid", "energy_distance", "mmd2"):
        assert abs(found[metric]) < independent[metric]
    assert abs(found["c2st"] - 0.5) < independent["c2st"] - 0.5
    assert abs(found["c2st_ceiling"] - 0.5) < independent["c2st"] - 0.5
    assert found["valid_fraction"] == found["unique_fraction"] == found["exact_k_fraction"] == 1
    assert found["type_recovered"] > 0.85


def test_mmd_of_all_rows_is_measured_with_the_kernel_of_the_real_cells(setting, monkeypatch):
    from c2s.evaluate import generation

    asked = []

    def recorded(real, generated, *, gammas):
        asked.append(gammas)
        return mmd2(real, generated, gammas=gammas)

    monkeypatch.setattr(generation, "mmd2", recorded)
    result = setting["evaluate"](other_real_cells(setting))
    assert asked == [[median_gamma(result.real)]] * 3  # model, baseline, ceiling
    assert result.metrics["mmd2"] == mmd2(result.real, result.generated, gammas=asked[0])


def test_copied_training_cells_are_caught(setting):
    rows, labels = setting["rows"]["train"], setting["labels"]
    copies = copy_training(setting["counts"][rows], labels[rows], setting["test_labels"], seed=3)
    ids = [f"copy{i}" for i in range(copies.shape[0])]
    found = setting["evaluate"](
        rank_matrix(copies, setting["vocabulary"], ids, top_k=TOP_K)
    ).metrics
    assert found["scfid"] < found["baselines"]["independent"]["scfid"]  # it looks excellent …
    assert (
        found["nearest_training_distance"] < 0.7 * found["nearest_training_distance_real"]
    )  # … and is caught
    assert found["memorisation"]["share_below_5th"] > 0.3


def test_one_cell_a_type_is_a_bad_generator(setting):
    ranked, labels = setting["ranked"]("val"), setting["labels"][setting["rows"]["val"]]
    first = [
        int(np.flatnonzero(labels == t)[0]) if (labels == t).any() else 0
        for t in setting["test_labels"]
    ]
    found = setting["evaluate"](ranked.take(first)).metrics
    assert found["scfid"] > 2 * found["baselines"]["independent"]["scfid"]


def test_per_type_says_which_metric_and_who_wins(setting):
    rows = setting["evaluate"](other_real_cells(setting)).metrics["per_type"]
    assert rows[0]["cell_type"] == "beta"
    assert rows[0]["metric"] == "scfid"  # 174 cells ≥ 4 · 20 components
    by_type = {r["cell_type"]: r for r in rows}
    assert by_type["alpha"]["metric"] == "energy_distance"
    assert by_type["schwann"]["metric"] is None
    assert by_type["schwann"]["winner"] is None
    for row in rows:
        if row["metric"]:
            nearer = abs(row["model"]) < abs(row["independent"])
            assert row["winner"] == ("model" if nearer else "independent")


def test_sentences_that_are_short_or_repeat_are_counted(setting):
    good = other_real_cells(setting)
    cells = [good.to_columns(i) for i in range(len(good))]
    cells[0] = cells[0][:-1]
    cells[1] = np.append(cells[1][:-1], cells[1][0])
    found = setting["evaluate"](RankedCells.from_columns(cells, good.vocabulary)).metrics
    assert found["exact_k_fraction"] == pytest.approx(1 - 1 / len(good))
    assert found["unique_fraction"] < 1


def test_independent_cells_have_the_margins_of_their_type(setting):
    train = setting["rows"]["train"]
    of_type = setting["labels"][train] == "alpha"
    real = setting["ranked"]("train").take(np.flatnonzero(of_type))
    wanted = np.full(600, "alpha", dtype=object)
    made = independent_cells(
        setting["counts"][train], setting["vocabulary"], setting["labels"][train], wanted, TOP_K, 1
    )
    share = lambda cells: np.bincount(cells.genes, minlength=len(cells.vocabulary)) / len(cells)  # noqa: E731
    often = np.argsort(-share(real))[:30]
    np.testing.assert_allclose(share(made)[often], share(real)[often], atol=0.12)
