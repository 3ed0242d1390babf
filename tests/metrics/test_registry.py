"""Directions and ideals say what the functions do."""

import subprocess
import sys
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from c2s.metrics import METRICS

RNG = np.random.default_rng(0)
REAL, OTHER = RNG.normal(size=(2, 120, 3))
LABELS = np.array(["a", "b", "c"] * 40)
SCRAMBLED = LABELS[RNG.permutation(120)]
COLUMNS, INDPTR = np.array([0, 1, 2, 3]), np.array([0, 2, 4])
SURE = np.ones(120)

# Arguments for a good result and for one broken on purpose.
CASES = {
    "accuracy": ((LABELS, LABELS), (LABELS, SCRAMBLED)),
    "macro_f1": ((LABELS, LABELS), (LABELS, SCRAMBLED)),
    "ece": ((LABELS, LABELS, SURE), (LABELS, SCRAMBLED, SURE)),
    "overlap": (([1, 2], [1, 2]), ([1, 3], [1, 2])),
    "kendall_tau_b": (([1, 2, 3], [1, 2, 3]), ([1, 3, 2], [1, 2, 3])),
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
    with pytest.raises(FrozenInstanceError):
        METRICS["scfid"].best = "higher"


@pytest.mark.parametrize("name", METRICS)
def test_breaking_the_input_moves_the_value_in_the_wrong_direction(name):
    metric, (good, broken) = METRICS[name], CASES[name]
    better, worse = metric.function(*good), metric.function(*broken)
    assert better < worse if metric.best == "lower" else better > worse
    assert metric.better(better, worse)
    assert not metric.better(worse, better)


@pytest.mark.parametrize("name", ["scfid", "mmd2", "energy_distance", "wasserstein"])
def test_distances_are_near_their_ideal_on_equal_samples(name):
    assert METRICS[name].function(REAL, REAL) == pytest.approx(METRICS[name].ideal, abs=0.1)


def test_beyond_the_ideal_is_no_better():
    c2st = METRICS["c2st"]
    assert c2st.better(0.52, 0.1)
    assert not METRICS["mmd2"].better(-0.01, 0.01)
    assert not c2st.better(float("nan"), 0.9)
    assert not c2st.better(0.9, float("nan"))


def test_importing_metrics_loads_no_heavy_library():
    heavy = "{'sklearn', 'ot', 'torch', 'scipy.stats', 'anndata', 'scanpy'}"
    code = f"import sys, c2s.metrics; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
