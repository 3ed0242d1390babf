"""Draw (`c2s.pl`): arrays in, a matplotlib Axes out."""

from c2s.plots import (
    confusion_matrix,
    distance_histogram,
    loss_curves,
    rank_expression,
    reliability,
    umap_real_generated,
)

__all__ = [
    "confusion_matrix",
    "distance_histogram",
    "loss_curves",
    "rank_expression",
    "reliability",
    "umap_real_generated",
]
