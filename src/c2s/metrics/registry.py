"""What each metric is, which way is better, and what the best value is.

Tables and reports print directions and explanations from here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from c2s.metrics.classification import accuracy, expected_calibration_error, macro_f1
from c2s.metrics.distributions import energy_distance, mmd2, scfid, wasserstein
from c2s.metrics.ranking import kendall_tau_b
from c2s.metrics.sentences import exact_k_fraction, overlap, unique_fraction, valid_fraction
from c2s.metrics.two_sample import c2st


@dataclass(frozen=True)
class Metric:
    """A function on arrays with what a reader of its value needs.

    Attributes
    ----------
    name
        Key in tables and in ``metrics.json``.
    function
        The function; its docstring says what it takes.
    best
        Whether lower or higher values are better.
    ideal
        The value of a perfect result.
    unit
        Unit of the value; empty for a pure number.
    description
        One or two sentences for people who do not know the metric.
    reference
        Section of the specification, publication, or both.
    """

    name: str
    function: Callable[..., Any]
    best: Literal["lower", "higher"]
    ideal: float
    unit: str
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
            function=accuracy,
            best="higher",
            ideal=1.0,
            unit="share of cells",
            description="Share of cells whose predicted label is the true one.",
            reference="Sokolova & Lapalme 2009",
        ),
        Metric(
            name="macro_f1",
            function=macro_f1,
            best="higher",
            ideal=1.0,
            unit="",
            description=(
                "F1 of each label, averaged with equal weight, so that rare cell types count as "
                "much as common ones."
            ),
            reference="van Rijsbergen 1979",
        ),
        Metric(
            name="ece",
            function=expected_calibration_error,
            best="lower",
            ideal=0.0,
            unit="",
            description=(
                "Expected calibration error: mean gap between stated confidence and accuracy. 0.05 "
                "means that answers given with 90 % confidence are right in about 85 or 95 %."
            ),
            reference="Guo et al. 2017",
        ),
        Metric(
            name="overlap",
            function=overlap,
            best="higher",
            ideal=100.0,
            unit="%",
            description=(
                "Genes of the true cell sentence that the generated one names too, in any order. "
                "Two real cells of one type share far fewer than 100 %."
            ),
            reference="SPEC §4.4",
        ),
        Metric(
            name="kendall_tau_b",
            function=kendall_tau_b,
            best="higher",
            ideal=1.0,
            unit="",
            description=(
                "Agreement of two orders of genes, with ties counted properly: 1 the same, 0 "
                "unrelated, -1 reversed."
            ),
            reference="SPEC §7.5; Kendall 1945",
        ),
        Metric(
            name="scfid",
            function=scfid,
            best="lower",
            ideal=0.0,
            unit="squared units of the space",
            description=(
                "Single-cell Frechet distance: how far means and covariances of generated and real "
                "cells are apart. Grows as cells get fewer, so compare it with real cells against "
                "real cells at the same number."
            ),
            reference="SPEC §14.3; Heusel et al. 2017",
        ),
        Metric(
            name="mmd2",
            function=mmd2,
            best="lower",
            ideal=0.0,
            unit="",
            description=(
                "Squared maximum mean discrepancy with a Gaussian kernel: differences between the "
                "two clouds of cells at the scale of their typical distance. May be slightly "
                "below 0."
            ),
            reference="SPEC §14.3; Gretton et al. 2012",
        ),
        Metric(
            name="energy_distance",
            function=energy_distance,
            best="lower",
            ideal=0.0,
            unit="units of the space",
            description=(
                "How much farther generated cells are from real ones than cells of each kind are "
                "from one another. Fair with few cells. May be slightly below 0."
            ),
            reference="Szekely & Rizzo 2013",
        ),
        Metric(
            name="wasserstein",
            function=wasserstein,
            best="lower",
            ideal=0.0,
            unit="units of the space",
            description=(
                "How far cells have to move, root mean square, to turn the generated sample into "
                "the real one. Never 0 for two samples of real cells."
            ),
            reference="SPEC §14.3",
        ),
        Metric(
            name="c2st",
            function=c2st,
            best="lower",
            ideal=0.5,
            unit="accuracy",
            description=(
                "Accuracy of a classifier trained to tell generated from real cells: 0.5 cannot "
                "tell, 1 always can. Far below 0.5 means that cells are copies."
            ),
            reference="Lopez-Paz & Oquab 2017",
        ),
        Metric(
            name="valid_fraction",
            function=valid_fraction,
            best="higher",
            ideal=1.0,
            unit="share of words",
            description="Share of generated words that are genes of the vocabulary.",
            reference="SPEC §3",
        ),
        Metric(
            name="unique_fraction",
            function=unique_fraction,
            best="higher",
            ideal=1.0,
            unit="share of words",
            description="Share of generated genes that their cell had not named before.",
            reference="SPEC §3",
        ),
        Metric(
            name="exact_k_fraction",
            function=exact_k_fraction,
            best="higher",
            ideal=1.0,
            unit="share of cells",
            description="Share of generated cells with exactly the number of genes asked for.",
            reference="SPEC §2",
        ),
    )
}
"""Every metric by name."""
