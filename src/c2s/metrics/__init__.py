"""Pure functions on arrays that say how good predictions and generated cells are.

No model and no AnnData here. `METRICS` says of each which way is better, its ideal and unit, and how many cells it
needs. Numba, scikit-learn, SciPy and POT are loaded when a function needs them.
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
from c2s.metrics.correlation import kendall_tau_b, pearson, spearman
from c2s.metrics.distributions import (
    CELLOT_GAMMAS,
    energy_distance,
    median_gamma,
    mmd2,
    mmd2_cellot,
)
from c2s.metrics.embeddings import (
    ClusterAgreement,
    adjusted_rand_index,
    cluster_agreement,
    knn_accuracy,
    label_transfer,
    normalized_mutual_information,
)
from c2s.metrics.frechet import (
    SCFID_CELLS_PER_DIMENSION,
    Moments,
    ScfidInfinity,
    scfid,
    scfid_from_moments,
    scfid_infinity,
    scfid_unbiased,
)
from c2s.metrics.matching import foscttm
from c2s.metrics.memorisation import Memorisation, memorisation_summary, nearest_distance
from c2s.metrics.ontology import ontology_distance
from c2s.metrics.registry import METRICS, Metric
from c2s.metrics.sentences import (
    exact_k_fraction,
    multi_cell_overlap,
    overlap,
    unique_fraction,
    valid_fraction,
)
from c2s.metrics.texts import (
    BERTSCORE_SETTINGS,
    BertScore,
    TextEncoder,
    bertscore,
    bertscore_parts,
)
from c2s.metrics.transport import WASSERSTEIN_EXACT_PAIRS, wasserstein
from c2s.metrics.two_sample import TwoSampleResult, c2st, two_sample_test

__all__ = [
    "BERTSCORE_SETTINGS",
    "CELLOT_GAMMAS",
    "METRICS",
    "SCFID_CELLS_PER_DIMENSION",
    "WASSERSTEIN_EXACT_PAIRS",
    "BertScore",
    "ClusterAgreement",
    "Memorisation",
    "Metric",
    "Moments",
    "ScfidInfinity",
    "TextEncoder",
    "TwoSampleResult",
    "accuracy",
    "adjusted_rand_index",
    "bertscore",
    "bertscore_parts",
    "bootstrap_interval",
    "c2st",
    "cluster_agreement",
    "confusion_matrix",
    "energy_distance",
    "exact_k_fraction",
    "expected_calibration_error",
    "foscttm",
    "kendall_tau_b",
    "knn_accuracy",
    "label_transfer",
    "macro_f1",
    "median_gamma",
    "memorisation_summary",
    "mmd2",
    "mmd2_cellot",
    "multi_cell_overlap",
    "nearest_distance",
    "normalized_mutual_information",
    "ontology_distance",
    "overlap",
    "pearson",
    "per_class",
    "reliability",
    "scfid",
    "scfid_from_moments",
    "scfid_infinity",
    "scfid_unbiased",
    "spearman",
    "two_sample_test",
    "unique_fraction",
    "valid_fraction",
    "wasserstein",
]
