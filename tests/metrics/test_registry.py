"""Directions and ideals say what the functions do."""

import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest

from c2s.common.errors import InputError
from c2s.metrics import METRICS

RNG = np.random.default_rng(0)
REAL, OTHER = RNG.normal(size=(2, 120, 3))
LABELS = np.array(["a", "b", "c"] * 40)
SCRAMBLED = LABELS[RNG.permutation(120)]
COLUMNS, INDPTR = np.array([0, 1, 2, 3]), np.array([0, 2, 4])
SURE = np.ones(120)

ONTOLOGY = {"b": ["a"], "c": ["a"]}
TYPED = np.repeat(["a", "b", "c"], 40)
GROUPED = REAL + 5.0 * np.repeat(np.arange(3), 40)[:, None]


def encode(texts):
    return [np.array([[1.0, len(word)] for word in text.split()]) for text in texts]


# Arguments for a good result and for one broken on purpose.
CASES = {
    "accuracy": ((LABELS, LABELS), (LABELS, SCRAMBLED)),
    "macro_f1": ((LABELS, LABELS), (LABELS, SCRAMBLED)),
    "ece": ((LABELS, LABELS, SURE), (LABELS, SCRAMBLED, SURE)),
    "overlap": (([1, 2], [1, 2]), ([1, 3], [1, 2])),
    "kendall_tau_b": (([1, 2, 3], [1, 2, 3]), ([1, 3, 2], [1, 2, 3])),
    "spearman": (([1, 2, 3], [1, 2, 3]), ([1, 3, 2], [1, 2, 3])),
    "pearson": (([1, 2, 3], [1, 2, 3]), ([1, 3, 2], [1, 2, 3])),
    "bertscore": ((["a cell"], ["a cell"], encode), (["a"], ["abcdefg"], encode)),
    "ontology_distance": ((["b"], ["a"], ONTOLOGY), (["b"], ["c"], ONTOLOGY)),
    "knn_accuracy": ((GROUPED, TYPED), (REAL, TYPED)),
    "ari": ((LABELS, LABELS), (LABELS, SCRAMBLED)),
    "nmi": ((LABELS, LABELS), (LABELS, SCRAMBLED)),
    "foscttm": ((REAL @ REAL.T + 99 * np.eye(120),), (REAL @ OTHER.T,)),
    "scfid_unbiased": ((REAL, OTHER), (REAL, OTHER + 1)),
    "mmd2_cellot": ((REAL, OTHER), (REAL, OTHER + 1)),
    "scfid": ((REAL, OTHER), (REAL, OTHER + 1)),
    "mmd2": ((REAL, OTHER), (REAL, OTHER + 1)),
    "energy_distance": ((REAL, OTHER), (REAL, OTHER + 1)),
    "wasserstein": ((REAL, OTHER), (REAL, OTHER + 1)),
    "c2st": ((REAL, OTHER), (REAL, OTHER + 1)),
    "valid_fraction": ((COLUMNS, INDPTR), (COLUMNS - 1, INDPTR)),
    "unique_fraction": ((COLUMNS, INDPTR), (COLUMNS * 0, INDPTR)),
    "exact_k_fraction": ((COLUMNS, INDPTR, 2), (COLUMNS, np.array([0, 3, 4]), 2)),
}


def test_every_metric_is_described_and_has_a_case_here():
    assert set(METRICS) == set(CASES)
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.best in ("lower", "higher")
        assert metric.description.endswith(".")
        assert metric.reference
        assert metric.title
        assert metric.min_cells >= 1
    assert len({metric.title for metric in METRICS.values()}) == len(METRICS)
    with pytest.raises(FrozenInstanceError):
        METRICS["scfid"].best = "higher"


@pytest.mark.parametrize("name", METRICS)
def test_breaking_the_input_moves_the_value_in_the_wrong_direction(name):
    metric, (good, broken) = METRICS[name], CASES[name]
    better, worse = metric.function(*good), metric.function(*broken)
    assert better < worse if metric.best == "lower" else better > worse
    assert metric.better(better, worse)
    assert not metric.better(worse, better)


@pytest.mark.parametrize("name", ["scfid", "mmd2", "mmd2_cellot", "energy_distance", "wasserstein"])
def test_distances_are_near_their_ideal_on_equal_samples(name):
    assert METRICS[name].function(REAL, REAL) == pytest.approx(METRICS[name].ideal, abs=0.1)


SAMPLES = (
    "scfid",
    "scfid_unbiased",
    "mmd2",
    "mmd2_cellot",
    "energy_distance",
    "wasserstein",
    "c2st",
)


@pytest.mark.parametrize("name", METRICS)
def test_it_is_defined_from_the_number_of_cells_that_the_registry_says(name):
    metric, n = METRICS[name], METRICS[name].min_cells
    arguments = {
        **{sample: lambda n: (REAL[:n], OTHER[:n]) for sample in SAMPLES},
        **dict.fromkeys(("accuracy", "macro_f1", "ari", "nmi"), lambda n: (LABELS[:n], LABELS[:n])),
        "ece": lambda n: (LABELS[:n], LABELS[:n], SURE[:n]),
        "ontology_distance": lambda n: (["b"] * n, ["b"] * n, ONTOLOGY),
        "knn_accuracy": lambda n: (REAL[:n], LABELS[:n]),
        "foscttm": lambda n: (np.eye(n),),
        "valid_fraction": lambda n: (COLUMNS[:n], np.arange(n + 1)),
        "unique_fraction": lambda n: (COLUMNS[:n], np.arange(n + 1)),
        "exact_k_fraction": lambda n: (COLUMNS[:n], np.arange(n + 1), 1),
        "overlap": lambda n: ([[1, 2]] * n, [[1, 2]] * n),
        "bertscore": lambda n: (["a"] * n, ["a"] * n, encode),
        **dict.fromkeys(("kendall_tau_b", "spearman", "pearson"), lambda n: (REAL[:n], OTHER[:n])),
    }[name]
    assert np.isfinite(metric.function(*arguments(n))).all()
    if name == "overlap":
        return  # no list of cells is taken for one empty cell
    if name in ("bertscore", "kendall_tau_b", "spearman", "pearson"):
        assert len(metric.function(*arguments(n - 1))) == 0  # one value a pair: of none, none
    else:
        with pytest.raises(InputError):
            metric.function(*arguments(n - 1))


def test_the_page_of_the_room_lists_every_metric():
    page = Path(__file__).parents[2] / "docs" / "reference" / "rooms" / "metrics.md"
    rows = [line for line in page.read_text("utf-8").splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    listed = {row[0].strip("`"): row[1:] for row in cells if len(row) == 7}
    for name, metric in METRICS.items():
        title, direction, ideal, *_, cells, reference = listed[name]
        found = (title, direction, float(ideal), int(cells), reference)
        assert found == (
            metric.title,
            metric.best,
            metric.ideal,
            metric.min_cells,
            metric.reference,
        )
    assert set(listed) == set(METRICS)


def test_beyond_the_ideal_is_no_better():
    c2st = METRICS["c2st"]
    assert c2st.better(0.52, 0.1)
    assert not METRICS["mmd2"].better(-0.01, 0.01)
    assert not c2st.better(float("nan"), 0.9)
    assert not c2st.better(0.9, float("nan"))


def test_importing_metrics_loads_no_heavy_library():
    heavy = "{'sklearn', 'ot', 'numba', 'networkx', 'torch', 'scipy.stats', 'anndata', 'scanpy'}"
    code = f"import sys, c2s.metrics; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
