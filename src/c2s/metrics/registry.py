"""What each metric is, which way is better, and what the best value is.

Tables and reports print directions and explanations from here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from c2s.metrics.classification import accuracy, expected_calibration_error, macro_f1
from c2s.metrics.correlation import kendall_tau_b, pearson, spearman
from c2s.metrics.distributions import energy_distance, mmd2, mmd2_cellot
from c2s.metrics.embeddings import (
    adjusted_rand_index,
    knn_accuracy,
    normalized_mutual_information,
)
from c2s.metrics.frechet import scfid, scfid_unbiased
from c2s.metrics.matching import foscttm
from c2s.metrics.ontology import ontology_distance
from c2s.metrics.sentences import exact_k_fraction, overlap, unique_fraction, valid_fraction
from c2s.metrics.texts import bertscore
from c2s.metrics.transport import wasserstein
from c2s.metrics.two_sample import c2st


@dataclass(frozen=True)
class Metric:
    """A function on arrays with what a reader of its value needs.

    Attributes
    ----------
    name
        Key in tables and in ``metrics.json``.
    title
        Heading in tables and plots.
    function
        The function; its docstring says what it takes.
    best
        Whether lower or higher values are better.
    ideal
        The value of a perfect result.
    unit
        Unit of the value; empty for a pure number.
    min_cells
        Fewest cells (or pairs, for metrics of one value a pair; of each sample, for metrics of two samples) for which
        it is defined with its default arguments. Whether the value then means much is another question.
    description
        One or two sentences for people who do not know the metric.
    reference
        Section of the specification, publication, or both.
    """

    name: str
    title: str
    function: Callable[..., Any]
    best: Literal["lower", "higher"]
    ideal: float
    unit: str
    min_cells: int
    description: str
    reference: str

    def gap(self, value: float) -> float:
        """Return how far `value` is from `ideal`; smaller is better for every metric.

        Values beyond the ideal count as a distance too: an unbiased MMD of -0.001 is as good as one
        of 0.001, and a two-sample accuracy far below 0.5 is a fault (copied cells) and no feat.
        """
        return abs(value - self.ideal)

    def better(self, a: float, b: float) -> bool:
        """Return whether `a` is nearer to `ideal` than `b`; False when one of them is NaN."""
        return self.gap(a) < self.gap(b)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="accuracy",
            title="Accuracy",
            function=accuracy,
            best="higher",
            ideal=1.0,
            unit="share of cells",
            min_cells=1,
            description="Share of cells whose predicted label is the true one.",
            reference="Sokolova & Lapalme 2009",
        ),
        Metric(
            name="macro_f1",
            title="Macro F1",
            function=macro_f1,
            best="higher",
            ideal=1.0,
            unit="",
            min_cells=1,
            description=(
                "F1 of each label, averaged with equal weight, so that rare cell types count as "
                "much as common ones."
            ),
            reference="van Rijsbergen 1979",
        ),
        Metric(
            name="ece",
            title="Calibration error",
            function=expected_calibration_error,
            best="lower",
            ideal=0.0,
            unit="",
            min_cells=1,
            description=(
                "Expected calibration error: mean gap between stated confidence and accuracy. 0.05 "
                "means that answers given with 90 % confidence are right in about 85 or 95 %."
            ),
            reference="Guo et al. 2017",
        ),
        Metric(
            name="ontology_distance",
            title="Ontology distance",
            function=ontology_distance,
            best="lower",
            ideal=0.0,
            unit="steps",
            min_cells=1,
            description=(
                "Steps in a graph of cell types from the true type up to a common ancestor and down to the "
                "predicted one: 0 right, 1 parent or child, 2 sibling."
            ),
            reference="Rada et al. 1989",
        ),
        Metric(
            name="knn_accuracy",
            title="kNN accuracy",
            function=knn_accuracy,
            best="higher",
            ideal=1.0,
            unit="share of cells",
            min_cells=16,
            description=(
                "Share of cells whose nearest other cells in an embedding vote for their label."
            ),
            reference="SPEC §8; Cover & Hart 1967",
        ),
        Metric(
            name="ari",
            title="ARI",
            function=adjusted_rand_index,
            best="higher",
            ideal=1.0,
            unit="",
            min_cells=1,
            description=(
                "Adjusted Rand index: how far clusters and labels agree on which cells belong together. "
                "0 is chance."
            ),
            reference="SPEC §8; Hubert & Arabie 1985",
        ),
        Metric(
            name="nmi",
            title="NMI",
            function=normalized_mutual_information,
            best="higher",
            ideal=1.0,
            unit="",
            min_cells=1,
            description=(
                "Normalised mutual information of clusters and labels. Not adjusted for chance: many small "
                "clusters score well."
            ),
            reference="SPEC §8; Vinh et al. 2010",
        ),
        Metric(
            name="foscttm",
            title="FOSCTTM",
            function=foscttm,
            best="lower",
            ideal=0.0,
            unit="share of samples",
            min_cells=1,
            description=(
                "Share of samples that are closer than the true match: 0 when every match is closest, 0.5 "
                "when an embedding knows nothing."
            ),
            reference="SPEC §9; Cao & Gao 2022",
        ),
        Metric(
            name="overlap",
            title="Overlap",
            function=overlap,
            best="higher",
            ideal=100.0,
            unit="%",
            min_cells=1,
            description=(
                "Genes of the true cell sentence that the generated one names too, in any order. "
                "Two real cells of one type share far fewer than 100 %."
            ),
            reference="SPEC §4.4",
        ),
        Metric(
            name="kendall_tau_b",
            title="Kendall's τ-b",
            function=kendall_tau_b,
            best="higher",
            ideal=1.0,
            unit="",
            min_cells=1,
            description=(
                "Agreement of two orders of genes, with ties counted properly: 1 the same, 0 "
                "unrelated, -1 reversed."
            ),
            reference="SPEC §7.5; Kendall 1945",
        ),
        Metric(
            name="spearman",
            title="Spearman's ρ",
            function=spearman,
            best="higher",
            ideal=1.0,
            unit="",
            min_cells=1,
            description=(
                "Whether two profiles put the same genes in the same order, by the differences of their "
                "ranks. 1: the same order, 0: unrelated, -1: reversed."
            ),
            reference="Spearman 1904",
        ),
        Metric(
            name="pearson",
            title="Pearson's r",
            function=pearson,
            best="higher",
            ideal=1.0,
            unit="",
            min_cells=1,
            description=(
                "Whether two profiles rise and fall together, gene by gene. Profiles of one tissue always "
                "do: compare differences from control to judge a perturbation."
            ),
            reference="SPEC §14.2; Pearson 1895",
        ),
        Metric(
            name="bertscore",
            title="BERTScore F1",
            function=bertscore,
            best="higher",
            ideal=1.0,
            unit="",
            min_cells=1,
            description=(
                "How much two texts say the same, by the best-matching tokens of each in the other. "
                "Unrelated texts often score above 0.7."
            ),
            reference="SPEC §4.4, §7.4; Zhang et al. 2020",
        ),
        Metric(
            name="scfid",
            title="scFID",
            function=scfid,
            best="lower",
            ideal=0.0,
            unit="squared units of the space",
            min_cells=2,
            description=(
                "Single-cell Frechet distance: how far means and covariances of generated and real "
                "cells are apart. Grows as cells get fewer, so compare it with real cells against "
                "real cells at the same number."
            ),
            reference="SPEC §14.3; Heusel et al. 2017",
        ),
        Metric(
            name="scfid_unbiased",
            title="scFID, unbiased",
            function=scfid_unbiased,
            best="lower",
            ideal=0.0,
            unit="squared units of the space",
            min_cells=32,
            description=(
                "scFID extrapolated to infinitely many cells, so that scores of different numbers of cells "
                "compare. May be slightly below 0."
            ),
            reference="SPEC §14.3; Chong & Forsyth 2020",
        ),
        Metric(
            name="mmd2",
            title="MMD²",
            function=mmd2,
            best="lower",
            ideal=0.0,
            unit="",
            min_cells=2,
            description=(
                "Squared maximum mean discrepancy with a Gaussian kernel: differences between the "
                "two clouds of cells at the scale of their typical distance. May be slightly "
                "below 0."
            ),
            reference="SPEC §14.3; Gretton et al. 2012",
        ),
        Metric(
            name="mmd2_cellot",
            title="MMD² (CellOT)",
            function=mmd2_cellot,
            best="lower",
            ideal=0.0,
            unit="",
            min_cells=1,
            description=(
                "Squared maximum mean discrepancy with the six kernels of CellOT. Depends on the number of "
                "cells; for comparison with published values."
            ),
            reference="SPEC §14.3; Bunne et al. 2023",
        ),
        Metric(
            name="energy_distance",
            title="Energy distance",
            function=energy_distance,
            best="lower",
            ideal=0.0,
            unit="units of the space",
            min_cells=2,
            description=(
                "How much farther generated cells are from real ones than cells of each kind are "
                "from one another. Fair with few cells. May be slightly below 0."
            ),
            reference="Szekely & Rizzo 2013",
        ),
        Metric(
            name="wasserstein",
            title="Wasserstein (W2)",
            function=wasserstein,
            best="lower",
            ideal=0.0,
            unit="units of the space",
            min_cells=1,
            description=(
                "How far cells have to move, root mean square, to turn the generated sample into "
                "the real one. Never 0 for two samples of real cells."
            ),
            reference="SPEC §14.3",
        ),
        Metric(
            name="c2st",
            title="Two-sample accuracy",
            function=c2st,
            best="lower",
            ideal=0.5,
            unit="accuracy",
            min_cells=5,
            description=(
                "Accuracy of a classifier trained to tell generated from real cells: 0.5 cannot "
                "tell, 1 always can. Far below 0.5 means that cells are copies."
            ),
            reference="Lopez-Paz & Oquab 2017",
        ),
        Metric(
            name="valid_fraction",
            title="Valid genes",
            function=valid_fraction,
            best="higher",
            ideal=1.0,
            unit="share of words",
            min_cells=1,
            description="Share of generated words that are genes of the vocabulary.",
            reference="SPEC §3",
        ),
        Metric(
            name="unique_fraction",
            title="Unique genes",
            function=unique_fraction,
            best="higher",
            ideal=1.0,
            unit="share of words",
            min_cells=1,
            description="Share of generated genes that their cell had not named before.",
            reference="SPEC §3",
        ),
        Metric(
            name="exact_k_fraction",
            title="Exactly K genes",
            function=exact_k_fraction,
            best="higher",
            ideal=1.0,
            unit="share of cells",
            min_cells=1,
            description="Share of generated cells with exactly the number of genes asked for.",
            reference="SPEC §2",
        ),
    )
}
"""Every metric by name."""
