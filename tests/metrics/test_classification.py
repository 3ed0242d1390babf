"""Classification metrics against scikit-learn and by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from c2s.common.errors import InputError, UsageError
from c2s.metrics import (
    accuracy,
    confusion_matrix,
    expected_calibration_error,
    macro_f1,
    per_class,
    reliability,
)

TRUTH = ["beta", "beta", "beta", "alpha", "delta"]
CALLED = ["beta", "alpha", "beta", "alpha", "gamma"]

pairs = st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("abcdf")), min_size=1)


def test_by_hand():
    assert accuracy(TRUTH, CALLED) == pytest.approx(3 / 5)
    table = per_class(TRUTH, CALLED)
    assert table.index.tolist() == ["alpha", "beta", "delta", "gamma"]
    assert table["precision"].tolist() == [0.5, 1.0, 0.0, 0.0]
    assert table["recall"].tolist() == pytest.approx([1.0, 2 / 3, 0.0, 0.0])
    assert table["f1"].tolist() == pytest.approx([2 / 3, 0.8, 0.0, 0.0])
    assert table["support"].tolist() == [1, 3, 1, 0]
    assert macro_f1(TRUTH, CALLED) == pytest.approx((2 / 3 + 0.8) / 4)


@pytest.mark.filterwarnings("ignore:A single label:UserWarning:sklearn")
@given(pairs)
def test_equal_to_scikit_learn(cells):
    truth, called = map(list, zip(*cells, strict=True))
    labels = sorted(set(truth) | set(called))
    assert accuracy(truth, called) == pytest.approx(sk.accuracy_score(truth, called))
    assert macro_f1(truth, called) == pytest.approx(
        sk.f1_score(truth, called, average="macro", zero_division=0)
    )
    columns = sk.precision_recall_fscore_support(truth, called, labels=labels, zero_division=0)
    np.testing.assert_allclose(per_class(truth, called).to_numpy().T, np.array(columns))
    found, matrix = confusion_matrix(truth, called)
    assert found.tolist() == labels
    np.testing.assert_array_equal(matrix, sk.confusion_matrix(truth, called, labels=labels))


def test_confusion_matrix_keeps_the_order_asked_for_and_labels_without_cells():
    labels, matrix = confusion_matrix(["b", "a"], ["b", "b"], labels=["b", "c", "a"])
    assert labels.tolist() == ["b", "c", "a"]
    np.testing.assert_array_equal(matrix, [[1, 0, 0], [0, 0, 0], [1, 0, 0]])


def test_categories_integers_and_object_arrays_are_labels():
    truth = pd.Series(["a", "b", "a"], dtype="category")
    assert accuracy(truth, np.array(["a", "b", "b"], dtype=object)) == pytest.approx(2 / 3)
    assert macro_f1([1, 2], [1, 2]) == 1.0


@pytest.mark.parametrize(
    ("truth", "called", "message"),
    [
        (["a", "b"], ["a"], "different length"),
        ([], [], "one label per cell"),
        (["a", None], ["a", "b"], "truth: cell 1 has no label"),
        (["a", "b"], [np.nan, "b"], "predicted: cell 0 has no label"),
        (["a", "b"], [1, 2], "different type"),
        ([0.5, 1.0], [0.5, 1.0], "decimal"),
    ],
)
def test_labels_that_cannot_be_compared_are_refused(truth, called, message):
    with pytest.raises(InputError, match=message):
        accuracy(
            np.array(truth, dtype=object) if None in truth else truth,
            np.array(called, dtype=object) if "b" in called else called,
        )


def test_confusion_matrix_refuses_an_order_that_lacks_a_label_or_repeats_one():
    with pytest.raises(InputError, match="'b' occurs in the data"):
        confusion_matrix(["a", "b"], ["a", "a"], labels=["a"])
    with pytest.raises(InputError, match="named twice"):
        confusion_matrix(["a"], ["a"], labels=["a", "a"])


def test_calibration_by_hand():
    truth = ["a"] * 6
    called = ["a", "b", "a", "a", "b", "a"]
    confidence = np.array([0.95, 0.85, 0.9, 0.35, 0.4, 0.0])
    # Bins (0.3, 0.4], (0.8, 0.9], (0.9, 1.0] and the first, which holds confidence 0.
    bins = reliability(truth, called, confidence)
    assert bins["n"].tolist() == [1, 2, 2, 1]
    assert bins["confidence"].tolist() == pytest.approx([0.0, 0.375, 0.875, 0.95])
    assert bins["accuracy"].tolist() == pytest.approx([1.0, 0.5, 0.5, 1.0])
    expected = (1 * 1.0 + 2 * 0.125 + 2 * 0.375 + 1 * 0.05) / 6
    assert expected_calibration_error(truth, called, confidence) == pytest.approx(expected)


def test_calibration_is_0_when_confidence_is_right_and_grows_when_it_is_not():
    truth, called = ["a"] * 10, ["a"] * 8 + ["b"] * 2
    right = expected_calibration_error(truth, called, np.full(10, 0.8))
    assert right == pytest.approx(0)
    assert expected_calibration_error(truth, called, np.full(10, 1.0)) == pytest.approx(0.2)
    assert expected_calibration_error(truth, called, np.full(10, 0.3)) == pytest.approx(0.5)


def test_calibration_accuracy_and_f1_equal_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional.classification")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), size=200)
    truth, called = rng.integers(4, size=200), probabilities.argmax(axis=1)
    given_, target = torch.tensor(probabilities), torch.tensor(truth)
    ece = functional.multiclass_calibration_error(given_, target, num_classes=4, n_bins=10)
    found = expected_calibration_error(truth, called, probabilities.max(axis=1))
    assert found == pytest.approx(float(ece), abs=1e-6)
    share = functional.multiclass_accuracy(given_, target, num_classes=4, average="micro")
    assert accuracy(truth, called) == pytest.approx(float(share), abs=1e-6)
    f1 = functional.multiclass_f1_score(given_, target, num_classes=4, average="macro")
    assert macro_f1(truth, called) == pytest.approx(float(f1), abs=1e-6)


@pytest.mark.parametrize("edge", np.round(np.arange(1, 11) / 10, 1))
def test_an_edge_belongs_to_the_bin_below(edge):
    bins = reliability(["a", "a"], ["a", "a"], np.array([edge, edge - 0.05]))
    assert bins["n"].tolist() == [2]


@pytest.mark.parametrize("confidence", [1.5, -0.1, np.nan])
def test_confidence_outside_0_to_1_is_refused(confidence):
    with pytest.raises(InputError, match="cell 1 has"):
        reliability(["a", "a"], ["a", "a"], np.array([0.5, confidence]))


def test_reliability_refuses_other_lengths_and_no_bins():
    with pytest.raises(InputError, match="one per cell"):
        reliability(["a", "a"], ["a", "a"], np.array([0.5]))
    with pytest.raises(UsageError, match="n_bins"):
        reliability(["a"], ["a"], np.array([0.5]), n_bins=0)
