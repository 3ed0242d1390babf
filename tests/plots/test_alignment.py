"""Figures of an alignment hold the numbers of its log: read back from the artists."""

import numpy as np
import pytest

from c2s.common.errors import UsageError
from c2s.plots import alignment_measures, alignment_policy, alignment_rewards, alignment_times
from c2s.plots.alignment import measure_title

LOG = [
    {"step": 0, "eval_scfid": 3.0, "eval_nearest_overlap": 0.5, "eval_nearest_overlap_real": 0.6},
    *(
        {
            "step": s, "reward": 2.0 * s + 1, "reward_std": 0.5, "rewards/scfid/mean": float(s),
            "rewards/scfid/std": 0.25, "rewards/validity/mean": 1.0, "rewards/validity/std": 0.0,
            "kl": 0.01 * s, "entropy": 4.0 - 0.1 * s, "completions/mean_length": 20.0,
            "frac_reward_zero_std": 0.0, "watch/scfid": 10.0 - s, "watch/diversity": 0.9,
        }
        for s in (1, 2, 4)  # the line of the third step was lost
    ),
    {"step": 4, "eval_scfid": 2.0, "eval_nearest_overlap": 0.7, "eval_nearest_overlap_real": 0.6},
]  # fmt: skip


def panels(figure):
    """Axes that are shown, by heading."""
    return {ax.get_title(loc="left"): ax for ax in figure.axes if ax.get_visible()}


def lines(ax):
    """Points of each line, by label; lines without one are left out."""
    return {
        line.get_label(): line.get_xydata().tolist()
        for line in ax.get_lines()
        if not line.get_label().startswith("_")
    }


def test_a_panel_for_the_sum_and_for_each_reward():
    found = panels(alignment_rewards(LOG))
    assert list(found) == ["Reward: weighted sum", "Reward: scfid", "Reward: validity"]
    assert found["Reward: scfid"].get_lines()[1].get_xydata().tolist() == [[1, 1], [2, 2], [4, 4]]
    assert found["Reward: weighted sum"].get_lines()[1].get_ydata().tolist() == [3, 5, 9]
    (band,) = found["Reward: weighted sum"].collections
    drawn = {tuple(p) for p in band.get_paths()[0].vertices.tolist()}
    assert drawn == {(1, 2.5), (1, 3.5), (2, 4.5), (2, 5.5), (4, 8.5), (4, 9.5)}


def test_one_reward_is_its_own_sum():
    log = [{k: v for k, v in r.items() if "validity" not in k} for r in LOG]
    assert list(panels(alignment_rewards(log))) == ["Reward: scfid"]


def test_lines_are_running_means_of_a_fortieth():
    log = [{"step": s, "rewards/scfid/mean": float(s % 2)} for s in range(80)]
    raw, smooth = panels(alignment_rewards(log))["Reward: scfid"].get_lines()
    assert raw.get_ydata().tolist() == [0.0, 1.0] * 40
    assert smooth.get_ydata().tolist() == [0.0] + [0.5] * 79


def test_the_policy_without_a_reference_has_no_kl():
    shown = panels(alignment_policy(LOG))
    assert shown["KL from the model before (nats a token)"].get_lines()[0].get_ydata().tolist() == [0.01, 0.02, 0.04]  # fmt: skip
    log = [{k: v for k, v in r.items() if k != "kl"} for r in LOG]
    assert set(shown) - set(panels(alignment_policy(log))) == {"KL from the model before (nats a token)"}  # fmt: skip


def test_measures_held_out_beside_those_of_training():
    found = panels(alignment_measures(LOG, ["scfid", "diversity", "nearest_overlap"], ["scfid"]))
    assert list(found) == ["scFID (rewarded)", "Diversity (real cells: 1)", "Genes shared with the nearest training cell"]  # fmt: skip
    scfid, diversity, overlap = map(lines, found.values())
    assert scfid["held out"] == [[0, 3], [4, 2]]
    assert scfid["training answers"] == [[1, 9], [2, 8], [4, 6]]
    assert np.array(diversity["training answers"]) == pytest.approx(
        np.array([[1, 0.9], [2, 0.9], [4, 0.9]])
    )
    assert overlap == {"held out": [[0, 0.5], [4, 0.7]], "real cells": [[0, 0.6], [4, 0.6]]}
    assert [w.get_text() for w in found["scFID (rewarded)"].get_legend().get_texts()] == ["training answers", "held out"]  # fmt: skip


def test_shares_of_time_are_bars_in_percent():
    ax = alignment_times({"rollouts": 0.75, "rewards": 0.25})
    assert [bar.get_width() for bar in ax.patches] == [75.0, 25.0]
    assert [word.get_text() for word in ax.texts] == ["75.0%", "25.0%"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["rollouts", "rewards"]


@pytest.mark.parametrize("draw", [alignment_rewards, alignment_policy, lambda log: alignment_measures(log, [])])  # fmt: skip
def test_a_log_of_something_else_is_refused(draw):
    with pytest.raises(UsageError, match="nothing of an alignment"):
        draw([{"step": 1, "loss": 2.0}])


def test_what_is_no_number_is_a_gap():
    log = [*LOG, {"step": 5, "kl": None, "rewards/scfid/mean": float("nan")}]
    line = panels(alignment_rewards(log))["Reward: scfid"].get_lines()[1]
    assert np.isfinite(line.get_ydata()).all()
    assert line.get_xdata().max() == 4


def test_headings_of_measures():
    assert measure_title("energy_distance") == "Energy distance"
    assert measure_title("accuracy_cell_type") == "Accuracy, cell type"
    assert measure_title("something_new") == "something new"
