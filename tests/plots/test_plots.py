"""Figures hold the data that they were given: read back from the artists."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from c2s.common.errors import InputError, UsageError
from c2s.plots import (
    GENERATED,
    REAL,
    confusion_matrix,
    distance_histogram,
    explanation,
    label_colours,
    loss_curves,
    rank_expression,
    reliability,
    scaling_curves,
    umap_real_generated,
)
from c2s.plots.losses import running_mean
from c2s.plots.style import PALETTE

# Machado, Oliveira & Fernandes 2009, severity 1.0, on linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def linear(colours):
    """Linear RGB of hexadecimal colours, shape (n, 3)."""
    rgb = np.array([to_rgb(colour) for colour in colours])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIE L*a*b* (D65) of linear RGB; two colours 2.3 apart can just be told apart."""
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = rgb @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack(
        [116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1
    )


@pytest.mark.parametrize("sight", SIGHT)
def test_fourteen_cell_types_differ_for_every_kind_of_sight(sight):
    seen = lab(np.clip(linear(PALETTE[:14]) @ SIGHT[sight].T, 0, 1))
    apart = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
    assert apart > 2 * 2.3


def test_colours_show_on_white_and_on_dark():
    lightness = lab(linear(PALETTE))[:, 0]
    assert lightness.min() > 30
    assert lightness.max() < 80


@given(st.lists(st.text(min_size=1), min_size=1, max_size=20, unique=True), st.randoms())
def test_colours_depend_on_the_set_of_labels_only(labels, random):
    shuffled = labels * 2
    random.shuffle(shuffled)
    assert label_colours(shuffled) == label_colours(labels)
    assert len(set(label_colours(labels).values())) == len(labels)


@pytest.fixture
def cells():
    rng = np.random.default_rng(1)
    coordinates = rng.normal(size=(60, 2))
    types = np.array(["beta", "alpha", "mast"])[np.arange(60) % 3]
    return coordinates, types, np.arange(60) % 2 == 0


def scattered(ax):
    """Label of each scatter and the set of its points."""
    return {c.get_label(): {tuple(p) for p in c.get_offsets()} for c in ax.collections}


def test_overlay_holds_every_cell_as_real_or_generated(cells):
    coordinates, _, generated = cells
    ax = umap_real_generated(*cells)
    found = scattered(ax)
    assert found["real"] == {tuple(p) for p in coordinates[~generated]}
    assert found["generated"] == {tuple(p) for p in coordinates[generated]}
    colours = {c.get_label(): to_hex(c.get_facecolor()[0]) for c in ax.collections}
    assert colours == {"real": REAL, "generated": GENERATED}


@pytest.mark.parametrize("show", ["real", "generated"])
def test_map_by_type_colours_the_shown_cells_and_greys_the_others(cells, show):
    coordinates, types, generated = cells
    shown = generated if show == "generated" else ~generated
    ax = umap_real_generated(*cells, show=show)
    grey, *coloured = ax.collections
    assert {tuple(p) for p in grey.get_offsets()} == {tuple(p) for p in coordinates[~shown]}
    assert {c.get_label() for c in coloured} == {"beta", "alpha", "mast"}
    for collection in coloured:
        mine = shown & (types == collection.get_label())
        assert {tuple(p) for p in collection.get_offsets()} == {tuple(p) for p in coordinates[mine]}
        expected = label_colours(types)[collection.get_label()]
        assert to_hex(collection.get_facecolor()[0]) == expected


def test_all_views_have_the_same_limits(cells):
    views = [umap_real_generated(*cells, show=s) for s in ("overlay", "real", "generated")]
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in views}) == 1


def test_names_on_the_map_do_not_cover_each_other(cells):
    ax = umap_real_generated(*cells, show="real")
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert boxes
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_map_draws_on_the_axes_it_is_given(cells):
    given_axes = Figure().add_subplot()
    assert umap_real_generated(*cells, ax=given_axes) is given_axes


def test_map_without_cells_is_empty():
    nothing = (np.empty((0, 2)), np.empty(0, dtype=str), np.empty(0, dtype=bool))
    for show in ("overlay", "real", "generated"):
        assert not umap_real_generated(*nothing, show=show).texts


def test_map_refuses_what_does_not_fit(cells):
    coordinates, types, generated = cells
    with pytest.raises(InputError, match="cell_types has 59"):
        umap_real_generated(coordinates, types[:-1], generated)
    with pytest.raises(InputError, match=r"shape \(60, 3\)"):
        umap_real_generated(np.zeros((60, 3)), types, generated)
    with pytest.raises(InputError, match="no colour for the label 'beta'"):
        umap_real_generated(*cells, show="real", colours={"alpha": "red", "mast": "blue"})
    with pytest.raises(UsageError, match="show='both'"):
        umap_real_generated(*cells, show="both")


def test_confusion_shows_counts_and_row_shares():
    ax = confusion_matrix(["a$1$", "b", "c"], np.array([[3, 1, 0], [0, 1200, 0], [0, 0, 0]]))
    shares = ax.images[0].get_array()
    assert shares.tolist() == [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]]
    numbers = {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in ax.texts}
    assert numbers == {(0, 0): "3", (0, 1): "1", (1, 1): "1,200"}
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a$1$", "b", "c"]
    assert not ax.get_yticklabels()[0].get_parse_math()
    assert "True" in ax.get_ylabel()
    assert "Predicted" in ax.get_xlabel()


@pytest.mark.parametrize(
    ("labels", "matrix", "message"),
    [
        (["a", "b"], np.zeros((3, 3), int), r"expected \(2, 2\)"),
        (["a", "b"], np.array([[1, -1], [0, 1]]), "the count -1"),
    ],
    ids=["a label too few", "a negative count"],
)
def test_confusion_refuses(labels, matrix, message):
    with pytest.raises(InputError, match=message):
        confusion_matrix(labels, matrix)


def test_hexagons_count_every_point_once_and_the_line_is_the_fit():
    rng = np.random.default_rng(2)
    x = np.log10(1 + rng.integers(0, 500, 3000))
    y = 2.0 - 0.7 * x + rng.normal(0, 0.1, 3000)
    ax = rank_expression(x, y, slope=-0.7, intercept=2.0)
    assert ax.collections[0].get_array().sum() == 3000
    line_x, line_y = ax.lines[0].get_data()
    assert line_x == pytest.approx([x.min(), x.max()])
    assert line_y == pytest.approx(2.0 - 0.7 * line_x)
    assert not rank_expression(x, y, slope=-0.7).lines
    assert "log10" in ax.get_xlabel()
    assert "log10" in ax.get_ylabel()


def test_rank_expression_refuses_and_draws_nothing_of_nothing():
    with pytest.raises(InputError, match="log_rank has 2, expression has 3"):
        rank_expression([1, 2], [1, 2, 3])
    with pytest.raises(InputError, match=r"shape \(1, 2\)"):
        rank_expression([[1, 2]], [1, 2])
    assert not rank_expression([], []).collections


LOSSES = [
    {"step": 20, "loss": 2.0, "task": "annotation", "split": "train"},
    {"step": 10, "loss": 4.0, "task": "annotation", "split": "train"},
    {"step": 30, "loss": None, "task": "annotation", "split": "train"},
    {"step": 20, "loss": 3.5, "task": "annotation", "split": "val"},
    {"step": 10, "loss": 9.0, "task": "generation", "split": "train"},
]


def test_losses_are_one_line_per_task_and_split_in_the_order_of_steps():
    ax = loss_curves(LOSSES)
    lines = {line.get_label(): [list(v) for v in line.get_data()] for line in ax.lines}
    assert lines == {
        "annotation, training": [[10, 20], [4.0, 2.0]],
        "annotation, validation": [[20], [3.5]],
        "generation, training": [[10], [9.0]],
    }
    colours = {line.get_label(): line.get_color() for line in ax.lines}
    assert colours["annotation, training"] == colours["annotation, validation"]
    assert colours["annotation, training"] != colours["generation, training"]


def test_only_training_losses_are_smoothed():
    lines = {line.get_label(): line.get_ydata() for line in loss_curves(LOSSES, window=2).lines}
    assert list(lines["annotation, training"]) == [4.0, 3.0]
    assert list(lines["annotation, validation"]) == [3.5]


def test_losses_without_tasks():
    ax = loss_curves([{"step": 1, "loss": 1.0, "split": "train"}])
    assert [line.get_label() for line in ax.lines] == ["training"]


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=50), st.integers(1, 60))
def test_running_mean_is_the_mean_of_the_last_values(values, window):
    expected = [np.mean(values[max(0, i + 1 - window) : i + 1]) for i in range(len(values))]
    assert running_mean(np.array(values), window) == pytest.approx(expected, abs=1e-6)


def test_losses_refuse():
    with pytest.raises(InputError, match="record 0: no field loss, split"):
        loss_curves([{"step": 1}])
    with pytest.raises(InputError, match="split 'test'"):
        loss_curves([{"step": 1, "loss": 1.0, "split": "test"}])
    with pytest.raises(UsageError, match="window=0"):
        loss_curves(LOSSES, window=0)


def test_histogram_heights_are_percent_in_shared_bins_and_lines_are_medians():
    ax = distance_histogram([0.0, 1.0, 1.0, 4.0], [2.0, 3.0], bins=4)
    outlines = {p.get_label(): p.get_data() for p in ax.patches if not p.get_fill()}
    generated, real = outlines["generated cells"], outlines["held-out real cells"]
    assert list(generated.values) == [25, 50, 0, 25]
    assert list(real.values) == [0, 0, 50, 50]
    assert list(generated.edges) == list(real.edges) == [0, 1, 2, 3, 4]
    assert {line.get_xdata()[0] for line in ax.lines} == {1.0, 2.5}


def test_histogram_of_identical_copies_and_of_nothing():
    ax = distance_histogram([0.0, 0.0], [])
    assert {p.get_label() for p in ax.patches if not p.get_fill()} == {"generated cells"}
    with pytest.raises(UsageError, match="bins=0"):
        distance_histogram([1.0], [1.0], bins=0)


def test_reliability_draws_bins_that_have_cells():
    ax = reliability([(0.5, 0.25, 4), (0.9, 1.0, 16), (0.1, float("nan"), 0)])
    diagonal, curve = ax.lines
    assert [list(v) for v in diagonal.get_data()] == [[0, 1], [0, 1]]
    assert [list(v) for v in curve.get_data()] == [[0.5, 0.9], [0.25, 1.0]]
    small, large = ax.collections[0].get_sizes()
    assert large > small
    assert [t.get_text() for t in ax.texts] == ["4", "16"]
    assert not reliability([]).collections
    with pytest.raises(InputError, match="bin 1: 2 numbers"):
        reliability([(0.5, 0.5, 1), (0.5, 0.5)])


def test_explanation_draws_bars_from_the_top_and_errors_that_are_known():
    ax = explanation(["INS", "A$B$", "GCG"], [2.0, 0.5, -1.0], [0.25, np.nan, 0.5], label="beta")
    assert [text.get_text() for text in ax.get_yticklabels()] == ["INS", "A$B$", "GCG"]
    assert [bar.get_width() for bar in ax.patches] == [2.0, 0.5, -1.0]
    assert ax.yaxis_inverted()
    (lines,) = (c for c in ax.collections if c.get_segments())
    ends = [segment[:, 0].tolist() for segment in lines.get_segments()]
    assert ends == [[1.75, 2.25], [-1.5, -0.5]]
    assert ax.get_xlabel() == "Added to log p of beta (nats)"
    assert len(explanation(["INS"], [1.0]).collections) == 0


def test_explanation_refuses():
    with pytest.raises(InputError, match="genes has 2, values has 1"):
        explanation(["INS", "GCG"], [1.0])
    with pytest.raises(InputError, match="genes has 1, errors has 2"):
        explanation(["INS"], [1.0], [1.0, 2.0])
    with pytest.raises(InputError, match="no genes"):
        explanation([], [])


def test_importing_plots_does_not_load_matplotlib():
    code = "import sys, c2s.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_figures_need_no_pyplot(cells):
    code = (
        "import sys, numpy as np\n"
        "from c2s.plots import umap_real_generated as draw\n"
        "draw(np.zeros((2, 2)), ['a', 'b'], [True, False], show='real')\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestScaling:
    FACTS = (("s", 1000, 50.0), ("m", 4000, 60.0), ("l", 9000, 65.0))

    def points(self, metric="accuracy"):
        return [
            {
                "size": size, "fraction": share, "method": "full", "task": "cell_type", "metric": metric,
                "value": value, "low": value - 2, "high": value + 1, "body": body, "train_samples": 100 * share,
            }
            for size, body, value in self.FACTS
            for share in (0.5, 1.0)
        ]  # fmt: skip

    def test_a_panel_a_metric_and_a_series_a_share(self):
        points = [*self.points("loss"), *self.points()]
        curve = {"x": [1000, 9000], "y": [49.0, 66.0], "low": [48.0, 65.0], "high": [50.0, 67.0]}
        law = {
            "axis": "size", "task": "cell_type", "metric": "accuracy", "fraction": 1.0, "method": "full",
            "power": {"curve": curve},
        }  # fmt: skip
        figure = scaling_curves(points, [law])
        loss, accuracy = figure.axes
        assert loss.get_ylabel() == "loss (nats per token)"
        assert accuracy.get_xscale() == "log"
        labels = loss.get_legend_handles_labels()[1]
        assert labels == ["50% of the data", "100% of the data"]
        drawn = [line.get_ydata().tolist() for line in accuracy.lines if len(line.get_ydata()) == 2]
        assert drawn == [[49.0, 66.0]]
        bars = accuracy.containers[0].lines[2][0].get_segments()
        assert [bar[:, 1].tolist() for bar in bars] == [[48.0, 51.0], [58.0, 61.0], [63.0, 66.0]]

    def test_along_data_a_series_is_a_size(self):
        (ax,) = scaling_curves(self.points(), [], "data").axes
        assert ax.get_legend_handles_labels()[1] == ["s", "m", "l"]
        assert ax.get_xlabel() == "Training samples"

    def test_nothing_to_draw_is_refused(self):
        with pytest.raises(UsageError, match="none to draw"):
            scaling_curves([], [])
