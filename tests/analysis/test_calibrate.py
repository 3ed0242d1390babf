"""Calibration: the temperature is found again, errors are what they are called, and the model remembers it."""

import json

import anndata as ad
import numpy as np
import pytest

import c2s
from c2s.analysis.annotate import label_probabilities
from c2s.analysis.calibrate import fit_temperature
from c2s.common.errors import C2SWarning, InputError, UsageError
from c2s.models.directory import Model

TYPES = ["acinar", "alpha", "beta", "delta", "ductal"]


@pytest.fixture
def own(model):
    """The trained model with a card of its own."""
    return Model(model.network, model.tokenizer, model.card, model.source)


def drawn(temperature, n=20_000):
    """Scores of which the truth is drawn at a temperature."""
    rng = np.random.default_rng(0)
    scores = 3 * rng.standard_normal((n, 4))
    p = np.exp(scores / temperature)
    p /= p.sum(1, keepdims=True)
    truth = (p.cumsum(1) < rng.random((n, 1))).sum(1)
    return scores[None], truth


class TestFit:
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
    def test_finds_the_temperature_that_the_truth_was_drawn_with(self, temperature):
        found = fit_temperature(*drawn(temperature))
        assert found["temperature"] == pytest.approx(temperature, rel=0.05)
        assert found["ece_after"] < 0.015
        assert found["nll_after"] <= found["nll_before"] + 1e-9
        if temperature != 1:
            assert found["ece_before"] > 5 * found["ece_after"]

    def test_is_the_best_on_a_grid(self):
        scores, truth = drawn(2.0, 500)
        scores = np.concatenate(
            [scores, scores + np.random.default_rng(1).normal(size=scores.shape)]
        )

        def nll(t):
            p = np.exp(scores / t)
            return -np.log((p / p.sum(2, keepdims=True)).mean(0)[np.arange(500), truth]).mean()

        found = fit_temperature(scores, truth)
        grid = np.geomspace(0.1, 10, 2000)
        best = min(grid, key=nll)
        assert found["temperature"] == pytest.approx(best, rel=0.01)
        assert found["nll_after"] == pytest.approx(nll(best), abs=1e-6)
        assert found["nll_before"] == pytest.approx(nll(1.0))

    def test_errors_by_hand(self):
        """Two labels at odds 3 to 1, right in half of the cells: p must fall from 0.75 to 0.5."""
        scores = np.log(np.tile([[0.75, 0.25]], (4, 1)))[None]
        with pytest.warns(C2SWarning, match="at the end of what is tried"):
            found = fit_temperature(scores, np.array([0, 0, 1, 1]))
        assert found["ece_before"] == pytest.approx(0.25)
        assert found["nll_before"] == pytest.approx(-(np.log(0.75) + np.log(0.25)) / 2)
        assert found["ece_after"] < 0.03
        assert found["n_cells"] == 4


class TestCalibrate:
    def test_annotate_uses_it_and_the_folder_keeps_it(self, cut, own, tmp_path):
        plain = label_probabilities(cut, own, TYPES)
        found = c2s.tl.calibrate(cut, own)
        assert found["n_cells"] == cut.n_obs
        assert own.card.calibration == found
        truth = cut.obs["cell_type"].astype(str).to_numpy()
        said = np.array(TYPES)[plain.argmax(1)]
        assert found["ece_before"] == pytest.approx(
            c2s.metrics.expected_calibration_error(truth, said, plain.max(1))
        )
        tempered = plain ** (1 / found["temperature"])
        tempered /= tempered.sum(1, keepdims=True)
        done = c2s.tl.annotate(cut, own, copy=True)
        np.testing.assert_allclose(done.obs["c2s_confidence"], tempered.max(1), rtol=1e-5)
        assert done.uns["c2s"]["annotate"]["parameters"]["temperature"] == found["temperature"]
        own.save(tmp_path / "model")
        assert json.loads((tmp_path / "model" / "c2s.json").read_text())["calibration"] == found
        again = c2s.load_model(tmp_path / "model", device="cpu")
        np.testing.assert_allclose(label_probabilities(cut, again, TYPES), tempered, atol=1e-5)
        # What was asked for comes before what is remembered.
        np.testing.assert_allclose(
            label_probabilities(cut, again, TYPES, temperature=1.0), plain, atol=1e-5
        )

    def test_fits_the_model_as_it_is_not_as_it_was_calibrated(self, cut, own):
        first = c2s.tl.calibrate(cut, own)
        assert c2s.tl.calibrate(cut, own) == pytest.approx(first)

    def test_backed(self, cut, own, tmp_path):
        cut[::10].copy().write_h5ad(tmp_path / "cut.h5ad")
        backed = ad.read_h5ad(tmp_path / "cut.h5ad", backed="r")
        assert c2s.tl.calibrate(backed, own) == pytest.approx(c2s.tl.calibrate(cut[::10], own))

    def test_cells_without_a_candidate_are_left_out(self, cut, own):
        part = cut[::10].copy()
        names = part.obs["cell_type"].astype(str).to_numpy(dtype=object)
        wanted = c2s.tl.calibrate(part[2:], own)
        names[0], names[1] = "a type of Mars", np.nan
        names[2] = names[2].upper()  # as the model may be asked
        part.obs["mine"] = names
        with pytest.warns(C2SWarning, match="2 of 15 cells have no label that is a candidate"):
            found = c2s.tl.calibrate(part, own, "mine")
        assert found["n_cells"] == 13
        assert found == pytest.approx(wanted, rel=1e-3, abs=1e-4)

    def test_what_cannot_work(self, cut, own):
        few = cut[:5].copy()
        with pytest.raises(UsageError, match="no column 'mine'; it has: .*cell_type"):
            c2s.tl.calibrate(few, own, "mine")
        with pytest.raises(InputError, match="no label of .* is one of the candidates: beta"):
            c2s.tl.calibrate(few, own, labels=["beta"])
        assert own.card.calibration == {}

    def test_a_temperature_of_nothing_in_the_file_is_refused(self, own, tmp_path):
        own.save(tmp_path / "model")
        card = json.loads((tmp_path / "model" / "c2s.json").read_text())
        card["calibration"] = {"temperature": 0.0}
        (tmp_path / "model" / "c2s.json").write_text(json.dumps(card))
        with pytest.raises(InputError, match=r"c2s.json.*temperature must be above 0"):
            c2s.load_model(tmp_path / "model")
