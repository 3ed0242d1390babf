"""Figures of an evaluation hold its numbers: read back from the artists."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from c2s.common.errors import UsageError
from c2s.evaluate.result import Evaluation
from c2s.plots import (
    GENERATED,
    REAL,
    evaluation_bars,
    evaluation_conditions,
    evaluation_map,
    nearest_training,
)
from c2s.plots.evaluation import CANDIDATE_STYLE

# candidate: value, low, high
SCFID = {
    "generated": (2.0, 1.0, 3.0),
    "ceiling": (1.0, 0.5, 1.5),
    "independent": (4.0, 3.0, 5.0),
    "round_trip": (90.0, 80.0, 100.0),
    "measured": (1.1, 0.6, 1.6),
}
C2ST = {"generated": (0.7, 0.6, 0.8), "ceiling": (0.45, 0.4, 0.5), "independent": (0.9, 0.8, 1.0)}
OVERLAP = {
    "generated": (50.0, 49.0, 51.0),
    "ceiling": (52.0, 51.0, 53.0),
    "other_ties": (95.0, 94.0, 96.0),
    "independent": (51.0, np.nan, np.nan),
}


def rows(scope, metric, values, condition="", n_cells=40, n_conditions=3):
    return [
        {
            "scope": scope,
            "condition": condition,
            "cell_type": condition,
            "candidate": candidate,
            "metric": metric,
            "value": value,
            "low": low,
            "high": high,
            "difference": value - values["generated"][0],
            "difference_low": np.nan,
            "difference_high": np.nan,
            "n_cells": n_cells,
            "n_conditions": n_conditions,
        }
        for candidate, (value, low, high) in values.items()
    ]


def evaluation(table, **more):
    left_out = pd.DataFrame(columns=["condition", "candidate", "metric", "reason"])
    facts = {"n_compared": 3, "n_conditions": 3, "encoder": "pca-0123456789abcdef"}
    return Evaluation(pd.DataFrame(table), left_out, facts, **more)


@pytest.fixture
def found():
    return evaluation(
        [
            *rows("mean", "scfid", SCFID, n_conditions=1),
            *rows("mean", "overlap", OVERLAP),
            *rows("together", "c2st", C2ST),
        ]
    )


def marks(ax):
    """Value and height of each mark by label."""
    return {
        line.get_label(): (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in ax.lines
        if not line.get_label().startswith("_")
    }


def intervals(ax):
    """Ends of each interval by height."""
    found = {}
    for collection in ax.collections:
        for (low, y), (high, _) in collection.get_segments():
            found[float(y)] = (float(low), float(high))
    return found


def test_a_panel_a_metric_holds_each_value_with_its_interval(found):
    scfid, overlap = evaluation_bars(found).axes[:2]
    assert marks(scfid) == {
        "generated": (2.0, 0),
        "ceiling": (1.0, 1),
        "independent": (4.0, 2),
        "measured": (1.1, 5),
    }
    ends = intervals(scfid)
    assert ends == {0: (1.0, 3.0), 1: (0.5, 1.5), 2: (3.0, 5.0), 5: (0.6, 1.6)}
    assert marks(overlap)["independent"] == (51.0, 2)
    names = [tick.get_text() for tick in scfid.get_yticklabels()]
    assert names == [
        "generated",
        "ceiling: real cells",
        "floor: independent genes",
        "other ties",
        "round trip",
        "without round trip",
    ]


def test_what_is_far_off_is_written_at_the_edge_and_sets_no_scale(found):
    scfid, overlap = evaluation_bars(found).axes[:2]
    assert "90 →" in [text.get_text() for text in scfid.texts]
    assert "95 →" in [text.get_text() for text in overlap.texts]
    assert scfid.get_xlim()[1] < 10


def test_titles_say_which_way_is_better_and_of_how_many_conditions(found):
    scfid, overlap = evaluation_bars(found).axes[:2]
    assert scfid.get_title(loc="left") == "scFID  ↓ better"
    assert overlap.get_title(loc="left") == "Overlap  ↑ better"
    assert "1 of 3 conditions" in [text.get_text() for text in scfid.texts]
    assert not any("conditions" in text.get_text() for text in overlap.texts)
    (c2st,) = evaluation_bars(found, "together").axes
    assert c2st.get_title(loc="left") == "Two-sample accuracy  → 0.5"


def test_the_ideal_is_drawn_where_it_is_near(found):
    def ideals(ax):
        return [line.get_xdata()[0] for line in ax.lines if line.get_label() == "_ideal"]

    scfid, overlap = evaluation_bars(found).axes[:2]
    assert ideals(scfid) == [0.0]
    assert scfid.get_xlim()[0] < 0
    assert ideals(overlap) == []
    assert ideals(evaluation_bars(found, "together").axes[0]) == [0.5]


@pytest.mark.parametrize("scope", ["condition", "other"])
def test_a_scope_without_figures_is_refused(found, scope):
    with pytest.raises(UsageError, match=f"found '{scope}', expected 'mean' or 'together'"):
        evaluation_bars(found, scope)


def test_candidates_differ_in_colour_and_shape():
    compete = {k: v for k, v in CANDIDATE_STYLE.items() if k not in ("round_trip", "measured")}
    assert len({colour for colour, _ in compete.values()}) == len(compete)
    assert len({marker for _, marker in CANDIDATE_STYLE.values()}) == len(CANDIDATE_STYLE)
    assert CANDIDATE_STYLE["generated"][0] == GENERATED
    assert CANDIDATE_STYLE["ceiling"][0] == REAL


def by_condition(values, metric="c2st"):
    return evaluation(
        [
            row
            for i, (name, value) in enumerate(values.items())
            for row in rows(
                "condition",
                metric,
                {
                    "generated": (value, value - 0.05, value + 0.05),
                    "ceiling": (0.5, 0.4, 0.6),
                    "round_trip": (9.0, 8.0, 10.0),
                },
                condition=name,
                n_cells=1000 + i,
            )
        ]
    )


def test_conditions_are_ordered_by_distance_from_the_ideal():
    # 0.2 is lower than 0.6, and further from 0.5.
    figure = evaluation_conditions(by_condition({"far": 0.2, "a$b$": 0.6, "near": 0.52}), "c2st")
    (ax,) = figure.axes
    labels = [tick.get_text() for tick in ax.get_yticklabels()]
    assert labels == ["near (1,002)", "a$b$ (1,001)", "far (1,000)"]
    assert not ax.get_yticklabels()[1].get_parse_math()
    low, high = ax.get_ylim()
    assert low > high  # the first row is on top
    drawn = {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}
    assert sorted(drawn) == ["ceiling: real cells", "generated"]
    generated = drawn["generated"]
    at = dict(zip(np.round(generated.get_ydata()).astype(int), generated.get_xdata(), strict=True))
    assert at == {0: 0.52, 1: 0.6, 2: 0.2}
    ends = {
        round(y): (low, high) for y, (low, high) in intervals(ax).items() if round(y, 2) % 1 > 0.5
    }
    assert ends[2] == pytest.approx((0.15, 0.25))


def test_133_conditions_fit_without_overlap():
    values = {f"condition {i:03}": 0.5 + i / 1000 for i in range(133)}
    figure = evaluation_conditions(by_condition(values), "c2st")
    figure.draw_without_rendering()
    (ax,) = figure.axes
    boxes = [tick.get_window_extent() for tick in ax.get_yticklabels()]
    assert len(boxes) == 133
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
    page = figure.bbox
    assert all(page.x0 <= box.x0 and box.y1 <= page.y1 for box in boxes)


def test_a_metric_without_conditions_is_refused(found):
    with pytest.raises(UsageError, match="'scfid' was measured in no condition"):
        evaluation_conditions(found, "scfid")


@pytest.fixture
def places():
    rng = np.random.default_rng(0)
    # Condition i has 20 - i cells of each kind.
    names = np.repeat([f"type {i:02}" for i in range(14)], range(20, 6, -1))
    frame = pd.DataFrame(
        {"x": rng.normal(size=2 * len(names)), "y": rng.normal(size=2 * len(names))}
    )
    frame["cells"] = np.repeat(["real", "generated"], len(names))
    frame["condition"] = np.tile(names, 2)
    return frame


def test_the_map_shows_every_cell_in_its_panel_and_names_twelve_conditions(found, places):
    figure = evaluation_map(evaluation([], places=places))
    for ax, kind in zip(figure.axes, ("real", "generated"), strict=True):
        own = places[places["cells"] == kind]
        drawn = {c.get_label(): np.asarray(c.get_offsets()) for c in ax.collections}
        assert len(drawn) == 13
        assert sum(map(len, drawn.values())) == len(own)
        expected = own.loc[own["condition"] == "type 03", ["x", "y"]].to_numpy()
        np.testing.assert_array_equal(drawn["type 03"], expected)
        assert len(drawn["other conditions"]) == 8 + 7
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == [*(f"type {i:02}" for i in range(12)), "2 others"]


def test_a_condition_has_one_colour_in_both_panels(places):
    real, generated = evaluation_map(evaluation([], places=places)).axes
    for a, b in zip(real.collections, generated.collections, strict=True):
        assert a.get_label() == b.get_label()
        assert to_hex(a.get_facecolor()[0]) == to_hex(b.get_facecolor()[0])


def test_distances_are_drawn_from_the_evaluation():
    nearest = {"generated": np.array([1.0, 1.0, 3.0]), "real": np.array([2.0, 2.0])}
    (ax,) = nearest_training(evaluation([], nearest=nearest)).axes
    medians = {to_hex(line.get_color()): line.get_xdata()[0] for line in ax.lines}
    assert medians == {GENERATED: 1.0, REAL: 2.0}
    assert "pca-0123456789abcdef" in ax.get_xlabel()


@pytest.mark.parametrize("draw", [evaluation_map, nearest_training])
def test_an_evaluation_read_from_a_file_has_no_cells_to_draw(found, draw):
    with pytest.raises(UsageError, match="the evaluation holds no"):
        draw(found)


def test_figures_are_loaded_without_the_evaluation():
    code = "import sys, c2s.plots; sys.exit('c2s.evaluate' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
