"""Draw (`c2s.pl`): arrays in, a matplotlib Axes out; an evaluation in, a matplotlib Figure out."""

from c2s.plots import (
    confusion_matrix,
    distance_histogram,
    evaluation_bars,
    evaluation_conditions,
    evaluation_map,
    explanation,
    loss_curves,
    nearest_training,
    rank_expression,
    reliability,
    umap_real_generated,
)

__all__ = [
    "confusion_matrix",
    "distance_histogram",
    "evaluation_bars",
    "evaluation_conditions",
    "evaluation_map",
    "explanation",
    "loss_curves",
    "nearest_training",
    "rank_expression",
    "reliability",
    "umap_real_generated",
]
