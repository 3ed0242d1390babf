"""Pure functions on arrays that say how good predictions and generated cells are.

No model and no AnnData here. `METRICS` says of each which way is better. scikit-learn, SciPy and
POT are loaded when a function needs them.
"""

from c2s.metrics.bootstrap import bootstrap_interval
from c2s.metrics.classification import (
    accuracy,
    confusion_matrix,
    expected_calibration_error,
    macro_f1,
    per_class,
    reliability,
)
from c2s.metrics.distributions import (
    CELLOT_GAMMAS,
    SCFID_CELLS_PER_DIMENSION,
    energy_distance,
    mmd2,
    scfid,
    wasserstein,
)
from c2s.metrics.memorisation import Memorisation, memorisation_summary, nearest_distance
from c2s.metrics.ranking import kendall_tau_b
from c2s.metrics.registry import METRICS, Metric
from c2s.metrics.sentences import (
    exact_k_fraction,
    multi_cell_overlap,
    overlap,
    unique_fraction,
    valid_fraction,
)
from c2s.metrics.two_sample import TwoSampleResult, c2st, two_sample_test

__all__ = [
    "CELLOT_GAMMAS",
    "METRICS",
    "SCFID_CELLS_PER_DIMENSION",
    "Memorisation",
    "Metric",
    "TwoSampleResult",
    "accuracy",
    "bootstrap_interval",
    "c2st",
    "confusion_matrix",
    "energy_distance",
    "exact_k_fraction",
    "expected_calibration_error",
    "kendall_tau_b",
    "macro_f1",
    "memorisation_summary",
    "mmd2",
    "multi_cell_overlap",
    "nearest_distance",
    "overlap",
    "per_class",
    "reliability",
    "scfid",
    "two_sample_test",
    "unique_fraction",
    "valid_fraction",
    "wasserstein",
]
