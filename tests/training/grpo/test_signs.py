"""Signs of reward hacking, by hand: each bound from both sides."""

import pytest

from c2s.training.grpo.signs import measures_of, rewarded, series, shares_of_time, signs_of_hacking

#: Measures of a run that nothing is wrong with, and of one that changed as little as is let pass.
BEFORE = {
    "diversity": 1.0, "unique": 1.0, "valid": 1.0, "genes": 100.0, "scfid": 3.0, "energy_distance": 0.5,
    "nearest_overlap": 0.55, "nearest_overlap_real": 0.6, "accuracy_cell_type": 0.9, "allowed": 0.9,
}  # fmt: skip


def steps(n=20, **ends):
    """The log of a run in which each number goes from one value to another on a line."""
    return [
        {"step": i + 1}
        | {name: first + (last - first) * i / (n - 1) for name, (first, last) in ends.items()}
        for i in range(n)
    ]


def rising(paid="negative_mse"):
    """The log of a run whose reward rises from −20 to −1."""
    return [
        {**record, f"rewards/{paid}/mean": record["reward"]} for record in steps(reward=(-20, -1))
    ]


@pytest.mark.parametrize(
    ("name", "passes", "is_told", "words"),
    [
        ("diversity", 0.81, 0.79, "diversity fell from 1 to 0.79"),
        ("unique", 0.96, 0.94, "6.0% of cells equal another"),
        ("valid", 0.995, 0.98, "valid cells fell from 100.0% to 98.0%"),
        ("allowed", 0.881, 0.87, "a probability of 87.0% a token, before 90.0%"),
        ("genes", 101.9, 102.1, "genes of a cell went from 100 to 102.1"),
        ("genes", 98.1, 97.9, "genes of a cell went from 100 to 97.9"),
        ("nearest_overlap", 0.64, 0.66, "66.0% of genes in common with the nearest training cell, before 55.0%"),
        ("scfid", 3.29, 3.31, "scFID, which was not rewarded, rose from 3 to 3.31 while the reward rose from -19.5 to -1.5"),
        ("energy_distance", 0.549, 0.551, "energy distance, which was not rewarded, rose from 0.5 to 0.551"),
        ("accuracy_cell_type", 0.88, 0.879, "accuracy of cell_type fell from 90.0% to 87.9%"),
    ],
)  # fmt: skip
def test_each_bound_from_both_sides(name, passes, is_told, words):
    assert signs_of_hacking(BEFORE, {**BEFORE, name: passes}, rising()) == []
    (sign,) = signs_of_hacking(BEFORE, {**BEFORE, name: is_told}, rising())
    assert words in sign
    assert "\n" not in sign


def test_a_run_that_changed_nothing_has_no_sign():
    assert signs_of_hacking(BEFORE, BEFORE, rising()) == []
    assert signs_of_hacking({}, {}, []) == []


def test_what_is_missing_or_no_number_is_not_looked_at():
    gone = {"diversity": None, "valid": float("nan"), "accuracy_cell_type": None}
    assert signs_of_hacking(BEFORE, {**BEFORE, **gone}, []) == []
    assert signs_of_hacking({**BEFORE, **gone}, {**BEFORE, "diversity": 0.1}, []) == []


def test_an_overspread_policy_that_comes_to_what_real_cells_have_is_no_collapse():
    assert signs_of_hacking({"diversity": 1.5}, {"diversity": 1.0}, []) == []
    assert len(signs_of_hacking({"diversity": 1.5}, {"diversity": 0.7}, [])) == 1
    # A small one that does not fall is not the work of the reward.
    assert signs_of_hacking({"diversity": 0.5}, {"diversity": 0.5}, []) == []


def test_equal_cells_and_copies_that_were_there_before_are_no_sign():
    was = {**BEFORE, "unique": 0.9, "nearest_overlap": 0.7}
    assert signs_of_hacking(was, was, []) == []


def test_equal_labels_are_no_sign():
    assert signs_of_hacking({"unique": 0.9, "words": 2.0}, {"unique": 0.2, "words": 2.0}, []) == []


@pytest.mark.parametrize("paid", ["scfid", "scfid_2"])
def test_a_distance_that_was_rewarded_and_got_worse_is_told_in_other_words(paid):
    worse = {**BEFORE, "scfid": 6.0}
    (sign,) = signs_of_hacking(BEFORE, worse, rising(paid))
    assert sign.startswith("scFID, which was rewarded, rose from 3 to 6 on held-out cells")
    assert signs_of_hacking(BEFORE, {**BEFORE, "scfid": 3.29}, rising(paid)) == []
    assert len(signs_of_hacking(BEFORE, worse, rising("energy_distance"))) == 1


def test_a_reward_of_weight_0_is_only_measured():
    worse, log = {**BEFORE, "scfid": 6.0}, rising("scfid")
    (sign,) = signs_of_hacking(BEFORE, worse, log, {"scfid": 1.0, "validity": 0.0})
    assert "which was rewarded" in sign
    (sign,) = signs_of_hacking(BEFORE, worse, log, {"scfid": 0.0, "validity": 1.0})
    assert "which was not rewarded" in sign


def test_a_reward_that_only_scatters_has_not_risen():
    """Steps ask other prompts; of two steps alone, one is higher."""
    worse = {**BEFORE, "scfid": 6.0}
    noisy = [
        {"step": i + 1, "reward": value}
        for i, value in enumerate([-3, -1, -2, -3, -1, -2.5, -1, -3, -1.5])
    ]
    assert noisy[0]["reward"] < noisy[-1]["reward"]
    assert signs_of_hacking(BEFORE, worse, noisy, {"negative_mse": 1.0}) == []


def test_of_a_policy_that_has_not_moved_only_that_is_said():
    """What differs is another draw of cells."""
    worse = {**BEFORE, "scfid": 6.0, "diversity": 0.5}
    still = [{**record, "kl": 5e-5} for record in rising()]
    (sign,) = signs_of_hacking(BEFORE, worse, still)
    assert sign.startswith(
        "KL from the model before is 5e-05 nats a token: the policy has hardly moved"
    )
    moved = [{**record, "kl": 5e-4} for record in rising()]
    assert len(signs_of_hacking(BEFORE, worse, moved)) == 2


def test_a_distance_that_rose_with_a_falling_reward_is_no_gaming():
    falling = [{**r, "reward": -r["reward"]} for r in rising()]
    assert signs_of_hacking(BEFORE, {**BEFORE, "scfid": 6.0}, falling) == []


def test_an_unbiased_distance_below_zero():
    was, now = {"energy_distance": -0.1}, {"energy_distance": -0.095}
    assert signs_of_hacking(was, now, rising()) == []
    assert len(signs_of_hacking(was, {"energy_distance": 0.05}, rising())) == 1


def test_kl_and_entropy_are_means_of_the_ends_of_a_run():
    log = steps(20, kl=(0.0, 0.1), entropy=(4.0, 2.2))
    assert signs_of_hacking({}, {}, log) == []
    # The last tenth of 20 steps is two: the mean of their KL is 0.195.
    (sign,) = signs_of_hacking({}, {}, steps(20, kl=(0.01, 0.2)))
    assert sign.startswith("KL from the model before is 0.195 nats a token, above 0.1")
    (sign,) = signs_of_hacking({}, {}, steps(20, entropy=(4.0, 1.0)))
    assert sign.startswith("entropy of the choices fell from 3.92 to 1.08 nats")
    # One step in the middle is no sign, nor is a number that is missing.
    log[10] |= {"kl": 9.0, "entropy": 0.0}
    log[3] |= {"kl": None, "entropy": float("nan")}
    assert signs_of_hacking({}, {}, log) == []


def test_numbers_of_the_log_are_in_the_order_of_steps_without_gaps():
    log = [{"step": 3, "kl": 0.3}, {"step": 1, "kl": 0.1}, {"step": 2}, {"step": 4, "kl": None}]
    assert series(log, "kl") == ([1, 3], [0.1, 0.3])


def test_names_of_rewards():
    log = [
        {"step": 0, "eval_scfid": 1.0},
        {"step": 1, "rewards/validity/mean": 1, "rewards/validity/std": 0},
    ]
    assert rewarded(log) == ["validity"]
    assert measures_of({"validity": 1, "energy_distance_2": 0.1, "diversity": -1, "scfid": 0}) == {"valid", "energy_distance", "diversity"}  # fmt: skip


def test_shares_of_time_by_hand():
    first = {"step": 1, "step_time": 90.0, "time/drawn": 80.0, "time/rollout": 80.0}
    drawn = {"time/drawn": 6.0, "time/rollout": 4.0, "time/reward": 0.5, "time/watch": 0.5}
    # A second step learns from the same answers.
    log = [
        first,
        {"step": 2, "step_time": 8.0, **drawn},
        {"step": 3, "step_time": 2.0},
        {"step": 3, "eval_scfid": 1.0},
    ]
    assert shares_of_time(log) == pytest.approx(
        {"rollouts": 0.4, "rewards": 0.05, "watching": 0.05, "log-probabilities": 0.1, "updates": 0.4}
    )  # fmt: skip
    assert shares_of_time([first])["rollouts"] == pytest.approx(8 / 9)
    assert shares_of_time([]) == {}
