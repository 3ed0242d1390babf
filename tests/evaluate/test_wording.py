"""How generated cells stand, and what was left out, in words."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2s.evaluate.result import Evaluation
from c2s.evaluate.wording import Standing, left_out_summary, standing

# candidate: value, and the interval of the difference from the generated cells
APART, SAME = (0.1, 0.2), (-0.1, 0.2)


def rows(metric, **candidates):
    ours = candidates["generated"][0]
    return pd.DataFrame(
        [
            {
                "candidate": name,
                "metric": metric,
                "value": value,
                "difference": value - ours,
                "difference_low": ends[0],
                "difference_high": ends[1],
            }
            for name, (value, *ends) in candidates.items()
        ]
    )


NAN = float("nan")
OURS = (2.0, NAN, NAN)


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ({"ceiling": (1.9, *SAME), "independent": (4.0, *APART)}, ("ceiling", "independent")),
        ({"ceiling": (1.9, *SAME)}, ("ceiling", None)),
        ({"ceiling": (1.9, *SAME), "independent": (2.1, *SAME)}, ("blunt", "independent")),
        ({"ceiling": (1.9, *SAME), "control": (1.5, *APART)}, ("mixed", "control")),
        ({"ceiling": (1.0, *APART), "independent": (4.0, *APART)}, ("above", "independent")),
        ({"ceiling": (2.5, *APART), "independent": (4.0, *APART)}, ("beyond", "independent")),
        ({"ceiling": (2.5, *APART)}, ("beyond", None)),
        ({"ceiling": (1.0, *APART), "mean_shift": (2.1, *SAME)}, ("same", "mean_shift")),
        ({"ceiling": (1.0, *APART), "independent": (1.5, *APART)}, ("below", "independent")),
        ({"ceiling": (1.0, *APART)}, ("behind", None)),
        # The best of several floors counts.
        (
            {"ceiling": (1.0, *APART), "independent": (4.0, *APART), "control": (2.1, *SAME)},
            ("same", "control"),
        ),
        ({"ceiling": (1.0, NAN, NAN), "independent": (4.0, *APART)}, ("unknown", "independent")),
        ({}, ("unknown", None)),
        # A floor that is not known is none; other candidates judge nothing.
        ({"ceiling": (1.0, *APART), "control": (NAN, NAN, NAN)}, ("behind", None)),
        ({"round_trip": (9.0, *APART)}, ("unknown", None)),
    ],
)
def test_standing_follows_from_values_and_intervals(candidates, expected):
    assert standing(rows("scfid", generated=OURS, **candidates)) == Standing(*expected)


def test_higher_is_better_where_the_metric_says_so():
    found = rows(
        "overlap", generated=(60.0, NAN, NAN), ceiling=(50.0, *APART), independent=(40.0, *APART)
    )
    assert standing(found) == Standing("beyond", "independent")


def test_a_two_sample_accuracy_far_below_a_half_is_beyond_real_cells():
    found = rows(
        "c2st", generated=(0.3, NAN, NAN), ceiling=(0.48, *APART), independent=(0.9, *APART)
    )
    assert standing(found) == Standing("beyond", "independent")


def test_an_unbiased_distance_below_0_does_not_make_cells_nearer_than_real_ones():
    found = rows(
        "energy_distance",
        generated=(0.01, NAN, NAN),
        ceiling=(-0.03, *APART),
        independent=(0.04, *APART),
    )
    assert standing(found) == Standing("above", "independent")


def test_a_floor_that_few_conditions_have_is_judged_by_those():
    # Generated cells: 0.1 where the floor is 0.3, and 0.9 in a condition that has no floor.
    found = rows(
        "energy_distance", generated=OURS, ceiling=(0.0, *APART), independent=(0.3, *APART)
    )
    found["value"] = [0.5, 0.0, 0.3]
    found["difference"] = [NAN, -0.5, 0.2]
    assert standing(found) == Standing("above", "independent")
    # The floor that leads by most is the best one, not that of the easiest condition.
    easy = found.iloc[[2]].assign(candidate="control", value=0.6, difference=-0.2)
    assert standing(pd.concat([found, easy])) == Standing("below", "control")


def test_an_unbiased_distance_below_0_is_not_further_off_than_a_floor_above_0():
    found = rows(
        "mmd2", generated=(-0.04, NAN, NAN), ceiling=(-0.03, *SAME), independent=(0.02, *APART)
    )
    assert standing(found) == Standing("ceiling", "independent")


def evaluation(left_out, compared=(), n_conditions=13, n_compared=12):
    table = pd.DataFrame({"condition": list(compared)})
    columns = ["condition", "candidate", "metric", "reason"]
    return Evaluation(
        table,
        pd.DataFrame(left_out, columns=columns),
        {"n_conditions": n_conditions, "n_compared": n_compared},
    )


def test_rows_that_differ_in_numbers_and_conditions_share_a_sentence():
    sides = "{} cells on each side, 1,280 are needed"
    few = [
        (f"type {i}", "", "scfid", sides.format(n))
        for i, n in enumerate((7, 1, 1100, 23, 5, 9, 2, 3, 4, 6, 8))
    ]
    pairs = [
        (name, "", metric, "1 cells on each side, 5 are needed")
        for name in ("mast", "epsilon")
        for metric in ("mmd2", "pearson")
    ]
    other = [
        ("schwann", "", "", "1 real and 1 generated cells; at least 2 of each are needed"),
        ("", "generated", "", "5 generated cells are of conditions that no real cell has"),
        ("", "generated", "memorisation", "needs the training cells, and none were given"),
        ("beta", "mean_shift", "", "3 cells of it, 10 are compared"),
    ]
    assert left_out_summary(evaluation([*few, *pairs, *other])) == [
        "scFID: 11 of 12 conditions: 1 to 1,100 cells on each side, 1,280 are needed",
        "MMD², Pearson's r: 2 of 12 conditions (epsilon, mast): 1 cells on each side, 5 are needed",
        "Not compared: 1 of 13 conditions (schwann): 1 real and 1 generated cells; at least 2 of each are needed",
        "Generated: 5 generated cells are of conditions that no real cell has",
        "Check for memorising: needs the training cells, and none were given",
        "Floor: mean shift: 1 of 12 conditions (beta): 3 cells of it, 10 are compared",
    ]


def test_numbers_in_names_are_no_numbers():
    reasons = [
        "no real cell has dose '10' and the other labels",
        "no real cell has dose '20' and the other labels",
    ]
    found = left_out_summary(evaluation([("", "control", "", reason) for reason in reasons]))
    assert found == [f"Floor: control cells: {reason}" for reason in reasons]


def test_all_conditions_are_said_as_such():
    rows = [(name, "", "scfid", "few") for name in ("a", "b")]
    assert left_out_summary(evaluation(rows, n_compared=2)) == ["scFID: all 2 conditions: few"]


def test_nothing_left_out_needs_no_sentence():
    assert left_out_summary(evaluation([])) == []


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=30))
def test_ranges_hold_every_number(numbers):
    rows = [(f"c{i}", "", "scfid", f"{n:,} cells") for i, n in enumerate(numbers)]
    (sentence,) = left_out_summary(evaluation(rows, n_compared=len(rows)))
    low, high = min(numbers), max(numbers)
    expected = f"{low:,} cells" if low == high else f"{low:,} to {high:,} cells"
    assert sentence.endswith(f": {expected}")
