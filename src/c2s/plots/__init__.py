"""Figures: arrays in, a matplotlib Axes out; no logic of their own and no pyplot state.

Every function of arrays takes an optional `ax` and returns the Axes that it drew on; without one it makes a
figure of its own, to be had as `ax.figure` (`ax.figure.savefig("umap.png")`). Figures of an
evaluation or an alignment have several panels and are returned whole. matplotlib is loaded at the first call.
"""

from c2s.plots.alignment import (
    alignment_measures,
    alignment_policy,
    alignment_rewards,
    alignment_times,
)
from c2s.plots.confusion import confusion_matrix
from c2s.plots.distances import distance_histogram
from c2s.plots.evaluation import (
    evaluation_bars,
    evaluation_conditions,
    evaluation_map,
    nearest_training,
)
from c2s.plots.explanation import explanation
from c2s.plots.losses import loss_curves
from c2s.plots.rank_expression import rank_expression
from c2s.plots.reliability import reliability
from c2s.plots.scaling import scaling_curves
from c2s.plots.style import GENERATED, REAL, label_colours
from c2s.plots.umap import umap_real_generated

__all__ = [
    "GENERATED",
    "REAL",
    "alignment_measures",
    "alignment_policy",
    "alignment_rewards",
    "alignment_times",
    "confusion_matrix",
    "distance_histogram",
    "evaluation_bars",
    "evaluation_conditions",
    "evaluation_map",
    "explanation",
    "label_colours",
    "loss_curves",
    "nearest_training",
    "rank_expression",
    "reliability",
    "scaling_curves",
    "umap_real_generated",
]
